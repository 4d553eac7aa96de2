"""Hostile registries, logins, and the places where logins are kept."""

import base64
import json
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.errors import (
    FormatError,
    IntegrityError,
    ModelNotFound,
    NeedsAccess,
    OutOfDisk,
    OvertError,
    Refused,
    SourceFailed,
    UnsafeFile,
)
from overt.models.pull import pull
from overt.models.sources import credentials
from overt.models.sources.download import Network
from overt.models.sources.registry import MAX_BYTES, MAX_TEXT, RepositoryClient, read_document
from overt.models.sources.registry_auth import _covered, _proved, challenge_of
from overt.models.sources.registry_request import RegistryReply
from overt.models.store import Store
from overt.settings import Settings, load
from registries import (
    Asked,
    Certificate,
    Real,
    Scripted,
    Told,
    certificate,
    digest,
    docker_registry,
    layer,
    oci_manifest,
    ollama_manifest,
    scripted,
    token_of,
)
from servers import gguf

BODY = gguf(1, 200_000)
PASSWORD = "hunter2-of-this-test"


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def lying(manifest: bytes, blobs: dict[str, Told | bytes]) -> object:
    """A registry that serves one manifest for everything, and `blobs` by digest."""

    def answer(asked: Asked) -> Told:
        if "/manifests/" in asked.path:
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})
        found = blobs.get(asked.path.rpartition("/")[2], Told(404))
        return found if isinstance(found, Told) else Told(200, found)

    return answer


def pulled(content: object, blobs: dict[str, Told | bytes], settings: Settings) -> Scripted:
    """Pull from a registry that serves `content` as its manifest."""
    with scripted(lying(json.dumps(content).encode(), blobs)) as registry:
        pull(f"ollama:{registry.host}/library/x", settings)
        return registry


def files_of(settings: Settings) -> list[str]:
    """Everything under the home and beside it, but for locks and notes of the pull."""
    top = settings.home.parent
    return sorted(
        str(p.relative_to(top))
        for p in top.rglob("*")
        if p.is_file() and "/locks/" not in str(p) and p.name != "refs.json"
    )


# ---- manifests that lie --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "sha256:../../../../../../tmp/overt-was-here",
        "sha256:" + "../" * 21 + "x",
        "../../etc/passwd",
        "sha256-" + "a" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "a" * 65,
        "sha512:" + "a" * 128,
        "",
        None,
        7,
        ["sha256:" + "a" * 64],
    ],
)
def test_a_digest_is_a_digest_before_it_is_a_path(value: object, settings: Settings) -> None:
    content = ollama_manifest([("model", BODY)])
    content["layers"][0]["digest"] = value  # type: ignore[index]
    before = files_of(settings)
    with pytest.raises(FormatError, match="sha256 digest"):
        pulled(content, {}, settings)
    assert files_of(settings) == before


@pytest.mark.parametrize(
    "value", [-1, 1.5, True, "12", None, 2**63, MAX_BYTES + 1, float("nan"), [1], {}]
)
def test_a_size_is_a_size(value: object, settings: Settings) -> None:
    content = ollama_manifest([("model", BODY)])
    content["layers"][0]["size"] = value  # type: ignore[index]
    with pytest.raises(FormatError, match="no size"):
        pulled(content, {}, settings)


def test_all_sizes_together_are_bounded(settings: Settings) -> None:
    content = ollama_manifest([("model", BODY), ("adapter", gguf(2))])
    for item in content["layers"]:  # type: ignore[attr-defined]
        item["size"] = MAX_BYTES - 5
    with pytest.raises(FormatError, match=f"where a model may have {MAX_BYTES}"):
        pulled(content, {}, settings)


def test_what_does_not_fit_on_the_disk_is_refused_before_a_byte_comes(settings: Settings) -> None:
    content = ollama_manifest([("model", BODY)])
    content["layers"][0]["size"] = MAX_BYTES // 2  # type: ignore[index]
    with (
        scripted(lying(json.dumps(content).encode(), {digest(BODY): BODY})) as registry,
        pytest.raises(OutOfDisk, match=r"1024\.00 GiB are needed"),
    ):
        pull(f"ollama:{registry.host}/library/x", settings)
    assert [seen.path for seen in registry.seen] == ["/v2/library/x/manifests/latest"]


def test_a_text_cannot_be_huge(settings: Settings) -> None:
    content = ollama_manifest([("model", BODY), ("system", b"x")])
    content["layers"][1]["size"] = MAX_TEXT + 1  # type: ignore[index]
    with pytest.raises(FormatError, match="where a system may have"):
        pulled(content, {}, settings)


def test_too_many_layers_are_refused(settings: Settings) -> None:
    content = ollama_manifest([("license", b"x")] * 1001)
    with pytest.raises(FormatError, match="at most 1000 layers"):
        pulled(content, {}, settings)


@pytest.mark.parametrize("change", [-1, 1, 1_000_000])
def test_a_blob_of_another_size_than_stated_is_refused(change: int, settings: Settings) -> None:
    content = ollama_manifest([("model", BODY)])
    content["layers"][0]["size"] = len(BODY) + change  # type: ignore[index]
    with pytest.raises(IntegrityError, match="are stated"):
        pulled(content, {digest(BODY): BODY}, settings)
    assert Store(settings.home).blob(digest(BODY)) is None


def test_another_blob_of_the_same_size_is_refused(settings: Settings) -> None:
    with pytest.raises(IntegrityError, match="has the sha256"):
        pulled(ollama_manifest([("model", BODY)]), {digest(BODY): gguf(2, 200_000)}, settings)
    assert not list((settings.home / "blobs").rglob("*/*/*"))


def test_a_body_without_end_stops_at_its_stated_size(settings: Settings) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            sent += 65536
            yield b"x" * 65536

    with pytest.raises(IntegrityError, match=f"more than its {len(BODY)} bytes"):
        pulled(ollama_manifest([("model", BODY)]), {digest(BODY): Told(200, endless())}, settings)
    assert sent < 40 << 20  # what fits in the buffers between the two, and no more
    held = sum(p.stat().st_size for p in settings.home.rglob("*") if p.is_file())
    assert held < len(BODY) + 100_000


def test_a_manifest_without_end_stops_at_4_mib(settings: Settings) -> None:
    def endless(asked: Asked) -> Told:
        def blocks() -> Iterator[bytes]:
            while True:
                yield b" " * 65536

        return Told(200, blocks(), {"Content-Type": "application/json"})

    with (
        scripted(endless) as registry,
        pytest.raises(SourceFailed, match="more than 4 MiB"),
    ):
        pull(f"ollama:{registry.host}/library/x", settings)


def test_a_packed_manifest_is_not_unpacked(settings: Settings) -> None:
    import gzip

    bomb = gzip.compress(b"[" * 50_000_000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    with (
        scripted(lambda _: Told(200, bomb, headers)) as registry,
        pytest.raises(FormatError, match="is refused"),
    ):
        pull(f"ollama:{registry.host}/library/x", settings)


def test_a_manifest_that_is_deep_or_no_json_is_refused(settings: Settings) -> None:
    for body in (b"[" * 100_000, b"\xff\xfe", b"", b"[]", b"null", b'{"schemaVersion":1}'):
        with (
            scripted(lying(body, {})) as registry,
            pytest.raises(FormatError, match=r"the manifest of .* is refused"),
        ):
            pull(f"ollama:{registry.host}/library/x", settings)


def test_a_manifest_of_another_digest_is_refused(settings: Settings) -> None:
    asked_for = "sha256:" + "0" * 64
    body = json.dumps(ollama_manifest([("model", BODY)])).encode()
    with scripted(lying(body, {digest(BODY): BODY})) as registry:
        with pytest.raises(IntegrityError, match="the manifest of library/x"):
            pull(f"ollama:{registry.host}/library/x@{asked_for}", settings)

        def stating(asked: Asked) -> Told:
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, body, {"Content-Type": kind, "Docker-Content-Digest": asked_for})

        registry.answer = stating
        with pytest.raises(IntegrityError, match="is stated"):
            pull(f"ollama:{registry.host}/library/x", settings)


@pytest.mark.parametrize(
    "path",
    [
        "../../outside.gguf",
        "/etc/cron.d/x.gguf",
        "a/../../b.gguf",
        "..\\x.gguf",
        "C:/x.gguf",
        "a\0.gguf",
    ],
)
def test_a_path_that_leaves_the_model_is_refused(path: str, settings: Settings) -> None:
    kind = "application/vnd.cncf.model.weight.v1.raw"
    content = oci_manifest([layer(kind, BODY, **{"org.cncf.model.filepath": path})])
    before = files_of(settings)
    with (
        scripted(oci_answer(json.dumps(content).encode(), {digest(BODY): BODY})) as registry,
        pytest.raises((UnsafeFile, FormatError)),
    ):
        pull(f"oci:{registry.host}/x:1", settings)
    assert files_of(settings) == before


def oci_answer(manifest: bytes, blobs: dict[str, bytes]) -> object:
    def answer(asked: Asked) -> Told:
        if "/manifests/" in asked.path:
            kind = "application/vnd.oci.image.manifest.v1+json"
            return Told(200, manifest, {"Content-Type": kind})
        body = blobs.get(asked.path.rpartition("/")[2])
        return Told(404) if body is None else Told(200, body)

    return answer


def test_addresses_in_descriptors_are_never_asked(settings: Settings) -> None:
    with scripted(lambda _: Told(200, BODY)) as elsewhere:
        content = ollama_manifest([("model", BODY)])
        content["layers"][0]["urls"] = [f"{elsewhere.url}/steal"]  # type: ignore[index]
        with pytest.raises(SourceFailed, match="does not have it"):
            pulled(content, {}, settings)
        assert elsewhere.seen == []


def test_mutated_manifests_are_read_or_refused_and_nothing_else(settings: Settings) -> None:
    rng = random.Random(3)
    good = json.dumps(ollama_manifest([("model", BODY), ("system", b"x")], b'{"os":"linux"}'))
    read = 0
    for _ in range(3000):
        data = bytearray(good.encode())
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randrange(1, 20)]
                case 2:
                    data[at:at] = rng.choice(
                        [b"9" * 30, b"[", b"{", b'"', b"null", b"-1", b"1e999"]
                    )
                case 3:
                    data[at:at] = data[at : at + 40]
            if not data:
                break
        try:
            document = read_document(
                RegistryReply("http://h", 200, {}, bytes(data)), "sha256:x", "h/x"
            )
        except FormatError:
            continue
        read += 1
        for found in (*document.layers, *document.entries):
            assert len(found.hexes) == 64
            assert 0 <= found.size <= MAX_BYTES
    assert read > 100  # the mutations are not all hopeless


# ---- redirects and realms ------------------------------------------------------------------


def basic(user: str = "me", password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def log_in(host: str, home: str | None = None) -> None:
    """Store a login as `docker login` does."""
    folder = Path(home or os.environ["HOME"]) / ".docker"
    folder.mkdir(parents=True, exist_ok=True)
    auth = basic().removeprefix("Basic ")
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))


def test_a_blob_may_come_from_elsewhere_and_the_login_does_not_go_there(settings: Settings) -> None:
    with scripted(lambda _: Told(200, BODY)) as storage:
        manifest = json.dumps(ollama_manifest([("model", BODY)], BODY)).encode()

        def answer(asked: Asked) -> Told:
            if asked.headers.get("authorization") != basic():
                return Told(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            if "/blobs/" in asked.path:
                return Told(307, headers={"Location": f"{storage.url}/bucket/blob?signature=s"})
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})

        with scripted(answer) as registry:
            log_in(registry.host)
            pull(f"ollama:{registry.host}/library/x", settings)
    assert [seen.path for seen in storage.seen] == ["/bucket/blob"]
    assert "authorization" not in storage.seen[0].headers
    assert PASSWORD not in json.dumps(storage.seen[0].headers)


def test_a_manifest_that_is_somewhere_else_does_not_take_the_login_along(
    settings: Settings,
) -> None:
    manifest = json.dumps(ollama_manifest([("model", BODY)])).encode()
    with scripted(lying(manifest, {})) as elsewhere:

        def answer(asked: Asked) -> Told:
            if asked.headers.get("authorization") != basic():
                return Told(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
            return Told(302, headers={"Location": elsewhere.url + asked.path})

        with scripted(answer) as registry:
            log_in(registry.host)
            with pytest.raises(SourceFailed, match=r"does not have it"):
                pull(f"ollama:{registry.host}/library/x", settings)
    assert elsewhere.seen
    assert all("authorization" not in seen.headers for seen in elsewhere.seen)


def test_a_redirect_without_end_ends(settings: Settings) -> None:
    with (
        scripted(lambda asked: Told(302, headers={"Location": asked.path})) as registry,
        pytest.raises(SourceFailed, match="redirects more than 5 times"),
    ):
        pull(f"ollama:{registry.host}/library/x", settings)
    assert len(registry.seen) == 6


@pytest.mark.parametrize(
    "realm",
    [
        "{other}/token",
        "http://localhost:1/token",
        "http://169.254.169.254/latest/meta-data/",
        "https://127.0.0.1@evil.example/token",
        "https://evil.example\\@127.0.0.1/",
        "http://127.0.0.1:80@evil.example/",
        "https://evil.example#127.0.0.1",
        "file:///etc/passwd",
        "//127.0.0.1/token",
        "127.0.0.1/token",
        "",
        "http://127.0.0.1 evil.example/",
        "http://127.0.0.1.evil.example/token",
    ],
)
def test_cve_2025_51471_no_other_realm_is_asked_for_a_token(realm: str, settings: Settings) -> None:
    """A registry that names a realm of its choice gets no login sent there, and no request."""

    def token(_: Asked) -> Told:
        return Told(200, b'{"token":"stolen"}')

    # Another host of this machine: 127.0.0.1 is the registry, localhost:PORT is not.
    with scripted(token, name="localhost") as other:

        def answer(asked: Asked) -> Told:
            told = f'Bearer realm="{realm.format(other=other.url)}",service="s",scope="x"'
            return Told(401, headers={"WWW-Authenticate": told})

        with scripted(answer) as registry:
            log_in(registry.host)
            with pytest.raises(Refused, match="no request and no password was sent") as raised:
                pull(f"ollama:{registry.host}/library/x", settings)
    assert type(raised.value) is Refused
    assert other.seen == []
    assert all("authorization" not in seen.headers for seen in registry.seen)


def test_the_registrys_own_realm_gives_the_token_that_opens_it(settings: Settings) -> None:
    manifest = json.dumps(ollama_manifest([("model", BODY)], BODY)).encode()

    def give(asked: Asked) -> Told:
        assert asked.headers.get("authorization") == basic()
        return Told(200, b'{"token":"t0ken","expires_in":60}')

    with scripted(give) as tokens:

        def answer(asked: Asked) -> Told:
            if asked.headers.get("authorization") != "Bearer t0ken":
                told = (
                    f'Bearer realm="{tokens.url}/token?keep=1",service="s",scope="repository:all:*"'
                )
                return Told(401, headers={"WWW-Authenticate": told})
            if "/blobs/" in asked.path:
                return Told(200, BODY)
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})

        with scripted(answer) as registry:
            log_in(registry.host)
            pull(f"ollama:{registry.host}/library/x", settings)
    assert [seen.query for seen in tokens.seen] == [
        {"keep": ["1"], "service": ["s"], "scope": ["repository:library/x:pull"]}
    ]  # the scope that is needed, not the one the registry would like


def test_a_token_that_expires_on_the_way_is_renewed(settings: Settings) -> None:
    manifest = json.dumps(ollama_manifest([("model", BODY)], BODY)).encode()
    given: list[str] = []

    def answer(asked: Asked) -> Told:
        if asked.path == "/token":
            given.append(f"t{len(given)}")
            return Told(200, json.dumps({"access_token": given[-1]}).encode())
        sent = asked.headers.get("authorization", "")
        fresh = "/manifests/" in asked.path and len(given) == 1
        if sent == f"Bearer {given[-1] if given else ''}" and (fresh or len(given) == 2):
            if "/blobs/" in asked.path:
                return Told(200, BODY)
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})
        told = f'Bearer realm="http://{registry.host}/token"'
        return Told(401, headers={"WWW-Authenticate": told})

    with scripted(answer) as registry:
        pull(f"ollama:{registry.host}/library/x", settings)
    assert given == ["t0", "t1"]


def test_a_signed_address_that_expires_on_the_way_is_asked_for_again(settings: Settings) -> None:
    manifest = json.dumps(ollama_manifest([("model", BODY)], BODY)).encode()
    left = {"good": 1}

    def give(asked: Asked) -> Told:
        start = int(asked.headers.get("range", "bytes=0-")[6:].rstrip("-"))
        if asked.query["key"] == ["old"] and left["good"] == 0:
            return Told(403)
        left["good"] = 0
        if asked.query["key"] == ["old"]:
            return Told(200, BODY[:90_000], {"Content-Length": str(len(BODY))})
        span = {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"}
        return Told(206, BODY[start:], span)

    def point(asked: Asked) -> Told:
        if "/manifests/" in asked.path:
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})
        if asked.method == "HEAD":
            left["renewed"] = 1
            return Told(200)
        key = "new" if "renewed" in left else "old"
        return Told(307, headers={"Location": f"{bucket.url}/b?key={key}"})

    with scripted(give) as bucket, scripted(point) as registry:
        pull(f"ollama:{registry.host}/library/x", settings)
    assert [seen.query["key"] for seen in bucket.seen] == [["old"], ["old"], ["new"]]
    assert bucket.seen[-1].headers["range"] == "bytes=90000-"


def test_what_a_login_lacks_is_said(settings: Settings) -> None:
    def answer(asked: Asked) -> Told:
        if asked.path == "/token":
            return Told(*script.pop(0))
        if asked.headers.get("authorization", "").startswith("Bearer"):
            return Told(403)
        told = f'Bearer realm="http://{registry.host}/token"'
        return Told(401, headers={"WWW-Authenticate": told})

    script: list[tuple[int, bytes]] = []
    with scripted(answer) as registry:
        ref = f"ollama:{registry.host}/library/x"
        script[:] = [(401, b"")]
        with pytest.raises(NeedsAccess, match="wants a login for library/x and none is stored"):
            pull(ref, settings)
        script[:] = [(200, b'{"token":"t"}')]
        with pytest.raises(NeedsAccess, match="does not let you read library/x"):
            pull(ref, settings)
        for body in (b"", b"[]", b'{"token":"a\\r\\nX: y"}', b'{"token":1}', b"{}"):
            script[:] = [(200, body)]
            with pytest.raises(SourceFailed, match="gives out no token"):
                pull(ref, settings)
        log_in(registry.host)
        script[:] = [(401, b"")]
        with pytest.raises(NeedsAccess, match=r"refuses the login that .*config\.json has for it"):
            pull(ref, settings)
        registry.answer = lambda _: Told(401)
        with pytest.raises(NeedsAccess, match="names no way to log in"):
            pull(ref, settings)


def test_challenges_are_read() -> None:
    found = challenge_of('Basic realm="a", Bearer realm="https://h/t",service="s, t",scope="x"')
    assert found is not None
    assert (found.scheme, found.realm, found.service) == ("bearer", "https://h/t", "s, t")
    only = challenge_of('BASIC realm="a"')
    assert only is not None
    assert only.scheme == "basic"
    for none in ("", "Negotiate", "Digest realm=x", "x" * 100_000):
        assert challenge_of(none) is None
    rng = random.Random(5)
    for _ in range(2000):
        text = "".join(rng.choice('Bearer asic="x,\\ \t\0é') for _ in range(rng.randrange(80)))
        challenge_of("Bearer " + text)


def test_a_realm_is_https_and_a_host_the_registry_may_name() -> None:
    base = "https://registry.example"
    for realm in (
        "https://registry.example/t",
        "https://registry.example:5001",
        "https://a.example",
    ):
        assert _proved(realm, base, ("a.example",)) == realm
    for realm in ("http://registry.example/t", "http://a.example/t", "http://127.0.0.1/t"):
        with pytest.raises(Refused):
            _proved(realm, base, ("a.example", "127.0.0.1"))
    assert _proved("https://auth.docker.io/token", "https://registry-1.docker.io", ())
    with pytest.raises(Refused):
        _proved("https://auth.docker.io/token", base, ())


def test_a_star_in_a_certificate_is_one_label() -> None:
    assert _covered("auth.example.com", ("*.example.com",))
    assert _covered("auth.example.com", ("x", "AUTH.example.com."))
    assert not _covered("a.b.example.com", ("*.example.com",))
    assert not _covered("example.com", ("*.example.com",))
    assert not _covered("evil.com", ("*.com",))
    assert not _covered("evil.com", ("*",))
    assert not _covered("evil.com", ())


# ---- TLS -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost,IP:127.0.0.1")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("narrow"), "DNS:localhost")


def test_a_certificate_nobody_vouches_for_is_refused(
    made: Certificate, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker_registry(tmp_path / "r", tls=made, name="localhost") as registry:
        with pytest.raises(SourceFailed, match=r"is not trusted.*SSL_CERT_FILE"):
            pull(f"ollama:{registry.host}/library/tiny", settings)
        monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))
        with pytest.raises(ModelNotFound, match="check name and tag"):
            pull(f"ollama:{registry.host}/library/tiny", settings)


def test_a_certificate_of_another_name_is_refused(
    narrow: Certificate, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(narrow.certificate))
    with (
        scripted(lambda _: Told(200), tls=narrow, name="127.0.0.1") as registry,
        pytest.raises(SourceFailed, match="is not trusted"),
    ):
        pull(f"ollama:{registry.host}/library/tiny", settings)
    assert registry.seen == []


@pytest.mark.parametrize("covered", [True, False])
def test_a_realm_in_the_registrys_certificate_may_be_asked(
    covered: bool,
    made: Certificate,
    narrow: Certificate,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = tmp_path / "both.pem"
    both.write_text(made.certificate.read_text() + narrow.certificate.read_text())
    monkeypatch.setenv("SSL_CERT_FILE", str(both))
    manifest = json.dumps(ollama_manifest([("model", BODY)], BODY)).encode()
    with scripted(lambda _: Told(200, b'{"token":"t"}'), tls=made) as tokens:

        def answer(asked: Asked) -> Told:
            if asked.headers.get("authorization") != "Bearer t":
                told = f'Bearer realm="{tokens.url}/token"'
                return Told(401, headers={"WWW-Authenticate": told})
            if "/blobs/" in asked.path:
                return Told(200, BODY)
            kind = "application/vnd.docker.distribution.manifest.v2+json"
            return Told(200, manifest, {"Content-Type": kind})

        with scripted(answer, tls=made if covered else narrow, name="localhost") as registry:
            ref = f"ollama:{registry.host}/library/x"
            if covered:
                pull(ref, settings)
                assert len(tokens.seen) == 1
            else:
                with pytest.raises(Refused, match="neither its own host nor in its certificate"):
                    pull(ref, settings)
                assert tokens.seen == []


def test_only_loopback_is_asked_by_plain_http() -> None:
    network = Network(environ={})
    assert (
        RepositoryClient(network, "registry.example:5000", "x").base
        == "https://registry.example:5000"
    )
    assert RepositoryClient(network, "docker.io", "ai/x").base == "https://registry-1.docker.io"
    assert RepositoryClient(network, "127.0.0.1.example", "x").base == "https://127.0.0.1.example"
    assert RepositoryClient(network, "10.0.0.1:5000", "x").base == "https://10.0.0.1:5000"
    assert RepositoryClient(network, "[::1]:1", "x").base == "http://[::1]:1"


# ---- the real registry with logins ---------------------------------------------------------

# bcrypt: perl -e 'print crypt("hunter2-of-this-test", q($2y$05$abcdefghijklmnopqrstuu))'
HTPASSWD = "me:$2y$05$abcdefghijklmnopqrstuugzmeRGeKKCdtdB0G.YxCNNljgxwfdUW\n"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "htpasswd").write_text(HTPASSWD)
    auth = f"auth:\n  htpasswd:\n    realm: here\n    path: {folder / 'htpasswd'}\n"
    with docker_registry(folder, auth) as registry:
        yield registry


def test_the_real_registry_with_a_password(
    guarded: Real, settings: Settings, smallest: Path
) -> None:
    from overt.cli.push import _push

    target = f"oci:{guarded.host}/team/model:v1"
    with pytest.raises(NeedsAccess, match="wants a login for team/model and none is stored"):
        _push(str(smallest), target, settings, None)
    log_in(guarded.host)
    _push(str(smallest), target, settings, None)
    manifest = pull(target, settings)
    assert Store(settings.home).path(manifest.weights).read_bytes() == smallest.read_bytes()


@pytest.fixture
def smallest(tmp_path: Path) -> Path:
    path = tmp_path / "smallest.gguf"
    path.write_bytes(BODY)
    return path


def test_the_real_registry_with_tokens(
    made: Certificate, settings: Settings, tmp_path: Path, smallest: Path, monkeypatch
) -> None:
    """Tokens of the distribution project's own kind: signed, for one repository and action."""
    from overt.cli.push import _push

    monkeypatch.setenv("SSL_CERT_FILE", str(made.certificate))

    def give(asked: Asked) -> Told:
        if asked.headers.get("authorization") != basic():
            return Told(401)
        kind, name, actions = asked.query["scope"][0].split(":")
        access = [{"type": kind, "name": name, "actions": actions.split(",")}]
        token = token_of(made, asked.query["service"][0], access)
        return Told(200, json.dumps({"token": token}).encode())

    with scripted(give, tls=made, name="localhost") as tokens:
        auth = (
            f"auth:\n  token:\n    realm: {tokens.url}/token\n    service: the-registry\n"
            f"    issuer: overt-tests\n    rootcertbundle: {made.certificate}\n"
        )
        with docker_registry(tmp_path / "r", auth, tls=made, name="localhost") as registry:
            target = f"oci:{registry.host}/team/model:v1"
            with pytest.raises(NeedsAccess, match="none is stored"):
                _push(str(smallest), target, settings, None)
            log_in(registry.host)
            pushed = _push(str(smallest), target, settings, None)
            assert tokens.seen[-1].query["scope"] == ["repository:team/model:pull,push"]
            manifest = pull(target, settings)
            assert manifest.ref == str(pushed.ref)
            assert tokens.seen[-1].query["scope"] == ["repository:team/model:pull"]
    assert Store(settings.home).path(manifest.weights).read_bytes() == smallest.read_bytes()


# ---- where logins are kept -----------------------------------------------------------------


def config(folder: Path, content: object) -> dict[str, str]:
    """An environment whose docker configuration is `content`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return {"DOCKER_CONFIG": str(folder), "HOME": str(folder), "PATH": os.environ["PATH"]}


def packed(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def test_logins_of_docker_are_found_by_any_spelling_of_the_host(tmp_path: Path) -> None:
    for key in ("h.example:5000", "https://h.example:5000", "https://H.example:5000/v2/"):
        environ = config(tmp_path, {"auths": {key: packed("u", "a:b")}})
        login = credentials.find("h.example:5000", "team/x", environ).login
        assert login is not None
        assert (login.user, login.password) == ("u", "a:b")
        assert credentials.find("h.example", "team/x", environ).login is None
        assert credentials.find("evil.h.example:5000", "team/x", environ).login is None


def test_the_hub_of_docker_is_found_under_its_old_address(tmp_path: Path) -> None:
    environ = config(tmp_path, {"auths": {"https://index.docker.io/v1/": packed("u", "p")}})
    assert credentials.find("docker.io", "ai/x", environ).login is not None
    assert credentials.find("registry-1.docker.io", "ai/x", environ).login is not None
    assert credentials.find("ghcr.io", "ai/x", environ).login is None


def test_podmans_login_for_a_namespace_comes_before_its_hosts(tmp_path: Path) -> None:
    runtime = tmp_path / "run/containers"
    runtime.mkdir(parents=True)
    auths = {"h.example": packed("all", "p"), "h.example/team": packed("team", "p")}
    (runtime / "auth.json").write_text(json.dumps({"auths": auths}))
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run"), "PATH": ""}
    for repository, user in (("team/x", "team"), ("teams/x", "all"), ("other", "all")):
        login = credentials.find("h.example", repository, environ).login
        assert login is not None
        assert login.user == user


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_a_helper_is_asked_by_name_and_never_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper(
        tmp_path,
        "mine",
        """read host; echo "{\\"Username\\":\\"u@$host\\",\\"Secret\\":\\"p\\"}" """,
    )
    for content in ({"credsStore": "mine"}, {"credHelpers": {"h.example": "mine"}}):
        environ = {**config(tmp_path, content), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        found = credentials.find("h.example", "x", environ)
        assert found.login is not None
        assert (found.login.user, found.place) == ("u@h.example", "docker-credential-mine")
    (tmp_path / "evil").mkdir()
    helper(tmp_path / "evil", "x", f"touch {tmp_path}/ran")
    for name in ("../evil/x", "evil/x", "/bin/sh", "x;touch ran", "x y", "", "-x", 7, ["mine"]):
        environ = {
            **config(tmp_path, {"credsStore": name}),
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
        }
        assert credentials.find("h.example", "x", environ).login is None
    assert not (tmp_path / "ran").exists()
    # A slash would make it a path from here, where anybody may have put a program.
    (tmp_path / "docker-credential-").mkdir()
    (tmp_path / "docker-credential-/run").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "docker-credential-/run").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    found = credentials.find("h.example", "x", config(tmp_path, {"credsStore": "/run"}))
    assert found.trouble == "'/run' is no name of a credential helper"
    assert not (tmp_path / "ran").exists()


def test_a_helper_that_does_not_work_is_named_and_the_file_still_counts(tmp_path: Path) -> None:
    for name, script, words in (
        ("absent", None, "docker-credential-absent is not installed"),
        ("broken", "exit 3", "docker-credential-broken failed"),
        ("chatty", "echo hello", "docker-credential-chatty gave an answer that cannot be read"),
        ("empty", "echo 'credentials not found in native keychain'; exit 1", ""),
    ):
        if script:
            helper(tmp_path, name, script)
        content: dict[str, object] = {"credsStore": name}
        environ = {**config(tmp_path, content), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        found = credentials.find("h.example", "x", environ)
        assert found.login is None
        assert found.trouble.endswith(words)
        config(tmp_path, {**content, "auths": {"h.example": packed("u", "p")}})
        assert credentials.find("h.example", "x", environ).login is not None


def test_an_identity_token_is_exchanged_and_not_shown(settings: Settings, tmp_path: Path) -> None:
    folder = Path(os.environ["HOME"]) / ".docker"
    folder.mkdir()
    asked: list[Asked] = []

    def answer(seen: Asked) -> Told:
        if seen.path == "/token":
            asked.append(seen)
            return Told(401)
        told = f'Bearer realm="http://{registry.host}/token",service="s"'
        return Told(401, headers={"WWW-Authenticate": told})

    with scripted(answer) as registry:
        auths = {registry.host: {"identitytoken": PASSWORD}}
        (folder / "config.json").write_text(json.dumps({"auths": auths}))
        with pytest.raises(NeedsAccess) as raised:
            pull(f"ollama:{registry.host}/library/x", settings)
    assert PASSWORD not in str(raised.value)
    assert asked[0].method == "POST"
    assert f"refresh_token={PASSWORD}".encode() in asked[0].body
    assert PASSWORD not in repr(credentials.RegistryLogin("u", PASSWORD, PASSWORD))


@pytest.mark.parametrize(
    "content",
    ["", "[]", "null", "{", '{"auths":7}', '{"auths":{"h.example":7}}', "[" * 5000,
     '{"auths":{"h.example":{"auth":"é"}}}', '{"auths":{"h.example":{"auth":"bm9jb2xvbg=="}}}',
     '{"auths":{"h.example":{"auth":"/w=="}}}', '{"credHelpers":[1],"credsStore":null}'],
)  # fmt: skip
def test_a_broken_configuration_gives_no_login_and_no_exception(
    content: str, tmp_path: Path
) -> None:
    assert credentials.find("h.example", "x", config(tmp_path, content)).login is None


def test_a_password_is_in_no_error_and_in_no_file(settings: Settings) -> None:
    with scripted(lambda _: Told(401, headers={"WWW-Authenticate": 'Basic realm="x"'})) as registry:
        log_in(registry.host)
        with pytest.raises(OvertError) as raised:
            pull(f"ollama:{registry.host}/library/x", settings)
    assert PASSWORD not in str(raised.value)
    secrets = (PASSWORD.encode(), basic().encode())
    for path in settings.home.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in secrets)
