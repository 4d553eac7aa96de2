"""Hosts that tests load into real workers; each does one thing a native engine might."""

from collections.abc import Callable
from typing import Any

Emit = Callable[[bytes], bool]


class Echo:
    def load(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {"given": parameters}

    def handle(self, kind: str, body: bytes, emit: Emit) -> None:
        if kind == "count":
            for number in range(int(body)):
                if emit(str(number).encode()):
                    return
        else:
            emit(body)
