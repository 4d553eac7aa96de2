"""`POST /api/v1/chat`: the conversation LM Studio keeps, whole or as named events.

A conversation is kept under the id of its last response, so any response can be gone on from. It is
stored whole: one read begins the next turn.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from overt.chat import (
    Answer,
    Event,
    ImagePart,
    Message,
    Part,
    Progress,
    Request,
    Role,
    Sampling,
    Text,
    TextPart,
    Thought,
)
from overt.errors import NotFound, OvertError, Unsupported
from overt.protocols.base import BadBody, HttpCall, HttpReply, ModelHold, Stream, encode, new_id
from overt.protocols.failure import error_of, failed_of
from overt.protocols.lmstudio import instances
from overt.protocols.lmstudio.errors import WrongRequest, bad_request
from overt.protocols.lmstudio.instances import Instance
from overt.protocols.media import from_url

_KIND = "lmstudio_chat"
_DAYS = 30
_SECONDS = _DAYS * 86400.0


# ---- what is asked -------------------------------------------------------------------------


class MessageInput(msgspec.Struct, tag_field="type", tag="message", forbid_unknown_fields=True):
    content: str


class TextInput(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    content: str


class ImageInput(msgspec.Struct, tag_field="type", tag="image", forbid_unknown_fields=True):
    data_url: str


Share = Annotated[float, Meta(ge=0, le=1)]


class LmStudioChatBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    model: str
    input: str | Annotated[list[MessageInput | TextInput | ImageInput], Meta(max_length=20_000)]
    system_prompt: str | None = None
    integrations: list[Any] | None = None
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
    min_p: Share | None = None
    repeat_penalty: Annotated[float, Meta(gt=0)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    reasoning: Literal["off", "low", "medium", "high", "on"] | None = None
    context_length: Annotated[int, Meta(ge=1, le=1 << 30)] | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    store: bool = True
    previous_response_id: str | None = None


# ---- what is kept --------------------------------------------------------------------------


class KeptImage(msgspec.Struct):
    data: bytes
    media_type: str


class KeptTurn(msgspec.Struct):
    role: Role
    parts: list[str | KeptImage]


class StoredTurns(msgspec.Struct):
    turns: list[KeptTurn]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(StoredTurns).decode


def _keep(message: Message) -> KeptTurn:
    parts: list[str | KeptImage] = []
    for part in message.parts:
        if isinstance(part, TextPart):
            parts.append(part.text)
        elif isinstance(part, ImagePart):
            parts.append(KeptImage(part.data, part.media_type))
    return KeptTurn(message.role, parts)


def _recall(turn: KeptTurn) -> Message:
    parts: list[Part] = [
        TextPart(part) if isinstance(part, str) else ImagePart(part.data, part.media_type)
        for part in turn.parts
    ]
    return Message(turn.role, tuple(parts))


async def _earlier(call: HttpCall, id: str | None) -> tuple[Message, ...]:
    """The conversation that ended in the response `id`."""
    if id is None:
        return ()
    if not id.startswith("resp_"):
        raise BadBody("previous_response_id does not begin with resp_", "previous_response_id")
    body = await call.services.records.get(_KIND, id, call.caller)
    if body is None:
        raise NoResponse(
            f"there is no response {id[:80]!r}",
            f"responses are kept for {_DAYS} days; send the conversation anew",
        )
    return tuple(_recall(turn) for turn in _unpack(body).turns)


class NoResponse(NotFound):
    @property
    def code(self) -> str:
        return "not_found"


# ---- one turn ------------------------------------------------------------------------------


class ChatStats(msgspec.Struct, omit_defaults=True):
    input_tokens: int
    total_output_tokens: int
    reasoning_output_tokens: int
    tokens_per_second: float
    time_to_first_token_seconds: float
    model_load_time_seconds: float | None = None


class ChatOutput(msgspec.Struct):
    type: str
    content: str


class ChatResult(msgspec.Struct, omit_defaults=True):
    model_instance_id: str
    output: list[ChatOutput]
    stats: ChatStats
    response_id: str | None = None


@dataclass(slots=True)
class _ChatTurn:
    """One request on its way to an answer."""

    call: HttpCall
    body: LmStudioChatBody
    instance: Instance
    request: Request
    hold: ModelHold
    answer: Answer = field(default_factory=Answer)
    load_seconds: float | None = None
    thoughts: int = 0
    pieces: int = 0
    first: float = 0.0
    _asked: float = field(default_factory=time.perf_counter)

    @property
    def loaded(self) -> bool:
        services, id = self.call.services, self.instance.id
        return id.startswith("echo:") or bool(instances.of(services).of_model(services, id))

    async def load(self) -> None:
        begun = time.perf_counter()
        await self.call.services.load(self.call.caller, self.instance.card.id, self.hold)
        self.load_seconds = time.perf_counter() - begun

    def events(self) -> AsyncGenerator[Event, None]:
        self._asked = time.perf_counter()
        return self.call.services.stream(self.call.caller, self.request, self.hold)

    def note(self, event: Event) -> None:
        """What `stats` needs of each piece."""
        if not self.first:
            self.first = time.perf_counter() - self._asked
        self.pieces += 1
        self.thoughts += type(event) is Thought

    async def result(self) -> ChatResult:
        """The answer as far as it came, kept where it is to be kept."""
        usage, answer = self.answer.usage, self.answer
        seconds = usage.decode_seconds or time.perf_counter() - self._asked - self.first
        written = usage.tokens_out or self.pieces
        output = [ChatOutput("reasoning", answer.thought)] if answer.thought else []
        output += [ChatOutput("message", answer.text)] if answer.text or not answer.thought else []
        stats = ChatStats(
            input_tokens=usage.tokens_in,
            total_output_tokens=written,
            reasoning_output_tokens=min(usage.tokens_thought or self.thoughts, written),
            tokens_per_second=written / seconds if seconds > 0 else 0.0,
            time_to_first_token_seconds=self.first,
            model_load_time_seconds=self.load_seconds,
        )
        id = None
        if self.body.store and answer.failed is None:
            id = await self._store()
        return ChatResult(self.instance.id, output, stats, id)

    async def _store(self) -> str:
        id = new_id("resp_")
        message_ = Message.of("assistant", self.answer.text)
        stored = StoredTurns([_keep(message) for message in (*self.request.messages, message_)])
        await self.call.services.records.put(
            _KIND, id, self.call.caller, _pack(stored), expires=time.time() + _SECONDS
        )
        return id


async def chat(call: HttpCall) -> HttpReply | Stream:
    """``POST /api/v1/chat``."""
    body = call.read(LmStudioChatBody)
    if body.integrations:
        raise Unsupported(
            "this server runs no MCP servers and no plugins, so integrations cannot be used",
            "leave integrations out, or offer tools at /v1/chat/completions",
        )
    instance = await instances.resolve(call.services, call.caller, body.model, "llm")
    _check_reasoning(body, instance)
    turn = _ChatTurn(
        call, body, instance, await _request(call, body, instance), _hold(body, instance)
    )
    if body.stream:
        return Stream(_streamed(turn))
    return HttpReply(await _result(turn))


def _hold(body: LmStudioChatBody, instance: Instance) -> ModelHold:
    alive = instance.hold.keep_alive if body.ttl is None else body.ttl
    return ModelHold(alive, body.context_length or instance.hold.context)


def _check_reasoning(body: LmStudioChatBody, instance: Instance) -> None:
    can = "thinking" in instance.card.capabilities or instance.card.id.startswith("echo:")
    if body.reasoning not in (None, "off") and not can:
        raise BadBody(
            f"{instance.id} has no reasoning to set to {body.reasoning!r}; leave it out or say off",
            "reasoning",
        )


async def _request(call: HttpCall, body: LmStudioChatBody, instance: Instance) -> Request:
    before = await _earlier(call, body.previous_response_id)
    if body.system_prompt:
        before = tuple(message_ for message_ in before if message_.role != "system")
        before = (Message.of("system", body.system_prompt), *before)
    effort = body.reasoning if body.reasoning in ("low", "medium", "high") else None
    return Request(
        model=instance.card.id,
        messages=(*before, Message("user", _parts(body))),
        sampling=Sampling(
            temperature=body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            repeat_penalty=body.repeat_penalty,
        ),
        max_tokens=body.max_output_tokens,
        thinking=None if body.reasoning is None else body.reasoning != "off",
        effort=effort,
    )


def _parts(body: LmStudioChatBody) -> tuple[Part, ...]:
    if isinstance(body.input, str):
        return (TextPart(body.input),)
    parts: list[Part] = [
        from_url(item.data_url, f"input[{at}].data_url")
        if isinstance(item, ImageInput)
        else TextPart(item.content)
        for at, item in enumerate(body.input)
    ]
    if not parts:
        raise BadBody("input is empty", "input")
    return tuple(parts)


async def _result(turn: _ChatTurn) -> ChatResult:
    if not turn.loaded:
        await turn.load()
    async with aclosing(turn.events()) as events:
        async for event in events:
            turn.answer.add(event)
            if isinstance(event, Text | Thought) and event.text:
                turn.note(event)
    failed = turn.answer.failed
    if failed is not None:
        raise error_of(failed)
    return await turn.result()


# ---- as events -----------------------------------------------------------------------------


class ChatEvent(msgspec.Struct, omit_defaults=True):
    """Any event that is not a delta."""

    type: str
    model_instance_id: str | None = None
    progress: float | None = None
    load_time_seconds: float | None = None
    error: WrongRequest | None = None
    result: ChatResult | None = None


def _event(type: str, **more: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (type.encode(), encode(ChatEvent(type, **more)))


_TEXT = b'event: message.delta\ndata: {"type":"message.delta","content":'
_THOUGHT = b'event: reasoning.delta\ndata: {"type":"reasoning.delta","content":'
_END = b"}\n\n"


async def _streamed(turn: _ChatTurn) -> AsyncGenerator[bytes, None]:
    name = turn.instance.id
    if turn.loaded:
        yield _event("chat.start", model_instance_id=name)
    else:
        yield _event("chat.start", model_instance_id=name)
        yield _event("model_load.start", model_instance_id=name)
        yield _event("model_load.progress", model_instance_id=name, progress=0.0)
        try:
            await turn.load()
        except OvertError as error:
            async for piece in _error_events(turn, error):
                yield piece
            return
        yield _event("model_load.progress", model_instance_id=name, progress=1.0)
        yield _event("model_load.end", model_instance_id=name, load_time_seconds=turn.load_seconds)
    yield _event("prompt_processing.start")
    shown = _Shown(turn)
    try:
        async with aclosing(turn.events()) as events:
            async for event in events:
                if type(event) is Text and shown.kind == "message":
                    shown.text(event.text)
                    yield _TEXT + encode(event.text) + _END
                else:
                    yield shown.rare(event)
    except OvertError as error:
        yield shown.close()
        async for piece in _error_events(turn, error):
            yield piece
        return
    yield shown.close()
    failed = turn.answer.failed
    async for piece in _error_events(turn, None if failed is None else error_of(failed)):
        yield piece


async def _error_events(turn: _ChatTurn, error: OvertError | None) -> AsyncGenerator[bytes, None]:
    if error is not None:
        turn.answer.failed = turn.answer.failed or failed_of(error)
        yield _event("error", error=bad_request(error))
    yield _event("chat.end", result=await turn.result())


@dataclass(slots=True)
class _Shown:
    """Which block of the answer is open, and what was written into it."""

    turn: _ChatTurn
    kind: Literal["prompt_processing", "reasoning", "message", ""] = "prompt_processing"
    _texts: list[str] = field(default_factory=list)

    def text(self, text: str) -> None:
        self.turn.pieces += 1
        self._texts.append(text)

    def rare(self, event: Event) -> bytes:
        """Everything but more of the message."""
        match event:
            case Progress(done, total):
                if self.kind != "prompt_processing":
                    return b""
                share = min(1.0, done / total) if total > 0 else 1.0
                return _event("prompt_processing.progress", progress=share)
            case Text(text):
                opened = self._turn_to("message")
                self.turn.note(event)
                self._texts.append(text)
                return opened + _TEXT + encode(text) + _END
            case Thought(text) if text:  # without, it is a signature that has no place here
                opened = b"" if self.kind == "reasoning" else self._turn_to("reasoning")
                self.turn.note(event)
                self.turn.answer.add(event)
                return opened + _THOUGHT + encode(text) + _END
        self.turn.answer.add(event)
        return b""

    def close(self) -> bytes:
        self.turn.answer.text += "".join(self._texts)
        self._texts.clear()
        return self._turn_to("")

    def _turn_to(self, kind: Literal["reasoning", "message", ""]) -> bytes:
        ended = _event(f"{self.kind}.end") if self.kind else b""
        self.kind = kind
        return ended + (_event(f"{kind}.start") if kind else b"")
