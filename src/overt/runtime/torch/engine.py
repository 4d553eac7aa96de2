"""The reference engine: a model's own numbers in 32 bits, computed by torch.

It is there to be compared with, and slow: everything is computed as the architecture says, without
the rounding that makes llama.cpp fast. Nothing native is loaded here; the worker is host.py.
It answers prompts and conversations and scores texts. It has no schemas, grammars, tools or images.
"""

import codecs
import json
import secrets
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import msgspec

from overt.chat import Done, Event, Logprobs, Progress, Request, Text, Usage
from overt.errors import BadRequest, EngineFailed, Unsupported
from overt.runtime.llamacpp.request import check, continued, conversation
from overt.runtime.llamacpp.sampler import DEFAULTS
from overt.runtime.llamacpp.score import LlamaCppScorer, ScoredToken, ScoreProblem, as_error, token


class _GeneratedToken(ScoredToken):
    shown: bool = True


class _End(msgspec.Struct):
    why: str
    read: int
    written: int
    seconds: tuple[float, float]


class _WorkerReply(msgspec.Struct):
    tokens: list[_GeneratedToken] = []
    read: int = 0
    of: int = 0
    text: str | None = None
    count: int | None = None
    end: _End | None = None
    error: ScoreProblem | None = None


_decode = msgspec.json.Decoder(_WorkerReply).decode


class Torch(LlamaCppScorer):
    """One model in one worker, to answer and to score."""

    name = "torch"

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer `request`.

        Raises:
            Unsupported: a schema, a grammar, tools, a suffix.
            BadRequest: something else that this model cannot do.
            ContextExceeded: the prompt does not fit, with both numbers.
            EngineFailed: the worker gave up; WorkerDied where its process ended.
        """
        body = self._asked(request)
        reader = _TokenReader(request)
        async with aclosing(self._answers("write", body | _drawing(request))) as replies:
            async for reply in replies:
                for event in reader.events(reply):
                    yield event
                if reader.ended:
                    return
        raise EngineFailed("the worker ended the answer without a reason", "try again")

    async def render(self, request: Request) -> str:
        """The text that the chat template makes of the messages.

        Raises:
            BadRequest: `request` has no messages, or what the template cannot take.
            Unsupported: the model has no chat template.
        """
        body = self._asked(request)
        if request.prompt is not None:
            raise BadRequest("a prompt is not rendered", "give messages")
        if "values" not in body:
            raise Unsupported("this model has no chat template")
        return str((await self._one("render", body)).text or "")

    async def count(self, request: Request) -> int:
        """Tokens of `request` as the model would read it."""
        count = (await self._one("count", self._asked(request))).count
        if count is None:
            raise EngineFailed("the worker answered something else than it was asked")
        return count

    def _asked(self, request: Request) -> dict[str, Any]:
        """The prompt, or what the chat template is given."""
        if request.prompt is None and not self._capabilities.chat:
            request = continued(request)
        check(request, self._capabilities)
        _refuse(request)
        if request.prompt is None:
            fields = conversation(request)
            return {
                "values": {"messages": fields["messages"], **fields.get("chat_template_kwargs", {})}
            }
        prompt = request.prompt
        return {"prompt": prompt if isinstance(prompt, str) else list(prompt)}

    async def _one(self, kind: str, body: dict[str, Any]) -> _WorkerReply:
        async with aclosing(self._answers(kind, body)) as replies:
            async for reply in replies:
                return reply
        raise EngineFailed("the worker answered nothing")

    async def _answers(self, kind: str, body: dict[str, Any]) -> AsyncGenerator[_WorkerReply, None]:
        async with aclosing(self._worker.call(kind, json.dumps(body).encode())) as chunks:
            async for chunk in chunks:
                try:
                    reply = _decode(chunk)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise EngineFailed(f"the worker broke its own protocol: {error}") from None
                if reply.error is not None:
                    raise _error(reply.error)
                yield reply


class _TokenReader:
    """What the worker writes, token by token, as events; holds back what may begin a stop."""

    def __init__(self, request: Request) -> None:
        self._stops = [stop for stop in request.stop if stop]
        self._wants = request.logprobs is not None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._read = self._written = 0
        self.ended = False

    def events(self, reply: _WorkerReply) -> Iterator[Event]:
        if reply.of:
            self._read = reply.of
            yield Progress(reply.read, reply.of)
        for piece in reply.tokens:
            self._written += 1
            if self._wants:
                yield Logprobs((token(piece),))
            if piece.shown:
                self._held += self._decoder.decode(piece.raw)
                yield from self._free()
            if self.ended:
                return
        if reply.end is not None:
            yield from self._last(reply.end)

    def _free(self) -> Iterator[Event]:
        """The text that no stop can begin in any more."""
        ends = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            at, stop = min(ends, key=lambda end: end[0])
            if at:
                yield Text(self._held[:at])
            yield Usage(self._read, self._written)
            yield Done("stop", stop)
            self.ended = True
            return
        held_back = max((_partial_stop_length(self._held, stop) for stop in self._stops), default=0)
        free = self._held[: len(self._held) - held_back]
        self._held = self._held[len(free) :]
        if free:
            yield Text(free)

    def _last(self, end: _End) -> Iterator[Event]:
        rest = self._held + self._decoder.decode(b"", True)
        if rest:
            yield Text(rest)
        prompt, decode = end.seconds
        yield Usage(end.read, end.written, prompt_seconds=prompt, decode_seconds=decode)
        yield Done("stop" if end.why == "stop" else "length")
        self.ended = True


def _partial_stop_length(text: str, stop: str) -> int:
    """How many letters at the end of `text` are the beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


def _drawing(request: Request) -> dict[str, Any]:
    """How tokens are drawn, every choice filled in."""
    draw = request.sampling
    sampling = {
        name: default if (value := getattr(draw, name)) is None else value
        for name, default in DEFAULTS.items()
    }
    return {
        "sampling": sampling,
        "bias": list(request.logit_bias),
        "seed": secrets.randbits(32) if draw.seed is None else draw.seed,
        "most": request.max_tokens,
        "top": request.logprobs,
    }


def _refuse(request: Request) -> None:
    """Raises Unsupported: what this engine has not."""
    for unsupported, what in (
        (request.json_schema is not None, "JSON schemas"),
        (request.grammar is not None, "grammars"),
        (request.suffix is not None, "filling gaps"),
        (bool(request.tools) and request.tool_choice != "none", "tools"),
    ):
        if unsupported:
            raise Unsupported(f"the torch engine has no {what}", "choose --engine auto")


def _error(problem: ScoreProblem) -> Exception:
    if problem.kind == "template":
        what = " ".join(problem.message.split())[:400]
        return BadRequest(f"the chat template cannot be used: {what}", "give a prompt")
    if problem.kind == "empty":
        return BadRequest("the prompt is empty", "give at least one word")
    return as_error(problem)
