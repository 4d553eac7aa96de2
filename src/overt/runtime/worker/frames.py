"""What a worker and its parent say to each other, and the bytes it travels as.

A frame is a little-endian 32-bit length, then that many bytes of msgpack: the array
``(id, kind, body)`` of a uint32, a fixstr of at most 31 ASCII letters and a bin32. Only this one
encoding of it is accepted, so the parser is a handful of comparisons; a worker is not trusted, and
whatever it sends ends in frames or in `BadFrame`.

Id 0 is about the worker itself, any other id is one call.

==========  ==========  ====  =================================================================
from        kind        id    body
==========  ==========  ====  =================================================================
parent      enter       0     JSON: what the sandbox needs (see host_main)
worker      entered     0     JSON: layers in force, layers missing
parent      load        0     JSON: host and its parameters
worker      ready       0     JSON: what `WorkerHost.load` returned
worker      failed      0     text: why it cannot go on; the process ends
parent      call/KIND   call  the request, as `WorkerHost.handle` takes it
parent      cancel      call  empty
parent      more        call  uint32: that many bytes of chunks were taken, send more
worker      chunk       call  one chunk of the answer
worker      end         call  empty: the answer is complete (or was cancelled)
worker      refused     call  body of the `HostError` that `WorkerHost.handle` raised
worker      error       call  text of any other exception `WorkerHost.handle` raised
==========  ==========  ====  =================================================================

A worker may have `WINDOW` bytes of chunks under way per call (each counted with `OVERHEAD`) and
waits for ``more`` beyond that, so neither side ever holds an unbounded queue.
"""

import struct
from typing import NamedTuple

LIMIT = 64 << 20
"""Longest frame, in bytes, either side sends or accepts."""
WINDOW = 1 << 20
OVERHEAD = 64

_HEAD = struct.Struct("<I")
_OPENING = struct.Struct(">BBIB")
_BODY = struct.Struct(">BI")
_MIN_FRAME_BYTES = _OPENING.size + _BODY.size


class BadFrame(Exception):
    """The other side sent bytes that are no frame, or a frame out of turn."""


class HostError(Exception):
    """Raised in `WorkerHost.handle` to refuse one request with a body the caller gets verbatim."""

    def __init__(self, body: bytes) -> None:
        super().__init__(f"{len(body)} bytes")
        self.body = body


class WorkerFrame(NamedTuple):
    id: int
    kind: str
    body: bytes


def pack(id: int, kind: str, body: bytes = b"") -> bytes:
    """One frame as bytes.

    Raises:
        ValueError: id, kind or body out of the bounds above.
    """
    name = kind.encode("ascii")
    size = _MIN_FRAME_BYTES + len(name) + len(body)
    if not 0 <= id < 1 << 32 or not 0 < len(name) < 32 or size > LIMIT:
        raise ValueError(f"frame {id} {kind!r} of {size} bytes is out of bounds")
    opening = _OPENING.pack(0x93, 0xCE, id, 0xA0 | len(name))
    return b"".join((_HEAD.pack(size), opening, name, _BODY.pack(0xC6, len(body)), body))


def unpack(data: bytes) -> WorkerFrame:
    """The frame in `data`, without its length.

    Raises:
        BadFrame: anything but what `pack` writes.
    """
    if len(data) < _MIN_FRAME_BYTES:
        raise BadFrame(f"{len(data)} bytes are no frame")
    array, uint, id, name = _OPENING.unpack_from(data)
    start = _OPENING.size + (name & 0x1F)
    if array != 0x93 or uint != 0xCE or name & 0xE0 != 0xA0 or name == 0xA0:
        raise BadFrame("not an array of (id, kind, body)")
    if len(data) < start + _BODY.size:
        raise BadFrame("the frame ends inside its kind")
    kind, (binary, size) = data[_OPENING.size : start], _BODY.unpack_from(data, start)
    start += _BODY.size
    if binary != 0xC6 or size != len(data) - start or not kind.isascii():
        raise BadFrame("the body is not what its length says")
    return WorkerFrame(id, kind.decode("ascii"), data[start:])


class FrameSplitter:
    """Cuts a stream of bytes into frames. Holds at most one incomplete frame."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, data: bytes) -> list[WorkerFrame]:
        """The frames that `data` completes.

        Raises:
            BadFrame: the stream is broken; nothing after it can be trusted.
        """
        held, frames, at = self._held, [], 0
        held += data
        while len(held) - at >= _HEAD.size:
            (size,) = _HEAD.unpack_from(held, at)
            if size > self._limit:
                raise BadFrame(f"a frame of {size} bytes is longer than {self._limit}")
            if len(held) - at - _HEAD.size < size:
                break
            at += _HEAD.size
            frames.append(unpack(bytes(held[at : at + size])))
            at += size
        del held[:at]
        return frames
