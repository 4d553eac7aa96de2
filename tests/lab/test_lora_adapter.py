"""Adapters between peft and GGUF: both compute the same, and nothing is lost on the way back.

Oracles: peft (adapters, their logits) and llama.cpp (`llama_adapter_lora_init`).
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llamacpp_logits
import words_rig
from oracle_models import CASES, IDS, Oracle
from overt.errors import FormatError, OvertError, Unsupported, UsageError
from overt.formats import gguf
from overt.lab.convert import adapter, step
from overt.models import pull
from overt.provenance.steps import StepInput
from overt.settings import load

pytest.importorskip("peft")
pytest.importorskip("llama_cpp_py_sync")
Find = Callable[[str], Oracle]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NAMES = [name for name in CASES if "," not in name]
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """peft asks transformers for what it calls old, and warns of merges that nobody does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Trained:
    """An adapter of peft for one of the oracle's models, and what both compute."""

    def __init__(self, model: Oracle, place: Path, **told: Any) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        self.base, self.folder = place / "base.gguf", place / "adapter"
        files = {path.name: path for path in sorted(model.folder.iterdir()) if path.is_file()}
        given = StepInput(model.folder, None, files)
        step.write(step.parts(given), self.base, "f32", lambda _: None)
        torch.manual_seed(1)
        plain = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
        plan = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ALL, **told})
        with quiet():
            made = get_peft_model(plain, plan).eval()
        with torch.no_grad():
            for name, number in made.named_parameters():
                if "lora_" in name:
                    number.copy_(0.1 * torch.randn_like(number))
            self.logits = made(torch.tensor([IDS])).logits[0].numpy()
        with quiet():
            made.save_pretrained(self.folder)
        self.model = model

    def to_gguf(self, target: Path) -> Path:
        adapter.to_gguf(
            self.folder / adapter.WEIGHTS, self.folder / adapter.CONFIG, self.base, target
        )
        return target


@pytest.fixture(scope="module")
def trained(oracle: Find, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    kept: dict[str, Trained] = {}

    def get(name: str, **told: Any) -> Trained:
        key = f"{name} {sorted(told.items())}"
        if key not in kept:
            kept[key] = Trained(oracle(name), tmp_path_factory.mktemp("lora"), **told)
        return kept[key]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_both_compute_the_same(trained: Callable[..., Trained], name: str, tmp_path: Path) -> None:
    from peft import PeftModel
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    one = trained(name)
    made = one.to_gguf(tmp_path / "adapter.gguf")
    found = llamacpp_logits.logits(one.base, IDS, adapter=made)
    assert np.abs(one.logits - one.model.logits).max() > 0.3  # the adapter does something
    assert np.abs(found - one.logits).max() < (1e-2 if name.startswith("gemma") else 1e-4)
    adapter.to_peft(made, one.base, tmp_path / "back")
    old, new = (load_file(folder / adapter.WEIGHTS) for folder in (one.folder, tmp_path / "back"))
    assert old.keys() == new.keys()
    assert all(np.array_equal(old[key], new[key]) for key in old)
    if name == "llama":
        import torch

        plain = AutoModelForCausalLM.from_pretrained(one.model.folder, dtype=torch.float32)
        with quiet():
            again = PeftModel.from_pretrained(plain, tmp_path / "back").eval()
        with torch.no_grad():
            logits = again(torch.tensor([IDS])).logits[0].numpy()
        assert np.array_equal(logits, one.logits)


@pytest.mark.parametrize(
    "told",
    [
        {"use_rslora": True},
        {"target_modules": ["embed_tokens", "lm_head", "k_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        {"r": 3, "lora_alpha": 7},
    ],
)
def test_other_kinds(
    trained: Callable[..., Trained], told: Mapping[str, Any], tmp_path: Path
) -> None:
    from safetensors.numpy import load_file

    one = trained("olmo", **told)
    made = one.to_gguf(tmp_path / "adapter.gguf")
    assert np.abs(llamacpp_logits.logits(one.base, IDS, adapter=made) - one.logits).max() < 1e-4
    adapter.to_peft(made, one.base, tmp_path / "back", "base")
    old, new = (load_file(folder / adapter.WEIGHTS) for folder in (one.folder, tmp_path / "back"))
    lora = {key for key in old if ".lora_" in key}
    assert lora == new.keys()
    assert all(np.array_equal(old[key], new[key]) for key in lora)
    config = json.loads((tmp_path / "back" / adapter.CONFIG).read_text())
    scale = 7 / 3 if told.get("r") else 12 / (2 if told.get("use_rslora") else 4)
    assert config["lora_alpha"] / config["r"] == pytest.approx(scale, rel=1e-6)
    twice = tmp_path / "twice.gguf"
    back = tmp_path / "back"
    adapter.to_gguf(back / adapter.WEIGHTS, back / adapter.CONFIG, one.base, twice)
    assert twice.read_bytes() == made.read_bytes()


REFUSED: dict[str, tuple[dict[str, Any], type[OvertError], str]] = {
    "DoRA": ({"use_dora": True}, Unsupported, "DoRA"),
    "biases": ({"bias": "all"}, Unsupported, "biases"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, Unsupported, "whole layers"),
    "several ranks": ({"rank_pattern": {"q_proj": 2}}, Unsupported, "ranks"),
    "a base that moved": ({"init_lora_weights": "pissa_niter_4"}, Unsupported, "its base"),
    "another kind": ({"peft_type": "IA3"}, Unsupported, "IA3"),
    "alpha 0": ({"lora_alpha": 0}, Unsupported, "alpha of 0"),
    "alpha of nothing": ({"lora_alpha": None}, FormatError, "alpha"),
    "another rank": ({"r": 8}, FormatError, "fits the model"),
    "a rank too high": ({"r": 1 << 20}, FormatError, "between 1 and"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_adapter_is_refused(
    trained: Callable[..., Trained], case: str, tmp_path: Path
) -> None:
    one, (change, kind, words) = trained("llama"), REFUSED[case]
    said = json.loads((one.folder / adapter.CONFIG).read_text())
    (tmp_path / adapter.CONFIG).write_text(json.dumps(said | change))
    with pytest.raises(kind, match=words):
        adapter.to_gguf(
            one.folder / adapter.WEIGHTS, tmp_path / adapter.CONFIG, one.base, tmp_path / "x.gguf"
        )


def test_an_adapter_of_another_model_is_refused(
    trained: Callable[..., Trained], tmp_path: Path
) -> None:
    llama, qwen, mine = trained("llama"), trained("qwen3"), tmp_path / "a.gguf"
    files = (llama.folder / adapter.WEIGHTS, llama.folder / adapter.CONFIG)
    with pytest.raises(FormatError, match="fits the model"):
        adapter.to_gguf(*files, qwen.base, mine)
    llama.to_gguf(mine)
    with pytest.raises(FormatError, match=r"a\.gguf is for a llama and .* is a qwen3"):
        adapter.to_peft(mine, qwen.base, tmp_path / "back")
    with pytest.raises(FormatError, match="is no LoRA adapter"):
        adapter.to_peft(llama.base, llama.base, tmp_path / "back")
    with pytest.raises(UsageError, match="there already"):
        adapter.to_peft(mine, llama.base, llama.folder)
    with pytest.raises(FormatError, match="cannot be read"):
        adapter.to_gguf(files[0], tmp_path / "none.json", llama.base, mine)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_embedding_that_is_the_output_too(
    trained: Callable[..., Trained], target: str, tmp_path: Path
) -> None:
    """llama.cpp would lay it over both, or has no place for it."""
    one = trained("llama, tied, wide heads", target_modules=[target])
    with pytest.raises(OvertError, match="embedding"):
        one.to_gguf(tmp_path / "adapter.gguf")


def test_a_tensor_of_nothing_known(trained: Callable[..., Trained], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    one = trained("llama")
    tensors = load_file(one.folder / adapter.WEIGHTS)
    key = min(tensors)
    for name, kind, words in (
        ("layers.0.self_attn.q_proj.lora_magnitude_vector", Unsupported, "pairs"),
        ("layers.9.self_attn.q_proj.lora_A.weight", FormatError, "no such"),
        ("norm.lora_A.weight", FormatError, "one half"),
    ):
        more = {f"base_model.model.model.{name}": tensors[key]}
        save_file(tensors | more, tmp_path / "more.safetensors")
        with pytest.raises(kind, match=words):
            adapter.to_gguf(
                tmp_path / "more.safetensors", one.folder / adapter.CONFIG, one.base,
                tmp_path / "x.gguf",
            )  # fmt: skip
    rest = {name: value for name, value in tensors.items() if name != key}
    save_file(rest, tmp_path / "less.safetensors")
    with pytest.raises(FormatError, match="one half"):
        adapter.to_gguf(
            tmp_path / "less.safetensors", one.folder / adapter.CONFIG, one.base, tmp_path / "x"
        )


# ---- the step and the verb -----------------------------------------------------------------


def test_the_verb_makes_a_model_or_a_file(
    trained: Callable[..., Trained], tmp_path: Path, home: Path, overt_cli: Any
) -> None:
    one = trained("llama")
    assert overt_cli("convert", one.model.folder, "base", "--type", "f32").code == 0
    ran = overt_cli("convert", one.folder, "mine", "--base", "base", "--json")
    assert ran.code == 0, ran
    given = load({"OVERT_HOME": str(home)})
    model = pull.find("mine", given)
    (laid,) = model.parts["adapter"]
    assert laid.read_bytes() == one.to_gguf(tmp_path / "a.gguf").read_bytes()
    assert model.weights == pull.find("base", given).weights
    assert json.loads(overt_cli("replay", "mine", "--json").stdout)["verdict"] == "identical"
    file, back = tmp_path / "adapter.gguf", tmp_path / "back"
    assert overt_cli("convert", one.folder, "--base", "base", "--output", file).code == 0
    assert file.read_bytes() == laid.read_bytes()
    ran = overt_cli("convert", file, "--base", "base", "--to", "safetensors", "--output", back)
    assert ran.code == 0, ran
    assert (back / adapter.WEIGHTS).read_bytes()
    named = tmp_path / "named"
    ran = overt_cli("convert", "mine", "--to", "safetensors", "--output", named)
    assert ran.code == 0, ran
    for name in (adapter.CONFIG, adapter.WEIGHTS):
        assert (named / name).read_bytes() == (back / name).read_bytes()
    for source in ("mine", "base"):
        ran = overt_cli("convert", source, "--to", "safetensors", "--output", file / "below")
        assert ran.code == 1
        assert f"{file / 'below'} cannot be written" in ran.stderr


def test_a_folder_of_peft_that_is_not_there(overt_cli: Any, home: Path) -> None:
    for source in ("./missing", "out/missing"):
        ran = overt_cli("convert", source, "mine", "--base", "base")
        assert ran.code == 3
        assert f"{source} is not there" in ran.stderr


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("for which model", ["x"]),
        ("one place", []),
        ("one place", ["x", "--output", "y"]),
        ("already", ["x", "--base", "base", "--to", "safetensors"]),
        ("no pre-tokenizer", ["x", "--base", "base", "--pre", "llama-bpe"]),
        ("stored as f32, and --type says q8_0", ["x", "--base", "base", "--type", "q8_0"]),
    ],
)
def test_what_the_verb_is_not_told(
    trained: Callable[..., Trained], words: str, options: list[str], home: Path
) -> None:
    from overt.cli.convert import command

    with pytest.raises(UsageError, match=words):
        command.main([str(trained("llama").folder), *options], standalone_mode=False)


# ---- broken files --------------------------------------------------------------------------


@FUZZ
@given(data=st.data())
def test_a_broken_config_is_refused(
    trained: Callable[..., Trained], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    one, place = trained("llama"), tmp_path_factory.mktemp("broken")
    whole = json.loads((one.folder / adapter.CONFIG).read_text())
    (place / "c.json").write_text(json.dumps(data.draw(words_rig.broken(whole))))
    with contextlib.suppress(FormatError, Unsupported):
        adapter.to_gguf(one.folder / adapter.WEIGHTS, place / "c.json", one.base, place / "a.gguf")


@FUZZ
@given(data=st.data())
def test_broken_weights_are_refused(
    trained: Callable[..., Trained], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    one, place = trained("llama"), tmp_path_factory.mktemp("broken")
    whole = (one.folder / adapter.WEIGHTS).read_bytes()
    (place / "w").write_bytes(data.draw(words_rig.damaged(whole, 4000)))
    with contextlib.suppress(FormatError, Unsupported):
        adapter.to_gguf(place / "w", one.folder / adapter.CONFIG, one.base, place / "a.gguf")


@FUZZ
@given(data=st.data())
def test_a_broken_adapter_of_gguf_is_refused(
    trained: Callable[..., Trained], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    one, place = trained("llama"), tmp_path_factory.mktemp("broken")
    whole = one.to_gguf(place / "a.gguf").read_bytes()
    first = gguf.read(place / "a.gguf").data_offset
    (place / "a.gguf").write_bytes(data.draw(words_rig.damaged(whole, first)))
    with contextlib.suppress(FormatError, Unsupported):
        adapter.to_peft(place / "a.gguf", one.base, place / "back")
