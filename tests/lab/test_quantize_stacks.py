"""Matrices in stacks that are no experts, and what llama.cpp says of a file before it is made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from overt.errors import EngineFailed
from overt.formats import gguf
from overt.formats.ggml import TYPES as TENSOR_TYPES
from overt.lab.quantize import estimate, host, imatrix, parameters, types, worker
from overt.settings import Settings

HEADS, PART, VALUE, RANK = 4, 32, 64, 32
"""Heads, elements of a head that are turned and that are not, of its value, of what is cached."""
SIZES = {"width": 256, "inner": 256, "layers": 1}


def split(arrays: dict[str, Any]) -> dict[str, Any]:
    """The tiny DeepSeek with latent attention as llama.cpp has it since 2025: keys and values of
    each head in a stack, and queries by way of a smaller space."""
    found = {}
    for name, array in arrays.items():
        if name.endswith("attn_q.weight"):
            found |= {name.replace("attn_q", "attn_q_a"): array,
                      name.replace("attn_q", "attn_q_a_norm"): np.ones(256, np.float32),
                      name.replace("attn_q", "attn_q_b"): array[::-1]}  # fmt: skip
        elif name.endswith("attn_kv_b.weight"):
            both = array.reshape(HEADS, PART + VALUE, RANK)
            found[name.replace("kv_b", "k_b")] = both[:, :PART].transpose(0, 2, 1)
            found[name.replace("kv_b", "v_b")] = both[:, PART:]
        else:
            found[name] = array
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


@pytest.fixture(scope="module")
def latent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    about = {
        "head_count_kv": 1, "q_lora_rank": 256, "key_length": RANK + PART, "value_length": RANK,
        "key_length_mla": 2 * PART, "value_length_mla": VALUE,
    }  # fmt: skip
    return tiny_models.gguf(
        tmp_path_factory.mktemp("latent") / "latent.gguf", "deepseek_v2", "F32", seed=3,
        metadata={f"deepseek2.attention.{key}": value for key, value in about.items()}
        | {"deepseek2.rope.dimension_count": PART},
        edit_gguf=split, **SIZES,
    )  # fmt: skip


def test_the_matrices_of_a_stack_have_sums_of_their_own_and_what_is_made_was_foreseen(
    latent: Path, tmp_path: Path, home: Path
) -> None:
    settings, header = Settings(home=home), gguf.read(latent)
    windows = [[int(one) for one in np.random.default_rng(1).integers(4, 112, 64)]] * 2
    target = tmp_path / "imatrix.gguf"
    task = worker.Task(
        "collect", {"windows": windows, "about": "x"}, "collecting", made={host.IMATRIX: target},
        **worker.computing(latent, header, 64, 1, collect=True),
    )  # fmt: skip
    worker.carry_out(task, settings)
    found, lacks = imatrix.check(target, header)
    assert lacks == ()
    assert found.entries["blk.0.attn_k_b.weight"].size == HEADS * PART
    assert found.entries["blk.0.attn_v_b.weight"].size == HEADS * RANK
    # What goes into the keys of a head is the part of its query that is not turned.
    weights = split(tiny_models.as_gguf(
        "deepseek_v2", tiny_models.weights("deepseek_v2", 3, **SIZES), HEADS, HEADS
    ))  # fmt: skip
    x = weights["token_embd.weight"][windows[0]].astype(np.float64)
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    x = (x * weights["blk.0.attn_norm.weight"]) @ weights["blk.0.attn_q_a.weight"].T
    x /= np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    query = (x @ weights["blk.0.attn_q_b.weight"].T).reshape(64, HEADS, 2 * PART)[..., :PART]
    np.testing.assert_allclose(
        found.entries["blk.0.attn_k_b.weight"].reshape(HEADS, PART), (query**2).mean(0), rtol=1e-3
    )
    wanted = [types.find(name) for name in ("q4_k_m", "nvfp4", "iq2_xs")]
    given = parameters(wanted[0], tensors=[["ffn_gate", "q6_k"]])
    task = worker.Task(
        "quantize",
        {"source": str(latent), "number": wanted[0].number, "total": 1, "threads": 1,
         "imatrix": str(target), **types.numbers(given)},
        "quantizing", {"threads": 1}, (latent, target), 4 << 30,
        {host.MODEL: tmp_path / "made.gguf"},
    )  # fmt: skip
    worker.carry_out(task, settings)  # llama.cpp refuses a matrix of another size
    made = gguf.read(tmp_path / "made.gguf")
    kinds = {one.name: one.type for one in made.tensors}
    assert kinds["blk.0.attn_k_b.weight"] not in types.PLAIN
    assert kinds["blk.0.ffn_gate.weight"] == "Q6_K"
    told = estimate.foresee(latent, header, wanted, given, settings, importance=False)
    assert "needs an importance matrix" in str(told["iq2_xs"].problem)
    assert "invalid output file type" in str(told["nvfp4"].problem)
    ahead = told["q4_k_m"].header
    assert ahead
    assert {one.name: (one.type, one.size) for one in ahead.tensors} == {
        one.name: (one.type, one.size) for one in made.tensors
    }
    assert ahead.file_size - ahead.data_offset == made.file_size - made.data_offset


# ---- what is foreseen ------------------------------------------------------------------------

_LINES = (
    "[   1/   3] blk.0.ffn_up.weight          - [ 256, 256, 1, 1], type =    f16, ",
    "size =     1.03 MiB ->     0.54 MiB (q3_K)\n",
    "llama_tensor_get_type: applying manual override: q4_K -> q8_0\n",
    "[   2/   3] blk.0.ffn_norm.weight        - [ 256,   1, 1, 1], type =    f32, ",
    "size =    0.001 MiB\n",
    "[   3/   3] a] odd - [name               - [ 256, 256, 1, 1], type =    f32, ",
    "size =     2.00 MiB ->     0.54 MiB (iq2_xxs)\n",
    "llama_model_quantize_impl: quant size  =     1.00 MiB (8.50 BPW)\n",
)


def test_the_lines_of_llama_cpp_are_read() -> None:
    seen = host._TypeDecisions()
    for line in _LINES:
        seen.read(line)
    assert seen.kinds == {
        "blk.0.ffn_up.weight": "q3_K", "blk.0.ffn_norm.weight": "f32", "a] odd - [name": "iq2_xxs",
    }  # fmt: skip
    assert not seen.lacks_importance
    seen.read("WARNING: … actually completing this quantization will require an imatrix!\n")
    assert seen.lacks_importance


@given(st.lists(st.sampled_from(_LINES) | st.text(alphabet="[]() ->size=/\n1ab", max_size=30)))
def test_any_lines_are_read_or_passed_over(lines: list[str]) -> None:
    seen = host._TypeDecisions()
    for line in lines:
        seen.read(line)
    json.dumps(seen.kinds)


_KINDS = st.dictionaries(
    st.sampled_from(["output.weight", "x"]), st.text(max_size=5) | st.integers() | st.none()
)


@given(st.none() | st.fixed_dictionaries({}, optional={
    "kinds": _KINDS | st.integers() | st.none(), "problem": st.text(max_size=400) | st.integers(),
    "lacks_importance": st.booleans(),
}))  # fmt: skip
def test_a_worker_that_says_anything_is_not_believed(told: dict[str, Any] | None) -> None:
    tensor = gguf.GgufTensor("output.weight", (256, 4), "F16", 0, 2048)
    header = gguf.GgufHeader(Path("x"), 3, {}, (tensor,), 64, 32, 64 + 2048)
    try:
        found = estimate._foreseen(header, told)
    except EngineFailed:
        return
    assert (found.header is None) != (found.problem is None)
    assert not found.unread or found.problem
    if found.header:
        (made,) = found.header.tensors
        assert made.type in {kind.name for kind in TENSOR_TYPES.values()}


def test_a_tensor_that_is_not_told_of_costs_its_type_alone_and_no_table() -> None:
    tensor = gguf.GgufTensor("output.weight", (256, 4), "F16", 0, 2048)
    header = gguf.GgufHeader(Path("x"), 3, {}, (tensor,), 64, 32, 64 + 2048)
    found = estimate._foreseen(header, {"kinds": {"output.weight": "new_type"}})
    assert found.unread
    assert found.problem
    assert "output.weight" in found.problem.message
    assert found.problem.hint
