"""A model as LM Studio describes it: three wire forms of one `ModelCard`.

LM Studio knows models by a key (`ModelCard.id`), and by the path of their file,
``publisher/repository/file``. Models here need not have files of that shape, so the path is
``publisher/name``, which is also how a person writes it.
"""

import math
import re
import time
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from overt.protocols.base import LoadedModelInfo, ModelCard

Domain = Literal["llm", "embedding"]
PREFIX = "text-embedding-"
"""How LM Studio marks embedding models; left out and put on freely when one is looked up."""

_LOCAL = "local"


class Quantization(msgspec.Struct):
    name: str
    bits: int


class Described(msgspec.Struct, rename="camel"):
    """A model, or one that is loaded, as the sockets tell it (lms-shared-types' ModelInfoBase)."""

    type: Domain
    model_key: str
    format: str
    display_name: str
    publisher: str
    path: str
    size_bytes: int
    indexed_model_identifier: str
    max_context_length: int
    device_identifier: None = None
    params_string: str | UnsetType = UNSET
    architecture: str | UnsetType = UNSET
    quantization: Quantization | UnsetType = UNSET
    vision: bool | UnsetType = UNSET
    trained_for_tool_use: bool | UnsetType = UNSET
    identifier: str | UnsetType = UNSET
    instance_reference: str | UnsetType = UNSET
    ttl_ms: float | UnsetType | None = UNSET
    last_used_time: float | UnsetType | None = UNSET
    context_length: int | UnsetType = UNSET


def domain(card: ModelCard) -> Domain | None:
    """Which of LM Studio's two kinds it is; None for what LM Studio does not have."""
    if card.kind == "rerank":
        return None
    return "embedding" if card.kind == "embedding" else "llm"


def publisher(card: ModelCard) -> str:
    """Who made it; LM Studio needs a word where nobody is known."""
    return card.publisher or _LOCAL


def path(card: ModelCard) -> str:
    """``publisher/name``; the name without scheme, file and LM Studio's prefix."""
    name = card.id.partition("#")[0].removeprefix("hf:").partition("@")[0]
    name = name.removeprefix(PREFIX)
    return name if "/" in name else f"{publisher(card)}/{name}"


def display_name(card: ModelCard) -> str:
    """``smollm2:135m-instruct`` as ``Smollm2 135m Instruct``."""
    name = path(card).rpartition("/")[2]
    words = re.split(r"[-_: ]+", name)
    return " ".join(word[:1].upper() + word[1:] for word in words if word) or card.id


def params_string(card: ModelCard) -> str | None:
    """How many parameters in three digits at most: ``135M``, ``1.2B``; None where unknown."""
    count = card.parameters
    if not count:
        return None
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            value = count / size
            text = f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:.0f}"
            return text + letter
    return str(count)


def bits(card: ModelCard) -> int | None:
    """Bits of one weight, from the name of the quantization: 4 of ``Q4_K_M``, 16 of ``BF16``."""
    match = re.match(r"(?:I?Q|TQ|BF|F|MXFP|NVFP)(\d{1,2})", card.quantization.upper())
    return int(match[1]) if match else None


def described(card: ModelCard) -> Described:
    """A model as the sockets tell it, loaded or not."""
    kind = domain(card) or "llm"
    description = Described(
        type=kind,
        model_key=card.id,
        format=_format(card),
        display_name=display_name(card),
        publisher=publisher(card),
        path=path(card),
        size_bytes=card.size,
        indexed_model_identifier=path(card),
        max_context_length=card.context or 0,
    )
    if text := params_string(card):
        description.params_string = text
    if card.architecture:
        description.architecture = card.architecture
    width = bits(card)
    if width is not None:
        description.quantization = Quantization(card.quantization, width)
    if kind == "llm":
        description.vision = card.kind == "vlm"
        description.trained_for_tool_use = "tools" in card.capabilities
    return description


def instance(
    card: ModelCard, loaded: LoadedModelInfo | None, identifier: str, reference: str
) -> Described:
    """`described`, with what is true of the loaded one."""
    description = described(card)
    description.identifier = identifier
    description.instance_reference = reference
    description.ttl_ms = description.last_used_time = None
    description.context_length = description.max_context_length
    if loaded is not None:
        description.context_length = loaded.context
        description.last_used_time = loaded.used * 1000
        if math.isfinite(loaded.expires):
            description.ttl_ms = max(0.0, (loaded.expires - time.time()) * 1000)
        description.max_context_length = description.max_context_length or loaded.context
    return description


def _format(card: ModelCard) -> str:
    """SDKs know six words, and refuse a list with a seventh."""
    return "safetensors" if card.format == "safetensors" else "gguf"
