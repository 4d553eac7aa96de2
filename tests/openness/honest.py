"""Honest releases, which differ from each other as honest releases do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lies_base import Maker, Planted, Text, clean, named, over_base, release
from lies_release import Whole

import tiny_models as tiny

# -- honest ones -----------------------------------------------------------------------------------


for _architecture in tiny.ARCHITECTURES:
    clean(f"release_{_architecture}", release(architecture=_architecture, seed=3))
for _dtype in ("F32", "F16"):
    clean(f"release_{_dtype}", release(dtype=_dtype))
clean("release_in_shards", release(shards=3))
clean("release_wide", release(width=64, layers=3, inner=160, vocabulary=128))
clean("release_without_tokenizer", release(files={"tokenizer.json": None}))
clean(
    "release_with_a_true_card",
    release(
        body="# Tiny-20K\n\n| | |\n|---|---|\n| Parameters | 20K |\n| Context length | 512 |\n"
        "| Vocabulary size | 112 |\n\nTrained for 3 epochs on 7B tokens of text with 128K tokens "
        "a batch. Larger than Other-13B by nothing.\n"
    ),
)


def _gguf(type: str, name: str | None = None, **changes: Any) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(tiny.gguf(folder / (name or f"tiny-{type}.gguf"), type=type, **changes))

    return make


for _type in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
    clean(f"gguf_{_type}", _gguf(_type))
for _type in ("Q4_K", "Q6_K", "Q3_K"):
    clean(f"gguf_{_type}", _gguf(_type, name="tiny.gguf", width=256, inner=256))
for _architecture in ("gemma3", "qwen3", "olmo2", "gpt_neox", "mixtral"):
    clean(f"gguf_of_{_architecture}", _gguf("Q8_0", architecture=_architecture))
for _type in ("Q8_0", "Q4_0", "Q5_1", "F16"):
    clean(f"gguf_with_base_{_type}", over_base(_type))
clean("gguf_with_base_Q4_K", over_base("Q4_K", width=256, inner=256))


def _honest_licence(key: str, tag: str, change: Callable[[str], str] = lambda t: t) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(tiny.release(folder / "model", licence=change(text(key)), card=named(tag)))

    return make


clean("licence_llama31", _honest_licence("llama-3.1-license-2024", "llama3.1"))
clean("licence_llama2", _honest_licence("llama-2-license-2023", "llama2"))
clean(
    "licence_mit_with_holder",
    _honest_licence("MIT", "mit", lambda t: "Copyright (c) 2026 The Tiny Authors\n\n" + t),
)
clean(
    "licence_apache_filled_in",
    _honest_licence(
        "Apache-2.0",
        "apache-2.0",
        lambda t: t.replace("[yyyy] [name of copyright owner]", "2026 Tiny"),
    ),
)


def _fine_tune(folder: Path, text: Text) -> Planted:
    """Its base, with a little added everywhere."""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"), seed=5)

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        random = np.random.default_rng(1)
        return {
            name: array
            + random.standard_normal(array.shape).astype(np.float32) * array.std() * 0.05
            for name, array in arrays.items()
        }

    card = {"base_model": "tiny/base", "base_model_relation": "finetune"}
    model = tiny.release(folder / "model", licence=text("Apache-2.0"), seed=5, card=card, edit=edit)
    return Planted(model, base)


clean("fine_tune", _fine_tune)
clean("whole_release", lambda folder, text: Planted(Whole().write(folder, text)))
clean(
    "release_with_python",
    release(files={"modeling_tiny.py": "class Tiny:\n    pass\n", "requirements.txt": "torch\n"}),
)
