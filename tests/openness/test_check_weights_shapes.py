"""Shapes from the configuration against the headers, and whether all tensors are there."""

import json

import numpy as np
import pytest
from weights_cases import findings, only, results, subject

import tiny_models as tiny
from gguf_writer import Tensor, Typed, write
from overt.formats import gguf
from overt.openness.shapes import plan
from overt.openness.subject.subject import Subject, SubjectFile

# Numbers of published configurations and the parameters of the published weights.
LLAMA_32_1B = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    "tie_word_embeddings": True,
}  # fmt: skip
OLMO_2_7B = {
    "model_type": "olmo2", "hidden_size": 4096, "intermediate_size": 11008, "vocab_size": 100352,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "tie_word_embeddings": False,
}  # fmt: skip
MISTRAL_7B = {
    "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "vocab_size": 32000,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
MIXTRAL = {**MISTRAL_7B, "model_type": "mixtral", "num_local_experts": 8}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "vocab_size": 50257}  # fmt: skip
PYTHIA_70M = {
    "model_type": "gpt_neox", "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 50304,
    "num_hidden_layers": 6, "num_attention_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
GEMMA_3_270M = {
    "model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "head_dim": 256,
    "num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1,
    "vocab_size": 262144,
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    "model_type": "deepseek_v2", "hidden_size": 2048, "intermediate_size": 10944,
    "vocab_size": 102400, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64, "n_shared_experts": 2,
    "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_30B = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "head_dim": 128,
    "vocab_size": 151936, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "num_experts": 128, "moe_intermediate_size": 768,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_32_1B, 1_235_814_400),
        (OLMO_2_7B, 7_298_617_344),
        (MISTRAL_7B, 7_241_732_096),
        (MIXTRAL, 46_702_792_704),
        (GPT2, 124_439_808),
        (PYTHIA_70M, 70_426_624),
        (GEMMA_3_270M, 268_098_176),
        (DEEPSEEK_V2_LITE, 15_706_484_224),
        (QWEN3_30B, 30_532_122_624),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else str(value),
)
def test_a_published_configuration_gives_the_published_count(config, parameters):
    assert plan.of_config(config).parameters == parameters


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_clean_release_of_each_architecture(tmp_path, architecture):
    release = subject(tiny.release(tmp_path / "r", architecture))
    file = subject(tiny.gguf(tmp_path / "m-Q8_0.gguf", architecture, "Q8_0"))
    for one in (release, file):
        assert only("shapes", one).result == "pass"
        assert results("tensors_complete", one) == {"pass"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", 64), ("num_hidden_layers", 3), ("num_hidden_layers", 1),
     ("intermediate_size", 96), ("vocab_size", 128), ("num_key_value_heads", 4),
     ("num_attention_heads", 2)],
)  # fmt: skip
def test_a_wrong_number_of_the_configuration_is_found(tmp_path, field, value):
    found = only("shapes", subject(tiny.release(tmp_path, config={field: value})))
    assert (found.component, found.result) == ("architecture", "fail")


@pytest.mark.parametrize(
    ("key", "value"),
    [("embedding_length", 64), ("block_count", 3), ("block_count", 1), ("feed_forward_length", 96),
     ("attention.head_count", 2), ("attention.head_count_kv", 4)],
)  # fmt: skip
def test_a_wrong_number_of_a_gguf_header_is_found(tmp_path, key, value):
    made = tiny.gguf(tmp_path / "m.gguf", metadata={f"llama.{key}": value})
    assert only("shapes", subject(made)).result == "fail"


def test_the_first_tensor_is_named_with_both_shapes(tmp_path):
    def edit(arrays):
        name = "model.layers.0.mlp.gate_proj.weight"
        return {**arrays, name: arrays[name][:32]}

    found = only("shapes", subject(tiny.release(tmp_path, edit=edit)))
    assert "model.layers.0.mlp.gate_proj.weight has the shape [32, 32]" in found.observed
    assert found.expected == "[64, 32] by config.json"


def test_an_unknown_architecture_is_never_a_fail(tmp_path):
    changes = {"model_type": "mamba9"}
    one = subject(tiny.release(tmp_path / "r", config=changes))
    assert only("shapes", one).result == "not_run"
    assert "mamba9" in only("shapes", one).reason
    assert results("tensors_complete", one) == {"pass"}
    lying = subject(tiny.release(tmp_path / "s", config={**changes, "num_hidden_layers": 5}))
    assert results("tensors_complete", lying) == {"inconclusive"}
    made = tiny.gguf(tmp_path / "m.gguf", metadata={"general.architecture": "new"})
    assert only("shapes", subject(made)).result == "not_run"


def test_what_may_be_there_raises_no_alarm(tmp_path):
    def edit(arrays):
        extra = {
            "model.layers.0.self_attn.rotary_emb.inv_freq": np.arange(4, dtype="f4"),
            "model.layers.0.self_attn.o_proj.bias": np.ones(32, dtype="f4"),
        }
        return {k: v for k, v in arrays.items() if k != "lm_head.weight"} | extra

    tied = subject(tiny.release(tmp_path, config={"tie_word_embeddings": True}, edit=edit))
    assert only("shapes", tied).result == "pass"


def test_tensors_nobody_describes_settle_nothing(tmp_path):
    def edit(arrays):
        return {**arrays, "model.layers.0.hidden.weight": np.ones((4, 4), dtype="f4")}

    assert only("shapes", subject(tiny.release(tmp_path, edit=edit))).result == "inconclusive"


def test_a_wrapped_language_model_is_read_through_its_wrapper(tmp_path):
    def edit(arrays):
        return {f"language_model.{name}": array for name, array in arrays.items()} | {
            "vision_tower.patch.weight": np.ones((4, 4), dtype="f4")
        }

    text = tiny.config_of("gemma3")
    config = {"text_config": text, "model_type": "gemma3"}
    assert only("shapes", subject(tiny.release(tmp_path, "gemma3", config=config, edit=edit)))


# ---- completeness --------------------------------------------------------------------------


def _without(part):
    return lambda arrays: {name: a for name, a in arrays.items() if part not in name}


def _with(part, change):
    return lambda arrays: {n: change(a) if part in n else a for n, a in arrays.items()}


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_without("layers.1.mlp.up_proj"), "layers.1.mlp.up_proj.weight"),
        (_without("layers.0."), "layers.0.input_layernorm.weight"),
        (_with("layers.1.mlp.down_proj", np.zeros_like), "holds zeros"),
        (_with("layers.1.mlp.down_proj", lambda a: np.full_like(a, 0.5)), "one number everywhere"),
        (_with("layers.0.mlp.up_proj", lambda a: a * np.float32("nan")), "NaN"),
        (_with("layers.0.input_layernorm", lambda a: a * np.float32("inf")), "NaN or infinity"),
    ],
)
def test_what_is_missing_or_untrained_is_found(tmp_path, edit, told):
    for dtype in ("BF16", "F16", "F32"):
        one = subject(tiny.release(tmp_path / dtype, edit=edit, dtype=dtype))
        fails = [f for f in findings("tensors_complete", one) if f.result == "fail"]
        assert told in fails[0].observed, dtype


def test_zeros_and_nan_are_found_in_quantized_matrices(tmp_path):
    for change, told in ((np.zeros_like, "zeros"), (lambda a: a * np.float32("inf"), "NaN")):
        with np.errstate(all="ignore"):
            made = tiny.gguf(tmp_path / "m.gguf", edit=_with("layers.1.mlp.up_proj", change))
        assert told in only("tensors_complete", subject(made)).observed


def test_a_block_copied_over_another_is_found_unless_a_merge_is_claimed(tmp_path):
    def edit(arrays):
        return {n: arrays[n.replace("layers.1.", "layers.0.")] for n in arrays}

    folder = tiny.release(tmp_path, edit=edit)
    assert "blocks 0 and 1" in only("tensors_complete", subject(folder)).observed
    assert only("tensors_complete", subject(folder, relation="merge")).result == "pass"


def test_shards_and_their_index(tmp_path):
    folder = tiny.release(tmp_path / "good", shards=3)
    assert results("tensors_complete", subject(folder)) == {"pass"}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["metadata"]["total_size"] += 1000
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {f.component for f in findings("tensors_complete", subject(folder))
            if f.result == "fail"} == {"metadata"}  # fmt: skip
    names = list(index["weight_map"])
    index["weight_map"][names[0]] = "model-00003-of-00003.safetensors"
    index["weight_map"][names[1]] = "model-00003-of-00003.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "fail" in results("tensors_complete", subject(folder))


def test_a_shard_that_is_gone_is_found_and_one_elsewhere_is_not_run(tmp_path):
    folder = tiny.release(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    gone = subject(folder)
    assert "model-00002-of-00003.safetensors" in only("tensors_complete", gone).observed
    elsewhere = SubjectFile("model-00002-of-00003.safetensors", 1000, None)
    on_a_hub = Subject("hub", (*gone.files, elsewhere), gone.record, place=True)
    assert results("tensors_complete", on_a_hub) == {"not_run"}
    assert results("shapes", on_a_hub) == {"not_run"}


def test_the_parts_of_a_split_gguf_are_one_model(tmp_path):
    whole = tiny.gguf(tmp_path / "whole.gguf")
    data = whole.read_bytes()
    parts = [
        Tensor(one.name, one.shape, one.type, data[one.offset : one.offset + one.size])
        for one in gguf.read(whole).tensors
    ]
    metadata = tiny._metadata("llama", "Q8_0", tiny.sizes_of("llama"))
    folder = tmp_path / "split"
    folder.mkdir()
    for number, (about, some) in enumerate(((metadata, parts[:9]), ({}, parts[9:]))):
        split = {"split.no": Typed("u16", number), "split.count": Typed("u16", 2),
                 "split.tensors.count": Typed("i32", len(parts))}  # fmt: skip
        write(folder / f"m-0000{number + 1}-of-00002.gguf", {**about, **split}, some)
    for check in ("shapes", "tensors_complete", "tokenizer_fits", "quantization"):
        assert only(check, subject(folder)).result == "pass"
    alone = subject(folder / "m-00001-of-00002.gguf")
    assert only("tensors_complete", alone).result == "not_run"
    (folder / "m-00002-of-00002.gguf").unlink()
    assert "1 of 2 files are missing" in only("tensors_complete", subject(folder)).observed


def test_a_file_without_tensors_settles_nothing(tmp_path):
    made = write(tmp_path / "vocabulary.gguf", {"general.architecture": "llama"})
    for check in ("shapes", "tensors_complete"):
        assert results(check, subject(made)) == {"not_run"}
    assert results("quantization", subject(made)) <= {"not_run"}


def test_bytes_behind_the_last_tensor_are_found(tmp_path):
    made = tiny.gguf(tmp_path / "m.gguf")
    with made.open("ab") as file:
        file.write(b"payload " * 100)
    assert "800 bytes behind" in only("tensors_complete", subject(made)).observed


def test_a_file_cut_short_is_found(tmp_path):
    folder = tiny.release(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    found = only("tensors_complete", subject(folder))
    assert found.result == "fail"
    assert "model.safetensors" in found.observed


def test_the_real_models_are_whole(smollm2_gguf, gemma3_gguf):
    for path in (smollm2_gguf, gemma3_gguf):
        one = subject(path, name="m.gguf")
        assert only("shapes", one).result == "pass"
        assert only("tensors_complete", one).result == "pass"
