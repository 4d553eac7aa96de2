"""Forms with files (``multipart/form-data``, RFC 7578), read piece by piece.

Strict on purpose: what a browser or an HTTP library sends is read, what none would send is refused.
A part's content is never held whole, so a form may be larger than memory.
"""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from overt.protocols.base import BadBody

_HEADERS = 8192  # bytes of one part's headers
_PARTS = 32
_BOUNDARY = re.compile(
    r"""boundary=(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)""", re.IGNORECASE
)
_PARAMETER = re.compile(r""";\s*([A-Za-z]+)(\*?)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"\s]*)""")


@dataclass(frozen=True, slots=True)
class FieldHeader:
    """What comes before the content of one field. `filename` is None where it is no file."""

    name: str
    filename: str | None = None


Piece = FieldHeader | bytes
"""A `FieldHeader`, then its content in any number of pieces, then the next."""


async def read(chunks: AsyncIterator[bytes], content_type: str) -> AsyncIterator[Piece]:
    """The form that `chunks` are, with `content_type` as the request's header says.

    Raises:
        BadBody: not a form, or not a whole one.
    """
    form = MultipartState(boundary(content_type))
    async for chunk in chunks:
        for piece in form.feed(chunk):
            yield piece
    form.end()


def boundary(content_type: str) -> bytes:
    """What stands between the parts.

    Raises:
        BadBody: the header is of something else, or names none.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise BadBody(f"the body is {kind or 'of no kind'} and must be multipart/form-data")
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadBody("the content-type names no boundary of 1 to 70 characters")
    return (match[1] or match[2]).encode("latin-1", "replace")


class MultipartState:
    """The state between two chunks."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._waiting = bytearray(b"\r\n")  # so that the first delimiter is as all others
        self._state = "start"
        self._parts = 0

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """The pieces that `chunk` completes.

        Raises:
            BadBody: not a form.
        """
        waiting = self._waiting
        waiting += chunk
        while True:
            if self._state == "start":
                if not self._begins(self._delimiter):
                    return
                self._state = "delimiter"
            elif self._state == "delimiter":
                if len(waiting) < 2:
                    return
                self._state = self._after(bytes(waiting[:2]))
                del waiting[:2]
            elif self._state == "headers":
                part = self._headers()
                if part is None:
                    return
                self._state = "content"
                yield part
            elif self._state == "content":
                content = self._content()
                if content:
                    yield content
                if self._state == "content":
                    return
            else:  # what follows the last part means nothing (RFC 2046, 5.1.1)
                waiting.clear()
                return

    def end(self) -> None:
        """Raises BadBody where the form is not over."""
        if self._state != "over":
            raise BadBody("the form ends in the middle")

    def _begins(self, word: bytes) -> bool:
        start = bytes(self._waiting[: len(word)])
        if not word.startswith(start):
            raise BadBody("the form does not begin with its boundary")
        if len(start) < len(word):
            return False
        del self._waiting[: len(word)]
        return True

    def _after(self, two: bytes) -> str:
        if two == b"--":
            return "over"
        if two != b"\r\n":
            raise BadBody("a boundary of the form is followed by something else than a line's end")
        self._parts += 1
        if self._parts > _PARTS:
            raise BadBody(f"the form has more than {_PARTS} parts")
        return "headers"

    def _headers(self) -> FieldHeader | None:
        end = self._waiting.find(b"\r\n\r\n", 0, _HEADERS)
        if end < 0:
            if len(self._waiting) >= _HEADERS:
                raise BadBody(f"a part of the form has more than {_HEADERS} bytes of headers")
            return None
        lines = bytes(self._waiting[:end]).decode("utf-8", "replace").split("\r\n")
        del self._waiting[: end + 4]
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-disposition":
                return _disposition(value)
        raise BadBody("a part of the form has no content-disposition")

    def _content(self) -> bytes:
        waiting = self._waiting
        end = waiting.find(self._delimiter)
        if end >= 0:
            content = bytes(waiting[:end])
            del waiting[: end + len(self._delimiter)]
            self._state = "delimiter"
            return content
        # The last bytes may be the beginning of a delimiter.
        sure = max(len(waiting) - len(self._delimiter) + 1, 0)
        content = bytes(waiting[:sure])
        del waiting[:sure]
        return content


def _disposition(value: str) -> FieldHeader:
    kind, _, rest = value.partition(";")
    if kind.strip().lower() != "form-data":
        raise BadBody("a part of the form is not form-data")
    parameters = {
        name.lower(): _text(text)
        for name, star, text in _PARAMETER.findall(";" + rest)
        if not star  # forbidden in forms (RFC 7578, 4.2)
    }
    if not parameters.get("name"):
        raise BadBody("a part of the form has no name")
    return FieldHeader(parameters["name"], parameters.get("filename"))


def _text(value: str) -> str:
    """A parameter's value: quoted as browsers do (``%22``), as curl does (``\\"``), or not."""
    if value.startswith('"'):
        value = re.sub(r"\\([\"\\])", r"\1", value[1:-1])
    for escape, character in (("%22", '"'), ("%0D", "\r"), ("%0A", "\n")):
        value = value.replace(escape, character)
    return value
