"""`/api/v1/models`: what there is, what is loaded, and having more of both."""

import math
import time
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from overt.errors import ModelNotFound
from overt.protocols.base import (
    FOR_EVER,
    HttpCall,
    HttpReply,
    LoadedModelInfo,
    ModelCard,
    ModelHold,
)
from overt.protocols.lmstudio import downloads, instances, model_info
from overt.protocols.lmstudio.instances import Instance


class QuantizationInfo(msgspec.Struct):
    name: str | None
    bits_per_weight: int | None


class LoadedConfig(msgspec.Struct):
    context_length: int
    parallel: int | UnsetType = UNSET


class LoadedInstance(msgspec.Struct):
    id: str
    config: LoadedConfig


class ReasoningOptions(msgspec.Struct):
    allowed_options: list[str]
    default: str


class ModelCapabilities(msgspec.Struct):
    vision: bool
    trained_for_tool_use: bool
    reasoning: ReasoningOptions | UnsetType = UNSET


class ListedModel(msgspec.Struct):
    type: str
    publisher: str
    key: str
    display_name: str
    quantization: QuantizationInfo | None
    size_bytes: int
    params_string: str | None
    loaded_instances: list[LoadedInstance]
    max_context_length: int
    format: str | None
    architecture: str | UnsetType | None = UNSET
    capabilities: ModelCapabilities | UnsetType = UNSET
    description: UnsetType | None = UNSET


async def list_models(call: HttpCall) -> HttpReply:
    """``GET /api/v1/models``."""
    loaded = instances.of(call.services).loaded(call.services)
    cards = await call.services.models(call.caller)
    entries = [_entry(card, loaded) for card in cards if model_info.domain(card)]
    return HttpReply({"models": entries})


def _entry(card: ModelCard, loaded: list[tuple[Instance, LoadedModelInfo]]) -> ListedModel:
    kind = model_info.domain(card) or "llm"
    entry = ListedModel(
        type=kind,
        publisher=model_info.publisher(card),
        key=card.id,
        display_name=model_info.display_name(card),
        quantization=QuantizationInfo(card.quantization or None, model_info.bits(card)),
        size_bytes=card.size,
        params_string=model_info.params_string(card),
        loaded_instances=[
            LoadedInstance(instance.id, _config(kind, held))
            for instance, held in loaded
            if instance.card.id == card.id
        ],
        max_context_length=card.context or 0,
        format="gguf" if card.format == "gguf" else None,
    )
    if kind == "llm":
        entry.architecture = card.architecture or None
        entry.capabilities = ModelCapabilities(card.kind == "vlm", "tools" in card.capabilities)
        if "thinking" in card.capabilities:
            entry.capabilities.reasoning = ReasoningOptions(["off", "on"], "on")
        entry.description = None
    return entry


def _config(kind: str, held: LoadedModelInfo) -> LoadedConfig:
    config = LoadedConfig(held.context)
    if kind == "llm":
        config.parallel = held.parallel
    return config


# ---- loading -------------------------------------------------------------------------------

Count = Annotated[int, Meta(ge=1, le=1 << 30)]


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Of how to load only the context is ours to choose; the engine finds the rest itself."""

    model: str
    context_length: Count | None = None
    eval_batch_size: Count | None = None
    flash_attention: bool | None = None
    num_experts: Count | None = None
    offload_kv_cache_to_gpu: bool | None = None
    parallel: Count | None = None
    ttl: Annotated[float, Meta(ge=0)] | None = None
    echo_load_config: bool = False


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    instance_id: str


async def load(call: HttpCall) -> HttpReply:
    """``POST /api/v1/models/load``."""
    body = call.read(LoadBody)
    begun = time.perf_counter()
    card = await instances.find(call.services, call.caller, body.model)
    alive = FOR_EVER.keep_alive if body.ttl is None else body.ttl
    hold = ModelHold(alive if alive is not None else math.inf, body.context_length)
    all_instances = instances.of(call.services)
    instance, held = await all_instances.load(call.services, call.caller, card, None, hold)
    kind = model_info.domain(card) or "llm"
    value: dict[str, Any] = {
        "type": kind,
        "instance_id": instance.id,
        "load_time_seconds": round(time.perf_counter() - begun, 3),
        "status": "loaded",
    }
    if body.echo_load_config:
        value["load_config"] = _config(kind, held)
    return HttpReply(value)


async def unload(call: HttpCall) -> HttpReply:
    """``POST /api/v1/models/unload``."""
    body = call.read(UnloadBody)
    await instances.of(call.services).unload(call.services, call.caller, body.instance_id)
    return HttpReply({"instance_id": body.instance_id})


# ---- downloads -----------------------------------------------------------------------------


class DownloadBody(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    quantization: str | None = None


async def download(call: HttpCall) -> HttpReply:
    """``POST /api/v1/models/download``: begins a pull and tells its job."""
    body = call.read(DownloadBody)
    ref = downloads.ref_of(body.model, body.quantization)
    try:
        await call.services.model(call.caller, ref)
    except ModelNotFound:
        job = downloads.of(call.services).begin(call.services, call.caller, ref)
        status = job.told()
        return HttpReply({name: status[name] for name in _BEGUN if name in status})
    return HttpReply({"status": "already_downloaded"})


_BEGUN = ("job_id", "status", "total_size_bytes", "started_at", "completed_at")


async def download_status(call: HttpCall) -> HttpReply:
    """``GET /api/v1/models/download/status/{job}``."""
    return HttpReply(downloads.of(call.services).get(call.caller, call.params["job"]).told())
