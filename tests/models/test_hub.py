"""Models from a hub: what is chosen, where the token goes, and what each refusal says."""

import subprocess
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
from overt.models.store import Store
from overt.settings import Settings, load
from servers import Answer, Hub, Seen, Server, gguf, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = b'{"model_type": "llama"}'


def safetensors(seed: int = 0) -> bytes:
    header = b'{"t":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}'
    return len(header).to_bytes(8, "little") + header + gguf(seed, 56)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    """The hub's own host, and the one that keeps its large files."""
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with serving() as server, serving() as storage:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server, storage


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def test_one_gguf_of_several_is_taken_by_a_stated_order(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    files = {
        "tiny-Q8_0.gguf": gguf(1),
        "tiny-Q4_K_M.gguf": gguf(2),
        "tiny-f16.gguf": gguf(3),
        "README.md": b"# card",
        "LICENSE": b"text",
        "train.py": b"import os",
    }
    lfs = frozenset(name for name in files if name.endswith(".gguf"))
    Hub(*hosts, "org/tiny", files, lfs)
    manifest = pull("hf:org/tiny", settings)
    assert manifest.ref == f"hf:org/tiny@{COMMIT}#tiny-Q4_K_M.gguf"
    assert manifest.origin["code"] == "train.py"  # named, never fetched
    assert (manifest.licence, manifest.created) == ("apache-2.0", "2026-05-06T07:08:09Z")
    assert [(f.role, f.path) for f in manifest.files] == [
        ("weights", "tiny-Q4_K_M.gguf"),
        ("licence", "LICENSE"),
        ("card", "README.md"),
    ]
    assert Store(settings.home).path(manifest.weights).read_bytes() == files["tiny-Q4_K_M.gguf"]
    assert {seen.path for seen in hosts[1].seen} == {"/lfs/tiny-Q4_K_M.gguf"}
    assert pull(manifest.ref, settings) == manifest  # the same by its pinned name


def test_the_hub_is_not_told_what_else_is_here(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    Hub(*hosts, "org/tiny", {"a.gguf": gguf(1)}, frozenset({"a.gguf"}))
    pull("hf:org/tiny", settings)
    said = [seen.headers.get("user-agent", "") for seen in hosts[0].seen]
    assert any("overt" in one for one in said)
    assert not any("torch/" in one or "agent/" in one for one in said), said


def test_a_moving_ref_is_asked_about_and_a_commit_is_not(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    hub = Hub(*hosts, "org/tiny", {"a.gguf": gguf(1)}, frozenset({"a.gguf"}))
    first = pull("hf:org/tiny", settings)
    before = len(hosts[0].seen)
    assert pull(f"hf:org/tiny@{COMMIT}#a.gguf", settings) == first
    assert len(hosts[0].seen) == before
    hub.files["a.gguf"] = hosts[1].files["/lfs/a.gguf"] = gguf(2)
    hub.commit = "f" * 40
    hosts[0].files[f"/org/tiny/resolve/{'f' * 40}/a.gguf"] = gguf(2)
    second = pull("hf:org/tiny", settings)
    assert second.ref == f"hf:org/tiny@{'f' * 40}#a.gguf"
    assert find("hf:org/tiny", settings).digest == second.digest
    assert find(first.ref, settings).digest == first.digest  # not collected behind your back


def test_a_projector_comes_with_its_model(hosts: tuple[Server, Server], settings: Settings) -> None:
    files = {"see-Q4_K_M.gguf": gguf(1), "mmproj-bf16.gguf": gguf(2), "mmproj-f16.gguf": gguf(3)}
    Hub(*hosts, "org/see", files, frozenset(files))
    pull("hf:org/see", settings)
    model = find("hf:org/see", settings)
    assert model.projector is not None
    assert model.projector.read_bytes() == files["mmproj-f16.gguf"]
    assert model.weights.read_bytes() == files["see-Q4_K_M.gguf"]


def test_a_safetensors_set_comes_with_config_and_tokenizer(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    files = {
        "model-00001-of-00002.safetensors": safetensors(1),
        "model-00002-of-00002.safetensors": safetensors(2),
        "consolidated.safetensors": safetensors(3),
        "model.safetensors.index.json": b"{}",
        "config.json": CONFIG,
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ x }}",
        "pytorch_model.bin": b"never",
        "onnx/model.safetensors": safetensors(4),
    }
    Hub(*hosts, "org/set", files, frozenset(n for n in files if n.endswith("safetensors")))
    manifest = pull("hf:org/set", settings)
    assert manifest.ref == f"hf:org/set@{COMMIT}"
    assert [(f.role, f.path) for f in manifest.files] == [
        ("weights", "model-00001-of-00002.safetensors"),
        ("weights", "model-00002-of-00002.safetensors"),
        ("template", "chat_template.jinja"),
        ("config", "config.json"),
        ("config", "model.safetensors.index.json"),
        ("tokenizer", "tokenizer.json"),
    ]


@pytest.mark.parametrize(
    ("files", "ref", "error", "message"),
    [
        ({"m.bin": b"x"}, "hf:org/m", UnsafeFile, "m.bin of hf:org/m is a pickled checkpoint"),
        ({"m.gguf": gguf(), "m.pt": b"x"}, "hf:org/m#m.pt", UnsafeFile, "pickled"),
        (
            {"m-00001-of-00003.gguf": gguf(), "m-00002-of-00003.gguf": gguf(1)},
            "hf:org/m",
            FormatError,
            "one of 3 files of a split GGUF, and 2 are there",
        ),
        ({"model.safetensors": safetensors()}, "hf:org/m", FormatError, "no config.json"),
        ({"README.md": b"x"}, "hf:org/m", ModelNotFound, "no GGUF or safetensors"),
        ({"m-Q4_0.gguf": gguf()}, "hf:org/m#m-Q4.gguf", ModelNotFound, "mean m-Q4_0.gguf"),
        ({"m.gguf": gguf()}, "hf:org/m@v9", ModelNotFound, "no revision v9"),
        ({"m.gguf": gguf()}, "hf:org/other", ModelNotFound, "no public repository org/other"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(
    hosts: tuple[Server, Server],
    settings: Settings,
    files: dict[str, bytes],
    ref: str,
    error: type[Exception],
    message: str,
) -> None:
    Hub(*hosts, "org/m", files, frozenset(files))
    with pytest.raises(error, match=message):
        pull(ref, settings)
    assert hosts[1].seen == []  # refused before a byte of it came


def test_a_gated_repository_says_how_to_get_access(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    Hub(*hosts, "org/m", {"m.gguf": gguf()}, gated=True)
    with pytest.raises(NeedsAccess, match=r"no token is set; accept its terms at .*/org/m, then"):
        pull("hf:org/m", settings)


def test_gated_files_say_what_to_do_about_it(
    hosts: tuple[Server, Server], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(*hosts, "org/m", {"m.gguf": gguf()}, frozenset({"m.gguf"}))

    def route(seen: Seen) -> Answer | None:  # the list is public, the files are not
        return Answer(403) if "/resolve/" in seen.path else None

    hosts[0].routes.insert(0, route)
    with pytest.raises(NeedsAccess, match=r"terms at .*/org/m, then set HF_TOKEN, or run `hf auth"):
        pull("hf:org/m", settings)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    with pytest.raises(NeedsAccess, match=r"accept its terms .* with the account of your token"):
        pull("hf:org/m", settings)
    hub.gated_by = "manual"
    with pytest.raises(NeedsAccess, match=r"ask its authors for access at .*/org/m with the"):
        pull("hf:org/m", settings)
    assert "hf_x" not in str(NeedsAccess("x"))


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody but its holder trusts, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_mirror_with_a_certificate_of_its_own(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    authority: tuple[Path, Path],
    variable: str,
) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr("overt.models.sources.hub.time.sleep", lambda seconds: None)
    for other in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(other, raising=False)
    with serving(Server(tls=authority)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Hub(server, server, "org/m", {"m.gguf": gguf(5)}, frozenset({"m.gguf"}))
        huggingface_hub.close_session()
        with pytest.raises(SourceFailed, match=r"certificate verify failed|self-signed"):
            pull("hf:org/m", settings)
        huggingface_hub.close_session()
        monkeypatch.setenv(variable, str(authority[0]))
        manifest = pull("hf:org/m", settings)
        assert Store(settings.home).path(manifest.weights).read_bytes() == gguf(5)
        huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


def test_a_proxy_of_the_environment_is_used(
    hosts: tuple[Server, Server], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    with serving() as proxy:  # one that serves the hub itself, for a name that leads nowhere
        Hub(proxy, proxy, "org/m", {"m.gguf": gguf(6)})
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        huggingface_hub.close_session()
        manifest = pull("hf:org/m", settings)
        assert Store(settings.home).path(manifest.weights).read_bytes() == gguf(6)
        assert all(seen.path.startswith("/") for seen in proxy.seen)
    huggingface_hub.close_session()


def test_the_token_goes_to_the_hub_and_to_no_other_host(
    hosts: tuple[Server, Server], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(*hosts, "org/m", {"m.gguf": gguf(), "README.md": b"c"}, frozenset({"m.gguf"}), token="hf_x")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises((NeedsAccess, ModelNotFound)):
        pull("hf:org/m", settings)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    hosts[0].seen.clear()
    manifest = pull("hf:org/m", settings)
    assert {seen.authorization for seen in hosts[0].seen} == {"Bearer hf_x"}
    assert [seen.authorization for seen in hosts[1].seen] == [None]
    assert "hf_x" not in manifest.encode().decode()


def test_bytes_that_differ_from_their_sha256_or_git_object_are_refused(
    hosts: tuple[Server, Server], settings: Settings
) -> None:
    Hub(*hosts, "org/a", {"a.gguf": gguf(1)}, frozenset({"a.gguf"}))
    hosts[1].files["/lfs/a.gguf"] = gguf(2)
    with pytest.raises(IntegrityError, match="is stated"):
        pull("hf:org/a", settings)
    Hub(*hosts, "org/b", {"b.gguf": gguf(1)})
    hosts[0].files[f"/org/b/resolve/{COMMIT}/b.gguf"] = gguf(2)
    with pytest.raises(IntegrityError, match="is stated"):
        pull("hf:org/b", settings)
    assert Store(settings.home).names() == []


def test_offline_variables_are_honoured(
    hosts: tuple[Server, Server], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hub(*hosts, "org/m", {"m.gguf": gguf()})
    with pytest.raises(Offline):
        pull("hf:org/m", load(flags={"offline": True}))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline, match="HF_HUB_OFFLINE is set"):
        pull("hf:org/m", settings)
    assert hosts[0].seen == []


def test_a_hub_that_is_not_there_is_one_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setattr("overt.models.sources.hub.time.sleep", lambda seconds: None)
    with serving() as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.url)
    with pytest.raises(SourceFailed, match=r"cannot be reached: .*; check the network"):
        pull("hf:org/m", settings)


@pytest.mark.parametrize(
    "siblings",
    [
        [{"rfilename": "../../m.gguf", "size": 1, "blobId": "a" * 40}],
        [{"rfilename": "/etc/m.gguf", "size": 1, "blobId": "a" * 40}],
        [{"rfilename": "a\\..\\m.gguf", "size": 1, "blobId": "a" * 40}],
    ],
)
def test_a_path_that_leaves_the_repository_is_refused(
    hosts: tuple[Server, Server], settings: Settings, siblings: list[dict[str, object]]
) -> None:
    Hub(*hosts, "org/m", {}, siblings=siblings)
    with pytest.raises(UnsafeFile, match="would leave the folder"):
        pull("hf:org/m", settings)


@pytest.mark.parametrize(
    "siblings",
    [
        [{"size": 1}],
        [{"rfilename": "m.gguf", "size": "x", "lfs": 3}],
        [{"rfilename": "m.gguf", "lfs": {"sha256": 5}}],
        [{"rfilename": "m.gguf", "size": 10, "blobId": "zz"}],
        [{"rfilename": "m.gguf", "size": -1, "blobId": "a" * 40}],
        [{"rfilename": "m.gguf", "size": 10}],
        [5],
        "text",
    ],
)
def test_an_answer_that_makes_no_sense_is_one_sentence(
    hosts: tuple[Server, Server], settings: Settings, siblings: list[dict[str, object]]
) -> None:
    Hub(*hosts, "org/m", {}, siblings=siblings)
    with pytest.raises((SourceFailed, ModelNotFound)):
        pull("hf:org/m", settings)
