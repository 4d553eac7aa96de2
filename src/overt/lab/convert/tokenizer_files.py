"""The vocabulary of a GGUF file becomes the tokenizer files of a release: `vocabulary`, backwards.

What is written gives the tokens that llama.cpp gives: no Unicode normalization, added tokens taken
out of a text as they are written, SentencePiece's scores as the order of merges.

Sources: llama-vocab.cpp of llama.cpp b11739 (what is to be reproduced), the documents of
`tokenizers` (the form of tokenizer.json).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from overt.errors import FormatError, Unsupported
from overt.formats import gguf
from overt.formats.sentencepiece import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from overt.lab.convert import pre_tokenizers
from overt.lab.convert.special_tokens import ROLES
from overt.lab.convert.vocabulary import SPACE

_DEFAULTS: Mapping[str, Mapping[str, int]] = {"llama": {"bos": 1, "eos": 2, "unknown": 0}}
"""What llama.cpp takes where a file does not say."""
_MAX_LENGTH = 256
"""Characters of a token that SentencePiece may have put together of two others."""


def files(header: gguf.GgufHeader) -> dict[str, bytes]:
    """The files by name: tokenizer.json, tokenizer_config.json, generation_config.json, and
    chat_template.jinja where the model has a template.

    Raises:
        FormatError: a vocabulary that contradicts itself.
        Unsupported: one of another kind than BPE over bytes or SentencePiece.
    """
    tokens, kinds = _column(header, "tokens", str), _column(header, "token_type", int)
    if not tokens or len(kinds) != len(tokens):
        raise FormatError(f"the model has {len(tokens)} tokens and {len(kinds)} kinds of them")
    if len(set(tokens)) != len(tokens):
        raise FormatError("the model has two tokens that are written alike")
    match header.tokenizer:
        case "gpt2":
            content = _over_bytes(header, tokens, kinds)
        case "llama":
            content = _over_characters(header, tokens, kinds)
        case other:
            raise Unsupported(
                f"the model's tokenizer is of the kind {str(other)[:40]!r}, and only BPE and "
                "SentencePiece can be written as a tokenizer.json"
            )
    content["added_tokens"] = [
        {
            "id": id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[id] != USER_DEFINED,
        }
        for id, token in enumerate(tokens)
        if kinds[id] in (CONTROL, USER_DEFINED, UNKNOWN)
    ]
    content["post_processor"] = _processor(header, tokens, content["post_processor"])
    made = {
        "tokenizer.json": _json({"version": "1.0", "truncation": None, "padding": None} | content),
        "tokenizer_config.json": _json(_config(header, tokens)),
        "generation_config.json": _json(_generation(_ids(header, len(tokens)))),
    }
    if header.chat_template:
        made["chat_template.jinja"] = header.chat_template.encode()
    return made


def _over_bytes(
    header: gguf.GgufHeader, tokens: Sequence[str], kinds: Sequence[int]
) -> dict[str, Any]:
    name = header.pre_tokenizer or "default"
    cutter, ignores = pre_tokenizers.spelled(name)
    vocab = _vocab(tokens, kinds)
    merges = []
    for merge in _column(header, "merges", str):
        # as llama.cpp reads it: the first space is the cut, the first character never is
        cut = merge.find(" ", 1)
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or not {left, right, left + right} <= vocab.keys():
            raise FormatError(f"the model's merge {merge[:80]!r} joins no two tokens to a third")
        merges.append([left, right])
    model = _bpe(vocab, merges) | {"ignore_merges": ignores}
    same = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "model": model,
        "normalizer": None,
        "pre_tokenizer": cutter,
        "decoder": same,
        "post_processor": same | {"add_prefix_space": False, "trim_offsets": False},
    }


def _over_characters(
    header: gguf.GgufHeader, tokens: Sequence[str], kinds: Sequence[int]
) -> dict[str, Any]:
    scores = _column(header, "scores", float)
    if len(scores) != len(tokens):
        raise FormatError(f"the model has {len(tokens)} tokens and {len(scores)} scores of them")
    first = header.metadata.get("tokenizer.ggml.add_space_prefix", True) is not False
    escape = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if first:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = _ids(header, len(tokens)).get("unknown")
    vocab = _vocab(tokens, kinds)
    model = _bpe(vocab, _merges(vocab, kinds, scores)) | {
        "unk_token": None if unknown is None else tokens[unknown],
        "byte_fallback": True,
        "fuse_unk": True,
        "ignore_merges": False,
    }
    return {
        "model": model,
        "normalizer": {"type": "Sequence", "normalizers": [prepend, escape]} if first else escape,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "post_processor": None,
    }


def _merges(
    vocab: Mapping[str, int], kinds: Sequence[int], scores: Sequence[float]
) -> list[list[str]]:
    """Every way to make a token of two others, the tokens with the highest scores first."""
    parts = {token: id for token, id in vocab.items() if kinds[id] == NORMAL}
    made: list[list[str]] = []
    for token in sorted(parts, key=lambda token: (-scores[parts[token]], parts[token])):
        if len(token) > _MAX_LENGTH:
            continue
        pairs = [
            [token[:cut], token[cut:]]
            for cut in range(1, len(token))
            if token[:cut] in parts and token[cut:] in parts
        ]
        if len(pairs) > 1:
            pairs.sort(key=lambda pair: parts[pair[0]])
        made += pairs
    return made


def _bpe(vocab: Mapping[str, int], merges: list[list[str]]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": vocab,
        "merges": merges,
    }


def _vocab(tokens: Sequence[str], kinds: Sequence[int]) -> dict[str, int]:
    """Without the names that only fill the model's last rows."""
    return {
        token: id for id, token in enumerate(tokens) if kinds[id] != UNUSED or token != f"[PAD{id}]"
    }


def _processor(header: gguf.GgufHeader, tokens: Sequence[str], plain: Any) -> Any:
    """What is put around a text."""
    ids, around = _ids(header, len(tokens)), dict[str, str]()
    for role, default in (("bos", header.tokenizer == "llama"), ("eos", False)):
        flag = header.metadata.get(f"tokenizer.ggml.add_{role}_token", default)
        if flag is True and role in ids:
            around[role] = tokens[ids[role]]
    if not around:
        return plain

    def put(sequence: str, type: int) -> list[dict[str, Any]]:
        inner: list[dict[str, Any]] = [{"Sequence": {"id": sequence, "type_id": type}}]
        if "bos" in around:
            inner.insert(0, {"SpecialToken": {"id": around["bos"], "type_id": type}})
        if "eos" in around:
            inner.append({"SpecialToken": {"id": around["eos"], "type_id": type}})
        return inner

    special = {token: ids[role] for role, token in sorted(around.items())}
    template = {
        "type": "TemplateProcessing",
        "single": put("A", 0),
        "pair": put("A", 0) + put("B", 1),
        "special_tokens": {
            token: {"id": token, "ids": [id], "tokens": [token]} for token, id in special.items()
        },
    }
    return template if plain is None else {"type": "Sequence", "processors": [plain, template]}


def _config(header: gguf.GgufHeader, tokens: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if header.context_length:
        config["model_max_length"] = header.context_length
    ids = _ids(header, len(tokens))
    for role, key in ROLES.items():
        if (id := ids.get(key.removesuffix("_token_id"))) is not None:
            config[f"{role}_token"] = tokens[id]
    return config


def _ids(header: gguf.GgufHeader, count: int) -> dict[str, int]:
    """Ids by role, in GGUF's words; one beyond the last token is none."""
    ids = {**_DEFAULTS.get(header.tokenizer or "", {}), **header.special_tokens}
    return {role: id for role, id in ids.items() if id < count}


def _generation(ids: Mapping[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = {"_from_model_config": True}
    if "bos" in ids:
        config["bos_token_id"] = ids["bos"]
    ends = [ids[role] for role in ("eos", "eot") if role in ids]
    if ends:
        config["eos_token_id"] = ends[0] if len(set(ends)) == 1 else ends
    if "padding" in ids:
        config["pad_token_id"] = ids["padding"]
    return config


def _column(header: gguf.GgufHeader, key: str, kind: type) -> tuple[Any, ...]:
    value = header.metadata.get(f"tokenizer.ggml.{key}", ())
    if isinstance(value, gguf.Array):
        value = value.load()
    if not isinstance(value, tuple) or not all(isinstance(item, kind) for item in value):
        raise FormatError(f"the model's tokenizer.ggml.{key} is no list of the right kind")
    return value


def _json(content: Mapping[str, Any]) -> bytes:
    # without an indent: a large vocabulary is written ten times faster
    return (json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n").encode()
