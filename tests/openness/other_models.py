"""Small releases made by another hand than `tiny_models`: what transformers 5 and gguf-py leave.

A folder has config.json with ``dtype``, one model.safetensors with its tensors in order of name,
generation_config.json, and often nothing else; a GGUF file has the few keys somebody thought of,
and perhaps no tokenizer. Sizes are odd, so that no row fills a block of 256.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Arrays = dict[str, "np.ndarray[Any, Any]"]
Edit = Callable[[Arrays], None]
"""Changes arrays where they are."""

VOCABULARY, WIDTH, INNER, LAYERS, HEADS = 64, 32, 64, 2, 2
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def arrays(seed: int = 0, layers: int = LAYERS) -> Arrays:
    """A Llama of 25 thousand parameters, output layer and embedding apart."""
    draw = np.random.default_rng(seed)

    def matrix(*shape: int) -> "np.ndarray[Any, Any]":
        return (draw.standard_normal(shape) * 0.02).astype(np.float32)

    found = {"model.embed_tokens.weight": matrix(VOCABULARY, WIDTH)}
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}{name}.weight"] = np.ones(WIDTH, np.float32)
        for name in ("q", "k", "v", "o"):
            found[f"{at}self_attn.{name}_proj.weight"] = matrix(WIDTH, WIDTH)
        found[f"{at}mlp.gate_proj.weight"] = matrix(INNER, WIDTH)
        found[f"{at}mlp.up_proj.weight"] = matrix(INNER, WIDTH)
        found[f"{at}mlp.down_proj.weight"] = matrix(WIDTH, INNER)
    found["model.norm.weight"] = np.ones(WIDTH, np.float32)
    found["lm_head.weight"] = matrix(VOCABULARY, WIDTH)
    return found


def card(body: str = "# tiny\n\nA model.\n", **fields: Any) -> str:
    """README.md; a field ``a__b`` is ``a-b``."""
    told = {"license": "mit", **fields}
    lines = (f"{key.replace('__', '-')}: {json.dumps(value)}\n" for key, value in told.items())
    return f"---\n{''.join(lines)}---\n\n{body}"


def save(path: Path, found: Arrays, dtype: str = "F32") -> int:
    """One safetensors file, its tensors in order of name; returns their bytes."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name in sorted(found):
        raw = _stored(found[name], dtype)
        head[name] = {"dtype": dtype, "shape": list(found[name].shape),
                      "data_offsets": [at, at + len(raw)]}  # fmt: skip
        parts.append(raw)
        at += len(raw)
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return at


def _stored(array: "np.ndarray[Any, Any]", dtype: str) -> bytes:
    if dtype == "BF16":
        bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    return array.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def folder(
    path: Path,
    *,
    seed: int = 0,
    edit: Edit | None = None,
    dtype: str = "F32",
    config: Mapping[str, Any] | None = None,
    readme: str | None = None,
    tokens: int = 0,
    files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """A release; returns `path`. `tokens` asks for a tokenizer.json of so many."""
    path.mkdir(parents=True)
    found = arrays(seed)
    if edit:
        edit(found)
    told = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 1,
        "dtype": _DTYPES[dtype], "eos_token_id": 2, "head_dim": WIDTH // HEADS,
        "hidden_act": "silu", "hidden_size": WIDTH, "intermediate_size": INNER,
        "max_position_embeddings": 128, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_key_value_heads": HEADS,
        "pad_token_id": None, "rms_norm_eps": 1e-06,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False, "transformers_version": "5.0.0", "vocab_size": VOCABULARY,
        **(config or {}),
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(told, indent=2))
    generation = {"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2}
    (path / "generation_config.json").write_text(json.dumps(generation))
    (path / "README.md").write_text(card() if readme is None else readme)
    save(path / "model.safetensors", found, dtype)
    if tokens:
        (path / "tokenizer.json").write_text(json.dumps(_tokenizer(tokens)))
    for name, data in (files or {}).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def _tokenizer(tokens: int) -> dict[str, Any]:
    special = ("<unk>", "<s>", "</s>")
    words = [*special, *(f"w{number}" for number in range(tokens - len(special)))]
    added = [{"id": n, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for n, word in enumerate(special)]  # fmt: skip
    vocab = {word: number for number, word in enumerate(words)}
    return {
        "version": "1.0", "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }  # fmt: skip


def quantized(
    path: Path,
    type: str = "Q8_0",
    *,
    seed: int = 0,
    edit: Edit | None = None,
    keys: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    headers: bool = True,
) -> Path:
    """A GGUF file by gguf-py's own writer; returns `path`. Without `headers` it says nothing."""
    writer = gguf.GGUFWriter(str(path), "llama")
    if headers:
        told = {
            "block_count": LAYERS, "context_length": 128, "embedding_length": WIDTH,
            "feed_forward_length": INNER, "attention.head_count": HEADS,
            "attention.head_count_kv": HEADS,
        }  # fmt: skip
        for key, value in told.items():
            if f"llama.{key}" not in (keys or {}):
                writer.add_uint32(f"llama.{key}", value)
        writer.add_layer_norm_rms_eps(1e-6)
    for key, value in (keys or {}).items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(key, value)
    found = arrays(seed)
    if edit:
        edit(found)
    for name, array in found.items():
        new, array = _converted(name, array)
        kind = (types or {}).get(new, type if array.ndim > 1 else "F32")
        if kind == "F32":
            writer.add_tensor(new, array)
            continue
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(new, gguf.quants.quantize(array, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _converted(name: str, array: "np.ndarray[Any, Any]") -> "tuple[str, np.ndarray[Any, Any]]":
    top = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
           "model.norm.weight": "output_norm.weight"}  # fmt: skip
    if name in top:
        return top[name], array
    _, _, layer, rest = name.split(".", 3)
    new = _NAMES[rest.removesuffix(".weight")]
    if new in ("attn_q", "attn_k"):  # llama.cpp rotates pairs of neighbours
        split = array.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH)
        array = np.ascontiguousarray(split.swapaxes(1, 2).reshape(WIDTH, WIDTH))
    return f"blk.{layer}.{new}.weight", array


def lora(
    path: Path,
    *,
    rank: int = 4,
    config: Mapping[str, Any] | None = None,
    edit: Edit | None = None,
    base: str = "../base",
) -> Path:
    """A LoRA adapter of the q and v projections, as peft saves it; returns `path`."""
    path.mkdir(parents=True)
    draw = np.random.default_rng(3)
    found: Arrays = {}
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}."
            found[f"{at}lora_A.weight"] = draw.standard_normal((rank, WIDTH)).astype(np.float32)
            found[f"{at}lora_B.weight"] = draw.standard_normal((WIDTH, rank)).astype(np.float32)
    if edit:
        edit(found)
    save(path / "adapter_model.safetensors", found)
    told = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
            "base_model_name_or_path": base, "task_type": "CAUSAL_LM", "bias": "none",
            **(config or {})}  # fmt: skip
    (path / "adapter_config.json").write_text(json.dumps(told))
    (path / "README.md").write_text(card(library_name="peft", base_model=base))
    return path
