"""A conversation in the terminal: its turns, its parameters and the model that answers."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from overt.chat import ImagePart, Message, Part, Request, TextPart
from overt.cli.answer import Timed, answer, figures, record
from overt.cli.output import Output, duration
from overt.errors import BadRequest, ContextExceeded, OvertError
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.exchange import Exchange, Facts


@dataclass
class Session:
    """A conversation; `request` carries the model and every parameter, without its messages.

    Nothing is ever dropped from `messages` except by the person: a conversation that outgrows the
    context is refused with both numbers.
    """

    out: Output
    settings: Settings
    request: Request
    exchange: "Exchange"
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    images: list[ImagePart] = field(default_factory=list)
    thoughts: bool = True
    stats: bool = False
    _unanswered: Message | None = None
    _answering: "asyncio.Task[Timed] | None" = None

    @property
    def answering(self) -> bool:
        return self._answering is not None

    @property
    def facts(self) -> "Facts":
        return self.exchange.facts(self.request.model)

    def change(self, **fields: Any) -> None:
        """Change fields of the request (parameters, stop, thinking …)."""
        self.request = replace(self.request, **fields)

    async def say(self, text: str) -> None:
        """Ask `text`, with the images that were queued, and keep both sides if it is answered."""
        parts: tuple[Part, ...] = (*self.images, TextPart(text))
        self.images.clear()
        await self._turn(Message("user", parts))

    async def retry(self) -> None:
        """Ask the last thing again: the one that failed, or the one last answered.

        Raises:
            BadRequest: nothing was asked yet.
        """
        message = self._unanswered or self.undo()
        await self._turn(message)

    def undo(self) -> Message:
        """Forget the last question and its answer; returns the question.

        Raises:
            BadRequest: there is no question.
        """
        at = max((i for i, m in enumerate(self.messages) if m.role == "user"), default=-1)
        if at < 0:
            raise BadRequest("nothing has been asked yet", "type a question")
        asked = self.messages[at]
        del self.messages[at:]
        self._unanswered = None
        return asked

    def clear(self) -> None:
        """Forget every message; the system prompt and the parameters stay."""
        self.messages.clear()
        self.images.clear()
        self._unanswered = None

    async def open(self, ref: str, settings: Settings) -> None:
        """Let `ref` answer from now on, under `settings`; on failure the old model stays.

        Raises:
            ModelNotFound, OutOfMemory, EngineFailed …: as `Exchange.open`.
        """
        # The old model goes first: two at once might not fit. It comes back if the new one fails.
        before, self.settings = self.settings, settings
        await self.exchange.close()
        try:
            self.out.status(f"loading {ref}")
            await self._start(ref)
        except OvertError:
            self.settings = before
            await self._start(self.request.model)
            raise
        finally:
            self.out.clear()
        self.change(model=ref)

    async def _start(self, ref: str) -> None:
        from overt.exchange import Exchange

        self.exchange = Exchange(self.settings, self.out.note)
        await self.exchange.open(ref)

    def stop(self) -> bool:
        """Stop the answer that is being given; False where there is none."""
        if self._answering is None:
            return False
        self._answering.cancel()
        return True

    async def _turn(self, asked: Message) -> None:
        head = [Message.of("system", self.system)] if self.system else []
        request = replace(self.request, messages=(*head, *self.messages, asked))
        timed = Timed()
        self._unanswered = asked
        self._answering = asyncio.ensure_future(
            answer(self.exchange, request, self.out, show_thinking=self.thoughts, timed=timed)
        )
        try:
            await self._answering
        except asyncio.CancelledError:
            self.out.end_line()
            timed.answer.finish = "cancelled"
        except ContextExceeded as error:
            raise _advised(error) from None
        finally:
            self._answering = None
        if timed.answer.finish == "cancelled" and not timed.answer.text:
            self.out.note("(stopped; /retry asks again)")
            return
        self.messages += [asked, timed.answer.message()]
        self._unanswered = None
        self._report(timed)

    def _report(self, timed: Timed) -> None:
        first = None if timed.first is None else timed.first - timed.asked
        if self.out.json:
            self.out.object(record(self.facts, timed, first))
            return
        if timed.answer.finish == "cancelled":
            self.out.note("(stopped; what was said is kept, /undo forgets it, /retry asks again)")
        elif timed.answer.finish == "length":
            self.out.note("(ended by max_tokens or a full context)")
        if self.stats:
            total = timed.last - timed.asked
            self.out.note(f"{figures(self.facts, timed, first)}; {duration(max(total, 0))} in all")


def _advised(error: ContextExceeded) -> ContextExceeded:
    wider = -(-(error.tokens + 512) // 1024) * 1024
    return ContextExceeded(
        error.tokens,
        error.context,
        f"/undo or /clear forgets messages, /set context {wider} loads the model with more",
    )


@contextmanager
def interruptible(session: Session) -> Iterator[None]:
    """Ctrl-C stops the answer while there is one, and is a KeyboardInterrupt otherwise."""
    loop = asyncio.get_running_loop()

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if not session.answering:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(session.stop)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
