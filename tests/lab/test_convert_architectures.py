"""Converting decoders: llama.cpp on our file beside transformers on the release, number by number.

The engine computes GELU by a table of 16-bit floats, so that Gemma's logits differ more than the
others'; everything else agrees to rounding.
"""

import contextlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gguf_split
import llamacpp_logits
from oracle_models import CASES, IDS, Oracle, logits
from overt.errors import FormatError, Unsupported
from overt.formats import gguf
from overt.lab.convert import step
from overt.models import pull
from overt.models.recipe import Input, Recipe
from overt.nets import load, weights
from overt.provenance.steps import StepContext, StepInput
from overt.settings import Settings
from overt.settings import load as load_settings

Find = Callable[[str], Oracle]
EXACT, TABLE = 1e-4, 1e-2
"""The largest |difference| of a logit; theirs are up to 12."""


def release(folder: Path) -> StepInput:
    """A folder as a step is given it."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.*"))}
    return StepInput(next(iter(files.values())), None, files)


def converted(folder: Path, target: Path, type: step.Type = "f32") -> Path:
    step.write(step.parts(release(folder)), target, type, lambda _: None)
    return target


def copied(model: Oracle, target: Path) -> Path:
    """A copy of a release that may be changed."""
    return Path(shutil.copytree(model.folder, target))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewritten(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change the tensors of a safetensors file."""
    from safetensors.numpy import load_file, save_file

    save_file(change(load_file(path)), path)


@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_computes_what_transformers_computes(
    oracle: Find, name: str, tmp_path: Path
) -> None:
    model = oracle(name)
    made = converted(model.folder, tmp_path / "model.gguf")
    found = llamacpp_logits.logits(made, IDS)
    assert np.abs(found - model.logits).max() < (TABLE if name.startswith("gemma") else EXACT)
    assert np.abs(logits(load.from_gguf(made)) - model.logits).max() < EXACT


def test_gemma_differs_by_the_engines_table_of_gelu(
    oracle: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from overt.nets import transformer

    made = converted(oracle("gemma").folder, tmp_path / "model.gguf")
    engine = llamacpp_logits.logits(made, IDS)
    exact = np.abs(logits(load.from_gguf(made)) - engine).max()
    gelu = transformer.functional.gelu
    monkeypatch.setattr(
        transformer.functional,
        "gelu",
        lambda x, approximate: gelu(x.half().float(), approximate=approximate).half().float(),
    )
    assert np.abs(logits(load.from_gguf(made)) - engine).max() < exact / 5


@pytest.mark.parametrize("name", ["llama, llama3", "gemma3", "olmo", "olmo2, tied"])
def test_the_numbers_come_back_as_they_were(oracle: Find, name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = oracle(name)
    found = dict(load.state(converted(model.folder, tmp_path / "model.gguf")))
    for tensor, array in load_file(model.files[0]).items():
        np.testing.assert_allclose(found.pop(tensor), array, atol=1e-6 * name.startswith("gemma"))
    assert set(found) <= {"lm_head.weight"}  # which olmo2 holds although it is the embedding


@pytest.mark.parametrize(
    ("type", "stored", "most"),
    [("f16", "F16", 1e-3), ("bf16", "BF16", 8e-3), ("q8_0", "Q8_0", 8e-3)],
)
def test_matrices_get_smaller_and_norms_do_not(
    oracle: Find, type: step.Type, stored: str, most: float, tmp_path: Path
) -> None:
    model = oracle("qwen3")
    made = converted(model.folder, tmp_path / "model.gguf", type)
    types = {tensor.name: tensor.type for tensor in gguf.read(made).tensors}
    assert {kind for name, kind in types.items() if "norm" in name} == {"F32"}
    assert {kind for name, kind in types.items() if "norm" not in name} == {stored}
    whole = dict(load.state(converted(model.folder, tmp_path / "whole.gguf")))
    for name, array in load.state(made):
        assert np.abs(array - whole[name]).max() <= most * np.abs(whole[name]).max(), name
    assert gguf.read(made).file_type == stored
    assert np.isfinite(llamacpp_logits.logits(made, IDS)).all()


def test_rows_that_blocks_do_not_divide_keep_16_bits(oracle: Find, tmp_path: Path) -> None:
    folder = copied(oracle("llama"), tmp_path / "model")
    edit(folder / "config.json", intermediate_size=90)
    rewritten(
        folder / "model.safetensors",
        lambda found: {
            name: array[:, :90].copy() if "down" in name
            else array[:90].copy() if "gate" in name or "up_proj" in name else array
            for name, array in found.items()
        },
    )  # fmt: skip
    made = converted(folder, tmp_path / "model.gguf", "q8_0")
    types = {tensor.name: tensor.type for tensor in gguf.read(made).tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"


def test_small_blocks_give_the_same_bytes(
    oracle: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = converted(oracle("llama").folder, tmp_path / "once.gguf", "q8_0").read_bytes()
    monkeypatch.setattr(weights, "_BLOCK", 64 * 20)  # a head has 16 rows of 64
    assert converted(oracle("llama").folder, tmp_path / "again.gguf", "q8_0").read_bytes() == once


def test_several_files_are_one_model(oracle: Find, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    model = oracle("gemma2")
    whole = converted(model.folder, tmp_path / "whole.gguf").read_bytes()
    folder = copied(model, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    placed = {name: names[number % 3] for number, name in enumerate(tensors)}
    for file in names:
        save_file({n: a for n, a in tensors.items() if placed[n] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    assert converted(folder, tmp_path / "parts.gguf").read_bytes() == whole
    (folder / names[1]).unlink()
    with pytest.raises(FormatError, match=names[1]):
        converted(folder, tmp_path / "parts.gguf")


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_language_model_of_one_that_sees(oracle: Find, prefix: str, tmp_path: Path) -> None:
    model = oracle("gemma3")
    plain = converted(model.folder, tmp_path / "plain.gguf").read_bytes()
    folder = copied(model, tmp_path / "model")
    rewritten(
        folder / "model.safetensors",
        lambda found: (
            {prefix + name.removeprefix("model."): a for name, a in found.items()}
            | {"vision_tower.x": np.zeros(3, np.float32)}
        ),
    )
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": model.config}
    (folder / "config.json").write_text(json.dumps(outer))
    assert converted(folder, tmp_path / "inner.gguf").read_bytes() == plain
    notes: list[Any] = []
    recipe = Recipe("convert", "3", (Input("from", "sha256:" + "0" * 64),), {"type": "f32"})
    step.STEP.run(
        StepContext(recipe, (release(folder),), tmp_path, lambda _: None, Settings(), notes.append)
    )
    (note,) = notes
    assert note["text"].startswith("what sees images is left out (1 tensors)")


def test_a_split_model_is_read_as_one(oracle: Find, tmp_path: Path) -> None:
    made = converted(oracle("llama, llama3").folder, tmp_path / "model.gguf")
    parts = gguf_split.cut(made, tmp_path / "parts", 3)
    pairs = zip(load.state(made), load.state(parts[0]), strict=True)
    assert all(one == other and np.array_equal(a, b) for (one, a), (other, b) in pairs)
    assert load.from_gguf(parts[0]).shape == load.from_gguf(made).shape


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma3", "olmo"])
def test_blocks_that_are_kept_compute_the_same(oracle: Find, name: str, tmp_path: Path) -> None:
    made = converted(oracle(name).folder, tmp_path / "model.gguf", "q8_0")
    kept = load.from_gguf(made, keep_quantized=True)
    assert type(kept.model.layers[0].self_attn.q_proj).__name__ == "Quantized"
    assert np.abs(logits(kept) - logits(load.from_gguf(made))).max() < 1e-5


# ---- the step ------------------------------------------------------------------------------


def test_a_folder_becomes_a_model_of_the_store(oracle: Find, home: Path, tmp_path: Path) -> None:
    folder = copied(oracle("olmo2"), tmp_path / "model")
    here = load_settings({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"})
    made = step.convert(str(folder), "mine", here, "q8_0")
    assert made.weights.path == "model-q8_0.gguf"
    found = pull.find("mine", here)
    assert gguf.read(found.weights).architecture == "olmo2"
    assert pull.find("mine-safetensors", here).weights.read_bytes() == (
        (folder / "model.safetensors").read_bytes()
    )
    assert step.convert("mine-safetensors", "again", here, "q8_0").weights == made.weights
    with pytest.raises(FormatError, match="needs no converting"):
        step.convert("mine", "other", here)


def test_the_step_knows_its_types(oracle: Find, tmp_path: Path) -> None:
    recipe = Recipe("convert", "3", (), {"type": "q2"})
    work = StepContext(recipe, (), tmp_path, lambda _: None, Settings(), lambda _: None)
    with pytest.raises(FormatError, match="q2"):
        step.STEP.run(work)
    strange = StepContext(
        Recipe("convert", "3", (), {"pre": "a b"}), (), tmp_path, lambda _: None, Settings(),
        lambda _: None,
    )  # fmt: skip
    with pytest.raises(FormatError, match="no name of a pre-tokenizer"):
        step.STEP.run(strange)
    assert step.STEP.tolerance(recipe) == 0


# ---- what is refused -----------------------------------------------------------------------


def lost(found: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in found.items() if "layers.1.mlp" not in name}


def more(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}


def twice(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "norm.weight": found["model.norm.weight"]}


def cut(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "model.norm.weight": found["model.norm.weight"][:32].copy()}


def endless(found: dict[str, Any]) -> dict[str, Any]:
    found["model.norm.weight"][3] = np.inf
    return found


def large(found: dict[str, Any]) -> dict[str, Any]:
    found["lm_head.weight"][3] = 1e5
    return found


def whole_numbers(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "model.norm.weight": np.ones(64, np.int32)}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lost, "lack model.layers.1.mlp.gate_proj.weight and 2 more"), (more, "has no place"),
        (twice, "is there twice"), (cut, r"shape \(32,\)"), (endless, "infinite or none"),
        (large, "f16 ends at"), (whole_numbers, "is I32"),
    ],
)  # fmt: skip
def test_tensors_that_contradict_the_config_are_refused(
    oracle: Find, change: Callable[..., Any], word: str, tmp_path: Path
) -> None:
    folder = copied(oracle("llama"), tmp_path / "model")
    rewritten(folder / "model.safetensors", change)
    with pytest.raises(FormatError, match=word):
        converted(folder, tmp_path / "model.gguf", "f16")


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("config.json", None, "no config.json"), ("config.json", "[]", "no object"),
        ("config.json", "{", "not JSON"), ("model.safetensors", None, "no safetensors weights"),
    ],
)  # fmt: skip
def test_a_release_that_lacks_a_part_is_refused(
    oracle: Find, file: str, content: str | None, word: str, tmp_path: Path
) -> None:
    folder = copied(oracle("llama"), tmp_path / "model")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(FormatError, match=word):
        converted(folder, tmp_path / "model.gguf")


def test_a_gguf_file_with_a_tensor_too_many_is_not_computed(oracle: Find, tmp_path: Path) -> None:
    made = converted(oracle("llama").folder, tmp_path / "model.gguf")
    data = made.read_bytes().replace(b"blk.1.attn_v.weight", b"blk.1.attn_x.weight")
    made.write_bytes(data)
    with pytest.raises(Unsupported, match="attn_x"):
        list(load.blocks(made))


@pytest.fixture(scope="module")
def small(oracle: Find, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    folder = copied(oracle("llama"), tmp_path_factory.mktemp("hostile") / "model")
    return folder, (folder / "model.safetensors").read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=3),
       st.booleans(), st.integers(-40, 40))  # fmt: skip
def test_a_damaged_safetensors_file_is_read_or_refused(
    small: tuple[Path, bytes], changes: list[tuple[float, bytes]], in_header: bool, longer: int
) -> None:
    folder, raw = small
    length = 8 + struct.unpack("<Q", raw[:8])[0] if in_header else len(raw)
    data = bytearray(raw)
    for where, new in changes:
        at = int(where * (length - 1))
        data[at : at + len(new)] = new
    (folder / "model.safetensors").write_bytes(
        data[:longer] if longer < 0 else data + b"{" * longer
    )
    with contextlib.suppress(FormatError, Unsupported):
        converted(folder, folder.parent / "model.gguf", "f16")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=3),
       st.integers(0, 40))  # fmt: skip
def test_a_damaged_gguf_file_is_read_or_refused(
    small: tuple[Path, bytes], changes: list[tuple[float, bytes]], shorter: int
) -> None:
    folder, raw = small
    (folder / "model.safetensors").write_bytes(raw)
    whole = folder.parent / "whole.gguf"
    if not whole.exists():
        converted(folder, whole)
    data = bytearray(whole.read_bytes())
    for where, new in changes:
        at = int(where * (12_000 - 1))  # metadata and the table of tensors
        data[at : at + len(new)] = new
    broken = folder.parent / "broken.gguf"
    broken.write_bytes(data[: len(data) - shorter])
    with contextlib.suppress(FormatError, Unsupported):
        assert all(np.isfinite(block).all() for _, _, block in load.blocks(broken))
