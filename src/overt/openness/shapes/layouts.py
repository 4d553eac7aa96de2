"""The tensors of each architecture: llama.cpp's name, transformers' name, dimensions, conditions.

A line is ``gguf-name transformers-name dimensions [tag…]``, dimensions row-major. Symbols: V words,
H width, I inner width, Q all query heads, K all key heads, W all value heads, O what attention puts
out, D one head, C positions, T token types, E experts, M inner width of an expert, S of the shared
one, L compressed keys and values, R rotated part of a key, N the rest of it, A compressed queries,
X query heads. Tags: ``?`` need not be there, ``dense`` and ``moe`` blocks of that kind only,
``ql``/``noql`` with and without compressed queries, ``shared`` with shared experts, ``T`` stored
inputs first by transformers. ``{e}`` numbers experts, which llama.cpp stacks.

Sources: modeling_*.py of transformers 4.57, constants.py and tensor_mapping.py of gguf-py 0.19.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of an architecture; `dims` are sums and products of symbols."""

    gguf: str
    hf: str
    dims: tuple[str, ...]
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Layout:
    """One architecture.

    Attributes:
        top: tensors that are there once; `block`: those of each block.
        place: where transformers puts block N: ``layers.N.``.
        kv_heads: key and value heads where a configuration leaves them out; 0 as many as heads.
        head: elements of a head where a configuration leaves them out; 0 width by heads.
        permuted: llama.cpp pairs up the rows of q and k.
        added: llama.cpp adds one to the norms' weights.
    """

    top: tuple[TensorRow, ...]
    block: tuple[TensorRow, ...]
    place: str = "layers.{}."
    kv_heads: int = 0
    head: int = 0
    permuted: bool = False
    added: bool = False


def _rows(*texts: str) -> tuple[TensorRow, ...]:
    rows = []
    for line in "\n".join(texts).splitlines():
        parts = line.split()
        if parts:
            rows.append(
                TensorRow(parts[0], parts[1], tuple(parts[2].split(",")), frozenset(parts[3:]))
            )
    return tuple(rows)


_TOP = """
token_embd.weight embed_tokens.weight V,H
output_norm.weight norm.weight H
output.weight lm_head.weight V,H head
"""
_TOP_BARE = """
token_embd.weight embed_tokens.weight V,H
output.weight lm_head.weight V,H head
"""
_NORMS = """
attn_norm.weight input_layernorm.weight H
ffn_norm.weight post_attention_layernorm.weight H
"""
_FOUR_NORMS = """
attn_norm.weight input_layernorm.weight H
post_attention_norm.weight post_attention_layernorm.weight H
ffn_norm.weight pre_feedforward_layernorm.weight H
post_ffw_norm.weight post_feedforward_layernorm.weight H
"""
_AFTER_NORMS = """
post_attention_norm.weight post_attention_layernorm.weight H
post_ffw_norm.weight post_feedforward_layernorm.weight H
"""
_ATTENTION = """
attn_q.weight self_attn.q_proj.weight Q,H
attn_k.weight self_attn.k_proj.weight K,H
attn_v.weight self_attn.v_proj.weight W,H
attn_output.weight self_attn.o_proj.weight H,O
"""
_BIASES = """
attn_q.bias self_attn.q_proj.bias Q
attn_k.bias self_attn.k_proj.bias K
attn_v.bias self_attn.v_proj.bias W
"""
_HEAD_NORMS = """
attn_q_norm.weight self_attn.q_norm.weight D
attn_k_norm.weight self_attn.k_norm.weight D
"""
_WIDE_NORMS = """
attn_q_norm.weight self_attn.q_norm.weight Q
attn_k_norm.weight self_attn.k_norm.weight K
"""
_FEED = """
ffn_gate.weight mlp.gate_proj.weight I,H dense
ffn_up.weight mlp.up_proj.weight I,H dense
ffn_down.weight mlp.down_proj.weight H,I dense
"""
_EXPERTS = """
ffn_gate_inp.weight mlp.gate.weight E,H moe
ffn_gate_exps.weight mlp.experts.{e}.gate_proj.weight E,M,H moe
ffn_up_exps.weight mlp.experts.{e}.up_proj.weight E,M,H moe
ffn_down_exps.weight mlp.experts.{e}.down_proj.weight E,H,M moe
"""
_MIXTRAL = """
ffn_gate_inp.weight block_sparse_moe.gate.weight E,H moe
ffn_gate_exps.weight block_sparse_moe.experts.{e}.w1.weight E,M,H moe
ffn_up_exps.weight block_sparse_moe.experts.{e}.w3.weight E,M,H moe
ffn_down_exps.weight block_sparse_moe.experts.{e}.w2.weight E,H,M moe
"""
_QWEN_SHARED = """
ffn_gate_inp_shexp.weight mlp.shared_expert_gate.weight 1,H moe ?
ffn_gate_shexp.weight mlp.shared_expert.gate_proj.weight S,H moe shared
ffn_up_shexp.weight mlp.shared_expert.up_proj.weight S,H moe shared
ffn_down_shexp.weight mlp.shared_expert.down_proj.weight H,S moe shared
"""
_DEEPSEEK_SHARED = """
exp_probs_b.bias mlp.gate.e_score_correction_bias E moe ?
ffn_gate_shexp.weight mlp.shared_experts.gate_proj.weight S,H moe shared
ffn_up_shexp.weight mlp.shared_experts.up_proj.weight S,H moe shared
ffn_down_shexp.weight mlp.shared_experts.down_proj.weight H,S moe shared
"""
_MLA = """
attn_q.weight self_attn.q_proj.weight X*N+X*R,H noql
attn_q_a.weight self_attn.q_a_proj.weight A,H ql
attn_q_a_norm.weight self_attn.q_a_layernorm.weight A ql
attn_q_b.weight self_attn.q_b_proj.weight X*N+X*R,A ql
attn_kv_a_mqa.weight self_attn.kv_a_proj_with_mqa.weight L+R,H
attn_kv_a_norm.weight self_attn.kv_a_layernorm.weight L
attn_kv_b.weight self_attn.kv_b_proj.weight X*N+X*D,L whole
attn_k_b.weight - X,L,N split
attn_v_b.weight - X,D,L split
attn_output.weight self_attn.o_proj.weight H,X*D
"""
_PHI3 = """
attn_qkv.weight self_attn.qkv_proj.weight Q+K+W,H
attn_output.weight self_attn.o_proj.weight H,O
ffn_up.weight mlp.gate_up_proj.weight 2*I,H
ffn_down.weight mlp.down_proj.weight H,I
"""
_NEOX_TOP = """
token_embd.weight embed_in.weight V,H
output_norm.weight final_layer_norm.weight H
output_norm.bias final_layer_norm.bias H
output.weight embed_out.weight V,H head
"""
_NEOX = """
attn_norm.weight input_layernorm.weight H
attn_norm.bias input_layernorm.bias H
ffn_norm.weight post_attention_layernorm.weight H
ffn_norm.bias post_attention_layernorm.bias H
attn_qkv.weight attention.query_key_value.weight 3*H,H
attn_qkv.bias attention.query_key_value.bias 3*H bias
attn_output.weight attention.dense.weight H,H
attn_output.bias attention.dense.bias H bias
ffn_up.weight mlp.dense_h_to_4h.weight I,H
ffn_up.bias mlp.dense_h_to_4h.bias I
ffn_down.weight mlp.dense_4h_to_h.weight H,I
ffn_down.bias mlp.dense_4h_to_h.bias H
"""
_GPT2_TOP = """
token_embd.weight wte.weight V,H
position_embd.weight wpe.weight C,H
output_norm.weight ln_f.weight H
output_norm.bias ln_f.bias H
output.weight lm_head.weight V,H ?
"""
_GPT2 = """
attn_norm.weight ln_1.weight H
attn_norm.bias ln_1.bias H
ffn_norm.weight ln_2.weight H
ffn_norm.bias ln_2.bias H
attn_qkv.weight attn.c_attn.weight 3*H,H T
attn_qkv.bias attn.c_attn.bias 3*H
attn_output.weight attn.c_proj.weight H,H T
attn_output.bias attn.c_proj.bias H
ffn_up.weight mlp.c_fc.weight I,H T
ffn_up.bias mlp.c_fc.bias I
ffn_down.weight mlp.c_proj.weight H,I T
ffn_down.bias mlp.c_proj.bias H
"""
_BERT_TOP = """
token_embd.weight embeddings.word_embeddings.weight V,H
position_embd.weight embeddings.position_embeddings.weight C,H
token_types.weight embeddings.token_type_embeddings.weight T,H
token_embd_norm.weight embeddings.LayerNorm.weight H
token_embd_norm.bias embeddings.LayerNorm.bias H
"""
_BERT = """
attn_q.weight attention.self.query.weight H,H
attn_q.bias attention.self.query.bias H
attn_k.weight attention.self.key.weight H,H
attn_k.bias attention.self.key.bias H
attn_v.weight attention.self.value.weight H,H
attn_v.bias attention.self.value.bias H
attn_output.weight attention.output.dense.weight H,H
attn_output.bias attention.output.dense.bias H
attn_output_norm.weight attention.output.LayerNorm.weight H
attn_output_norm.bias attention.output.LayerNorm.bias H
ffn_up.weight intermediate.dense.weight I,H
ffn_up.bias intermediate.dense.bias I
ffn_down.weight output.dense.weight H,I
ffn_down.bias output.dense.bias H
layer_output_norm.weight output.LayerNorm.weight H
layer_output_norm.bias output.LayerNorm.bias H
"""

_T = _rows(_TOP)
_LLAMA = _rows(_NORMS, _ATTENTION, _FEED)
_QWEN3 = _rows(_NORMS, _ATTENTION, _HEAD_NORMS, _FEED)
_QWEN2_MOE = _rows(_NORMS, _ATTENTION, _BIASES, _FEED, _EXPERTS, _QWEN_SHARED)
_QWEN3_MOE = _rows(_NORMS, _ATTENTION, _HEAD_NORMS, _FEED, _EXPERTS)
_OLMOE = _rows(_NORMS, _ATTENTION, _WIDE_NORMS, _EXPERTS)
_OLMO2 = Layout(_T, _rows(_AFTER_NORMS, _ATTENTION, _WIDE_NORMS, _FEED))
_GEMMA3 = _rows(_FOUR_NORMS, _ATTENTION, _HEAD_NORMS, _FEED)
_DEEPSEEK = Layout(_T, _rows(_NORMS, _MLA, _FEED, _EXPERTS, _DEEPSEEK_SHARED), kv_heads=-1)
_MIXED = Layout(_T, _rows(_NORMS, _ATTENTION, _FEED, _MIXTRAL), permuted=True)

BY_MODEL_TYPE: Final[Mapping[str, Layout]] = {
    "llama": Layout(_T, _LLAMA, permuted=True),
    "mistral": Layout(_T, _LLAMA, kv_heads=8, permuted=True),
    "smollm3": Layout(_T, _LLAMA, kv_heads=4, permuted=True),
    "granite": Layout(_T, _LLAMA, permuted=True),
    "mixtral": Layout(_T, _MIXED.block, kv_heads=8, permuted=True),
    "qwen2": Layout(_T, _rows(_NORMS, _ATTENTION, _BIASES, _FEED), kv_heads=32),
    "qwen3": Layout(_T, _QWEN3, kv_heads=32, head=128),
    "qwen2_moe": Layout(_T, _QWEN2_MOE, kv_heads=16),
    "qwen3_moe": Layout(_T, _QWEN3_MOE, kv_heads=4),
    "gemma": Layout(_T, _LLAMA, kv_heads=16, head=256, added=True),
    "gemma2": Layout(_T, _rows(_FOUR_NORMS, _ATTENTION, _FEED), kv_heads=4, head=256, added=True),
    "gemma3_text": Layout(_T, _GEMMA3, kv_heads=4, head=256, added=True),
    "olmo": Layout(_rows(_TOP_BARE), _rows(_ATTENTION, _FEED), permuted=True),
    "olmo2": _OLMO2,
    "olmo3": _OLMO2,
    "olmoe": Layout(_T, _OLMOE),
    "phi3": Layout(_T, _rows(_NORMS, _PHI3)),
    "gpt_neox": Layout(_rows(_NEOX_TOP), _rows(_NEOX)),
    "gpt2": Layout(_rows(_GPT2_TOP), _rows(_GPT2), "h.{}."),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "bert": Layout(_rows(_BERT_TOP), _rows(_BERT), "encoder.layer.{}."),
}
"""By ``model_type`` of config.json."""

BY_GGUF: Final[Mapping[str, Layout]] = {
    "llama": _MIXED,
    "smollm3": BY_MODEL_TYPE["smollm3"],
    "granite": BY_MODEL_TYPE["granite"],
    "qwen2": BY_MODEL_TYPE["qwen2"],
    "qwen3": BY_MODEL_TYPE["qwen3"],
    "qwen2moe": BY_MODEL_TYPE["qwen2_moe"],
    "qwen3moe": BY_MODEL_TYPE["qwen3_moe"],
    "gemma": BY_MODEL_TYPE["gemma"],
    "gemma2": BY_MODEL_TYPE["gemma2"],
    "gemma3": BY_MODEL_TYPE["gemma3_text"],
    "olmo": BY_MODEL_TYPE["olmo"],
    "olmo2": _OLMO2,
    "olmoe": BY_MODEL_TYPE["olmoe"],
    "phi3": BY_MODEL_TYPE["phi3"],
    "gptneox": BY_MODEL_TYPE["gpt_neox"],
    "gpt2": BY_MODEL_TYPE["gpt2"],
    "deepseek2": _DEEPSEEK,
    "bert": BY_MODEL_TYPE["bert"],
}
"""By ``general.architecture`` of a GGUF header."""

GGUF_NAMES: Final[Mapping[str, str]] = {
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "olmo3": "olmo2",
    "gpt_neox": "gptneox",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
}
"""llama.cpp's name of a ``model_type`` that it calls otherwise."""
