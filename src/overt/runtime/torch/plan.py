"""What the torch engine takes of a machine, from a model's header: all numbers are of 4 bytes."""

from typing import Final

from overt.errors import OutOfMemory, Unsupported
from overt.formats.gguf import GgufHeader
from overt.models.memory import MIN_CONTEXT, ContextFit, MemoryNeed

ROOMY: Final = 4096
"""Tokens of context that are taken where nobody asks for more."""
_MIB: Final = 1 << 20
_PROCESS: Final = 420 * _MIB  # Python with torch, numpy and llama.cpp's vocabulary, measured
_TOKEN: Final = 600  # bytes for each token of the vocabulary


def need(header: GgufHeader, context: int, batch: int) -> MemoryNeed:
    """Bytes at the peak, for one request of `context` tokens."""
    heads = sum(header.kv_head_counts) or (header.block_count or 0)
    length = (header.key_length or 0) + (header.value_length or 0)
    vocabulary, width = header.vocabulary_size or 0, header.embedding_length or 0
    inner = max(header.feed_forward_lengths, default=0)
    seen = max(header.head_counts, default=1) * batch * context
    return MemoryNeed(
        weights=4 * header.parameters,
        kv_cache=4 * heads * length * (context + 256),
        compute=4 * (2 * batch * vocabulary + batch * (8 * width + 4 * inner) + seen),
        overhead=_PROCESS + _TOKEN * vocabulary,
        context=context,
        parallel=1,
    )


def choose(
    header: GgufHeader, wanted: int, least: int, free: int, batch: int, label: str
) -> ContextFit:
    """The context that is asked for, or one that fits.

    Args:
        wanted: tokens; 0 leaves it open.
        least: tokens that a request needs.
        free: bytes.
        label: what messages call the model.

    Raises:
        OutOfMemory: it does not fit, with the numbers.
    """
    own = header.context_length or ROOMY
    context = max(wanted, least) if wanted else max(min(own, ROOMY), least)
    need_ = need(header, context, batch)
    while not wanted and need_.total > free and context // 2 >= max(least, MIN_CONTEXT):
        context //= 2
        need_ = need(header, context, batch)
    if need_.total > free:
        raise OutOfMemory(
            f"{label} needs {need_.total >> 20} MiB in 32 bits with a context of {context} tokens, "
            f"and {free >> 20} MiB are free",
            "--engine auto takes the file as it is",
        )
    return ContextFit(context, need_, own if context < min(own, ROOMY) and not wanted else None)


def refuse(purpose: str, adapters: object) -> None:
    """Raises Unsupported: what the torch engine does not do."""
    if purpose not in ("answer", "score"):
        raise Unsupported(
            "the torch engine answers and scores, and makes no vectors", "choose --engine auto"
        )
    if adapters:
        raise Unsupported(
            "the torch engine lays no adapters over a model",
            "make one model of the two: overt merge REF NAME --adapter FILE",
        )
