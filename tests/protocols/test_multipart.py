"""Forms: what HTTP libraries send is read, in any chunks; anything else is refused, and no more."""

import email.policy
from collections.abc import AsyncIterator, Sequence
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.protocols import multipart
from overt.protocols.base import BadBody
from overt.protocols.multipart import FieldHeader, MultipartState

pytestmark = pytest.mark.anyio

TYPE = "multipart/form-data; boundary=xyz"


def _read(chunks: Sequence[bytes], boundary: bytes = b"xyz") -> list[tuple[FieldHeader, bytes]]:
    form = MultipartState(boundary)
    found: list[tuple[FieldHeader, bytes]] = []
    for chunk in chunks:
        for piece in form.feed(chunk):
            if isinstance(piece, FieldHeader):
                found.append((piece, b""))
            else:
                part, content = found[-1]
                found[-1] = (part, content + piece)
    form.end()
    return found


def _chunks(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    found, at = [], 0
    for size in sizes:
        found.append(data[at : at + size])
        at += size
    return [*found, data[at:]]


_name = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=9
)


@given(
    fields=st.dictionaries(_name, st.text(max_size=20), max_size=3),
    filename=_name,
    content=st.binary(max_size=200) | st.sampled_from([b"\r\n--", b"\r\n--x", b"--xyz\r\n", b""]),
    sizes=st.lists(st.integers(0, 40), max_size=40),
)
def test_what_httpx_sends_is_read_in_any_chunks(
    fields: dict[str, str], filename: str, content: bytes, sizes: list[int]
) -> None:
    sent = httpx2.Request(
        "POST", "http://here", data=fields, files={"file": (filename, content, "x/y")}
    )
    boundary = multipart.boundary(sent.headers["content-type"])
    found = _read(_chunks(sent.read(), sizes), boundary)
    assert found == [
        *((FieldHeader(name), value.encode()) for name, value in fields.items()),
        (FieldHeader("file", filename), content),
    ]


def _form(*parts: tuple[str, bytes]) -> bytes:
    blocks = [b"--xyz\r\n%b\r\n\r\n%b\r\n" % (head.encode(), body) for head, body in parts]
    return b"".join(blocks) + b"--xyz--\r\n"


PLAIN = _form(
    ('Content-Disposition: form-data; name="purpose"', b"batch"),
    ('content-disposition: form-data; name="file"; filename="a.txt"\r\nX: y', b"1\r\n2"),
)


@given(
    data=st.data(),
    edits=st.lists(
        st.tuples(st.integers(0, len(PLAIN)), st.integers(0, 6), st.binary(max_size=4)), max_size=4
    ),
)
def test_a_mutated_form_is_read_as_the_standard_library_does_or_refused(
    data: Any, edits: list[tuple[int, int, bytes]]
) -> None:
    sent = bytearray(PLAIN)
    for at, length, put in edits:
        sent[at : at + length] = put
    sizes = data.draw(st.lists(st.integers(1, 30), max_size=8))
    try:
        whole = _read([bytes(sent)])
    except BadBody:
        with pytest.raises(BadBody):
            _read(_chunks(bytes(sent), sizes))
        return
    assert _read(_chunks(bytes(sent), sizes)) == whole
    if sum(part.name in ("purpose", "file") for part, _ in whole) == 2 and not edits:
        assert whole == _by_email(bytes(sent))


def _by_email(sent: bytes) -> list[tuple[FieldHeader, bytes]]:
    message = BytesParser(EmailMessage, policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {TYPE}\r\n\r\n".encode() + sent
    )
    found = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        name = part.get_param("name", header="content-disposition")
        found.append((FieldHeader(name, part.get_filename()), part.get_payload(decode=True)))
    return found


def test_the_standard_library_agrees() -> None:
    assert _read([PLAIN]) == _by_email(PLAIN) == [
        (FieldHeader("purpose"), b"batch"), (FieldHeader("file", "a.txt"), b"1\r\n2"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"a b.txt"', "a b.txt"),
        ('"say %22hi%22.txt"', 'say "hi".txt'),  # browsers
        ('"say \\"hi\\".txt"', 'say "hi".txt'),  # curl
        ("plain.txt", "plain.txt"),
        ('"ü\N{SNOWMAN}.txt"', "ü\N{SNOWMAN}.txt"),
        ('"100%25.txt"', "100%25.txt"),  # only quotes and line ends are escaped
        ('""', ""),
    ],
)
def test_file_names(written: str, name: str) -> None:
    head = f"Content-Disposition: form-data; name=f; filename={written}"
    assert _read([_form((head, b""))]) == [(FieldHeader("f", name), b"")]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "ends in the middle"),
        (b"hello", "does not begin"),
        (b"--xyz", "ends in the middle"),
        (b"--xyzz\r\n", "followed by something else"),
        (PLAIN[:-9], "ends in the middle"),
        (_form(("X: y", b"")), "no content-disposition"),
        (_form(("Content-Disposition: form-data", b"")), "no name"),
        (_form(('Content-Disposition: form-data; name=""', b"")), "no name"),
        (_form(('Content-Disposition: attachment; name="x"', b"")), "not form-data"),
        (_form(("X: " + "y" * 9000, b"")), "8192 bytes"),
        (b"--xyz\r\n" + b"y" * 9000, "8192 bytes"),
        (_form(*[('Content-Disposition: form-data; name="x"', b"")] * 33), "32 parts"),
    ],
)
def test_what_is_no_form_is_refused(sent: bytes, said: str) -> None:
    with pytest.raises(BadBody, match=said):
        _read([sent])


@pytest.mark.parametrize(
    "kind",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=",
     f"multipart/form-data; boundary={'x' * 71}", "multipart/mixed; boundary=x"],
)  # fmt: skip
def test_another_content_type_is_refused(kind: str) -> None:
    with pytest.raises(BadBody):
        multipart.boundary(kind)


@pytest.mark.parametrize(
    "kind", ['Multipart/Form-Data; Boundary="a b"', "multipart/form-data;boundary=ab"]
)
def test_boundaries(kind: str) -> None:
    assert multipart.boundary(kind).replace(b" ", b"") == b"ab"


async def test_it_holds_no_more_than_it_must() -> None:
    """A part's content passes through: nothing of it waits but what could begin a boundary."""
    form = MultipartState(b"xyz")
    head = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    assert len(list(form.feed(head))) == 1
    for _ in range(100):
        sent = sum(len(piece) for piece in form.feed(b"\r\n-" * 1000))  # type: ignore[arg-type]
        assert 3000 - 10 <= sent <= 3000 + 10


async def test_chunks_may_be_empty() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b"", PLAIN[:10], b"", PLAIN[10:]):
            yield chunk

    pieces = [piece async for piece in multipart.read(chunks(), TYPE)]
    assert FieldHeader("file", "a.txt") in pieces
