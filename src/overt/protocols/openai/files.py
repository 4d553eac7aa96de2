"""OpenAI's files (``/v1/files``): what a client uploads, and what batches write.

What is known of a file is a record; its content lies in a folder, under the file's id and, where it
expires, the second it does.
"""

import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import anyio
import msgspec
from msgspec import UNSET, UnsetType

from overt.errors import NotFound, OutOfDisk
from overt.protocols import disk, multipart
from overt.protocols.base import (
    BadBody,
    Caller,
    HttpCall,
    HttpReply,
    HttpRoute,
    ServicesInterface,
    Stream,
    encode,
    new_id,
)
from overt.protocols.openai import stored

MAX_FILE_BYTES = 512 << 20
"""Bytes of one file, as OpenAI has it."""

PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_KIND = "file"
_FIELD = 4096  # bytes of a field of the form that is no file
_CHUNK = 1 << 18
_EXPIRY = (3600, 2592000)  # seconds, least and most


class FileObject(msgspec.Struct, frozen=True):
    """A FileObject. Times are whole Unix seconds."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"
    expires_at: int | UnsetType = UNSET


class DeletedFile(msgspec.Struct, frozen=True):
    id: str
    object: str = "file"
    deleted: bool = True


class Expiry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expires_after`, for files and for what a batch writes."""

    anchor: Literal["created_at"]
    seconds: int

    def check(self, path: str) -> "Expiry":
        """Raises BadBody where the seconds are out of range."""
        least, most = _EXPIRY
        if not least <= self.seconds <= most:
            raise BadBody(
                f"{path}.seconds is {self.seconds} and must be {least} to {most}", f"{path}.seconds"
            )
        return self


# ---- for batches -----------------------------------------------------------------------------


async def find(services: ServicesInterface, caller: Caller, id: str) -> FileObject:
    """One file of the caller's.

    Raises:
        NotFound: there is none.
    """
    body = await services.records.get(_KIND, id, caller)
    if body is None:
        raise NotFound(f"No such File object: {id[:80]}")
    return msgspec.json.decode(body, type=FileObject)


def path_of(services: ServicesInterface, file: FileObject) -> Path:
    """Where the content is."""
    name = file.id if file.expires_at is UNSET else f"{file.id}.{file.expires_at}"
    return _folder(services) / name


async def write(
    services: ServicesInterface,
    caller: Caller,
    name: str,
    lines: Iterable[bytes],
    *,
    seed: str,
    seconds: int | None = None,
) -> FileObject | None:
    """A file of purpose ``batch_output``; None where there are no lines.

    Its id follows from `seed`, so that writing it again after a restart makes no second one.

    Raises:
        OutOfDisk: it could not be written.
    """
    id = f"file-{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
    part = _folder(services) / f"{id}.part"

    def save() -> int:
        with _private(part) as file:
            for line in lines:
                file.write(line)
            return file.tell()

    try:
        size = await anyio.to_thread.run_sync(save)
    except OSError as error:
        raise _full(error) from None
    if size == 0:
        part.unlink(missing_ok=True)
        return None
    return await _keep(services, caller, _described(id, size, name, "batch_output", seconds), part)


async def sweep(services: ServicesInterface) -> None:
    """Remove contents that expired or never became a file. Call it at the start of a server."""
    await anyio.to_thread.run_sync(_sweep, _folder(services), True)


# ---- handlers --------------------------------------------------------------------------------


async def create(call: HttpCall) -> HttpReply:
    """``POST /v1/files``."""
    id = new_id("file-")
    folder = _folder(call.services)
    await anyio.to_thread.run_sync(_sweep, folder, False)
    upload = _Upload(folder / f"{id}.part")
    try:
        await upload.read(_body(call), call.headers.get("content-type", ""))
        fields = upload.fields
        if upload.filename is None:
            raise BadBody("file is missing: send one as a part of the form", "file")
        purpose = fields.get("purpose")
        if purpose not in PURPOSES:
            problem = "is missing" if purpose is None else f"is {purpose!r}"
            raise BadBody(f"purpose {problem} and must be one of {', '.join(PURPOSES)}", "purpose")
        seconds = _expiry(fields)
        described = _described(id, upload.size, upload.filename, purpose, seconds)
        return HttpReply(await _keep(call.services, call.caller, described, upload.path))
    except OSError as error:
        raise _full(error) from None
    finally:
        upload.path.unlink(missing_ok=True)


async def retrieve(call: HttpCall) -> HttpReply:
    """``GET /v1/files/{id}``."""
    return HttpReply(await find(call.services, call.caller, call.params["id"]))


async def content(call: HttpCall) -> Stream:
    """``GET /v1/files/{id}/content``."""
    file = await find(call.services, call.caller, call.params["id"])
    path = path_of(call.services, file)
    if not path.exists():
        raise NotFound(f"No such File object: {file.id}")
    return Stream(
        _pieces(path), "application/octet-stream", {"content-length": str(path.stat().st_size)}
    )


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /v1/files/{id}``."""
    file = await find(call.services, call.caller, call.params["id"])
    await call.services.records.delete(_KIND, file.id, call.caller)
    path_of(call.services, file).unlink(missing_ok=True)
    return HttpReply(DeletedFile(file.id))


async def list_(call: HttpCall) -> HttpReply:
    """``GET /v1/files``, newest first unless asked otherwise."""
    limit = stored.integer(call, "limit", 10_000, least=1, most=10_000)
    newest_first = stored.newest_first(call)
    purpose = call.query.get("purpose")
    matching: list[FileObject] = []
    after = call.query.get("after")
    while len(matching) <= limit:
        bodies = await call.services.records.list(
            _KIND, call.caller, limit=limit + 1, after=after, newest_first=newest_first
        )
        files = [msgspec.json.decode(body, type=FileObject) for body in bodies]
        matching += [file for file in files if purpose in (None, file.purpose)]
        if len(files) <= limit:
            break
        after = files[-1].id
    return stored.page(matching, [file.id for file in matching], limit)


# ---- contents --------------------------------------------------------------------------------


class _Upload:
    """A form on its way to disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.size = 0

    async def read(self, chunks: AsyncIterator[bytes], content_type: str) -> None:
        """Take the form in.

        Raises:
            BadBody: not the form of a file, or one that is too large.
            OSError: it could not be written. OutOfDisk: too little would be left free.
        """
        part = multipart.FieldHeader("")
        values: dict[str, bytes] = {}
        looked = -disk.LOOK
        with _private(self.path) as file:
            async for piece in multipart.read(chunks, content_type):
                if isinstance(piece, multipart.FieldHeader):
                    part = self._begin(piece, values)
                elif part.name == "file":
                    self.size += len(piece)
                    if self.size > MAX_FILE_BYTES:
                        raise BadBody(f"the file is larger than {MAX_FILE_BYTES >> 20} MiB", "file")
                    if self.size - looked >= disk.LOOK:
                        disk.room(self.path.parent)
                        looked = self.size
                    file.write(piece)
                else:
                    values[part.name] += piece
                    if len(values[part.name]) > _FIELD:
                        raise BadBody(f"{part.name} has more than {_FIELD} bytes", part.name)
        for name, value in values.items():
            try:
                self.fields[name] = value.decode()
            except UnicodeDecodeError:
                raise BadBody(f"{name} is not UTF-8", name) from None

    def _begin(
        self, part: multipart.FieldHeader, values: dict[str, bytes]
    ) -> multipart.FieldHeader:
        known = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
        if part.name == "file":
            if self.filename is not None:
                raise BadBody("the form has two files and must have one", "file")
            self.filename = _plain(part.filename or "upload")
        elif part.name not in known:
            raise BadBody(f"unknown field {part.name[:80]!r}", unknown=part.name[:80])
        elif part.name in values:
            raise BadBody(f"{part.name} is given twice", part.name)
        else:
            values[part.name] = b""
        return part


def _private(path: Path) -> BinaryIO:
    """A new file that nobody else may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.fdopen(os.open(path, flags, 0o600), "wb", _CHUNK)


def _plain(filename: str) -> str:
    """Its last component, without what would break a line."""
    name = filename.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in name if c.isprintable())[:255] or "upload"


async def _body(call: HttpCall) -> AsyncIterator[bytes]:
    if call.chunks is None:
        yield call.body
        return
    async for chunk in call.chunks:
        yield chunk


def _expiry(fields: dict[str, str]) -> int | None:
    anchor, seconds = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise BadBody("expires_after[anchor] must be created_at", "expires_after[anchor]")
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 10):
        raise BadBody("expires_after[seconds] must be a whole number", "expires_after[seconds]")
    return Expiry("created_at", int(seconds)).check("expires_after").seconds


def _described(id: str, size: int, name: str, purpose: str, seconds: int | None) -> FileObject:
    now = int(time.time())
    return FileObject(
        id, size, now, name, purpose, expires_at=UNSET if seconds is None else now + seconds
    )


async def _keep(
    services: ServicesInterface, caller: Caller, file: FileObject, part: Path
) -> FileObject:
    # The content first: a record never names a file that is not there.
    part.replace(path_of(services, file))
    expires = None if file.expires_at is UNSET else float(file.expires_at)
    await services.records.put(_KIND, file.id, caller, encode(file), expires=expires)
    return file


async def _pieces(path: Path) -> AsyncGenerator[bytes, None]:
    with path.open("rb") as file:
        while piece := await anyio.to_thread.run_sync(file.read, _CHUNK):
            yield piece


def _sweep(folder: Path, parts: bool) -> None:
    """Remove expired contents and, with `parts`, those of uploads that a killed server left."""
    now = time.time()
    for path in folder.glob("*.*"):
        ending = path.suffix[1:]
        if (parts and ending == "part") or (ending.isdigit() and int(ending) <= now):
            path.unlink(missing_ok=True)


def _folder(services: ServicesInterface) -> Path:
    return services.files / "uploads"


def _full(error: OSError) -> OutOfDisk:
    return OutOfDisk(f"the file could not be kept: {error.strerror or error}", "free some disk")


ROUTES: tuple[HttpRoute, ...] = (
    HttpRoute(
        "POST", "/v1/files", create, "Upload a file", limit=MAX_FILE_BYTES + (1 << 20), upload=True
    ),
    HttpRoute("GET", "/v1/files", list_, "List files"),
    HttpRoute("GET", "/v1/files/{id}", retrieve, "What is known of a file"),
    HttpRoute("GET", "/v1/files/{id}/content", content, "The content of a file"),
    HttpRoute("DELETE", "/v1/files/{id}", delete, "Delete a file"),
)
