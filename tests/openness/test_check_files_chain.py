"""Intermediate checkpoints: chains that are one, and folders that only look like one."""

import numpy as np
import pytest
from check_files_case import claim, found, only, results, subject, write

import tiny_models as tiny
from overt.openness.subject import places

CHECK = "checkpoint_chain"
STEPS = (1000, 2000, 3000)


def chain(
    folder, steps=STEPS, edit=lambda step, arrays: arrays, name="checkpoints/step-{}", **sizes
):
    """Checkpoints on a straight line from random weights to the final ones."""
    tiny.release(folder)
    start, final = tiny.weights("llama", 9, **sizes), tiny.weights("llama", 0)
    for number, step in enumerate(steps):
        share = (number + 1) / (len(steps) + 1)
        arrays = {
            n: start[n] * (1 - share) + final[n] * share
            if start[n].shape == final[n].shape
            else start[n]
            for n in start
        }
        place = folder / name.format(step) / "model.safetensors"
        place.parent.mkdir(parents=True)
        tiny.write_safetensors(place, edit(step, arrays))
    return folder


@pytest.mark.parametrize(
    "name", ["checkpoints/step-{}", "step{}", "checkpoint-{}", "ckpts/iter_{:07d}", "global_step{}"]
)
def test_a_chain_that_ends_at_the_model(name, tmp_path):
    one = only(CHECK, subject(chain(tmp_path, name=name)))
    assert (one.result, one.strength.word) == ("pass", "consistent")
    assert "3 steps from 1000 to 3000" in one.observed


def test_files_of_one_folder_make_a_chain(tmp_path):
    chain(tmp_path / "a")
    for step in STEPS:
        source = tmp_path / f"a/checkpoints/step-{step}/model.safetensors"
        source.rename(tmp_path / f"a/checkpoints/model-step{step}.safetensors")
    assert results(CHECK, subject(tmp_path / "a")) == ["pass"]


def test_the_last_step_may_be_the_final_weights(tmp_path):
    final = tiny.weights("llama", 0)
    folder = chain(tmp_path, edit=lambda step, arrays: final if step == 3000 else arrays)
    assert results(CHECK, subject(folder)) == ["pass"]


LIES = {
    "copies": (
        lambda step, a: tiny.weights("llama", 3),
        "steps 1000 and 2000 hold the same weights",
    ),
    "the final weights too early": (
        lambda step, a: tiny.weights("llama", 0) if step == 1000 else a,
        "step 1000 of 3000 already holds the final weights",
    ),
    "unrelated weights": (
        lambda step, a: tiny.weights("llama", step + 50),
        "the final weights are 1",
    ),
    "a tensor short": (
        lambda step, a: {k: v for k, v in a.items() if "layers.1.mlp.up" not in k},
        "no layers.1.mlp.up_proj.weight, and 1 of",
    ),
    "not a number": (lambda step, a: {k: v * np.nan if v.ndim > 1 and step == 3000 else v
                                      for k, v in a.items()}, "inf from step 3000"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_what_is_no_history_of_a_training(name, tmp_path):
    edit, told = LIES[name]
    one = only(CHECK, subject(chain(tmp_path, edit=edit), claim("checkpoints")))
    assert one.result == "fail"
    assert told in one.observed


def test_steps_of_another_model(tmp_path):
    one = only(CHECK, subject(chain(tmp_path, inner=96)))
    assert one.result == "fail"
    assert "[96, 32]" in one.observed or "[32, 96]" in one.observed
    assert "as the final weights have it" in one.expected


def test_two_folders_of_one_step(tmp_path):
    folder = chain(tmp_path)
    (folder / "checkpoints/step-2000").rename(folder / "checkpoints/step_1000")
    one = only(CHECK, subject(folder))
    assert one.result == "fail"
    assert "are both of step 1000" in one.observed


def test_a_trainer_that_says_another_step(tmp_path):
    folder = chain(tmp_path, name="checkpoint-{}")
    write(folder, {"checkpoint-2000/trainer_state.json": '{"global_step": 500}'})
    one = only(CHECK, subject(folder))
    assert one.observed == "checkpoint-2000/trainer_state.json says it is step 500"


def test_optimizer_states_have_the_shapes_of_parameters(tmp_path):
    folder = chain(tmp_path)
    place = folder / "checkpoints/step-2000/optimizer.safetensors"
    good = {f"exp_avg.{k}": v for k, v in tiny.weights("llama", 0).items()}
    tiny.write_safetensors(place, good, "F32")
    assert results(CHECK, subject(folder)) == ["pass"]
    key = next(k for k in good if k.endswith("mlp.up_proj.weight"))
    tiny.write_safetensors(place, {**good, key: good[key][:5]}, "F32")
    one = only(CHECK, subject(folder))
    assert one.result == "fail"
    assert "of shape [5, 32]" in one.observed


def test_early_steps_may_stand_still(tmp_path):
    folder = chain(tmp_path, steps=(0, 1, 2), edit=lambda step, a: tiny.weights("llama", 3))
    assert results(CHECK, subject(folder)) == ["inconclusive"]


def test_what_cannot_settle_it(tmp_path):
    assert "alone is no chain" in only(CHECK, subject(chain(tmp_path / "a", steps=(7,)))).reason
    files = {f"checkpoints/step-{s}/pytorch_model.bin": b"x" for s in STEPS}
    one = only(CHECK, subject(tiny.release(tmp_path / "b", files=files)))
    assert (one.result, "pickles run code" in one.reason) == ("inconclusive", True)


def test_without_final_weights_it_is_only_pinned(tmp_path):
    folder = chain(tmp_path)
    (folder / "model.safetensors").unlink()
    tiny.gguf(folder / "tiny.gguf")
    one = only(CHECK, subject(folder))
    assert (one.result, one.strength.word) == ("pass", "pinned")


def test_none_and_damaged_ones(tmp_path):
    one = only(CHECK, subject(tiny.release(tmp_path / "a")))
    assert (one.result, one.absent) == ("fail", True)
    assert results(CHECK, subject(tmp_path / "a", place=False)) == []
    folder = chain(tmp_path / "b")
    path = folder / "checkpoints/step-2000/model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    assert found(CHECK, subject(folder))[0].result == "fail"


def test_steps_by_name():
    assert places.step_of("a/step-100/model.safetensors") == 100
    assert places.step_of("model-00001-of-00002.safetensors") is None
    assert places.step_of("stepping-stones/a.bin") is None
    assert places.step_of("checkpoint-5/step_7/x") == 7


def test_a_step_of_other_weights_between_two_of_the_chain(tmp_path):
    other = tiny.weights("llama", 77)

    def edit(step, arrays):
        final = tiny.weights("llama", 0)
        near = {name: final[name] * (1 + 200 / step) for name in arrays}
        return {name: other[name] for name in arrays} if step == STEPS[1] else near

    one = only(CHECK, subject(chain(tmp_path, edit=edit)))
    assert one.result == "fail"
    assert one.observed.startswith("step 2000 is 1.")
