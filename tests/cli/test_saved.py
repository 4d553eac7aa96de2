"""Saved chats: what goes in comes out, and nothing else is taken for one."""

import json
import random
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import (
    ImagePart,
    Message,
    Sampling,
    TextPart,
    ThoughtPart,
    ToolCallPart,
    ToolResultPart,
)
from overt.cli.options import RANGES
from overt.cli.saved_chats import SavedChat, decode, encode, load, names, save
from overt.errors import BadRequest, FormatError, NotFound

_text = st.text(st.characters(exclude_categories=["Cs"]))
_part = st.one_of(
    st.builds(TextPart, _text),
    st.builds(ImagePart, st.binary(), _text),
    st.builds(ThoughtPart, _text, st.none() | _text),
    st.builds(ToolCallPart, _text, _text, _text, st.none() | _text),
    st.builds(ToolResultPart, _text, _text, st.booleans()),
)
_message = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.lists(_part, max_size=4).map(tuple),
)
_sampling = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 100),
    top_k=st.none() | st.integers(0, 1_000_000),
    top_p=st.none() | st.floats(0, 1),
    typical_p=st.none() | st.floats(0, 1),
    repeat_last_n=st.none() | st.integers(-1, 1_000_000),
    seed=st.none() | st.integers(0, 2**32 - 2),
)
_chat = st.builds(
    SavedChat,
    model=_text,
    digest=_text,
    messages=st.lists(_message, max_size=4).map(tuple),
    system=st.none() | _text,
    sampling=_sampling,
    max_tokens=st.none() | st.integers(1, 10_000_000),
    stop=st.lists(_text).map(tuple),
    thinking=st.none() | st.booleans(),
)
SMALL = SavedChat(
    "smollm2",
    "sha256:00",
    (Message.of("user", "hello"), Message("assistant", (ThoughtPart("hm"), TextPart("hi")))),
    sampling=Sampling(temperature=0.5, seed=7),
    stop=("###",),
)


def test_every_number_of_sampling_has_a_range() -> None:
    assert {field.name for field in fields(Sampling)} <= set(RANGES)


@given(_chat)
def test_a_chat_comes_back_as_it_was(chat: SavedChat) -> None:
    assert decode(encode(chat)) == chat


def test_saving_replaces_whole_files_for_its_owner_only(home: Path) -> None:
    path = save(home, "monday", SMALL)
    assert path == home / "chats/monday.json"
    assert path.stat().st_mode & 0o077 == 0
    changed = SavedChat("gemma3", "", ())
    save(home, "monday", changed)
    assert load(home, "monday") == changed
    assert [item.name for item in path.parent.iterdir()] == ["monday.json"]
    assert names(home) == ["monday"]


def test_a_failed_save_leaves_the_old_chat(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(home, "monday", SMALL)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(Exception, match="is full; free some") as caught:
        save(home, "monday", SavedChat("gemma3", "", ()))
    assert getattr(caught.value, "exit_code", None) == 4
    assert load(home, "monday") == SMALL
    assert [item.name for item in (home / "chats").iterdir()] == ["monday.json"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a\0b", "é", "x" * 101])
def test_a_name_cannot_leave_the_folder(home: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="is not a name for a chat"):
        save(home, name, SMALL)
    with pytest.raises(BadRequest, match="is not a name for a chat"):
        load(home, name)
    assert list(home.iterdir()) == []


def test_a_chat_that_is_not_there_names_those_that_are(home: Path) -> None:
    with pytest.raises(NotFound, match="nothing is saved yet"):
        load(home, "tuesday")
    save(home, "monday", SMALL)
    with pytest.raises(NotFound, match="saved: monday"):
        load(home, "tuesday")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"overt_chat": 2}, "Invalid enum value 2"),
        ({"sampling": {"temperature": -1}}, "sets temperature to -1; it goes from 0 to 100"),
        ({"sampling": {"heat": 1}}, "unexpected keyword argument 'heat'"),
        ({"sampling": {"top_k": 1.5}}, "sets top_k to 1.5; it goes from 0 to 1000000"),
        ({"max_tokens": 0}, "sets max_tokens to 0"),
        ({"messages": [{"role": "king", "parts": []}]}, "Invalid enum value 'king'"),
        ({"messages": [{"role": "user", "parts": [{"type": "video"}]}]}, "Invalid value 'video'"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_what_is_not_a_chat_is_refused_with_the_reason(
    change: dict[str, object], reason: str
) -> None:
    file = json.loads(encode(SMALL)) | change
    with pytest.raises(FormatError, match=reason):
        decode(json.dumps(file).encode())


def test_mutated_files_are_loaded_or_refused() -> None:
    whole, draw = encode(SMALL), random.Random(1)
    refused = 0
    for _ in range(5000):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            at = draw.randrange(len(data))
            match draw.randrange(3):
                case 0:
                    data[at] = draw.randrange(256)
                case 1:
                    del data[at : at + draw.randint(1, 20)]
                case _:
                    data[at:at] = draw.randbytes(draw.randint(1, 4)) or b"["
            if not data:
                break
        try:
            assert isinstance(decode(bytes(data)), SavedChat)
        except FormatError:
            refused += 1
    assert refused > 2500
    with pytest.raises(FormatError):
        decode(b"[" * 1_000_000)
