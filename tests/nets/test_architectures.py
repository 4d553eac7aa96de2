"""Every architecture: what its files say, both ways, and its logits beside transformers'."""

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracle_models import CASES, WINDOWED, Oracle, computed, logits
from overt.errors import FormatError, Unsupported
from overt.nets import architectures
from overt.nets.architectures import ropes
from overt.nets.shape import Rope, Shape

Find = Callable[[str], Oracle]


def keys_of(shape: Shape) -> dict[str, Any]:
    """The metadata of a shape as a reader of GGUF gives them back: 32-bit numbers, tuples."""
    found = {}
    for key, value in architectures.of_shape(shape).metadata(shape):
        kept = tuple(value) if isinstance(value, list) else value
        found[key] = float(np.float32(kept)) if isinstance(kept, float) else kept
    return found


@pytest.mark.parametrize("name", [*CASES, *WINDOWED])
def test_a_release_computes_what_transformers_computes(oracle: Find, name: str) -> None:
    from overt.nets import load

    model = oracle(name)
    found = logits(load.from_safetensors(model.files, model.config))
    assert np.abs(found - model.logits).max() < 1e-5


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_llama_cpp_leaves_out_is_in_our_config(oracle: Find, name: str) -> None:
    shape = shape_of(oracle(name).config)
    assert shape.window == 8
    known = architectures.of_shape(shape)
    assert known.shape_of_config(known.config(shape)) == shape
    assert keys_of(shape)[f"{shape.architecture}.context_length"] == 8


@pytest.mark.parametrize("name", CASES)
def test_a_shape_survives_both_forms(oracle: Find, name: str) -> None:
    config = oracle(name).config
    known = architectures.of_config(config)
    shape = known.shape_of_config(config)
    assert known.shape_of_config(known.config(shape)) == shape
    back = known.shape_of_metadata(keys_of(shape))
    for field in Shape.__slots__:
        one, other = getattr(shape, field), getattr(back, field)
        if field in ("rope", "tied"):  # llama3 scaling and the output are tensors
            continue
        if isinstance(one, float):
            assert math.isclose(one, other, rel_tol=1e-6), field
        else:
            assert one == other, field
    if shape.rope.scaling == "llama3":
        divisors = ropes.divisors(shape.rope, shape.head)
        rope = ropes.of_divisors(back.rope.base, shape.head, np.float32(divisors).tolist())
        assert ropes.divisors(rope, shape.head) == pytest.approx(divisors, rel=1e-4)
    else:
        assert dict(back.rope.numbers) == pytest.approx(dict(shape.rope.numbers), rel=1e-5)


@pytest.mark.parametrize("name", ["llama, llama3", "qwen2, tied, yarn", "gemma3, linear", "olmo",
                                  "olmo3, yarn"])  # fmt: skip
def test_transformers_builds_the_same_model_of_our_config(
    oracle: Find, name: str, tmp_path: Any
) -> None:
    model = oracle(name)
    known = architectures.of_config(model.config)
    written = known.config(known.shape_of_config(model.config))
    for file in model.files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert np.abs(computed(tmp_path) - model.logits).max() < 1e-5


# ---- rope ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "low", "high", "original", "base"),
    [(8, 1, 4, 8192, 5e5), (32, 1, 4, 8192, 5e5), (4, 2, 7, 4096, 1e4)],
)
def test_llama3_scaling_is_found_again_in_its_divisors(
    factor: float, low: float, high: float, original: float, base: float
) -> None:
    numbers = {"factor": float(factor), "low_freq_factor": float(low),
               "high_freq_factor": float(high),
               "original_max_position_embeddings": float(original)}  # fmt: skip
    rope = Rope(base, "llama3", tuple(sorted(numbers.items())))
    given = np.float32(ropes.divisors(rope, 128)).tolist()
    found = ropes.of_divisors(base, 128, given)
    if low == 1:
        assert found == rope
    assert ropes.divisors(found, 128) == pytest.approx(given, rel=1e-4)


def test_divisors_that_are_no_llama3_scaling_are_refused() -> None:
    with pytest.raises(Unsupported, match="rope_freqs"):
        ropes.of_divisors(1e4, 8, [1.0, 3.0, 2.0, 8.0])


# ---- what cannot be said -------------------------------------------------------------------

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 112,
    "max_position_embeddings": 256,
}  # fmt: skip
GEMMA2 = {**LLAMA, "architectures": ["Gemma2ForCausalLM"], "head_dim": 16,
          "query_pre_attn_scalar": 16}  # fmt: skip
GEMMA3 = {**LLAMA, "architectures": ["Gemma3ForCausalLM"], "head_dim": 16,
          "query_pre_attn_scalar": 16}  # fmt: skip
OLMO3 = {**LLAMA, "architectures": ["Olmo3ForCausalLM"]}


def shape_of(config: dict[str, Any]) -> Shape:
    return architectures.of_config(config).shape_of_config(config)


@pytest.mark.parametrize(
    ("config", "error", "word"),
    [
        ({}, FormatError, "does not say"),
        ({"architectures": ["Phi3ForCausalLM"]}, Unsupported, "not known"),
        ({**LLAMA, "hidden_size": 0}, FormatError, "hidden_size"),
        ({**LLAMA, "hidden_size": "64"}, FormatError, "hidden_size"),
        ({**LLAMA, "num_hidden_layers": 10**9}, FormatError, "num_hidden_layers"),
        ({**LLAMA, "num_key_value_heads": 3}, FormatError, "share"),
        ({**LLAMA, "attention_bias": True}, Unsupported, "attention_bias"),
        ({**LLAMA, "mlp_bias": True}, Unsupported, "mlp_bias"),
        ({**LLAMA, "hidden_act": "relu"}, Unsupported, "relu"),
        ({**LLAMA, "rms_norm_eps": float("nan")}, FormatError, "rms_norm_eps"),
        ({**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2}}, Unsupported, "dynamic"),
        ({**LLAMA, "rope_scaling": {"type": "linear"}}, FormatError, "factor"),
        ({**LLAMA, "rope_scaling": {"type": "yarn", "factor": 0.5}}, FormatError, "below 1"),
        ({**LLAMA, "rope_theta": -1}, FormatError, "rope_theta"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, Unsupported, "rotating"),
        ({**GEMMA3, "layer_types": ["full_attention"]}, FormatError, "layer_types"),
        ({**GEMMA3, "layer_types": ["full_attention", "odd"]}, Unsupported, "odd"),
        ({**GEMMA3, "use_bidirectional_attention": True}, Unsupported, "both directions"),
        ({**GEMMA3, "text_config": 3}, FormatError, "text_config"),
    ],
)
def test_a_config_that_cannot_be_is_refused(
    config: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        shape_of(config)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({**LLAMA, "rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 16}}, "betas"),
        ({**LLAMA, "architectures": ["Qwen2ForCausalLM"], "head_dim": 32}, "heads of"),
        ({**GEMMA2, "attn_logit_softcapping": None}, "caps"),
        ({**GEMMA2, "query_pre_attn_scalar": 144}, "query_pre_attn_scalar"),
        ({**GEMMA2, "tie_word_embeddings": False}, "output of its own"),
        ({**GEMMA3, "attn_logit_softcapping": 50.0}, "caps no scores"),
        ({**GEMMA3, "rope_scaling": {"type": "yarn", "factor": 2}}, "no yarn scaling"),
        (
            {**OLMO3, "num_hidden_layers": 4, "rope_parameters": {
                "full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e5}}},
            "rope base",
        ),
    ],
)  # fmt: skip
def test_what_llama_cpp_computes_otherwise_is_not_converted(
    config: dict[str, Any], word: str
) -> None:
    shape = shape_of(config)
    with pytest.raises(Unsupported, match=word):
        architectures.of_shape(shape).metadata(shape)


def test_a_window_that_llama_cpp_leaves_out_becomes_the_context() -> None:
    mistral = {**LLAMA, "architectures": ["MistralForCausalLM"], "sliding_window": 100}
    assert keys_of(shape_of(mistral))["llama.context_length"] == 100
    assert keys_of(shape_of({**mistral, "sliding_window": None}))["llama.context_length"] == 256


def test_a_gemma_2_that_says_no_window_has_that_of_llama_cpp() -> None:
    """The first files lack the key; in llama.cpp they see 4096 tokens, in every other layer."""
    for name, window in (("gemma2", 4096), ("gemma3", 0)):
        keys = keys_of(shape_of({**LLAMA, **CASES[name][1], "architectures": [
            f"{CASES[name][0]}ForCausalLM"]}))  # fmt: skip
        said = {key: value for key, value in keys.items() if ".sliding_window" not in key}
        assert len(said) == len(keys) - 2
        (known,) = (one for one in architectures.known() if one.name == name)
        shape = known.shape_of_metadata(said)
        assert shape.window == window
        assert shape.local == (known.shape_of_metadata(keys).local if window else ())


def test_the_language_model_inside_of_one_that_sees() -> None:
    outer = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
                        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                        "sliding_window": 1024},
    }  # fmt: skip
    shape = shape_of(outer)
    assert (shape.heads, shape.kv_heads, shape.head, shape.tied) == (8, 4, 256, True)
    assert shape.rope.numbers == (("factor", 8.0),)
    assert shape.local_rope == Rope(10_000.0)
    plain = architectures.of_config(outer).plain
    assert plain("language_model.model.layers.0.mlp.up_proj.weight") == (
        "model.layers.0.mlp.up_proj.weight"
    )
    assert plain("model.language_model.norm.weight") == "model.norm.weight"
    assert plain("language_model.lm_head.weight") == "lm_head.weight"
    assert plain("model.vision_tower.x") is None
    assert plain("norm.weight") == "model.norm.weight"


# ---- hostile files -------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["yarn", "linear", "llama3", "full_attention", "sliding_attention"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.text(max_size=5)
        | st.sampled_from(["rope_type", "factor", "rope_theta", "full_attention", "beta_fast",
                           "original_max_position_embeddings", "sliding_attention", "mscale"]),
        inner, max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
FIELDS = (
    "architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "layer_types",
    "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rope_scaling",
    "rope_parameters", "rope_theta", "rope_local_base_freq", "sliding_window", "clip_qkv",
    "sliding_window_pattern", "max_window_layers", "use_sliding_window", "query_pre_attn_scalar",
    "attn_logit_softcapping", "final_logit_softcapping", "rms_norm_eps", "tie_word_embeddings",
    "hidden_act", "max_position_embeddings", "partial_rotary_factor", "text_config",
)  # fmt: skip
CLASSES = sorted(architectures.by_class())


@given(st.sampled_from(CLASSES), st.dictionaries(st.sampled_from(FIELDS), values, max_size=4))
def test_no_config_does_anything_but_be_refused(name: str, changes: dict[str, Any]) -> None:
    config = {**LLAMA, "architectures": [name], **changes}
    with contextlib.suppress(FormatError, Unsupported):
        shape = architectures.of_config(config).shape_of_config(config)
        known = architectures.of_shape(shape)
        known.weights(shape)
        known.config(shape)
        known.metadata(shape)


PARTS = sorted({key.partition(".")[2] for name in ("gemma2", "olmo3, yarn", "olmo")
                for key in keys_of(shape_of({**LLAMA, **CASES[name][1], "architectures": [
                    f"{CASES[name][0]}ForCausalLM"]}))})  # fmt: skip


@given(st.sampled_from(CLASSES), st.dictionaries(
    st.sampled_from([*PARTS, "rope.scaling.type", "expert_count", "rope.scaling.attn_factor"]),
    st.none() | st.booleans() | st.integers(-3, 2**64) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["yarn", "linear", "none"])
    | st.lists(st.integers(0, 5) | st.booleans(), max_size=4).map(tuple), max_size=4))  # fmt: skip
def test_no_metadata_do_anything_but_be_refused(name: str, changes: dict[str, Any]) -> None:
    known = architectures.by_class()[name]
    config = {**LLAMA, "head_dim": 16, "query_pre_attn_scalar": 16}
    shape = known.shape_of_config(config)
    found = keys_of(shape) | {f"{known.name}.{key}": value for key, value in changes.items()}
    with contextlib.suppress(FormatError, Unsupported):
        known.weights(known.shape_of_metadata(found))


@given(st.text(max_size=60), st.sampled_from(CLASSES))
def test_a_tensor_of_any_name_has_a_plain_one_or_none(text: str, name: str) -> None:
    found = architectures.by_class()[name].plain(text)
    assert found is None or isinstance(found, str)
