"""A conversation in the terminal: its turns, its parameters and the model that answers."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from overt.chat import ImagePart, Message, Part, Request, TextPart
from overt.cli.answer import answer, figures, record
from overt.cli.output import Output, duration
from overt.cli.usage_report import account, answering, leaves_for, prepare
from overt.conversations.calls import spoken
from overt.errors import BadRequest, ContextExceeded, OvertError, ProviderFailed, UsageError
from overt.evaluation.timing import TimedAnswer
from overt.ref import parse
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.gateway.exchange import Exchange, ModelFacts


@dataclass
class Session:
    """A conversation; `request` carries the model and every parameter, without its messages.

    Nothing is ever dropped from `messages` except by the person: a conversation that outgrows the
    context is refused with both numbers. `person` is whether somebody types and reads along, who is
    told once for each server that words go there.
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
    blocked: bool = False  # something holds up the event loop, so only an exception can stop it
    person: bool = False
    _facts: "ModelFacts | None" = None
    _told_of: set[str] = field(default_factory=set)  # servers
    _unanswered: Message | None = None
    _busy: "asyncio.Task[None] | None" = None

    @property
    def busy(self) -> bool:
        return self._busy is not None

    @property
    def facts(self) -> "ModelFacts":
        """Of the model that answers, which is open; of a route, before it has chosen one."""
        assert self._facts is not None
        return self._facts

    @property
    def unanswered(self) -> bool:
        """Whether the last question failed or was stopped, so that it can be asked again."""
        return self._unanswered is not None

    async def do(self, work: Coroutine[None, None, None]) -> None:
        """Carry out something that Ctrl-C (`interruptible`) may stop."""
        self._busy = asyncio.ensure_future(work)
        try:
            await self._busy
        except asyncio.CancelledError:
            self.out.note("(stopped)")
        finally:
            self._busy = None

    def stop(self) -> None:
        """Stop what `do` is doing."""
        if self._busy is not None:
            self._busy.cancel()

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
        await self._turn(self.undo())

    def undo(self) -> Message:
        """Forget the last question and its answer, if it had one; returns the question.

        Raises:
            BadRequest: there is no question.
        """
        if self._unanswered:
            message, self._unanswered = self._unanswered, None
            return message
        at = max((i for i, m in enumerate(self.messages) if m.role == "user"), default=-1)
        if at < 0:
            raise BadRequest("nothing has been asked yet", "type a question")
        message = self.messages[at]
        del self.messages[at:]
        return message

    def clear(self) -> None:
        """Forget every message; the system prompt and the parameters stay."""
        self.messages.clear()
        self.images.clear()
        self._unanswered = None

    def blind(self) -> int:
        """Leave every image out from now on, with a word in its place; returns how many."""
        unanswered = [self._unanswered] if self._unanswered else []
        messages = [_blinded(message) for message in (*self.messages, *unanswered)]
        shown = sum(_images(message) for message in (*self.messages, *unanswered)) + len(
            self.images
        )
        if self._unanswered:
            self._unanswered = messages.pop()
        self.messages[:] = messages
        self.images.clear()
        return shown

    async def begin(self) -> None:
        """Have the model ready that the conversation starts with. Raises as `Exchange.open`."""
        self._facts = await prepare(self.exchange, self.request.model)

    async def open(self, ref: str, settings: Settings) -> None:
        """Let `ref` answer from now on, under `settings`; on failure the old model stays.

        Raises:
            ModelNotFound, NeedsAccess, OutOfMemory, EngineFailed …: as `Exchange.open`.
        """
        if settings == self.settings and self._needs_no_memory(ref):
            self._facts = await prepare(self.exchange, ref)
            self.change(model=ref)
            return
        # The old model goes first: two at once might not fit. It comes back if the new one fails.
        before, self.settings = self.settings, settings
        await self.exchange.close()
        try:
            await self._start(ref)
        except (OvertError, asyncio.CancelledError):
            self.settings = before
            await self._start(self.request.model)
            raise
        self.change(model=ref)

    def _needs_no_memory(self, ref: str) -> bool:
        target = self.exchange.resolve(ref)
        return isinstance(target, str) and (parse(target).remote or target.startswith("echo:"))

    async def _start(self, ref: str) -> None:
        from overt.gateway.exchange import Exchange

        self.exchange = Exchange(self.settings, self.out.note)
        self.out.status(f"loading {ref}")
        try:
            self._facts = await prepare(self.exchange, ref)
        finally:
            self.out.clear()

    def tell_where(self) -> None:
        """Say once for each server that words leave this machine for it."""
        if not self.person:
            return
        new = [
            host
            for host in leaves_for(self.exchange, self.request.model)
            if host not in self._told_of
        ]
        self._told_of.update(new)
        if new:
            goes = "may leave" if self.facts.engine == "route" else "leaves"
            self.out.note(f"(what is said here {goes} this machine, for {' and '.join(new)})")

    async def _turn(self, message: Message) -> None:
        head = [Message.of("system", self.system)] if self.system else []
        before = self.messages if self.request.tools else spoken(self.messages)
        request = replace(self.request, messages=(*head, *before, message))
        timed = TimedAnswer()
        self._unanswered = message
        try:
            await answer(self.exchange, request, self.out, show_thinking=self.thoughts, timed=timed)
        except asyncio.CancelledError:  # by `stop`, and so the end of this turn and of nothing else
            self.out.end_line()
            timed.answer.finish = "cancelled"
        except ContextExceeded as error:
            raise (error if self._is_elsewhere() else _advised(error)) from None
        except (UsageError, ProviderFailed) as error:
            if "image" in error.message and any(map(_images, request.messages)):
                error.hint = "/image none leaves the images out, then /retry" + (
                    f"; or {error.hint}" if error.hint else ""
                )
            raise
        if timed.answer.finish == "cancelled" and not timed.answer.text:
            self.out.note("(stopped; /retry asks again)")
            return
        self.messages += [message, timed.answer.message()]
        self._unanswered = None
        self._report(timed)

    def _report(self, timed: TimedAnswer) -> None:
        first = None if timed.first is None else timed.first - timed.asked
        facts = answering(self.exchange, self.facts, timed)
        if self.out.json:
            usage = account(self.request.model, timed, self.settings)
            self.out.object(record(facts, timed, first, usage))
            return
        if timed.answer.finish == "cancelled":
            self.out.note("(stopped; what was said is kept, /undo forgets it, /retry asks again)")
        elif timed.answer.finish == "length":
            self.out.note("(ended by max_tokens or a full context)")
        if self.stats:
            total = max(timed.last - timed.asked, 0)
            usage = account(self.request.model, timed, self.settings)
            self.out.note(f"{figures(facts, timed, first, usage)}; {duration(total)} in all")

    def _is_elsewhere(self) -> bool:
        return self.exchange.leads_away(self.request.model)


def _advised(error: ContextExceeded) -> ContextExceeded:
    wider = -(-(error.tokens + 512) // 1024) * 1024
    return ContextExceeded(
        error.tokens,
        error.context,
        f"/undo or /clear forgets messages, /set context {wider} loads the model with more",
    )


def _images(message: Message) -> int:
    return sum(isinstance(part, ImagePart) for part in message.parts)


def _blinded(message: Message) -> Message:
    if not _images(message):
        return message
    left = TextPart("(an image was here)\n")
    return replace(
        message,
        parts=tuple(left if isinstance(part, ImagePart) else part for part in message.parts),
    )


@contextmanager
def interruptible(session: Session) -> Iterator[None]:
    """Ctrl-C stops what `Session.do` is doing, and is a KeyboardInterrupt where it does nothing."""
    loop = asyncio.get_running_loop()

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if not session.busy or session.blocked:
            raise KeyboardInterrupt
        loop.call_soon_threadsafe(session.stop)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
