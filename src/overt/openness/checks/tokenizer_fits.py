"""The tokenizer belongs to these weights: every token has a row, every special id a token.

More rows than tokens is padding, for speed, and is allowed up to a sixteenth (the largest known is
2.4 %: DeepSeek LLM, 100 015 tokens of 102 400 rows; Phi-2 has 905 spare rows of 51 200), or 1024.
Gemma 3's 262 144 tokens and SmolLM2's 48 900 merges take 0.1 s.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overt.openness.evidence import Finding
from overt.openness.subject import tensors
from overt.openness.subject.subject import MAX_TOKENIZER, Subject
from overt.openness.verdicts.components import Strength

if TYPE_CHECKING:
    from overt.formats.gguf import GgufHeader
    from overt.openness.subject.tensors import Weights

VERSION = 3
TTL = 0

_SPARE = 1024
_PART = 16
_MERGES = 20_000  # merges that are looked at, spread over all
_FEW = 20  # tokens in common under which nothing is said
_ALIKE = 0.8  # of them: bytes and words added later are written otherwise by some
_KEPT = ("gpt2", "llama")  # kinds whose words llama.cpp keeps as they are, unlike BERT's
_ROLES = ("bos", "eos", "pad")
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class _TokenizerFile:
    """What is asked of a tokenizer.json."""

    vocab: Mapping[str, int]
    added: Mapping[int, str]
    merges: Sequence[Any]
    twice: str = ""

    @property
    def size(self) -> int:
        return max([*self.vocab.values(), *self.added], default=-1) + 1


def check(subject: Subject) -> Iterable[Finding]:
    models = tensors.of(subject)
    for weights in models:
        if weights.header is not None and "tokenizer.ggml.model" in weights.header.metadata:
            yield _verdict(
                _gguf(weights.header, weights), _tokenizer_kind(weights.header), weights.files
            )
    if subject.file("tokenizer.json"):
        yield from _json(subject, models)
    yield from _others(subject, models)
    yield from _as_base(subject, models)


def _as_base(subject: Subject, models: "Sequence[Weights]") -> Iterator[Finding]:
    """A GGUF file has the tokens of the model it was made from, each under the same number."""
    base = subject.base
    raw = (
        base.bytes("tokenizer.json", MAX_TOKENIZER)
        if base and base.file("tokenizer.json")
        else None
    )
    read = _read(raw) if raw else None
    if base is None or not isinstance(read, _TokenizerFile):
        return
    theirs = {**{number: word for word, number in read.vocab.items()}, **read.added}
    for weights in models:
        header = weights.header
        if header is None or header.tokenizer not in _KEPT:
            continue
        mine = _metadata_array(header, "tokens")
        both = [number for number in range(len(mine)) if number in theirs]
        same = sum(mine[number] == theirs[number] for number in both)
        if len(both) >= _FEW and same < _ALIKE * len(both):
            first = next(number for number in both if mine[number] != theirs[number])
            yield Finding(
                "tokenizer",
                "fail",
                Strength.CONSISTENT,
                f"{len(both) - same} of {len(both)} tokens are others, the first "
                f"{mine[first]!r} for {theirs[first]!r}",
                f"the tokens of {base.ref}",
                paths=weights.files,
            )


def _verdict(trouble: tuple[str, str] | None, good: str, paths: tuple[str, ...]) -> Finding:
    if trouble:
        return Finding("tokenizer", "fail", Strength.CONSISTENT, *trouble, paths=paths)
    return Finding(
        "tokenizer",
        "pass",
        Strength.CONSISTENT,
        good,
        "a row for each token and a token for each special id",
        paths=paths,
    )


def _fits(tokens: int, rows: int) -> tuple[str, str] | None:
    if rows < tokens:
        return f"{tokens} tokens", f"at most the {rows} rows of the embedding"
    if rows - tokens > max(_SPARE, tokens // _PART):
        return f"{tokens} tokens", f"near the {rows} rows of the embedding"
    return None


# ---- GGUF ----------------------------------------------------------------------------------


def _tokenizer_kind(header: "GgufHeader") -> str:
    return f"{header.vocabulary_size} tokens of {header.tokenizer}"


def _gguf(header: "GgufHeader", weights: "Weights") -> tuple[str, str] | None:
    count = _length(header, "tokens")
    embedding = weights.tensors.get("token_embd.weight")
    if count is None:
        return "no list of tokens", "tokenizer.ggml.tokens"
    if embedding is not None and len(embedding.shape) == 2:
        trouble = _fits(count, embedding.shape[0])
        if trouble:
            return trouble
    for key in ("scores", "token_type"):
        length = _length(header, key)
        if length is not None and length != count:
            return f"{length} entries in tokenizer.ggml.{key}", f"{count}, one a token"
    stated = header.number(f"{header.architecture}.vocab_size")
    if stated is not None and stated != count:
        return f"{count} tokens", f"{stated} by {header.architecture}.vocab_size"
    for role, number in header.special_tokens.items():
        if number >= count:
            return f"the {role} token is {number}", f"below the {count} tokens"
    return _words(header)


def _length(header: "GgufHeader", key: str) -> int | None:
    from overt.formats.gguf import Array

    values = header.metadata.get(f"tokenizer.ggml.{key}")
    return len(values) if isinstance(values, (Array, tuple)) else None


def _metadata_array(header: "GgufHeader", key: str) -> tuple[Any, ...]:
    from overt.formats.gguf import Array

    values = header.metadata.get(f"tokenizer.ggml.{key}")
    if isinstance(values, Array):
        return values.load()
    return values if isinstance(values, tuple) else ()


def _words(header: "GgufHeader") -> tuple[str, str] | None:
    tokens = _metadata_array(header, "tokens")
    known = set(tokens)
    # Bytes that are not UTF-8 are read as U+FFFD and may look alike.
    if len(known) != len(tokens) and not any("\ufffd" in token for token in known):
        seen: set[Any] = set()
        first = next((n for n, t in enumerate(tokens) if t in seen or seen.add(t)), 0)  # type: ignore[func-returns-value]
        return f"token {first} is there twice: {tokens[first]!r}", "each token once"
    if header.tokenizer != "gpt2":
        return None
    merges = _metadata_array(header, "merges")
    for merge in merges[:: max(1, len(merges) // _MERGES)]:
        trouble = _merge(str(merge).split(" ", 1) if " " in str(merge) else (), known)
        if trouble:
            return trouble
    return None


def _merge(pair: Sequence[str], known: Any) -> tuple[str, str] | None:
    if len(pair) != 2:
        return "a merge that is no pair", "pairs of tokens"
    for word in (*pair, "".join(pair)):
        if word not in known:
            return f"a merge makes {word!r}, which is no token", "merges of tokens"
    return None


# ---- tokenizer.json ------------------------------------------------------------------------


def _json(subject: Subject, models: "Sequence[Weights]") -> Iterator[Finding]:
    paths = ("tokenizer.json",)
    raw = subject.bytes("tokenizer.json", MAX_TOKENIZER)
    if raw is None:
        reason = f"tokenizer.json is not here, or larger than {MAX_TOKENIZER >> 20} MiB"
        yield Finding("tokenizer", "not_run", Strength.CONSISTENT, reason=reason)
        return
    read = _read(raw)
    if isinstance(read, str):
        broken = read.startswith("is not JSON")
        yield Finding(
            "tokenizer",
            "fail" if broken else "inconclusive",
            Strength.CONSISTENT,
            f"tokenizer.json {read}",
            "a tokenizer",
            reason="" if broken else "a kind of tokenizer that is not known",
            paths=paths,
        )
        return
    rows = _rows(subject, models)
    trouble = _own_problem(read)
    if trouble is None and rows is not None:
        trouble = _fits(read.size, rows)
    if trouble is None:
        trouble = _special(subject, read, rows)
    used = tuple(
        n
        for n in ("config.json", "generation_config.json", "tokenizer_config.json")
        if subject.file(n)
    )
    if trouble is None and rows is None:
        yield Finding(
            "tokenizer",
            "inconclusive",
            Strength.CONSISTENT,
            f"{read.size} tokens",
            reason="no embedding is here to compare with",
            paths=paths,
        )
        return
    yield _verdict(trouble, f"{read.size} tokens for {rows} rows", paths + used)


def _others(subject: Subject, models: "Sequence[Weights]") -> Iterator[Finding]:
    """Tokens of the older files beside tokenizer.json; one to pad with is never fed to a model."""
    rows = _rows(subject, models)
    listed: dict[str, dict[int, str]] = {}
    for name in ("vocab.json", "added_tokens.json"):
        listed[name] = {n: w for w, n in _object(subject, name).items() if _id(n)}
    listed["tokenizer_config.json"] = _added_later(_object(subject, "tokenizer_config.json"))
    for name, words in listed.items():
        over = {n: w for n, w in words.items() if rows and n >= rows and "pad" not in w.lower()}
        if over:
            first = min(over)
            yield Finding(
                "tokenizer",
                "fail",
                Strength.CONSISTENT,
                f"{name} makes {over[first]!r} token {first}",
                f"at most the {rows} rows of the embedding",
                paths=(name,),
            )


def _read(raw: bytes) -> _TokenizerFile | str:
    import msgspec

    try:
        content = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return f"is not JSON: {str(error)[:100]}"
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        return "has no model"
    vocab, twice = _vocab(model.get("vocab"))
    if vocab is None:
        return "has no vocabulary"
    added: dict[int, str] = {}
    listed = content.get("added_tokens")
    for entry in listed if isinstance(listed, list) else ():
        if (
            isinstance(entry, dict)
            and _id(entry.get("id"))
            and isinstance(entry.get("content"), str)
        ):
            if entry["id"] in added and added[entry["id"]] != entry["content"]:
                twice = entry["content"]
            added[entry["id"]] = entry["content"]
    merges = model.get("merges")
    plain = not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
    return _TokenizerFile(vocab, added, merges if isinstance(merges, list) and plain else (), twice)


def _vocab(vocab: object) -> tuple[dict[str, int] | None, str]:
    """By word; a Unigram model lists pairs of word and score. And a word that is there twice."""
    if isinstance(vocab, dict):
        good = all(isinstance(word, str) and _id(number) for word, number in vocab.items())
        return (vocab, "") if good else (None, "")
    if isinstance(vocab, list) and all(
        isinstance(entry, list) and entry and isinstance(entry[0], str) for entry in vocab
    ):
        words = {entry[0]: number for number, entry in enumerate(vocab)}
        counts = Counter(entry[0] for entry in vocab)
        doubled = next((word for word, count in counts.items() if count > 1), "")
        return words, doubled
    return None, ""


def _id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


def _own_problem(read: _TokenizerFile) -> tuple[str, str] | None:
    """What tokenizer.json says against itself."""
    if read.twice:
        return f"{read.twice!r} is there twice", "each token once"
    by_id: dict[int, str] = {}
    for word, number in read.vocab.items():
        if number in by_id:
            return f"{by_id[number]!r} and {word!r} are both token {number}", "an id for each token"
        by_id[number] = word
    for number, word in read.added.items():
        if by_id.get(number, word) != word or read.vocab.get(word, number) != number:
            other = by_id.get(number, read.vocab.get(word))
            return f"the added token {word!r} is {number}, which is {other!r}", "one id, one token"
    for merge in read.merges[:: max(1, len(read.merges) // _MERGES)]:
        pair = merge.split(" ", 1) if isinstance(merge, str) else merge
        good = isinstance(pair, list) and all(isinstance(part, str) for part in pair)
        trouble = _merge(pair if good else (), read.vocab)
        if trouble:
            return trouble
    return None


def _rows(subject: Subject, models: "Sequence[Weights]") -> int | None:
    for weights in models:
        for name, tensor in weights.tensors.items():
            if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2:
                return tensor.shape[0]
    from overt.openness.shapes.plan import text_config

    stated = text_config(subject.config or {}).get("vocab_size")
    return stated if isinstance(stated, int) and stated > 0 else None


def _special(subject: Subject, read: _TokenizerFile, rows: int | None) -> tuple[str, str] | None:
    """Ids in config.json and generation_config.json, words in tokenizer_config.json."""
    from overt.openness.shapes.plan import text_config

    config = _object(subject, "tokenizer_config.json")
    plain = {number: word for word, number in read.vocab.items()}
    ids = {**plain, **_added_later(config), **read.added}
    words = set(ids.values())
    named = {role: _word(config.get(f"{role}_token")) for role in _ROLES}
    for role, word in named.items():
        if word and word not in words:
            return f"{role}_token is {word!r}, which is no token", "a token of tokenizer.json"
    for file, content in (
        ("config.json", text_config(subject.config or {})),
        ("generation_config.json", _object(subject, "generation_config.json")),
    ):
        for role in _ROLES:
            numbers = _numbers(content.get(f"{role}_token_id"))
            word = named[role]
            # Beside the token that is named, others may end a text as well.
            held = len(numbers) > 1 and any(ids.get(number) == word for number in numbers)
            for number in numbers:
                if number == -1 and role == "pad":
                    continue
                if number not in ids:
                    most = f"of {read.size} tokens and {rows} rows"
                    return f"{role}_token_id in {file} is {number}, which is no token", most
                other = number not in read.added and ids[number] != word
                if role != "pad" and word and other and read.added and not held:
                    return (
                        f"{role}_token_id in {file} is {number}, the word {ids[number]!r}",
                        f"{word!r} by tokenizer_config.json",
                    )
    return None


def _object(subject: Subject, name: str) -> Mapping[str, Any]:
    document = subject.json(name) if subject.file(name) else None
    return document if isinstance(document, dict) else {}


def _word(value: object) -> str:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _added_later(config: Mapping[str, Any]) -> dict[int, str]:
    """Tokens that only tokenizer_config.json lists, by their id."""
    decoder = config.get("added_tokens_decoder")
    if not isinstance(decoder, dict):
        return {}
    return {int(n): _word(entry) for n, entry in decoder.items() if n.isdecimal() and len(n) < 10}


def _numbers(value: object) -> list[int]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, int) and not isinstance(item, bool)]
