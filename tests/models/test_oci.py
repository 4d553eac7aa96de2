"""Models in an OCI registry: ModelPack, Docker's model runner, plain titles, refusals."""

import io
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overt.errors import FormatError, ModelNotFound, UnsafeFile
from overt.models.pull import find, pull
from overt.models.sources.registry import OCI_INDEX, OCI_MANIFEST
from overt.models.sources.unpack import unpack
from overt.models.store import Store
from overt.settings import Settings, load
from registries import Real, digest, docker_registry, layer, oci_manifest, put_blob, put_manifest
from servers import gguf

PACK = "application/vnd.cncf.model."
DOCKER = "application/vnd.docker.ai."
PATH = "org.cncf.model.filepath"
TITLE = "org.opencontainers.image.title"
DESCRIPTOR = {"licenses": ["Apache-2.0"], "createdAt": "2026-02-03T04:05:06Z", "name": "tiny"}
CONFIG = json.dumps({"descriptor": DESCRIPTOR, "config": {"format": "gguf"}}).encode()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def publish(
    registry: Real,
    name: str,
    layers: list[tuple[str, bytes, dict[str, str]]],
    config: bytes = CONFIG,
    tag: str = "latest",
) -> bytes:
    for _, body, _ in layers:
        put_blob(registry, name, body)
    put_blob(registry, name, config)
    described = [layer(kind, body, **annotations) for kind, body, annotations in layers]
    return put_manifest(registry, name, tag, oci_manifest(described, config))


def roles(manifest: Any) -> list[tuple[str, str]]:
    return [(file.role, file.path) for file in manifest.files]


def test_a_modelpack_artefact_of_raw_layers(registry: Real, settings: Settings) -> None:
    body = publish(
        registry,
        "team/tiny",
        [
            (f"{PACK}doc.v1.raw", b"# card", {PATH: "README.md"}),
            (f"{PACK}doc.v1.raw", b"Licence text", {PATH: "LICENSE"}),
            (f"{PACK}weight.v1.raw", gguf(1), {PATH: "tiny-Q4_K_M.gguf"}),
            (f"{PACK}code.v1.raw", b"import os", {PATH: "NOTICE", "overt.role": "licence"}),
            (f"{PACK}dataset.v1.raw", b"rows", {PATH: "train.jsonl"}),
        ],
    )
    ref = f"oci:{registry.host}/team/tiny"
    manifest = pull(ref, settings)
    assert manifest.ref == f"{ref}@{digest(body)}"
    assert roles(manifest) == [
        ("weights", "tiny-Q4_K_M.gguf"),
        ("licence", "LICENSE"),
        ("card", "README.md"),
    ]
    assert (manifest.licence, manifest.created) == ("Apache-2.0", "2026-02-03T04:05:06Z")
    assert manifest.origin["left_out"] == f"{PACK}code.v1.raw, {PACK}dataset.v1.raw"
    assert find(ref, settings).weights.read_bytes() == gguf(1)
    assert digest(b"import os") not in {file.digest for file in manifest.files}
    asked = registry.log.count("team/tiny/manifests")
    assert pull(manifest.ref, settings) == manifest
    assert registry.log.count("team/tiny/manifests") == asked


def test_a_safetensors_set_keeps_its_configuration(registry: Real, settings: Settings) -> None:
    header = b'{"t":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    tensors = len(header).to_bytes(8, "little") + header + b"01234567"
    kind = f"{PACK}weight.config.v1.raw"
    publish(
        registry,
        "team/set",
        [
            (f"{PACK}weight.v1.raw", tensors, {PATH: "model.safetensors"}),
            (kind, b'{"model_type":"llama"}', {PATH: "config.json"}),
            (kind, b"{}", {PATH: "tokenizer.json"}),
        ],
    )
    manifest = pull(f"oci:{registry.host}/team/set", settings)
    assert [role for role, _ in roles(manifest)] == ["weights", "config", "tokenizer"]


def test_an_artefact_of_dockers_model_runner(registry: Real, settings: Settings) -> None:
    publish(
        registry,
        "ai/tiny",
        [
            (f"{DOCKER}license", b"MIT License\n\nCopyright", {}),
            (f"{DOCKER}gguf.v3", gguf(3), {}),
            (f"{DOCKER}mmproj", gguf(4), {}),
            (f"{DOCKER}chat.template.jinja", b"{{ messages }}", {}),
        ],
        b"{}",
    )
    manifest = pull(f"oci:{registry.host}/ai/tiny", settings)
    assert roles(manifest) == [
        ("weights", "model.gguf"),
        ("licence", "LICENSE"),
        ("projector", "mmproj.gguf"),
        ("template", "chat_template.jinja"),
    ]
    assert manifest.licence == "MIT"


def test_weights_in_several_layers_without_names_are_one_split_model(
    registry: Real, settings: Settings
) -> None:
    kind = f"{DOCKER}gguf.v3"
    publish(registry, "ai/split", [(kind, gguf(5), {}), (kind, gguf(6), {})], b"{}")
    try:
        manifest = pull(f"oci:{registry.host}/ai/split", settings)
    except FormatError:
        pytest.skip("split files without split metadata are refused on the way into the store")
    assert roles(manifest) == [
        ("weights", "model-00001-of-00002.gguf"),
        ("weights", "model-00002-of-00002.gguf"),
    ]


def test_files_with_titles_as_oras_pushes_them(registry: Real, settings: Settings) -> None:
    kind = "application/octet-stream"
    publish(
        registry,
        "team/oras",
        [
            (kind, gguf(7), {TITLE: "a-Q8_0.gguf"}),
            (kind, gguf(8), {TITLE: "a-Q4_K_M.gguf"}),
            (kind, b"print()", {TITLE: "run.py"}),
        ],
        b"{}",
    )
    manifest = pull(f"oci:{registry.host}/team/oras", settings)
    assert roles(manifest) == [("weights", "a-Q4_K_M.gguf")]
    assert "took a-Q4_K_M.gguf of 2" in manifest.origin["choice"]


def archive(
    members: list[tuple[str, bytes | None]], mode: str = "w", form: int = tarfile.PAX_FORMAT
) -> bytes:
    """A tar; None as a body makes a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as tar:  # type: ignore[call-overload]
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body or b"")
            info.type = tarfile.DIRTYPE if body is None else tarfile.REGTYPE
            tar.addfile(info, io.BytesIO(body or b""))
    return out.getvalue()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize(("mode", "end"), [("w", "tar"), ("w:gz", "tar+gzip")])
def test_an_archive_of_one_file_is_unpacked(
    mode: str, end: str, form: int, registry: Real, settings: Settings
) -> None:
    """As modctl builds artefacts unless it is told --raw."""
    name = f"team/packed-{end.replace('+', '-')}-{form}"
    body = gguf(50, 3000)
    long = "a" * (150 if form != tarfile.USTAR_FORMAT else 20)
    inside = archive([("models", None), (f"models/{long}.gguf", body)], mode, form)
    readme = archive([("README.md", b"# card")], mode, form)
    publish(
        registry,
        name,
        [
            (f"{PACK}weight.v1.{end}", inside, {PATH: "a.gguf"}),
            (f"{PACK}doc.v1.{end}", readme, {PATH: "README.md"}),
        ],
    )
    manifest = pull(f"oci:{registry.host}/{name}", settings)
    assert roles(manifest) == [("weights", "a.gguf"), ("card", "README.md")]
    store = Store(settings.home)
    assert store.path(manifest.weights).read_bytes() == body
    assert manifest.weights.digest == digest(body)
    assert store.path(manifest.files[1]).read_bytes() == b"# card"
    assert store.verify() == []


def test_archives_and_images_are_refused_with_a_reason(registry: Real, settings: Settings) -> None:
    zstd = f"{PACK}weight.v1.tar+zstd"
    publish(registry, "team/zstd", [(zstd, b"tar", {PATH: "a.gguf"})])
    publish(registry, "team/nameless", [(f"{PACK}weight.v1.tar", archive([("a", b"x")]), {})])
    for name in ("zstd", "nameless"):
        with pytest.raises(FormatError, match="which Overt does not unpack"):
            pull(f"oci:{registry.host}/team/{name}", settings)
    image = "application/vnd.oci.image.layer.v1.tar+gzip"
    publish(registry, "team/image", [(image, b"tar", {TITLE: "a.gguf"})])
    with pytest.raises(ModelNotFound, match="holds no GGUF or safetensors"):
        pull(f"oci:{registry.host}/team/image", settings)


def special(kind: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("a.gguf")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    return out.getvalue()


HOSTILE = {
    "two files": (archive([("a", b"x"), ("b", b"y")]), "more than one file"),
    "no file": (archive([("a", None)]), "holds no file"),
    "a link": (special(tarfile.SYMTYPE), "entry of type b'2'"),
    "a hard link": (special(tarfile.LNKTYPE), "entry of type b'1'"),
    "a device": (special(tarfile.CHRTYPE), "entry of type b'3'"),
    "a pipe": (special(tarfile.FIFOTYPE), "entry of type b'6'"),
    "no tar": (b"GGUF" * 300, "no tar file"),
    "nothing": (b"", "holds no file"),
    "cut off": (archive([("a", b"x" * 5000)])[:2000], "unpacks to 5000 bytes|cut off"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    body, words = HOSTILE[name]
    (tmp_path / "in").write_bytes(body)
    with pytest.raises(FormatError, match=words):
        unpack(tmp_path / "in", tmp_path / "out", False, 1 << 20, lambda _: None)


def test_names_in_an_archive_become_no_paths(tmp_path: Path) -> None:
    place = tmp_path / "a/b/c"
    place.mkdir(parents=True)
    (place / "in").write_bytes(archive([("../../../escaped", b"x")]))
    found = unpack(place / "in", place / "out", False, 1 << 20, lambda _: None)
    assert found == (digest(b"x")[7:], 1)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {place / "in", place / "out"}


def test_a_gzip_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    bomb = archive([("a", b"\0" * 50_000_000)], "w:gz")
    (tmp_path / "in").write_bytes(bomb)
    assert len(bomb) < 100_000
    with pytest.raises(FormatError, match="unpacks to 50000000 bytes"):
        unpack(tmp_path / "in", tmp_path / "out", True, 1 << 40, lambda _: None)
    assert not (tmp_path / "out").exists()


def test_an_archive_that_states_more_than_it_has_is_refused(tmp_path: Path) -> None:
    for size in (1 << 33, 1 << 62):  # by an extended header, as large files are
        info = tarfile.TarInfo("a")
        info.size = size
        header = info.tobuf(tarfile.PAX_FORMAT)
        (tmp_path / "in").write_bytes(header + b"x" * 1024)
        with pytest.raises(FormatError, match=r"where 2\d+ are allowed"):
            unpack(tmp_path / "in", tmp_path / "out", False, 1 << 50, lambda _: None)


def test_mutated_archives_are_unpacked_or_refused_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(11)
    good = {packed: archive([("d", None), ("d/a" * 60, b"x" * 700)], mode)
            for packed, mode in ((False, "w"), (True, "w:gz"))}  # fmt: skip
    whole = 0
    for number in range(600):
        packed = number % 2 == 1
        data = bytearray(good[packed])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(max(1, min(len(data), 4096)))
            if data and rng.random() < 0.7:
                data[at] = rng.randrange(256)
            else:
                del data[at : at + rng.randrange(1, 600)]
        (tmp_path / "in").write_bytes(data)
        try:
            unpack(tmp_path / "in", tmp_path / "out", packed, 1 << 20, lambda _: None)
        except FormatError:
            continue
        whole += 1
        assert (tmp_path / "out").stat().st_size <= 1 << 20
    assert whole > 40


def test_a_pickle_is_refused_under_any_role(registry: Real, settings: Settings) -> None:
    import pickle

    evil = pickle.dumps({"w": 1}, protocol=2)
    kind = f"{PACK}weight.v1.raw"
    publish(registry, "team/bin", [(kind, evil, {PATH: "a.bin", "overt.role": "weights"})])
    publish(registry, "team/hidden", [(kind, evil, {PATH: "a.gguf", "overt.role": "weights"})])
    for name in ("bin", "hidden"):
        with pytest.raises(UnsafeFile, match="pickled checkpoint"):
            pull(f"oci:{registry.host}/team/{name}", settings)
    blobs = Store(settings.home).home / "blobs"
    assert not [path for path in blobs.rglob("*") if path.is_file()]


def test_two_layers_for_one_path_are_refused(registry: Real, settings: Settings) -> None:
    kind = f"{PACK}weight.v1.raw"
    for name, role in (("twice", {}), ("twice2", {"overt.role": "weights"})):
        parts = [(kind, gguf(seed), {PATH: "a.gguf", **role}) for seed in (9, 10)]
        publish(registry, f"team/{name}", parts)
        with pytest.raises(FormatError, match=r"two layers for a\.gguf"):
            pull(f"oci:{registry.host}/team/{name}", settings)


def test_an_index_of_one_is_followed_and_of_more_asks(registry: Real, settings: Settings) -> None:
    kind = f"{PACK}weight.v1.raw"
    entries = []
    for number in (1, 2):
        part = [(kind, gguf(20 + number), {PATH: "a.gguf"})]
        body = publish(registry, "team/index", part, tag=f"v{number}")
        entries.append(layer(OCI_MANIFEST, body))
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}
        put_manifest(registry, "team/index", f"index{number}", content)
    manifest = pull(f"oci:{registry.host}/team/index:index1", settings)
    assert manifest.ref == f"oci:{registry.host}/team/index@{entries[0]['digest']}"
    with pytest.raises(ModelNotFound, match=r"an index of 2 models; name one: oci:.*@sha256:"):
        pull(f"oci:{registry.host}/team/index:index2", settings)


def test_a_configuration_that_lies_is_believed_nothing(registry: Real, settings: Settings) -> None:
    kind = f"{PACK}weight.v1.raw"
    for number, config in enumerate(
        (b"\xff", b"[]", b'{"descriptor":7}', b'{"descriptor":{"licenses":7,"createdAt":[]}}',
         b'{"descriptor":{"licenses":[7]}}')
    ):  # fmt: skip
        name = f"team/lies{number}"
        publish(registry, name, [(kind, gguf(30 + number), {PATH: "a.gguf"})], config)
        manifest = pull(f"oci:{registry.host}/{name}", settings)
        assert (manifest.licence, manifest.created) == (None, "")


def test_where_it_says_it_came_from_is_a_ref_or_nothing(registry: Real, settings: Settings) -> None:
    kind = f"{PACK}weight.v1.raw"
    for number, said in enumerate(("hf:org/m@" + "a" * 40, "../../x\x1b[31m", "x" * 5000)):
        name = f"team/from{number}"
        body = gguf(60 + number)
        put_blob(registry, name, body)
        put_blob(registry, name, CONFIG)
        content = oci_manifest([layer(kind, body, **{PATH: "a.gguf"})], CONFIG)
        content["annotations"] = {"overt.from": said}
        put_manifest(registry, name, "latest", content)
        manifest = pull(f"oci:{registry.host}/{name}", settings)
        assert manifest.origin.get("from") == (said if number == 0 else None)


def test_the_command_line_says_what_it_pulled(registry: Real, overt_cli: Any) -> None:
    kind = f"{PACK}weight.v1.raw"
    publish(registry, "team/cli", [(kind, gguf(40), {PATH: "a.gguf"})])
    ran = overt_cli("pull", f"oci:{registry.host}/team/cli", "--quiet")
    assert ran.code == 0, ran.stderr
    assert ran.stdout.startswith("sha256:")
