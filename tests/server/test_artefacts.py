"""The mirror as an OCI registry: `overt pull oci:…`, and requests as other clients send them."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mirrors import Mirror, mirroring
from overt.errors import ModelNotFound, NeedsAccess
from overt.models.pull import pull
from overt.models.store import File, Manifest, Store
from overt.ref import parse
from overt.settings import Settings, load
from servers import gguf

TOKEN = "a-token-of-some-length"
PARTS = (
    ("weights", "tiny/model.gguf", gguf(1, 500_000)),
    ("system", "system", b"You are brief."),
    ("parameters", "params.json", b'{"stop":["x"]}'),
    ("licence", "LICENSE", b"text of a licence\n"),
    ("licence", "licences/second", b"text of a licence\n"),  # the same bytes twice
)


def put(home: Path, name: str, parts: tuple[tuple[str, str, bytes], ...], ref: str) -> Manifest:
    home.mkdir(parents=True, exist_ok=True)
    files, moved = [], {}
    for role, path, body in parts:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        files.append(File(role, path, digest, len(body)))  # type: ignore[arg-type]
        if digest not in moved:
            moved[digest] = home / f"new-{len(moved)}"
            moved[digest].write_bytes(body)
    manifest = Manifest(
        tuple(files), ref, {"source": ref.partition(":")[0]}, "MIT", "2026-05-06T07:08:09Z"
    )
    return Store(home).commit(manifest, moved, [parse(name)])


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    home = tmp_path / "upstream"
    commit = "0123456789abcdef0123456789abcdef01234567"
    put(home, "mine", PARTS, "pypi:mine==1")
    put(home, "mine:q8", (("weights", "q8.gguf", gguf(2)),), "pypi:mine==2")
    put(home, "hf:Org/Tiny", (("weights", "a.gguf", gguf(3)),), f"hf:Org/Tiny@{commit}#a.gguf")
    put(home, "ollama:llama9:1b", (("weights", "model.gguf", gguf(4)),), "pypi:mine==4")
    put(home, "oci:registry.example/team/m:v1", (("weights", "w.gguf", gguf(5)),), "pypi:mine==5")
    return home


@pytest.fixture
def mirror(upstream: Path) -> Iterator[Mirror]:
    with mirroring(upstream) as found:
        yield found


def at(mirror: Mirror, path: str, **headers: str) -> httpx2.Response:
    return httpx2.get(mirror.url + path, headers=headers, trust_env=False)


def test_overt_pulls_every_part_with_its_role(
    mirror: Mirror, upstream: Path, settings: Settings
) -> None:
    came = pull(f"oci:127.0.0.1:{mirror.port}/mine", settings)
    store = Store(settings.home)
    assert {(f.role, f.path, store.path(f).read_bytes()) for f in came.files} == set(PARTS)
    assert (came.licence, came.created) == ("MIT", "2026-05-06T07:08:09Z")
    assert came.origin["from"] == "pypi:mine==1"
    assert came.weights.digest == Store(upstream).get(parse("mine")).weights.digest
    assert store.verify() == []
    again = pull(came.ref, load(flags={"home": settings.home.parent / "again"}))
    assert again == came, "pinned by its digest it is the same"


NAMES = (
    ("mine:q8", gguf(2)),
    ("Org/Tiny", gguf(3)),
    ("org/tiny", gguf(3)),
    ("org/tiny:0123456789abcdef0123456789abcdef01234567", gguf(3)),
    ("library/llama9:1b", gguf(4)),
    ("team/m:v1", gguf(5)),
    ("team/m", gguf(5)),
)


def test_each_kind_of_name_has_its_place(mirror: Mirror, settings: Settings) -> None:
    for name, body in NAMES:
        came = pull(f"oci:127.0.0.1:{mirror.port}/{name}", settings)
        assert Store(settings.home).path(came.weights).read_bytes() == body, name


def test_a_model_of_ollama_s_registry_is_found_by_the_same_path(mirror: Mirror) -> None:
    tags = at(mirror, "/v2/library/llama9/tags/list").json()
    assert tags["name"] == "library/llama9"
    assert {"1b", "latest"} <= set(tags["tags"])


def test_what_is_not_there_says_so(mirror: Mirror, settings: Settings) -> None:
    for name in ("none", "mine:none", "mine@sha256:" + "a" * 64):
        with pytest.raises(ModelNotFound):
            pull(f"oci:127.0.0.1:{mirror.port}/{name}", settings)
    codes = {
        "/v2/none/manifests/latest": "NAME_UNKNOWN",
        "/v2/none/tags/list": "NAME_UNKNOWN",
        "/v2/mine/manifests/none": "MANIFEST_UNKNOWN",
        f"/v2/mine/manifests/sha256:{'a' * 64}": "MANIFEST_UNKNOWN",
        f"/v2/mine/blobs/sha256:{'a' * 64}": "BLOB_UNKNOWN",
        "/v2/mine/referrers/x": "NAME_UNKNOWN",
    }
    for path, code in codes.items():
        answer = at(mirror, path)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (404, code)


def test_a_blob_of_another_repository_is_not_served(mirror: Mirror) -> None:
    digest = "sha256:" + hashlib.sha256(gguf(2)).hexdigest()
    assert at(mirror, f"/v2/mine/blobs/{digest}").content == gguf(2)
    assert at(mirror, f"/v2/team/m/blobs/{digest}").status_code == 404


def test_head_get_and_range_as_the_specification_has_them(mirror: Mirror) -> None:
    assert at(mirror, "/v2/").headers["docker-distribution-api-version"] == "registry/2.0"
    got = at(mirror, "/v2/mine/manifests/latest")
    head = httpx2.head(f"{mirror.url}/v2/mine/manifests/latest", trust_env=False)
    digest = f"sha256:{hashlib.sha256(got.content).hexdigest()}"
    assert got.headers["docker-content-digest"] == head.headers["docker-content-digest"] == digest
    assert got.headers["content-type"] == "application/vnd.oci.image.manifest.v1+json"
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    assert at(mirror, f"/v2/mine/manifests/{digest}").content == got.content
    manifest = json.loads(got.content)
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    for blob in (manifest["config"], *manifest["layers"]):
        path = f"/v2/mine/blobs/{blob['digest']}"
        body = at(mirror, path)
        assert (len(body.content), body.headers["docker-content-digest"]) == (
            blob["size"], blob["digest"],
        )  # fmt: skip
        assert f"sha256:{hashlib.sha256(body.content).hexdigest()}" == blob["digest"]
    weights = manifest["layers"][0]
    part = at(mirror, f"/v2/mine/blobs/{weights['digest']}", Range="bytes=10-19")
    assert (part.status_code, part.content) == (206, gguf(1, 500_000)[10:20])


def test_the_token_is_the_password_of_docker_login(
    upstream: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "docker"
    config.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    with mirroring(upstream, "--token", TOKEN) as mirror:
        ref = f"oci:127.0.0.1:{mirror.port}/mine"
        bare = at(mirror, "/v2/")
        assert (bare.status_code, bare.headers["www-authenticate"]) == (401, 'Basic realm="overt"')
        with pytest.raises(NeedsAccess):
            pull(ref, settings)
        for password, works in ((TOKEN[::-1], False), (TOKEN, True)):
            auth = b64encode(f"overt:{password}".encode()).decode()
            auths = {f"127.0.0.1:{mirror.port}": {"auth": auth}}
            (config / "config.json").write_text(json.dumps({"auths": auths}))
            if works:
                assert pull(ref, settings).weights.size == 500_008
            else:
                with pytest.raises(NeedsAccess):
                    pull(ref, settings)
