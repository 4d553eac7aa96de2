"""Send a model to an OCI registry: blobs that are not there yet, then the manifest.

A blob goes up in pieces (distribution specification, "Pushing a blob in chunks"). The address of an
upload that has begun is kept in a note, so that a push that was cut off goes on where the registry
says it is; a registry that has forgotten the upload gets it from the start. The registry itself
proves every digest when an upload is closed.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from overt.errors import BadRef, Failure, IntegrityError, NotFound, SourceFailed
from overt.models.sources.base import CHUNK, FetchedFile, FetchProgress, Report
from overt.models.sources.download import Network, origin_of, shown
from overt.models.sources.oci import describe
from overt.models.sources.registry import OCI_MANIFEST, RepositoryClient, complaint, pinned
from overt.models.sources.registry_request import RegistryReply
from overt.ref import Ref

PIECE = 64 << 20  # bytes of one request; also what is sent again after a break, at most
_MAX_CHUNK_BYTES = 1 << 30
_TRIES = 5  # in a row without a new byte
_BYTES = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        ref: pinned to the digest of the manifest.
        sent: bytes that went up.
        blobs, present: how many there are, and how many were there before.
    """

    ref: Ref
    digest: str
    sent: int
    blobs: int
    present: int


@dataclass(frozen=True, slots=True)
class _Blob:
    """Something to send: a file, or bytes that were made here."""

    label: str
    digest: str
    size: int
    source: Path | bytes

    def read(self, start: int, count: int, sent: Callable[[int], None]) -> Iterator[bytes]:
        """`count` bytes from `start`; `sent` hears how far it is."""
        if isinstance(self.source, bytes):
            yield self.source[start : start + count]
            return
        with self.source.open("rb", buffering=0) as file:
            file.seek(start)
            end = start + count
            while start < end:
                block = file.read(min(CHUNK, end - start))
                if not block:
                    raise Failure(f"{self.label} became shorter while it was sent", None)
                yield block
                start += len(block)
                sent(start)


@dataclass(frozen=True, slots=True)
class _Session:
    """An upload that has begun: where it goes on, and how many bytes the registry has."""

    location: str
    done: int
    piece: int = PIECE


class _NoPieces(Exception):
    """The registry takes whole blobs only."""


def push(
    ref: Ref,
    pieces: Sequence[FetchedFile],
    facts: Mapping[str, str],
    network: Network,
    notes: Path,
    report: Report,
) -> Pushed:
    """Send a model; what the registry has already is not sent again.

    Args:
        ref: an ``oci:`` ref with a tag, or without one for ``latest``.
        pieces: the files, in order; each digest is of the very bytes.
        facts: as `oci.describe`.
        notes: a folder for the addresses of uploads that have begun.

    Raises:
        BadRef: no ``oci:`` ref, or one with a digest.
        NeedsAccess, Refused: as registry_auth.py says.
        IntegrityError: the registry received other bytes than the digest states.
        SourceFailed: the registry did not take it.
    """
    if ref.scheme != "oci" or not ref.host:
        raise BadRef(f"{ref} is no place to push to", "write oci:host/name:tag")
    tag = ref.tag or "latest"
    if tag.startswith("sha256:"):
        raise BadRef(f"{ref} is a digest, and a push makes its own", "write oci:host/name:tag")
    registry = RepositoryClient(network, ref.host, ref.name, "pull,push")
    manifest, config = describe(pieces, facts)
    blobs = {
        f"sha256:{p.sha256}": _Blob(p.path, f"sha256:{p.sha256}", p.size, p.file) for p in pieces
    }
    made = "sha256:" + sha256(config).hexdigest()
    blobs.setdefault(made, _Blob("the configuration", made, len(config), config))
    sent = present = 0
    for blob in blobs.values():
        if _has(registry, blob):
            present += 1
            report(FetchProgress(f"{blob.label} is there already", 0, None))
        else:
            _upload(registry, blob, notes, report)
            sent += blob.size
    digest = "sha256:" + sha256(manifest).hexdigest()
    _put_manifest(registry, tag, manifest, digest)
    return Pushed(pinned(ref, ref.host, ref.name, digest), digest, sent, len(blobs), present)


def _has(registry: RepositoryClient, blob: _Blob) -> bool:
    reply = registry.call("HEAD", registry.url(f"blobs/{blob.digest}"))
    if reply.status in (302, 303, 307, 308):
        return True
    return reply.status == 200 and reply.headers.get("content-length") in (None, str(blob.size))


def _put_manifest(registry: RepositoryClient, tag: str, manifest: bytes, digest: str) -> None:
    url = registry.url(f"manifests/{tag}")
    reply = registry.call("PUT", url, {"Content-Type": OCI_MANIFEST}, manifest)
    if reply.status not in (200, 201, 202):
        raise _push_refused(registry, reply, "the manifest")
    stored = registry.manifest(tag)
    if stored.digest != digest:
        raise IntegrityError(
            f"{registry.host} has the manifest {stored.digest[:19]} where {digest[:19]} was sent",
            "somebody else may have pushed the same tag: push again, or choose another tag",
        )


def _upload(registry: RepositoryClient, blob: _Blob, notes: Path, report: Report) -> None:
    """Send one blob: in one request where it is small, in pieces that can be resumed otherwise."""
    tell = lambda done: report(FetchProgress(blob.label, done, blob.size, blob.digest))  # noqa: E731
    note = notes / f"{sha256(registry.url(blob.digest).encode()).hexdigest()[:32]}.json"
    session = _resumed(registry, note, blob) or _begin(registry)
    if session.done == 0 and blob.size <= session.piece:
        _close(registry, blob, session, tell)
        return
    failed, done = 0, session.done
    while session.done < blob.size:
        _write_note(note, session)
        try:
            session = _send_piece(registry, blob, session, tell)
        except _NoPieces:
            session = _begin(registry)
            break
        except SourceFailed:
            failed = failed + 1 if session.done <= done else 1
            if failed >= _TRIES:
                raise
            time.sleep(registry.network.pause * 2**failed)
            session = _where(registry, session, blob) or _begin(registry)
        done = max(done, session.done)
    _close(registry, blob, session, tell)
    note.unlink(missing_ok=True)


def _begin(registry: RepositoryClient) -> _Session:
    reply = registry.call("POST", registry.url("blobs/uploads/"), {"Content-Length": "0"})
    if reply.status != 202:
        raise _push_refused(registry, reply, "a new upload")
    least = reply.headers.get("oci-chunk-min-length", "")
    piece = max(PIECE, int(least)) if least.isdigit() and len(least) < 16 else PIECE
    return _Session(_location(registry, reply), 0, min(piece, _MAX_CHUNK_BYTES))


def _send_piece(
    registry: RepositoryClient, blob: _Blob, session: _Session, tell: Callable[[int], None]
) -> _Session:
    count = min(session.piece, blob.size - session.done)
    headers = {
        "Content-Type": _BYTES,
        "Content-Length": str(count),
        "Content-Range": f"{session.done}-{session.done + count - 1}",
    }
    content = partial(blob.read, session.done, count, tell)
    reply = registry.call("PATCH", session.location, headers, content, once=True)
    if session.done == 0 and reply.status in (400, 404, 405, 411, 415, 416, 501):
        raise _NoPieces
    if reply.status in (404, 416):
        raise SourceFailed(f"{registry.host} lost its place in {blob.label}", "push again")
    if reply.status not in (201, 202, 204):
        raise _push_refused(registry, reply, blob.label)
    has = _end(reply)
    if has is not None and has != session.done + count:
        raise SourceFailed(f"{registry.host} has {has} bytes of {blob.label}", "push again")
    return _Session(_location(registry, reply), session.done + count, session.piece)


def _where(registry: RepositoryClient, session: _Session, blob: _Blob) -> _Session | None:
    """What the registry has of an upload; None where it knows nothing about it any more."""
    with suppress(SourceFailed, NotFound):
        reply = registry.call("GET", session.location, once=True)
        has = _end(reply)
        if reply.status == 204 and has is not None and has <= blob.size:
            return _Session(_location(registry, reply, session.location), has, session.piece)
    return None


def _close(
    registry: RepositoryClient, blob: _Blob, session: _Session, tell: Callable[[int], None]
) -> None:
    """End an upload, with whatever is left of the blob."""
    parts = urlsplit(session.location)
    query = urlencode([*parse_qsl(parts.query), ("digest", blob.digest)])
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
    left = blob.size - session.done
    headers = {"Content-Type": _BYTES, "Content-Length": str(left)}
    content = partial(blob.read, session.done, left, tell) if left else None
    reply = registry.call("PUT", url, headers, content)
    if reply.status == 400 and b"DIGEST" in reply.body:
        raise IntegrityError(
            f"{registry.host} received other bytes for {blob.label} than {blob.digest[:19]}",
            "type `overt verify`, then push again",
        )
    if reply.status not in (201, 204):
        raise _push_refused(registry, reply, blob.label)


def _location(registry: RepositoryClient, reply: RegistryReply, otherwise: str = "") -> str:
    """Where an upload goes on. It must be the registry itself: the login goes there."""
    there = urljoin(reply.url, reply.headers.get("location") or otherwise)
    parts, base = urlsplit(there), urlsplit(registry.base)
    if parts.scheme == "http" and base.scheme == "https" and parts.netloc == base.netloc:
        there = "https" + there.removeprefix("http")  # a registry that does not know of its proxy
    if not there or origin_of(there) != origin_of(registry.base):
        raise SourceFailed(
            f"{registry.host} sends uploads to {shown(there)}, which is another host",
            "nothing was sent there; ask whoever runs the registry",
        )
    return there


def _end(reply: RegistryReply) -> int | None:
    """How many bytes a Range header of an upload says are there: ``0-9`` is 10, ``0-0`` none."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d{1,15})", reply.headers.get("range", ""))
    if not match:
        return None
    return int(match[1]) + 1 if int(match[1]) else 0


def _resumed(registry: RepositoryClient, note: Path, blob: _Blob) -> _Session | None:
    """An upload that an earlier push began, if the registry still has it."""
    try:
        note_values = json.loads(note.read_bytes())
        location, piece = str(note_values["location"]), int(note_values["piece"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if origin_of(location) != origin_of(registry.base) or not 0 < piece <= _MAX_CHUNK_BYTES:
        return None
    return _where(registry, _Session(location, 0, piece), blob)


def _write_note(note: Path, session: _Session) -> None:
    """Only for its owner: an upload's address may be signed, and so be a key to it."""
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = note.with_suffix(f".{os.getpid()}")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"location": session.location, "piece": session.piece}, file)
    new.replace(note)


def _push_refused(registry: RepositoryClient, reply: RegistryReply, what: str) -> SourceFailed:
    reason = complaint(reply)
    return SourceFailed(f"{registry.host} does not take {what}: it answers {reply.status}", reason)
