"""What `/llm` and `/embedding` have in common: models that are loaded, and their tokens."""

import asyncio
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from overt.chat import EmbedRequest, Request, Tool
from overt.errors import NotFound, Stopped
from overt.protocols.base import FOR_EVER, LoadedModelInfo, ModelHold
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


class EmbedCall(msgspec.Struct, rename="camel"):
    model_specifier: Specifier
    input_string: str


class ApplyTemplateOptions(msgspec.Struct, rename="camel"):
    tool_definitions: list[kv.ToolDefinition] = []


class ApplyTemplate(msgspec.Struct, rename="camel"):
    specifier: Specifier
    history: history.History
    prediction_config_stack: kv.Stack = msgspec.field(default_factory=kv.Stack)
    opts: ApplyTemplateOptions = msgspec.field(default_factory=ApplyTemplateOptions)


# ---- loading -------------------------------------------------------------------------------


async def load_model(context: Context, request: LoadModel, channel: Channel) -> None:
    """Always a new instance, kept until it is unloaded where no time was given."""
    card = await instances.find(context.services, context.caller, request.model_key)
    instances.check_domain(card, context.domain)
    await channel.send({"type": "resolved", "info": facts.described(card)})
    await channel.send({"type": "progress", "progress": 0.0})
    hold = _hold(request.ttl_ms, request.load_config_stack)
    all_instances = instances.of(context.services)
    loading = all_instances.load(context.services, context.caller, card, request.identifier, hold)
    instance, loaded = await _unless_cancelled(channel, loading)
    await channel.send({"type": "progress", "progress": 1.0})
    await channel.send({"type": "success", "info": _instance_info(instance, loaded)})


async def get_or_load(context: Context, request: GetOrLoad, channel: Channel) -> None:
    """The instance of that name if there is one, else a new one."""
    services, all_instances = context.services, instances.of(context.services)
    pair = all_instances.of_model(services, request.identifier)
    if pair:
        instances.check_domain(pair[0].card, context.domain)
        await channel.send({"type": "alreadyLoaded", "info": _instance_info(*pair)})
        return
    card = await instances.find(services, context.caller, request.identifier)
    instances.check_domain(card, context.domain)
    start = {"type": "startLoading", "identifier": card.id, "info": facts.described(card)}
    await channel.send(start)
    await channel.send({"type": "loadProgress", "progress": 0.0})
    hold = _hold(request.load_ttl_ms, request.load_config_stack)
    loading = all_instances.load(services, context.caller, card, None, hold)
    instance, loaded = await _unless_cancelled(channel, loading)
    await channel.send({"type": "loadProgress", "progress": 1.0})
    await channel.send({"type": "loadSuccess", "info": _instance_info(instance, loaded)})


async def _unless_cancelled(channel: Channel, loading: Any) -> tuple[Instance, LoadedModelInfo]:
    result: tuple[Instance, LoadedModelInfo] | None = None
    with channel.until_cancelled():
        result = await loading
    if result is None:
        raise Stopped("loading was cancelled")
    return result


def _hold(milliseconds: int | None, stack: kv.Stack) -> ModelHold:
    context = kv.context_length(stack.collapsed())
    alive = FOR_EVER.keep_alive if milliseconds is None else milliseconds / 1000
    return ModelHold(alive, context)


def _instance_info(instance: Instance, loaded: LoadedModelInfo | None) -> facts.Described:
    return facts.instance(instance.card, loaded, instance.id, instance.reference)


async def unload_model(context: Context, request: Identified) -> Void:
    """``unloadModel``."""
    await instances.of(context.services).unload(
        context.services, context.caller, request.identifier
    )
    return Void()


# ---- looking -------------------------------------------------------------------------------


async def list_loaded(context: Context, _: Any) -> list[facts.Described]:
    """``listLoaded``: those of the socket's kind."""
    return [
        _instance_info(instance, loaded)
        for instance, loaded in instances.of(context.services).loaded(context.services)
        if facts.domain(instance.card) == context.domain
    ]


async def _loaded(context: Context, specifier: Specifier) -> tuple[Instance, LoadedModelInfo]:
    """As `chosen`, where only a loaded one will do."""
    all_instances = instances.of(context.services)
    if isinstance(specifier, ByReference):
        return all_instances.by_reference(context.services, specifier.instance_reference)
    instance = await chosen(context, specifier)
    pair = all_instances.get(context.services, instance.id)
    if pair is None:
        raise all_instances.missing(context.services, instance.id)
    return pair


async def model_info(context: Context, request: GetInfo) -> facts.Described | Void:
    """``getModelInfo``, of a loaded model."""
    try:
        return _instance_info(*await _loaded(context, request.specifier))
    except NotFound:
        if request.throw_if_not_found:
            raise
        return Void()


async def load_config(context: Context, request: Specified) -> dict[str, Any]:
    """``getLoadConfig``: how a loaded model was loaded."""
    _, loaded = await _loaded(context, request.specifier)
    if context.domain == "embedding":
        return kv.fields({"embedding.load.contextLength": loaded.context})
    return kv.fields(
        {
            "llm.load.contextLength": loaded.context,
            "llm.load.numParallelSessions": loaded.parallel,
        }
    )


async def prediction_config(context: Context, request: Specified) -> dict[str, Any]:
    """No server-wide settings: a prediction has what it brings."""
    await chosen(context, request.specifier)
    return kv.fields({})


async def processing_state(context: Context, request: GetInfo) -> dict[str, Any]:
    """``getInstanceProcessingState``."""
    _, loaded = await _loaded(context, request.specifier)
    if not loaded.busy:
        return {"status": "idle", "queued": 0}
    status = "computingEmbedding" if context.domain == "embedding" else "generating"
    return {"status": status, "queued": loaded.busy}


# ---- tokens, text and vectors --------------------------------------------------------------


_MARKS = (("[CLS]", "[SEP]"), ("<s>", "</s>"))
"""What encoders put around a text: BERT's, and RoBERTa's."""


async def tokenize(context: Context, request: OfText) -> dict[str, Any]:
    """As the model would read the text: an encoder's marks of its begin and end are among them."""
    instance = await chosen(context, request.specifier)
    tokens = await _tokens(context, instance, request.input_string)
    if context.domain == "embedding" and "bert" in instance.card.architecture:
        for begin, end in _MARKS:
            first, last = await asyncio.gather(
                _tokens(context, instance, begin), _tokens(context, instance, end)
            )
            if len(first) == len(last) == 1:
                return {"tokens": first + tokens + last}
    return {"tokens": tokens}


async def count_tokens(context: Context, request: OfText) -> dict[str, Any]:
    """Of the text alone, as LM Studio counts: without the marks."""
    instance = await chosen(context, request.specifier)
    return {"tokenCount": len(await _tokens(context, instance, request.input_string))}


async def _tokens(context: Context, instance: Instance, text: str) -> tuple[int, ...]:
    return await context.services.tokenize(context.caller, instance.card.id, text)


async def apply_template(context: Context, request_: ApplyTemplate) -> dict[str, Any]:
    """``applyPromptTemplate``: the prompt as the model would read it."""
    instance = await chosen(context, request_.specifier)
    prediction = kv.prediction(request_.prediction_config_stack.collapsed())
    turns = history.messages(request_.history, None)
    wanted = request(instance.card.id, turns, prediction)
    if isinstance(wanted.prompt, str):
        return {"formatted": wanted.prompt}
    if request_.opts.tool_definitions:
        tools = tuple(_tool(tool) for tool in request_.opts.tool_definitions)
        wanted = Request(model=wanted.model, messages=wanted.messages, tools=tools)
    return {"formatted": await context.services.render(context.caller, wanted)}


def _tool(tool: kv.ToolDefinition) -> Tool:
    return Tool(tool.function.name, tool.function.description, tool.function.parameters)


async def embed(context: Context, request: EmbedCall) -> dict[str, Any]:
    """``embedString``."""
    instance = await chosen(context, request.model_specifier)
    wanted = EmbedRequest(instance.card.id, (request.input_string,))
    vectors = await context.services.embed(context.caller, wanted, instance.hold)
    return {"embedding": vectors.vectors[0]}


async def preload_draft(context: Context, request: Specified) -> Void:
    """Speculative decoding changes no answer, and is not done here: there is nothing to load."""
    await chosen(context, request.specifier)
    return Void()
