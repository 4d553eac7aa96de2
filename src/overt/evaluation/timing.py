"""An answer and when its tokens came: what a run, a comparison and a benchmark all measure."""

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from overt.chat import Answer, Event, Request, Text, Thought, ToolCall

if TYPE_CHECKING:
    from overt.gateway.exchange import Exchange

_MIN_SECONDS: Final = 0.02  # a burst out of a buffer is shorter, and says nothing of a model
_MIN_PIECES: Final = 3

UNCOUNTED: Final = "the tokens were not counted"


@dataclass(slots=True)
class TimedAnswer:
    """An answer and when its tokens came (seconds of time.monotonic)."""

    answer: Answer = field(default_factory=Answer)
    asked: float = 0.0
    first: float | None = None
    last: float = 0.0
    pieces: int = 0

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed by the engine's own clock, or by ours where it does not say.

        None where an answer came in too few pieces, or too short a time, to tell by ours.
        """
        usage = self.answer.usage
        if usage.decode_seconds > 0:
            return round(usage.tokens_out / usage.decode_seconds, 2)
        if self.first is None or self.pieces < _MIN_PIECES or usage.tokens_out < 2:
            return None
        if self.last - self.first < _MIN_SECONDS:
            return None
        return round((usage.tokens_out - 1) / (self.last - self.first), 2)

    @property
    def seconds_to_first_token(self) -> float | None:
        """From asking, with the model already loaded; None where no token came."""
        return None if self.first is None else self.first - self.asked


def is_measurable(answer: Answer) -> bool:
    """Whether the engine told how many tokens `answer` took: no prompt and no text takes none."""
    written = bool(answer.text or answer.thought or answer.tool_calls)
    return answer.usage.tokens_in > 0 and (answer.usage.tokens_out > 0 or not written)


async def read(
    exchange: "Exchange",
    request: Request,
    timed: TimedAnswer,
    see: Callable[[Event], None] | None = None,
) -> None:
    """Ask, and fill `timed` as events come, so that a cancelled answer's part is not lost.

    `see` is shown each event. An answer that failed half-way has `timed.answer.failed`.

    Raises:
        OvertError: whatever the engine raised before its first event.
    """
    timed.asked = time.monotonic()
    async with aclosing(exchange.stream(request)) as events:
        async for event in events:
            timed.answer.add(event)
            if isinstance(event, Text | Thought | ToolCall):
                timed.last = time.monotonic()
                timed.first = timed.first or timed.last
                timed.pieces += 1
            if see:
                see(event)
