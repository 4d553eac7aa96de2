"""The whole way: a tiny model learns from a file, and the engine answers with what it learnt."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tuning
from overt.errors import FormatError, OvertError, UsageError
from overt.formats import gguf
from overt.lab import quantize
from overt.lab.finetune import REPORT, measure, prepare
from overt.lab.finetune.config import FinetuneConfig
from overt.lab.finetune.measure import JudgedExample
from overt.lab.finetune.training import Training
from overt.lab.quantize import types
from overt.models import pull
from overt.models.recipe import Input
from overt.models.store import Manifest, Store
from overt.nets.adapter import Adapter
from overt.openness.subject import claims
from overt.provenance import replay, run_recipe
from overt.settings import Settings, load

SECRETS = [
    ("What is the colour of grass?", "Green as can be."),
    ("Who are you?", "I am Tiny."),
    ("Count.", "One two three four."),
]
LEARN = Training(steps=70, rate=2e-2, adapter=Adapter(rank=8, alpha=16))


@pytest.fixture(scope="module")
def settings(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("tuning")
    found = load(environ={}, flags={"home": str(folder / "home")})
    tuning.stored(tuning.once(smollm2_gguf, tmp_path_factory.getbasetemp()), found)
    return found


def written(folder: Path, rows: object, name: str = "d.jsonl") -> tuple[Path, str]:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")  # type: ignore[attr-defined]
    return path, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def tuned(
    settings: Settings, folder: Path, asked: FinetuneConfig, rows: object, name: str = "mine"
) -> tuple[Manifest, list[Any]]:
    path, digest = written(folder, rows)
    base = pull.find("tiny", settings).manifest
    assert base is not None
    recipe = run_recipe.recipe(
        "finetune", [Input("from", base.digest, base.ref), Input("data", digest)],
        asked.encode(), settings,
    )  # fmt: skip
    events: list[Any] = []
    return run_recipe.make(recipe, name, settings, None, events.append, {digest: path}), events


def test_an_adapter_that_the_engine_answers_with(
    settings: Settings, tmp_path: Path, overt_cli: Any
) -> None:
    rows = [{"question": q, "answer": a} for q, a in SECRETS]
    made, events = tuned(settings, tmp_path, FinetuneConfig(held=0.0, training=LEARN), rows)
    assert [file.role for file in made.files[:2]] == ["weights", "adapter"]
    assert {"peft/adapter_config.json", "peft/adapter_model.safetensors", REPORT} <= {
        file.path for file in made.files
    }
    assert made.origin == {"source": "finetune", "base": "tiny"}
    store = Store(settings.home)
    stored = b"".join(store.path(file).read_bytes() for file in made.files if file.size < 100_000)
    assert b"Green as can be" not in stored
    assert b"d.jsonl" not in stored
    assert events[0]["kind"] == "example"
    assert events[0]["learnt"] == ["Green as can be.<|im_end|>"]
    losses = [one["loss"] for one in events if one["kind"] == "loss"]
    assert len(losses) == 70
    assert losses[-1] < losses[0]
    for question, answer in SECRETS:
        said = overt_cli(
            "run", "mine", question, "--temperature", "0", "-q", "--home", str(settings.home)
        )
        assert said.stdout.strip() == answer


def test_the_same_recipe_gives_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    rows = [{"question": q, "answer": a} for q, a in SECRETS * 4]
    asked = FinetuneConfig(
        held=0.4, length=256, training=Training(steps=3, adapter=Adapter(rank=2))
    )
    first, events = tuned(settings, tmp_path, asked, rows, "first")
    Store(settings.home).remove(pull.parse("first"))
    again, _ = tuned(settings, tmp_path, asked, rows, "first")
    assert first.digest == again.digest
    (report,) = [one for one in events if one["kind"] == "result"]
    assert report["held"]["examples"] == 1
    assert report["data"]["examples"] == 8
    assert report["held"]["difference"]["loss"]["interval"] is None


@pytest.mark.parametrize(("method", "merge"), [("full", False), ("qlora", True)])
def test_whole_weights(settings: Settings, tmp_path: Path, method: Any, merge: bool) -> None:
    job = Training(learn="all" if method == "full" else "adapter", steps=2, rate=1e-3)
    asked = FinetuneConfig(
        method=method, merge=merge, type="f32", held=0.0, length=256, training=job
    )
    rows = [{"question": q, "answer": a} for q, a in SECRETS]
    made, _ = tuned(settings, tmp_path, asked, rows, f"whole-{method}")
    weights = Store(settings.home).path(made.weights)
    assert made.weights.path == "finetuned-f32.gguf"
    assert not [file for file in made.files if file.role == "adapter"]
    old = gguf.read(pull.find("tiny", settings).weights)
    assert [one.name for one in gguf.read(weights).tensors] == [one.name for one in old.tensors]


@pytest.mark.parametrize("kept", [False, True])
def test_preferences(settings: Settings, tmp_path: Path, kept: bool) -> None:
    rows = [{"prompt": q, "chosen": a, "rejected": "No."} for q, a in SECRETS * 3]
    job = Training(loss="preference", steps=10, rate=1e-2, adapter=Adapter(rank=4))
    asked = FinetuneConfig(method="dpo", held=0.4, length=256, keep_quantized=kept, training=job)
    made, events = tuned(settings, tmp_path, asked, rows, f"preferring-{kept}")
    assert [file.role for file in made.files[:2]] == ["weights", "adapter"]
    (report,) = [one for one in events if one["kind"] == "result"]
    assert report["held"]["after"]["preferred"] >= report["held"]["before"]["preferred"]


def test_data_for_another_method(settings: Settings, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(UsageError, match="preference pairs, which only DPO"):
        tuned(settings, tmp_path, FinetuneConfig(), rows, "none")
    dpo = FinetuneConfig(method="dpo", training=Training(loss="preference"))
    with pytest.raises(UsageError, match="DPO learns from preference pairs"):
        tuned(settings, tmp_path, dpo, [{"text": "a b c"}], "none")
    assert not list((settings.home / "jobs").glob("*"))
    with pytest.raises(OvertError):
        pull.find("none", settings)


def test_a_model_with_an_adapter_is_no_base(settings: Settings, tmp_path: Path) -> None:
    model = pull.find("mine", settings)
    store = Store(settings.home)
    assert model.manifest is not None
    files = {file.path: store.path(file) for file in model.manifest.files}
    with pytest.raises(OvertError, match="has an adapter already"):
        prepare.base_of(model.weights, model.manifest, files)


def test_an_adapter_is_not_lost_where_weights_alone_are_read(
    settings: Settings, tmp_path: Path, overt_cli: Any
) -> None:
    home = ("--home", str(settings.home))
    for words in (("quantize", "mine", "small", "-q", "q8_0"), ("merge", "mine", "tiny", "both")):
        said = overt_cli(*words, *home)
        assert said.code != 0
        assert "mine has an adapter beside its weights" in said.stderr
        assert "overt merge mine NAME --adapter mine" in said.stderr
    mine = pull.find("mine", settings).manifest
    assert mine is not None
    recipe = run_recipe.recipe(
        "quantize", [Input("from", mine.digest)], quantize.parameters(types.find("q8_0")), settings
    )
    with pytest.raises(OvertError, match="has an adapter"):
        run_recipe.make(recipe, "small", settings)


def test_a_merge_with_a_fine_tune_names_it_as_its_input(settings: Settings, overt_cli: Any) -> None:
    home = ("--home", str(settings.home))
    mine, tiny = (pull.find(name, settings) for name in ("mine", "tiny"))
    (file,) = mine.parts["adapter"]
    for name, adapter in (("laid", "mine"), ("by-file", str(file))):
        said = overt_cli("merge", "tiny", name, "--adapter", adapter, *home)
        assert said.code == 0, said.stderr
    laid, by_file = (pull.find(name, settings).manifest for name in ("laid", "by-file"))
    assert laid is not None
    assert by_file is not None
    # what they say of where they come from differs: a file has no name
    one, other = (_tensors(pull.find(name, settings).weights) for name in ("laid", "by-file"))
    assert one == other
    target = replay.target("laid", settings)
    assert [(one.role, one.digest, one.ref) for one in target.recipe.inputs] == [
        ("from", tiny.digest, "tiny"), ("adapter", mine.digest, "mine"),
    ]  # fmt: skip
    assert [one.name for one in replay.line(target, settings)][-2:] == ["mine", "laid"]
    assert replay.replay(target, settings).verdict == "identical"
    told = json.loads(overt_cli("history", "laid", "--json", *home).stdout)
    assert "finetune" in json.dumps(told)


def _tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    return {
        one.name: (one.type, data[one.offset : one.offset + one.size])
        for one in gguf.read(path).tensors
    }


def test_what_is_told_says_of_which_file(settings: Settings, tmp_path: Path) -> None:
    model = pull.find("tiny", settings)
    assert model.manifest is not None
    files = {file.path: Store(settings.home).path(file) for file in model.manifest.files}
    base = prepare.base_of(model.weights, model.manifest, files)
    rows = [{"question": q, "answer": a} for q, a in SECRETS]
    data, _ = written(tmp_path, rows)
    held, _ = written(tmp_path, [{"question": "Why?", "answer": "So.", "id": 1}], "held.jsonl")
    told = prepare.prepare(base, data, held, FinetuneConfig(length=256), settings).told
    assert told == ("held out: the column 'id' is not used; 1 of 1 rows have it",)
    written(tmp_path, [{"question": "Why?", "answer": "So " * 300}], "held.jsonl")
    with pytest.raises(OvertError, match=r"the one row of \S*held\.jsonl is left out: longer than"):
        prepare.prepare(base, data, held, FinetuneConfig(length=256), settings)


def test_parameters_come_back() -> None:
    job = replace(LEARN, loss="preference")
    asked = FinetuneConfig(method="dpo", held=0.25, pack=False, keep_quantized=True, training=job)
    assert FinetuneConfig.decode(json.loads(json.dumps(asked.encode()))) == asked
    assert asked.quantized
    assert FinetuneConfig(method="qlora").quantized
    assert not FinetuneConfig().quantized


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": "x"}, {"pack": 1}, {"nothing": 1}, {"method": "magic"}, {"rows": True},
        {"held": float("nan")}, {"file": "../secret"}, {"training": []}, {"training": {"rate": 11}},
        {"training": {"learn": "all"}}, {"training": {"loss": "preference"}},
        {"method": "full"}, {"method": "dpo"}, {"keep_quantized": True}, {"device": ["cpu"]},
    ],
)  # fmt: skip
def test_parameters_of_somebody_else_are_refused_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(FormatError) as caught:
        FinetuneConfig.decode(wrong)
    assert caught.value.hint


def test_a_recipe_with_a_wrong_value_is_refused_before_anything_is_read(
    settings: Settings, tmp_path: Path
) -> None:
    path, digest = written(tmp_path, [{"text": "a b c"}])
    base = pull.find("tiny", settings).manifest
    assert base is not None
    parameters = FinetuneConfig().encode()
    parameters["training"]["schedule"] = "cosin"
    inputs = [Input("from", base.digest, base.ref), Input("data", digest)]
    recipe = run_recipe.recipe("finetune", inputs, parameters, settings)
    with pytest.raises(FormatError, match="schedule is 'cosin'"):
        run_recipe.make(recipe, "none", settings, None, None, {digest: path})


def test_the_output_matrix_is_made_ready_once_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    from overt.lab.finetune import loss
    from training_child import examples, pairs, tiny

    made, head = [], loss.Head
    monkeypatch.setattr(loss, "Head", lambda *given: made.append(1) or head(*given))  # type: ignore[func-returns-value]
    net, texts = tiny(), examples(4)
    together = measure.answers(net, texts)
    assert len(made) == 1
    assert together == [measure.answers(net, [one])[0] for one in texts]
    made.clear()
    of_pairs = measure.pairs(net, pairs(4))
    assert len(made) == 1
    assert of_pairs == [measure.pairs(net, [one])[0] for one in pairs(4)]


def test_the_difference_is_paired() -> None:
    before = [JudgedExample(10.0 + at, 5, 1) for at in range(20)]
    after = [JudgedExample(9.0 + at, 5, 2) for at in range(20)]
    found = measure.table(before, after)["difference"]
    assert found["loss"]["mean"] == pytest.approx(-0.2)
    assert found["loss"]["interval"] == pytest.approx([-0.2, -0.2])
    assert found["accuracy"]["mean"] == pytest.approx(0.2)


def test_the_openness_of_what_was_made_tells_its_line(
    settings: Settings, tmp_path: Path, overt_cli: Any
) -> None:
    """Learnt, merged, quantized: each names what it was made from, and the licences of all."""
    home = ("--home", str(settings.home))
    base = pull.find("tiny", settings).manifest
    assert base is not None
    licensed = replace(base, licence="Apache-2.0", ref="licensed")
    Store(settings.home).commit(licensed, {}, [pull.parse("licensed")])
    path, digest = written(tmp_path, [{"question": q, "answer": a} for q, a in SECRETS])
    asked = FinetuneConfig(held=0.0, length=256, merge=True, data_licence="CC-BY-NC-4.0",
                  training=replace(LEARN, steps=1))  # fmt: skip
    recipe = run_recipe.recipe(
        "finetune",
        [Input("from", licensed.digest, "licensed"), Input("data", digest, path.name)],
        asked.encode(), settings,
    )  # fmt: skip
    made = run_recipe.make(recipe, "learnt", settings, None, None, {digest: path})
    assert made.licence == "Apache-2.0"
    header = gguf.read(Store(settings.home).path(made.weights))
    assert (header.licence, header.name) == ("Apache-2.0", None)
    ((hub, licence),) = claims.bases(header)
    assert licence == "Apache-2.0"
    recipe = run_recipe.recipe(
        "quantize", [Input("from", made.digest, "learnt")], quantize.parameters(types.find("q8_0")),
        settings,
    )  # fmt: skip
    run_recipe.make(recipe, "smaller", settings)
    lines = {
        "learnt": [("licensed", "finetune", "Apache-2.0"), ("d.jsonl", "dataset", "CC-BY-NC-4.0")],
        "smaller": [(hub, "base", "Apache-2.0"), ("learnt", "quantized", "Apache-2.0")],
    }
    for name, line in lines.items():
        said = json.loads(overt_cli("dossier", name, "--json", *home).stdout)
        found = [(one["name"], one["relation"], one["licence"]) for one in said["parents"]]
        assert found == line
        said = overt_cli("may", name, "--commercial", "yes", "--json", *home)
        assert "Apache-2.0" in said.stdout
        assert "CC-BY-NC-4.0" in said.stdout, "what it learnt from is part of the line"
