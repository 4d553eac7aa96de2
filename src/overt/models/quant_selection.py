"""What a hub repository offers, and which of it to take here: the best quantization that fits.

One header is read over the network (a few MiB at most, by ranges) to know what the model needs
beside its weights. Of the others a listing reads the tensor table alone, which lies at about the
same place; where that cannot be had they are judged by their size, which is an estimate. `exchange`
judges again when the model is opened.
"""

import struct
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from overt.errors import BadRef, OutOfMemory, OvertError
from overt.formats import gguf, safetensors
from overt.formats.gguf import GgufHeader
from overt.models import memory
from overt.models.sources import hub
from overt.models.sources.base import FetchProgress, Report
from overt.models.sources.download import Network
from overt.models.sources.file_selection import Variant, choose, rank, variants
from overt.ref import Ref, parse
from overt.settings import Settings

Kind = TypeVar("Kind", GgufHeader, safetensors.SafetensorsHeader)
_CONTEXT = 4096  # tokens a model should have room for, where no context is set
_STEPS = (2 << 20, 8 << 20, 32 << 20)  # bytes read for a header: more and more, then no more
WIDE = 1 << 44  # a file stated to be larger is not looked at
_SLIP = 64 << 10  # bytes by which the metadata of two quantizations may differ
_TABLES = 32  # tensor tables read for a listing, at most
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """One quantization.

    Attributes:
        name: its file (of a split model the first); ``#name`` asks for it.
        quantization: as its name says, or empty.
        files: how many files its weights are.
        size: bytes of the weights.
        bits: bits per weight, or None where the number of weights is not known.
        need: bytes of memory it takes to run, or None where no header could be read.
        exact: whether `need` is from its own header, and not an estimate.
        fits: whether `need` is free here, or None where it is not known.
    """

    name: str
    quantization: str
    files: int
    size: int
    bits: float | None
    need: int | None
    exact: bool
    fits: bool | None


@dataclass(frozen=True, slots=True)
class Offer:
    """A repository's models, in the order in which they would be taken.

    Attributes:
        ref: pinned to the commit, without a file.
        models: best first; empty where it holds no GGUF.
        best: the first that fits, or may.
        free: bytes of memory free here.
        context: tokens that `OfferedModel.need` is for.
        code: Python files of the repository; they are never fetched and never run.
    """

    ref: Ref
    models: tuple[OfferedModel, ...]
    best: OfferedModel | None
    free: int
    context: int
    code: tuple[str, ...]


def list_variants(ref: str, settings: Settings) -> Offer:
    """What a hub repository offers on this machine; a file named in `ref` is not looked at.

    Raises:
        BadRef: not a hub repository.
        As `hub.plan`; ModelNotFound, UnsafeFile, FormatError where no weights are there.
    """
    parsed = parse(ref)
    if parsed.scheme != "hf":
        raise BadRef(f"{ref} is not a repository of a hub", "list one: hf:owner/repo")
    network = Network(settings.offline)
    try:
        return _list_variants(hub.listing(parsed, network), settings, tables=True)
    finally:
        network.close()


def settle(
    ref: Ref, settings: Settings, network: Network, report: Report, before: Ref | None = None
) -> Ref:
    """`ref` pinned to a commit and to the quantization to take; without a choice, `ref` itself.

    `before` is what `ref` meant the last time: as long as its commit is the newest it stays so,
    however much memory is free today.

    Raises:
        OutOfMemory: nothing of it fits here; the hint says how to get one all the same.
        As `list_variants`.
    """
    listing = hub.listing(ref, network)
    if before and before.file and before.tag == listing.ref.tag and before.name == ref.name:
        return before
    if len(variants(list(listing.sizes))) < 2:
        return ref
    report(FetchProgress(f"reading what hf:{ref.name} offers", 0, None))
    offer = _list_variants(listing, settings)
    best = offer.best
    if best is None:
        least = min(offer.models, key=lambda model: model.need or 0)
        raise OutOfMemory(
            f"none of the {len(offer.models)} models of hf:{ref.name} fits: the least, "
            f"{least.name}, needs {memory.human(least.need or 0)} and "
            f"{memory.human(offer.free)} is free",
            f"free some memory, or name it to get it all the same: hf:{ref.name}#{least.name}",
        )
    why = ", the best that fits" if best.fits else ""
    report(FetchProgress(f"taking {best.name} of {len(offer.models)}{why}", 0, None))
    return replace(offer.ref, file=best.name)


def _list_variants(listing: hub.Listing, settings: Settings, *, tables: bool = False) -> Offer:
    paths = sorted(listing.sizes)
    code = tuple(path for path in paths if path.lower().endswith(".py"))
    free = settings.memory or memory.free_memory()
    variants_found = sorted(variants(paths), key=rank)
    if not variants_found:
        choose(paths, None, f"hf:{listing.ref.name}")  # says why there are none
        return Offer(listing.ref, (), None, free, 0, code)
    judge = _VariantJudge(listing, settings, free)
    judge.read(variants_found[0])
    if tables:
        judge.read_tables(variants_found)
    best = next(judge.fitting(variants_found), None)
    return Offer(
        listing.ref,
        tuple(judge.offered(variant) for variant in variants_found),
        judge.offered(best) if best else None,
        free,
        judge.context,
        code,
    )


class _VariantJudge:
    """The headers read so far, and what they say about each quantization."""

    def __init__(self, listing: hub.Listing, settings: Settings, free: int) -> None:
        self._listing = listing
        self._settings = settings
        self._free = free
        self._headers: dict[str, GgufHeader | None] = {}
        self._common: GgufHeader | None = None
        self.context = settings.context or _CONTEXT

    def read(self, variant: Variant) -> None:
        """Read the header of one, if that has not been tried."""
        if variant.name not in self._headers:
            header = self._headers[variant.name] = _peek(self._listing, variant.name)
            if header and self._common is None:
                self._common = header
                own = header.context_length or _CONTEXT
                self.context = self._settings.context or min(own, _CONTEXT)

    def read_tables(self, candidates: list[Variant]) -> None:
        """Read the tensor tables of all files that are like the one whose header is known."""
        like = self._common
        left = [v for v in candidates if v.name not in self._headers and len(v.parts) == 1][
            :_TABLES
        ]
        if like is None or like.split_count > 1 or not like.tensors or not left:
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            tables = pool.map(lambda variant: _table(self._listing, variant.name, like), left)
            for variant, header in zip(left, tables, strict=True):
                if header:
                    self._headers[variant.name] = header

    def fitting(self, candidates: list[Variant]) -> Iterator[Variant]:
        """Those that fit, or may, by their own headers as far as these can be read."""
        for variant in candidates:
            if self.offered(variant).fits is not False:
                self.read(variant)
                if self.offered(variant).fits is not False:
                    yield variant

    def offered(self, variant: Variant) -> OfferedModel:
        size = sum(self._listing.sizes[path] for path in variant.parts)
        header = self._headers.get(variant.name)
        exact = header is not None and len(variant.parts) == 1
        need = self._need(variant, size, header if exact else None)
        return OfferedModel(
            variant.name,
            variant.quantization,
            len(variant.parts),
            size,
            self._bits(size, header if exact else None),
            need,
            exact,
            None if need is None else need <= self._free,
        )

    def _need(self, variant: Variant, size: int, header: GgufHeader | None) -> int | None:
        like = header or self._common
        if like is None:
            return None
        chosen = choose(list(self._listing.sizes), variant.name, "")
        projector = sum(self._listing.sizes[p] for role, p in chosen.files if role == "projector")
        need = memory.need(like, self.context, self._settings.parallel or 1, projector=projector)
        if header is None:
            need = memory.of_size(need, like, size, variant.quantization, projector)
        return need.total

    def _bits(self, size: int, header: GgufHeader | None) -> float | None:
        if header:
            return header.bits_per_weight
        whole = self._common if self._common and self._common.split_count == 1 else None
        count = whole.parameters if whole else self._listing.parameters
        data = size - (self._common.data_offset if self._common else 0)
        return 8 * data / count if count else None


def _peek(listing: hub.Listing, path: str) -> GgufHeader | None:
    """The header of a file of the repository; None where it cannot be read by its beginning."""
    if not 0 < listing.sizes[path] <= WIDE:
        return None
    with tempfile.TemporaryDirectory(prefix="overt-") as folder:
        try:
            return fetch_header(listing, path, Path(folder) / "header.gguf", _read)
        except (OvertError, OSError):
            return None


def _read(copy: Path) -> GgufHeader:
    return gguf.read(copy, whole=False)


def fetch_header(
    listing: hub.Listing, path: str, copy: Path, read: Callable[[Path], Kind]
) -> Kind | None:
    """The header of a file of the repository, whose beginning is written to `copy`.

    Args:
        copy: becomes a sparse file of the file's size: the tensors have to lie inside something.
        read: the reader of its format.

    Returns:
        None where as much as is fetched holds no header that can be read.

    Raises:
        As `Listing.some`; OSError: `copy` cannot be written.
    """
    size, have = listing.sizes[path], 0
    for wanted in _STEPS:
        start = listing.some(path, have, min(wanted, size) - have)
        with copy.open("r+b" if have else "w+b") as file:
            file.seek(have)
            file.write(start)
            file.truncate(size)
        have += len(start)
        with suppress(OvertError):
            header = read(copy)
            if header.data_offset <= have:
                return header
        if have < wanted or have >= size:  # that was all of it
            break
    return None


def _table(listing: hub.Listing, path: str, like: GgufHeader) -> GgufHeader | None:
    """The header of another quantization of a model, of which only the tensor table is read.

    What else it says is taken from `like`. None where the table is not where that one's is, or has
    other tensors.
    """
    size, length = listing.sizes[path], _length(like)
    begin = max(0, like.data_offset - length - _SLIP)
    if not begin < size <= WIDE:
        return None
    first = like.tensors[0]
    name = first.name.encode()
    mark = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(first.shape))
    key = b"general.alignment"
    head = b"GGUF" + struct.pack("<IQQQ", 3, len(like.tensors), 1, len(key)) + key
    head += struct.pack("<II", 4, like.alignment)
    try:
        read = listing.some(path, begin, min(length + 2 * _SLIP, size - begin))
        at = read.find(mark)
        if at < 0:
            return None
        with tempfile.TemporaryDirectory(prefix="overt-") as folder:
            copy = Path(folder) / "table.gguf"
            with copy.open("wb") as file:
                file.write(head + read[at:])
                file.truncate(size)
            header = gguf.read(copy, whole=False)
    except (OvertError, OSError):
        return None
    if [(t.name, t.shape) for t in header.tensors] != [(t.name, t.shape) for t in like.tensors]:
        return None
    start = -(-(begin + at + length) // like.alignment) * like.alignment
    return replace(like, tensors=header.tensors, data_offset=start, file_size=size)


def _length(header: GgufHeader) -> int:
    """Bytes of a tensor table: of each its name, shape, type and place (formats/gguf.py)."""
    return sum(24 + len(t.name.encode()) + 8 * len(t.shape) for t in header.tensors)
