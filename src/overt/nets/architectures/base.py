"""The contract of one architecture: what a file of this folder says, and what follows from it.

A `Shape` stands in the middle. A config.json or the metadata of a GGUF file give one; from one
follow the other form, and every tensor with its two names, its shape and the change between the
two forms. So an architecture states its defaults and choices, and inherits the rest.

Names and changes were learnt from llama.cpp (its converter and `src/models/`, b11739) and from
transformers' modeling files.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from overt.errors import FormatError, Unsupported
from overt.formats.bounded import shown
from overt.nets.architectures import configuration, ropes
from overt.nets.architectures.configuration import (
    MAX_CONTEXT,
    MAX_HEADS,
    MAX_LAYERS,
    MAX_TOKENS,
    MAX_WIDTH,
    MetadataKeys,
    ModelConfig,
)
from overt.nets.shape import Shape

_PLACED: Mapping[str, tuple[tuple[str, str], ...]] = {
    "before": (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")),
    "after": (
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ),
    "both": (
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
    ),
}
"""Norms of a layer by `Shape.norms`: transformers' name, GGUF's."""
_INSIDE = re.compile(
    r"(?:language_model\.model|model\.language_model)\.(.+)|language_model\.lm_head\.weight"
)
"""The language model inside of one that sees images, as older and newer files name it."""
_ELSEWHERE = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")
_BARE = re.compile(r"(?:embed_tokens|layers|norm)\.")
_GELU = ("gelu_pytorch_tanh", "gelu")  # Gemma's older files say gelu and mean the other


def sees_images(name: str) -> bool:
    """Whether a release's tensor is of the part that sees images, which is left out."""
    return _ELSEWHERE.match(name) is not None


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor.

    Attributes:
        name: in a release, and in our nets.
        gguf: in GGUF.
        shape: row-major.
        heads: the rows of each of so many heads are interleaved in GGUF: llama.cpp turns
            neighbours where transformers turns halves. 0: they are not.
        shift: GGUF and our nets hold the release's numbers plus this.
    """

    name: str
    gguf: str
    shape: tuple[int, ...]
    heads: int = 0
    shift: float = 0.0


class Architecture:
    """One architecture; see the attributes for what a file states.

    Attributes:
        name: in GGUF.
        release: the class that transformers has for it.
        model_type: in config.json.
        classes: other names in config.json's ``architectures`` that are the same.
        defaults: of config.json, as transformers' class has them.
        theta: the base of the rotary embedding where config.json does not say.
        norm, norms, qk_norm, bias, activation: as in `Shape`.
        interleaved: queries and keys are interleaved in GGUF.
        unit: GGUF holds the norms plus 1.
        window_every: each so-manieth layer sees everything, by default; 0: llama.cpp knows no
            window for this architecture.
        square: heads times their elements are the width: llama.cpp knows no other size of a head.
        scalings: kinds of rope scaling that llama.cpp computes as transformers does.
        own_output: llama.cpp wants an output matrix even where it is the embedding.
        tied_only: llama.cpp takes the embedding for the output, whatever the file holds.
    """

    name: ClassVar[str]
    release: ClassVar[str]
    model_type: ClassVar[str]
    classes: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    theta: ClassVar[float] = 10_000.0
    norm: ClassVar[Literal["rms", "layer"]] = "rms"
    norms: ClassVar[Literal["before", "after", "both"]] = "before"
    qk_norm: ClassVar[Literal["", "head", "full"]] = ""
    bias: ClassVar[bool] = False
    activation: ClassVar[Literal["silu", "gelu_tanh"]] = "silu"
    interleaved: ClassVar[bool] = False
    unit: ClassVar[bool] = False
    window_every: ClassVar[int] = 0
    square: ClassVar[bool] = False
    scalings: ClassVar[tuple[str, ...]] = ("linear", "yarn")
    own_output: ClassVar[bool] = False
    tied_only: ClassVar[bool] = False

    # -- shapes ------------------------------------------------------------------------------

    def shape_of_config(self, document: Mapping[str, Any]) -> Shape:
        """What a config.json says.

        Raises:
            FormatError: a field is missing, of the wrong kind, or cannot be.
            Unsupported: something that is not computed here.
        """
        config = configuration.read(document, self.defaults)
        self._check(config)
        windows = self._windows(config)
        values = {
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "heads": config.num_attention_heads,
            "kv_heads": config.kv_heads,
            "head": config.head,
            "inner": config.intermediate_size,
            "vocabulary": config.vocab_size,
            "context": config.max_position_embeddings,
            "eps": config.rms_norm_eps,
            "rope": ropes.of_config(config, self.theta),
            "window": (config.sliding_window or 0) if any(windows) else 0,
            "local": windows if any(windows) else (),
            "tied": config.tie_word_embeddings,
        }
        return Shape(**{**self._fixed(config.hidden_size), **values, **self._choices(config)})

    def shape_of_metadata(self, metadata: Mapping[str, Any]) -> Shape:
        """What the metadata of a GGUF file say; that the output is tied, only its tensors do.

        Raises:
            FormatError: a key is missing, of the wrong kind, or cannot be.
            Unsupported: something that is not computed here.
        """
        keys = MetadataKeys(self.name, metadata)
        if "expert_count" in keys and keys.get("expert_count") != 0:
            raise Unsupported("models of several experts are not known here")
        width = keys.whole("embedding_length", MAX_WIDTH)
        heads = keys.whole("attention.head_count", MAX_HEADS)
        head = keys.whole("attention.key_length", MAX_WIDTH, max(width // heads, 1))
        layers = keys.whole("block_count", MAX_LAYERS)
        context = keys.whole("context_length", MAX_CONTEXT)
        kv_heads = keys.whole("attention.head_count_kv", heads, heads)
        if keys.whole("attention.value_length", MAX_WIDTH, head) != head:
            raise Unsupported("values of another length than the keys are not known here")
        if heads % kv_heads or head % 2 or head * heads > MAX_WIDTH:
            raise FormatError(f"{heads} heads of {head} elements cannot share {kv_heads} keys")
        window, local = self._window_keys(keys, layers)
        tokens = metadata.get("tokenizer.ggml.tokens")
        counted = len(tokens) if tokens is not None and hasattr(tokens, "__len__") else None
        kind = "layer_norm_rms_epsilon" if self.norm == "rms" else "layer_norm_epsilon"
        values = {
            "layers": layers,
            "width": width,
            "heads": heads,
            "kv_heads": kv_heads,
            "head": head,
            "inner": keys.whole("feed_forward_length", MAX_WIDTH),
            "vocabulary": keys.whole("vocab_size", MAX_TOKENS, counted),
            "context": context,
            "eps": keys.number(f"attention.{kind}", 1e-5, 1.0),
            "rope": ropes.of_metadata(keys, head, context),
            "window": window,
            "local": local,
        }
        return Shape(**{**self._fixed(width), **values, **self._chosen(keys, head, layers)})

    def _fixed(self, width: int) -> dict[str, Any]:
        """What of a shape follows from the architecture alone."""
        return {
            "architecture": self.name,
            "norm": self.norm,
            "norms": self.norms,
            "unit": self.unit,
            "qk_norm": self.qk_norm,
            "bias": self.bias,
            "activation": self.activation,
            "embedding_scale": width**0.5 if self.unit else 1.0,
        }

    def _check(self, config: ModelConfig) -> None:
        """Refuse what `Shape` cannot say."""
        if config.attention_bias or config.mlp_bias:
            raise Unsupported(f"{self.release} with attention_bias or mlp_bias is not known")
        if config.use_bidirectional_attention:
            raise Unsupported("attention in both directions is not known here")
        activation = config.hidden_activation or config.hidden_act
        allowed = ("silu",) if self.activation == "silu" else _GELU
        if activation not in (None, *allowed):
            raise Unsupported(
                f"the activation {shown(activation)} is not the one of {self.release}"
            )

    def _windows(self, config: ModelConfig) -> tuple[bool, ...]:
        """Which layers see a window."""
        if not self.window_every or config.sliding_window is None:
            return ()
        return config.local(config.sliding_window_pattern or self.window_every)

    def _choices(self, config: ModelConfig) -> dict[str, Any]:
        """More of a shape, from config.json."""
        return {}

    def _chosen(self, keys: MetadataKeys, head: int, layers: int) -> dict[str, Any]:
        """More of a shape, from metadata."""
        return {}

    def _window_keys(self, keys: MetadataKeys, layers: int) -> tuple[int, tuple[bool, ...]]:
        if not self.window_every or not keys.get("attention.sliding_window"):
            return 0, ()
        local = keys.local(layers, self.window_every)
        window = keys.whole("attention.sliding_window", MAX_CONTEXT)
        return (window, local) if any(local) else (0, ())

    # -- GGUF --------------------------------------------------------------------------------

    def metadata(self, shape: Shape) -> list[tuple[str, Any]]:
        """Keys of a GGUF header and their values, besides ``general.*`` and ``tokenizer.*``.

        A model with a window that llama.cpp does not compute is given the window as its context:
        within it both are the same.

        Raises:
            Unsupported: what llama.cpp would compute otherwise.
        """
        if self.square and shape.head * shape.heads != shape.width:
            raise Unsupported(
                f"llama.cpp wants heads of {shape.width / shape.heads:g} elements in a "
                f"{self.name} model, and this one has {shape.head}"
            )
        if self.tied_only and not shape.tied:
            raise Unsupported(f"llama.cpp knows no {self.name} model with an output of its own")
        scaling = shape.rope.scaling
        if scaling and scaling not in self.scalings:
            raise Unsupported(f"llama.cpp knows no {scaling} scaling for {self.name}")
        return [(f"{self.name}.{key}", value) for key, value in self._pairs(shape)]

    def _pairs(self, shape: Shape) -> Iterator[tuple[str, Any]]:
        capped = shape.window and not self.window_every
        yield "context_length", min(shape.context, shape.window) if capped else shape.context
        yield "embedding_length", shape.width
        yield "block_count", shape.layers
        yield "feed_forward_length", shape.inner
        yield "vocab_size", shape.vocabulary
        yield "attention.head_count", shape.heads
        yield "attention.head_count_kv", shape.kv_heads
        yield "attention.key_length", shape.head
        yield "attention.value_length", shape.head
        kind = "layer_norm_rms_epsilon" if shape.norm == "rms" else "layer_norm_epsilon"
        yield f"attention.{kind}", shape.eps
        yield "rope.dimension_count", shape.head
        yield from ropes.metadata(shape.rope)
        if shape.window and self.window_every:
            yield "attention.sliding_window", shape.window
            yield "attention.sliding_window_pattern", list(shape.local)

    # -- config.json -------------------------------------------------------------------------

    def config(self, shape: Shape) -> dict[str, Any]:
        """The config.json that transformers builds the same model from, without token ids."""
        document: dict[str, Any] = {
            "architectures": [self.release],
            "model_type": self.model_type,
            "hidden_size": shape.width,
            "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": shape.context,
            "rms_norm_eps": shape.eps,
            "hidden_act": "silu" if shape.activation == "silu" else "gelu_pytorch_tanh",
            "tie_word_embeddings": shape.tied,
            "attention_bias": False,
            "rope_theta": shape.rope.base,
        }
        if shape.rope.scaling:
            numbers = {
                name: int(value) if name.startswith("original") else value
                for name, value in shape.rope.numbers
            }
            if numbers.pop("truncate", 1) == 0:
                numbers["truncate"] = False
            document["rope_scaling"] = {"rope_type": shape.rope.scaling, **numbers}
        return document

    def _layer_types(self, shape: Shape) -> list[str]:
        types = ("full_attention", "sliding_attention")
        return [types[is_local] for is_local in shape.local or (False,) * shape.layers]

    # -- tensors -----------------------------------------------------------------------------

    def weights(self, shape: Shape) -> tuple[Weight, ...]:
        """Every tensor of the model, in the order of the computation."""
        return tuple(self._weights(shape))

    def _weights(self, shape: Shape) -> Iterator[Weight]:
        embedding = (shape.vocabulary, shape.width)
        yield Weight("model.embed_tokens.weight", "token_embd.weight", embedding)
        for layer in range(shape.layers):
            yield from self._layer(shape, f"model.layers.{layer}.", f"blk.{layer}.")
        if shape.norm == "rms":
            yield self._norm("model.norm", "output_norm", shape.width)
        if not shape.tied:
            yield Weight("lm_head.weight", "output.weight", embedding)

    def _layer(self, shape: Shape, here: str, there: str) -> Iterator[Weight]:
        queries, pairs = shape.heads * shape.head, shape.kv_heads * shape.head
        for part, rows, heads in (
            ("q", queries, shape.heads),
            ("k", pairs, shape.kv_heads),
            ("v", pairs, 0),
        ):
            name, gguf = f"{here}self_attn.{part}_proj", f"{there}attn_{part}"
            turned = heads if self.interleaved else 0
            yield Weight(f"{name}.weight", f"{gguf}.weight", (rows, shape.width), turned)
            if shape.bias:
                yield Weight(f"{name}.bias", f"{gguf}.bias", (rows,), turned)
        yield Weight(
            f"{here}self_attn.o_proj.weight", f"{there}attn_output.weight", (shape.width, queries)
        )
        if shape.qk_norm:
            sizes = (queries, pairs) if shape.qk_norm == "full" else (shape.head, shape.head)
            for part, size in zip("qk", sizes, strict=True):
                yield self._norm(f"{here}self_attn.{part}_norm", f"{there}attn_{part}_norm", size)
        for part, rows, columns in (
            ("gate", shape.inner, shape.width),
            ("up", shape.inner, shape.width),
            ("down", shape.width, shape.inner),
        ):
            name, gguf = f"{here}mlp.{part}_proj.weight", f"{there}ffn_{part}.weight"
            yield Weight(name, gguf, (rows, columns))
        if shape.norm == "rms":
            for mine, other in _PLACED[shape.norms]:
                yield self._norm(here + mine, there + other, shape.width)

    def plain(self, name: str) -> str | None:
        """The name in `weights` of a release's tensor; None for one that is no part of it."""
        if name.endswith("rotary_emb.inv_freq") or _ELSEWHERE.match(name):
            return None
        if match := _INSIDE.fullmatch(name):
            return f"model.{match[1]}" if match[1] else "lm_head.weight"
        return f"model.{name}" if _BARE.match(name) else name

    def _norm(self, name: str, gguf: str, size: int) -> Weight:
        shift = 1.0 if self.unit else 0.0
        return Weight(f"{name}.weight", f"{gguf}.weight", (size,), shift=shift)

    def placed(self, shape: Shape) -> Callable[[str], str | None]:
        """`plain`, without the output matrix where the embedding is the output."""

        def place(name: str) -> str | None:
            plain_name = self.plain(name)
            return None if shape.tied and plain_name == "lm_head.weight" else plain_name

        return place
