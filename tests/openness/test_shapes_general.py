"""What is said of models whose layout is not known here: only what holds of any transformer."""

import other_models as other
import pytest
from weights_cases import only, subject

import tiny_models as tiny

CHECK = "shapes"
STRANGER = {"model_type": "stranger", "architectures": ["StrangerForCausalLM"]}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"hidden_size": 64}, "embed_tokens.weight has the shape [64, 32]"),
        ({"vocab_size": 128}, "embed_tokens.weight has the shape [64, 32]"),
        ({"num_hidden_layers": 3}, "2 blocks in model.layers"),
        ({"num_hidden_layers": 1}, "2 blocks in model.layers"),
        ({"intermediate_size": 96}, "no matrix has it"),
        ({"num_key_value_heads": 1}, "k_proj.weight has 32 rows beside 32"),
    ],
)
def test_what_cannot_be_so_is_found(tmp_path, config, told):
    one = only(CHECK, subject(other.folder(tmp_path / "m", config={**STRANGER, **config})))
    assert (one.component, one.result) == ("architecture", "fail")
    assert told in one.observed


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"vocab_size": 60},
        {"num_hidden_layers": 1, "num_nextn_predict_layers": 1},
        {"intermediate_size": 96, "num_experts": 8},
        {"hidden_size": 48, "embedding_size": 32},
        {"hidden_size": "wide", "num_hidden_layers": -1, "vocab_size": True},
    ],
)
def test_the_rest_is_left_open(tmp_path, config):
    one = only(CHECK, subject(other.folder(tmp_path / "m", config={**STRANGER, **config})))
    assert one.result == "not_run"


def test_a_configuration_of_another_library_is_not_read(tmp_path):
    config = {"model_type": None, "hidden_size": 640}
    assert only(CHECK, subject(other.folder(tmp_path / "m", config=config))).result == "not_run"


def test_the_embedding_must_be_there(tmp_path):
    def edit(found):
        del found["model.embed_tokens.weight"]

    one = only(CHECK, subject(other.folder(tmp_path / "m", edit=edit, config=STRANGER)))
    assert "none of 20 tensors is an embedding" in one.observed


def test_a_header_of_an_unknown_architecture(tmp_path):
    about = {"general.architecture": "stranger", "stranger.embedding_length": 32,
             "stranger.block_count": 2}  # fmt: skip
    true = tiny.gguf(tmp_path / "true.gguf", metadata=about)
    assert only(CHECK, subject(true)).result == "not_run"
    wrong = tiny.gguf(tmp_path / "wrong.gguf", metadata={**about, "stranger.block_count": 5})
    assert only(CHECK, subject(wrong)).observed == "2 blocks in blk"
