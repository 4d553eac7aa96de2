"""A model whose every likelihood and answer a test writes down; the seam is `probe.Model`."""

from collections.abc import Callable, Sequence


class Scripted:
    """`likelihood` gives the log-probability of a word after the words before it."""

    def __init__(
        self,
        likelihood: Callable[[str, str], float] = lambda before, word: -1.0,
        says: Callable[[str], str] = lambda prompt: "",
        *,
        scores: bool = True,
    ) -> None:
        self.scores = scores
        self._likelihood, self._says = likelihood, says
        self.asked: list[str] = []

    async def likely(self, context: str, text: str) -> list[tuple[bytes, float]]:
        found, before = [], context
        for word in text.split(" "):
            found.append((word.encode(), self._likelihood(before, word)))
            before = f"{before} {word}"
        return found

    async def choose(self, context: str, options: Sequence[str]) -> list[float]:
        return [self._likelihood(context, option) for option in options]

    async def answer(self, prompt: str, max_tokens: int) -> str:
        self.asked.append(prompt)
        return self._says(prompt)

    async def go_on(self, text: str, max_tokens: int) -> str:
        self.asked.append(text)
        return self._says(text)
