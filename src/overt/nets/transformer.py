"""The one decoder-only transformer: whatever a `Shape` says, it computes.

* Parameters have transformers' names and shapes, so that `load` and adapters need no table.
* Linear layers can be put in place of one another: `lora` and `quantized` do.
* Sequences packed into one row (`segments`) do not see each other, and cost no mask.
* `forward` ends at the hidden state: logits are computed where somebody asks for them.
"""

# ruff: noqa: TID253 - whoever imports this module wants torch
# mypy: disallow-subclassing-any=False
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from overt.nets.rotary import rotate, turns
from overt.nets.shape import Shape

Spans = Sequence[tuple[int, int, int]]
"""Row, first and last + 1 of each packed sequence."""
_BLOCK = 256  # a cache grows by so many tokens


class Norm(nn.Module):
    """RMS with a weight (Zhang and Sennrich 2019), or mean and variance with none (OLMo 1).

    Attributes:
        out: the type that comes out; None: the one that goes in.
    """

    def __init__(self, shape: Shape, width: int) -> None:
        super().__init__()
        self.rms, self.width, self.eps = shape.norm == "rms", width, shape.eps
        self.out: Any = None
        if self.rms:
            self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The last dimension, normalised in float32."""
        out = self.out or x.dtype
        if self.rms and x.requires_grad and not self.weight.requires_grad:
            return cast("Tensor", _FrozenNorm.apply(x, self.weight, self.eps, out))
        exact = x.float()
        if not self.rms:
            return functional.layer_norm(exact, (self.width,), eps=self.eps).to(out)
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return (exact * self.weight.float()).to(out)


class _FrozenNorm(torch.autograd.Function):
    """RMS norm whose weight does not learn: keeps x and one number a row."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, eps: float, out: Any) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
        context.save_for_backward(x, weight, scale)
        return (exact * scale).mul_(weight.float()).to(out)

    @staticmethod
    def backward(context: Any, *up: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight, scale = context.saved_tensors
        weighted = up[0].float() * weight.float()
        exact = x.float()
        along = (weighted * exact).mean(-1, keepdim=True) * scale.square()
        return weighted.sub_(exact * along).mul_(scale).to(x.dtype), None, None, None


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """Several linear layers of the same input; layers that know how do it in one go."""
    together = getattr(layers[0], "together", None)
    if together is not None:
        return cast("tuple[Tensor, ...]", together(x, layers))
    return tuple(layer(x) for layer in layers)


class Cache:
    """Keys and values of the tokens seen so far, of every layer, so that they are computed once.

    Attributes:
        length: tokens in it.
    """

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def add(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put (B, kv_heads, T, head) behind what is there; all of it comes back."""
        end = self.length + keys.shape[2]
        cached = self._kept[layer]
        if cached is None or cached[0].shape[2] < end:
            room = -(-end // _BLOCK) * _BLOCK
            grown = [keys.new_empty(*keys.shape[:2], room, keys.shape[3]) for _ in range(2)]
            for new, old in zip(grown, cached or (), strict=False):
                new[:, :, : self.length] = old[:, :, : self.length]
            cached = self._kept[layer] = (grown[0], grown[1])
        for all_of_it, some in zip(cached, (keys, values), strict=True):
            all_of_it[:, :, self.length : end] = some
        return cached[0][:, :, :end], cached[1][:, :, :end]

    def cut(self, length: int) -> None:
        """Forget what comes after the first `length` tokens."""
        self.length = min(self.length, length)


class ForwardState:
    """What all layers of one forward share: rotations, which tokens see which, the cache."""

    def __init__(
        self, turns: dict[bool, tuple[Tensor, Tensor]], spans: Spans, cache: Cache | None
    ) -> None:
        self.turns, self.spans, self.cache = turns, spans, cache


class Attention(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.shape, self.layer = shape, layer
        self.is_local = bool(shape.window) and bool(shape.local) and shape.local[layer]
        self.scale = shape.attention_scale or shape.head**-0.5
        queries, pairs = shape.heads * shape.head, shape.kv_heads * shape.head
        self.q_proj = nn.Linear(shape.width, queries, bias=shape.bias)
        self.k_proj = nn.Linear(shape.width, pairs, bias=shape.bias)
        self.v_proj = nn.Linear(shape.width, pairs, bias=shape.bias)
        self.o_proj = nn.Linear(queries, shape.width, bias=False)
        if shape.qk_norm:
            full = shape.qk_norm == "full"
            self.q_norm = Norm(shape, queries if full else shape.head)
            self.k_norm = Norm(shape, pairs if full else shape.head)

    def forward(self, x: Tensor, seen: ForwardState) -> Tensor:
        shape = self.shape
        rows, length, _ = x.shape
        q, k, v = project(x, self.q_proj, self.k_proj, self.v_proj)
        if shape.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        if shape.clip:
            q, k, v = (part.clamp(-shape.clip, shape.clip) for part in (q, k, v))
        q = q.view(rows, length, shape.heads, shape.head)
        k = k.view(rows, length, shape.kv_heads, shape.head)
        v = v.view(rows, length, shape.kv_heads, shape.head).transpose(1, 2)
        if shape.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        turn = seen.turns[self.is_local]
        q, k = rotate(q, *turn).transpose(1, 2), rotate(k, *turn).transpose(1, 2)
        if seen.cache is not None:
            k, v = seen.cache.add(self.layer, k, v)
            mixed = self._attend(q, k, v)
        elif len(seen.spans) == rows:
            mixed = self._attend(q, k, v)
        else:
            parts = [
                self._attend(*(part[row : row + 1, :, first:last] for part in (q, k, v)))
                for row, first, last in seen.spans
            ]
            # the spans lie in the order of the tokens, row after row
            mixed = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
            return self.o_proj(mixed.view(rows, length, -1))
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the last tokens (B, heads, T, head) to all (B, kv_heads, S, head)."""
        shape, kind = self.shape, q.dtype
        new, old = q.shape[2], k.shape[2]
        window = shape.window if self.is_local and old > shape.window else 0
        mask = None
        if window or (new > 1 and (new < old or shape.attention_cap)):
            mask = _mask(new, old, window, q.device)
        if shape.attention_cap:
            return _capped(q, k, v, mask, self.scale, shape.attention_cap)
        if q.device.type == "cpu":  # whose fused kernel is slower in bfloat16 than in float32
            q, k, v = q.float(), k.float(), v.float()
        mixed = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and new > 1,
            scale=self.scale,
            enable_gqa=shape.kv_heads != shape.heads,
        )
        return mixed.to(kind)


def _mask(new: int, old: int, window: int, device: Any) -> Tensor:
    """(new, old), True where the query may look; the queries are the last `new` of `old`."""
    query = torch.arange(old - new, old, device=device)[:, None]
    key = torch.arange(old, device=device)[None, :]
    mask = key <= query
    return mask & (key > query - window) if window else mask


def _capped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, cap: float
) -> Tensor:
    """Attention whose scores are capped (Gemma 2), which no fused kernel of torch does."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = torch.tanh(q @ k.transpose(-1, -2) * scale / cap) * cap
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores.float(), -1).to(v.dtype) @ v


class Mlp(nn.Module):
    """Down of activation(gate) times up (Shazeer 2020)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.silu = shape.activation == "silu"
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = project(x, self.gate_proj, self.up_proj)
        return cast("Tensor", self.down_proj(_Gated.apply(gate, up, self.silu)))


class _Gated(torch.autograd.Function):
    """activation(gate) * up, keeping the two."""

    @staticmethod
    def forward(context: Any, gate: Tensor, up: Tensor, silu: bool) -> Tensor:
        context.save_for_backward(gate, up)
        context.silu = silu
        return _activated(gate, silu).mul_(up)

    @staticmethod
    def backward(context: Any, *above: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = context.saved_tensors
        of_up = _activated(gate, context.silu).mul_(above[0])
        if context.silu:
            of_gate = torch.ops.aten.silu_backward(above[0] * up, gate)
        else:
            of_gate = torch.ops.aten.gelu_backward(above[0] * up, gate, approximate="tanh")
        return of_gate, of_up, None


def _activated(gate: Tensor, silu: bool) -> Tensor:
    return functional.silu(gate) if silu else functional.gelu(gate, approximate="tanh")


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.norms = shape.norms
        self.self_attn = Attention(shape, layer)
        self.mlp = Mlp(shape)
        if shape.norms != "after":
            self.input_layernorm = Norm(shape, shape.width)
        self.post_attention_layernorm = Norm(shape, shape.width)
        if shape.norms == "both":
            self.pre_feedforward_layernorm = Norm(shape, shape.width)
        if shape.norms != "before":
            self.post_feedforward_layernorm = Norm(shape, shape.width)

    def forward(self, x: Tensor, seen: ForwardState) -> Tensor:
        if self.norms == "before":
            x = x + self.self_attn(self.input_layernorm(x), seen)
            return x + self.mlp(self.post_attention_layernorm(x))
        before = self.input_layernorm(x) if self.norms == "both" else x
        x = x + self.post_attention_layernorm(self.self_attn(before, seen))
        before = self.pre_feedforward_layernorm(x) if self.norms == "both" else x
        return x + self.post_feedforward_layernorm(self.mlp(before))


class TransformerBody(nn.Module):
    """Everything but the output matrix; its name in the parameters is ``model``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape, index) for index in range(shape.layers))
        self.norm = Norm(shape, shape.width)


class Transformer(nn.Module):
    """A model of that shape; its parameters are as torch left them until a state is loaded.

    Attributes:
        shape: what it computes.
        checkpointing: keep only what goes into each layer, and compute the layer again in the
            backward pass (Chen et al. 2016).
    """

    def __init__(self, shape: Shape, dtype: Any = torch.float32, device: Any = "meta") -> None:
        super().__init__()
        self.shape, self.checkpointing = shape, False
        with torch.device("meta"):
            self.model = TransformerBody(shape)
            if not shape.tied:
                self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.to(dtype)
        if torch.device(device).type != "meta":
            self.to_empty(device=device)

    def head(self) -> nn.Module:
        """The module whose weight is the output matrix (vocabulary, width).

        A tied net has one of its own where `load` kept the embedding in another form.
        """
        return cast("nn.Module", getattr(self, "lm_head", self.model.embed_tokens))

    @property
    def device(self) -> Any:
        """Where its weights are; a quantized net may have no parameter at all (OLMo 1)."""
        return next(chain(self.parameters(), self.buffers())).device

    def new_cache(self) -> Cache:
        """An empty cache for `forward`."""
        return Cache(self.shape.layers)

    def forward(
        self,
        ids: Tensor,
        *,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The hidden state after the last norm.

        Args:
            ids: (B, T) int64.
            positions: (B, T); by default each sequence counts from 0, behind the cache.
            segments: (B, T); every run of one number is a sequence of its own.
            cache: of the same rows; the new tokens are put into it. Not with `segments`.

        Returns:
            (B, T, width).
        """
        rows, length = ids.shape
        spans = _spans(segments) if segments is not None else [(r, 0, length) for r in range(rows)]
        if positions is None:
            positions = _positions(ids, spans, cache.length if cache else 0)
        x = self.model.embed_tokens(ids)
        if self.shape.embedding_scale != 1:
            x = x * self.shape.embedding_scale
        seen = ForwardState(self._turns(positions), spans, cache)
        for layer in self.model.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, seen, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, seen)
        if cache is not None:
            cache.length += length
        return cast("Tensor", self.model.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., width) to (..., vocabulary), with the final cap applied."""
        head = self.head()
        if hasattr(head, "logits"):
            result = head.logits(hidden)
        else:
            result = functional.linear(hidden, cast("Tensor", head.weight))
        cap = self.shape.final_cap
        return torch.tanh(result / cap) * cap if cap else result

    def _turns(self, positions: Tensor) -> dict[bool, tuple[Tensor, Tensor]]:
        """Cosines and sines for the layers that see everything, and for the local ones."""
        shape = self.shape
        everywhere = turns(shape.rope, shape.head, positions)
        local = shape.local_rope
        return {
            False: everywhere,
            True: everywhere if local is None else turns(local, shape.head, positions),
        }


def _spans(segments: Tensor) -> Spans:
    """Where the runs of one number lie."""
    spans = []
    for row, numbers in enumerate(segments.tolist()):
        first = 0
        for index in range(1, len(numbers) + 1):
            if index == len(numbers) or numbers[index] != numbers[first]:
                spans.append((row, first, index))
                first = index
    return spans


def _positions(ids: Tensor, spans: Spans, before: int) -> Tensor:
    positions = torch.empty(ids.shape, dtype=torch.int64)
    for row, first, last in spans:
        positions[row, first:last] = torch.arange(before, before + last - first)
    return positions.to(ids.device)
