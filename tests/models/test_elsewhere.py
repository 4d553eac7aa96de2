"""What other programs keep on this machine, read from folders laid out as they lay them out."""

import hashlib
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from elsewhere_writer import COMMIT, hub_cache, ollama
from overt.models.sources.local_caches import (
    PROGRAMS,
    ForeignModel,
    ForeignPlace,
    UnusableModel,
    any_folder,
    places,
)
from servers import gguf

MANIFEST = "registry.ollama.ai/library/llama3.2/1b"


def _look(place: ForeignPlace) -> tuple[list[ForeignModel], list[UnusableModel]]:
    found = list(place.look())
    return [one for one in found if isinstance(one, ForeignModel)], [
        one for one in found if isinstance(one, UnusableModel)
    ]


def _only(key: str, environ: Mapping[str, str]) -> ForeignPlace:
    (place,) = places(key, environ)
    return place


# ---- Ollama --------------------------------------------------------------------------------


def test_ollama_models_by_name_with_every_kind_of_layer(tmp_path: Path) -> None:
    models = tmp_path / ".ollama/models"
    ollama(
        models,
        MANIFEST,
        [
            ("license", b"MIT License\nCopyright"),
            ("license", b"two"),
            ("model", gguf(1)),
            ("projector", gguf(2)),
            ("adapter", gguf(3)),
            ("template", b"{{ .Prompt }}"),
            ("system", b"be kind"),
            ("params", b'{"stop": ["x"]}'),
            ("messages", b"[]"),
            ("embed", b"a cache"),
        ],
        b'{"parser": "x", "model_family": "llama"}',
    )
    ollama(models, "hf.co/org/tiny-GGUF/Q4_K_M", [("model", gguf(4))])
    ollama(models, "registry.ollama.ai/me/mine/latest", [("model", gguf(4))])
    found, skipped = _look(_only("ollama", {"HOME": str(tmp_path)}))
    assert skipped == []
    assert [str(one.ref) for one in found] == [
        "ollama:hf.co/org/tiny-GGUF:Q4_K_M",
        "ollama:llama3.2:1b",
        "ollama:me/mine:latest",
    ]
    parts = {part.path: part for part in found[1].parts}
    assert found[1].parts[0].role == "weights"
    assert {path: part.role for path, part in parts.items()} == {
        "model.gguf": "weights",
        "LICENSE": "licence",
        "LICENSE-2": "licence",
        "projector.gguf": "projector",
        "adapter.gguf": "adapter",
        "template": "template",
        "system": "system",
        "params.json": "parameters",
        "messages.json": "messages",
        "config.json": "config",
    }
    assert found[1].licence == "MIT"
    digest = hashlib.sha256((models / "manifests" / MANIFEST).read_bytes()).hexdigest()
    assert found[1].origin == {"source": "ollama", "manifest": f"sha256:{digest}", "parser": "x"}
    assert parts["system"].file.read_bytes() == b"be kind"
    assert all(
        part.sha256 == hashlib.sha256(part.file.read_bytes()).hexdigest() for part in parts.values()
    )


def test_ollama_models_where_its_variable_says(tmp_path: Path) -> None:
    ollama(tmp_path / "elsewhere", "registry.ollama.ai/library/a/b", [("model", gguf())])
    environ = {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "elsewhere")}
    assert _only("ollama", environ).path == tmp_path / "elsewhere"
    assert places("ollama", {"HOME": str(tmp_path), "OLLAMA_MODELS": str(tmp_path / "no")}) == []


def test_what_ollama_has_and_cannot_be_used_is_said(tmp_path: Path) -> None:
    models = tmp_path / "models"
    at = "registry.ollama.ai/library"
    ollama(models, f"{at}/cloud/latest", [("license", b"x")])
    ollama(models, f"{at}/flux/latest", [("tensor", b"x")])
    ollama(models, f"{at}/two/latest", [("model", gguf(5)), ("model", gguf(6))])
    (models / "manifests" / at / "deep").mkdir()
    (models / "manifests" / at / "deep/latest").write_text("[" * 100_000)
    (models / "manifests" / at / "broken").mkdir()
    (models / "manifests" / at / "broken/latest").write_text("{")
    (models / "manifests" / at / "list").mkdir()
    (models / "manifests" / at / "list/latest").write_text("[1]")
    evil = ollama(models, f"{at}/evil/latest", [("model", gguf())])
    evil.write_text(evil.read_text().replace("sha256:", "sha256:../../../../etc/"))
    gone = ollama(models, f"{at}/gone/latest", [("model", gguf(7))])
    hexes = json.loads(gone.read_text())["layers"][0]["digest"].removeprefix("sha256:")
    (models / "blobs" / f"sha256-{hexes}").unlink()
    ollama(models, f"{at}/good/latest", [("model", gguf(8))])
    found, skipped = _look(_only("ollama", {"OLLAMA_MODELS": str(models)}))
    assert [one.shown for one in found] == ["good:latest"]
    reasons = {one.shown: one.reason for one in skipped}
    assert "runs on a server" in reasons["cloud:latest"]
    assert "only Ollama itself reads" in reasons["flux:latest"]
    assert "cannot be read" in reasons["broken:latest"]
    assert "cannot be read" in reasons["list:latest"]
    assert "cannot be read" in reasons["deep:latest"]
    assert "holds 2 models" in reasons["two:latest"]
    assert "the digest 'sha256:../" in reasons["evil:latest"]
    assert f"sha256-{hexes[:12]}) is not among its files" in reasons["gone:latest"]


def test_two_thousand_damaged_ollama_manifests_name_nothing_outside(tmp_path: Path) -> None:
    chance = random.Random(5)
    layers = [("model", gguf()), ("license", b"x"), ("params", b"{}")]
    manifest = ollama(tmp_path, "registry.ollama.ai/library/a/b", layers)
    good = manifest.read_bytes()
    place = _only("ollama", {"OLLAMA_MODELS": str(tmp_path)})
    for _ in range(2000):
        body = bytearray(good)
        for _ in range(chance.choice((1, 2, 5))):
            body[chance.randrange(len(body))] = chance.randrange(256)
        manifest.write_bytes(body)
        for one in place.look():
            if isinstance(one, ForeignModel):
                assert all(part.file.parent == tmp_path / "blobs" for part in one.parts)


# ---- the Hugging Face cache ----------------------------------------------------------------


def test_the_hub_s_cache_gives_pinned_refs_and_stated_digests(tmp_path: Path) -> None:
    files = {"a-q4_k_m.gguf": gguf(1), "b-q8_0.gguf": gguf(2), "README.md": b"card"}
    hub_cache(tmp_path / "hub", "org/tiny", files)
    hub_cache(
        tmp_path / "hub",
        "org/big",
        {"model.safetensors": b"t", "config.json": b"{}", "tokenizer.json": b"{}"},
    )
    found, skipped = _look(_only("huggingface", {"HF_HOME": str(tmp_path)}))
    assert skipped == []
    by_ref = {str(one.ref): one for one in found}
    assert set(by_ref) == {
        f"hf:org/tiny@{COMMIT}#a-q4_k_m.gguf",
        f"hf:org/tiny@{COMMIT}#b-q8_0.gguf",
        f"hf:org/big@{COMMIT}",
    }
    one = by_ref[f"hf:org/tiny@{COMMIT}#a-q4_k_m.gguf"]
    assert str(one.name) == "hf:org/tiny#a-q4_k_m.gguf"
    weights, card = one.parts
    assert weights.sha256 == hashlib.sha256(gguf(1)).hexdigest()
    assert (card.role, card.sha256) == ("card", None)
    assert card.git_sha1
    roles = [part.role for part in by_ref[f"hf:org/big@{COMMIT}"].parts]
    assert sorted(roles) == ["config", "tokenizer", "weights"]


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("HF_HOME", "hub"),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    ],
)
def test_the_hub_s_cache_is_where_its_variables_say(
    tmp_path: Path, variable: str, below: str
) -> None:
    hub_cache(tmp_path / below, "org/tiny", {"m.gguf": gguf()})
    assert _only("huggingface", {variable: str(tmp_path)}).path == tmp_path / below


def test_what_the_cache_lacks_or_must_not_load_is_said(tmp_path: Path) -> None:
    snapshot = hub_cache(
        tmp_path, "org/mixed", {"m.gguf": gguf(1), "n.gguf": gguf(2), "pytorch_model.bin": b"x"}
    )
    (snapshot / "n.gguf").resolve().unlink()
    hub_cache(tmp_path, "gpt2", {"model.safetensors": b"x", "config.json": b"{}"})
    (snapshot.parent / "main").mkdir()
    found, skipped = _look(_only("huggingface", {"HF_HUB_CACHE": str(tmp_path)}))
    assert sorted(str(one.ref) for one in found) == ["gpt2", f"hf:org/mixed@{COMMIT}#m.gguf"]
    reasons = {one.shown: one.reason for one in skipped}
    assert "gone" in reasons["org/mixed@0123456789ab n.gguf"]
    assert "pickle" in reasons["org/mixed@0123456789ab pytorch_model.bin"]
    assert "not named by a commit" in reasons["org/mixed@main"]


# ---- LM Studio, GPT4All, folders -----------------------------------------------------------


def test_lm_studio_s_folders_old_new_and_moved(tmp_path: Path) -> None:
    for home in (".lmstudio", ".cache/lm-studio", "moved"):
        inside = tmp_path / home / "models/org/tiny-GGUF"
        inside.mkdir(parents=True)
        (inside / "tiny-Q4_K_M.gguf").write_bytes(gguf(1))
        (inside / "mmproj-tiny-f16.gguf").write_bytes(gguf(2))
    (tmp_path / ".lmstudio-home-pointer").write_text(f"{tmp_path}/moved\n")
    other = tmp_path / "disk"
    other.mkdir()
    (tmp_path / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(other)}))
    found = places("lmstudio", {"HOME": str(tmp_path)})
    assert [place.path for place in found] == [
        tmp_path / "moved/models",
        other,
        tmp_path / ".lmstudio/models",
        tmp_path / ".cache/lm-studio/models",
    ]
    (one,), skipped = _look(found[0])
    assert skipped == []
    assert (str(one.ref), one.shown) == ("tiny-Q4_K_M", "org/tiny-GGUF/tiny-Q4_K_M.gguf")
    assert [(part.role, part.path) for part in one.parts] == [
        ("weights", "tiny-Q4_K_M.gguf"),
        ("projector", "mmproj-tiny-f16.gguf"),
    ]
    assert one.origin == {"source": "lmstudio", "file": "org/tiny-GGUF/tiny-Q4_K_M.gguf"}


def test_gpt4all_s_folder_and_the_one_its_settings_name(tmp_path: Path) -> None:
    usual = tmp_path / ".local/share/nomic.ai/GPT4All"
    named = tmp_path / "models of mine"
    for place in (usual, named):
        place.mkdir(parents=True)
        (place / "Tiny.Q4_0.gguf").write_bytes(gguf())
    (usual / "incomplete-Big.gguf").write_bytes(b"GG")
    config = tmp_path / ".config/nomic.ai/GPT4All.ini"
    config.parent.mkdir(parents=True)
    config.write_text(f"[General]\nmodelPath={named}\nuserDefaultModel=x\n")
    found = places("gpt4all", {"HOME": str(tmp_path)})
    assert [place.path for place in found] == [named, usual]
    (one,), skipped = _look(found[1])
    assert str(one.ref) == "Tiny.Q4_0"
    assert [(one.shown, one.reason) for one in skipped] == [
        ("incomplete-Big.gguf", "its download was cut off")
    ]


def test_any_folder_its_models_and_what_it_cannot_use(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one.gguf").write_bytes(gguf(1))
    (tmp_path / "a/LICENSE").write_text("text")
    (tmp_path / "two.gguf").write_bytes(gguf(2))
    (tmp_path / "cut-00001-of-00002.gguf").write_bytes(gguf(3))
    for number in (1, 2):
        (tmp_path / "a" / f"whole-0000{number}-of-00002.gguf").write_bytes(gguf(number))
    (tmp_path / "old.pth").write_bytes(b"x")
    (tmp_path / "lonely").mkdir()
    (tmp_path / "lonely/model.safetensors").write_bytes(b"x")
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nothing")
    (tmp_path / ".hidden.gguf").write_bytes(gguf())
    found, skipped = _look(any_folder(tmp_path))
    assert {str(one.ref): [p.path for p in one.parts if p.role == "weights"] for one in found} == {
        "two": ["two.gguf"],
        "one": ["one.gguf"],
        "whole": ["whole-00001-of-00002.gguf", "whole-00002-of-00002.gguf"],
    }
    reasons = {Path(one.shown).name: one.reason for one in skipped}
    assert "one of 2 files of a split GGUF" in reasons["cut-00001-of-00002.gguf"]
    assert "pickled checkpoint" in reasons["old.pth"]
    assert "no config.json" in reasons["model.safetensors"]
    assert "gone" in reasons["gone.gguf"]
    assert len(reasons) == 4


def test_a_folder_that_may_not_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /usr/share/ollama for all but its service; root may read all, so it is refused here."""
    ollama(tmp_path, "registry.ollama.ai/library/a/b", [("model", gguf())])
    closed = tmp_path / "manifests/registry.ollama.ai"
    listed = Path.iterdir

    def refuse(self: Path) -> object:
        if self == closed:
            raise PermissionError(13, "Permission denied", str(self))
        return listed(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found, skipped = _look(_only("ollama", {"OLLAMA_MODELS": str(tmp_path)}))
    assert found == []
    assert [(one.shown, one.reason) for one in skipped] == [
        (str(closed), "it cannot be read: Permission denied")
    ]


def test_nothing_is_there_where_no_program_is(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    for key in PROGRAMS:
        with suppress(KeyError):
            assert [p for p in places(key, environ) if p.path.is_relative_to(tmp_path)] == []
