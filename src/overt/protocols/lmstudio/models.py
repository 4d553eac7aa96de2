"""What `/llm` and `/embedding` have in common: models that are loaded, and their tokens."""

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.chat import EmbedRequest, Request, Tool
from overt.errors import NotFound, Stopped
from overt.protocols.base import FOR_EVER, Hold, Loaded
from overt.protocols.lmstudio import history, instances, kv
from overt.protocols.lmstudio import model_info as facts
from overt.protocols.lmstudio.instances import Instance
from overt.protocols.lmstudio.port import Channel, Context, Void
from overt.protocols.lmstudio.predict import request
from overt.protocols.lmstudio.specifier import ByReference, Specifier, chosen

Milliseconds = Annotated[int, Meta(ge=1, le=10**15)]


class LoadModel(msgspec.Struct, rename="camel"):
    model_key: str
    identifier: str | None = None
    ttl_ms: Milliseconds | None = None
    load_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)


class GetOrLoad(msgspec.Struct, rename="camel"):
    identifier: str
    load_ttl_ms: Milliseconds | None = None
    load_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)


class Identified(msgspec.Struct):
    identifier: str


class Specified(msgspec.Struct):
    specifier: Specifier


class GetInfo(msgspec.Struct, rename="camel"):
    specifier: Specifier
    throw_if_not_found: bool = True


class OfText(msgspec.Struct, rename="camel"):
    specifier: Specifier
    input_string: str


class Embed(msgspec.Struct, rename="camel"):
    model_specifier: Specifier
    input_string: str


class TemplateOptions(msgspec.Struct, rename="camel"):
    tool_definitions: list[kv.ToolSaid] = []


class ApplyTemplate(msgspec.Struct, rename="camel"):
    specifier: Specifier
    history: history.History
    prediction_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)
    opts: TemplateOptions = msgspec.field(default_factory=TemplateOptions)


# ---- loading -------------------------------------------------------------------------------


async def load_model(context: Context, asked: LoadModel, channel: Channel) -> None:
    """Always a new instance, kept until it is unloaded where no time was given."""
    card = await instances.find(context.services, context.caller, asked.model_key)
    instances.check_domain(card, context.domain)
    await channel.send({"type": "resolved", "info": facts.described(card)})
    await channel.send({"type": "progress", "progress": 0.0})
    hold = _hold(asked.ttl_ms, asked.load_config_stack)
    kept = instances.of(context.services)
    loading = kept.load(context.services, context.caller, card, asked.identifier, hold)
    instance, loaded = await _unless_cancelled(channel, loading)
    await channel.send({"type": "progress", "progress": 1.0})
    await channel.send({"type": "success", "info": _told(instance, loaded)})


async def get_or_load(context: Context, asked: GetOrLoad, channel: Channel) -> None:
    """The instance of that name if there is one, else a new one."""
    services, kept = context.services, instances.of(context.services)
    pair = kept.of_model(services, asked.identifier)
    if pair:
        instances.check_domain(pair[0].card, context.domain)
        await channel.send({"type": "alreadyLoaded", "info": _told(*pair)})
        return
    card = await instances.find(services, context.caller, asked.identifier)
    instances.check_domain(card, context.domain)
    start = {"type": "startLoading", "identifier": card.id, "info": facts.described(card)}
    await channel.send(start)
    await channel.send({"type": "loadProgress", "progress": 0.0})
    hold = _hold(asked.load_ttl_ms, asked.load_config_stack)
    loading = kept.load(services, context.caller, card, None, hold)
    instance, loaded = await _unless_cancelled(channel, loading)
    await channel.send({"type": "loadProgress", "progress": 1.0})
    await channel.send({"type": "loadSuccess", "info": _told(instance, loaded)})


async def _unless_cancelled(channel: Channel, loading: Any) -> tuple[Instance, Loaded]:
    result: tuple[Instance, Loaded] | None = None
    with channel.until_cancelled():
        result = await loading
    if result is None:
        raise Stopped("loading was cancelled")
    return result


def _hold(milliseconds: int | None, stack: kv.Stack) -> Hold:
    context = kv.context_length(stack.collapsed())
    alive = FOR_EVER.keep_alive if milliseconds is None else milliseconds / 1000
    return Hold(alive, context)


def _told(instance: Instance, loaded: Loaded | None) -> facts.Described:
    return facts.instance(instance.card, loaded, instance.id, instance.reference)


async def unload_model(context: Context, asked: Identified) -> Void:
    """``unloadModel``."""
    await instances.of(context.services).unload(context.services, context.caller, asked.identifier)
    return Void()


# ---- looking -------------------------------------------------------------------------------


async def list_loaded(context: Context, _: Any) -> list[facts.Described]:
    """``listLoaded``: those of the socket's kind."""
    return [
        _told(instance, loaded)
        for instance, loaded in instances.of(context.services).loaded(context.services)
        if facts.domain(instance.card) == context.domain
    ]


async def _loaded(context: Context, said: Specifier) -> tuple[Instance, Loaded]:
    """As `chosen`, where only a loaded one will do."""
    kept = instances.of(context.services)
    if isinstance(said, ByReference):
        return kept.by_reference(context.services, said.instance_reference)
    instance = await chosen(context, said)
    pair = kept.get(context.services, instance.id)
    if pair is None:
        raise kept.missing(context.services, instance.id)
    return pair


async def model_info(context: Context, asked: GetInfo) -> facts.Described | Void:
    """``getModelInfo``, of a loaded model."""
    try:
        return _told(*await _loaded(context, asked.specifier))
    except NotFound:
        if asked.throw_if_not_found:
            raise
        return Void()


async def load_config(context: Context, asked: Specified) -> dict[str, Any]:
    """``getLoadConfig``: how a loaded model was loaded."""
    _, loaded = await _loaded(context, asked.specifier)
    if context.domain == "embedding":
        return kv.fields({"embedding.load.contextLength": loaded.context})
    return kv.fields(
        {
            "llm.load.contextLength": loaded.context,
            "llm.load.numParallelSessions": loaded.parallel,
        }
    )


async def prediction_config(context: Context, asked: Specified) -> dict[str, Any]:
    """No server-wide settings: a prediction has what it brings."""
    await chosen(context, asked.specifier)
    return kv.fields({})


async def processing_state(context: Context, asked: GetInfo) -> dict[str, Any]:
    """``getInstanceProcessingState``."""
    _, loaded = await _loaded(context, asked.specifier)
    if not loaded.busy:
        return {"status": "idle", "queued": 0}
    status = "computingEmbedding" if context.domain == "embedding" else "generating"
    return {"status": status, "queued": loaded.busy}


# ---- tokens, text and vectors --------------------------------------------------------------


_MARKS = (("[CLS]", "[SEP]"), ("<s>", "</s>"))
"""What encoders put around a text: BERT's, and RoBERTa's."""


async def tokenize(context: Context, asked: OfText) -> dict[str, Any]:
    """As the model would read the text: an encoder's marks of its begin and end are among them."""
    instance = await chosen(context, asked.specifier)
    tokens = await _tokens(context, instance, asked.input_string)
    if context.domain == "embedding" and "bert" in instance.card.architecture:
        for begin, end in _MARKS:
            first, last = await asyncio.gather(
                _tokens(context, instance, begin), _tokens(context, instance, end)
            )
            if len(first) == len(last) == 1:
                return {"tokens": first + tokens + last}
    return {"tokens": tokens}


async def count_tokens(context: Context, asked: OfText) -> dict[str, Any]:
    """Of the text alone, as LM Studio counts: without the marks."""
    instance = await chosen(context, asked.specifier)
    return {"tokenCount": len(await _tokens(context, instance, asked.input_string))}


async def _tokens(context: Context, instance: Instance, text: str) -> tuple[int, ...]:
    return await context.services.tokenize(context.caller, instance.card.id, text)


async def apply_template(context: Context, asked: ApplyTemplate) -> dict[str, Any]:
    """``applyPromptTemplate``: the prompt as the model would read it."""
    instance = await chosen(context, asked.specifier)
    said = kv.prediction(asked.prediction_config_stack.collapsed())
    turns = history.messages(asked.history, None)
    wanted = request(instance.card.id, turns, said)
    if isinstance(wanted.prompt, str):
        return {"formatted": wanted.prompt}
    if asked.opts.tool_definitions:
        tools = tuple(_tool(one) for one in asked.opts.tool_definitions)
        wanted = Request(model=wanted.model, messages=wanted.messages, tools=tools)
    return {"formatted": await context.services.render(context.caller, wanted)}


def _tool(said: kv.ToolSaid) -> Tool:
    return Tool(said.function.name, said.function.description, said.function.parameters)


async def embed(context: Context, asked: Embed) -> dict[str, Any]:
    """``embedString``."""
    instance = await chosen(context, asked.model_specifier)
    wanted = EmbedRequest(instance.card.id, (asked.input_string,))
    vectors = await context.services.embed(context.caller, wanted, instance.hold)
    return {"embedding": vectors.vectors[0]}


async def preload_draft(context: Context, asked: Specified) -> Void:
    """Speculative decoding changes no answer, and is not done here: there is nothing to load."""
    await chosen(context, asked.specifier)
    return Void()
