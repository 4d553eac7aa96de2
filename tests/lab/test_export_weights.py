"""A GGUF model as a release: transformers loads it, and computes what it computed before.

Oracles: transformers (models of every architecture, and their logits), safetensors, llama.cpp.
"""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llamacpp_logits
import words_rig
from oracle_models import CASES, IDS, Oracle, computed
from overt.errors import FormatError, Unsupported, UsageError
from overt.formats import gguf, safetensors
from overt.lab.convert import export, step
from overt.models import pull
from overt.nets import weights
from overt.provenance.steps import StepInput
from overt.settings import load

pytest.importorskip("gguf")
Find = Callable[[str], Oracle]
ONE_ROUNDING = 2**-22
"""Of a norm around 1 to 32 bits, when 1 is added and taken away; theirs are below 4."""


def converted(folder: Path, target: Path, type: step.Type = "f32") -> Path:
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    step.write(step.parts(StepInput(folder, None, files)), target, type, lambda _: None)
    return target


def exported(source: Path, place: Path, type: export.Type = "f32") -> Path:
    place.mkdir()
    export.write(source, place, type, lambda _: None)
    return place


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(oracle: Find, name: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    model = oracle(name)
    place = exported(converted(model.folder, tmp_path / "model.gguf"), tmp_path / "back")
    found = load_file(place / "model.safetensors")
    for key, old in load_file(model.files[0]).items():
        new = found.pop(key)
        if name.startswith("gemma") and old.ndim == 1:
            assert np.abs(new - old).max() <= ONE_ROUNDING
        else:
            assert np.array_equal(new, old), key
    # llama.cpp wants an output matrix of its own for these
    assert set(found) <= ({"lm_head.weight"} if name == "olmo2, tied" else set())
    kind = {"mistral": "LlamaForCausalLM"}.get(name, model.config["architectures"][0])
    config = json.loads((place / "config.json").read_text())
    assert config["architectures"] == [kind]
    exact = not name.startswith("gemma") and "yarn" not in name and "llama3" not in name
    assert np.abs(computed(place) - model.logits).max() <= (0 if exact else 1e-4)


@pytest.mark.parametrize("type", ["f16", "bf16"])
def test_sixteen_bits_are_rounded_as_torch_rounds(
    oracle: Find, type: export.Type, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    model = oracle("llama")
    source = converted(model.folder, tmp_path / "model.gguf")
    place = exported(source, tmp_path / "back", type)
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[type]
    old = load_file(model.files[0])
    for key, new in load_file(place / "model.safetensors").items():
        assert torch.equal(new, old[key].to(kind)), key
    again = exported(source, tmp_path / "again", type)
    for file in place.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    header = safetensors.read(place / "model.safetensors")
    assert header.metadata == {"format": "pt"}
    assert header.data_offset % 8 == 0


def test_every_half_of_a_number_rounds_to_even() -> None:
    import torch

    bits = np.arange(0x3F800000, 0x3F820000, 0x1000, np.uint32)
    numbers = np.concatenate([bits, bits | 0x80000000, np.array([0, 1, 0x7F7FFFFF], np.uint32)])
    floats = numbers.view(np.float32)
    wanted = torch.from_numpy(floats.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    assert weights.encoded(floats, "BF16", "x") == wanted.tobytes()
    with pytest.raises(FormatError, match="65504"):
        weights.encoded(np.array([7e4], np.float32), "F16", "x")


def test_the_tokenizer_is_loaded_by_transformers(
    tmp_path: Path, oracle: Find, shared_words: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "release"
    folder.mkdir()
    for file in oracle("llama").folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    size = 401
    config = json.loads((folder / "config.json").read_text())
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[key] = np.resize(tensors[key], (size, tensors[key].shape[1]))
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    (folder / "tokenizer.json").write_text(json.dumps(shared_words))
    said = {"eos_token": "<|im_end|>", "chat_template": "{{ messages[0].content }}!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    place = exported(converted(folder, tmp_path / "model.gguf"), tmp_path / "back")
    words = AutoTokenizer.from_pretrained(place)
    assert (words.eos_token, words.bos_token) == ("<|im_end|>", "<|im_start|>")
    with words_rig.native(tmp_path / "model.gguf") as ids:
        for text in (*words_rig.noise(20), "<|im_start|>user"):
            assert words(text)["input_ids"] == ids(text, around=True)
    turn = [{"role": "user", "content": "hello"}]
    assert words.apply_chat_template(turn, tokenize=False) == "hello!"


@pytest.fixture(scope="module")
def shared_words() -> dict[str, Any]:
    return words_rig.over_bytes("smollm")


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(("ref", "most"), [("smollm2", 1e-3), ("gemma3", 0.1)])
def test_a_real_model(
    ref: str, most: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Quantized numbers come out as they are; llama.cpp computes with the very same in F32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: Path = request.getfixturevalue(f"{ref}_gguf")
    place = exported(source, tmp_path / "back")
    text = "".join(words_rig.corpus(8)) + "The capital of France is Paris, and its river "
    ids = AutoTokenizer.from_pretrained(place)(text)["input_ids"][:120]
    with words_rig.native(source) as native:
        assert native(text, around=True)[:120] == ids
    with torch.no_grad():
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    plain = llamacpp_logits.logits(converted(place, tmp_path / "plain.gguf"), ids)
    assert np.abs(plain - wanted).max() < most
    assert (plain.argmax(-1) == wanted.argmax(-1)).all()
    quantized = llamacpp_logits.logits(source, ids)
    assert (quantized.argmax(-1) == wanted.argmax(-1)).mean() > 0.85


# ---- the step and the verb -----------------------------------------------------------------


def test_the_verb_writes_a_folder_or_a_model(
    oracle: Find, tmp_path: Path, home: Path, overt_cli: Any
) -> None:
    folder = oracle("olmo2").folder
    assert overt_cli("convert", folder, "mine", "--type", "f32").code == 0
    place = tmp_path / "written"
    ran = overt_cli("convert", "mine", "--to", "safetensors", "--output", place, "--type", "f32")
    assert ran.code == 0, ran
    assert np.array_equal(computed(place), oracle("olmo2").logits)
    recipe = json.loads((place / "recipe.json").read_text())
    assert (recipe["step"], recipe["parameters"]) == ("export", {"type": "f32"})
    ran = overt_cli("convert", "mine", "back", "--to", "safetensors", "--type", "f32", "--json")
    assert ran.code == 0, ran
    given = load({"OVERT_HOME": str(home)})
    model = pull.find("back", given)
    assert model.weights.read_bytes() == (place / "model.safetensors").read_bytes()
    assert json.loads(overt_cli("replay", "back", "--json").stdout)["verdict"] == "identical"
    # what came out goes in again, to the same bytes
    again = converted(place, tmp_path / "again.gguf")
    assert again.read_bytes() == pull.find("mine", given).weights.read_bytes()


def test_what_cannot_be_exported(oracle: Find, tmp_path: Path, home: Path) -> None:
    given = load({"OVERT_HOME": str(home)})
    source = converted(oracle("llama").folder, tmp_path / "model.gguf")
    with pytest.raises(FormatError, match="not a GGUF model of the store"):
        export.export(str(source), "mine", given)
    with pytest.raises(UsageError, match="there already"):
        export.folder("mine", oracle("llama").folder, given)
    with pytest.raises(Unsupported, match="q4_0"):
        export.write(source, tmp_path, "q4_0", lambda _: None)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_broken_model_is_refused(
    oracle: Find, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("broken")
    whole = converted(oracle("olmo").folder, place / "model.gguf").read_bytes()
    first = gguf.read(place / "model.gguf").data_offset
    (place / "model.gguf").write_bytes(data.draw(words_rig.damaged(whole, first)))
    with contextlib.suppress(FormatError, Unsupported):
        export.write(place / "model.gguf", place, "bf16", lambda _: None)


def test_the_logits_of_an_exported_window(oracle: Find, tmp_path: Path) -> None:
    """A window comes back: the tokens tested are more than it holds."""
    model = oracle("olmo3")
    source = converted(model.folder, tmp_path / "model.gguf")
    place = exported(source, tmp_path / "back")
    config = json.loads((place / "config.json").read_text())
    assert config["sliding_window"] == 8 < len(IDS)
    assert np.abs(llamacpp_logits.logits(source, IDS) - computed(place)).max() < 1e-4
