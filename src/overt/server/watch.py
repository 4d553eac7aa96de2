"""What is noted of each request while it is answered: hooks for metrics, spans and the log."""

from typing import Any

from overt.chat import Event


class Seen:
    """One request."""

    def end(self, status: int, **facts: Any) -> None: ...


class Generation:
    """One call of a model."""

    def event(self, event: Event) -> None: ...

    def count(self, tokens_in: int, tokens_out: int = 0, cached: int = 0) -> None: ...

    def end(self, error_code: str = "") -> None: ...


def generation(operation: str, model: str) -> Generation:
    return Generation()


class Watch:
    def begin(self, id: str, **facts: Any) -> Seen:
        return Seen()
