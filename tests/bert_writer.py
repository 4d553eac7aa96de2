"""A small BERT of random weights as a GGUF, and what it computes, by numpy alone.

The second half follows the paper (Devlin et al. 2018) and shares nothing with llama.cpp, so that
vectors of the real engine can be judged by it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gguf_writer
from gguf_writer import Tensor, Typed

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "sea", "is", "blue", "##s", "##ly", "."]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP = 2, 3
_EPS = 1e-12
_MEAN, _RANK = 1, 4


@dataclass(frozen=True)
class Bert:
    """Weights by their names in the file; matrices are (out, in)."""

    weights: dict[str, np.ndarray]
    layers: int
    heads: int

    def vector(self, tokens: Sequence[int]) -> np.ndarray:
        """The mean of the last states, of length 1."""
        mean = self.states(tokens).mean(axis=0)
        return mean / np.linalg.norm(mean)

    def score(self, tokens: Sequence[int]) -> float:
        """What the classifier makes of the first state."""
        w = self.weights
        pooled = np.tanh(w["cls.weight"] @ self.states(tokens)[0] + w["cls.bias"])
        return float((w["cls.output.weight"] @ pooled + w["cls.output.bias"])[0])

    def states(self, tokens: Sequence[int]) -> np.ndarray:
        w = self.weights
        x = w["token_embd.weight"][list(tokens)] + w["token_types.weight"][0]
        x = self._norm(x + w["position_embd.weight"][: len(tokens)], "token_embd_norm")
        for layer in range(self.layers):
            name = f"blk.{layer}"
            x = self._norm(x + self._attention(x, name), f"{name}.attn_output_norm")
            inner = self._linear(x, f"{name}.ffn_up")
            inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
            x = self._norm(x + self._linear(inner, f"{name}.ffn_down"), f"{name}.layer_output_norm")
        return x

    def _attention(self, x: np.ndarray, name: str) -> np.ndarray:
        count, width = x.shape
        q, k, v = (
            self._linear(x, f"{name}.attn_{part}").reshape(count, self.heads, -1).swapaxes(0, 1)
            for part in "qkv"
        )
        scores = q @ k.swapaxes(1, 2) / math.sqrt(width // self.heads)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = (weights @ v).swapaxes(0, 1).reshape(count, width)
        return self._linear(mixed, f"{name}.attn_output")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _EPS)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def write(
    path: Path, *, layers: int = 2, width: int = 64, heads: int = 4, context: int = 64,
    reranks: bool = False, seed: int = 0,
) -> Bert:  # fmt: skip
    """Write the model to `path`; with `reranks` it has a classifier of one output."""
    draw = np.random.default_rng(seed)
    tokens = [*SPECIAL, *(_stored(word) for word in WORDS)]
    shapes = _shapes(layers, width, context, len(tokens), reranks)
    weights = {
        name: _random(name, shape, draw).astype(np.float32) for name, shape in shapes.items()
    }
    metadata = {
        "general.architecture": "bert",
        "general.name": "random bert",
        "bert.block_count": layers,
        "bert.context_length": context,
        "bert.embedding_length": width,
        "bert.feed_forward_length": 4 * width,
        "bert.attention.head_count": heads,
        "bert.attention.layer_norm_epsilon": Typed("f32", _EPS),
        "bert.attention.causal": False,
        "bert.pooling_type": _RANK if reranks else _MEAN,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * len(WORDS),
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": CLS,
        "tokenizer.ggml.bos_token_id": CLS,
        "tokenizer.ggml.seperator_token_id": SEP,
        "tokenizer.ggml.mask_token_id": 4,
    }
    tensors = [
        Tensor(name, tuple(reversed(array.shape)), "F32", array.tobytes())
        for name, array in weights.items()
    ]
    gguf_writer.write(path, metadata, tensors)
    return Bert(weights, layers, heads)


def _stored(word: str) -> str:
    """As converters write it: a mark before what begins a word."""
    return word[2:] if word.startswith("##") else f"\u2581{word}"


def _shapes(
    layers: int, width: int, context: int, words: int, reranks: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (words, width),
        "token_types.weight": (2, width),
        "position_embd.weight": (context, width),
    }
    for name in ["token_embd_norm"] + [
        f"blk.{layer}.{norm}"
        for layer in range(layers)
        for norm in ("attn_output_norm", "layer_output_norm")
    ]:
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for layer in range(layers):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes |= _affine(f"blk.{layer}.{part}", width, width)
        shapes |= _affine(f"blk.{layer}.ffn_up", 4 * width, width)
        shapes |= _affine(f"blk.{layer}.ffn_down", width, 4 * width)
    if reranks:
        shapes |= _affine("cls", width, width) | _affine("cls.output", 1, width)
    return shapes


def _affine(name: str, out: int, inside: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inside), f"{name}.bias": (out,)}


def _random(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    values = draw.normal(0, 0.2, shape)
    return 1 + values if "norm.weight" in name else values
