"""Lies in a whole release: code, data, checkpoints, its record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from lies_base import LIES, Case, Planted, Text

import tiny_models as tiny

# -- a whole release: code, data, checkpoints ------------------------------------------------------


@dataclass
class Whole:
    """A fully open release with a MOF record that says where everything is."""

    files: dict[str, bytes | str | None] = field(default_factory=dict)
    edit_checkpoint: Callable[[int, tiny.Arrays], tiny.Arrays] = lambda step, arrays: arrays
    checkpoint_sizes: Mapping[str, int] = field(default_factory=dict)

    def write(self, folder: Path, text: Text) -> Path:
        path = tiny.release(folder / "model", licence=text("Apache-2.0"), files=_open_files(text))
        final = tiny.weights("llama", 0)
        start = tiny.weights("llama", 9, **self.checkpoint_sizes)
        for number, step in enumerate((1000, 2000, 3000)):
            share = number / 3
            arrays = {
                name: start[name] * (1 - share) + final[name] * share
                if start[name].shape == final[name].shape
                else start[name]
                for name in start
            }
            place = path / "checkpoints" / f"step-{step}"
            place.mkdir(parents=True)
            edited = self.edit_checkpoint(step, arrays)
            tiny.write_safetensors(place / "model.safetensors", edited)
        for name, data in self.files.items():
            if data is None:
                (path / name).unlink()
            else:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return path


_TRAIN = '''"""Trains the tiny model."""
import yaml


def main() -> None:
    with open("training/config.yaml") as file:
        config = yaml.safe_load(file)
    print(config["hidden_size"])


if __name__ == "__main__":
    main()
'''
_CONFIG = """hidden_size: 32
num_hidden_layers: 2
num_attention_heads: 4
num_key_value_heads: 2
intermediate_size: 64
vocab_size: 112
max_position_embeddings: 512
learning_rate: 0.001
"""
_SHARDS = {
    "data/shard-0.txt": "the cat sat on the mat and the dog ran to the cat\n" * 20,
    "data/shard-1.txt": "a model is trained on a text that can be read\n" * 20,
}


def _open_files(text: Text) -> dict[str, bytes | str | None]:
    sums = "".join(
        f"{sha256(data.encode()).hexdigest()}  {name.removeprefix('data/')}\n"
        for name, data in _SHARDS.items()
    )
    return {
        **_SHARDS,
        "data/SHA256SUMS": sums,
        "data/LICENSE": text("CC-BY-4.0"),
        "data/prepare.py": "print('makes the shards')\n",
        "training/train.py": _TRAIN,
        "training/config.yaml": _CONFIG,
        "training/LICENSE": text("Apache-2.0"),
        "inference/generate.py": "print('answers')\n",
        "evaluation/evaluate.py": "print('evaluates')\n",
        "evaluation/items.jsonl": '{"question": "1 + 1", "answer": "2"}\n',
        "evaluation/results.json": '{"accuracy": 0.5}\n',
        "DATA_CARD.md": "# The data\n\nTwo files of sentences.\n",
        "REPORT.md": "# How it was made\n\nBy a small program.\n",
        "paper.md": "# On a tiny model\n\nIt is tiny.\n",
        "mof.yml": _MOF,
    }


_MOF = """framework: {name: Model Openness Framework, version: '1.0', date: '2024-12-15'}
release:
  name: Tiny
  version: 20K
  date: '2026-11-25'
  type: language
  architecture: transformer
  producer: Nobody
  license:
    distribution: {name: Apache-2.0, path: LICENSE}
  components:
  - {name: Model architecture, description: d, component_path: config.json, license: Apache-2.0}
  - {name: Data preprocessing code, description: d, component_path: data/prepare.py, license: Apache-2.0}
  - {name: Training code, description: d, component_path: training, license: Apache-2.0}
  - {name: Inference code, description: d, component_path: inference, license: Apache-2.0}
  - {name: Evaluation code, description: d, component_path: evaluation/evaluate.py, license: Apache-2.0}
  - {name: Model parameters (Final), description: d, component_path: model.safetensors, license: Apache-2.0}
  - {name: Model parameters (Intermediate), description: d, component_path: checkpoints, license: Apache-2.0}
  - {name: Datasets, description: d, component_path: data, license: CC-BY-4.0}
  - {name: Evaluation data, description: d, component_path: evaluation/items.jsonl, license: CC-BY-4.0}
  - {name: Model card, description: d, component_path: README.md, license: CC-BY-4.0}
  - {name: Data card, description: d, component_path: DATA_CARD.md, license: CC-BY-4.0}
  - {name: Research paper, description: d, component_path: paper.md, license: CC-BY-4.0}
  - {name: Technical report, description: d, component_path: REPORT.md, license: CC-BY-4.0}
  - {name: Evaluation results, description: d, component_path: evaluation/results.json, license: CC-BY-4.0}
"""  # noqa: E501 - a record is written as records are


def _resolved(case: Case) -> Case:
    """A file of `Whole` that begins with @ is a licence text by its key."""

    def make(folder: Path, text: Text) -> Planted:
        planted = case.make(folder, text)
        for path in planted.ref.rglob("LICENSE") if planted.ref.is_dir() else ():
            content = path.read_text()
            if content.startswith("@"):
                path.write_text(text(content[1:]))
        return planted

    return Case(case.name, make, case.components, case.about)


def _whole(name: str, about: str, *components: str, **changes: Any) -> None:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(Whole(**changes).write(folder, text))

    LIES.append(_resolved(Case(name, make, components, about)))


_whole(
    "training_code_of_another_model",
    "the training code has the configuration of another model",
    "training_code",
    files={"training/config.yaml": "hidden_size: 4096\nnum_hidden_layers: 32\nvocab_size: 32000\n"},
)
_whole(
    "training_code_that_is_none",
    "the training code is no Python",
    "training_code",
    files={"training/train.py": "def main(:\n  this is not code\n"},
)
_whole(
    "data_changed",
    "a shard of the training data is not the one whose hash is listed",
    "training_data",
    files={"data/shard-1.txt": "another text altogether\n" * 20},
)
_whole(
    "data_left_out",
    "a shard that the list of hashes names is not there",
    "training_data",
    files={"data/shard-0.txt": None},
)
_whole(
    "component_not_there",
    "the record says where the data card is, and it is not there",
    "data_card",
    files={"DATA_CARD.md": None},
)
_whole(
    "checkpoint_of_another_shape",
    "the checkpoints are of another model",
    "checkpoints",
    checkpoint_sizes={"inner": 96},
)
_whole(
    "checkpoints_that_stand_still",
    "two checkpoints a thousand steps apart are the same",
    "checkpoints",
    edit_checkpoint=lambda step, arrays: tiny.weights("llama", 3),
)
_whole(
    "data_under_another_licence",
    "the record says CC-BY-4.0 and the text beside the data forbids commercial use",
    "training_data",
    files={"data/LICENSE": "@CC-BY-NC-4.0"},
)
_whole(
    "card_names_files_that_are_not_there",
    "the card's code loads a file that does not exist",
    "model_card",
    files={
        "README.md": "---\nlicense: apache-2.0\n---\n# Tiny\n\n"
        "| File | Size |\n|---|---|\n| `tiny-Q4_K_M.gguf` | 12 kB |\n"
    },
)
