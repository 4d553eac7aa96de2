"""A file of the store as an answer: whole or one range, in pieces, whatever its size.

Ranges are those of RFC 9110, section 14: one ``bytes`` range; several at once are answered with the
whole file, which the RFC allows. `If-Range` is honoured; the validator is the digest, so strong.
"""

import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from overt.errors import IntegrityError
from overt.models.sources.base import CHUNK


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` up to `end` (exclusive) of `size`; the status says whether it is all."""

    status: int
    start: int
    end: int
    size: int


def part(range_header: str | None, guard: str | None, etag: str, size: int) -> ByteRange:
    """What to send for a ``Range`` header.

    Args:
        asked: the ``Range`` header, or None.
        guard: the ``If-Range`` header, or None.
        etag: the validator of the file, with its quotes.
        size: bytes of the file.

    Returns:
        Status 200 (all), 206 (a part) or 416 (nothing of the file is in the range).
    """
    match = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", (range_header or "").replace(" ", ""))
    if not match or match[0] == "bytes=-" or (guard is not None and guard != etag):
        return ByteRange(200, 0, size, size)
    first, last = match.groups()
    if not first:  # the last N bytes
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if last and int(last) < int(first):
            return ByteRange(200, 0, size, size)  # no range at all, says section 14.1.1: ignored
    if start >= size or start >= end:
        return ByteRange(416, 0, 0, size)
    return ByteRange(206, start, end, size)


def send_file(request: Request, path: Path, size: int, headers: Mapping[str, str]) -> Response:
    """The answer with `path`, or with the part of it that was asked for. Opens it: needs a thread.

    Args:
        request: GET or HEAD.
        path: a blob.
        size: its bytes, as the manifest has them.
        headers: ``ETag`` among them.

    Raises:
        IntegrityError: it is gone or of another size by now.
    """
    chosen = part(
        request.headers.get("range"), request.headers.get("if-range"), headers["ETag"], size
    )
    sent = {**headers, "Accept-Ranges": "bytes"}
    if chosen.status == 416:
        return Response(status_code=416, headers={**sent, "Content-Range": f"bytes */{size}"})
    sent["Content-Length"] = str(chosen.end - chosen.start)
    sent.setdefault("Content-Type", "application/octet-stream")
    if chosen.status == 206:
        sent["Content-Range"] = f"bytes {chosen.start}-{chosen.end - 1}/{size}"
    if request.method == "HEAD":
        return Response(status_code=chosen.status, headers=sent)
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise IntegrityError(f"{path.name[:12]} cannot be read: {error.strerror}") from None
    if os.fstat(handle).st_size != size:
        os.close(handle)
        raise IntegrityError(f"{path.name[:12]} changed while it was asked for")
    return _HandleResponse(handle, chosen, sent)


class _HandleResponse(StreamingResponse):
    """Sends from a handle, which stays valid if the file is removed meanwhile; then closes it."""

    def __init__(self, handle: int, chosen: ByteRange, headers: Mapping[str, str]) -> None:
        super().__init__(self._pieces(handle, chosen), chosen.status, headers)
        self._handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self._handle)

    async def _pieces(self, handle: int, chosen: ByteRange) -> AsyncIterator[bytes]:
        place = chosen.start
        while place < chosen.end:
            wanted = min(CHUNK, chosen.end - place)
            piece = await to_thread.run_sync(os.pread, handle, wanted, place)
            if not piece:  # cut short under us: the missing bytes end the connection
                raise IntegrityError("a file became shorter while it was sent")
            place += len(piece)
            yield piece
