"""Files of training data: what they hold, counted, and a sample of them cut into tokens."""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from overt.openness.subject.manifests import ListedFile
from overt.openness.subject.subject import MAX_TOKENIZER, Subject, SubjectFile

_MAX_BYTES_COUNTED: Final = 64 << 20
"""Bytes of a file whose lines are counted."""
_SAMPLE: Final = 64 << 10
_FILES: Final = 4
_MAGIC: Final = {
    ".parquet": b"PAR1",
    ".gz": b"\x1f\x8b",
    ".zst": b"\x28\xb5\x2f\xfd",
    ".arrow": b"ARROW1",
    ".npy": b"\x93NUMPY",
}
_IDS: Final = {
    "uint16": ("H", 2),
    "u16": ("H", 2),
    "int32": ("i", 4),
    "uint32": ("I", 4),
    "u32": ("I", 4),
    "i32": ("i", 4),
    "int64": ("q", 8),
}
_TEXTS: Final = (".jsonl", ".txt", ".json", ".ndjson")


@dataclass(frozen=True)
class ShardSample:
    """What a look into some of the data gave.

    Attributes:
        told: the rest of a sentence on what agrees, or "".
        fault: what does not, or "".
        tokenized: with the model's own tokenizer, or the ids are the model's own.
    """

    told: str = ""
    fault: str = ""
    expected: str = ""
    tokenized: bool = False


def faults(file: SubjectFile, entry: ListedFile) -> Iterator[tuple[str, str]]:
    """(observed, expected) of what a file is listed with and does not hold."""
    if file.path is None or file.sparse:
        return
    head = _read(file, 0, 4096)
    magic = _MAGIC.get(file.suffix)
    if magic and not head.startswith(magic):
        yield f"begins with {head[:6]!r}", f"a file of the form {file.suffix}"
        return
    if file.suffix in (".jsonl", ".ndjson") and (fault := _not_json(head)):
        yield fault, "one JSON value a line"
        return
    if entry.rows is not None and file.suffix in (".jsonl", ".ndjson", ".txt"):
        rows = _lines(file)
        if rows is not None and rows != entry.rows:
            yield f"holds {rows} lines", f"{entry.rows} rows as listed"
    if entry.tokens is None:
        return
    kind = _IDS.get(entry.dtype)
    if file.suffix == ".bin" and kind and entry.tokens * kind[1] != file.size:
        yield (
            f"has {file.size} bytes, {file.size / kind[1]:g} tokens of {entry.dtype}",
            f"{entry.tokens} tokens as listed",
        )
    elif file.suffix in _TEXTS and entry.tokens > file.size + 1024:
        yield f"has {file.size} bytes", f"{entry.tokens} tokens as listed, more than its bytes"


def _read(file: SubjectFile, start: int, most: int) -> bytes:
    assert file.path is not None
    try:
        with file.path.open("rb") as opened:
            opened.seek(start)
            return opened.read(most)
    except OSError:
        return b""


def _not_json(head: bytes) -> str:
    lines = head.split(b"\n")
    whole = lines[:-1] if len(lines) > 1 else (lines if len(head) < 4096 else [])
    for number, line in enumerate(whole[:8], 1):
        if line.strip():
            try:
                json.loads(line)
            except (ValueError, RecursionError):
                return f"has a line {number} that is not JSON"
    return ""


def _lines(file: SubjectFile) -> int | None:
    """Lines that are not blank."""
    if file.size > _MAX_BYTES_COUNTED or file.path is None:
        return None
    try:
        with file.path.open("rb") as opened:
            return sum(1 for line in opened if line.strip())
    except OSError:
        return None


# -- tokens --------------------------------------------------------------------------------------


def sample(subject: Subject, here: Sequence[tuple[ListedFile, SubjectFile]]) -> ShardSample:
    """A sample of the first, the last and files between as the model would read them."""
    usable = [
        pair for pair in here if pair[1].path is not None and pair[1].size and not pair[1].sparse
    ]
    step = max(1, len(usable) // _FILES)
    chosen = usable[::step][:_FILES]
    ids = [pair for pair in chosen if pair[1].suffix == ".bin" and pair[0].dtype in _IDS]
    if ids:
        return _ids(subject, ids)
    texts = [(entry, file) for entry, file in chosen if file.suffix in _TEXTS]
    return _texts(subject, texts) if texts else ShardSample()


def _ids(subject: Subject, files: Sequence[tuple[ListedFile, SubjectFile]]) -> ShardSample:
    """Token ids that lie in a file must be ids of the model's vocabulary."""
    size = _vocabulary(subject)
    if size is None:
        return ShardSample()
    seen, largest = 0, 0
    for entry, file in files:
        code, width = _IDS[entry.dtype]
        for start in {0, (file.size // 2) // width * width}:
            data = _read(file, start, _SAMPLE)
            numbers = struct.unpack(
                f"<{len(data) // width}{code}", data[: len(data) // width * width]
            )
            seen += len(numbers)
            top = max(numbers, default=0)
            if top >= size or min(numbers, default=0) < 0:
                return ShardSample(
                    fault=f"{file.name} holds the token {top if top >= size else min(numbers)}",
                    expected=f"tokens from 0 to {size - 1}, the model's vocabulary",
                )
            largest = max(largest, top)
    return ShardSample(
        f"{seen} tokens of {len(files)} files are in the vocabulary of {size}, at most {largest}",
        tokenized=seen > 0,
    )


def _vocabulary(subject: Subject) -> int | None:
    config = subject.config or {}
    size = config.get("vocab_size")
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    return subject.model.vocabulary_size if subject.model else None


def _texts(subject: Subject, files: Sequence[tuple[ListedFile, SubjectFile]]) -> ShardSample:
    texts = [(entry, file, *_text(file)) for entry, file in files]
    encoder = _encoder(subject)
    if encoder is None:
        return _covered(subject, [text for _, _, text, _ in texts])
    total, characters = 0, 0
    for entry, file, text, whole in texts:
        count = len(encoder.encode(text, add_special_tokens=False).ids)
        total, characters = total + count, characters + len(text)
        stated = entry.tokens
        documents = text.count("\n") + 1
        if whole and stated is not None and not _close_count(count, stated, documents):
            return ShardSample(
                fault=f"{file.name} gives {count} tokens with the model's tokenizer",
                expected=f"{stated} tokens as listed",
            )
    if not total:
        return ShardSample(fault="a sample of the data gives no token", expected="tokens")
    return ShardSample(
        f"a sample of {characters} characters gives {total} tokens with the model's tokenizer",
        tokenized=True,
    )


def _close_count(count: int, stated: int, documents: int) -> bool:
    """Marks around each document may or may not have been counted; 2 % for what joins them."""
    return count * 0.98 - 2 * documents <= stated <= count * 1.02 + 2 * documents


def _text(file: SubjectFile) -> tuple[str, bool]:
    """The text of a sample, and whether it is all there is."""
    data = _read(file, 0, _SAMPLE)
    whole = len(data) == file.size
    text = data.decode("utf-8", "ignore")
    if file.suffix not in (".jsonl", ".ndjson"):
        return text, whole
    texts = []
    for line in text.split("\n") if whole else text.split("\n")[:-1]:
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        inner = row.get("text", row.get("content")) if isinstance(row, dict) else row
        if isinstance(inner, str):
            texts.append(inner)
    return "\n".join(texts), whole and bool(texts)


def _encoder(subject: Subject) -> Any:
    """The model's tokenizer, where the library is installed; None otherwise."""
    data = (
        subject.bytes("tokenizer.json", MAX_TOKENIZER) if subject.file("tokenizer.json") else None
    )
    if data is None:
        return None
    try:
        from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    try:
        return Tokenizer.from_str(data.decode("utf-8"))
    except Exception:  # noqa: BLE001 - the library raises bare exceptions for what it cannot read
        return None


def _covered(subject: Subject, texts: Sequence[str]) -> ShardSample:
    """Without the library: whether every character of a sample has a token at all."""
    vocabulary = _tokens(subject)
    characters = set("".join(texts))
    if not vocabulary or not characters:
        return ShardSample()
    if all(f"<0x{byte:02X}>" in vocabulary for byte in range(256)):
        return ShardSample(
            "any byte has a token of the model (not cut into tokens: no library for it)"
        )
    singles = {token.removeprefix("##").removeprefix("\u2581") for token in vocabulary}
    names = _byte_names()
    missing = [
        character
        for character in sorted(characters)
        if character not in singles
        and not all(names[byte] in singles for byte in character.encode("utf-8"))
        and not character.isspace()
    ]
    if missing and 2 * len(missing) > len(characters):
        return ShardSample(
            fault=f"of {len(characters)} characters in a sample {len(missing)} have no token, "
            f"such as {missing[0]!r}",
            expected="data the model's tokenizer can read",
        )
    return ShardSample(
        f"{len(characters) - len(missing)} of {len(characters)} characters in a sample have a "
        "token (not cut into tokens: no library for it)"
    )


def _tokens(subject: Subject) -> set[str]:
    content = (
        subject.json("tokenizer.json", MAX_TOKENIZER) if subject.file("tokenizer.json") else None
    )
    model = content.get("model") if isinstance(content, dict) else None
    held = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(held, dict):
        return {token for token in held if isinstance(token, str)}
    if isinstance(held, list):
        return {row[0] for row in held if isinstance(row, list) and row and isinstance(row[0], str)}
    return set()


def _byte_names() -> dict[int, str]:
    """How byte-level vocabularies write each byte (GPT-2's encoder)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    shifted = {byte: chr(256 + number) for number, byte in enumerate(others)}
    return {byte: chr(byte) for byte in plain} | shifted
