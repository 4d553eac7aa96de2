"""`overt replay`, `overt history` and `overt jobs`, as a person types them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import serving
import tiny_step
from conftest import OvertCli
from overt.cli import app
from overt.formats.modelfile import read as modelfile
from overt.models.modelfile_build import create
from overt.models.recipe import Input
from overt.models.store import Store
from overt.provenance import inputs, jobs, run_recipe, steps
from overt.ref import parse
from overt.settings import Settings, load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    monkeypatch.setattr(tiny_step.STEP, "drift", 0.0, raising=False)
    return tiny_step.STEP


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


@pytest.fixture
def mine(settings: Settings) -> str:
    first = run_recipe.make(run_recipe.recipe("tiny", (), {"rows": 3}, settings), "first", settings)
    told = run_recipe.recipe("tiny", [Input("from", first.digest, "first")], {"rows": 2}, settings)
    return run_recipe.make(told, "mine", settings).digest


class Ran:
    """A command line in this process, where the made-up step is known."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> None:
        capsys.readouterr()
        self.code = app.run([str(one) for one in arguments])
        self.out, self.err = capsys.readouterr()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


# ---- replay --------------------------------------------------------------------------------


def test_identical_is_zero_and_different_is_one(
    mine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    ran = Ran(capsys, "replay", "mine")
    assert (ran.code, "identical" in ran.out) == (0, True)
    ran = Ran(capsys, "replay", "mine", "--json")
    assert ran.code == 0
    assert set(ran.json) >= {"verdict", "first_difference", "environment"}
    assert (ran.json["verdict"], ran.json["digest"]) == ("identical", mine)
    assert Ran(capsys, "replay", "mine", "-q").out == "identical\n"
    monkeypatch.setattr(tiny, "drift", 0.25)
    ran = Ran(capsys, "replay", "mine", "--json")
    assert ran.code == 1
    first = ran.json["first_difference"]
    assert (first["tensor"], first["index"], first["max_difference"]) == ("last", [0], 0.25)
    ran = Ran(capsys, "replay", "mine")
    assert "first difference: last[0] of tiny.safetensors: 1.0 and here 1.25" in ran.out


def test_a_chain(
    mine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    ran = Ran(capsys, "replay", "mine", "--chain", "--json")
    assert ran.code == 0
    assert ran.json["verdict"] == "identical"
    assert [one["replayed"] for one in ran.json["chain"]] == ["first", "mine"]
    monkeypatch.setattr(tiny, "drift", 0.25)
    assert Ran(capsys, "replay", "mine", "--chain").code == 1
    assert Ran(capsys, "replay", "mine", "--chain", "--keep", "x").code == 2


def test_a_chain_with_a_link_that_was_not_repeated_proves_nothing(
    mine: str, settings: Settings, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, tiny: Any, tmp_path: Path,
) -> None:  # fmt: skip
    data = tmp_path / "answers.jsonl"
    data.write_text("{}")
    digest = inputs.digest_of(data)
    given = [Input("from", mine, "mine"), Input("data", digest, data.name)]
    told = run_recipe.recipe("tiny", given, {"rows": 2}, settings)
    made = run_recipe.make(told, "learnt", settings, data={digest: data})
    told = run_recipe.recipe("tiny", [Input("from", made.digest, "learnt")], {"rows": 1}, settings)
    run_recipe.make(told, "top", settings)
    inputs.data_path(digest, settings.home).unlink()
    ran = Ran(capsys, "replay", "top", "--chain", "--json")
    assert (ran.code, ran.json["verdict"], ran.json["not_repeated"]) == (3, None, 1)
    assert [one["verdict"] for one in ran.json["chain"]] == ["identical"] * 2 + [None, "identical"]
    ran = Ran(capsys, "replay", "top", "--chain")
    assert (ran.code, "1 of 4 not repeated" in ran.out) == (3, True)
    monkeypatch.setattr(tiny, "drift", 0.25)
    ran = Ran(capsys, "replay", "top", "--chain", "--json")
    assert (ran.code, ran.json["verdict"]) == (1, "different")


def test_what_create_put_together_is_no_missing_link(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_recipe.make(run_recipe.recipe("tiny", (), {"rows": 3}, settings), "first", settings)
    create("named", modelfile(b"FROM first\nSYSTEM Be short.\n"), settings.home, settings)
    named = Store(settings.home).get(parse("named"))
    told = run_recipe.recipe("tiny", [Input("from", named.digest, "named")], {"rows": 2}, settings)
    run_recipe.make(told, "top", settings)
    assert first.digest != named.digest
    ran = Ran(capsys, "replay", "top", "--chain", "--json")
    assert (ran.code, ran.json["verdict"], ran.json["not_repeated"]) == (0, "identical", 0)
    assert ["create" in str(one) for one in ran.json["chain"]].count(True) >= 1
    assert "which computes nothing" in Ran(capsys, "replay", "top", "--chain").out


def test_which_tolerance_held_is_said(
    mine: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    before = run_recipe.environment.current
    monkeypatch.setattr(
        run_recipe.environment, "current", lambda *given: {**before(*given), "numpy": "9"}
    )
    monkeypatch.setattr(tiny, "drift", 0.01)
    monkeypatch.setattr(tiny, "tolerance", lambda _: 0.125, raising=False)
    ran = Ran(capsys, "replay", "mine")
    assert ran.code == 0
    assert "holds: an element, relative to the largest of its tensor: off by 0.01, 0.125" in ran.out
    assert "(tiny.safetensors)" in ran.out
    monkeypatch.setattr(tiny, "drift", 0.5)
    ran = Ran(capsys, "replay", "mine")
    assert (ran.code, "does NOT hold: an element" in ran.out) == (1, True)
    (told,) = Ran(capsys, "replay", "mine", "--json").json["tolerances"]
    assert (told["allowed"], told["holds"]) == (0.125, False)


def test_a_recipe_goes_to_somebody_else(
    mine: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = Ran(capsys, "history", "first", "--recipe")
    file = tmp_path / "r.json"
    file.write_text(told.out)
    other = str(tmp_path / "other")
    ran = Ran(capsys, "replay", file, "--home", other)
    assert ran.code == 0
    assert "not known here" in ran.out
    ran = Ran(capsys, "replay", file, "--home", other, "--keep", "yours", "--json")
    assert ran.code == 0
    assert ran.json["verdict"] is None
    assert Ran(capsys, "replay", "yours", "--home", other, "-q").out == "identical\n"
    receipt = Ran(capsys, "history", "first", "--receipt")
    file.write_text(receipt.out)
    ran = Ran(capsys, "replay", file, "--home", other)
    assert (ran.code, "identical" in ran.out) == (0, True)
    assert "a key that is not known here" in ran.err
    needs = tmp_path / "needs.json"
    needs.write_text(Ran(capsys, "history", "mine", "--recipe").out)
    ran = Ran(capsys, "replay", needs, "--home", str(tmp_path / "third"))
    assert ran.code == 3
    assert "from first" in ran.err


# ---- history -------------------------------------------------------------------------------


def test_history(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = Ran(capsys, "history", "mine")
    assert ran.code == 0
    assert "└─ from: first" in ran.out
    ran = Ran(capsys, "history", "mine", "--json")
    assert ran.json["history"]["digest"] == mine
    assert ran.json["history"]["inputs"][0]["parameters"] == {"rows": 3}
    assert Ran(capsys, "history", "mine", "-q").out.split()[0] == mine
    assert Ran(capsys, "history", "mine", "--recipe", "--receipt").code == 2
    assert Ran(capsys, "history", "nothing-here").code == 3


# ---- jobs ----------------------------------------------------------------------------------


def test_jobs_are_listed_gone_on_with_and_removed(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    tiny: Any,
) -> None:  # fmt: skip
    assert Ran(capsys, "jobs").code == 0
    told = run_recipe.recipe("tiny", (), {"rows": 5}, settings)

    def stopped(event: Any) -> None:
        if event["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe.make(told, "mine", settings, None, stopped)
    ran = Ran(capsys, "jobs")
    assert "step 3 of 5" in ran.out
    assert "cut off" in ran.out
    (job,) = Ran(capsys, "jobs", "--json").json["jobs"]
    assert (job["name"], job["step"], job["pid"]) == ("mine", "tiny", None)
    going_on = job["command"].split()
    assert going_on[:2] == ["overt", "replay"]
    ran = Ran(capsys, *going_on[1:], "--json")
    assert ran.code == 0
    assert tiny.ran == [3, 4]
    assert jobs.list_jobs(settings.home) == []

    for name in ("one", "two"):
        told = run_recipe.recipe("tiny", (), {"rows": 5, "name": name}, settings)
        with pytest.raises(KeyboardInterrupt):
            run_recipe.make(told, name, settings, None, stopped)
    first, second = jobs.list_jobs(settings.home)
    ran = Ran(capsys, "jobs", "rm", first.id)
    assert ran.code == 0
    assert "lost: tiny of" in ran.err
    assert Ran(capsys, "jobs", "rm").code == 2
    assert Ran(capsys, "jobs", "rm", "ffff").code == 3
    ran = Ran(capsys, "jobs", "rm", "--all", "--json")
    assert ran.json["removed"] == [second.id]
    assert Ran(capsys, "jobs", "rm", "--all").code == 3


def test_a_command_goes_on_from_anywhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the folder and the variables that it was typed with."""
    place = tmp_path / "a folder"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.argv", ["/bin/overt", "finetune", "m", "--data", "some.jsonl"])
    monkeypatch.setenv("OVERT_THREADS", "3")
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    told = run_recipe.recipe("tiny", (), {"rows": 5}, settings)
    folder = jobs.folder_of(told, settings.home)
    with jobs.locked(folder, settings.home):
        jobs.begin(folder, told, "mine")

    def said() -> str:
        (job,) = jobs.list_jobs(settings.home)
        return job.command

    plain = "overt finetune m --data some.jsonl"
    assert said() == plain
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OVERT_THREADS", "2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert said() == f"cd '{place}' && env -u ATEN_CPU_CAPABILITY OVERT_THREADS=3 {plain}"
    place.rmdir()
    assert said() == f"overt replay {folder / 'recipe.json'} --keep mine"
    noted = json.loads((folder / "job.json").read_text())
    changed = folder / "recipe.json"
    changed.write_bytes(replace(told, step="measure").encode())
    set_up = "env -u ATEN_CPU_CAPABILITY OVERT_THREADS=3"
    assert said() == f"{set_up} {plain}", "no step of a table is repeated: its own command is"
    (folder / "job.json").write_text(json.dumps(noted | {"command": ""}))
    assert said() == f"overt jobs rm {folder.name[:12]}"
    changed.write_bytes(told.encode())
    del noted["folder"], noted["variables"]
    (folder / "job.json").write_text(json.dumps(noted))
    assert said() == plain, "noted by an Overt of before"


@pytest.mark.model
def test_a_real_one_in_a_process_of_its_own(
    overt_cli: OvertCli, model_home: Path, tmp_path: Path
) -> None:
    home = serving.copy_home(model_home, tmp_path / "copy")
    ran = overt_cli("history", "minilm", "--home", home)
    assert ran.code == 0, ran.stderr
    assert "from pypi" in ran.stdout
    ran = overt_cli("replay", "smollm2", "--home", home)
    assert ran.code == 3
    assert "was not made by a recipe" in ran.stderr
