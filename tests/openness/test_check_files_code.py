"""Training code: there, Python, and with this model's own sizes."""

import json

import hypothesis.strategies as st
import pytest
from check_files_case import claim, found, only, results, subject, write
from hypothesis import given, settings

import tiny_models
from overt.openness.checks import training_code

CHECK = "training_code"
TRAIN = '''"""Trains."""
import torch


def main():
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
'''
OWN = {
    "yaml": (
        "training/config.yaml",
        "model:\n  hidden_size: 32\n  num_hidden_layers: 2\n  num_attention_heads: 4\n",
    ),
    "json": ("training/config.json", '{"d_model": 32, "n_layers": 2, "n_heads": 4}'),
    "flags": (
        "training/run.sh",
        "torchrun pretrain.py --hidden-size 32 \\\n --num-layers 2 --num-attention-heads 4\n",
    ),
    "python": ("training/sizes.py", "n_embd = 32\nn_layer: int = 2\nvocab_size = 112\nn_head=4\n"),
    "toml": ("training/model.toml", "dim = 32\nn_layers = 2\nvocab_size = 112\n"),
    "neox": ("training/a.yml", '{"hidden-size": 32, "num-layers": 2, "num-attention-heads": 4}'),
    "gin": (
        "configs/a.gin",
        "Model.hidden_dim = 32\nModel.num_layers = 2\nModel.intermediate_size = 64\n",
    ),
}
GENERIC = {
    "another model": "hidden_size: 4096\nnum_hidden_layers: 32\nvocab_size: 32000\n",
    "one size alike": "hidden_size: 32\nnum_hidden_layers: 24\nnum_attention_heads: 16\n",
    "numbers that mean other things": "batch: 32\nworkers: 2\ngpus: 4\nseed: 112\nwarmup: 64\n",
    "nothing": "learning_rate: 0.001\n",
}


def released(folder, **files):
    return tiny_models.release(folder, files=files)


@pytest.mark.parametrize("name", OWN)
def test_code_with_the_sizes_of_the_model(name, tmp_path):
    file, text = OWN[name]
    folder = tiny_models.release(tmp_path, files={"training/train.py": TRAIN, file: text})
    one = only(CHECK, subject(folder, claim(CHECK)))
    assert (one.result, one.strength.word) == ("pass", "pinned")
    assert "started by training/train.py" in one.observed
    assert f"{file} has width 32, layers 2" in one.observed


@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_trainer_contradicts_the_claim_alone(name, tmp_path):
    files = {"training/train.py": TRAIN, "training/config.yaml": GENERIC[name]}
    folder = tiny_models.release(tmp_path, files=files)
    one = only(CHECK, subject(folder, claim(CHECK, "training")))
    assert one.result == "fail"
    assert "width 32, layers 2" in one.expected
    # What states another model's sizes throughout is that model's code, whoever claims what.
    alone = "fail" if name == "another model" else "inconclusive"
    assert results(CHECK, subject(folder)) == [alone]
    elsewhere = claim(CHECK, "https://example.org/code")
    assert results(CHECK, subject(folder, elsewhere)) == [alone]


def test_the_nearest_miss_is_told(tmp_path):
    files = {"train.py": TRAIN, "config_7b.yaml": "", "configs/a.yaml": "hidden_size: 4096\n"}
    one = only(CHECK, subject(tiny_models.release(tmp_path, files=files), claim(CHECK)))
    assert "the nearest is configs/a.yaml with width 4096" in one.observed


def test_the_config_of_the_model_itself_is_no_training_config(tmp_path):
    """config.json at the top says the sizes of the weights, not that they were trained by this."""
    folder = tiny_models.release(tmp_path, files={"train.py": TRAIN})
    assert results(CHECK, subject(folder, claim(CHECK))) == ["fail"]


def test_what_is_no_python(tmp_path):
    folder = tiny_models.release(tmp_path, files={"training/train.py": "def main(:\n  no code\n"})
    one = only(CHECK, subject(folder))
    assert one.result == "fail"
    assert "training/train.py is not Python: line 1" in one.observed
    folder = tiny_models.release(tmp_path, files={"training/train.py": "print 'old', loss\n"})
    assert results(CHECK, subject(folder)) == ["inconclusive"]  # Python 2 is no lie


def test_code_of_something_else(tmp_path):
    folder = tiny_models.release(tmp_path, files={"training/app.py": "print('a website')\n"})
    one = only(CHECK, subject(folder, claim(CHECK)))
    assert "none of 1 files of code mentions training" in one.observed


def test_none_is_absent_only_where_it_would_lie(tmp_path):
    folder = tiny_models.release(tmp_path)
    one = only(CHECK, subject(folder))
    assert (one.result, one.absent) == ("fail", True)
    assert results(CHECK, subject(folder, place=False)) == []
    assert results(CHECK, subject(folder, remote=True)) == []


def test_sizes_of_a_gguf_header(tmp_path):
    tiny_models.gguf(tmp_path / "a.gguf")
    write(tmp_path, {"train.py": TRAIN, "configs/a.yaml": OWN["yaml"][1]})
    assert results(CHECK, subject(tmp_path, claim(CHECK))) == ["pass"]


def test_no_sizes_to_look_for(tmp_path):
    write(tmp_path, {"train.py": TRAIN})
    assert "no config says which sizes" in only(CHECK, subject(tmp_path, claim(CHECK))).reason


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "-" * 100_000 + "1", "x" + ".a" * 50_000, "[" * 90 + "]" * 90, "\0", "a\\\n" * 9],
)
def test_hostile_python_ends_in_a_sentence(text, tmp_path):
    folder = tiny_models.release(tmp_path, files={"train.py": text})
    assert results(CHECK, subject(folder, claim(CHECK)))[0] in ("fail", "inconclusive")


@pytest.mark.parametrize("text", ["dim" + " " * 900_000, "dim:" * 200_000, "a" * 1_000_000])
def test_settings_are_searched_in_bounded_time(text):
    assert training_code._holder({"a.yaml": text}, {"width": 32, "layers": 2, "heads": 4})[0] == ""


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=8), inner),
)


@given(VALUES)
@settings(max_examples=60)
def test_any_config_gives_sizes_or_none(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("a")
    write(folder, {"config.json": json.dumps({"hidden_size": content, "text_config": content})})
    sizes = training_code._config_sizes(subject(folder))
    assert all(isinstance(size, int) and size > 0 for size in sizes.values())


def test_many_files_are_bounded(tmp_path):
    files = {f"src/train_{n}.py": "train = 1\n" for n in range(450)}
    folder = tiny_models.release(tmp_path, files=files)
    one = found(CHECK, subject(folder))[0]
    assert "400 files" in one.reason


def test_settings_of_another_model_beside_code_that_says_nothing(tmp_path):
    sizes = "hidden_size: 4096\nnum_hidden_layers: 32\nvocab_size: 32000\n"
    files = {"training/train.py": "import json\n", "training/config.yaml": sizes}
    one = found(CHECK, subject(tiny_models.release(tmp_path, files=files)))[0]
    assert (one.result, "mentions training" in one.observed) == ("fail", True)
