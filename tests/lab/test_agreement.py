"""How far two fine-tunes are apart: by small products, whatever the files hold."""

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tuning
from overt.errors import FormatError
from overt.formats import gguf
from overt.lab.finetune import STEP, agreement
from overt.lab.finetune.agreement import (
    LearningDifference,
    of_adapter,
    of_files,
    of_report,
    sum_changes,
)
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.training import Training
from overt.models import pull
from overt.models.recipe import Input
from overt.models.store import Store
from overt.nets.adapter import Adapter
from overt.provenance import diff, environment, inputs, replay, run_recipe
from overt.ref import parse
from overt.settings import Settings, load

LAYERS = {"q_proj": (6, 5), "up_proj": (9, 7)}
RANK = 3
PREFIX = "base_model.model.model.layers.0"
OFF, TENSOR, SIZE = (
    "what was learnt, of its size", "the same, of one tensor", "the size of what was learnt",
)  # fmt: skip
FIRST = f"{PREFIX}.q_proj.lora_A.weight"


def halves(seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    found = {}
    for name, (outputs, width) in LAYERS.items():
        found[f"{PREFIX}.{name}.lora_A.weight"] = draw.normal(size=(RANK, width))
        found[f"{PREFIX}.{name}.lora_B.weight"] = draw.normal(size=(outputs, RANK))
    return {name: array.astype("<f4") for name, array in found.items()}


def saved(path: Path, tensors: dict[str, Any]) -> Path:
    save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, str(path))
    return path


def dense(tensors: dict[str, Any]) -> Any:
    products = []
    for name in LAYERS:
        a, b = (tensors[f"{PREFIX}.{name}.lora_{half}.weight"].astype("f8") for half in "AB")
        products.append((b @ a).reshape(-1))
    return np.concatenate(products)


def test_small_products_give_what_whole_ones_do(tmp_path: Path) -> None:
    old, new = halves(1), halves(2)
    found = sum_changes(of_adapter(saved(tmp_path / "a", old), saved(tmp_path / "b", new)))
    a, b = dense(old), dense(new)
    assert found.off == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-6)
    assert found.longer == pytest.approx(abs(np.linalg.norm(b) / np.linalg.norm(a) - 1), rel=1e-6)
    assert found.worst >= found.off
    same = sum_changes(of_adapter(tmp_path / "a", saved(tmp_path / "c", halves(1))))
    assert same.off < 1e-5


def test_the_same_product_of_other_halves_is_the_same(tmp_path: Path) -> None:
    old, new = halves(1), halves(1)
    for name in new:
        new[name] = new[name] * (2.0 if "lora_A" in name else 0.5)
    found = sum_changes(of_adapter(saved(tmp_path / "a", old), saved(tmp_path / "b", new)))
    assert found.off < 1e-5


def test_halves_that_nearly_cancel_hide_nothing(tmp_path: Path) -> None:
    """A change that is lost where large numbers are taken from each other."""
    old, new = halves(1), halves(1)
    for name in LAYERS:
        a, b = (f"{PREFIX}.{name}.lora_{half}.weight" for half in "AB")
        old[a], old[b] = old[a].astype("f8"), old[b].astype("f8")
        new[a], new[b] = old[a].copy(), old[b].copy()
        for one in (old, new):
            one[a][1] = one[a][0]
            one[b][:, 0], one[b][:, 1] = 1e12, -1e12
        new[b][:, 0] += 1e-2  # below the last place
    found = sum_changes(of_adapter(saved(tmp_path / "a", old), saved(tmp_path / "b", new)))
    assert found.off > 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop(FIRST),
        lambda found: found.update({f"{PREFIX}.k_proj.lora_A.weight": np.ones((3, 5), "<f4")}),
        lambda found: found.update({"norm.weight": np.ones(3, "<f4")}),
        lambda found: found.update({FIRST: np.ones((3, 4), "<f4")}),
        lambda found: found.update({FIRST: np.full((3, 5), np.nan, "<f4")}),
        lambda found: found.update({FIRST: np.full((3, 5), np.inf, "<f4")}),
    ],
)  # fmt: skip
def test_what_is_not_the_same_adapter_is_infinitely_off(tmp_path: Path, change: Any) -> None:
    new = halves(1)
    change(new)
    found = sum_changes(of_adapter(saved(tmp_path / "a", halves(1)), saved(tmp_path / "b", new)))
    assert found == LearningDifference(math.inf, math.inf, math.inf)


def test_a_rank_of_somebody_elses_file_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products are rank by rank: one of another rank than was made here is not multiplied."""
    large = {name: np.zeros((99, 5) if "_A" in name else (6, 99), "<f4")
             for name in halves(1) if "q_proj" in name}  # fmt: skip
    monkeypatch.setattr(agreement, "_read_all", lambda _: pytest.fail("it was read"))
    files = saved(tmp_path / "a", {**halves(1), **large}), saved(tmp_path / "b", halves(1))
    assert sum_changes(of_adapter(*files)) == LearningDifference(math.inf, math.inf, math.inf)


def test_nothing_learnt_is_no_measure(tmp_path: Path) -> None:
    old = {name: one * 0 for name, one in halves(1).items()}
    found = sum_changes(of_adapter(saved(tmp_path / "a", old), saved(tmp_path / "b", halves(1))))
    assert found.off == math.inf


# ---- the report ----------------------------------------------------------------------------

REPORT_FILE = "finetune.json"
REPORT: dict[str, Any] = {
    "method": "lora", "steps": 2, "best": 1, "stopped_early": False,
    "data": {"examples": 9, "format": "chat"},
    "curve": [{"step": 1, "loss": 1.5, "held": None}, {"step": 2, "loss": 1.25, "held": 1.75}],
    "held": {"examples": 3, "before": {"loss": 2.0, "perplexity": 7.389, "accuracy": 0.5},
             "after": {"loss": 1.75, "perplexity": 5.755, "accuracy": 0.625}},
}  # fmt: skip


def told(tmp_path: Path, *path: Any, value: Any) -> agreement.ReportDifference:
    new = json.loads(json.dumps(REPORT))
    inside = new
    for part in path[:-1]:
        inside = inside[part]
    inside[path[-1]] = value
    (tmp_path / "a").write_text(json.dumps(REPORT))
    (tmp_path / "b").write_text(json.dumps(new))
    return of_report(tmp_path / "a", tmp_path / "b")


def test_losses_and_shares_are_told_apart(tmp_path: Path) -> None:
    assert told(tmp_path, "curve", 0, "loss", value=1.4).loss == pytest.approx(0.1)
    assert told(tmp_path, "curve", 1, "held", value=1.8).loss == pytest.approx(0.05)
    assert told(tmp_path, "held", "after", "loss", value=1.5).loss == 0.25
    after = told(tmp_path, "held", "after", "perplexity", value=5.755 * math.e)
    assert after.loss == pytest.approx(1)
    assert told(tmp_path, "held", "after", "accuracy", value=0.75) == (0, 0.125)
    assert told(tmp_path, "best", value=2) == (0, 0)


def test_a_loss_of_preferences_may_be_further_off(tmp_path: Path) -> None:
    told(tmp_path, "curve", 0, "loss", value=1.52)
    files = {REPORT_FILE: (tmp_path / "a", tmp_path / "b")}
    for loss, holds in (("answers", False), ("preference", True)):
        losses, shares = of_files(files, tmp_path, "float32", loss)
        assert (losses.holds, shares.holds) == (holds, True)


def test_one_pair_may_come_out_otherwise(tmp_path: Path) -> None:
    """Of a few, it is a large share."""
    report = json.loads(json.dumps(REPORT))
    report["held"] |= {"examples": 4, "tokens": 50}
    shares = []
    for preferred, accuracy in ((0.5, 0.5), (0.75, 0.52), (1.0, 0.54)):
        report["held"]["after"] |= {"preferred": preferred, "accuracy": accuracy}
        (tmp_path / f"{preferred}").write_text(json.dumps(report))
        shares.append(of_report(tmp_path / "0.5", tmp_path / f"{preferred}").share)
    assert shares == pytest.approx([0, 0, 0.25])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("steps",), 3), (("method",), "full"), (("curve",), REPORT["curve"][:1]),
        (("curve", 0, "held"), 1.0), (("curve", 0, "loss"), math.nan), (("more",), 1),
        (("curve", 0, "loss"), "1.5"), (("curve", 0, "loss"), math.inf), (("data", "examples"), 8),
        (("held", "after", "perplexity"), 0.0), (("held", "after", "perplexity"), -1.0),
        (("curve", 0, "loss"), 2), (("stopped_early",), True),
    ],
)  # fmt: skip
def test_another_report_is_infinitely_off(tmp_path: Path, path: Any, value: Any) -> None:
    assert told(tmp_path, *path, value=value) == (math.inf, math.inf)


def test_whatever_the_files_hold_there_is_an_answer(tmp_path: Path) -> None:
    """What was recorded may be anybody's."""
    chance = random.Random(3)
    adapter = saved(tmp_path / "adapter", halves(1))
    report = tmp_path / "report"
    report.write_text(json.dumps(REPORT))
    for good, name in ((adapter, "peft/adapter_model.safetensors"), (report, REPORT_FILE)):
        body = good.read_bytes()
        for _ in range(100):
            bad = bytearray(body[: chance.choice((len(body), chance.randrange(len(body))))])
            for _ in range(3):
                if bad:
                    bad[chance.randrange(len(bad))] = chance.randrange(256)
            (tmp_path / "bad").write_bytes(bad)
            found = of_files({name: (tmp_path / "bad", good)}, adapter, "float32")
            assert len(found) == (2 if name == REPORT_FILE else 3)
            assert all(one.files == (name,) for one in found)
            assert not any(math.isnan(one.largest) for one in found)
    assert of_files({"another": (adapter, adapter)}, adapter, "float32") == []


# ---- a model that learnt, elsewhere ----------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with a tiny model, and with what it learnt."""
    folder = tmp_path_factory.mktemp("agreeing")
    settings = load(environ={}, flags={"home": str(folder / "home")})
    tuning.stored(tuning.once(smollm2_gguf, tmp_path_factory.getbasetemp()), settings)
    data = folder / "d.jsonl"
    rows = [{"question": f"What is {at}?", "answer": f"It is {at * 7}."} for at in range(8)]
    data.write_text("\n".join(map(json.dumps, rows)))
    digest = inputs.digest_of(data)
    base = pull.find("tiny", settings).manifest
    assert base is not None
    job = Training(steps=2, rate=1e-2, adapter=Adapter(rank=2, targets=("q_proj", "up_proj")))
    asked = FinetuneConfig(held=0.0, length=64, training=job)
    recipe = run_recipe.recipe(
        "finetune", [Input("from", base.digest, base.ref), Input("data", digest)],
        asked.encode(), settings,
    )  # fmt: skip
    run_recipe.make(recipe, "plain", settings, data={digest: data})
    return settings


def _scaled(path: Path, target: Path, scale: float, noise: float) -> None:
    """The same GGUF file with other numbers: all scaled, and a random part of their size added."""
    shutil.copyfile(path, target)
    draw = np.random.default_rng(1)
    with target.open("r+b") as file:
        for one in gguf.read(path).tensors:
            if one.name.endswith("lora_b"):
                file.seek(one.offset)
                numbers = np.frombuffer(file.read(one.size), "<f4")
                moved = scale * numbers + noise * np.std(numbers) * draw.normal(size=numbers.shape)
                file.seek(one.offset)
                file.write(moved.astype("<f4").tobytes())


def _forged(settings: Settings, name: str, path: str, file: Path) -> None:
    """`name` says that its recipe made this file."""
    store = Store(settings.home)
    honest = store.get(parse(name))
    digest = inputs.digest_of(file)
    files = tuple(
        replace(one, digest=digest, size=file.stat().st_size) if one.path == path else one
        for one in honest.files
    )
    store.commit(replace(honest, files=files), {digest: file}, [parse("forged")])


@pytest.mark.parametrize(
    ("scale", "noise", "verdict", "broken"),
    [
        (1.0, 0.02, "within_tolerance", set()),
        (1.0, 0.5, "different", {OFF, TENSOR, SIZE}),
        (1.03, 0.0, "different", {SIZE}),
    ],
)
def test_an_adapter_of_another_machine(
    tuned: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    scale: float, noise: float, verdict: str, broken: set[str],
) -> None:  # fmt: skip
    store = Store(tuned.home)
    adapter = next(one for one in store.get(parse("plain")).files if one.role == "adapter")
    _scaled(store.path(adapter), tmp_path / "adapter", scale, noise)
    _forged(tuned, "plain", "adapter.gguf", tmp_path / "adapter")
    before = environment.current
    monkeypatch.setattr(
        environment, "current", lambda *given: {**before(*given), "instructions": "another"}
    )
    found = replay.replay(replay.target("forged", tuned), tuned)
    assert found.verdict == verdict
    assert {one.what for one in found.measures if not one.holds} == broken
    assert {path for one in found.measures for path in one.files} == {"adapter.gguf"}
    assert found.largest > 0.02, "an element is off by more than it was allowed before"


def test_two_models_to_learn_on_are_refused(tuned: Settings, tmp_path: Path) -> None:
    honest = replay.target("plain", tuned).recipe
    two = replace(honest, inputs=(honest.inputs[0], *honest.inputs))
    given = inputs.resolve(two, tuned)
    with pytest.raises(FormatError, match="2 models to learn on, not 1"):
        STEP.agreement(two, given, {})
    with pytest.raises(FormatError, match="2 models to learn on, not 1"):
        run_recipe.run(two, given, tmp_path, tuned, lambda _: None, None)


def test_whole_weights_are_held_to_what_they_learnt(tmp_path: Path, tuned: Settings) -> None:
    old = pull.find("tiny", tuned).weights
    new, other = (_moved(old, tmp_path / name, seed) for seed, name in enumerate("ab"))
    same = sum_changes(agreement.of_weights(new, new, old))
    assert (same.off, same.longer, same.worst) == (0, 0, 0)
    nothing = sum_changes(agreement.of_weights(new, old, old))
    assert nothing.off == nothing.longer == 1, "the base has learnt nothing"
    found = sum_changes(agreement.of_weights(new, other, old))
    was, a, b = (_flat(one) for one in (old, new, other))
    assert found.off == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a - was), rel=1e-6)
    longer = np.linalg.norm(b - was) / np.linalg.norm(a - was) - 1
    assert found.longer == pytest.approx(abs(longer), rel=1e-4)
    assert sum_changes(agreement.of_weights(old, new, old)).off == math.inf


def _moved(base: Path, target: Path, seed: int) -> Path:
    """The base with its queries moved."""
    shutil.copyfile(base, target)
    draw = np.random.default_rng(seed)
    with target.open("r+b") as file:
        for one in gguf.read(base).tensors:
            if "attn_q" in one.name:
                file.seek(one.offset)
                numbers = np.frombuffer(file.read(one.size), "<f4")
                file.seek(one.offset)
                file.write((numbers + draw.normal(size=numbers.shape)).astype("<f4").tobytes())
    return target


def _flat(path: Path) -> Any:
    found = diff.tensors(path)
    return np.concatenate([
        np.asarray(one.rows(0, one.count), "f8").reshape(-1)
        for name, one in found.items() if "attn_q" in name
    ])  # fmt: skip


def test_weights_are_compared_with_the_base_as_it_would_be_written() -> None:
    """Else rounding of the base would count as learnt, and hide what was."""
    numbers = np.array([[1.0, 1 + 2**-12, 0.1]], "<f4")
    for kind, kept in (("F16", numbers.astype("<f2")), ("F32", numbers)):
        assert agreement._as_stored(numbers, kind, "x").tolist() == kept.astype("f8").tolist()
    rounded = agreement._as_stored(numbers, "BF16", "x")
    assert rounded.tolist()[0][:2] == [1.0, 1.0]
    assert abs(rounded[0, 2] - 0.1) < 2**-11
