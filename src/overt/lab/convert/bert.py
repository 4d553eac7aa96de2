"""BERT encoders (`BertModel`), as they are trained for embeddings: safetensors to GGUF.

The names and shapes of the tensors are those of transformers' ``BertModel`` (Devlin et al. 2018);
those they become are llama.cpp's architecture ``bert``, and so is the form of the vocabulary: a
WordPiece token that begins a word is written with ``▁`` before it, one that continues a word
without its ``##``. The pooler, which sentence embeddings do not use, is left out.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from overt.errors import FormatError

ARCHITECTURE = "BertModel"
POOLING = {
    "pooling_mode_mean_tokens": 1,
    "pooling_mode_cls_token": 2,
    "mean": 1,
    "cls": 2,
}
"""What sentence-transformers' pooling file says: llama.cpp's number for it. Until 5.3 it has a
field for each way, of which one is true; later ``pooling_mode`` names the way.
"""

T = TypeVar("T")


class _WordPieceModel(msgspec.Struct):
    type: str
    vocab: dict[str, int]
    continuing_subword_prefix: str = "##"


class _Normalizer(msgspec.Struct):
    lowercase: bool = False


class _BertAddedToken(msgspec.Struct):
    id: int
    content: str


class _WordPieceTokenizer(msgspec.Struct):
    """What is read of a tokenizer.json."""

    model: _WordPieceModel
    normalizer: _Normalizer
    added_tokens: list[_BertAddedToken] = []


def _read(value: object, kind: type[T], name: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise FormatError(f"{name} is not what it should be: {error}") from None


_PLAIN = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OLD = {"gamma": "weight", "beta": "bias"}
"""How the first files call the numbers of a norm."""
_IN_LAYER = re.compile(r"encoder\.layer\.(\d{1,4})\.(.+)\.(weight|bias)")
_MAX_LAYERS = 1000
_SKIPPED = ("pooler.", "embeddings.position_ids", "cls.")
_HALF = re.compile(r"token_embd\.weight|blk\.\d+\.(attn_(q|k|v|output)|ffn_(up|down))\.weight")


def rename(name: str) -> str | None:
    """llama.cpp's name for a tensor; None for one that is left out.

    Raises:
        FormatError: a tensor that no BERT has.
    """
    short = name.removeprefix("bert.")
    for old, new in _OLD.items():
        if short.endswith(f"LayerNorm.{old}"):
            short = short.removesuffix(old) + new
    if short.startswith(_SKIPPED):
        return None
    if short in _PLAIN:
        return _PLAIN[short]
    if match := _IN_LAYER.fullmatch(short):
        number, part, end = match.groups()
        if part in _LAYER:
            return f"blk.{int(number)}.{_LAYER[part]}.{end}"
    raise FormatError(f"{name} is a tensor that a BERT does not have")


def is_half(name: str) -> bool:
    """Whether a tensor (by its new name) loses nothing that matters in 16 bits."""
    return _HALF.fullmatch(name) is not None


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape each tensor must have, by its new name, row-major.

    Raises:
        FormatError: a number of `config` is missing or cannot be.
    """
    width, inner = _size(config, "hidden_size"), _size(config, "intermediate_size")
    expected: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_size(config, "vocab_size"), width),
        "position_embd.weight": (_size(config, "max_position_embeddings"), width),
        "token_types.weight": (_size(config, "type_vocab_size"), width),
        "token_embd_norm.weight": (width,),
        "token_embd_norm.bias": (width,),
    }
    for layer in range(_size(config, "num_hidden_layers", _MAX_LAYERS)):
        for part in _LAYER.values():
            rows = inner if part == "ffn_up" else width
            columns = inner if part == "ffn_down" else width
            expected[f"blk.{layer}.{part}.bias"] = (rows,)
            matrix = (rows, columns) if not part.endswith("_norm") else (rows,)
            expected[f"blk.{layer}.{part}.weight"] = matrix
    return expected


def metadata(
    config: Mapping[str, Any], tokenizer: Mapping[str, Any], pooling: Mapping[str, Any] | None
) -> Iterator[tuple[str, Any]]:
    """The keys of the GGUF header and their values, besides ``general.*``.

    Args:
        config: config.json.
        tokenizer: tokenizer.json, a WordPiece one that lower-cases.
        pooling: sentence-transformers' 1_Pooling/config.json; mean without it.

    Raises:
        FormatError: something llama.cpp's `bert` would compute otherwise.
    """
    if config.get("hidden_act") != "gelu":
        raise FormatError(f"hidden_act is {config.get('hidden_act')!r}, and only gelu is known")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise FormatError("only absolute position embeddings are known")
    yield "bert.context_length", _size(config, "max_position_embeddings")
    yield "bert.embedding_length", _size(config, "hidden_size")
    yield "bert.feed_forward_length", _size(config, "intermediate_size")
    yield "bert.block_count", _size(config, "num_hidden_layers", _MAX_LAYERS)
    yield "bert.attention.head_count", _size(config, "num_attention_heads")
    yield "bert.attention.layer_norm_epsilon", _epsilon(config)
    yield "bert.attention.causal", False
    yield "bert.pooling_type", _pooling(pooling)
    yield from _vocabulary(config, tokenizer)


def _pooling(pooling: Mapping[str, Any] | None) -> int:
    if pooling is not None and not isinstance(pooling, Mapping):
        raise FormatError("1_Pooling/config.json holds no object")
    if pooling is None:
        return POOLING["pooling_mode_mean_tokens"]
    mode = pooling.get("pooling_mode")
    if mode is None or isinstance(mode, bool):
        used = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    else:
        used = list(map(str, mode)) if isinstance(mode, list) else [str(mode)]
    if len(used) != 1 or used[0] not in POOLING:
        raise FormatError(f"the pooling {', '.join(used)[:80] or 'none'} is not known")
    return POOLING[used[0]]


def _vocabulary(
    config: Mapping[str, Any], tokenizer: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    tokenizer_file = _read(dict(tokenizer), _WordPieceTokenizer, "tokenizer.json")
    if (
        tokenizer_file.model.type != "WordPiece"
        or tokenizer_file.model.continuing_subword_prefix != "##"
    ):
        raise FormatError(
            f"the tokenizer is {tokenizer_file.model.type!r}, and only WordPiece is known"
        )
    if not tokenizer_file.normalizer.lowercase:
        raise FormatError("the tokenizer keeps capitals, and llama.cpp's WordPiece does not")
    vocabulary, size = tokenizer_file.model.vocab, _size(config, "vocab_size")
    if sorted(vocabulary.values()) != list(range(size)):
        raise FormatError(f"the tokenizer does not number {size} tokens from 0")
    special = {token.id for token in tokenizer_file.added_tokens}
    tokens, kinds = [""] * size, [1] * size
    for token, id in vocabulary.items():
        tokens[id] = token if id in special else _gguf_token(token)
        kinds[id] = 3 if id in special else 1
    yield "tokenizer.ggml.model", "bert"
    yield "tokenizer.ggml.token_type_count", _size(config, "type_vocab_size")
    yield "tokenizer.ggml.tokens", tokens
    yield "tokenizer.ggml.token_type", kinds
    for key, token in _SPECIAL.items():
        if token not in vocabulary:
            raise FormatError(f"the tokenizer has no {token}")
        yield f"tokenizer.ggml.{key}", vocabulary[token]


_SPECIAL = {
    "bos_token_id": "[CLS]",
    "cls_token_id": "[CLS]",
    "seperator_token_id": "[SEP]",
    "eos_token_id": "[SEP]",
    "unknown_token_id": "[UNK]",
    "padding_token_id": "[PAD]",
    "mask_token_id": "[MASK]",
}


def _gguf_token(token: str) -> str:
    return token[2:] if token.startswith("##") else f"\N{LOWER ONE EIGHTH BLOCK}{token}"


def _epsilon(config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_eps", 1e-12)
    if not isinstance(value, float) or not 0 < value < 1:
        raise FormatError(f"config.json says layer_norm_eps is {value!r}")
    return value


def _size(config: Mapping[str, Any], name: str, most: int = 1 << 24) -> int:
    value = config.get(name)
    if type(value) is not int or not 0 < value <= most:
        raise FormatError(f"config.json says {name} is {value!r}")
    return value
