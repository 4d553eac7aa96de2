"""Receipts that travel in an archive: believed for their signature, or left out."""

import base64
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny_step
from overt.cli import app
from overt.errors import FormatError, UnsafeFile
from overt.models.archive import Signer, bring, export, writer
from overt.models.archive import format as archive
from overt.models.archive import receipts as carried
from overt.models.archive.format import ArchiveIndex
from overt.models.recipe import Input
from overt.models.store import Manifest, Store
from overt.provenance import receipts, run_recipe, steps
from overt.provenance.history import history
from overt.provenance.replay import replay, target
from overt.ref import parse
from overt.settings import Settings, load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    return tiny_step.STEP


@pytest.fixture
def sender(tmp_path: Path) -> Settings:
    """A home where `two` was made of `one`."""
    settings = load({"OVERT_HOME": str(tmp_path / "sender"), "OVERT_OFFLINE": "1"})
    one = _make(settings, "one", rows=3)
    _make(settings, "two", Input("from", one.digest, "one"), rows=2)
    return settings


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


def _make(settings: Settings, name: str, *given: Input, **parameters: Any) -> Manifest:
    return run_recipe.make(run_recipe.recipe("tiny", given, parameters, settings), name, settings)


def _yes(_: Signer, __: ArchiveIndex) -> bool:
    return True


def _imported(file: Path, settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    """`overt import`; returns what it warned of."""
    capsys.readouterr()
    code = app.run(["import", str(file), "--yes", "--home", str(settings.home)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out
    return err


def _head(file: Path) -> dict[str, Any]:
    with tarfile.open(file) as opened:
        member = opened.extractfile(archive.ARCHIVE)
        assert member
        found: dict[str, Any] = json.loads(member.read())
        return found


def test_the_other_machine_knows_how_it_was_made(
    sender: Settings, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        export(name, tmp_path / name, sender)
    assert "left out" not in _imported(tmp_path / "two", settings, capsys)
    two = history("two", settings)
    assert [(one.name, one.signature, one.here) for one in (two, *two.inputs)] == [
        ("two", "verified", True), ("one", "verified", False),
    ]  # fmt: skip
    assert two.date == history("two", sender).date
    digest = two.inputs[0].digest
    assert receipts.of(digest, settings.home) == receipts.of(digest, sender.home)
    _imported(tmp_path / "one", settings, capsys)
    found = [replay(target(name, settings), settings) for name in ("one", "two")]
    assert [(one.verdict, one.target.receipt) for one in found] == [("identical", "verified")] * 2
    assert receipts.of(digest, settings.home) == receipts.of(digest, sender.home)


def test_the_archive_is_one_that_an_overt_of_before_reads(
    sender: Settings, settings: Settings, tmp_path: Path
) -> None:
    """It knows the same format and kinds of members, and reads past what else the head has."""
    export("two", tmp_path / "x", sender)
    head = _head(tmp_path / "x")
    assert head["format"] == "overt-archive-1"
    assert len(head.pop("receipts")) == 2
    assert head.keys() == {"format", "manifest", "names", "members"}
    known = (archive.MANIFEST, archive.CHAIN, archive.MODEL)
    assert all(one["name"].startswith(known) for one in head["members"])

    for path in (sender.home / "receipts").iterdir():
        path.unlink()
    export("two", tmp_path / "old", sender)  # byte for byte as it was written before
    assert "receipts" not in _head(tmp_path / "old")
    came = bring(tmp_path / "old", settings, _yes)
    assert came.receipts == {}
    assert history("two", settings).signature == "none"


def _changed(text: str, change: Callable[[dict[str, Any]], None]) -> str:
    envelope = json.loads(text)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(envelope)


FORGED: dict[str, Callable[[str, str], str]] = {
    "no JSON": lambda one, two: two[:-9],
    "of another model": lambda one, two: one,
    "not signed": lambda one, two: json.dumps({**json.loads(two), "signatures": []}),
    "another file": lambda one, two: _changed(
        two, lambda content: content["subject"][0]["digest"].update(sha256="0" * 64)
    ),
    "another time": lambda one, two: _changed(
        two, lambda content: content["predicate"]["runDetails"]["metadata"].update(finishedOn="x")
    ),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_receipt_that_is_broken_or_of_others_is_left_out_with_a_note(
    sender: Settings, settings: Settings, tmp_path: Path, forge: Any,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    one, two = (Store(sender.home).get(parse(name)) for name in ("one", "two"))
    honest = carried.going_along([one, two], sender.home)
    names = [manifest.digest.removeprefix("sha256:") for manifest in (one, two)]
    bad = {names[0]: honest[names[0]], names[1]: forge(*(honest[name] for name in names))}
    monkeypatch.setattr(writer, "going_along", lambda *_: bad)
    export("two", tmp_path / "x", sender)
    said = _imported(tmp_path / "x", settings, capsys)
    assert f"the receipt of sha256:{names[1][:12]} is left out" in said
    node = history("two", settings)
    assert (node.signature, node.inputs[0].signature) == ("none", "verified")
    assert not receipts.path(two.digest, settings.home).exists()


@pytest.mark.parametrize(
    "wrong",
    [
        [], "x", {"x": "{}"}, {"0" * 63: "{}"}, {"../" * 21 + "a": "{}"}, {"0" * 64: 1},
        {"0" * 64: None}, {"0" * 64: "x" * (carried.MAX_BYTES + 1)},
        {f"{at:064}": "" for at in range(carried.MAX_RECEIPTS + 1)},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_head_with_receipts_that_are_none_is_refused(wrong: Any) -> None:
    member = archive.member_of(archive.MANIFEST, b"x")
    content = json.loads(ArchiveIndex(f"sha256:{0:064}", (parse("m"),), (member,)).encode())
    with pytest.raises((FormatError, UnsafeFile)):
        ArchiveIndex.decode(json.dumps({**content, "receipts": wrong}).encode())


def test_a_text_that_is_no_text_is_left_out(sender: Settings) -> None:
    member = archive.member_of(archive.MANIFEST, b"x")
    made = Store(sender.home).get(parse("two"))
    content = json.loads(ArchiveIndex(made.digest, (parse("m"),), (member,)).encode())
    content["receipts"] = {made.digest.removeprefix("sha256:"): "\ud800"}
    (text,) = ArchiveIndex.decode(json.dumps(content).encode()).receipts.values()
    assert len(receipts.take({made.digest: text.encode("utf-8", "surrogatepass")}, sender)) == 1


def test_a_receipt_of_a_model_that_is_not_in_the_archive_ends_the_import(
    sender: Settings, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "going_along", lambda *_: {"0" * 64: "{}"})
    export("two", tmp_path / "x", sender)
    with pytest.raises(UnsafeFile, match="no model in it") as caught:
        bring(tmp_path / "x", settings, _yes)
    assert caught.value.hint
    assert Store(settings.home).names() == []


def test_what_was_made_here_keeps_its_own_receipt_and_a_stranger_gives_way(
    sender: Settings, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = _make(settings, "one", rows=3)  # the very model that is `one` there
    theirs, ours = (receipts.of(made.digest, home) for home in (sender.home, settings.home))
    assert theirs
    assert ours
    envelope = json.loads(theirs)
    envelope["signatures"][0]["keyid"] = "0" * 64
    stranger = json.dumps(envelope).encode()
    receipts.path(made.digest, settings.home).write_bytes(stranger)
    export("one", tmp_path / "x", sender)
    _imported(tmp_path / "x", settings, capsys)
    assert receipts.of(made.digest, settings.home) == theirs
    receipts.path(made.digest, settings.home).write_bytes(ours)
    _imported(tmp_path / "x", settings, capsys)
    assert receipts.of(made.digest, settings.home) == ours
    assert receipts.take({made.digest: stranger}, settings) == []
    assert receipts.of(made.digest, settings.home) == ours


def test_what_others_say_they_made_is_made_here_all_the_same(
    sender: Settings, settings: Settings, tmp_path: Path, tiny: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A receipt of theirs names our recipe; only ours says that it was carried out here."""
    export("one", tmp_path / "x", sender)
    _imported(tmp_path / "x", settings, capsys)
    tiny.ran = []
    theirs = Store(settings.home).get(parse("one")).digest
    assert _make(settings, "one", rows=3).digest == theirs
    assert tiny.ran == [0, 1, 2]
    tiny.ran = []
    _make(settings, "again", rows=3)
    assert tiny.ran == []


def test_whatever_is_in_a_receipt_nothing_false_is_believed(
    sender: Settings, tmp_path: Path
) -> None:
    made = Store(sender.home).get(parse("two"))
    good = receipts.of(made.digest, sender.home) or b""
    payload = json.loads(good)["payload"]
    chance = random.Random(5)
    believed = 0
    for _ in range(300):
        body = bytearray(good)
        for _ in range(chance.choice((1, 1, 3))):
            body[chance.randrange(len(body))] = chance.randrange(256)
        receipts.path(made.digest, sender.home).unlink(missing_ok=True)
        left = receipts.take({made.digest: bytes(body)}, sender)
        kept = receipts.of(made.digest, sender.home)
        assert (kept is None) == bool(left)
        if kept and history("two", sender).signature == "verified":
            believed += 1
            assert json.loads(kept)["payload"] == payload
    assert believed < 30


def test_only_as_many_go_along_as_the_head_has_room_for(
    sender: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (Store(sender.home).get(parse(name)) for name in ("one", "two"))
    (text,) = carried.going_along([two], sender.home).values()
    monkeypatch.setattr(carried, "MAX_BYTES", len(json.dumps(text)) + 10)
    assert len(carried.going_along([two, one], sender.home)) == 1
    receipts.path(one.digest, sender.home).write_bytes(b"\xff")
    receipts.path(two.digest, sender.home).unlink()
    assert carried.going_along([two, one], sender.home) == {}
