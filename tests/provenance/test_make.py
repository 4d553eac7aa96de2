"""Recipes carried out: killed at every moment, gone on with, made twice, refused."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import tiny_step
from overt.errors import (
    BadRef,
    Busy,
    FormatError,
    IntegrityError,
    NotFound,
    OutOfDisk,
    Unsupported,
)
from overt.models.recipe import Input, Recipe
from overt.models.store import File, Manifest, Store
from overt.provenance import environment, inputs, jobs, receipts, run_recipe, steps
from overt.provenance.steps import StepContext, StepOutput
from overt.ref import parse
from overt.settings import Settings, load

TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    return tiny_step.STEP


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


def _recipe(settings: Settings, *given: Input, **parameters: Any) -> Recipe:
    return run_recipe.recipe("tiny", given, {"rows": 3, **parameters}, settings)


def _stored(home: Path) -> list[str]:
    found = [
        path for part in ("names", "manifests", "receipts") for path in (home / part).glob("*.json")
    ]
    return [str(path.relative_to(home)) for path in found]


def _base(settings: Settings, name: str, **files: bytes) -> Manifest:
    """A model of somebody's, of the files given by role."""
    store = Store(settings.home)
    listed, here = [], {}
    for role, data in files.items():
        path = settings.home / f"new-{role}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = f"sha256:{sha256(data).hexdigest()}"
        listed.append(File(role, f"{role}.txt", digest, len(data)))  # type: ignore[arg-type]
        here[digest] = path
    manifest = Manifest(tuple(listed), f"hf:someone/{name}@{'0' * 40}", {"source": "hf"}, "MIT")
    return store.commit(manifest, here, [parse(name)])


# ---- recipes -------------------------------------------------------------------------------


def test_a_recipe_names_versions_and_nothing_of_the_machine(settings: Settings) -> None:
    import platform

    found = _recipe(settings, seed=7)
    assert found == Recipe.decode(found.encode())
    assert found.parameters == {"rows": 3, "seed": 7}
    assert set(found.environment) == {"numpy", "python", "system"}
    text = found.encode().decode()
    assert str(settings.home) not in text
    assert platform.node() not in text


def test_a_step_that_computes_names_its_instructions(settings: Settings, tiny: Any) -> None:
    class Computing:
        name, version, packages = "x", "1", ("xllamacpp",)

    found = environment.current(Computing(), settings)  # type: ignore[arg-type]
    assert found["instructions"]
    assert found["llama.cpp"] == "wheel"


def test_a_package_that_is_not_there_is_asked_for(settings: Settings, tiny: Any) -> None:
    class Wanting:
        name, version, packages = "x", "1", ("no-such-package-here",)

    with pytest.raises(Unsupported, match="no-such-package-here"):
        environment.current(Wanting(), settings)  # type: ignore[arg-type]


def test_an_unknown_step_and_a_newer_one_are_refused(settings: Settings) -> None:
    with pytest.raises(Unsupported, match="no step"):
        run_recipe.recipe("sculpt", (), {}, settings)
    newer = replace(_recipe(settings), version="2")
    with pytest.raises(Unsupported, match="version '2'"):
        run_recipe.make(newer, "mine", settings)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"x"])
def test_parameters_are_json(settings: Settings, value: Any) -> None:
    with pytest.raises(FormatError, match="no JSON"):
        _recipe(settings, seed=value)


# ---- making --------------------------------------------------------------------------------


def test_it_is_in_the_store_with_its_receipt_and_no_job_is_left(settings: Settings) -> None:
    heard: list[Any] = []
    made = run_recipe.make(_recipe(settings), "mine", settings, None, heard.append)
    store = Store(settings.home)
    assert store.get(parse("mine")).digest == made.digest
    assert [(file.role, file.path) for file in made.files] == [
        ("weights", "tiny.safetensors"),
        ("recipe", "recipe.json"),
    ]
    assert store.verify() == []
    assert made.origin == {"source": "tiny"}
    assert receipts.path(made.digest, settings.home).is_file()
    assert list((settings.home / "jobs").iterdir()) == []
    assert [one["step"] for one in heard] == [1, 2, 3]


def test_the_same_recipe_in_another_home_is_the_same_model(
    settings: Settings, tmp_path: Path
) -> None:
    other = replace(settings, home=tmp_path / "other")
    one = run_recipe.make(_recipe(settings), "mine", settings)
    assert run_recipe.make(_recipe(other), "mine", other).digest == one.digest


def test_what_is_made_already_is_only_named(settings: Settings, tiny: Any) -> None:
    made = run_recipe.make(_recipe(settings), "mine", settings)
    tiny.ran = []
    said: list[Any] = []
    assert run_recipe.make(_recipe(settings), "yours", settings, said.append).digest == made.digest
    assert tiny.ran == []
    assert "made already" in said[0].what
    assert Store(settings.home).get(parse("yours")).digest == made.digest


def test_without_its_receipt_it_is_made_again(settings: Settings, tiny: Any) -> None:
    made = run_recipe.make(_recipe(settings), "mine", settings)
    receipts.path(made.digest, settings.home).unlink()
    tiny.ran = []
    assert run_recipe.make(_recipe(settings), "mine", settings).digest == made.digest
    assert tiny.ran == [0, 1, 2]
    assert receipts.path(made.digest, settings.home).is_file()


def test_a_recipe_from_elsewhere_records_what_really_ran(settings: Settings) -> None:
    foreign = replace(_recipe(settings), environment={"numpy": "0.1", "system": "Other"})
    made = run_recipe.make(foreign, "mine", settings)
    told = Store(settings.home).path(made.files[1]).read_bytes()
    assert Recipe.decode(told) == _recipe(settings)


@pytest.mark.parametrize("name", ["smollm2", "hf:a/b", "../x"])
def test_a_name_that_is_not_ones_own_is_refused(settings: Settings, name: str) -> None:
    with pytest.raises(BadRef):
        run_recipe.make(_recipe(settings), name, settings)


def test_texts_recipes_and_licence_of_the_base_come_along(settings: Settings) -> None:
    base = _base(settings, "base", weights=b"w", licence=b"MIT text", template=b"{{ x }}",
                 config=b"{}")  # fmt: skip
    first = run_recipe.make(_recipe(settings, Input("from", base.digest, "base")), "one", settings)
    again = _recipe(settings, Input("from", first.digest, "one"), rows=2)
    second = run_recipe.make(again, "two", settings)
    roles = [file.role for file in second.files]
    assert roles == ["weights", "recipe", "recipe", "licence", "template"]
    assert second.files[1].digest == again.digest
    assert second.files[2].path == "recipe-2.json"
    assert second.licence == "MIT"
    assert second.origin["base"] == "one"


def test_a_file_of_a_base_may_be_listed_as_it_is(
    settings: Settings, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _base(settings, "base", weights=b"the weights")

    def run(work: StepContext) -> list[StepOutput]:
        adapter = work.place / "adapter.gguf"
        adapter.write_bytes(b"small")
        return [
            StepOutput("weights", "w.gguf", work.inputs[0].path),
            StepOutput("adapter", "a.gguf", adapter),
        ]

    monkeypatch.setattr(tiny, "run", run, raising=False)
    made = run_recipe.make(_recipe(settings, Input("from", base.digest)), "one", settings)
    assert made.weights.digest == base.weights.digest
    assert Store(settings.home).verify() == []
    receipt = receipts.read(receipts.of(made.digest, settings.home) or b"")
    assert set(receipt.subjects) == {"a.gguf", "recipe.json"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (("MIT", "MIT"), "MIT"),
        (("MIT", "Apache-2.0"), "MIT AND Apache-2.0"),
        (("MIT", "A OR B"), "MIT AND (A OR B)"),
        (("MIT", None), None),
        ((), None),
    ],
)
def test_what_is_made_of_several_has_all_their_licences(
    said: tuple[str | None, ...], expected: str | None
) -> None:
    file = File("weights", "w", f"sha256:{'0' * 64}", 1)
    bases = [Manifest((file,), "x", {}, licence) for licence in said]
    given = [steps.StepInput(Path("w"), base, {}) for base in bases]
    told = Recipe("tiny", "1")
    assert run_recipe.listed(told, given, [], "mine").manifest.licence == expected


# ---- inputs --------------------------------------------------------------------------------


def test_a_data_file_is_kept_privately_and_is_not_in_the_model(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("{}\n")
    digest = inputs.digest_of(file)
    told = _recipe(settings, Input("data", digest, "answers.jsonl"))
    made = run_recipe.make(told, "mine", settings, data={digest: file})
    kept = inputs.data_path(digest, settings.home)
    assert kept.read_text() == "{}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert digest not in {one.digest for one in made.files}
    file.unlink()
    assert inputs.resolve(told, settings)[0].path == kept
    kept.chmod(0o600)
    kept.write_text("[]\n")
    with pytest.raises(IntegrityError, match="other bytes"):
        inputs.resolve(told, settings)


def test_a_file_that_changes_meanwhile_is_found(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("{}\n")
    digest = inputs.digest_of(file)
    file.write_text("{ }\n")
    told = _recipe(settings, Input("data", digest))
    with pytest.raises(IntegrityError, match="has changed"):
        run_recipe.make(told, "mine", settings, data={digest: file})
    assert list((settings.home / "data").iterdir()) == []
    assert jobs.list_jobs(settings.home) == []


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (Input("data", f"sha256:{'a' * 64}", "x.jsonl"), "--data FILE"),
        (Input("from", f"sha256:{'a' * 64}", "hf:a/b@c"), "overt pull hf:a/b@c"),
        (Input("from", f"sha256:{'a' * 64}", "mine"), "`overt export mine`"),
        (Input("base", f"sha256:{'a' * 64}", "mine"), "`overt import` it"),
        (Input("from", f"sha256:{'a' * 64}", "\x00 :"), "import or make"),
    ],
)
def test_what_is_missing_is_named_with_what_to_type(
    settings: Settings, given: Input, hint: str
) -> None:
    with pytest.raises(NotFound) as caught:
        run_recipe.make(_recipe(settings, given), "mine", settings)
    assert hint in (caught.value.hint or "")
    assert jobs.list_jobs(settings.home) == []


def test_data_and_receipts_go_with_the_last_model_that_needs_them(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text("{}\n")
    digest = inputs.digest_of(file)
    kept = inputs.data_path(digest, settings.home)
    told = _recipe(settings, Input("data", digest))
    first = run_recipe.make(told, "first", settings, data={digest: file})
    run_recipe.make(_recipe(settings, Input("from", first.digest)), "second", settings)
    store = Store(settings.home)
    store.remove(parse("first"))
    assert kept.is_file()  # the second is made of the first, which read it
    assert receipts.path(first.digest, settings.home).is_file()
    with jobs.locked(jobs.folder_of(told, settings.home), settings.home) as folder:
        jobs.begin(folder, told, "first")
        store.remove(parse("second"))
        assert kept.is_file()  # unfinished work reads it
        jobs.drop(folder)
    _base(settings, "other", weights=b"w")
    store.remove(parse("other"))
    assert not kept.exists()
    assert list((settings.home / "receipts").iterdir()) == []


# ---- interrupted ---------------------------------------------------------------------------


PLACES = ("commit", "_write", "_point", "write", "drop")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Homes in which the making was killed, by place: at row 3, or in a function of that name."""
    root = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, "-m", "tiny_step", str(root), "5", "3", *PLACES],
        check=False, timeout=60, capture_output=True, cwd=TESTS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return root


def _home_of(killed: Path, place: str, settings: Settings) -> Settings:
    """A copy of such a home."""
    shutil.copytree(killed / place, settings.home, dirs_exist_ok=True)
    return settings


def test_killed_within_its_step_it_goes_on_there(
    settings: Settings, tiny: Any, tmp_path: Path, killed: Path
) -> None:
    whole = replace(settings, home=tmp_path / "whole")
    expected = run_recipe.make(_recipe(whole, rows=5), "mine", whole)
    _home_of(killed, "3", settings)
    assert _stored(settings.home) == []
    (job,) = jobs.list_jobs(settings.home)
    assert (job.name, job.step, job.pid, job.starts) == ("mine", "tiny", None, 1)
    assert job.event == {"kind": "row", "step": 3, "steps": 5}
    assert "overt replay" in job.command
    assert job.size > 0
    assert stat.S_IMODE(job.folder.stat().st_mode) == 0o700
    made = run_recipe.make(_recipe(settings, rows=5), "mine", settings)
    assert made.digest == expected.digest
    assert tiny.ran == [3, 4]
    assert jobs.list_jobs(settings.home) == []
    assert receipts.read(receipts.of(made.digest, settings.home) or b"").ran.starts == 2


@pytest.mark.parametrize("place", PLACES)
def test_killed_while_it_is_stored_it_goes_on_and_nothing_is_half(
    settings: Settings, tiny: Any, killed: Path, place: str
) -> None:
    _home_of(killed, place, settings)
    store = Store(settings.home)
    assert [p.code for p in store.verify() if p.code != "stray"] == []
    for entry in store.names():
        assert store.whole(entry.manifest)
    tiny.ran = []
    made = run_recipe.make(_recipe(settings, rows=5), "mine", settings)
    assert tiny.ran == []  # nothing is computed twice
    assert store.verify() == []
    assert receipts.check(
        receipts.of(made.digest, settings.home) or b"", made, _recipe(settings, rows=5),
        receipts.SigningKeys(settings.home),
    )  # fmt: skip
    assert jobs.list_jobs(settings.home) == []


def test_what_was_tidied_away_meanwhile_is_made_again(
    settings: Settings, tiny: Any, killed: Path
) -> None:
    _home_of(killed, "_write", settings)
    _base(settings, "other", weights=b"w")  # files are in the store, and no manifest names them
    Store(settings.home).remove(parse("other"))
    tiny.ran = []
    made = run_recipe.make(_recipe(settings, rows=5), "mine", settings)
    assert Store(settings.home).whole(made)
    assert Store(settings.home).verify() == []


def test_a_second_process_is_told_who_makes_it(settings: Settings) -> None:
    folder = jobs.folder_of(_recipe(settings), settings.home)
    with jobs.locked(folder, settings.home):
        with pytest.raises(Busy, match=str(os.getpid())):
            run_recipe.make(_recipe(settings), "mine", settings)
        (job,) = jobs.list_jobs(settings.home)
        assert job.pid == os.getpid()
        with pytest.raises(Busy):
            jobs.remove(job, settings.home)
    run_recipe.make(_recipe(settings), "mine", settings)


def test_a_refusal_leaves_no_job_and_an_accident_does(
    settings: Settings, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FormatError, match="line 3"):
        run_recipe.make(_recipe(settings, refuse=True), "mine", settings)
    assert jobs.list_jobs(settings.home) == []

    def full(work: StepContext) -> list[StepOutput]:
        (work.place / "begun").write_text("x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiny, "run", full, raising=False)
    with pytest.raises(OutOfDisk, match="is full"):
        run_recipe.make(_recipe(settings), "mine", settings)
    assert len(jobs.list_jobs(settings.home)) == 1
    assert _stored(settings.home) == []
    monkeypatch.undo()


def test_a_step_that_forgets_its_files_is_found(
    settings: Settings, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tiny, "run", lambda work: [StepOutput("weights", "w", work.place / "no")], raising=False
    )
    with pytest.raises(FormatError, match="did not make"):
        run_recipe.make(_recipe(settings), "mine", settings)


# ---- jobs ----------------------------------------------------------------------------------


def test_jobs_are_found_by_the_beginning_of_their_id(settings: Settings) -> None:
    for rows in ("5", "6"):
        folder = settings.home / "jobs" / (rows * 64)
        (folder / "work").mkdir(parents=True)
    assert jobs.find("55", settings.home).id == "5" * 12
    for wrong in ("", "7", "x"):
        with pytest.raises(NotFound):
            jobs.find(wrong, settings.home)
    assert jobs.remove(jobs.find("5", settings.home), settings.home) == 0
    assert [job.id for job in jobs.list_jobs(settings.home)] == ["6" * 12]


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"starts": "x", "begun": 4}', b"{" * 9999])
def test_a_damaged_job_is_still_listed(settings: Settings, data: bytes) -> None:
    folder = settings.home / "jobs" / ("5" * 64)
    (folder / "work").mkdir(parents=True)
    for name in ("job.json", "recipe.json", "pid", "result.json", "work/events.jsonl"):
        (folder / name).write_bytes(data)
    (job,) = jobs.list_jobs(settings.home)
    assert job.starts == 0
    json.dumps(job.event)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"manifest": 3}', b'{"manifest": "{}"}'])
def test_a_damaged_result_is_computed_again(settings: Settings, tiny: Any, data: bytes) -> None:
    folder = jobs.folder_of(_recipe(settings), settings.home)
    (folder / "work").mkdir(parents=True)
    (folder / "result.json").write_bytes(data)
    made = run_recipe.make(_recipe(settings), "mine", settings)
    assert Store(settings.home).whole(made)
