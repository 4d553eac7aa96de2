"""The contract of a source: a ref goes in, a `FetchPlan` comes out, and the plan collects files.

A source is one module of this folder with one function::

    def plan(ref: Ref, network: Network, pins: Mapping[str, str]) -> FetchPlan

`plan` reads metadata only and pins the ref: a plan for the same pinned ref always collects the same
bytes. `FetchPlan.collect` then brings the bytes to a `Staging` (a folder of its own, resumable) and
says what each file is. The store moves them in; a source never touches the store.

`pins` are SHA-256 digests (64 hex) by file name that the catalogue vouches for: a file whose name
is in it must have that digest, whatever its origin says.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from overt.ref import Ref

if TYPE_CHECKING:
    from overt.models.sources.download import Network
    from overt.models.sources.staging import Staging

Role = Literal[
    "weights",
    "projector",
    "adapter",
    "draft",
    "tokenizer",
    "template",
    "config",
    "parameters",
    "system",
    "messages",
    "recipe",
    "licence",
    "card",
    "other",
]

CHUNK = 1 << 20  # bytes read at once, everywhere


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How far a long job is: `done` of `total` bytes (None where the origin does not say).

    `digest` is ``sha256:`` and 64 hex where the origin states it of the file that comes.
    """

    what: str
    done: int
    total: int | None
    digest: str = field(default="", compare=False)


Report = Callable[[FetchProgress], None]


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file of a model, complete, checked and still outside the store.

    Attributes:
        role: what it is for.
        path: its path inside the model, as its origin names it (`ref.safe_member` holds).
        file: where its bytes are now, on the store's own disk.
        sha256: 64 hex, of those bytes.
        size: bytes.
    """

    role: Role
    path: str
    file: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything a plan brought, with facts that may only be known once it is here.

    `created` is when the origin published it (ISO 8601) as far as its own bytes or commit say, so
    that it is the same on every machine; `origin` is added to the plan's.
    """

    pieces: tuple[FetchedFile, ...]
    licence: str | None = None
    created: str = ""
    origin: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a source will do for one pinned ref.

    Attributes:
        ref: pinned: a version or a commit, never a moving name.
        origin: facts about where the bytes come from; the same on every machine, without the
            address of a mirror, and never a credential.
        collect: bring the bytes; resumes what the desk already holds.
    """

    ref: Ref
    origin: Mapping[str, str]
    collect: "Callable[[Staging], Collected]"


class SourcePlanner(Protocol):
    """The one function of a source's module."""

    def __call__(self, ref: Ref, network: "Network", pins: Mapping[str, str]) -> FetchPlan: ...


def sha256_of(path: Path, report: Callable[[int], None] | None = None) -> str:
    """64 hex digits; `report` is told the bytes read so far. Raises OSError."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(CHUNK):
            digest.update(block)
            done += len(block)
            if report:
                report(done)
    return digest.hexdigest()
