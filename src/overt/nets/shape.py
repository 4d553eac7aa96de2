"""What a decoder-only transformer is made of: the numbers and choices one architecture fixes.

`transformer.Transformer` is built from a `Shape` alone; a file of ``architectures/`` says how one
is read from a ``config.json`` and from the metadata of a GGUF file.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (Su et al. 2021), rotating halves as transformers does.

    Attributes:
        base: theta.
        scaling: ``linear``, ``llama3`` or ``yarn`` change the frequencies by `numbers`; "" is none.
        numbers: of the scaling, by transformers' names, such as ``factor``.
        share: of each head's elements that are rotated.
    """

    base: float = 10_000.0
    scaling: Literal["", "linear", "llama3", "yarn"] = ""
    numbers: tuple[tuple[str, float], ...] = ()
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Shape:
    """One model.

    Attributes:
        architecture: its name in GGUF, such as ``llama``.
        layers, heads, kv_heads: counts.
        width: elements of the hidden state; head: of one attention head; inner: of the MLP.
        vocabulary, context: tokens.
        eps: of the norms.
        rope: of every layer that attends to the whole context.
        local_rope: of the layers that attend to `window` tokens; None: `rope`.
        window: tokens that a local layer sees, itself included; 0: no layer is local.
        local: which layers are local.
        norm: ``rms`` (with a weight) or ``layer`` (mean and variance, no weight: OLMo 1).
        norms: where a layer's norms are: ``before`` attention and MLP, ``after`` them, on what is
            added to the stream (OLMo 2), or ``both`` (Gemma 2 and 3).
        unit: the stored weight of a norm is added to 1 (Gemma). In our tensors it is added already,
            as in GGUF.
        qk_norm: of queries and keys: none, of each ``head`` (Qwen 3, Gemma 3), of the ``full`` row.
        bias: of the projections of queries, keys and values.
        activation: of the gate.
        tied: the output matrix is that of the embedding.
        embedding_scale: multiplies the embeddings.
        attention_scale: multiplies queries times keys; 0: one over the root of `head`.
        attention_cap, final_cap: c * tanh(x / c) on scores and logits; 0: none.
        clip: of queries, keys and values; 0: none.
    """

    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocabulary: int
    context: int
    eps: float = 1e-5
    rope: Rope = field(default_factory=Rope)
    local_rope: Rope | None = None
    window: int = 0
    local: tuple[bool, ...] = ()
    norm: Literal["rms", "layer"] = "rms"
    norms: Literal["before", "after", "both"] = "before"
    unit: bool = False
    qk_norm: Literal["", "head", "full"] = ""
    bias: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    tied: bool = False
    embedding_scale: float = 1.0
    attention_scale: float = 0.0
    attention_cap: float = 0.0
    final_cap: float = 0.0
    clip: float = 0.0
