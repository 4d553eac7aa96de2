"""LoRA adapters: their settings against their tensors, and these against the base."""

import json

import hypothesis.strategies as st
import numpy as np
import other_models as other
import pytest
from hypothesis import HealthCheck, given, settings
from weights_cases import findings, only, subject

from overt.openness import checks

CHECK = "adapter_fits"
_Q1 = "base_model.model.model.layers.1.self_attn.q_proj."


def _nan(found):
    found[f"{_Q1}lora_A.weight"][:] = np.nan


def _half(found):
    del found[f"{_Q1}lora_A.weight"]


def _wide(found):
    found[f"{_Q1}lora_A.weight"] = np.ones((4, 48), np.float32)


def _uneven(found):
    found[f"{_Q1}lora_B.weight"] = np.ones((32, 2), np.float32)


def _other_names(found):
    for name in list(found):
        found[name.replace("lora", "loha")] = found.pop(name)


@pytest.mark.parametrize(
    ("config", "edit", "result", "told"),
    [
        ({}, None, "pass", "4 pairs of matrices of rank 4"),
        ({"r": 8}, None, "fail", "has the rank 4"),
        ({"r": 8, "rank_pattern": {"q_proj": 4}}, None, "pass", "4 pairs"),
        ({"target_modules": "all-linear"}, None, "pass", "4 pairs"),
        ({"target_modules": ["q_proj"]}, None, "fail", "v_proj is adapted"),
        ({"target_modules": ["q_proj", "v_proj", "c_attn"]}, None, "pass", "4 pairs"),
        ({"target_modules": ["q_proj", "v_proj", "k_proj"]}, None, "fail", "no k_proj"),
        ({}, _nan, "fail", "NaN or infinity"),
        ({}, _half, "fail", "has no lora_A"),
        ({}, _wide, "fail", "by a matrix of [32, 48]"),
        ({}, _uneven, "fail", "2 columns in lora_B"),
        ({}, _other_names, "inconclusive", ""),
    ],
)
def test_an_adapter_is_what_its_settings_say(tmp_path, config, edit, result, told):
    base = subject(other.folder(tmp_path / "base"))
    one = other.lora(tmp_path / "lora", config=config, edit=edit)
    found = only(CHECK, subject(one, base=base))
    assert found.result == result
    assert told in found.observed


def test_other_kinds_of_adapters_are_left_alone(tmp_path):
    one = other.lora(tmp_path / "lora", config={"peft_type": "IA3"})
    assert findings(CHECK, subject(one)) == []


@given(st.dictionaries(st.sampled_from(["r", "rank_pattern", "target_modules", "peft_type"]),
                       st.recursive(st.none() | st.integers() | st.text(max_size=4),
                                    lambda x: st.lists(x, max_size=3)
                                    | st.dictionaries(st.text(max_size=3), x, max_size=3),
                                    max_leaves=5)))  # fmt: skip
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_settings_hold_nothing_is_raised(tmp_path_factory, config):
    one = other.lora(tmp_path_factory.mktemp("a") / "lora", config={"peft_type": "LORA"})
    content = {"peft_type": "LORA", **config}
    (one / "adapter_config.json").write_text(json.dumps(content))
    list(checks.load(CHECK).check(subject(one)))
