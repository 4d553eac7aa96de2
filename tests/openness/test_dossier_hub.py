"""A hub repository gets a dossier from its list, its small texts and headers of its weights."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

import tiny_models as tiny
from overt.errors import ModelNotFound
from overt.openness import assemble
from overt.openness.subject import gather
from overt.settings import load
from servers import Hub, Server, serving

DAY = date(2026, 11, 25)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Server, Server]]:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    with serving() as server, serving() as storage:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server, storage


def publish(hosts: tuple[Server, Server], folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    Hub(*hosts, "org/tiny", files, frozenset(name for name in files if "safetensors" in name))


def look(home: Path, ref: str = "hf:org/tiny", **more: object):
    settings = load({}, {"home": str(home), **more})
    subject = gather.subject(ref, settings)
    return subject, assemble.assemble(subject, settings.home, DAY)


def test_a_repository_is_graded_without_fetching_its_weights(
    hosts: tuple[Server, Server], tmp_path: Path
) -> None:
    publish(hosts, tiny.release(tmp_path / "model", body="# Tiny\n" * 3))
    subject, dossier = look(tmp_path / "home")
    weights = subject.file("model.safetensors")
    assert weights is not None
    assert weights.sparse
    assert weights.stated.startswith("sha256:")
    assert dossier.verdicts.step.declared == "open_weights"
    assert dossier.component("weights").state in ("verified", "declared")
    assert not [one for one in dossier.components if one.state == "contradicted"]
    assert dossier.component("model_card").state == "verified"


def test_a_lie_on_the_hub_is_found_by_the_header(
    hosts: tuple[Server, Server], tmp_path: Path
) -> None:
    publish(hosts, tiny.release(tmp_path / "model", config={"hidden_size": 64}))
    _, dossier = look(tmp_path / "home")
    states = {one.component.name: one.state for one in dossier.components}
    assert "contradicted" in (states["weights"], states["architecture"])


def test_offline_a_repository_that_is_not_here_is_what_the_catalogue_knows(
    tmp_path: Path,
) -> None:
    _, dossier = look(tmp_path / "home", "hf:meta-llama/Llama-3.1-8B", offline=True)
    assert dossier.files == ()
    assert dossier.verdicts.step.declared == "open_weights"
    assert dossier.verdicts.step.verified == "fully_closed"  # nothing was looked at
    assert all(one.state != "contradicted" for one in dossier.components)
    with pytest.raises(ModelNotFound):
        look(tmp_path / "home", "hf:nobody/knows-this", offline=True)
