"""Small complete releases of random weights, for checks on artefacts: as they should be, or lying.

::

    weights(architecture, seed, **sizes)      -> {transformers name: float32 array}
    release(folder, architecture, **changes)  -> folder with config.json, model.safetensors,
                                                 tokenizer.json, tokenizer_config.json,
                                                 generation_config.json, README.md, LICENSE
    gguf(path, architecture, type, **changes) -> path of a GGUF file of the same weights

The same arguments give the same bytes; the same architecture, seed and sizes give the same weights
in both forms, so that ``release(…, seed=1)`` is the true base of ``gguf(…, seed=1)``. About 20
thousand parameters: 40 kB as BF16. Rows are of 32 elements; `width=256` is for K-quants.

A lie is a change: `config=` and `card=` and `metadata=` add to or replace fields (None takes one
out), `edit=` is a function that is given the arrays by name and returns those to be written,
`tokenizer=` one that changes the content of tokenizer.json, `dtype=`/`type=`/`shapes=` say what is
stored. `files=` adds or replaces whole files of a release.

Nothing here is shared with `overt`: names and shapes are written out again from the layouts of
transformers and llama.cpp, so that one mistake does not hide another.
"""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguf_writer import TENSOR_TYPES, Tensor, Typed, write

Arrays = dict[str, "np.ndarray[Any, Any]"]

ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo", "olmo2", "phi3",
    "gpt_neox", "gpt2", "granite", "mixtral", "qwen3_moe", "deepseek_v2", "bert",
)  # fmt: skip
_CLASSES = {
    "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3": "Gemma3ForCausalLM", "olmo": "OlmoForCausalLM", "olmo2": "Olmo2ForCausalLM",
    "phi3": "Phi3ForCausalLM", "gpt_neox": "GPTNeoXForCausalLM", "gpt2": "GPT2LMHeadModel",
    "granite": "GraniteForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM",
    "bert": "BertModel",
}  # fmt: skip
_TIED = ("gemma", "gemma2", "gemma3", "gpt2", "bert")
_GGUF_NAMES = {
    "mistral": "llama", "mixtral": "llama", "gpt_neox": "gptneox", "qwen3_moe": "qwen3moe",
    "deepseek_v2": "deepseek2",
}  # fmt: skip
SIZES = {
    "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "head": 8, "inner": 64, "vocabulary": 112,
    "experts": 4, "context": 512,
}  # fmt: skip
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32,
    "TQ1_0": 36, "TQ2_0": 37, "MXFP4": 38,
}  # fmt: skip


# Those that gguf_writer does not know: number in the file, elements and bytes of a block.
for _name, _kind in {
    "Q5_1": (7, 32, 24), "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q5_K": (13, 256, 176),
    "IQ2_XXS": (16, 256, 66), "IQ2_XS": (17, 256, 74), "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50), "IQ3_S": (21, 256, 110), "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136), "IQ1_M": (29, 256, 56), "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
}.items():  # fmt: skip
    TENSOR_TYPES.setdefault(_name, _kind)


def sizes_of(architecture: str, **sizes: int) -> dict[str, int]:
    """The sizes of a model, those not given filled in."""
    found = {**SIZES, **sizes}
    if "head" not in sizes:
        found["head"] = found["width"] // found["heads"]
    if architecture in ("gpt_neox", "gpt2", "bert", "deepseek_v2"):
        found["kv_heads"] = found["heads"]
    return found


# ---- names and shapes, as transformers saves them ------------------------------------------


def shapes(architecture: str, **sizes: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a release and its shape, row-major."""
    size = sizes_of(architecture, **sizes)
    if architecture in ("gpt_neox", "gpt2", "bert"):
        return {"gpt_neox": _gpt_neox, "gpt2": _gpt2, "bert": _bert}[architecture](size)
    width, vocabulary = size["width"], size["vocabulary"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, width)}
    for layer in range(size["layers"]):
        for name, shape in _block(architecture, size, layer).items():
            found[f"model.layers.{layer}.{name}"] = shape
    if architecture != "olmo":
        found["model.norm.weight"] = (width,)
    if architecture not in _TIED:
        found["lm_head.weight"] = (vocabulary, width)
    return found


def _block(architecture: str, size: Mapping[str, int], layer: int) -> dict[str, tuple[int, ...]]:
    return {
        **_norms(architecture, size),
        **_attention(architecture, size),
        **_feed_forward(architecture, size, layer),
    }


def _norms(architecture: str, size: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    names = {
        "olmo": [],
        "olmo2": ["post_attention_layernorm", "post_feedforward_layernorm"],
        "gemma2": ["input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                   "post_feedforward_layernorm"],
    }  # fmt: skip
    names["gemma3"] = names["gemma2"]
    chosen = names.get(architecture, ["input_layernorm", "post_attention_layernorm"])
    return {f"{name}.weight": (size["width"],) for name in chosen}


def _attention(architecture: str, size: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    width, head = size["width"], size["head"]
    q, kv = size["heads"] * head, size["kv_heads"] * head
    if architecture == "phi3":
        return {
            "self_attn.qkv_proj.weight": (q + 2 * kv, width),
            "self_attn.o_proj.weight": (width, q),
        }
    if architecture == "deepseek_v2":
        # without a q LoRA; half of each key head is rotated; 32 for the compressed keys and values
        return {
            "self_attn.q_proj.weight": (q, width),
            "self_attn.kv_a_proj_with_mqa.weight": (32 + head // 2, width),
            "self_attn.kv_a_layernorm.weight": (32,),
            "self_attn.kv_b_proj.weight": (size["heads"] * (head // 2 + head), 32),
            "self_attn.o_proj.weight": (width, q),
        }
    found: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (q, width),
        "self_attn.k_proj.weight": (kv, width),
        "self_attn.v_proj.weight": (kv, width),
        "self_attn.o_proj.weight": (width, q),
    }
    if architecture == "qwen2":
        found |= {"self_attn.q_proj.bias": (q,), "self_attn.k_proj.bias": (kv,),
                  "self_attn.v_proj.bias": (kv,)}  # fmt: skip
    if architecture in ("qwen3", "gemma3", "qwen3_moe"):
        found |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    if architecture == "olmo2":
        found |= {"self_attn.q_norm.weight": (q,), "self_attn.k_norm.weight": (kv,)}
    return found


def _feed_forward(
    architecture: str, size: Mapping[str, int], layer: int
) -> dict[str, tuple[int, ...]]:
    width, inner, experts = size["width"], size["inner"], size["experts"]
    up, down = (inner, width), (width, inner)
    if architecture == "phi3":
        return {"mlp.gate_up_proj.weight": (2 * inner, width), "mlp.down_proj.weight": down}
    dense = {"mlp.gate_proj.weight": up, "mlp.up_proj.weight": up, "mlp.down_proj.weight": down}
    if architecture == "mixtral":
        parts = {"w1": up, "w2": down, "w3": up}
        where = "block_sparse_moe"
    elif architecture == "qwen3_moe" or (architecture == "deepseek_v2" and layer):
        parts = {"gate_proj": up, "up_proj": up, "down_proj": down}
        where = "mlp"
    else:
        return dense
    found: dict[str, tuple[int, ...]] = {f"{where}.gate.weight": (experts, width)}
    for expert in range(experts):
        found |= {f"{where}.experts.{expert}.{part}.weight": s for part, s in parts.items()}
    if architecture == "deepseek_v2":
        found |= {f"mlp.shared_experts.{part}.weight": s for part, s in parts.items()}
    return found


def _both(name: str, shape: tuple[int, ...], bias: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": (bias,)}


def _gpt_neox(size: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    w, i, v = size["width"], size["inner"], size["vocabulary"]
    found: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (v, w)}
    for layer in range(size["layers"]):
        at = f"gpt_neox.layers.{layer}."
        found |= _both(at + "input_layernorm", (w,), w)
        found |= _both(at + "post_attention_layernorm", (w,), w)
        found |= _both(at + "attention.query_key_value", (3 * w, w), 3 * w)
        found |= _both(at + "attention.dense", (w, w), w)
        found |= _both(at + "mlp.dense_h_to_4h", (i, w), i)
        found |= _both(at + "mlp.dense_4h_to_h", (w, i), w)
    return found | _both("gpt_neox.final_layer_norm", (w,), w) | {"embed_out.weight": (v, w)}


def _gpt2(size: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    w, i, v = size["width"], size["inner"], size["vocabulary"]
    found: dict[str, tuple[int, ...]] = {"wte.weight": (v, w), "wpe.weight": (size["context"], w)}
    for layer in range(size["layers"]):
        at = f"h.{layer}."
        found |= _both(at + "ln_1", (w,), w) | _both(at + "ln_2", (w,), w)
        found |= _both(at + "attn.c_attn", (w, 3 * w), 3 * w)  # Conv1D: inputs first
        found |= _both(at + "attn.c_proj", (w, w), w)
        found |= _both(at + "mlp.c_fc", (w, i), i) | _both(at + "mlp.c_proj", (i, w), w)
    return found | _both("ln_f", (w,), w)


def _bert(size: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    w, i = size["width"], size["inner"]
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (size["vocabulary"], w),
        "embeddings.position_embeddings.weight": (size["context"], w),
        "embeddings.token_type_embeddings.weight": (2, w),
        **_both("embeddings.LayerNorm", (w,), w),
    }
    for layer in range(size["layers"]):
        at = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            found |= _both(at + f"attention.self.{name}", (w, w), w)
        found |= _both(at + "attention.output.dense", (w, w), w)
        found |= _both(at + "attention.output.LayerNorm", (w,), w)
        found |= _both(at + "intermediate.dense", (i, w), i)
        found |= _both(at + "output.dense", (w, i), w) | _both(at + "output.LayerNorm", (w,), w)
    return found | _both("pooler.dense", (w, w), w)


def weights(architecture: str = "llama", seed: int = 0, **sizes: int) -> Arrays:
    """Random weights, rounded to BF16 so that all types store the same numbers."""
    found = {}
    for number, (name, shape) in enumerate(shapes(architecture, **sizes).items()):
        draw = np.random.default_rng([seed, number])
        flat = draw.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
        if len(shape) == 1 and name.endswith("weight"):
            flat += np.float32(1)
        found[name] = _from_bf16(_to_bf16(flat))
    return found


def _to_bf16(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _from_bf16(array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    return (array.astype("<u4") << 16).view("<f4")


# ---- a release -----------------------------------------------------------------------------


def config_of(architecture: str, dtype: str = "BF16", **sizes: int) -> dict[str, Any]:
    """config.json."""
    size = sizes_of(architecture, **sizes)
    about: dict[str, Any] = {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture if architecture != "gemma3" else "gemma3_text",
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype],
        "vocab_size": size["vocabulary"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    if architecture == "gpt2":
        return about | {
            "n_embd": size["width"], "n_layer": size["layers"], "n_head": size["heads"],
            "n_inner": size["inner"], "n_positions": size["context"], "layer_norm_epsilon": 1e-5,
        }  # fmt: skip
    about |= {
        "hidden_size": size["width"],
        "intermediate_size": size["inner"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "max_position_embeddings": size["context"],
        "tie_word_embeddings": architecture in _TIED,
    }
    if architecture == "bert":
        return about | {"type_vocab_size": 2, "hidden_act": "gelu"}
    if architecture == "gpt_neox":
        return about
    about |= {"num_key_value_heads": size["kv_heads"], "head_dim": size["head"],
              "rms_norm_eps": 1e-5}  # fmt: skip
    return about | _moe_config(architecture, size)


def _moe_config(architecture: str, size: Mapping[str, int]) -> dict[str, Any]:
    if architecture == "mixtral":
        return {"num_local_experts": size["experts"], "num_experts_per_tok": 2}
    if architecture == "qwen3_moe":
        return {"num_experts": size["experts"], "num_experts_per_tok": 2,
                "moe_intermediate_size": size["inner"], "decoder_sparse_step": 1,
                "mlp_only_layers": []}  # fmt: skip
    if architecture == "deepseek_v2":
        return {"n_routed_experts": size["experts"], "num_experts_per_tok": 2, "q_lora_rank": None,
                "moe_intermediate_size": size["inner"], "n_shared_experts": 1,
                "first_k_dense_replace": 1, "kv_lora_rank": 32, "v_head_dim": size["head"],
                "qk_rope_head_dim": size["head"] // 2, "qk_nope_head_dim": size["head"] // 2,
                "moe_layer_freq": 1}  # fmt: skip
    return {}


SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
_LETTERS = ["\u0120", *(chr(code) for code in range(33, 127))]
_MERGES = (
    ("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r"), ("o", "n"), ("r", "e"),
    ("\u0120", "t"), ("\u0120", "a"), ("o", "r"), ("e", "n"), ("a", "t"), ("o", "u"),
)  # fmt: skip
TOKENS = (*SPECIAL, *_LETTERS, *("".join(pair) for pair in _MERGES))
"""112 tokens: what `SIZES` has rows for."""


def tokenizer_json(architecture: str = "llama") -> dict[str, Any]:
    """tokenizer.json as the tokenizers library writes it: byte-level BPE, WordPiece for BERT."""
    added = [
        {"id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for id, token in enumerate(SPECIAL)
    ]  # fmt: skip
    vocab = {token: id for id, token in enumerate(TOKENS)}
    model: dict[str, Any] = {"type": "BPE", "dropout": None, "unk_token": None, "vocab": vocab,
                             "merges": [list(pair) for pair in _MERGES]}  # fmt: skip
    if architecture == "bert":
        model = {"type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##",
                 "max_input_chars_per_word": 100, "vocab": vocab}  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "lowercase": True} if architecture == "bert"
        else None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
        "post_processor": None, "decoder": {"type": "ByteLevel"}, "model": model,
    }  # fmt: skip


CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + ' ' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant ' }}{% endif %}"
)


def release(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    dtype: str = "BF16",
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    body: str = "# Tiny\n\nA small random model.\n",
    licence: str = "",
    edit: Callable[[Arrays], Arrays] | None = None,
    tokenizer: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    tokenizer_config: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes | str | None] | None = None,
    **sizes: int,
) -> Path:
    """Write a release; returns `folder`. `files` with None leaves that file out.

    `licence` is the text of LICENSE; without it there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = weights(architecture, seed, **sizes)
    if edit:
        arrays = edit(arrays)
    about = {"license": "apache-2.0", "library_name": "transformers", "language": ["en"]}
    told = {
        "config.json": _with(config_of(architecture, dtype, **sizes), config),
        "tokenizer.json": (tokenizer or (lambda content: content))(tokenizer_json(architecture)),
        "generation_config.json": _with({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
                                        generation),
        "tokenizer_config.json": _with(
            {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
             "unk_token": "<unk>", "pad_token": "<pad>", "chat_template": CHAT_TEMPLATE},
            tokenizer_config,
        ),
    }  # fmt: skip
    for name, content in told.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    fields = "".join(f"{k}: {json.dumps(v)}\n" for k, v in _with(about, card).items())
    (folder / "README.md").write_text(f"---\n{fields}---\n{body}")
    if licence:
        (folder / "LICENSE").write_text(licence)
    _write_shards(folder, arrays, dtype, shards)
    for name, data in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def _with(about: dict[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """`about` with `changes`; a change to None takes the key out."""
    return {k: v for k, v in {**about, **(changes or {})}.items() if v is not None}


def _write_shards(folder: Path, arrays: Arrays, dtype: str, shards: int) -> None:
    if shards == 1:
        write_safetensors(folder / "model.safetensors", arrays, dtype)
        return
    names, where, total = list(arrays), {}, 0
    for number in range(shards):
        part = {name: arrays[name] for name in names[number::shards]}
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        total += write_safetensors(folder / file, part, dtype)
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_safetensors(
    path: Path, arrays: Arrays, dtype: str = "BF16", types: Mapping[str, str] | None = None
) -> int:
    """Write one file; returns the bytes of its tensors. `types` names dtypes of single tensors."""
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, at = [], 0
    for name, array in arrays.items():
        kind = (types or {}).get(name, dtype)
        raw = _stored(array, kind)
        head[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [at, at + len(raw)],
        }
        parts.append(raw)
        at += len(raw)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return at


def _stored(array: "np.ndarray[Any, Any]", dtype: str) -> bytes:
    if dtype == "BF16":
        return _to_bf16(array).tobytes()
    return array.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes()


# ---- the same as GGUF ----------------------------------------------------------------------

_PLAIN = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.qkv_proj": "attn_qkv",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate_up_proj": "ffn_up", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
    # gpt_neox, gpt2
    "embed_in": "token_embd", "embed_out": "output", "final_layer_norm": "output_norm",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up", "mlp.dense_4h_to_h": "ffn_down",
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm",
    "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    # bert
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k",
    "attention.self.value": "attn_v", "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm", "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
_OTHERWISE = {
    "gemma2": {"post_attention_layernorm": "post_attention_norm",
               "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"},
    "olmo2": {"post_attention_layernorm": "post_attention_norm",
              "post_feedforward_layernorm": "post_ffw_norm"},
}  # fmt: skip
_OTHERWISE["gemma3"] = _OTHERWISE["gemma2"]
_EXPERT = {"w1": "gate", "w2": "down", "w3": "up", "gate_proj": "gate", "up_proj": "up",
           "down_proj": "down"}  # fmt: skip


def as_gguf(architecture: str, arrays: Arrays, heads: int, kv_heads: int) -> Arrays:
    """Arrays by llama.cpp's names: renamed, permuted, transposed, experts stacked, norms + 1."""
    found: Arrays = {}
    experts: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, array in arrays.items():
        if name.startswith("pooler."):
            continue
        short, block, end = _apart(name)
        if ".experts." in short:
            part = _EXPERT[short.rpartition(".")[2]]
            experts.setdefault(f"{block}ffn_{part}_exps.{end}", []).append(array)
            continue
        new = {**_PLAIN, **_OTHERWISE.get(architecture, {})}[short]
        if architecture in ("llama", "mistral", "mixtral", "granite", "olmo") and new in (
            "attn_q", "attn_k",
        ):  # fmt: skip
            array = _permuted(array, heads if new == "attn_q" else kv_heads)
        elif architecture == "gpt2" and array.ndim == 2 and block:
            array = array.T
        elif architecture == "gpt_neox" and new == "attn_qkv":
            array = _unmixed(array, heads)
        elif architecture.startswith("gemma") and new.endswith("norm"):
            array = array + np.float32(1)
        found[f"{block}{new}.{end}"] = np.ascontiguousarray(array, dtype=np.float32)
    return found | {name: np.stack(parts) for name, parts in experts.items()}


def _apart(name: str) -> tuple[str, str, str]:
    for prefix in ("model.", "gpt_neox."):
        name = name.removeprefix(prefix)
    short, _, end = name.rpartition(".")
    for start in ("layers.", "encoder.layer.", "h."):
        if short.startswith(start):
            number, _, rest = short.removeprefix(start).partition(".")
            return rest, f"blk.{number}.", end
    return short, "", end


def _permuted(array: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """Rows of each head from halves to pairs, as llama.cpp rotates them."""
    rows = array.shape[0]
    split = array.reshape(heads, 2, rows // heads // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def _unmixed(array: "np.ndarray[Any, Any]", heads: int) -> "np.ndarray[Any, Any]":
    """GPT-NeoX keeps q, k and v of each head together; llama.cpp all q, then all k, then all v."""
    split = array.reshape(heads, 3, array.shape[0] // heads // 3, *array.shape[1:])
    return split.swapaxes(0, 1).reshape(array.shape)


def gguf(
    path: Path,
    architecture: str = "llama",
    type: str = "Q8_0",
    *,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    edit: Callable[[Arrays], Arrays] | None = None,
    edit_gguf: Callable[[Arrays], Arrays] | None = None,
    **sizes: int,
) -> Path:
    """Write a GGUF file of the weights `release` has for the same seed; returns `path`.

    1-D tensors and those whose rows do not fill blocks are F32. `types` names another type for
    single tensors, `edit` is given the arrays
    by transformers' names before they are converted, `edit_gguf` by llama.cpp's after it. `type`
    is one `gguf` can encode, or, where llama.cpp's library is installed, any other.
    """
    size = sizes_of(architecture, **sizes)
    arrays = weights(architecture, seed, **sizes)
    arrays = edit(arrays) if edit else arrays
    converted = as_gguf(architecture, arrays, size["heads"], size["kv_heads"])
    converted = edit_gguf(converted) if edit_gguf else converted
    tensors = []
    for name, array in converted.items():
        plain = array.ndim == 1 or name.endswith("ffn_gate_inp.weight") or "_types" in name
        kind = (types or {}).get(name, "F32" if plain or not _fits(array, type) else type)
        data = quantized(array, kind)
        tensors.append(_Sized(name, tuple(reversed(array.shape)), kind, data))
    about = _with(_metadata(architecture, type, size), metadata)
    return write(path, about, tensors)


def _fits(array: "np.ndarray[Any, Any]", type: str) -> bool:
    import gguf as library

    block, _ = library.GGML_QUANT_SIZES[library.GGMLQuantizationType[type]]
    return array.shape[-1] % int(block) == 0


class _Sized(Tensor):
    """A tensor of a type that gguf_writer has no sizes of."""

    @property
    def size(self) -> int:
        return len(self.data or b"")


def quantized(array: "np.ndarray[Any, Any]", type: str) -> bytes:
    """Rows in a ggml type."""
    import gguf as library

    kind = library.GGMLQuantizationType[type]
    try:
        return bytes(library.quants.quantize(array, kind).tobytes())
    except NotImplementedError:
        return _by_ggml(array, kind)


def _by_ggml(array: "np.ndarray[Any, Any]", kind: Any) -> bytes:
    import ctypes

    import gguf as library
    import llama_cpp_py_sync

    folder = Path(str(llama_cpp_py_sync.__file__)).parent
    ggml = ctypes.CDLL(str(next(iter(sorted(folder.glob("libggml-base.so*"))))))
    block, size = library.GGML_QUANT_SIZES[kind]
    flat = np.ascontiguousarray(array, dtype=np.float32)
    out = ctypes.create_string_buffer(flat.size // block * size)
    # What the smallest types cannot do without is all equal; the others would use it otherwise.
    weight = np.ones(flat.shape[-1], dtype=np.float32)
    needs = kind.name in ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS")
    call = ggml.ggml_quantize_chunk
    call.restype = ctypes.c_size_t
    pointer = ctypes.c_void_p
    call.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    call(int(kind), flat.ctypes.data, out, 0, flat.size // flat.shape[-1], flat.shape[-1],
         weight.ctypes.data if needs else None)  # fmt: skip
    return out.raw


def _metadata(architecture: str, type: str, size: Mapping[str, int]) -> dict[str, Any]:
    name = _GGUF_NAMES.get(architecture, architecture)
    keys: dict[str, Any] = {
        "block_count": size["layers"], "context_length": size["context"],
        "embedding_length": size["width"], "feed_forward_length": size["inner"],
        "attention.head_count": size["heads"],
    }  # fmt: skip
    if architecture not in ("gpt2", "gpt_neox", "bert"):
        keys |= {"attention.head_count_kv": size["kv_heads"],
                 "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
        if architecture != "deepseek_v2":
            keys |= {"attention.key_length": size["head"], "attention.value_length": size["head"]}
    else:
        keys["attention.layer_norm_epsilon"] = 1e-5
    if architecture in ("mixtral", "qwen3_moe", "deepseek_v2"):
        keys |= {"expert_count": size["experts"], "expert_used_count": 2}
    if architecture in ("qwen3_moe", "deepseek_v2"):
        keys["expert_feed_forward_length"] = size["inner"]
    if architecture == "deepseek_v2":
        keys |= {"leading_dense_block_count": 1, "expert_shared_count": 1,
                 "attention.kv_lora_rank": 32, "attention.key_length": size["head"],
                 "attention.value_length": size["head"],
                 "rope.dimension_count": size["head"] // 2}  # fmt: skip
    about: dict[str, Any] = {
        "general.architecture": name, "general.type": "model", "general.name": "Tiny",
        "general.license": "apache-2.0", "general.quantization_version": 2,
        **{f"{name}.{key}": value for key, value in keys.items()},
        "tokenizer.ggml.model": "bert" if architecture == "bert" else "gpt2",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(TOKENS),
        "tokenizer.ggml.token_type": Typed("i32", [3] * 4 + [1] * (len(TOKENS) - 4)),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in _MERGES],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 3, "tokenizer.ggml.unknown_token_id": 0,
    }  # fmt: skip
    if architecture != "bert":
        about["tokenizer.chat_template"] = CHAT_TEMPLATE
    if type in FILE_TYPES:
        about["general.file_type"] = FILE_TYPES[type]
    return about
