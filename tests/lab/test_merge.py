"""Merging: against formulas of our own in 64 bits, against peft, and against llama.cpp's LoRA."""

import asyncio
import json
import random
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as library
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import adapter_writer
import tiny_models
from overt.errors import FormatError, OvertError, Unsupported, UsageError
from overt.lab.merge import methods, plan, step, weights
from overt.lab.merge import recipe as ask
from overt.lab.merge.weights import Tensors
from overt.models.recipe import Input, Recipe
from overt.models.sources.base import sha256_of
from overt.nets.adapter import CONFIG, WEIGHTS
from overt.provenance import run_recipe
from overt.provenance.steps import StepContext, StepInput
from overt.settings import Settings, load

Arrays = dict[str, "np.ndarray[Any, Any]"]


# ---- the rig -------------------------------------------------------------------------------


def tensors_of(path: Path) -> Arrays:
    """Every tensor as the package `gguf` reads it, in 32 bits."""
    reader = library.GGUFReader(path)
    return {
        one.name: library.quants.dequantize(one.data, one.tensor_type).reshape(
            tuple(reversed([int(n) for n in one.shape]))
        )
        for one in reader.tensors
    }


def run(
    place: Path, models: Mapping[Path, str], parameters: dict[str, Any], note: Any = None
) -> Path:
    """The step alone, on files; returns the GGUF it made."""
    inputs = tuple(
        Input(role, f"sha256:{sha256_of(path)}", path.name) for path, role in models.items()
    )
    place.mkdir(parents=True, exist_ok=True)
    work = StepContext(
        Recipe("merge", step.STEP.version, inputs, parameters),
        tuple(StepInput(path, None, {}) for path in models),
        place,
        lambda _: None,
        Settings(),
        note or (lambda _: None),
    )
    (made,) = step.STEP.run(work)
    return made.file


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of one shape: the first is the base of the two others."""
    folder = tmp_path_factory.mktemp("tiny")
    return [
        tiny_models.gguf(folder / f"{name}.gguf", "llama", "F32", seed=seed)
        for seed, name in enumerate(("base", "poet", "clerk"))
    ]


def merged(tiny: list[Path], place: Path, **spec: Any) -> Arrays:
    """Two models merged; the base is given to the methods that have one."""
    base = {tiny[0]: "base"} if spec["method"] in methods.WITH_BASE else {}
    asked = {"type": "f32", **spec, **({"base": "base"} if base else {})}
    asked.setdefault("models", [{"ref": "poet"}, {"ref": "clerk"}])
    parameters = plan.recipe_parameters(plan.checked(asked))
    return tensors_of(run(place, {**base, tiny[1]: "from", tiny[2]: "from"}, parameters))


def exact(path: Path) -> Arrays:
    return {name: array.astype(np.float64) for name, array in tensors_of(path).items()}


# ---- formulas ------------------------------------------------------------------------------


def weighted(poet: float, clerk: float) -> list[dict[str, Any]]:
    return [{"ref": "poet", "weight": poet}, {"ref": "clerk", "weight": clerk}]


def test_linear_is_the_weighted_mean(tiny, tmp_path):
    found = merged(tiny, tmp_path, method="linear", models=weighted(3, 1))
    poet, clerk = exact(tiny[1]), exact(tiny[2])
    for name, array in found.items():
        np.testing.assert_allclose(array, 0.75 * poet[name] + 0.25 * clerk[name], atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_goes_along_the_arc(tiny, tmp_path, t):
    found = merged(tiny, tmp_path, method="slerp", t=t)
    poet, clerk = exact(tiny[1]), exact(tiny[2])
    for name, array in found.items():
        a, b = poet[name].ravel(), clerk[name].ravel()
        angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        want = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
        np.testing.assert_allclose(array.ravel(), want, atol=2e-6, err_msg=name)
        if name == "token_embd.weight":  # not the straight line, which is shorter in between
            assert np.linalg.norm(array) == pytest.approx(np.linalg.norm(a), rel=0.02)


def test_slerp_of_parallel_or_empty_tensors_is_the_straight_line():
    one = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_allclose(methods.slerp(one, 3 * one, 0.5), 2 * one, rtol=1e-6)
    np.testing.assert_array_equal(methods.slerp(0 * one, one, 0.25), one / 4)


def test_task_arithmetic_adds_what_each_model_changed(tiny, tmp_path):
    found = merged(tiny, tmp_path, method="task", models=weighted(0.5, -1), scale=2)
    base, poet, clerk = (exact(path) for path in tiny)
    for name, array in found.items():
        want = base[name] + 2 * (0.5 * (poet[name] - base[name]) - (clerk[name] - base[name]))
        np.testing.assert_allclose(array, want, atol=2e-6)


@pytest.mark.parametrize("shares", [(1.0, 1.0), (0.3, 2.0)])
def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree(tiny, tmp_path, shares):
    models = [one | {"density": 0.25} for one in weighted(*shares)]
    found = merged(tiny, tmp_path, method="ties", models=models, scale=0.5)
    base, poet, clerk = (exact(path) for path in tiny)
    for name, array in found.items():
        rows = []
        for other in (poet, clerk):
            delta = (other[name].astype(np.float32) - base[name].astype(np.float32)).ravel()
            order = sorted(range(delta.size), key=lambda at: (-abs(delta[at]), at))
            thin = np.zeros(delta.size)
            thin[order[: round(delta.size / 4)]] = delta[order[: round(delta.size / 4)]]
            rows.append(thin)
        want = base[name].ravel().copy()
        for at in range(want.size):
            pair = [(rows[n][at], shares[n]) for n in range(2)]
            sign = 1 if sum(value * share for value, share in pair) >= 0 else -1
            agreed = [(value, share) for value, share in pair if value * sign > 0]
            if agreed:
                share = sum(share for _, share in agreed)
                want[at] += 0.5 * sum(value * share for value, share in agreed) / share
        np.testing.assert_allclose(array.ravel(), want, atol=2e-6, err_msg=name)


def test_ties_is_what_peft_computes():
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("peft.utils.merge_utils")
    draw = np.random.default_rng(3)
    deltas = [draw.standard_normal((17, 23)).astype(np.float32) for _ in range(3)]
    density = 200 / (17 * 23)
    want = utils.ties(list(map(torch.from_numpy, deltas)), torch.ones(3), density)
    thin = [methods.trim(delta, density) for delta in deltas]
    found = methods.elected(np.zeros_like(deltas[0]), thin, [1, 1, 1], 1.0)
    np.testing.assert_allclose(found, want.numpy(), atol=1e-6)


@pytest.mark.parametrize("method", ["dare-linear", "dare-ties"])
def test_dare_keeps_the_share_asked_and_what_it_keeps_is_divided_by_it(tiny, tmp_path, method):
    models = [{"ref": "poet", "density": 0.4}, {"ref": "clerk", "density": 0.4, "weight": 0}]
    found = merged(tiny, tmp_path, method=method, models=models, seed=5)
    base, poet = exact(tiny[0]), exact(tiny[1])
    kept = 0
    for name, array in found.items():
        changed, full = array - base[name], (poet[name] - base[name]) / 0.4
        is_kept = np.abs(changed) > 1e-7
        np.testing.assert_allclose(changed[is_kept], full[is_kept], rtol=1e-3, atol=2e-6)
        kept += int(is_kept.sum())
    total = sum(array.size for array in found.values())
    assert abs(kept - 0.4 * total) < 5 * (0.24 * total) ** 0.5


def test_dares_draws_belong_to_seed_tensor_and_model():
    delta = np.ones((40, 50), np.float32)
    first = methods.drop(delta, 0.5, 1, "a", 0)
    np.testing.assert_array_equal(first, methods.drop(delta, 0.5, 1, "a", 0))
    for other in ((2, "a", 0), (1, "b", 0), (1, "a", 1)):
        assert (methods.drop(delta, 0.5, *other) != first).any()
    np.testing.assert_array_equal(methods.drop(delta, 1.0, 1, "a", 0), delta)


@given(
    st.integers(1, 400).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(-4, 4), min_size=n, max_size=n), st.floats(0.01, 1)
        )
    )
)
def test_a_trim_keeps_exactly_so_many_and_the_largest(case):
    values, density = case
    delta = np.array(values, np.float32)
    found = methods.trim(delta, density)
    keep = methods.kept_count(density, delta.size)
    order = sorted(range(delta.size), key=lambda at: (-abs(delta[at]), at))[:keep]
    want = np.zeros_like(delta)
    want[order] = delta[order]
    np.testing.assert_array_equal(found, want)


# ---- amounts along layers ------------------------------------------------------------------


def test_a_list_of_amounts_runs_from_the_first_layer_to_the_last():
    along = [0.0, 0.5, 1.5]
    said = [plan.value(along, f"blk.{layer}.ffn_up.weight", 5) for layer in range(5)]
    assert said == [0.0, 0.25, 0.5, 1.0, 1.5]
    assert plan.value(along, "token_embd.weight", 5) == 0.0
    assert (
        plan.value(along, "output.weight", 5) == plan.value(along, "output_norm.weight", 5) == 1.5
    )
    by_name = {"attn": 0.1, "ffn": along, "else": 3.0}
    assert plan.value(by_name, "blk.1.attn_q.weight", 5) == 0.1
    assert plan.value(by_name, "blk.1.ffn_up.weight", 5) == 0.25
    assert plan.value(by_name, "token_embd.weight", 5) == 3.0
    assert plan.value([2.0], "blk.0.x", 1) == plan.value(2.0, "blk.0.x", 1) == 2.0


def test_a_recipe_keeps_the_order_of_parts():
    """The first part that fits counts, and JSON sorts keys: ffn would come before ffn_down."""
    said = {"ffn_down": 0.2, "ffn": [0.6, 0.9], "else": 0.5}
    spec = {"method": "ties", "base": "b", "models": [{"ref": "a", "density": said}],
            "scale": {"output": 2, "else": 1}}  # fmt: skip
    inputs = tuple(Input(role, "sha256:" + "0" * 64) for role in ("base", "from"))
    asked = plan.recipe_parameters(plan.checked(spec))
    recipe = Recipe.decode(Recipe("merge", "2", inputs, asked).encode())
    found = plan.proved(recipe)
    assert found == asked
    density = found["models"][0]["density"]
    for part, want in (("ffn_down", 0.2), ("ffn_up", 0.9), ("attn_q", 0.5)):
        assert plan.value(density, f"blk.1.{part}.weight", 2) == want
    assert plan.value(found["scale"], "output.weight", 2) == 2
    sorted_away = {**asked, "scale": {"else": 1.0}}
    with pytest.raises(FormatError, match="scale by parts of names is no list"):
        plan.proved(Recipe("merge", "2", inputs, sorted_away))


def test_a_merge_file_says_what_the_options_say_and_more(tiny, tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text(
        "method: slerp\nmodels: [poet, {ref: clerk}]\nt: {ffn: [0, 1], else: 0.5}\ntype: f32\n"
    )
    spec = plan.read(file)
    assert spec == {
        "method": "slerp", "models": [{"ref": "poet"}, {"ref": "clerk"}], "type": "f32",
        "t": {"ffn": [0.0, 1.0], "else": 0.5},
    }  # fmt: skip
    models = {tiny[1]: "from", tiny[2]: "from"}
    found = tensors_of(run(tmp_path / "w", models, plan.recipe_parameters(spec)))
    poet, clerk = tensors_of(tiny[1]), tensors_of(tiny[2])
    first, last = (f"blk.{n}.ffn_up.weight" for n in (0, 1))
    np.testing.assert_allclose(found[first], poet[first], atol=1e-6)
    np.testing.assert_allclose(found[last], clerk[last], atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"method": "magic"}, "'magic' is no method"),
        ({"method": "ties"}, "ties needs the base"),
        ({"base": "b"}, "linear takes no base"),
        ({"models": []}, "needs its models"),
        ({"models": [{"weight": 1}]}, "has no ref"),
        ({"models": [{"ref": "a", "wieght": 1}]}, "no 'wieght'"),
        ({"models": [{"ref": "a", "weight": float("nan")}]}, "weight is 'nan'"),
        ({"models": [{"ref": "a", "weight": {"attn": 1}}]}, "lacks `else`"),
        ({"method": "slerp"}, "slerp is between two models, and 1 are named"),
        ({"method": "ties", "base": "b", "models": [{"ref": "a", "density": 0}]}, "keeps nothing"),
        ({"type": "q4_0"}, "'q4_0' is no type"),
        ({"seed": -1}, "the seed is '-1'"),
        ({"weights": 1}, "a merge has no 'weights'"),
        ({"scale": 0.1}, "linear has no scale"),
        ({"t": 0.5}, "linear has no t"),
        ({"seed": 5}, "linear has no seed"),
        ({"models": [{"ref": "a", "density": 0.5}]}, "linear has no density"),
        ({"method": "task", "base": "b", "models": [{"ref": "a", "density": 1}]}, "no density"),
        ({"method": "ties", "base": "b", "seed": 1}, "ties has no seed"),
        ({"method": "slerp", "models": [{"ref": "a", "weight": 9}, "b"]}, "slerp has no weight"),
        ({"models": [{"ref": "a", "weight": [["x", 1], ["x", 2], ["else", 1]]}]}, "a part twice"),
        ({"models": [{"ref": "a", "weight": [["x", 1], 2]}]}, "a list of 2 lists"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(spec, words):
    with pytest.raises(UsageError, match=words):
        plan.checked({"models": [{"ref": "a"}], **spec})


_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["ref", "weight", "density", "else", "attn", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*plan._KEYS, "x"]), _plain, max_size=7))
def test_whatever_stands_in_a_merge_file_it_is_a_merge_or_refused(spec):
    try:
        found = plan.checked(spec)
    except UsageError:
        return
    json.dumps(found, allow_nan=False)
    assert found["models"]


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=30)
def test_any_bytes_as_a_merge_file(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any-merge.yaml"
    file.write_bytes(data)
    with pytest.raises(FormatError):
        plan.read(file)


# ---- what goes together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "changes", "words"),
    [
        ("qwen2", {}, "is a llama and other.gguf a qwen2"),
        ("llama", {"layers": 3}, "has 2 layers and other.gguf 3"),
        ("llama", {"inner": 96}, "feed_forward_length is 64 in base.gguf and 96 in other.gguf"),
        ("llama", {"heads": 2, "kv_heads": 2}, "head_count is 4 in base.gguf and 2 in other.gguf"),
        (
            "llama",
            {"metadata": {"tokenizer.ggml.tokens": [*tiny_models.TOKENS, "new"]}},
            "has 112 tokens and other.gguf 113",
        ),
        (
            "llama",
            {"metadata": {"tokenizer.ggml.tokens": [*tiny_models.TOKENS[:-1], "new"]}},
            "token 111 is 'ou' in base.gguf and 'new'",
        ),
        (
            "llama",
            {"edit_gguf": lambda found: {k: v for k, v in found.items() if k != "output.weight"}},
            "has 21 tensors and other.gguf 20, without output.weight",
        ),
    ],
)
def test_models_that_do_not_go_together(tiny, tmp_path, architecture, changes, words):
    other = tiny_models.gguf(tmp_path / "other.gguf", architecture, "F32", **changes)
    parameters = plan.recipe_parameters(plan.checked({"models": ["a", "b"]}))
    with pytest.raises(FormatError) as caught:
        run(tmp_path / "w", {tiny[0]: "from", other: "from"}, parameters)
    assert words.replace("\u0120", "") in caught.value.message.replace("\u0120", "")


def test_a_difference_that_does_not_stop_it_is_told(tiny, tmp_path):
    other = tiny_models.gguf(
        tmp_path / "other.gguf", "llama", "F32", seed=1, metadata={"llama.rope.freq_base": 5e5}
    )
    parameters = plan.recipe_parameters(plan.checked({"models": ["a", "b"]}))
    notes: list[Any] = []
    run(tmp_path / "w", {tiny[0]: "from", other: "from"}, parameters, notes.append)
    assert notes == [
        {
            "kind": "note",
            "text": "llama.rope.freq_base is not said in base.gguf, and 500000.0 in other.gguf: "
            "the first is kept",
        }
    ]


def test_a_merge_with_a_base_speaks_as_the_first_model_does(tiny, tmp_path):
    """A base knows no template and another end: the answers would never stop."""
    template = "tokenizer.chat_template"
    base, poet, clerk = (
        tiny_models.gguf(
            tmp_path / f"{name}.gguf", "llama", "F32", seed=seed,
            metadata={template: talks, "tokenizer.ggml.eos_token_id": end},
        )
        for seed, (name, talks, end) in enumerate(
            [("base", "", 2), ("poet", "{{ poet }}", 3), ("clerk", "{{ clerk }}", 3)]
        )
    )  # fmt: skip
    spec = {"method": "ties", "base": "base", "models": ["poet", "clerk"], "type": "f32"}
    notes: list[Any] = []
    parameters = plan.recipe_parameters(plan.checked(spec))
    models = {base: "base", poet: "from", clerk: "from"}
    header = Tensors(run(tmp_path / "w", models, parameters, notes.append), "new").header
    assert header.chat_template == "{{ poet }}"
    assert header.special_tokens["eos"] == 3
    assert [one["text"] for one in notes] == [
        "tokenizer.chat_template is another in clerk.gguf: the first is kept",
        "tokenizer.chat_template is another in base.gguf: the first is kept",
        "tokenizer.ggml.eos_token_id is 3 in poet.gguf, and 2 in base.gguf: the first is kept",
    ]
    # what a method with a base computes is not changed by whose header it has
    changed = exact(Path(tmp_path / "w" / "model.gguf"))["blk.0.ffn_up.weight"]
    first = exact(tiny[0])["blk.0.ffn_up.weight"]
    assert np.abs(changed - first).max() > 0


def test_numbers_that_have_no_place_are_refused(tiny, tmp_path):
    def huge(found: Arrays) -> Arrays:
        return {**found, "blk.0.ffn_up.weight": found["blk.0.ffn_up.weight"] * 1e7}

    def none(found: Arrays) -> Arrays:
        return {**found, "output_norm.weight": found["output_norm.weight"] * np.nan}

    for number, (edit, words) in enumerate(
        [(huge, "blk.0.ffn_up.weight holds .* f16 ends at 65504"), (none, "NaN or infinity")]
    ):
        other = tiny_models.gguf(tmp_path / f"{number}.gguf", "llama", "F32", edit_gguf=edit)
        parameters = plan.recipe_parameters(plan.checked({"models": ["a", "b"]}))
        with pytest.raises(FormatError, match=words):
            run(tmp_path / str(number), {tiny[0]: "from", other: "from"}, parameters)


def test_weights_that_cancel_each_other_are_refused(tiny, tmp_path):
    with pytest.raises(UsageError, match="add up to 0"):
        merged(tiny, tmp_path, method="linear", models=weighted(1, -1))
    with pytest.raises(UsageError, match="below 0"):
        merged(tiny, tmp_path, method="ties", models=weighted(1, -1))


# ---- the file that is written --------------------------------------------------------------


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
def test_the_new_file_has_all_metadata_of_the_first(tiny, tmp_path, type):
    source = tiny_models.gguf(
        tmp_path / "q.gguf", "llama", "Q8_0",
        metadata={"tiny.odd": ["", "two"], "general.quantized_by": "me"},
    )  # fmt: skip
    parameters = plan.recipe_parameters(plan.checked({"models": ["a", "b"], "type": type}))
    made = run(tmp_path / "w", {source: "from", tiny[1]: "from"}, parameters)
    old, new = library.GGUFReader(source), library.GGUFReader(made)
    told = {
        key: field.contents() for key, field in old.fields.items() if not key.startswith("GGUF")
    }
    for key in ("general.quantized_by", "general.file_type", "general.name"):
        assert told.pop(key)
    found = {
        key: field.contents() for key, field in new.fields.items() if not key.startswith("GGUF")
    }
    kind = found.pop("general.file_type")
    assert kind == {"f32": 0, "f16": 1, "bf16": 32}[type]
    assert {key: found[key] for key in told} == told
    types = {one.name: one.tensor_type.name for one in new.tensors}
    assert types["blk.0.attn_q.weight"] == type.upper()
    assert types["output_norm.weight"] == "F32"
    assert [one.name for one in new.tensors] == [one.name for one in old.tensors]


def test_killed_between_tensors_it_goes_on_to_the_same_bytes(tiny, tmp_path):
    parameters = plan.recipe_parameters(plan.checked({"models": ["a", "b"]}))
    models = {tiny[1]: "from", tiny[2]: "from"}
    whole = run(tmp_path / "whole", models, parameters).read_bytes()
    for cut in (0, 100, len(whole) // 3, len(whole) - 5, len(whole)):
        place = tmp_path / str(cut)
        place.mkdir()
        (place / "model.gguf").write_bytes(whole[:cut])
        assert run(place, models, parameters).read_bytes() == whole
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.gguf").write_bytes(b"GGUX" + whole[4:])
    assert run(damaged, models, parameters).read_bytes() == whole
    # It does not begin again: what was there is not computed once more.
    seen: list[str] = []
    first = Tensors(tiny[1], "a")
    target = tmp_path / "again.gguf"
    raw = {one.name: bytes(one.parameters * 4) for one in first.header.tensors}

    def tensor(one: Any) -> bytes:
        seen.append(one.name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return raw[one.name]

    with pytest.raises(KeyboardInterrupt):
        weights.write(target, first, "f32", tensor, lambda *_: None)
    weights.write(target, first, "f32", tensor, lambda *_: None)
    assert seen[3] == seen[4]
    assert len(seen) == len(raw) + 1
    assert len(set(seen)) == len(raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "foo"}, "'foo' is no method"),
        ({"method": "dare-ties"}, "it does not say seed"),
        ({"method": "linear"}, "linear takes no base"),
        ({"method": ["ties"]}, "is no method"),
        ({"type": "q4_0"}, "'q4_0' is no type"),
        ({"type": {}}, "is no type"),
        ({"scale": 1e300}, "scale is '1e\\+300'"),
        ({"scale": "1"}, "scale is '1'"),
        ({"models": [{"weight": 1, "density": 0}] * 2}, "density is 0"),
        ({"models": [{"weight": 1e300, "density": 1}] * 2}, "weight is '1e\\+300'"),
        ({"models": [{"weight": 1, "density": 1}]}, "it has amounts for 1 models"),
        ({"models": 2}, "it has no list of models"),
        ({"method": "adapter"}, "its parameters are others"),
        ({"more": 1}, "a merge has no 'more'"),
    ],
)
def test_a_recipe_that_no_verb_wrote_is_refused(tiny, tmp_path, change, words):
    spec = {"method": "ties", "base": "base", "models": ["poet", "clerk"], "type": "f32"}
    parameters = plan.recipe_parameters(plan.checked(spec)) | change
    models = {tiny[0]: "base", tiny[1]: "from", tiny[2]: "from"}
    with pytest.raises(FormatError, match=words):
        run(tmp_path, models, parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adapters": [{"form": "x", "scale": 1.0}]}, "'x' is no form"),
        ({"adapters": [{"form": "gguf", "scale": 1e300}]}, "scale is"),
        ({"adapters": [{"form": "gguf", "scale": [1.0]}]}, "scale is"),
        ({"adapters": [{"form": "peft", "scale": 1.0}]}, "0 inputs are adapter-config"),
        ({"adapters": [{"form": "gguf", "scale": 1.0}] * 2}, "1 inputs are adapter, and not 2"),
        ({"adapters": [{}]}, "it has form and scale"),
        ({"type": None}, "'None' is no type"),
        ({"seed": 1}, "its parameters are others"),
    ],
)
def test_a_recipe_of_adapters_that_no_verb_wrote_is_refused(tiny, tmp_path, change, words):
    parameters = {"method": "adapter", "type": "f32", "adapters": [{"form": "gguf", "scale": 1.0}]}
    with pytest.raises(FormatError) as caught:
        run(tmp_path, {tiny[0]: "from", tiny[1]: "adapter"}, parameters | change)
    assert words in f"{caught.value.message}; {caught.value.hint}"


# ---- adapters ------------------------------------------------------------------------------

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def peft_adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Arrays]:
    """A tiny base as GGUF, a folder that peft wrote for it, and peft's own merge of the two."""
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    import torch

    torch.manual_seed(7)
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("peft")
    release = tiny_models.release(folder / "base", "llama", seed=4, dtype="F32")
    base = transformers.AutoModelForCausalLM.from_pretrained(release, dtype=torch.float32)
    config = peft.LoraConfig(
        r=3, lora_alpha=12, target_modules=PROJECTIONS, rank_pattern={"o_proj": 5},
        alpha_pattern={"layers.1.mlp.up_proj": 2}, init_lora_weights=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        model = peft.get_peft_model(base, config)
        model.save_pretrained(str(folder / "adapter"))
        merged = model.merge_and_unload()
    arrays = {name: array.numpy() for name, array in merged.state_dict().items()}
    gguf = tiny_models.gguf(folder / "base.gguf", "llama", "F32", seed=4)
    return gguf, folder / "adapter", arrays


def lay(place: Path, base: Path, adapter: Path, scale: float = 1.0) -> Path:
    if adapter.is_dir():
        files = {
            adapter / WEIGHTS: "adapter",
            adapter / CONFIG: "adapter-config",
        }
    else:
        files = {adapter: "adapter"}
    forms = [{"form": "peft" if adapter.is_dir() else "gguf", "scale": scale}]
    parameters = {"method": "adapter", "adapters": forms, "type": "f32"}
    return run(place, {base: "from", **files}, parameters)


def test_an_adapter_of_peft_is_laid_in_as_peft_does_it(peft_adapter, tmp_path):
    base, adapter, arrays = peft_adapter
    found = tensors_of(lay(tmp_path, base, adapter))
    sizes = tiny_models.SIZES
    want = tiny_models.as_gguf("llama", arrays, sizes["heads"], sizes["kv_heads"])
    assert found.keys() == want.keys()
    before = tensors_of(base)
    for name, array in want.items():
        np.testing.assert_allclose(found[name], array, atol=2e-6, err_msg=name)
    assert np.abs(found["blk.0.attn_q.weight"] - before["blk.0.attn_q.weight"]).max() > 0.1


def test_half_the_strength_is_half_way(peft_adapter, tmp_path):
    base, adapter, _ = peft_adapter
    before, half, full = (
        tensors_of(path)["blk.1.attn_k.weight"]
        for path in (
            base,
            lay(tmp_path / "h", base, adapter, 0.5),
            lay(tmp_path / "f", base, adapter),
        )
    )
    np.testing.assert_allclose(half - before, (full - before) / 2, atol=1e-6)


def scored(gguf: Path, prompt: str | list[int], run: Path, *laid: Path) -> "np.ndarray[Any, Any]":
    """Log-probabilities of all tokens but the first, by llama.cpp with adapters laid over."""
    from overt.chat import ScoreRequest
    from overt.engine import Capabilities
    from overt.runtime import registry
    from overt.runtime.worker.supervisor import Worker, WorkerSpec

    async def score() -> list[float]:
        spec = WorkerSpec(
            host=registry.HOSTS["score"],
            parameters=registry.parameters(
                "score", weights=gguf, context=128, parallel=1, batch=64, threads=1,
                prompt_threads=1, adapters=laid,
            ),
            readable=(gguf, *laid), memory=1 << 30, label=gguf.name,
        )  # fmt: skip
        worker = await Worker.start(spec, run, timeout=60)
        engine = registry.engine("score", worker, Capabilities(context=128, chat=False))
        try:
            asked = prompt if isinstance(prompt, str) else tuple(prompt)
            return [one.logprob or 0.0 for one in await engine.score(ScoreRequest("m", asked))][1:]
        finally:
            await engine.close()

    return np.array(asyncio.run(score()))


def test_laid_in_it_answers_as_llama_cpp_with_the_adapter(tmp_path):
    pytest.importorskip("llama_cpp_py_sync")
    base = tiny_models.gguf(tmp_path / "base.gguf", "llama", "F32", seed=2)
    adapter = tmp_path / "adapter.gguf"
    adapter_writer.write(adapter, 2, 32, scale=0.3)
    made = lay(tmp_path / "w", base, adapter)
    text, place = "the rain in there and on an other one", tmp_path / "run"
    laid = scored(base, text, place, adapter)
    found = scored(made, text, place)
    np.testing.assert_allclose(found, laid, atol=2e-4)
    assert np.abs(found - scored(base, text, place)).max() > 0.01


@pytest.mark.filterwarnings("default:.*gradient_checkpointing:FutureWarning")
def test_the_log_probabilities_after_peft_and_after_us(peft_adapter, tmp_path):
    pytest.importorskip("llama_cpp_py_sync")
    import torch
    import transformers

    base, adapter, arrays = peft_adapter
    made = lay(tmp_path / "w", base, adapter)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        adapter.parent / "base", dtype=torch.float32
    )
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    ids = [1, 20, 33, 5, 77, 100, 9, 64, 50, 12]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    want = [float(logits[at, ids[at + 1]]) for at in range(len(ids) - 1)]
    np.testing.assert_allclose(scored(made, ids, tmp_path / "run"), want, atol=2e-4)


def test_an_adapter_of_another_shape_is_refused_with_both(tiny, tmp_path):
    adapter = tmp_path / "adapter.gguf"
    adapter_writer.write(adapter, 2, 64)
    with pytest.raises(FormatError, match=r"is 32 x 32 in base.gguf and 64 x 64 in adapter.gguf"):
        lay(tmp_path / "w", tiny[0], adapter)
    adapter_writer.write(adapter, 3, 32)
    with pytest.raises(FormatError, match=r"changes blk.2.attn_q.weight, which base.gguf has not"):
        lay(tmp_path / "w", tiny[0], adapter)
    adapter_writer.write(adapter, 2, 32, kind="qwen2")
    with pytest.raises(FormatError, match=r"is for a qwen2 and base.gguf is a llama"):
        lay(tmp_path / "w", tiny[0], adapter)
    with pytest.raises(FormatError, match="is no LoRA adapter"):
        lay(tmp_path / "w", tiny[0], tiny[1])
    adapter_writer.write(adapter, 2, 32, waits_for=(5, 6))
    with pytest.raises(Unsupported, match=r"adapter\.gguf waits for certain words"):
        lay(tmp_path / "w", tiny[0], adapter)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'"),
        ({"use_dora": True}, "weight-decomposed"),
        ({"bias": "all"}, "changes biases"),
        ({"lora_alpha": "12"}, "alpha is 12, and no number"),
        ({"alpha_pattern": {"a(b|c)+": 1}}, "the expression"),
        ({"alpha_pattern": [1]}, "alpha_pattern is no object"),
        ({"init_lora_weights": "pissa"}, "changed its base"),
    ],
)
def test_what_of_peft_cannot_be_laid_in_is_refused(peft_adapter, tmp_path, change, words):
    base, adapter, _ = peft_adapter
    other = tmp_path / "adapter"
    other.mkdir()
    (other / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes())
    config = json.loads((adapter / CONFIG).read_text())
    (other / CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(OvertError, match=words):
        lay(tmp_path / "w", base, other)


def test_mutated_adapters_are_laid_in_or_refused(tiny, peft_adapter, tmp_path):
    plain = tmp_path / "adapter.gguf"
    adapter_writer.write(plain, 1, 32)
    base, folder, _ = peft_adapter
    draw = random.Random(1)
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    mutated = tmp_path / "peft"
    mutated.mkdir()
    for turn in range(60):
        data = bytearray(plain.read_bytes())
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(min(len(data), 700))] = draw.randrange(256)
        (tmp_path / "bad.gguf").write_bytes(data)
        name = draw.choice([CONFIG, WEIGHTS])
        for each in (CONFIG, WEIGHTS):
            raw = bytearray(files[each])
            if each == name:
                raw[draw.randrange(min(len(raw), 3000))] = draw.randrange(256)
            (mutated / each).write_bytes(raw)
        for model, adapter in ((tiny[0], tmp_path / "bad.gguf"), (base, mutated)):
            place = tmp_path / f"{turn}-{adapter.name}"
            try:
                lay(place, model, adapter)
            except OvertError:
                continue


# ---- through the store ---------------------------------------------------------------------


def test_the_same_recipe_makes_the_same_model(tiny, home, tmp_path):
    pytest.importorskip("cryptography")
    refs = [str(path) for path in tiny]
    spec = {"method": "dare-ties", "base": refs[0], "models": refs[1:], "seed": 3}
    here = load({"OVERT_HOME": str(home)})
    asked = ask.models(plan.checked(spec), here, lambda _: None)
    digests = []
    for folder in ("one", "two"):
        settings = replace(here, home=tmp_path / folder)
        made = run_recipe.make(asked.recipe, "mine", settings, data=asked.data)
        digests.append(made.digest)
    assert digests[0] == digests[1]
    assert [one.role for one in asked.recipe.inputs] == ["base", "from", "from"]
    assert "/" not in asked.recipe.encode().decode()


def test_the_verb(tiny, home, overt_cli):
    done = overt_cli("merge", tiny[1], tiny[2], "both", "--weights", "0.7,0.3", "--json")
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["model"] == "both"
    assert told["parameters"] == {
        "method": "linear", "type": "f16", "models": [{"weight": 0.7}, {"weight": 0.3}],
    }  # fmt: skip
    assert [one["licence"] for one in told["parents"]] == ["apache-2.0", "apache-2.0"]
    listed = overt_cli("list", "--json")
    assert "both" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{1}", "new"], "1 models are named to be merged"),
        (["{1}", "{2}", "new", "--weights", "1"], "--weights has 1 numbers for 2 models"),
        (["{1}", "{2}", "new", "--weights", "1,x"], "--weights is '1,x'"),
        (["{1}", "{2}", "new", "--method", "ties"], "ties needs the base"),
        (["{1}", "{2}", "new", "--adapter", "{0}"], "--adapter goes with one model"),
        (["{1}", "new", "--adapter", "{0}"], "is no LoRA adapter"),
        (["{1}", "{2}", "new", "--file", "m.yaml"], "the merge file names models"),
        (["new", "--file", "m.yaml", "--type", "f32"], "and --type stands beside it"),
        (["new", "--file", "m.yaml", "--seed", "1"], "and --seed stands beside it"),
        (["{1}", "{2}", "new", "--seed", str(2**63 - 1)], "linear has no seed"),
        (["{1}", "{2}", "new", "--scale", "0.1"], "linear has no scale"),
        (["{1}", "{2}", "new", "--method", "slerp", "--weights", "9,1"], "slerp has no weight"),
    ],
)
def test_what_the_verb_refuses(tiny, home, arguments, words):
    from click.testing import CliRunner

    from overt.cli.merge import command

    filled = [one.format(*tiny) for one in arguments]
    found = CliRunner().invoke(command, filled)
    assert isinstance(found.exception, OvertError), found.output
    assert words in found.exception.message
