"""What holds of the tensors of any transformer, whose layout nobody has written down here.

The embedding is as wide as the model and has a row for each token, some numbering of blocks has as
many as are stated, some matrix has the inner size. Said is only what contradicts.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from overt.openness.shapes.plan import is_size

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader
    from overt.openness.subject.tensors import LocatedTensor

_WIDTHS: Final = (
    "hidden_size",
    "n_embd",
    "d_model",
    "dim",
    "embedding_size",
    "emb_dim",
    "word_embed_proj_dim",
    "model_dim",
    "d_embed",
)
_LAYERS: Final = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
_INNER: Final = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim")
_EXPERTS: Final = re.compile(r"expert|moe|num_hidden_groups|block_configs")
"""Keys of models whose blocks are not all alike, or are used more than once."""
_EMBEDDING: Final = re.compile(
    r"(?:.*\.)?(?:embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|shared|token_embd"
    r"|backbone\.embeddings|transformer\.embedding)\.weight"
)
_ANY: Final = re.compile(r"emb|wte|shared")
_QUERY: Final = re.compile(r".*\.0\.self_attn\.q_proj\.weight")
_BLOCK: Final = re.compile(r"((?:.*?\.)?[A-Za-z_]+)\.(\d{1,5})\.")
_SPARE: Final = 1024
_PART: Final = 16


@dataclass(frozen=True)
class StatedShape:
    """What a configuration or header says; empty or 0 where it does not.

    `heads` are those of queries and of keys; `tied` says that there may be one matrix for input and
    output.
    """

    source: str
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    vocabulary: int
    inner: tuple[int, ...]
    heads: tuple[int, int] = (0, 0)
    tied: bool = True


def of_config(config: Mapping[str, Any]) -> StatedShape:
    def some(keys: Iterable[str]) -> tuple[int, ...]:
        return tuple(config[key] for key in keys if is_size(config.get(key)))

    layers = some(_LAYERS)
    extra = config.get("num_nextn_predict_layers")
    if layers and is_size(extra):
        layers += (layers[0] + int(extra or 0),)
    alike = not any(_EXPERTS.search(key) for key in config)
    vocabulary = config.get("vocab_size")
    inner = some(_INNER) if alike else ()
    if config.get("model_type") == "qwen":  # its first models state both halves together
        inner += tuple(width // 2 for width in inner)
    heads = (config.get("num_attention_heads"), config.get("num_key_value_heads"))
    gated = config.get("attn_output_gate") or not alike
    return StatedShape(
        "config.json",
        some(_WIDTHS),
        layers if "num_hidden_groups" not in config else (),
        int(vocabulary) if isinstance(vocabulary, int) and is_size(vocabulary) else 0,
        inner,
        (heads[0] or 0, heads[1] or 0) if all(map(is_size, heads)) and not gated else (0, 0),
        config.get("tie_word_embeddings") is not False,
    )


def of_header(header: "GgufHeader") -> StatedShape:
    width, blocks = header.embedding_length, header.block_count
    return StatedShape("the header", (width,) if width else (), (blocks,) if blocks else (), 0, ())


def contradiction(
    stated: StatedShape, tensors: "Mapping[str, LocatedTensor]"
) -> tuple[str, str] | None:
    """(observed, expected) of the first thing that cannot be so."""
    return (
        _embedding(stated, tensors)
        or _vocabulary(stated, tensors)
        or _blocks(stated, tensors)
        or _inner(stated, tensors)
        or _heads(stated, tensors)
    )


def _embedding(
    stated: StatedShape, tensors: "Mapping[str, LocatedTensor]"
) -> tuple[str, str] | None:
    embeddings = [
        tensor
        for name, tensor in tensors.items()
        if _EMBEDDING.fullmatch(name) and len(tensor.shape) == 2
    ]
    if stated.vocabulary and not stated.tied and not any(map(_ANY.search, tensors)):
        return f"none of {len(tensors)} tensors is an embedding", "one for the tokens that go in"
    if not embeddings or not stated.widths:
        return None
    if any(tensor.shape[1] in stated.widths for tensor in embeddings):
        return None
    widths = " or ".join(map(str, stated.widths[:3]))
    embedding = embeddings[0]
    return (
        f"{embedding.name} has the shape {list(embedding.shape)}",
        f"a width of {widths} by {stated.source}",
    )


def _vocabulary(
    stated: StatedShape, tensors: "Mapping[str, LocatedTensor]"
) -> tuple[str, str] | None:
    least = stated.vocabulary
    if not least:
        return None
    most = least + max(_SPARE, least // _PART)
    embeddings = [tensor for name, tensor in tensors.items() if _EMBEDDING.fullmatch(name)]
    matrices = embeddings or [tensor for tensor in tensors.values() if len(tensor.shape) == 2]
    if not matrices or any(
        least <= extent <= most for tensor in matrices for extent in tensor.shape
    ):
        return None
    largest = max(matrices, key=lambda tensor: max(tensor.shape))
    return (
        f"{largest.name} has the shape {list(largest.shape)}",
        f"{least} rows, one a token, by {stated.source}",
    )


def _blocks(stated: StatedShape, tensors: "Mapping[str, LocatedTensor]") -> tuple[str, str] | None:
    groups: dict[str, set[int]] = {}
    for name in tensors:
        if match := _BLOCK.match(name):
            groups.setdefault(match[1], set()).add(int(match[2]))
    counts = {place: max(numbers) + 1 for place, numbers in groups.items()}
    if not counts or not stated.layers or set(counts.values()) & set(stated.layers):
        return None
    place = max(counts, key=lambda prefix: counts[prefix])
    layers = " or ".join(map(str, dict.fromkeys(stated.layers)))
    return f"{counts[place]} blocks in {place}", f"{layers} by {stated.source}"


def _inner(stated: StatedShape, tensors: "Mapping[str, LocatedTensor]") -> tuple[str, str] | None:
    if not stated.inner:
        return None
    # Two or three matrices may be stored as one.
    wanted = {n for size in stated.inner for n in (size, 2 * size, 3 * size)}
    matrices = [
        tensor
        for name, tensor in tensors.items()
        if len(tensor.shape) > 1 and not _EMBEDDING.fullmatch(name)
    ]
    if not matrices or any(wanted & set(tensor.shape) for tensor in matrices):
        return None
    largest = max(matrices, key=lambda tensor: math.prod(tensor.shape))
    return (
        f"no matrix has it; the largest, {largest.name}, has the shape {list(largest.shape)}",
        f"the inner size {stated.inner[0]} by {stated.source}",
    )


def _heads(stated: StatedShape, tensors: "Mapping[str, LocatedTensor]") -> tuple[str, str] | None:
    """Of the first block the rows of keys to those of queries, as their heads are."""
    queries, keys = stated.heads
    places = [name for name in tensors if _QUERY.fullmatch(name)] if keys else []
    for name in places:
        mine, theirs = tensors[name], tensors.get(name.replace(".q_proj.", ".k_proj."))
        if theirs is None or len(mine.shape) != 2 or len(theirs.shape) != 2:
            return None
        if theirs.shape[0] * queries == mine.shape[0] * keys:
            return None
    if len(places) != 1:
        return None
    rows, theirs = tensors[places[0]].shape[0], tensors[places[0].replace(".q_", ".k_")]
    return (
        f"{theirs.name} has {theirs.shape[0]} rows beside {rows} of the queries",
        f"{keys} of {queries} heads by {stated.source}",
    )
