"""All tensors are there, once, and hold numbers.

Files of a split model and their index against what is in the folder, the tensors the configuration
asks for, blocks without a gap, no bytes behind the last tensor, and a look at three places in each
matrix: one that is constant, or numbers that are none, were not trained.

What is looked at is 3 KiB a tensor (SmolLM2, 272 tensors: 0.02 s); only a matrix that looks
constant there is read whole.
"""

import array
import re
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256

from overt.openness.checks import shapes
from overt.openness.evidence import Finding
from overt.openness.shapes import plan
from overt.openness.subject import tensors
from overt.openness.subject.subject import MAX_HEADERS, Subject
from overt.openness.subject.tensors import LocatedTensor, Weights
from overt.openness.verdicts.components import Strength

VERSION = 2
TTL = 0

_SLICE = 1024
_BIG = 64  # parameters of a matrix that cannot be constant by chance
_MAY_BE_CONSTANT = ("token_type", "segment", "position_ids", "attn.bias", "attn_mask")
_MAX_BYTES_READ = 256 << 20
_MAX_TENSORS = 20_000
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blk|layer|blocks)\.(\d{1,6})\.(.+)")
# Bytes of a block of a type that begins with its scale in 16 bits.
_SCALED = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "IQ4_NL": 18}


def check(subject: Subject) -> Iterable[Finding]:
    for name, what in _damaged(subject):
        yield _fail(f"{name}: {what}", "a file that can be read whole", (name,))
    models = tensors.of(subject)
    yield from _index(subject)
    if not models:
        return
    plans = {
        comparison.weights.name: comparison
        for comparison in shapes.compared(subject)
        if not isinstance(comparison, Finding)
    }
    for weights in models:
        yield _finding(subject, weights, plans.get(weights.name))


def _damaged(subject: Subject) -> list[tuple[str, str]]:
    """Weights whose header could not be read; looking at the headers is what finds them."""
    tensors.of(subject)
    return [
        (name, what)
        for name, what in sorted(subject.damaged.items())
        if name.endswith((".gguf", ".safetensors"))
    ]


def _finding(subject: Subject, weights: Weights, planned: shapes.ShapeComparison | None) -> Finding:
    paths = weights.files
    if not weights.tensors:
        return Finding(
            "weights",
            "not_run",
            Strength.CONSISTENT,
            reason=f"{weights.name} holds no tensors",
            paths=paths,
        )
    if weights.lacking:
        return _lacking(subject, weights)
    stated = weights.header.number("split.tensors.count") if weights.header else None
    if stated and stated != len(weights.tensors) + len(weights.twice):
        return _fail(f"{len(weights.tensors)} tensors", f"{stated} by split.tensors.count", paths)
    if weights.twice:
        return _fail(f"{weights.twice[0]} is there twice", "each tensor once", paths)
    for trouble in (_planned(planned), _gaps(weights), _behind(subject, weights)):
        if trouble:
            return _fail(*trouble, paths)
    trouble = None if weights.headers_only else _contents(subject, weights)
    if trouble:
        return _fail(*trouble, paths)
    total = f"{len(weights.tensors)} tensors, {weights.parameters} parameters"
    if planned is None:
        stated, seen = _stated_blocks(subject, weights), _blocks(weights)
        if not stated or stated != len(seen):
            return Finding(
                "weights",
                "inconclusive",
                Strength.CONSISTENT,
                total,
                reason=f"the architecture's tensors are not known; {len(seen)} blocks are here and "
                f"{stated or 'no number'} is stated",
                paths=paths,
            )
        total += f" in the {stated} blocks that are stated"
    faultless = "none missing or twice, by the headers"
    if not weights.headers_only:
        faultless = "none missing, twice, constant or NaN"
    return Finding(
        "weights",
        "pass",
        Strength.CONSISTENT,
        f"{total}, {faultless}",
        "all tensors of the model",
        paths=paths,
    )


def _fail(observed: str, expected: str, paths: tuple[str, ...]) -> Finding:
    return Finding("weights", "fail", Strength.CONSISTENT, observed, expected, paths=paths)


def _lacking(subject: Subject, weights: Weights) -> Finding:
    count, first = len(weights.lacking), weights.lacking[0]
    absent = [name for name in weights.lacking if not subject.file(name)]
    if absent and (subject.place or _missing_on_disk(subject, absent)):
        total = count + len(weights.files)
        return _fail(
            f"{len(absent)} of {total} files are missing, the first {absent[0]}",
            f"{total} files",
            weights.files,
        )
    return Finding(
        "weights",
        "not_run",
        Strength.CONSISTENT,
        reason=f"{count} files of the weights are not here, the first {first}",
        paths=weights.files,
    )


def _missing_on_disk(subject: Subject, names: list[str]) -> bool:
    """Whether parts of a file that was named alone do not lie beside it either."""
    first = subject.files[0]
    if subject.remote or first.stated or first.path is None:
        return False
    folder = first.path.parents[first.name.count("/")]
    return not any((folder / name).exists() for name in names)


# ---- what should be there ------------------------------------------------------------------


def _index(subject: Subject) -> Iterator[Finding]:
    """``weight_map`` and ``total_size`` against the headers."""
    if not subject.file(tensors.INDEX) or not subject.safetensors:
        return
    paths = (tensors.INDEX, *subject.safetensors)
    index = tensors.index_of(subject)
    if index is None:
        yield _fail(f"{tensors.INDEX} has no map of tensors to files", "a weight_map", paths)
        return
    where = {
        tensor.name: name
        for name, header in subject.safetensors.items()
        if name in set(index.values())
        for tensor in header.tensors
    }
    here = set(subject.safetensors)
    wrong = [name for name, file in index.items() if file in here and where.get(name) != file]
    wrong += [name for name in where if name not in index]
    if wrong:
        yield _fail(
            f"the index puts {wrong[0]} in {index.get(wrong[0], 'no file')} and it is in "
            f"{where.get(wrong[0], 'none')}; {len(wrong)} tensors differ so",
            "an index that agrees with the files",
            paths,
        )
        return
    if here >= set(index.values()):
        yield from _total(subject, set(index.values()), paths)


def _total(subject: Subject, named: set[str], paths: tuple[str, ...]) -> Iterator[Finding]:
    content = subject.json(tensors.INDEX, MAX_HEADERS)
    about = content.get("metadata") if isinstance(content, dict) else None
    stated = about.get("total_size") if isinstance(about, dict) else None
    listed = [t for name in named for t in subject.safetensors[name].tensors]
    total = sum(tensor.size for tensor in listed)
    if not isinstance(stated, int) or isinstance(stated, bool):
        return
    # Tied output weights are counted by some writers and not by others.
    tied = {t.size for t in listed if t.name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    good = abs(stated - total) in {0, *tied}
    yield Finding(
        "metadata",
        "pass" if good else "fail",
        Strength.CONSISTENT,
        f"the tensors take {total} bytes",
        f"{stated} bytes by the index",
        paths=paths,
    )


def _planned(planned: shapes.ShapeComparison | None) -> tuple[str, str] | None:
    if planned is None:
        return None
    difference, wanted = planned.difference, planned.plan
    if difference.missing:
        return (
            f"{len(difference.missing)} tensors are missing, the first {difference.missing[0]}",
            f"{len(wanted.required)} tensors of {wanted.architecture} in {wanted.blocks} blocks",
        )
    if difference.beyond:
        return (
            f"{len(difference.beyond)} tensors beyond the last block, the first "
            f"{difference.beyond[0]}",
            f"{wanted.blocks} blocks",
        )
    return None


def _blocks(weights: Weights) -> dict[int, set[str]]:
    blocks: dict[int, set[str]] = {}
    for name in weights.tensors:
        if match := _BLOCK.search(name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    return blocks


def _stated_blocks(subject: Subject, weights: Weights) -> int:
    if weights.header is not None:
        return weights.header.block_count or 0
    text = plan.text_config(subject.config or {})
    for name in ("num_hidden_layers", "n_layer", "num_layers"):
        if isinstance(text.get(name), int):
            return int(text[name])
    return 0


def _gaps(weights: Weights) -> tuple[str, str] | None:
    blocks = _blocks(weights)
    # Towers of a multimodal model share numbers: only what no tower has is a gap.
    missing = [n for n in range(max(blocks, default=-1) + 1) if n not in blocks][:8]
    if missing:
        return f"block {missing[0]} is missing, and there is a block {max(blocks)}", "no gap"
    return None


def _behind(subject: Subject, weights: Weights) -> tuple[str, str] | None:
    for name in weights.files:
        header = subject.gguf.get(name)
        if header is None or not header.tensors:
            continue
        end = max(tensor.offset + tensor.size for tensor in header.tensors)
        rest = header.file_size - end
        if rest >= header.alignment:
            return (
                f"{name} has {rest} bytes behind its last tensor",
                f"fewer than {header.alignment}",
            )
    return None


# ---- what is in them -----------------------------------------------------------------------


def _contents(subject: Subject, weights: Weights) -> tuple[str, str] | None:
    seen: dict[int, list[str]] = {}
    ordered = sorted(weights.tensors.values(), key=lambda tensor: (tensor.file, tensor.offset))
    opened, file = "", None
    try:
        for tensor in ordered[:_MAX_TENSORS]:
            if tensor.file != opened:
                if file:
                    file.close()
                file, opened = tensor.path.open("rb"), tensor.file
            if file is None:
                continue
            slices = [_read(file, tensor, at) for at in (0, tensor.size // 2, tensor.size)]
            if what := _numberless(tensor, slices):
                return f"{tensor.name} holds {what}", "numbers"
            matrix = _is_matrix(tensor)
            if matrix and all(map(_constant, slices)) and _constant(_tensor_bytes(file, tensor)):
                what = "zeros" if not any(slices[0]) else "one number everywhere"
                return (
                    f"{tensor.name} of {tensor.parameters} parameters holds {what}",
                    "trained numbers",
                )
            match = _BLOCK.search(tensor.name)
            if matrix and match:
                digest = sha256(b"".join(slices)).hexdigest()
                seen.setdefault(int(match[1]), []).append(f"{match[2]} {digest}")
    except OSError as error:
        return f"{weights.name} cannot be read: {error.strerror}", "a readable file"
    finally:
        if file:
            file.close()
    return _doubled(subject, seen)


def _is_matrix(tensor: LocatedTensor) -> bool:
    """Whether it was trained as a whole. Models without kinds of tokens keep a row of zeros for
    them."""
    return (
        len([extent for extent in tensor.shape if extent > 1]) > 1
        and tensor.parameters >= _BIG
        and not tensor.name.endswith("bias")
        and not any(part in tensor.name for part in _MAY_BE_CONSTANT)
    )


def _doubled(subject: Subject, seen: dict[int, list[str]]) -> tuple[str, str] | None:
    """Two blocks of the same bytes: only a merge that repeats blocks has them."""
    if any(parent.relation == "merge" for parent in subject.record.parents):
        return None
    known: dict[tuple[str, ...], int] = {}
    for number in sorted(seen):
        key = tuple(sorted(seen[number]))
        if key in known:
            return f"blocks {known[key]} and {number} hold the same bytes", "blocks of their own"
        known[key] = number
    return None


def _read(file: object, tensor: LocatedTensor, at: int) -> bytes:
    """A slice at the start of an element or block, within the tensor."""
    unit = _unit(tensor)
    length = min(_SLICE, tensor.size) // unit * unit
    start = max(0, min(at, tensor.size - length)) // unit * unit
    file.seek(tensor.offset + start)  # type: ignore[attr-defined]
    return bytes(file.read(length))  # type: ignore[attr-defined]


def _unit(tensor: LocatedTensor) -> int:
    return _SCALED.get(tensor.type) or max(1, tensor.size // max(1, tensor.parameters))


def _tensor_bytes(file: object, tensor: LocatedTensor) -> bytes:
    file.seek(tensor.offset)  # type: ignore[attr-defined]
    return bytes(file.read(min(tensor.size, _MAX_BYTES_READ)))  # type: ignore[attr-defined]


def _constant(data: bytes) -> bool:
    for width in (1, 2, 4):
        if len(data) >= width and data == data[:width] * (len(data) // width):
            return True
    return False


_EXPONENT = {"F32": ("I", 0x7F800000), "F16": ("H", 0x7C00), "BF16": ("H", 0x7F80)}


def _numberless(tensor: LocatedTensor, slices: list[bytes]) -> str | None:
    """NaN or infinity, in floating point or as the scale of a block."""
    code, mask = _EXPONENT.get(tensor.type, ("H", 0x7C00))
    for data in slices:
        if tensor.type in _SCALED:
            step = _SCALED[tensor.type]
            data = b"".join(data[at : at + 2] for at in range(0, len(data) - 1, step))
        elif tensor.type not in _EXPONENT:
            return None
        numbers = array.array(code)
        numbers.frombytes(data[: len(data) // numbers.itemsize * numbers.itemsize])
        if sys.byteorder == "big":
            numbers.byteswap()
        if any(number & mask == mask for number in numbers):
            return "NaN or infinity"
    return None
