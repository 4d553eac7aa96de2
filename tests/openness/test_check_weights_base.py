"""Quantizations made again and descendants compared with their base."""

import sys

import numpy as np
import pytest
from weights_cases import findings, only, results, subject

import tiny_models as tiny
from overt.openness.verdicts.components import Strength

WIDE = {"width": 256, "inner": 256, "layers": 3}
ENCODED = ["F16", "BF16", "F32", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"]
DECODED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS",
           "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S", "IQ1_M"]  # fmt: skip
FOLLOWED = [name for name in tiny.ARCHITECTURES if not name.startswith("deepseek")]


def noisy(part, strength):
    def edit(arrays):
        draw = np.random.default_rng(9)
        return {
            n: a + (draw.standard_normal(a.shape) * strength * a.std()).astype("f4")
            if part in n
            else a
            for n, a in arrays.items()
        }

    return edit


@pytest.mark.parametrize("type", ENCODED)
@pytest.mark.parametrize("architecture", FOLLOWED)
def test_a_true_quantization_is_replayed(tmp_path, architecture, type):
    base = subject(tiny.release(tmp_path / "base", architecture, seed=1))
    made = tiny.gguf(tmp_path / "m.gguf", architecture, type, seed=1)
    one = subject(made, base=base, relation="quantized")
    found = only("requantized", one)
    assert (found.result, found.strength) == ("pass", Strength.REPLAYED), found
    assert only("lineage", one).result == "pass"


@pytest.mark.parametrize("type", ENCODED)
@pytest.mark.parametrize("strength", [0.005, 0.02, 0.3])
def test_noise_in_one_layer_is_found_and_named(tmp_path, type, strength):
    base = subject(tiny.release(tmp_path / "base", seed=1, dtype="F32"))
    edit = noisy("layers.1.mlp.up_proj", strength)
    made = tiny.gguf(tmp_path / "m.gguf", type=type, seed=1, edit=edit)
    found = only("requantized", subject(made, base=base, relation="quantized"))
    assert found.result == "fail"
    assert "blk.1.ffn_up.weight" in found.observed


@pytest.mark.parametrize("type", DECODED)
def test_types_that_cannot_be_encoded_are_bounded(tmp_path, type):
    pytest.importorskip("llama_cpp_py_sync")
    base = subject(tiny.gguf(tmp_path / "base.gguf", type="F32", seed=1, **WIDE))
    made = tiny.gguf(tmp_path / "m.gguf", type=type, seed=1, **WIDE)
    found = only("requantized", subject(made, base=base, relation="quantized"))
    assert (found.result, found.strength) == ("pass", Strength.CONSISTENT), found
    strength = 1.0 if type.startswith(("IQ1", "IQ2", "Q2")) else 0.3
    edit = noisy("layers.1.mlp.up_proj", strength)
    made = tiny.gguf(tmp_path / "n.gguf", type=type, seed=1, edit=edit, **WIDE)
    found = only("requantized", subject(made, base=base, relation="quantized"))
    assert found.result == "fail"
    assert "blk.1.ffn_up.weight" in found.observed


def test_a_quantization_of_another_model_is_found(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1))
    made = tiny.gguf(tmp_path / "m.gguf", seed=2)
    one = subject(made, base=base, relation="quantized")
    assert only("requantized", one).result == "fail"
    assert "another model's weights" in only("lineage", one).observed


def test_a_base_of_another_architecture_or_shape(tmp_path):
    made = tiny.gguf(tmp_path / "m.gguf", seed=1)
    for number, base in enumerate(
        (tiny.release(tmp_path / "q", "qwen2", seed=1), tiny.release(tmp_path / "w", inner=96))
    ):
        one = subject(made, base=subject(base), relation="quantized")
        assert results("requantized", one) == {"fail"}, number
        assert results("lineage", one) == {"fail"}, number


def test_a_quantized_base_is_not_what_a_file_was_made_from(tmp_path):
    base = subject(tiny.gguf(tmp_path / "b.gguf", type="Q4_0"))
    one = subject(tiny.gguf(tmp_path / "m.gguf"), base=base, relation="quantized")
    assert results("requantized", one) == {"not_run"}
    assert results("lineage", one) == {"pass"}


def test_without_the_base_nothing_is_run(tmp_path):
    one = subject(tiny.gguf(tmp_path / "m.gguf"), relation="quantized")
    for check in ("requantized", "lineage"):
        assert only(check, one).result == "not_run"
        assert "overt pull the/base, or --base" in only(check, one).reason
    alone = subject(tmp_path / "m.gguf")
    assert not findings("requantized", alone)
    assert not findings("lineage", alone)


def test_without_numpy_nothing_is_run(tmp_path, monkeypatch):
    base = subject(tiny.release(tmp_path / "base", seed=1))
    one = subject(tiny.gguf(tmp_path / "m.gguf", seed=1), base=base, relation="quantized")
    monkeypatch.setitem(sys.modules, "gguf", None)
    for check in ("requantized", "lineage"):
        assert only(check, one).result == "not_run"
        assert "make lab" in only(check, one).reason


def test_large_models_are_looked_at_in_places(tmp_path, monkeypatch):
    from overt.openness.checks import requantized
    from overt.openness.subject import pairs

    base = subject(tiny.release(tmp_path / "base", seed=1, **WIDE))
    one = subject(tiny.gguf(tmp_path / "m.gguf", seed=1, **WIDE), base=base, relation="quantized")
    assert only("requantized", one).strength == Strength.REPLAYED
    monkeypatch.setattr(pairs, "CHUNK", 4096)
    assert only("requantized", one).strength == Strength.REPLAYED
    monkeypatch.setattr(requantized, "MAX_PARAMETERS", 100_000)
    found = only("requantized", one)
    assert (found.result, found.strength) == ("pass", Strength.CONSISTENT)
    assert "parameters looked at" in found.observed
    edit = noisy("layers.1.mlp.up_proj", 0.02)
    noise = tiny.gguf(tmp_path / "n.gguf", seed=1, edit=edit, **WIDE)
    found = only("requantized", subject(noise, base=base, relation="quantized"))
    assert "blk.1.ffn_up.weight" in found.observed


# ---- fine-tunes and merges -----------------------------------------------------------------


def tuned(arrays):
    draw = np.random.default_rng(5)
    return {
        n: a + (draw.standard_normal(a.shape) * 0.01).astype("f4") if a.ndim > 1 else a
        for n, a in arrays.items()
    }


def adapted(arrays):
    draw = np.random.default_rng(5)
    found = dict(arrays)
    for name, array in arrays.items():
        if name.endswith("proj.weight"):
            left = draw.standard_normal((array.shape[0], 2))
            right = draw.standard_normal((2, array.shape[1]))
            found[name] = array + (left @ right * 0.01).astype("f4")
    return found


def averaged(arrays):
    other = tiny.weights("llama", 7)
    return {name: (array + other[name]) / 2 for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("seed", "edit", "result", "told"),
    [
        (1, None, "fail", "are equal to the base's"),
        (1, tuned, "pass", "16 of them changed"),
        (1, adapted, "pass", "the change has rank 2, as a merged LoRA has"),
        (1, averaged, "pass", "cosine 0.7"),
        (2, None, "fail", "another model's weights"),
        (2, tuned, "fail", "another model's weights"),
    ],
)
def test_what_a_fine_tune_is(tmp_path, seed, edit, result, told):
    base = subject(tiny.release(tmp_path / "base", seed=1, dtype="F32"))
    one = tiny.release(tmp_path / "tuned", seed=seed, edit=edit, dtype="F32")
    found = only("lineage", subject(one, base=base, relation="finetune"))
    assert found.result == result
    assert told in found.observed


def test_a_resized_vocabulary_is_no_other_shape(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1))

    def edit(arrays):
        return {n: np.concatenate([a, a[:16]]) if len(a) == 112 else a for n, a in arrays.items()}

    one = tiny.release(tmp_path / "m", seed=1, edit=edit, config={"vocab_size": 128})
    assert only("lineage", subject(one, base=base, relation="finetune")).result == "pass"


def test_one_layer_of_a_stranger_is_named(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1))
    other = tiny.weights("llama", 8)
    name = "model.layers.1.self_attn.v_proj.weight"
    one = tiny.release(tmp_path / "m", seed=1, edit=lambda arrays: {**arrays, name: other[name]})
    found = only("lineage", subject(one, base=base, relation="finetune"))
    assert found.result == "fail"
    assert name in found.observed


def test_a_student_may_have_any_weights(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1))
    one = subject(tiny.release(tmp_path / "m", "qwen2", seed=2), relation="distilled")
    assert not findings("lineage", one)
    assert base.base is None


def test_rows_that_a_converter_left_as_they_are(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1))
    arrays = tiny.weights("llama", 1)

    def edit_gguf(converted):
        return {
            n: arrays[f"model.layers.{n.split('.')[1]}.self_attn.{n.split('_')[1][0]}_proj.weight"]
            if n.endswith(("attn_q.weight", "attn_k.weight"))
            else a
            for n, a in converted.items()
        }

    made = tiny.gguf(tmp_path / "m.gguf", seed=1, edit_gguf=edit_gguf)
    one = subject(made, base=base, relation="quantized")
    assert only("requantized", one).strength == Strength.REPLAYED


def test_rows_of_no_token_may_be_left_out(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1, vocabulary=128))

    def edit(arrays):
        return {n: a[:112] if len(a) == 128 else a for n, a in arrays.items()}

    made = tiny.gguf(tmp_path / "m.gguf", seed=1, vocabulary=128, edit=edit)
    one = subject(made, base=base, relation="quantized")
    assert only("requantized", one).result == "pass"
    short = subject(tiny.release(tmp_path / "short", seed=1))
    longer = tiny.gguf(tmp_path / "n.gguf", seed=1, vocabulary=128)
    one = subject(longer, base=short, relation="quantized")
    assert only("requantized", one).result in ("inconclusive", "fail")


def test_an_importance_matrix_is_no_lie(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp_py_sync")
    base = subject(tiny.gguf(tmp_path / "base.gguf", type="F32", seed=1, **WIDE))
    monkeypatch.setattr(tiny, "quantized", weighted)
    for type in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K", "Q3_K", "Q2_K", "IQ4_XS"):
        made = tiny.gguf(tmp_path / f"{type}.gguf", type=type, seed=1, **WIDE)
        found = only("requantized", subject(made, base=base, relation="quantized"))
        assert (found.result, found.strength) == ("pass", Strength.CONSISTENT), found


def weighted(array, type):
    """Rows as llama.cpp quantizes them with an importance matrix."""
    import ctypes

    import gguf
    import llama_cpp_py_sync

    kind = gguf.GGMLQuantizationType[type]
    if type in ("F32", "F16"):
        return gguf.quants.quantize(array, kind).tobytes()
    folder = type_folder(llama_cpp_py_sync)
    ggml = ctypes.CDLL(str(folder))
    block, size = gguf.GGML_QUANT_SIZES[kind]
    flat = np.ascontiguousarray(array, dtype=np.float32)
    out = ctypes.create_string_buffer(flat.size // block * size)
    weight = np.random.default_rng(3).gamma(1.0, 1.0, flat.shape[-1]).astype(np.float32)
    pointer = ctypes.c_void_p
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer,
    ]  # fmt: skip
    ggml.ggml_quantize_chunk(
        int(kind), flat.ctypes.data, out, 0, flat.size // flat.shape[-1], flat.shape[-1],
        weight.ctypes.data,
    )  # fmt: skip
    return out.raw


def type_folder(package):
    from pathlib import Path

    return next(iter(sorted(Path(str(package.__file__)).parent.glob("libggml-base.so*"))))


def test_noise_in_one_layer_of_a_copy_in_fewer_bits_is_found(tmp_path):
    base = subject(tiny.release(tmp_path / "base", seed=1, dtype="F32"))
    name = "model.layers.1.mlp.up_proj.weight"

    def noisy(arrays):
        noise = np.random.default_rng(3).standard_normal(arrays[name].shape)
        return {**arrays, name: arrays[name] + (0.02 * arrays[name].std() * noise).astype("f4")}

    for edit, result in ((None, "pass"), (noisy, "fail")):
        one = tiny.release(tmp_path / result, seed=1, edit=edit, dtype="F16")
        found = only("lineage", subject(one, base=base, relation="quantized"))
        assert (found.result, name in found.observed) == (result, result == "fail")
