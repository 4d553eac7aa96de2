"""The tokenizer of a release in the form of Hugging Face becomes the ``tokenizer.*`` keys of GGUF.

Two kinds are known, as llama.cpp reads them: BPE over bytes (its model ``gpt2``: tokens, merges and
the name of a pre-tokenizer) and SentencePiece's BPE over characters (its model ``llama``: tokens
and scores, where the highest score is merged first). The second comes as ``tokenizer.model``, or as
a tokenizer.json whose merges stand for the scores.

llama.cpp does no Unicode normalization: of a tokenizer that asks for NFC, texts that are in NFC
already, as nearly all are, get the same tokens.

Sources: llama-vocab.cpp of llama.cpp b11739 (what the keys do), the documents of `tokenizers` (what
the fields of a tokenizer.json mean).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from overt.errors import FormatError, Unsupported
from overt.formats import sentencepiece
from overt.formats.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from overt.lab.convert import pre_tokenizers, special_tokens

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What SentencePiece writes for a space."""
MAX_TOKENS = 1 << 21
_MAX_MERGES = 1 << 22
_ADDED_SCORE, _PAD_SCORE = -1000.0, -10000.0
_BYTES = frozenset(f"<0x{number:02X}>" for number in range(256))
_TAKEN_AS_IS = ("NFC",)
_AGAIN = "get the tokenizer's files again, from whoever made the model"

T = TypeVar("T")


class _BpeModel(msgspec.Struct):
    vocab: dict[str, int]
    type: str = "BPE"
    merges: list[str | tuple[str, str]] = []
    byte_fallback: bool = False
    ignore_merges: bool | None = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class _AddedToken(msgspec.Struct):
    content: str
    id: int = -1
    special: bool = False


class _BpeTokenizer(msgspec.Struct):
    """What is read of a tokenizer.json."""

    model: _BpeModel
    added_tokens: list[_AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


@dataclass(slots=True)
class _Vocabulary:
    """Tokens in the making, by id; `scores` is empty for BPE over bytes, `merges` for the other."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)


def metadata(
    texts: Mapping[str, Any], config: Mapping[str, Any], architecture: str, pre: str = ""
) -> list[tuple[str, Any]]:
    """The keys of the GGUF header that hold the vocabulary, and their values.

    Args:
        texts: the small files of a release by base name: JSON as it was parsed, ``tokenizer.model``
            as bytes, ``chat_template.jinja`` as text. Those that a release lacks are missing.
        config: config.json; its ``vocab_size`` is the number of tokens.
        architecture: GGUF's name of it, such as ``llama``.
        pre: the name of the pre-tokenizer, where a person knows better; "": it is recognised.

    Raises:
        FormatError: a file that is not what it should be, or two that contradict each other.
        Unsupported: a tokenizer that llama.cpp has no equal of.
    """
    size = _size(config)
    file = _read(texts["tokenizer.json"]) if "tokenizer.json" in texts else None
    over_bytes = file is not None and pre_tokenizers.is_bytes(file.pre_tokenizer)
    if file is not None and over_bytes:
        made = _over_bytes(file, size)
        _refuse_normalizer(file.normalizer)
        name = pre or pre_tokenizers.recognise(
            file.pre_tokenizer, bool(file.model.ignore_merges), architecture
        )
        keys: list[tuple[str, Any]] = [
            ("tokenizer.ggml.model", "gpt2"),
            ("tokenizer.ggml.pre", name),
        ]
    else:
        if pre:
            raise Unsupported(
                f"the tokenizer is no BPE over bytes, which alone could be called {pre[:40]!r}",
                "leave --pre out",
            )
        made, space_first = _over_characters(file, texts, size)
        keys = [
            ("tokenizer.ggml.model", "llama"),
            ("tokenizer.ggml.pre", "default"),
            ("tokenizer.ggml.add_space_prefix", space_first),
        ]
    _add_tokens(made, _added(file, texts), scored=not over_bytes)
    _check(made)
    keys.append(("tokenizer.ggml.tokens", made.tokens))
    if made.scores:
        keys.append(("tokenizer.ggml.scores", made.scores))
    keys.append(("tokenizer.ggml.token_type", made.kinds))
    if over_bytes:
        keys.append(("tokenizer.ggml.merges", made.merges))
    processor = file.post_processor if file else None
    keys += special_tokens.keys(texts, config, made.tokens, processor, first=file is None)
    return keys


def _size(config: Mapping[str, Any]) -> int:
    inner = config.get("text_config")
    size = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    if type(size) is not int or not 0 < size <= MAX_TOKENS:
        raise FormatError(f"config.json says vocab_size is {str(size)[:80]!r}")
    return size


def _read(document: object) -> _BpeTokenizer:
    model = document.get("model") if isinstance(document, dict) else None
    kind = model.get("type", "BPE") if isinstance(model, dict) else "BPE"
    if kind != "BPE":
        raise Unsupported(
            f"the tokenizer is of the kind {str(kind)[:80]!r}, and BPE alone is known here",
            "choose a GGUF version of the model",
        )
    file = _convert(document, _BpeTokenizer, "tokenizer.json")
    if file.model.continuing_subword_prefix or file.model.end_of_word_suffix:
        raise Unsupported("the tokenizer marks the parts of words, which llama.cpp's BPE does not")
    if len(file.model.merges) > _MAX_MERGES or len(file.model.vocab) > MAX_TOKENS:
        raise FormatError(f"tokenizer.json has {len(file.model.merges)} merges")
    return file


def _convert(value: object, kind: type[T], name: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise FormatError(f"{name} is not what it should be: {str(error)[:200]}") from None


def _refuse_normalizer(normalizer: Mapping[str, Any] | None) -> None:
    """Raises Unsupported: one that changes more than the form of Unicode."""
    parts = _parts(normalizer, "normalizers")
    if all(part.get("type") in _TAKEN_AS_IS for part in parts) or normalizer is None:
        return
    raise Unsupported(
        f"the tokenizer normalizes by {str(normalizer.get('type'))[:80]!r}, and llama.cpp does not"
    )


# ---- BPE over bytes ------------------------------------------------------------------------


def _over_bytes(file: _BpeTokenizer, size: int) -> _Vocabulary:
    made = _placed(file.model.vocab, size)
    vocab = file.model.vocab
    for left, right in _pairs(file):
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise FormatError(f"tokenizer.json merges {left[:40]!r} and {right[:40]!r} to no token")
        # llama.cpp cuts a merge at its first space, so none may be within
        made.merges.append(f"{left.replace(' ', 'Ġ')} {right.replace(' ', 'Ġ')}")
    return made


def _placed(vocab: Mapping[str, int], size: int) -> _Vocabulary:
    """Tokens at their ids; a hole gets a name that no text can mean, as upstream gives it."""
    made = _Vocabulary([f"[PAD{id}]" for id in range(size)], [UNUSED] * size)
    for token, id in vocab.items():
        if not 0 <= id < size:
            raise FormatError(f"the tokenizer numbers a token {id}, and the model has {size}")
        if made.kinds[id] != UNUSED:
            raise FormatError(f"the tokenizer has two tokens of the number {id}")
        made.tokens[id], made.kinds[id] = token, NORMAL
    return made


def _pairs(file: _BpeTokenizer) -> Iterable[tuple[str, str]]:
    for merge in file.model.merges:
        if isinstance(merge, str):
            left, space, right = merge.partition(" ")
            if not space or " " in right:
                raise FormatError(f"tokenizer.json has the merge {merge[:80]!r}")
            yield left, right
        else:
            yield merge


# ---- SentencePiece: BPE over characters ----------------------------------------------------


def _over_characters(
    file: _BpeTokenizer | None, texts: Mapping[str, Any], size: int
) -> tuple[_Vocabulary, bool]:
    """The vocabulary, and whether a text gets a space in front of it."""
    data = texts.get("tokenizer.model")
    if data is None:
        if file is None:
            raise FormatError("the release has neither tokenizer.json nor tokenizer.model")
        return _by_merges(file, size), _space_first(file)
    if not isinstance(data, bytes):
        raise FormatError("tokenizer.model was read as text")
    pieces = sentencepiece.read(data)
    if pieces.algorithm != "bpe" or pieces.rewrites or pieces.squeezes:
        what = (
            f"of the kind {pieces.algorithm!r}"
            if pieces.algorithm != "bpe"
            else f"one that {'rewrites characters' if pieces.rewrites else 'removes spaces'}"
        )
        raise Unsupported(
            f"tokenizer.model is {what}, and llama.cpp's SentencePiece is plain BPE",
            "choose a GGUF version of the model",
        )
    made = _pieces(pieces, size)
    if file is not None:
        _agree(file, made)
        return made, _space_first(file)
    config = texts.get("tokenizer_config.json")
    prefix = config.get("add_prefix_space") if isinstance(config, dict) else None
    return made, prefix if isinstance(prefix, bool) else pieces.space_first


def _pieces(pieces: sentencepiece.Pieces, size: int) -> _Vocabulary:
    if len(pieces.texts) > size:
        raise FormatError(f"tokenizer.model has {len(pieces.texts)} pieces, and the model {size}")
    made = _Vocabulary([f"[PAD{id}]" for id in range(size)], [UNUSED] * size, [_PAD_SCORE] * size)
    rows = zip(pieces.texts, pieces.scores, pieces.kinds, strict=True)
    for id, (text, score, kind) in enumerate(rows):
        made.tokens[id] = text.replace(SPACE, " ") if kind == USER_DEFINED else text
        made.scores[id], made.kinds[id] = score, kind
    return made


def _agree(file: _BpeTokenizer, made: _Vocabulary) -> None:
    for id, (token, kind) in enumerate(zip(made.tokens, made.kinds, strict=True)):
        if kind == NORMAL and file.model.vocab.get(token) != id:
            raise FormatError(
                f"tokenizer.model numbers {token[:40]!r} {id}, and tokenizer.json "
                f"{file.model.vocab.get(token, 'not at all')}"
            )


def _by_merges(file: _BpeTokenizer, size: int) -> _Vocabulary:
    """Without tokenizer.model: what is merged first has the highest score, as its trainer gave it.

    A token that no merge makes is never chosen by its score; its score only has to be there.
    """
    if not file.model.byte_fallback or file.model.ignore_merges:
        raise Unsupported(
            "the tokenizer is BPE neither over bytes nor with a fallback to bytes",
            "choose a GGUF version of the model",
        )
    made = _placed(file.model.vocab, size)
    ranks: dict[str, int] = {}
    for left, right in _pairs(file):
        ranks.setdefault(left + right, len(ranks))
    if unknown := ranks.keys() - file.model.vocab.keys():
        raise FormatError(f"tokenizer.json merges to {min(unknown)[:40]!r}, which is no token")
    made.scores, last = [], len(ranks)
    for id, token in enumerate(made.tokens):
        if made.kinds[id] == UNUSED:
            made.scores.append(_PAD_SCORE)
        elif token in _BYTES:
            made.kinds[id] = BYTE
            made.scores.append(0.0)
        else:
            if token == file.model.unk_token:
                made.kinds[id] = UNKNOWN
            made.scores.append(float(-ranks.get(token, last)))
            last += token not in ranks
    return made


def _space_first(file: _BpeTokenizer) -> bool:
    """Whether a text gets a space in front, by the normalizer or the pre-tokenizer.

    Raises:
        Unsupported: they do something else than to write spaces as SentencePiece does.
    """
    first, escapes = False, False
    for part in (
        *_parts(file.normalizer, "normalizers"),
        *_parts(file.pre_tokenizer, "pretokenizers"),
    ):
        match part.get("type"):
            case "Prepend" if part.get("prepend") == SPACE:
                first = True
            case "Replace" if part.get("pattern") == {"String": " "}:
                escapes = escapes or part.get("content") == SPACE
            case "Metaspace" if part.get("replacement", SPACE) == SPACE and not part.get("split"):
                scheme = part.get("prepend_scheme", "always")
                first = first or (scheme != "never" and part.get("add_prefix_space", True) is True)
                escapes = True
            case "Split" if part.get("pattern") == {"String": " "}:
                continue  # cuts nothing: no space is left
            case other:
                raise Unsupported(
                    f"the tokenizer changes texts by {str(other)[:80]!r}, and llama.cpp does not"
                )
    if not escapes:
        raise Unsupported("the tokenizer does not write spaces as SentencePiece does")
    return first


def _parts(step: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    parts = step.get(name) if step.get("type") == "Sequence" else [step]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise FormatError(f"tokenizer.json has {name} that are none")
    return parts


# ---- tokens that were added ----------------------------------------------------------------


def _added(file: _BpeTokenizer | None, texts: Mapping[str, Any]) -> dict[int, _AddedToken]:
    """By id; what tokenizer_config.json says of a token stands over what the others say."""
    tokens: dict[int, _AddedToken] = {}
    plain = texts.get("added_tokens.json")
    for token, id in _convert(plain or {}, dict[str, int], "added_tokens.json").items():
        tokens[id] = _AddedToken(token, id)
    for added_token in file.added_tokens if file else ():
        tokens[added_token.id] = added_token
    config = texts.get("tokenizer_config.json")
    decoder = config.get("added_tokens_decoder") if isinstance(config, dict) else None
    for key, added_token in _convert(
        decoder or {}, dict[int, _AddedToken], "tokenizer_config.json"
    ).items():
        tokens[key] = added_token
    return tokens


def _add_tokens(made: _Vocabulary, added: Mapping[int, _AddedToken], *, scored: bool) -> None:
    """Mark them; one whose number the model has no row for can never be met, and is left out."""
    for id, token in sorted(added.items()):
        if not 0 <= id < len(made.tokens):
            continue
        control = token.special or _looks_special(token.content)
        # a control token is matched as it is written, one of a user after spaces are spaces again
        made.tokens[id] = token.content if control else token.content.replace(SPACE, " ")
        made.kinds[id] = CONTROL if control else USER_DEFINED
        if scored:
            made.scores[id] = _ADDED_SCORE


def _looks_special(token: str) -> bool:
    """Tokens that some releases forget to mark (as upstream's converter has them)."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith("<|") and token.endswith("|>"))
        or (token.startswith("<｜") and token.endswith("｜>"))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def _check(made: _Vocabulary) -> None:
    """Raises FormatError: what would stop llama.cpp, which trusts its file."""
    seen: dict[str, int] = {}
    for id, token in enumerate(made.tokens):
        if not token:
            raise FormatError(f"the token {id} of the tokenizer is empty", _AGAIN)
        if seen.setdefault(token, id) != id:
            raise FormatError(f"the tokens {seen[token]} and {id} are both {token[:40]!r}", _AGAIN)
    try:
        longest = max(len(token.encode()) for token in made.tokens)
    except UnicodeEncodeError:
        raise FormatError("the tokenizer has a token that is half a character", _AGAIN) from None
    if longest > 1 << 16:
        raise FormatError(f"the tokenizer has a token of {longest} bytes", _AGAIN)
    if made.scores and (missing := _BYTES - seen.keys()):
        raise Unsupported(
            f"the tokenizer has no token for the byte {min(missing)}, and llama.cpp's "
            "SentencePiece falls back to bytes",
            "pull a file of the model that is GGUF already",
        )
