"""The channels of `/llm` that answer: `predict` and `completeRawText`.

Reasoning is part of the text here, between its tags, each fragment marked with what it is; SDKs
that do not look at the mark show it all. A prediction that is cancelled ends like one that was
finished, with ``userStopped``.
"""

import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from overt.chat import (
    Done,
    Event,
    Failed,
    Logprobs,
    Message,
    Progress,
    Request,
    Text,
    Thought,
    TokenLogprob,
    ToolCall,
    Usage,
)
from overt.protocols.base import object_of
from overt.protocols.failure import error_of
from overt.protocols.lmstudio import files, history, instances, kv
from overt.protocols.lmstudio import model_info as facts
from overt.protocols.lmstudio.errors import ErrorDetails, NoPreset
from overt.protocols.lmstudio.instances import Instance
from overt.protocols.lmstudio.port import Channel, Context
from overt.protocols.lmstudio.specifier import Specifier, chosen
from overt.protocols.lmstudio.wire import as_json


class Predict(msgspec.Struct, rename="camel"):
    model_specifier: Specifier
    history: history.History
    prediction_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)
    fuzzy_preset_identifier: str | None = None


class CompleteRaw(msgspec.Struct, rename="camel"):
    model_specifier: Specifier
    raw_prompt: str
    prediction_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)
    fuzzy_preset_identifier: str | None = None


class PredictionStats(msgspec.Struct, rename="camel"):
    """What is not known is left out: whether layers run on a GPU, for one."""

    stop_reason: str
    predicted_tokens_count: int
    total_time_sec: float
    prompt_tokens_count: int | UnsetType = UNSET
    total_tokens_count: int | UnsetType = UNSET
    tokens_per_second: float | UnsetType = UNSET
    time_to_first_token_sec: float | UnsetType = UNSET


class Success(msgspec.Struct, rename="camel"):
    stats: PredictionStats
    model_info: facts.Described
    load_model_config: dict[str, Any]
    prediction_config: dict[str, Any]
    type: str = "success"


async def predict(context: Context, parameters: Predict, channel: Channel) -> None:
    """``predict``: an answer to a conversation."""
    if parameters.fuzzy_preset_identifier is not None:
        raise NoPreset(parameters.fuzzy_preset_identifier)
    instance = await chosen(context, parameters.model_specifier)
    values = parameters.prediction_config_stack.collapsed()
    prediction = kv.prediction(values)
    store = files.of(context.services)
    turns = history.messages(parameters.history, lambda name: store.image(context.caller, name))
    if prediction.system:
        turns = (Message.of("system", prediction.system), *turns)
    await _answer(
        context, instance, request(instance.card.id, turns, prediction), values, prediction, channel
    )


async def complete_raw(context: Context, parameters: CompleteRaw, channel: Channel) -> None:
    """``completeRawText``: a text gone on with, without the chat template."""
    if parameters.fuzzy_preset_identifier is not None:
        raise NoPreset(parameters.fuzzy_preset_identifier)
    instance = await chosen(context, parameters.model_specifier)
    values = parameters.prediction_config_stack.collapsed()
    prediction = kv.prediction(values)
    prediction.as_text = True
    turns = (Message.of("user", parameters.raw_prompt),)
    await _answer(
        context, instance, request(instance.card.id, turns, prediction), values, prediction, channel
    )


def request(model: str, turns: tuple[Message, ...], prediction: kv.Prediction) -> Request:
    """The settings and the conversation as one request."""
    prompt: str | None = None
    if prediction.as_text:
        prompt = history.joined(turns)
    elif prediction.manual is not None:
        prompt = history.framed(turns, prediction.manual)
    return Request(
        model=model,
        messages=() if prompt is not None else turns,
        prompt=prompt,
        sampling=prediction.drawn(),
        max_tokens=prediction.max_tokens,
        stop=prediction.stop,
        logit_bias=prediction.logit_bias,
        tools=prediction.tools,
        tool_choice=prediction.tool_choice,
        json_schema=prediction.json_schema,
        grammar=prediction.grammar,
        logprobs=prediction.logprobs,
        thinking=prediction.thinking,
    )


async def _answer(
    context: Context,
    instance: Instance,
    request: Request,
    values: dict[str, Any],
    prediction: kv.Prediction,
    channel: Channel,
) -> None:
    out = _PredictionWriter(channel, prediction.parsing)
    tell = out.tell if request.logprobs is None else out.tell_with_tokens
    started = time.perf_counter()
    # Cancelling closes the stream, which frees the engine's slot; what came is told all the same.
    with channel.until_cancelled() as scope:
        async with aclosing(
            context.services.stream(context.caller, request, instance.hold)
        ) as events:
            async for event in events:
                await tell(event)
    await out.end(cancelled=scope.cancelled_caught)
    if out.failed is not None:
        raise error_of(out.failed)
    stats = out.stats(time.perf_counter() - started, request.max_tokens)
    await channel.send(await _success(context, instance, stats, values))


async def _success(
    context: Context, instance: Instance, stats: PredictionStats, values: dict[str, Any]
) -> Success:
    pair = instances.of(context.services).of_model(context.services, instance.id)
    loaded = pair[1] if pair else None
    used, reference = (pair[0].id, pair[0].reference) if pair else (instance.id, instance.reference)
    info = facts.instance(instance.card, loaded, used, reference)
    load = kv.fields({"llm.load.contextLength": info.context_length}) if loaded else kv.fields({})
    return Success(stats, info, load, kv.fields(values))


# ---- events as packets ---------------------------------------------------------------------


@dataclass(slots=True)
class _PredictedCall:
    """A tool call that is being written."""

    index: int
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class _PredictionWriter:
    """Writes events to a channel. Everything constant about a fragment is made once."""

    channel: Channel
    parsing: kv.Parsing
    fragments: int = 0
    first: float = 0.0
    usage: Usage | None = None
    done: Done | None = None
    failed: Failed | None = None
    prompt: int = 0
    _begun: float = field(default_factory=time.perf_counter)
    _head: str = ""
    _tail: str = ""
    _thought_tail: str = ""
    _thinking: bool = False
    _call: _PredictedCall | None = None
    _held: str = ""

    def __post_init__(self) -> None:
        self._head = self.channel.head + '{"type":"fragment","fragment":{"content":'
        self._tail = _tail("none") + _END
        # Where reasoning is not to be parsed, it is text like any other.
        self._thought_tail = _tail("reasoning" if self.parsing.enabled else "none") + _END

    async def tell(self, event: Event) -> None:
        """The hot path: the common event is tested first, and costs one concatenation."""
        if type(event) is Text:
            if self._thinking or not self.fragments:
                await self._turn(thinking=False)
            self.fragments += 1
            await self.channel.write(self._head + as_json(event.text) + self._tail)
        elif type(event) is Thought:
            if not event.text:  # a signature, for which there is no place here
                return
            if not self._thinking or not self.fragments:
                await self._turn(thinking=True)
            self.fragments += 1
            await self.channel.write(self._head + as_json(event.text) + self._thought_tail)
        else:
            await self._rare(event)

    async def tell_with_tokens(self, event: Event) -> None:
        """`tell`, where each text waits for the log-probabilities that follow it."""
        if type(event) is Logprobs:
            text, self._held = self._held, ""
            if text and (self._thinking or not self.fragments):
                await self._turn(thinking=False)
            self.fragments += len(event.tokens)
            kind = "reasoning" if self._thinking and self.parsing.enabled else "none"
            await self._fragment(text, kind, len(event.tokens), event.tokens)
            return
        await self._let_go()
        if type(event) is Text:
            self._held = event.text
        else:
            await self.tell(event)

    async def _let_go(self) -> None:
        if self._held:
            text, self._held = self._held, ""
            await self.tell(Text(text))

    async def _rare(self, event: Event) -> None:
        match event:
            case Progress(done, total):
                self.prompt = total
                await self.channel.send(_progress(done, total))
            case ToolCall():
                await self._tool(event)
            case Usage():
                self.usage = event
            case Done():
                self.done = event
            case Failed():
                self.failed = event

    async def end(self, *, cancelled: bool) -> None:
        """Close what is open."""
        if cancelled:
            self.done = Done("cancelled")
        await self._let_go()
        if self._thinking:
            await self._turn(thinking=False)
        await self._end_call(whole=not cancelled)

    def stats(self, seconds: float, most: int | None) -> PredictionStats:
        done = self.done or Done("stop")
        written = self.usage.tokens_out if self.usage else self.fragments
        stats = PredictionStats(stop_reason(done, written, most), written, seconds)
        if self.first:
            stats.time_to_first_token_sec = self.first
        decoding = seconds - self.first
        read = self.usage.tokens_in if self.usage else self.prompt
        if read:
            stats.prompt_tokens_count = read
            stats.total_tokens_count = read + written
        if self.usage is not None:
            decoding = self.usage.decode_seconds or decoding
        if decoding > 0 and written:
            stats.tokens_per_second = written / decoding
        return stats

    async def _turn(self, *, thinking: bool) -> None:
        """Text begins, or reasoning does, or one turns into the other."""
        if not self.first:
            self.first = time.perf_counter() - self._begun
        if thinking == self._thinking:
            return
        self._thinking = thinking
        parsed = self.parsing.enabled
        if thinking:
            kind, tag = "reasoningStartTag", self.parsing.start_string
        else:
            kind, tag = "reasoningEndTag", self.parsing.end_string
        await self._fragment(tag, kind if parsed else "none", 0)

    async def _fragment(
        self, text: str, kind: str, count: int, tokens: tuple[TokenLogprob, ...] = ()
    ) -> None:
        packet = self._head + as_json(text) + _tail(kind, count)
        if tokens:
            packet = packet[:-1] + "," + _tokens(tokens)
        await self.channel.write(packet + _END)

    # ---- tool calls ------------------------------------------------------------------------

    async def _tool(self, piece: ToolCall) -> None:
        if self._thinking:
            await self._turn(thinking=False)
        if not self.first:
            self.first = time.perf_counter() - self._begun
        if self._call is None or self._call.index != piece.index:
            await self._end_call(whole=True)
            self._call = _PredictedCall(piece.index, piece.id, piece.name)
            await self.channel.send({"type": "toolCallGenerationStart", "toolCallId": piece.id})
            await self.channel.send({"type": "toolCallGenerationNameReceived", "name": piece.name})
        self.fragments += 1
        if piece.arguments:
            self._call.arguments += piece.arguments
            await self.channel.send(
                {
                    "type": "toolCallGenerationArgumentFragmentGenerated",
                    "content": piece.arguments,
                }
            )

    async def _end_call(self, *, whole: bool) -> None:
        """Tell a call whole, or that it is none."""
        call, self._call = self._call, None
        if call is None or not whole:
            return
        arguments = object_of(call.arguments)
        if arguments is None:
            title = f"the model called {call.name!r} with arguments that are no JSON object"
            await self.channel.send(
                {
                    "type": "toolCallGenerationFailed",
                    "error": ErrorDetails(title, title),
                    "rawContent": call.arguments,
                }
            )
            return
        call_body = {"type": "function", "id": call.id, "name": call.name, "arguments": arguments}
        await self.channel.send(
            {
                "type": "toolCallGenerationEnd",
                "toolCallRequest": call_body,
                "rawContent": call.arguments,
            }
        )


def stop_reason(done: Done, written: int, most: int | None) -> str:
    """LM Studio's word for why an answer ended."""
    match done.finish:
        case "stop":
            return "stopStringFound" if done.stop else "eosFound"
        case "length":
            reached = most is not None and written >= most
            return "maxPredictedTokensReached" if reached else "contextLengthReached"
        case "tool_calls":
            return "toolCalls"
        case "refusal":
            return "eosFound"
    return "userStopped"


_END = "}}"
"""The end of a packet and its frame."""


def _tail(kind: str, count: int = 1) -> str:
    """What follows the content of a fragment, with its end."""
    return (
        f',"tokensCount":{count},"containsDrafted":false,"reasoningType":"{kind}",'
        '"isStructural":false}'
    )


def _progress(done: int, total: int) -> dict[str, Any]:
    return {
        "type": "promptProcessingProgress",
        "progress": min(1.0, done / total) if total > 0 else 1.0,
        "details": {
            "cachedTokenCount": 0,
            "totalPromptTokenCount": total,
            "processedPromptTokenCount": done,
            "unprocessedPromptTokenCount": max(0, total - done),
        },
    }


def _tokens(tokens: tuple[TokenLogprob, ...]) -> str:
    """``tokens`` of a fragment (JavaScript's SDK), and ``logprobs`` beside it (Python's)."""
    rows = [
        {
            "text": token.token,
            "id": -1 if token.id is None else token.id,
            **({} if token.logprob is None else {"logProb": token.logprob}),
            "candidates": [{"text": text, "id": -1, "logProb": value} for text, value in token.top],
        }
        for token in tokens
    ]
    beside = [
        [{"text": text, "logprob": value} for text, value in token.top]
        or [{"text": token.token, "logprob": token.logprob or 0.0}]
        for token in tokens
    ]
    inside = msgspec.json.encode(rows).decode()
    return f'"tokens":{inside}}},"logprobs":{msgspec.json.encode(beside).decode()}'
