"""Tiny random models of transformers, one for each architecture and choice that is converted.

transformers is the oracle here: it builds the model, saves it, and says what its logits are.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tiny_models

IDS = tuple(number * 7 % 112 for number in range(48))
"""Longer than every window below."""
_TINY = {
    "vocab_size": 112, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3,
}  # fmt: skip
_WIDE = {**_TINY, "head_dim": 32}
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_WINDOWS = {"sliding_window": 8, "query_pre_attn_scalar": 32}
_THREE, _FOUR = {"num_hidden_layers": 3}, {"num_hidden_layers": 4}

CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "llama": ("Llama", _TINY),
    "llama, tied, wide heads": ("Llama", {**_WIDE, "tie_word_embeddings": True}),
    "llama, linear": ("Llama", {**_TINY, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, llama3": ("Llama", {**_TINY, "rope_scaling": _LLAMA3}),
    "llama, yarn": ("Llama", {**_TINY, "rope_scaling": {**_YARN, "attention_factor": 1.3}}),
    "mistral": ("Mistral", {**_WIDE, "sliding_window": None}),
    "qwen2": ("Qwen2", {**_TINY, "rope_theta": 1e6}),
    "qwen2, tied, yarn": (
        "Qwen2", {**_TINY, "tie_word_embeddings": True, "rope_scaling": _YARN},
    ),
    "qwen3": ("Qwen3", _WIDE),
    "gemma": ("Gemma", _WIDE),
    "gemma2": ("Gemma2", {**_WIDE, **_FOUR, **_WINDOWS}),
    "gemma3": ("Gemma3", {**_WIDE, **_THREE, **_WINDOWS, "sliding_window_pattern": 3}),
    "gemma3, linear": (
        "Gemma3",
        {**_WIDE, **_THREE, **_WINDOWS, "sliding_window_pattern": 3, "rope_theta": 1e6,
         "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    ),
    "olmo": ("Olmo", {**_TINY, "clip_qkv": 1.5}),
    "olmo2": ("Olmo2", _TINY),
    "olmo2, tied": ("Olmo2", {**_TINY, "tie_word_embeddings": True}),
    "olmo3": ("Olmo3", {**_TINY, **_FOUR, "sliding_window": 8}),
    "olmo3, yarn": (
        "Olmo3",
        {**_TINY, **_FOUR, "sliding_window": 8, "rope_scaling": {**_YARN, "attention_factor": 1.2}},
    ),
}  # fmt: skip
"""Class of transformers, and what its config is given."""
WINDOWED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "mistral, window": ("Mistral", {**_WIDE, "sliding_window": 8}),
    "qwen3, window": (
        "Qwen3",
        {**_WIDE, **_THREE, "use_sliding_window": True, "sliding_window": 8,
         "max_window_layers": 1},
    ),
}  # fmt: skip
"""Those whose windows llama.cpp leaves out."""


@dataclass(frozen=True)
class Oracle:
    """A model, what transformers computes for `IDS`, and the folder it was saved to."""

    name: str
    folder: Path
    logits: Any

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return found

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))


def build(name: str, folder: Path, **saving: Any) -> Oracle:
    """Make a model of `CASES` or `WINDOWED` in `folder`, with the tokenizer of `tiny_models`."""
    import torch

    kind, told = {**CASES, **WINDOWED}[name]
    with _quiet() as transformers:
        config = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config")
        torch.manual_seed(len(name))
        model = getattr(transformers, f"{kind}ForCausalLM")(config(**told)).eval()
        with torch.no_grad():
            for number in model.parameters():  # as far from uniform attention as trained ones are
                spread = torch.randn_like(number)
                number.copy_(number + 0.2 * spread if number.dim() == 1 else 0.2 * spread)
            logits = model(torch.tensor([IDS])).logits[0].numpy()
        model.save_pretrained(folder, **saving)
    for file, content in texts().items():
        (folder / file).write_text(json.dumps(content))
    return Oracle(name, folder, logits)


def computed(folder: Path, ids: Sequence[int] = IDS) -> Any:
    """What transformers computes with the model in `folder`."""
    import torch

    with _quiet() as transformers, torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        return model.eval()(torch.tensor([ids])).logits[0].numpy()


def logits(net: Any, ids: Sequence[int] = IDS) -> Any:
    """What a `Transformer` of ours computes."""
    import torch

    with torch.no_grad():
        return net.logits(net(torch.tensor([ids])))[0].numpy()


def texts() -> dict[str, Any]:
    """The files of a tokenizer of 112 tokens."""
    return {
        "tokenizer.json": tiny_models.tokenizer_json(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
            "unk_token": "<unk>", "pad_token": "<pad>",
        },
    }  # fmt: skip


@contextmanager
def _quiet() -> Iterator[Any]:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield transformers


# ---- for tests -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Oracle]:
    """The model of a name in `CASES`, built once for all tests that ask for it."""
    pytest.importorskip("transformers")
    made: dict[str, Oracle] = {}

    def get(name: str) -> Oracle:
        if name not in made:
            made[name] = build(name, tmp_path_factory.mktemp("oracle"))
        return made[name]

    return get
