"""The store: what goes in comes out, nothing leaves it by a path, and damage is told."""

import errno
import hashlib
import json
import os
import random
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import Busy, Failure, IntegrityError, ModelNotFound, OutOfDisk, OvertError
from overt.models.store import File, Manifest, Store
from overt.models.store.manifest import Pointer, file_name, ref_text
from overt.ref import parse


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home)


def _put(store: Store, name: str, *bodies: bytes, ref: str = "pypi:m==1") -> Manifest:
    folder = store.home / "partial" / "made"
    folder.mkdir(parents=True, exist_ok=True)
    files, paths = [], {}
    for number, body in enumerate(bodies):
        path = folder / str(number)
        path.write_bytes(body)
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        role = "weights" if number == 0 else "card"
        files.append(File(role, f"f{number}", digest, len(body)))  # type: ignore[arg-type]
        paths[digest] = path
    return store.commit(Manifest(tuple(files), ref, {"source": "test"}), paths, [parse(name)])


def _blob(store: Store, manifest: Manifest) -> Path:
    return store.path(manifest.weights)


def test_what_goes_in_comes_out(store: Store) -> None:
    manifest = _put(store, "a:b", b"weights", b"card")
    assert store.get(parse("a:b")) == manifest
    assert store.get(parse(manifest.digest)) == manifest
    assert store.get(parse(manifest.digest.removeprefix("sha256:")[:12])) == manifest
    assert store.get(parse("pypi:m==1")) == manifest
    assert _blob(store, manifest).read_bytes() == b"weights"
    assert stat.S_IMODE(_blob(store, manifest).stat().st_mode) == 0o444
    assert (manifest.size, manifest.weights.path) == (11, "f0")
    (entry,) = store.names()
    assert (entry.ref, entry.manifest) == (parse("a:b"), manifest)
    assert (
        abs(time.time() - time.mktime(time.strptime(entry.time, "%Y-%m-%dT%H:%M:%SZ"))) < 2 * 86400
    )
    assert store.verify() == []
    assert list((store.home / "partial/made").iterdir()) == []


def test_a_manifest_is_named_by_its_own_digest_and_has_no_clock_in_it(store: Store) -> None:
    manifest = _put(store, "a", b"w")
    path = store.home / "manifests" / f"{manifest.digest.removeprefix('sha256:')}.json"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert Manifest.decode(path.read_bytes()) == manifest
    assert _put(store, "again", b"w").digest == manifest.digest


def test_a_missing_model_gets_near_names(store: Store) -> None:
    _put(store, "smollm2", b"w")
    with pytest.raises(ModelNotFound, match=r"smolm2 is not in the store; did you mean smollm2\?"):
        store.get(parse("smolm2"))
    with pytest.raises(ModelNotFound, match="overt list"):
        store.get(parse("zzz"))
    with pytest.raises(ModelNotFound):
        store.get(parse("sha256:" + "0" * 64))


def test_a_digest_prefix_must_be_unambiguous(store: Store) -> None:
    manifest = _put(store, "a", b"w")
    other = store.home / "manifests" / f"{manifest.digest[7:19]}{'0' * 52}.json"
    other.write_bytes(b"{}")
    with pytest.raises(ModelNotFound, match="beginning of 2 digests"):
        store.get(parse(manifest.digest[7:19]))


# ---- removing ----------------------------------------------------------------------------------


def test_remove_frees_what_no_other_name_needs(store: Store) -> None:
    _put(store, "a", b"only a", b"shared", ref="pypi:a==1")
    kept = _put(store, "b", b"only b!", b"shared", ref="pypi:b==1")
    store.name(parse("c"), kept)
    removed = store.remove(parse("a"))
    assert (removed.names, removed.manifests, removed.blobs) == (("a",), 1, 1)
    assert removed.bytes_freed == len(b"only a")
    assert store.remove(parse("b")).bytes_freed == 0
    assert store.verify() == []
    assert _blob(store, kept).read_bytes() == b"only b!"
    gone = store.remove(parse(kept.digest))
    assert (gone.names, gone.blobs) == (("c",), 2)
    assert [p for p in (store.home / "blobs").rglob("*") if p.is_file()] == []
    with pytest.raises(ModelNotFound, match="not in the store"):
        store.remove(parse("a"))


def test_remove_never_touches_what_a_running_pull_holds(store: Store) -> None:
    _put(store, "a", b"w")
    ref = parse("pypi:big==1")
    with store.pulling(ref) as folder:
        (folder / "refs.json").write_text(json.dumps(["big", str(ref)]))
        (folder / "half.part").write_bytes(b"half")
        os.utime(folder, (0, 0))  # even if it looks abandoned
        store.remove(parse("a"))
        with pytest.raises(ModelNotFound):
            store.remove(ref)
        assert (folder / "half.part").read_bytes() == b"half"
    assert store.remove(ref).bytes_freed > 4  # now it is abandoned, and can be dropped by its name
    assert not folder.exists()


def test_an_old_abandoned_pull_is_garbage_and_a_young_one_is_not(store: Store) -> None:
    for name, age in (("old", 15 * 86400), ("young", 13 * 86400)):
        with store.pulling(parse(f"pypi:{name}==1")) as folder:
            (folder / "refs.json").write_text(json.dumps([name]))
            (folder / name).write_bytes(b"x")
            os.utime(folder, (time.time() - age,) * 2)
    _put(store, "a", b"w")
    store.remove(parse("a"))
    assert [p.name for p in (store.home / "partial").rglob("*") if p.name in ("old", "young")] == [
        "young"
    ]


def test_nothing_is_collected_while_a_name_cannot_be_read(store: Store) -> None:
    _put(store, "a", b"a", ref="pypi:a==1")
    _put(store, "b", b"b", ref="pypi:b==1")
    (store.home / "names/b.json").write_bytes(b"{")
    removed = store.remove(parse("a"))
    assert (removed.names, removed.blobs) == (("a",), 0)
    assert [p.code for p in store.verify()] == ["damaged_name"]


# ---- damage ------------------------------------------------------------------------------------


def _damage(store: Store, manifest: Manifest, kind: str) -> None:
    blob = _blob(store, manifest)
    digest = manifest.digest.removeprefix("sha256:")
    if kind == "flip":
        blob.chmod(0o644)
        blob.write_bytes(b"Weights")
    elif kind == "truncate":
        blob.chmod(0o644)
        blob.write_bytes(b"wei")
    elif kind == "blob":
        blob.unlink()
    elif kind == "manifest":
        (store.home / "manifests" / f"{digest}.json").unlink()
    elif kind == "manifest_bytes":
        (store.home / "manifests" / f"{digest}.json").write_bytes(manifest.encode() + b" ")
    elif kind == "name":
        (store.home / "names/a.json").write_bytes(b"\xff")
    elif kind == "name_of_other":
        (store.home / "names/a.json").rename(store.home / "names/z.json")
    elif kind == "leftover":
        (blob.parent / "tmp-x").write_bytes(b"")
    elif kind == "unreferenced":
        (blob.parent / ("aa" * 32)).write_bytes(b"not aa")
        (blob.parent / ("aa" * 32)).rename(_shard(store, "aa" * 32))


def _shard(store: Store, hexes: str) -> Path:
    path = store.home / "blobs/sha256" / hexes[:2] / hexes
    path.parent.mkdir(exist_ok=True)
    return path


@pytest.mark.parametrize(
    ("kind", "code", "refs"),
    [
        ("flip", "damaged_blob", ("a",)),
        ("truncate", "damaged_blob", ("a",)),
        ("blob", "missing_blob", ("a",)),
        ("manifest", "missing_manifest", ("a",)),
        ("manifest_bytes", "damaged_manifest", ("a",)),
        ("name", "damaged_name", ()),
        ("name_of_other", "stray", ()),
        ("leftover", "stray", ()),
        ("unreferenced", "damaged_blob", ()),
    ],
)
def test_every_damage_is_found_and_says_what_to_do(
    store: Store, kind: str, code: str, refs: tuple[str, ...]
) -> None:
    manifest = _put(store, "a", b"weights", b"card")
    _damage(store, manifest, kind)
    before = sorted(store.home.rglob("*"))
    problems = store.verify()
    assert [(p.code, p.refs) for p in problems] == [(code, refs)]
    assert sorted(store.home.rglob("*")) == before
    hint = "type `overt rm a`, then `overt pull a`" if refs else "delete "
    assert problems[0].hint.startswith(hint)
    assert (store.home / problems[0].path).is_relative_to(store.home)


def test_verify_of_one_name_reads_only_its_files(store: Store) -> None:
    good = _put(store, "good", b"good", ref="pypi:g==1")
    bad = _put(store, "bad", b"bad", ref="pypi:b==1")
    _damage(store, bad, "flip")
    read: list[str] = []
    assert store.verify(parse("good"), lambda path, done, total: read.append(path)) == []
    assert read == [file.path for file in good.files]
    assert [p.code for p in store.verify(parse("bad"))] == ["damaged_blob"]
    with pytest.raises(ModelNotFound):
        store.verify(parse("none"))


def test_missing_and_short_blobs_are_refused_when_used(store: Store) -> None:
    manifest = _put(store, "a", b"weights")
    _damage(store, manifest, "truncate")
    with pytest.raises(IntegrityError, match="is 3 bytes where 7 were stored"):
        store.path(manifest.weights)
    assert not store.whole(manifest)
    store.home.joinpath("blobs").rename(store.home / "elsewhere")
    with pytest.raises(IntegrityError, match="is missing from the store"):
        store.path(manifest.weights)


def test_a_commit_replaces_a_damaged_blob(store: Store) -> None:
    manifest = _put(store, "a", b"weights")
    _damage(store, manifest, "flip")
    assert _put(store, "a", b"weights") == manifest
    assert store.verify() == []


def test_a_commit_without_its_bytes_changes_no_name(store: Store) -> None:
    digest = f"sha256:{hashlib.sha256(b'x').hexdigest()}"
    manifest = Manifest((File("weights", "f", digest, 1),), "pypi:m==1")
    with pytest.raises(IntegrityError):
        store.commit(manifest, {}, [parse("a")])
    assert store.names() == []
    assert store.verify() == []


def test_a_small_file_whose_writer_died_is_swept(store: Store) -> None:
    (store.home / "partial").mkdir()
    (store.home / "partial/new-1-x").write_bytes(b"half")
    _put(store, "a", b"w")
    assert list((store.home / "partial").glob("new-*")) == []


def test_a_held_store_is_busy_not_forever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overt.models.store._LOCK_SECONDS", 0.1)
    with store._locked("store", 1), pytest.raises(Busy, match="another process has held store"):
        _put(store, "a", b"w")


def test_a_home_that_cannot_be_written_is_one_sentence(home: Path) -> None:
    (home / "file").write_text("in the way")
    with pytest.raises(Failure, match=r"cannot be written: .*; set OVERT_HOME"):
        _commit_nothing(Store(home / "file"))


def _commit_nothing(store: Store) -> None:
    with store.pulling(parse("pypi:m==1")):
        pass


def test_a_disk_that_fills_up_is_one_sentence(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfDisk, match=r"is full; free some space"):
        _put(store, "a", b"w")
    monkeypatch.undo()
    assert Store(store.home).names() == []
    assert Store(store.home).verify() == []


# ---- nothing leaves the store ------------------------------------------------------------------

MANIFEST = {
    "files": [{"role": "weights", "path": "f", "digest": "sha256:" + "a" * 64, "size": 1}],
    "ref": "pypi:m==1",
    "origin": {},
    "licence": None,
    "created": "",
}


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "sha256:../../../../etc/passwd"},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:" + "a" * 64 + "\n"},
        {"digest": None},
        {"path": "../x"},
        {"path": "/etc/passwd"},
        {"path": 5},
        {"role": "program"},
        {"size": -1},
        {"size": True},
        {"size": "1"},
    ],
)
def test_a_manifest_cannot_name_anything_outside(change: dict[str, object]) -> None:
    Manifest.decode(json.dumps(MANIFEST).encode())
    bad = MANIFEST | {"files": [MANIFEST["files"][0] | change]}  # type: ignore[index]
    with pytest.raises(IntegrityError, match=r"cannot be read|is not a digest"):
        Manifest.decode(json.dumps(bad).encode())


def test_a_pointer_cannot_name_anything_outside(store: Store) -> None:
    (store.home / "names").mkdir()
    for manifest in ("sha256:../../x", "x", None, "sha256:" + "a" * 63):
        pointer = json.dumps({"ref": "a", "manifest": manifest, "time": ""})
        (store.home / "names/a.json").write_text(pointer)
        with pytest.raises(IntegrityError, match=r"cannot be read|is not a digest"):
            store.get(parse("a"))


def test_damaged_manifests_and_names_end_in_a_sentence_or_a_proper_value() -> None:
    chance = random.Random(3)
    manifest = json.dumps(MANIFEST).encode()
    pointer = Pointer("a:b", "sha256:" + "b" * 64, "2026").encode()
    for _ in range(repeats(800, 2500)):
        for good, decode in ((manifest, Manifest.decode), (pointer, Pointer.decode)):
            body = bytearray(good)
            for _ in range(chance.choice((1, 2, 4))):
                body[chance.randrange(len(body))] = chance.randrange(256)
            found: Manifest | Pointer | None = None
            with suppress(IntegrityError):  # anything else fails the test
                found = decode(bytes(body))
            if found:
                digests = (
                    [f.digest for f in found.files]
                    if isinstance(found, Manifest)
                    else [found.manifest]
                )
                assert all(len(d) == 71 and d[7:].isalnum() for d in digests)
    for text in (b"[" * 100_000, b"5", b"null", b'{"files": []}'):
        with pytest.raises(IntegrityError):
            Manifest.decode(text)


@given(st.text(min_size=1, max_size=300))
def test_a_name_s_file_stays_in_its_folder(text: str) -> None:
    try:
        ref = parse(f"./{text}") if "/" in text else parse(text)
    except OvertError:
        return
    name = file_name(ref)
    assert "/" not in name
    assert name not in (".", "..", ".json")
    assert len(name.encode()) <= 255
    if "~" not in name:
        assert ref_text(Path(name)) == str(ref)
