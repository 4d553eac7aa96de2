"""Events as the lines of /api/generate and /api/chat, or as their one whole answer.

The path of every token: what stays the same in a line is made once, and a piece of text costs its
own encoding and one joining of bytes.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from overt.chat import (
    Answer,
    Event,
    Logprobs,
    Progress,
    Request,
    Routed,
    Text,
    Thought,
    TokenLogprob,
)
from overt.protocols.base import NDJSON, HttpReply, Stream, encode, object_of
from overt.protocols.failure import error_of
from overt.protocols.ollama.wire import (
    GenerationBody,
    RequestClock,
    failure,
    line,
    logprob_bodies,
    now,
)

Finish = Callable[[Answer], Awaitable[dict[str, Any]]]
"""Fields that only the last line has, given the answer: the context of generate."""


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """How one address writes: `body` makes the part that holds text, thought and calls."""

    model: str
    body: Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]

    def split(self, *, thought: bool) -> tuple[bytes, bytes, bytes]:
        """A line cut where the time and where the text belong."""
        mark = "\ue000\ue001"
        body = self.body("", mark, []) if thought else self.body(mark, "", [])
        whole = line({"model": self.model, "created_at": "", **body, "done": False})
        head, _, rest = whole.partition(b'"created_at":"')
        middle, _, end = rest.partition(encode(mark))
        return head + b'"created_at":"', middle, end

    def whole(self, text: str, thought: str, calls: list[dict[str, Any]], **more: Any) -> Any:
        return {
            "model": self.model,
            "created_at": now(),
            **self.body(text, thought, calls),
            **more,
        }


async def lines(
    events: AsyncGenerator[Event, None], form: ResponseForm, clock: RequestClock, finish: Finish
) -> AsyncGenerator[bytes, None]:
    """The answer line by line; an error that comes late is the last line."""
    head, middle, end = form.split(thought=False)
    own_head, own_middle, own_end = form.split(thought=True)
    answer = Answer()
    pieces: list[str] = []
    async with aclosing(events):
        async for event in events:
            kind = type(event)
            if kind is Text:
                if not clock.first:
                    clock.first = perf_counter()
                text = event.text  # type: ignore[union-attr]
                pieces.append(text)
                yield b"".join((head, now().encode(), middle, encode(text), end))
            elif kind is Thought:
                text = event.text  # type: ignore[union-attr]
                if not text:  # a signature, for which there is no place here
                    continue
                if not clock.first:
                    clock.first = perf_counter()
                yield b"".join((own_head, now().encode(), own_middle, encode(text), own_end))
            elif kind is not Progress:
                answer.add(event)
    answer.text = "".join(pieces)
    async for last in _last(answer, form, clock, finish):
        yield last


async def lines_with_logprobs(
    events: AsyncGenerator[Event, None], form: ResponseForm, clock: RequestClock, finish: Finish
) -> AsyncGenerator[bytes, None]:
    """The same, where each line has the log-probabilities of its text."""
    cuts = {Text: form.split(thought=False), Thought: form.split(thought=True)}
    answer = Answer()
    pieces: list[str] = []
    held: Text | Thought | None = None  # its log-probabilities come after it
    tokens: list[TokenLogprob] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Progress | Routed):
                continue
            if isinstance(event, Thought) and not event.text:
                continue
            if isinstance(event, Logprobs):
                tokens.extend(event.tokens)
                continue
            if held is not None:
                yield _with_logprobs(cuts[type(held)], held.text, tokens)
                held, tokens = None, []
            if isinstance(event, Text | Thought):
                clock.first = clock.first or perf_counter()
                held = event
                if isinstance(event, Text):
                    pieces.append(event.text)
            else:
                answer.add(event)
    answer.text = "".join(pieces)
    async for last in _last(answer, form, clock, finish):
        yield last


async def answered(
    body: GenerationBody,
    request: Request,
    events: AsyncGenerator[Event, None],
    form: ResponseForm,
    clock: RequestClock,
    finish: Finish,
) -> HttpReply | Stream:
    """The answer in the way that was asked for: at once, or line by line."""
    if body.stream is False:
        return HttpReply(await document(events, form, clock, finish))
    write = lines if request.logprobs is None else lines_with_logprobs
    return Stream(write(events, form, clock, finish), NDJSON)


async def document(
    events: AsyncGenerator[Event, None], form: ResponseForm, clock: RequestClock, finish: Finish
) -> dict[str, Any]:
    """The answer at once.

    Raises:
        The error of a `Failed` event, as what it was.
    """
    answer = Answer()
    async with aclosing(events):
        async for event in events:
            if not clock.first and not isinstance(event, Progress | Routed):
                clock.first = perf_counter()
            answer.add(event)
    if answer.failed is not None:
        raise error_of(answer.failed)
    value: dict[str, Any] = form.whole(answer.text, answer.thought, calls(answer), done=True)
    if answer.logprobs:
        value["logprobs"] = logprob_bodies(answer.logprobs)
    return {**value, **await _end(answer, clock, finish)}


def calls(answer: Answer) -> list[dict[str, Any]]:
    """The tool calls in Ollama's form; one that was cut off, or is no object, is left out."""
    values: list[dict[str, Any]] = []
    for part in answer.tool_calls:
        if (arguments := object_of(part.arguments)) is not None:
            function = {"index": len(values), "name": part.name, "arguments": arguments}
            values.append({"id": part.id, "function": function})
    return values


# ---- inside --------------------------------------------------------------------------------


async def _last(
    answer: Answer, form: ResponseForm, clock: RequestClock, finish: Finish
) -> AsyncGenerator[bytes, None]:
    if answer.failed is not None:
        yield failure(error_of(answer.failed))
        return
    if tool_calls := calls(answer):
        yield line(form.whole("", "", tool_calls, done=False))
    yield line(form.whole("", "", [], done=True) | await _end(answer, clock, finish))


async def _end(answer: Answer, clock: RequestClock, finish: Finish) -> dict[str, Any]:
    reason = "length" if answer.finish == "length" else "stop"
    metrics = clock.metrics(answer.usage)
    return {"done_reason": reason, **await finish(answer), **metrics}


def _with_logprobs(cut: tuple[bytes, bytes, bytes], text: str, tokens: list[TokenLogprob]) -> bytes:
    head, middle, end = cut
    if not tokens:
        return b"".join((head, now().encode(), middle, encode(text), end))
    parts = (head, now().encode(), middle, encode(text), end[:-2], b',"logprobs":')
    return b"".join((*parts, encode(logprob_bodies(tokens)), b"}\n"))
