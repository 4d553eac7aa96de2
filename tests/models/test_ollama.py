"""Models from an Ollama registry: filled through its API, pulled back byte for byte."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.errors import BadRef, FormatError, IntegrityError, ModelNotFound, Offline, SourceFailed
from overt.models.pull import find, pull
from overt.models.sources.registry import OCI_INDEX
from overt.models.store import Store
from overt.ref import parse
from overt.settings import Settings, load
from registries import (
    DOCKER_CONFIG,
    OLLAMA,
    Real,
    digest,
    docker_registry,
    layer,
    ollama_manifest,
    publish_ollama,
    put_blob,
    put_manifest,
)
from servers import gguf

APACHE = b"\n          Apache License\n    Version 2.0, January 2004\n"
PARTS = (
    ("model", gguf(1, 3_000_000)),
    ("template", b"{{ .System }}{{ .Prompt }}"),
    ("system", "Answer in “rhymes”.".encode()),
    ("params", b'{"stop":["<end>"],"temperature":0.2}'),
    ("messages", b'[{"role":"user","content":"hello"}]'),
    ("license", APACHE),
    ("license", b"Use policy"),
    ("adapter", gguf(2)),
    ("projector", gguf(3)),
    ("draft", gguf(4)),
    ("embed", b"old"),
)
CONFIG = b'{"model_format":"gguf","renderer":"tiny-renderer","parser":"tiny-parser","os":"linux"}'


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        publish_ollama(found, "library/tiny", "1b", PARTS, CONFIG)
        yield found


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def test_every_part_comes_back_byte_for_byte(registry: Real, settings: Settings) -> None:
    ref = f"ollama:{registry.host}/library/tiny:1b"
    manifest = pull(ref, settings)
    assert [(file.role, file.path) for file in manifest.files] == [
        ("weights", "model.gguf"),
        ("template", "template"),
        ("system", "system"),
        ("parameters", "params.json"),
        ("messages", "messages.json"),
        ("licence", "LICENSE"),
        ("licence", "LICENSE-2"),
        ("adapter", "adapter.gguf"),
        ("projector", "projector.gguf"),
        ("draft", "draft.gguf"),
        ("config", "config.json"),
    ]
    store = Store(settings.home)
    pulled = [store.path(file).read_bytes() for file in manifest.files]
    assert pulled == [body for kind, body in PARTS if kind != "embed"] + [CONFIG]
    assert [file.digest for file in manifest.files] == [digest(body) for body in pulled]
    assert manifest.licence == "Apache-2.0"
    assert manifest.origin["left_out"] == f"{OLLAMA}embed"
    assert manifest.origin["renderer"] == "tiny-renderer"
    assert manifest.origin["registry"] == registry.host
    assert find(ref, settings).weights.read_bytes() == PARTS[0][1]
    assert store.verify() == []


def test_a_tag_is_pinned_and_asked_about_and_a_digest_is_not(
    registry: Real, settings: Settings
) -> None:
    body = publish_ollama(registry, "library/moving", "latest", [("model", gguf(5))])
    first = pull(f"ollama:{registry.host}/library/moving", settings)
    assert first.ref == f"ollama:{registry.host}/library/moving@{digest(body)}"
    assert str(parse(first.ref)) == first.ref
    publish_ollama(registry, "library/moving", "latest", [("model", gguf(6))])
    second = pull(f"ollama:{registry.host}/library/moving:latest", settings)
    assert second.ref != first.ref
    asked = registry.log.count("library/moving/manifests")
    assert pull(first.ref, settings) == first
    assert registry.log.count("library/moving/manifests") == asked


def test_a_pin_that_is_not_here_is_pulled_by_digest(registry: Real, settings: Settings) -> None:
    body = publish_ollama(registry, "library/pin", "v1", [("model", gguf(7))])
    ref = f"ollama:{registry.host}/library/pin@{digest(body)}"
    assert pull(ref, settings).ref == ref


def test_the_default_host_namespace_and_tag_are_ollamas(settings: Settings) -> None:
    from overt.models.sources import ollama
    from overt.models.sources.download import Network

    with pytest.raises(Offline, match=r"the registry registry\.ollama\.ai needs the network"):
        ollama.plan(parse("ollama:llama3.2"), Network(offline=True), {})


def test_a_registry_that_is_not_there_is_one_sentence() -> None:
    from overt.models.sources import ollama
    from overt.models.sources.download import Network

    network = Network(pause=0.001)
    with pytest.raises(SourceFailed, match=r"cannot be read: .*; check the network"):
        ollama.plan(parse("ollama:127.0.0.1:1/library/tiny"), network, {})
    network.close()


def test_a_missing_model_or_tag_says_so(registry: Real, settings: Settings) -> None:
    for ref in ("library/nothing", "library/tiny:2b"):
        with pytest.raises(ModelNotFound, match="check name and tag"):
            pull(f"ollama:{registry.host}/{ref}", settings)


def test_what_only_ollama_can_read_is_refused_with_a_reason(
    registry: Real, settings: Settings
) -> None:
    for tag, parts, error, words in (
        ("tensors", [("tensor", b"x"), ("json", b"{}")], FormatError, "tensor by tensor"),
        ("cloud", [("license", b"text")], ModelNotFound, "has no weights; a model that runs"),
        ("two", [("model", gguf(1)), ("model", gguf(2))], FormatError, "holds 2 models"),
    ):
        publish_ollama(registry, "library/odd", tag, parts)
        with pytest.raises(error, match=words):
            pull(f"ollama:{registry.host}/library/odd:{tag}", settings)


def test_weights_that_are_no_gguf_are_refused(registry: Real, settings: Settings) -> None:
    publish_ollama(registry, "library/fake", "latest", [("model", b"MZ\x90\x00 not a model")])
    with pytest.raises(FormatError, match="begins with b'MZ"):
        pull(f"ollama:{registry.host}/library/fake", settings)
    assert not list((settings.home / "blobs").rglob("*.*"))


def test_blobs_of_another_model_are_not_fetched_again(registry: Real, settings: Settings) -> None:
    shared = gguf(8, 500_000)
    publish_ollama(registry, "library/one", "latest", [("model", shared), ("system", b"one")])
    publish_ollama(registry, "library/two", "latest", [("model", shared), ("system", b"two")])
    pull(f"ollama:{registry.host}/library/one", settings)
    pull(f"ollama:{registry.host}/library/two", settings)
    fetched = re.findall(rf'"GET /v2/library/(\w+)/blobs/{digest(shared)}', registry.log)
    assert fetched == ["one"]


def test_a_blob_the_registry_lost_is_named(registry: Real, settings: Settings) -> None:
    publish_ollama(registry, "library/lossy", "latest", [("model", gguf(9))])
    hexes = digest(gguf(9)).removeprefix("sha256:")
    links = registry.folder / "data/docker/registry/v2/repositories/library/lossy/_layers"
    (links / "sha256" / hexes / "link").unlink()
    with pytest.raises(Exception, match=r"lists sha256:.* \(model.gguf\) and does not have it"):
        pull(f"ollama:{registry.host}/library/lossy", settings)


def test_a_blob_that_rotted_in_the_registry_is_refused(registry: Real, settings: Settings) -> None:
    body = gguf(10)
    publish_ollama(registry, "library/rotten", "latest", [("model", body)])
    hexes = digest(body).removeprefix("sha256:")
    place = registry.folder / "data/docker/registry/v2/blobs/sha256" / hexes[:2] / hexes / "data"
    place.write_bytes(body[:-1] + b"!")
    with pytest.raises(IntegrityError, match="has the sha256"):
        pull(f"ollama:{registry.host}/library/rotten", settings)


def test_an_index_is_not_taken_for_a_model(registry: Real, settings: Settings) -> None:
    inner = publish_ollama(registry, "library/index", "inner", [("model", gguf(11))])
    entry = layer("application/vnd.docker.distribution.manifest.v2+json", inner)
    content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}
    put_manifest(registry, "library/index", "latest", content)
    with pytest.raises(ModelNotFound):
        pull(f"ollama:{registry.host}/library/index", settings)


def test_a_killed_pull_goes_on_where_it_was(registry: Real, settings: Settings) -> None:
    body = gguf(12, 6_000_000)
    publish_ollama(registry, "library/long", "latest", [("model", body)])
    ref = f"ollama:{registry.host}/library/long"
    command = [sys.executable, "-m", "overt", "pull", ref]
    process = subprocess.Popen(
        [*command, "--bandwidth", "1500k"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            parts = list((settings.home / "partial").glob("*/*.part"))
            if parts and parts[0].stat().st_size > 1_000_000:
                break
            time.sleep(0.02)
        else:
            pytest.fail("nothing came")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (part,) = (settings.home / "partial").glob("*/*.part")
    had = part.stat().st_size
    assert 1_000_000 < had < len(body)
    done = subprocess.run(command, capture_output=True, env=dict(os.environ), timeout=60)
    assert done.returncode == 0, done.stderr
    assert find(ref, settings).weights.read_bytes() == body
    sizes = re.findall(rf'blobs/{digest(body)} HTTP/1.1" 206 (\d+)', registry.log)
    assert sizes == [str(len(body) - had)]
    assert not list((settings.home / "partial").glob("*/*"))


def test_the_pull_is_machine_readable(registry: Real, overt_cli, home: Path) -> None:
    ref = f"ollama:{registry.host}/library/tiny:1b"
    ran = overt_cli("pull", ref, "--json")
    assert ran.code == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["licence"] == "Apache-2.0"
    assert {file["role"] for file in found["files"]} >= {"weights", "template", "parameters"}


def test_an_ollama_ref_needs_a_namespace_behind_a_host() -> None:
    with pytest.raises(BadRef):
        parse("ollama:a/b/c/d")


def test_two_layers_of_one_digest_are_one_blob(registry: Real, settings: Settings) -> None:
    same = b"the same text"
    parts = [("model", gguf(13)), ("license", same), ("license", same), ("system", same)]
    publish_ollama(registry, "library/same", "latest", parts)
    manifest = pull(f"ollama:{registry.host}/library/same", settings)
    assert [file.path for file in manifest.files][1:4] == ["LICENSE", "LICENSE-2", "system"]
    store = Store(settings.home)
    assert {store.path(file).read_bytes() for file in manifest.files[1:4]} == {same}


def test_a_config_that_is_no_json_is_kept_and_believed_nothing(
    registry: Real, settings: Settings
) -> None:
    parts = [("model", gguf(14))]
    put_blob(registry, "library/bad", gguf(14))
    put_blob(registry, "library/bad", b"\xff{")
    put_manifest(registry, "library/bad", "latest", ollama_manifest(parts, b"\xff{"))
    manifest = pull(f"ollama:{registry.host}/library/bad", settings)
    assert "renderer" not in manifest.origin
    assert manifest.files[-1].digest == layer(DOCKER_CONFIG, b"\xff{")["digest"]
