"""Exports made to cost: archives that grow, that name one picture often, titles that collide."""

import json
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from conftest import OvertCli
from overt.cli import chats
from overt.conversations import base
from overt.errors import FormatError, OvertError

PNG = b"\x89PNG\r\n\x1a\n" + b"x" * 1000


def _pointer(mark: str) -> dict[str, Any]:
    return {"content_type": "image_asset_pointer", "asset_pointer": f"sediment://{mark}"}


def _chat(parts: list[Any], title: str = "t") -> dict[str, Any]:
    said = {"author": {"role": "user"}, "content": {"content_type": "multimodal_text",
            "parts": parts}}  # fmt: skip
    return {"title": title, "current_node": "a", "mapping": {"a": {"message": said}}}


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_one_picture_asked_for_often_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    there = zipfile.ZipFile.open

    def noted(self: zipfile.ZipFile, name: Any, *rest: Any, **more: Any) -> Any:
        opened.append(name)
        return there(self, name, *rest, **more)

    members = {f"dalle/file_{number:06}.png": PNG for number in range(300)}
    asked = [_pointer("file_000123"), _pointer("file_absent")] * 500
    export = _zip(
        tmp_path / "e.zip", {"conversations.json": json.dumps([_chat(asked)]).encode(), **members}
    )
    monkeypatch.setattr(zipfile.ZipFile, "open", noted)
    lost: base.Lost = Counter()
    _, (found,) = base.read(export, lost)
    (message,) = found.messages
    assert len(message.parts) == 500
    assert len({id(part) for part in message.parts}) == 1
    assert lost["image that is not in the file"] == 500
    assert opened.count("dalle/file_000123.png") == 1


def test_many_members_together_grow_no_further_than_one(tmp_path: Path) -> None:
    """Each is within bounds by itself."""
    one = b'{"x":"' + b" " * (3 << 20) + b'"}'
    export = _zip(tmp_path / "e.zip", {f"{number}.json": one for number in range(20)})
    assert len(one) < 200 * export.stat().st_size < 20 * len(one)
    with pytest.raises(FormatError, match="unpacks to more than"):
        base.read(export, Counter())


@pytest.mark.parametrize("method", [14, 12, 99, 8, 93])
def test_a_member_packed_oddly_is_damaged_and_no_more(tmp_path: Path, method: int) -> None:
    data = bytearray(_zip(tmp_path / "e.zip", {"c.json": b"[1]" * 100}).read_bytes())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, 8, method)
    struct.pack_into("<H", data, central + 10, method)
    data[36:42] = b"\xff" * 6
    (tmp_path / "e.zip").write_bytes(data)
    with pytest.raises(OvertError):
        base.read(tmp_path / "e.zip", Counter())


def test_names_made_of_titles_meet_nobody_elses(tmp_path: Path, overt_cli: OvertCli) -> None:
    titles = ["CON", "con", "../../etc", "\x1b[31mRed", "COM1", "日本", "Red"]
    rows = [_chat([f"said {number}"], title) for number, title in enumerate(titles)]
    (tmp_path / "c.json").write_text(json.dumps(rows))
    done = overt_cli("chats", "import", str(tmp_path / "c.json"), "--json")
    assert json.loads(done.stdout)["imported"] == [
        "con-chat", "con-chat-2", "etc", "31mred", "com1-chat", "conversation", "red",
    ]  # fmt: skip


def test_a_hundred_thousand_of_one_title_are_named_in_a_moment() -> None:
    used = {"new-chat": 1, "new-chat-7": 1}
    names = [chats._free("new-chat", used) for _ in range(100_000)]
    assert len(set(names)) == 100_000
    assert names[:6] == [f"new-chat-{n}" for n in (2, 3, 4, 5, 6, 8)]
    assert "new-chat-7" not in names
