"""The dossier on a terminal, and where it is written to."""

import json
import os
import stat
from pathlib import Path

import pytest

import tiny_models as tiny


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.release(tmp_path / "model")


@pytest.mark.parametrize("width", [60, 80, 100, 300])
@pytest.mark.parametrize("ref", ["llama-3.1", "olmo-2", "openai:gpt-5"])
def test_dossier_page_fits_the_terminal_and_one_look(overt_cli, ref, width):
    result = overt_cli("dossier", ref, "--offline", env={"COLUMNS": str(width)})
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= max(80, min(width, 120))
    assert len(lines) <= (45 if width >= 100 else 60)


def test_dossier_page_of_files_with_faults_stays_short(overt_cli, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    (model / "README.md").write_text("---\nlicense: mit\nbase_model: a/b\n---\n# x\n")
    result = overt_cli("dossier", str(model), env={"COLUMNS": "100"})
    assert "CONTRADICTED" in result.stdout
    assert len(result.stdout.splitlines()) <= 55
    whole = overt_cli("dossier", str(model), "--evidence", env={"COLUMNS": "100"}).stdout
    assert "EVIDENCE" in whole
    assert "claimed: " in whole
    assert max(map(len, whole.splitlines())) <= 130  # a path is not broken


def test_dossier_page_of_claims_asks_for_nothing_that_only_files_can_show(overt_cli):
    short = overt_cli("dossier", "llama-3.1", "--offline").stdout
    assert ", as claimed: " in short
    assert ", as verified: " not in short
    assert "not known: " in short


@pytest.mark.parametrize("target", ["-", "/dev/stdout"])
def test_dossier_page_goes_to_stdout_where_that_is_named(overt_cli, target):
    result = overt_cli("dossier", "llama-3.1", "--html", "-o", target)
    assert result.stdout.lower().startswith("<!doctype html>")
    assert Path("/dev/stdout").is_symlink()


def test_dossier_page_in_a_file_may_be_shown_to_others(overt_cli, tmp_path):
    target = tmp_path / "page.html"
    link = tmp_path / "link.html"
    link.symlink_to(target)
    assert overt_cli("dossier", "llama-3.1", "--html", "-o", str(link)).code == 0
    assert link.is_symlink()
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


def test_dossier_check_of_all_passes_over_what_is_gone(overt_cli, model, tmp_path):
    gone = tiny.release(tmp_path / "gone")
    for path in (model, gone):
        assert overt_cli("dossier", str(path)).code == 0
    gone.rename(tmp_path / "elsewhere")
    result = overt_cli("dossier", "check", "--json")
    assert result.code == 0
    found = {one["ref"]: one for one in json.loads(result.stdout)["checked"]}
    assert "there is no file" in found[str(gone)]["error"]
    assert "error" not in found[str(model)]
    assert overt_cli("dossier", "check", str(gone)).code == 3


def test_dossier_check_of_all_takes_no_other_folder_of_the_same_name(
    overt_cli, model, tmp_path, monkeypatch
):
    monkeypatch.chdir(model.parent)
    assert overt_cli("dossier", "./model").code == 0
    other = tmp_path / "other"
    tiny.release(other / "model", config={"num_hidden_layers": 9})
    monkeypatch.chdir(other)
    result = overt_cli("dossier", "check", "--json")
    assert result.code == 0
    (one,) = json.loads(result.stdout)["checked"]
    assert "from another folder" in one["error"]


@pytest.mark.parametrize(
    "text",
    ['{"components": [], "step": {}}', '{"components": 5, "step": 5, "subject": 5}',
     '{"components": [{"name": []}], "step": [], "subject": {"base": [1]}}', "[" * 100_000],
)  # fmt: skip
def test_dossier_saved_by_somebody_else_ends_in_a_sentence(overt_cli, tmp_path, text):
    saved = tmp_path / "saved.json"
    saved.write_text(text)
    for arguments in (("check", "llama-3.1", "--against", saved), ("diff", saved, "llama-3.1")):
        result = overt_cli("dossier", *arguments, "--offline")
        assert result.code == 2
        assert result.stderr.count("\n") == 1
        assert "saved dossier" in result.stderr


def test_dossier_in_a_folder_whose_name_is_no_text(overt_cli, model, monkeypatch):
    odd = Path(os.fsdecode(os.fsencode(model) + b"-\xff"))
    model.rename(odd)
    assert overt_cli("dossier", odd, "--json").code == 2
    monkeypatch.chdir(odd)
    result = overt_cli("dossier", ".", "--json")
    assert result.code == 0, result.stderr
    assert json.loads(result.stdout)["step"]["verified"] == "open_weights"


def test_may_facts_fit_the_terminal(overt_cli):
    result = overt_cli("may", "--facts", env={"COLUMNS": "80"})
    assert result.code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_may_answers_fit_the_terminal(overt_cli):
    result = overt_cli("may", "llama-3.1", "--offline", env={"COLUMNS": "80"})
    assert max(map(len, result.stdout.splitlines())) <= 80
