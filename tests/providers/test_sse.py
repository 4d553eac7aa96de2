"""Server-sent events, beside a second reader written line by line as the standard has it."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from overt.errors import ProviderFailed
from overt.providers.base import ServerEvent
from overt.providers.http.sse import EventSplitter


def heard(*chunks: bytes, longest: int = 1 << 20) -> list[ServerEvent]:
    splitter = EventSplitter(longest)
    return [said for chunk in chunks for said in splitter.feed(chunk)]


def by_the_book(stream: bytes) -> list[ServerEvent]:
    """HTML, section 9.2.6, word by word, with the whole stream at hand."""
    found, name, data = [], b"", b""
    lines = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines[:-1]:
        if line == b"":
            if data != b"":
                found.append(ServerEvent(name.decode("utf-8", "replace"), data.removesuffix(b"\n")))
            name, data = b"", b""
        elif line.startswith(b":"):
            continue
        else:
            field, value = line.split(b":", 1) if b":" in line else (line, b"")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"event":
                name = value
            elif field == b"data":
                data += value + b"\n"
    return found


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\n", [ServerEvent("", b"one")]),
        (b"data: one\r\n\r\n", [ServerEvent("", b"one")]),
        (b"data: one\r\r", [ServerEvent("", b"one")]),
        (b"\xef\xbb\xbfdata: one\n\n", [ServerEvent("", b"one")]),
        (
            b"event: a\ndata: one\n\ndata: two\n\n",
            [ServerEvent("a", b"one"), ServerEvent("", b"two")],
        ),
        (b"data: one\ndata:two\ndata\n\n", [ServerEvent("", b"one\ntwo\n")]),
        (b"data:  one\n\n", [ServerEvent("", b" one")]),
        (b"data\n\n", [ServerEvent("", b"")]),
        (b": hello\nid: 7\nretry: 5\nother: x\ndata: one\n\n", [ServerEvent("", b"one")]),
        (b"event: a\n\ndata: one\n\n", [ServerEvent("", b"one")]),
        (b"data: one\n", []),
        (b" data: one\n\n", []),
        (b"\xef\xbb", []),
        (b"data: \xff\xe2\x82\n\n", [ServerEvent("", b"\xff\xe2\x82")]),
    ],
)
def test_events_in_every_cut(stream: bytes, events: list[ServerEvent]) -> None:
    assert by_the_book(stream) == events
    assert heard(stream) == events
    assert heard(*(bytes((byte,)) for byte in stream)) == events
    for cut in range(len(stream) + 1):
        assert heard(stream[:cut], stream[cut:]) == events


_PIECES = some.sampled_from(
    [b"data", b"event", b":", b" ", b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf", b"x", b"\xff",
     b"data: x\n\n", b"", b"id", b": c"]
)  # fmt: skip


@given(some.lists(_PIECES | some.binary(max_size=4), max_size=40), some.lists(some.integers(0, 60)))
def test_any_bytes_in_any_cuts_are_read_by_the_book(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert heard(*chunks) == by_the_book(stream)


def test_a_last_event_without_its_empty_line_is_heard_at_the_end() -> None:
    for stream in (b"data: [DONE]", b"data: [DONE]\n", b"data: [DONE]\r\n", b"data: [DONE]\n\n"):
        splitter = EventSplitter()
        assert [*splitter.feed(stream), *splitter.end()] == [ServerEvent("", b"[DONE]")]
    assert EventSplitter().end() == []


@pytest.mark.parametrize(
    "chunks",
    [
        [b"data: ", b"a" * 60, b"a" * 60],
        [b"data: " + b"a" * 120 + b"\n\n"],
        [b"data: " + b"a" * 60 + b"\n", b"data: " + b"a" * 60 + b"\n\n"],
        [b"data\n"] * 102,
        [b":" + b"a" * 120],
    ],
)
def test_lines_and_events_are_bounded(chunks: list[bytes]) -> None:
    with pytest.raises(ProviderFailed, match="more than 100 bytes") as error:
        heard(*chunks, longest=100)
    assert error.value.billed


def test_a_long_line_in_small_pieces_takes_linear_time() -> None:
    splitter = EventSplitter()
    for _ in range(200_000):  # squared, this is minutes
        splitter.feed(b"data")
    assert len(splitter.feed(b"\ndata: x\n\n")) == 1
