"""The tensors a configuration asks for, and how those of a file differ from them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from overt.openness.shapes.layouts import BY_GGUF, BY_MODEL_TYPE, Layout, TensorRow

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader

MAX_BLOCKS: Final = 1024
MAX_EXPERTS: Final = 4096
_MAX_NUMBER = 1 << 40  # of any number of a configuration
Shape = tuple[int, ...]
PREFIXES: Final = (
    "model.language_model.",
    "language_model.model.",
    "language_model.",
    "model.",
    "gpt_neox.",
    "transformer.",
    "bert.",
)
"""What transformers puts before the names of `layouts.py`, by how a model is wrapped."""
IGNORED: Final = re.compile(
    r".*(rotary_emb\.inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids|_scale_inv"
    r"|rope_freqs\.weight|rope_factors_(long|short)\.weight|\.(input_)?scale|attn_rot_embd\.weight"
    r"|attn_v_b\.weight|attn_k_b\.weight)"
    r"|(vision_tower|vision_model|multi_modal_projector|visual|audio_tower|pooler|cls)\..*"
)
"""Buffers that can be computed, scales of 8-bit weights, parts that are not the text model's."""


class UnknownLayout(Exception):
    """The tensors cannot be told; the message is the reason."""


@dataclass(frozen=True)
class TensorPlan:
    """What must be there, by name and row-major shape.

    Attributes:
        blocks: blocks of the model.
        extra_blocks: further ones that only predict several tokens at once (DeepSeek-V3).
    """

    architecture: str
    required: Mapping[str, Shape]
    optional: Mapping[str, Shape]
    blocks: int
    extra_blocks: int = 0

    @property
    def parameters(self) -> int:
        return sum(count(shape) for shape in self.required.values())


@dataclass(frozen=True)
class PlanDifference:
    """How tensors differ from a plan; names as in the file, in order."""

    missing: tuple[str, ...] = ()
    wrong: tuple[tuple[str, Shape, Shape], ...] = ()
    beyond: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Numbers:
    """The symbols of layouts.py, and which conditions hold, for each block."""

    top: Mapping[str, int]
    blocks: Sequence[Mapping[str, int]]
    tags: Sequence[frozenset[str]]
    always: frozenset[str] = field(default_factory=frozenset)


def count(shape: Shape) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


# ---- from config.json ----------------------------------------------------------------------


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that is about the language model."""
    inner = config.get("text_config") or config.get("llm_config")
    return inner if isinstance(inner, dict) and "hidden_size" in inner else config


def of_config(config: Mapping[str, Any]) -> TensorPlan:
    """Raises UnknownLayout: an architecture that is not in layouts.py, or a number is left out."""
    text = text_config(config)
    kind = str(text.get("model_type", ""))
    layout = BY_MODEL_TYPE.get(kind)
    if layout is None:
        raise UnknownLayout(
            f"the tensors of the architecture {kind[:40] or 'of no name'} are not known"
        )
    if config.get("quantization_config"):
        raise UnknownLayout("the weights are stored quantized, under other names and shapes")
    numbers = _config_numbers(text, config, kind, layout)
    extra = text.get("num_nextn_predict_layers", 0)
    return _plan(kind, layout, numbers, "hf", extra if is_size(extra) else 0)


def _config_numbers(
    text: Mapping[str, Any], whole: Mapping[str, Any], kind: str, layout: Layout
) -> _Numbers:
    def number(*names: str, default: int | None = None) -> int:
        for name in names:
            if is_size(text.get(name)):
                return int(text[name])
        if default is None:
            raise UnknownLayout(f"config.json does not say {names[0]}")
        return default

    width = number("hidden_size", "n_embd")
    heads = number("num_attention_heads", "n_head")
    blocks = number("num_hidden_layers", "n_layer", "num_layers")
    if not heads > 0 or blocks > MAX_BLOCKS:
        raise UnknownLayout(f"config.json asks for {blocks} blocks of {heads} heads")
    kv = number("num_key_value_heads", default=layout.kv_heads or heads)
    head = number("head_dim", default=layout.head or width // heads)
    inner = number("intermediate_size", "n_inner", default=4 * width if kind == "gpt2" else None)
    symbols = {
        "V": number("vocab_size"),
        "H": width,
        "I": inner,
        "Q": heads * head,
        "K": kv * head,
        "W": kv * head,
        "O": heads * head,
        "D": head,
        "X": heads,
        "M": inner,
        "1": 1,
        "2": 2,
        "3": 3,
        "C": number("max_position_embeddings", "n_positions", default=0),
        "T": number("type_vocab_size", default=2),
        "E": number("num_local_experts", "num_experts", "n_routed_experts", default=0),
    }
    if symbols["E"] > MAX_EXPERTS:
        raise UnknownLayout(f"config.json asks for {symbols['E']} experts")
    if kind != "mixtral":
        symbols["M"] = number("moe_intermediate_size", default=inner)
    symbols["S"] = number(
        "shared_expert_intermediate_size",
        default=symbols["M"] * number("n_shared_experts", default=0),
    )
    if kind.startswith("deepseek"):
        symbols |= {
            "L": number("kv_lora_rank"),
            "R": number("qk_rope_head_dim"),
            "N": number("qk_nope_head_dim"),
            "D": number("v_head_dim"),
            "A": number("q_lora_rank", default=0),
        }
    always = {"whole"}
    tied = text.get("tie_word_embeddings", whole.get("tie_word_embeddings"))
    if tied is False:
        always.add("head")
    if text.get("attention_bias", True) is not False:
        always.add("bias")
    tags = [_config_tags(text, kind, symbols, layer) for layer in range(blocks)]
    return _Numbers(symbols, [symbols] * blocks, tags, frozenset(always))


def _config_tags(
    text: Mapping[str, Any], kind: str, symbols: Mapping[str, int], layer: int
) -> frozenset[str]:
    dense = not symbols["E"]
    if kind.startswith("deepseek"):
        first = text.get("first_k_dense_replace", 0)
        every = text.get("moe_layer_freq", 1)
        leading = first if is_size(first) else 0
        dense = dense or layer < leading or bool(is_size(every) and layer % every)
    elif kind in ("qwen2_moe", "qwen3_moe"):
        only, step = text.get("mlp_only_layers") or [], text.get("decoder_sparse_step", 1)
        spared = isinstance(only, list) and layer in only
        dense = dense or spared or bool(is_size(step) and (layer + 1) % step)
    tags = {"dense" if dense else "moe", "ql" if symbols.get("A") else "noql"}
    return frozenset(tags | ({"shared"} if symbols.get("S") else set()))


def is_size(value: object) -> bool:
    """A number that a configuration can have for a size or a count."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_NUMBER


# ---- from a GGUF header --------------------------------------------------------------------


def of_gguf(header: "GgufHeader", names: Mapping[str, Any]) -> TensorPlan:
    """`names` are those of its tensors, which tell the few things a header leaves open.

    Raises UnknownLayout: as `of_config`.
    """
    kind = header.architecture
    layout = BY_GGUF.get(kind)
    if layout is None:
        raise UnknownLayout(
            f"the tensors of the architecture {kind[:40] or 'of no name'} are not known"
        )
    if "blk.0.ffn_gate.0.weight" in names:
        raise UnknownLayout("its experts are stored one by one, as llama.cpp no longer does")
    return _plan(kind, layout, _gguf_numbers(header, kind, names), "gguf", 0)


def _gguf_numbers(header: "GgufHeader", kind: str, names: Mapping[str, Any]) -> _Numbers:
    def own(key: str, default: int | None = None) -> int:
        number = header.number(f"{kind}.{key}")
        if number is not None and number < _MAX_NUMBER:
            return number
        if default is None:
            raise UnknownLayout(f"the header does not say {kind}.{key}")
        return default

    blocks, width = own("block_count"), own("embedding_length")
    heads, kvs, inners = header.head_counts, header.kv_head_counts, header.feed_forward_lengths
    if not 0 < blocks <= MAX_BLOCKS or len(heads) < blocks or len(kvs) < blocks:
        raise UnknownLayout(f"the header describes {len(heads)} of {blocks} blocks")
    key, value = header.key_length or 0, header.value_length or 0
    experts = own("expert_count", 0)
    inner = own("expert_feed_forward_length", inners[0] if inners else 0)
    shared = own("expert_shared_count", 1 if kind == "qwen2moe" else 0)
    top = {
        "V": header.vocabulary_size or 0,
        "H": width,
        "C": own("context_length", 0),
        "T": own("token_type_count", header.number("tokenizer.ggml.token_type_count") or 2),
        "E": experts,
        "M": inner,
        "1": 1,
        "2": 2,
        "3": 3,
        "S": own("expert_shared_feed_forward_length", shared * inner),
        "D": key,
    }
    if kind == "deepseek2":
        rotated = own("rope.dimension_count")
        top |= {
            "L": own("attention.kv_lora_rank"),
            "A": own("attention.q_lora_rank", 0),
            "R": rotated,
            "N": own("attention.key_length_mla", key) - rotated,
            "D": own("attention.value_length_mla", value),
        }
    per_block = [
        {
            **top,
            "I": inners[n] if n < len(inners) else 0,
            "X": heads[n],
            "Q": heads[n] * key,
            "K": kvs[n] * key,
            "W": kvs[n] * value,
            "O": heads[n] * value,
        }
        for n in range(blocks)
    ]
    lead = own("leading_dense_block_count", 0)
    tags = [
        frozenset(
            {
                "moe" if experts and n >= lead else "dense",
                "ql" if top.get("A") else "noql",
                "shared" if top["S"] else "",
                # transformers' one matrix for keys and values is whole in old files
                "whole" if f"blk.{n}.attn_kv_b.weight" in names else "split",
            }
        )
        for n in range(blocks)
    ]
    return _Numbers(top, per_block, tags)


# ---- both ----------------------------------------------------------------------------------

_CONDITIONS = frozenset({"dense", "moe", "ql", "noql", "shared", "whole", "split"})


def _plan(kind: str, layout: Layout, numbers: _Numbers, form: str, extra_blocks: int) -> TensorPlan:
    required: dict[str, Shape] = {}
    optional: dict[str, Shape] = {}

    def add(row: TensorRow, start: str, symbols: Mapping[str, int], tags: frozenset[str]) -> None:
        wanted = row.tags & _CONDITIONS
        if wanted - tags or (form == "hf" and row.hf == "-"):
            return
        loose = "?" in row.tags or ("head" in row.tags and "head" not in tags)
        loose = loose or (form == "hf" and "bias" in row.tags and "bias" not in tags)
        for name, shape in _expand_row(row, start, symbols, form):
            (optional if loose else required)[name] = shape

    for row in layout.top:
        add(row, "", numbers.top, numbers.always)
    for layer, (symbols, tags) in enumerate(zip(numbers.blocks, numbers.tags, strict=True)):
        start = f"blk.{layer}." if form == "gguf" else layout.place.format(layer)
        for row in layout.block:
            add(row, start, symbols, tags | numbers.always)
    return TensorPlan(kind, required, optional, len(numbers.blocks), extra_blocks)


def _expand_row(
    row: TensorRow, start: str, symbols: Mapping[str, int], form: str
) -> list[tuple[str, Shape]]:
    shape = tuple(_evaluate(text, symbols) for text in row.dims)
    if any(extent <= 0 for extent in shape):
        raise UnknownLayout(f"the configuration leaves open the shape of {start}{row.gguf}")
    if form == "gguf":
        return [(start + row.gguf, shape)]
    if "{e}" in row.hf:
        return [(start + row.hf.format(e=number), shape[1:]) for number in range(shape[0])]
    return [(start + row.hf, shape[::-1] if "T" in row.tags else shape)]


def _evaluate(text: str, symbols: Mapping[str, int]) -> int:
    total = 0
    for part in text.split("+"):
        product = 1
        for symbol in part.split("*"):
            product *= symbols.get(symbol, 0)
        total += product
    return total


def short(name: str) -> str:
    """A name of transformers as layouts.py has it."""
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name


_BLOCK = re.compile(r"(?:layers|h|blk|encoder\.layer)\.(\d{1,6})\.")


def compare(plan: TensorPlan, shapes: Mapping[str, Shape], form: str) -> PlanDifference:
    """`shapes` by the names of the file."""
    names = {short(name) if form == "hf" else name: name for name in shapes}
    prefix = _prefix(shapes) if form == "hf" else ""
    missing = [prefix + name for name in plan.required if name not in names]
    wrong, beyond, unknown = [], [], []
    for name, whole in names.items():
        expected = plan.required.get(name) or plan.optional.get(name) or _bias(plan, name, form)
        if expected is not None:
            if shapes[whole] != expected:
                wrong.append((whole, shapes[whole], expected))
            continue
        block = _BLOCK.match(name)
        if block and int(block[1]) >= plan.blocks:
            if int(block[1]) >= plan.blocks + plan.extra_blocks:
                beyond.append(whole)
        elif not IGNORED.fullmatch(name) and not IGNORED.fullmatch(whole):
            unknown.append(whole)
    order = {name: number for number, name in enumerate((*plan.required, *plan.optional))}
    wrong.sort(key=lambda row: order.get(short(row[0]) if form == "hf" else row[0], 1 << 30))
    return PlanDifference(
        tuple(missing), tuple(wrong), tuple(sorted(beyond)), tuple(sorted(unknown))
    )


def _bias(plan: TensorPlan, name: str, form: str) -> Shape | None:
    """A bias beside a matrix of the plan: many variants of an architecture have them."""
    if not name.endswith(".bias"):
        return None
    weight = plan.required.get(name.removesuffix("bias") + "weight")
    if weight is None or len(weight) > 2:
        return None
    transposed = form == "hf" and plan.architecture == "gpt2"
    return (weight[-1],) if transposed else (weight[0],)


def _prefix(names: Mapping[str, Any]) -> str:
    for name in names:
        cut = short(name)
        if cut != name and not cut.startswith("lm_head"):
            return name[: len(name) - len(cut)]
    return ""
