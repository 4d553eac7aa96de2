"""Lies about weights: shapes, counts, tokenizers, quantizations, bases."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lies_base import LIES, Case, Planted, Text, lie, over_base, simple

import tiny_models as tiny

# -- shapes, counts and completeness ---------------------------------------------------------------

for _key, _wrong in {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "vocab_size": 128,
    "num_key_value_heads": 4,
}.items():
    simple(
        f"config_{_key}",
        f"config.json says {_key} is {_wrong} and the tensors say otherwise",
        "architecture", "weights", "metadata", "tokenizer",
        config={_key: _wrong},
    )  # fmt: skip

simple(
    "config_other_architecture",
    "config.json says Qwen2, whose attention has biases, over the weights of a Llama",
    "architecture", "weights", "metadata",
    config={"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
)  # fmt: skip
simple(
    "card_parameters",
    "the card says 7B parameters over 20 thousand",
    "weights", "model_card", "metadata",
    body="# Tiny\n\n| | |\n|---|---|\n| Parameters | 7B |\n",
)  # fmt: skip
simple(
    "card_vocabulary",
    "the card says a vocabulary of 32000 tokens and there are 112",
    "model_card", "tokenizer", "metadata",
    body="# Tiny\n\n| | |\n|---|---|\n| Vocabulary size | 32,000 |\n",
)  # fmt: skip
simple(
    "card_context",
    "the card says a context of 128K and the configuration says 512",
    "model_card", "metadata", "architecture",
    body="# Tiny\n\n- Context length: 128K\n",
)  # fmt: skip
simple(
    "config_dtype",
    "config.json says float32 over BF16 tensors",
    "weights", "metadata",
    config={"torch_dtype": "float32", "dtype": None},
)  # fmt: skip


@lie("weights", "architecture")
def tensor_left_out(folder: Path, text: Text) -> Planted:
    """the second layer lacks its down projection"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        return {k: v for k, v in arrays.items() if "layers.1.mlp.down_proj" not in k}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights", "architecture")
def tensor_of_another_shape(folder: Path, text: Text) -> Planted:
    """one projection has the shape of another model's"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.0.mlp.gate_proj" in k)
        return {**arrays, name: np.tile(arrays[name], (2, 1))}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def tensor_of_zeros(folder: Path, text: Text) -> Planted:
    """a whole matrix is zero"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.1.self_attn.q_proj" in k)
        return {**arrays, name: np.zeros_like(arrays[name])}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def tensor_of_nan(folder: Path, text: Text) -> Planted:
    """a whole matrix is not a number"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.0.self_attn.o_proj" in k)
        return {**arrays, name: np.full_like(arrays[name], np.nan)}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def shard_left_out(folder: Path, text: Text) -> Planted:
    """the index names a shard that is not there"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"), shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    return Planted(path)


@lie("weights")
def shard_of_another_model(folder: Path, text: Text) -> Planted:
    """the index says a tensor is in a shard that does not hold it"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"), shards=2)
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    where = content["weight_map"]
    first = min(where)
    where[first] = next(file for file in where.values() if file != where[first])
    index.write_text(json.dumps(content))
    return Planted(path)


@lie("weights")
def file_cut_short(folder: Path, text: Text) -> Planted:
    """the weights end before their header says"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"))
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-512])
    return Planted(path)


# -- tokenizers ------------------------------------------------------------------------------------


@lie("tokenizer")
def more_tokens_than_rows(folder: Path, text: Text) -> Planted:
    """the tokenizer has tokens that the embedding has no row for"""

    def tokenizer(content: dict[str, Any]) -> dict[str, Any]:
        vocab = content["model"]["vocab"]
        extra = {f"extra{i}": len(vocab) + i for i in range(64)}
        content["model"]["vocab"] = {**vocab, **extra}
        return content

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), tokenizer=tokenizer))


@lie("tokenizer")
def merges_of_another_tokenizer(folder: Path, text: Text) -> Planted:
    """merges that make tokens which the vocabulary does not have"""

    def tokenizer(content: dict[str, Any]) -> dict[str, Any]:
        content["model"]["merges"] = [*content["model"]["merges"], ["foreign", "words"]]
        return content

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), tokenizer=tokenizer))


@lie("tokenizer", "metadata")
def end_token_out_of_range(folder: Path, text: Text) -> Planted:
    """the end token is one that does not exist"""
    return Planted(
        tiny.release(
            folder / "model",
            licence=text("Apache-2.0"),
            config={"eos_token_id": 32000},
            generation={"eos_token_id": 32000},
        )
    )


@lie("tokenizer", "metadata")
def gguf_token_out_of_range(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file names an end token beyond its vocabulary"""
    path = tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"tokenizer.ggml.eos_token_id": 50000})
    return Planted(path)


# -- quantizations ---------------------------------------------------------------------------------


@lie("weights", "metadata")
def quantization_by_name(folder: Path, text: Text) -> Planted:
    """a Q4_0 file is called Q8_0"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", type="Q4_0"))


@lie("weights", "metadata")
def quantization_by_header(folder: Path, text: Text) -> Planted:
    """the header of a Q4_0 file says F16"""
    return Planted(tiny.gguf(folder / "tiny.gguf", type="Q4_0", metadata={"general.file_type": 1}))


@lie("weights", "metadata")
def quantization_of_some_tensors(folder: Path, text: Text) -> Planted:
    """most matrices of a Q8_0 file are Q4_0"""
    names = [
        f"blk.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("ffn_gate", "ffn_up", "ffn_down", "attn_q", "attn_k", "attn_v", "attn_output")
    ]
    return Planted(
        tiny.gguf(folder / "tiny-Q8_0.gguf", type="Q8_0", types=dict.fromkeys(names, "Q4_0"))
    )


@lie("weights", "metadata")
def k_quantization_by_name(folder: Path, text: Text) -> Planted:
    """a Q2_K file is called Q6_K"""
    path = folder / "tiny-Q6_K.gguf"
    return Planted(tiny.gguf(path, type="Q2_K", width=256, inner=256, metadata=_of(18)))


def _of(file_type: int) -> Mapping[str, Any]:
    return {"general.file_type": file_type}


@lie("weights", "metadata")
def gguf_blocks(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says more blocks than there are"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"llama.block_count": 4}))


@lie("weights", "metadata", "architecture")
def gguf_width(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says another embedding length"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"llama.embedding_length": 64}))


@lie("weights", "metadata")
def gguf_size_label(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says 7B over 20 thousand parameters"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"general.size_label": "7B"}))


@lie("weights", "metadata")
def gguf_name_says_more(folder: Path, text: Text) -> Planted:
    """a file of 20 thousand parameters is called 13B"""
    return Planted(tiny.gguf(folder / "Tiny-13B-Q8_0.gguf"))


# -- bases -----------------------------------------------------------------------------------------


def _noise(layer: int, share: float) -> Callable[[tiny.Arrays], tiny.Arrays]:
    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if f"layers.{layer}.mlp.up_proj" in k)
        array = arrays[name]
        random = np.random.default_rng(7)
        noise = random.standard_normal(array.shape).astype(np.float32) * array.std() * share
        return {**arrays, name: array + noise}

    return edit


for _type in ("Q8_0", "Q4_0", "Q5_1", "F16"):
    LIES.append(
        Case(
            f"swapped_base_{_type}",
            over_base(_type, seed=1),
            ("weights",),
            f"a {_type} file is said to be made of a base whose weights are others",
        )
    )
    LIES.append(
        Case(
            f"noise_in_one_layer_{_type}",
            over_base(_type, edit=_noise(1, 0.02)),
            ("weights",),
            f"one matrix of a {_type} file differs from its base by 2 % noise",
        )
    )
LIES.append(
    Case(
        "noise_in_one_layer_Q4_K",
        over_base("Q4_K", edit=_noise(1, 0.25), width=256, inner=256),
        ("weights",),
        "one matrix of a Q4_K file differs from its base by 25 % noise",
    )
)


@lie("weights")
def one_byte(folder: Path, text: Text) -> Planted:
    """one byte of a Q8_0 file is not what its base gives"""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"))
    path = tiny.gguf(folder / "tiny-Q8_0.gguf")
    data = bytearray(path.read_bytes())
    data[-700] ^= 0x10
    path.write_bytes(data)
    return Planted(path, base)


@lie("weights")
def fine_tune_of_another(folder: Path, text: Text) -> Planted:
    """a fine-tune of a base whose weights are unrelated to it"""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"), seed=5)
    card = {"base_model": "tiny/base", "base_model_relation": "finetune"}
    model = tiny.release(folder / "model", licence=text("Apache-2.0"), seed=6, card=card)
    return Planted(model, base)


@lie("tokenizer")
def tokens_of_another(folder: Path, text: Text) -> Planted:
    """the tokens of a GGUF file are in another order than its base's"""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"))
    tokens = [*tiny.TOKENS[:4], *reversed(tiny.TOKENS[4:])]
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": None}
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata=keys), base)
