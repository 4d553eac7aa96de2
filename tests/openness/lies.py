"""Planted lies and honest releases, for `overt dossier`: what must be found, and what must not.

A lie is a small release in which one thing is not as it is said to be. Its `component` is where a
dossier must show a contradiction (any of several). The clean ones differ from each other as honest
releases do. `scripts/openness_accuracy.py` and tests/openness/test_planted_lies.py use the same
lists, and nothing of `overt` is used to make them.
"""

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import tiny_models as tiny

Text = Callable[[str], str]
"""Gives a licence text by its key; skips or fails where it is not here."""


@dataclass(frozen=True)
class Planted:
    """What was written: the ref to look at, and the model to compare it with."""

    ref: Path
    base: Path | None = None


@dataclass(frozen=True)
class Case:
    """One release.

    Attributes:
        name: of the kind of lie, or of the honest release.
        make: writes it into a folder.
        components: where the contradiction must be; any of them. Empty for an honest one.
        about: what is not as it is said to be.
    """

    name: str
    make: Callable[[Path, Text], Planted]
    components: tuple[str, ...] = ()
    about: str = ""


LIES: list[Case] = []
CLEAN: list[Case] = []

Maker = Callable[[Path, Text], Planted]


def lie(*components: str) -> Callable[[Maker], Maker]:
    def keep(make: Maker) -> Maker:
        about = " ".join((make.__doc__ or "").split())
        LIES.append(Case(make.__name__, make, components, about))
        return make

    return keep


def _release(**changes: Any) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), **changes))

    return make


def _simple(name: str, about: str, *components: str, **changes: Any) -> None:
    LIES.append(Case(name, _release(**changes), components, about))


# -- shapes, counts and completeness ---------------------------------------------------------------

for _key, _wrong in {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "intermediate_size": 96,
    "vocab_size": 128,
    "num_key_value_heads": 4,
}.items():
    _simple(
        f"config_{_key}",
        f"config.json says {_key} is {_wrong} and the tensors say otherwise",
        "architecture", "weights", "metadata", "tokenizer",
        config={_key: _wrong},
    )  # fmt: skip

_simple(
    "config_other_architecture",
    "config.json says Qwen2, whose attention has biases, over the weights of a Llama",
    "architecture", "weights", "metadata",
    config={"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
)  # fmt: skip
_simple(
    "card_parameters",
    "the card says 7B parameters over 20 thousand",
    "weights", "model_card", "metadata",
    body="# Tiny\n\n| | |\n|---|---|\n| Parameters | 7B |\n",
)  # fmt: skip
_simple(
    "card_vocabulary",
    "the card says a vocabulary of 32000 tokens and there are 112",
    "model_card", "tokenizer", "metadata",
    body="# Tiny\n\n| | |\n|---|---|\n| Vocabulary size | 32,000 |\n",
)  # fmt: skip
_simple(
    "card_context",
    "the card says a context of 128K and the configuration says 512",
    "model_card", "metadata", "architecture",
    body="# Tiny\n\n- Context length: 128K\n",
)  # fmt: skip
_simple(
    "config_dtype",
    "config.json says float32 over BF16 tensors",
    "weights", "metadata",
    config={"torch_dtype": "float32", "dtype": None},
)  # fmt: skip


@lie("weights", "architecture")
def tensor_left_out(folder: Path, text: Text) -> Planted:
    """the second layer lacks its down projection"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        return {k: v for k, v in arrays.items() if "layers.1.mlp.down_proj" not in k}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights", "architecture")
def tensor_of_another_shape(folder: Path, text: Text) -> Planted:
    """one projection has the shape of another model's"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.0.mlp.gate_proj" in k)
        return {**arrays, name: np.tile(arrays[name], (2, 1))}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def tensor_of_zeros(folder: Path, text: Text) -> Planted:
    """a whole matrix is zero"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.1.self_attn.q_proj" in k)
        return {**arrays, name: np.zeros_like(arrays[name])}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def tensor_of_nan(folder: Path, text: Text) -> Planted:
    """a whole matrix is not a number"""

    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if "layers.0.self_attn.o_proj" in k)
        return {**arrays, name: np.full_like(arrays[name], np.nan)}

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), edit=edit))


@lie("weights")
def shard_left_out(folder: Path, text: Text) -> Planted:
    """the index names a shard that is not there"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"), shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    return Planted(path)


@lie("weights")
def shard_of_another_model(folder: Path, text: Text) -> Planted:
    """the index says a tensor is in a shard that does not hold it"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"), shards=2)
    index = path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    where = content["weight_map"]
    first = min(where)
    where[first] = next(file for file in where.values() if file != where[first])
    index.write_text(json.dumps(content))
    return Planted(path)


@lie("weights")
def file_cut_short(folder: Path, text: Text) -> Planted:
    """the weights end before their header says"""
    path = tiny.release(folder / "model", licence=text("Apache-2.0"))
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-512])
    return Planted(path)


# -- tokenizers ------------------------------------------------------------------------------------


@lie("tokenizer")
def more_tokens_than_rows(folder: Path, text: Text) -> Planted:
    """the tokenizer has tokens that the embedding has no row for"""

    def tokenizer(content: dict[str, Any]) -> dict[str, Any]:
        vocab = content["model"]["vocab"]
        extra = {f"extra{i}": len(vocab) + i for i in range(64)}
        content["model"]["vocab"] = {**vocab, **extra}
        return content

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), tokenizer=tokenizer))


@lie("tokenizer")
def merges_of_another_tokenizer(folder: Path, text: Text) -> Planted:
    """merges that make tokens which the vocabulary does not have"""

    def tokenizer(content: dict[str, Any]) -> dict[str, Any]:
        content["model"]["merges"] = [*content["model"]["merges"], ["foreign", "words"]]
        return content

    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), tokenizer=tokenizer))


@lie("tokenizer", "metadata")
def end_token_out_of_range(folder: Path, text: Text) -> Planted:
    """the end token is one that does not exist"""
    return Planted(
        tiny.release(
            folder / "model",
            licence=text("Apache-2.0"),
            config={"eos_token_id": 32000},
            generation={"eos_token_id": 32000},
        )
    )


@lie("tokenizer", "metadata")
def gguf_token_out_of_range(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file names an end token beyond its vocabulary"""
    path = tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"tokenizer.ggml.eos_token_id": 50000})
    return Planted(path)


# -- quantizations ---------------------------------------------------------------------------------


@lie("weights", "metadata")
def quantization_by_name(folder: Path, text: Text) -> Planted:
    """a Q4_0 file is called Q8_0"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", type="Q4_0"))


@lie("weights", "metadata")
def quantization_by_header(folder: Path, text: Text) -> Planted:
    """the header of a Q4_0 file says F16"""
    return Planted(tiny.gguf(folder / "tiny.gguf", type="Q4_0", metadata={"general.file_type": 1}))


@lie("weights", "metadata")
def quantization_of_some_tensors(folder: Path, text: Text) -> Planted:
    """most matrices of a Q8_0 file are Q4_0"""
    names = [
        f"blk.{layer}.{part}.weight"
        for layer in range(2)
        for part in ("ffn_gate", "ffn_up", "ffn_down", "attn_q", "attn_k", "attn_v", "attn_output")
    ]
    return Planted(
        tiny.gguf(folder / "tiny-Q8_0.gguf", type="Q8_0", types=dict.fromkeys(names, "Q4_0"))
    )


@lie("weights", "metadata")
def k_quantization_by_name(folder: Path, text: Text) -> Planted:
    """a Q2_K file is called Q6_K"""
    path = folder / "tiny-Q6_K.gguf"
    return Planted(tiny.gguf(path, type="Q2_K", width=256, inner=256, metadata=_of(18)))


def _of(file_type: int) -> Mapping[str, Any]:
    return {"general.file_type": file_type}


@lie("weights", "metadata")
def gguf_blocks(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says more blocks than there are"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"llama.block_count": 4}))


@lie("weights", "metadata", "architecture")
def gguf_width(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says another embedding length"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"llama.embedding_length": 64}))


@lie("weights", "metadata")
def gguf_size_label(folder: Path, text: Text) -> Planted:
    """the header of a GGUF file says 7B over 20 thousand parameters"""
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata={"general.size_label": "7B"}))


@lie("weights", "metadata")
def gguf_name_says_more(folder: Path, text: Text) -> Planted:
    """a file of 20 thousand parameters is called 13B"""
    return Planted(tiny.gguf(folder / "Tiny-13B-Q8_0.gguf"))


# -- bases -----------------------------------------------------------------------------------------


def _over_base(type: str, edit: Any = None, seed: int = 0, **sizes: int) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        base = tiny.release(folder / "base", licence=text("Apache-2.0"), **sizes)
        path = tiny.gguf(folder / f"tiny-{type}.gguf", type=type, seed=seed, edit=edit, **sizes)
        return Planted(path, base)

    return make


def _noise(layer: int, share: float) -> Callable[[tiny.Arrays], tiny.Arrays]:
    def edit(arrays: tiny.Arrays) -> tiny.Arrays:
        name = next(k for k in arrays if f"layers.{layer}.mlp.up_proj" in k)
        array = arrays[name]
        random = np.random.default_rng(7)
        noise = random.standard_normal(array.shape).astype(np.float32) * array.std() * share
        return {**arrays, name: array + noise}

    return edit


for _type in ("Q8_0", "Q4_0", "Q5_1", "F16"):
    LIES.append(
        Case(
            f"swapped_base_{_type}",
            _over_base(_type, seed=1),
            ("weights",),
            f"a {_type} file is said to be made of a base whose weights are others",
        )
    )
    LIES.append(
        Case(
            f"noise_in_one_layer_{_type}",
            _over_base(_type, edit=_noise(1, 0.02)),
            ("weights",),
            f"one matrix of a {_type} file differs from its base by 2 % noise",
        )
    )
LIES.append(
    Case(
        "noise_in_one_layer_Q4_K",
        _over_base("Q4_K", edit=_noise(1, 0.25), width=256, inner=256),
        ("weights",),
        "one matrix of a Q4_K file differs from its base by 25 % noise",
    )
)


@lie("weights")
def one_byte(folder: Path, text: Text) -> Planted:
    """one byte of a Q8_0 file is not what its base gives"""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"))
    path = tiny.gguf(folder / "tiny-Q8_0.gguf")
    data = bytearray(path.read_bytes())
    data[-700] ^= 0x10
    path.write_bytes(data)
    return Planted(path, base)


@lie("weights")
def fine_tune_of_another(folder: Path, text: Text) -> Planted:
    """a fine-tune of a base whose weights are unrelated to it"""
    base = tiny.release(folder / "base", licence=text("Apache-2.0"), seed=5)
    card = {"base_model": "tiny/base", "base_model_relation": "finetune"}
    model = tiny.release(folder / "model", licence=text("Apache-2.0"), seed=6, card=card)
    return Planted(model, base)


# -- licences --------------------------------------------------------------------------------------


def _licensed(name: str, about: str, key: str, tag: str, change: Callable[[str], str]) -> None:
    def make(folder: Path, text: Text) -> Planted:
        original = text(key)
        changed = change(original)
        if changed == original:
            raise ValueError(f"{name} changes nothing")
        return Planted(tiny.release(folder / "model", licence=changed, card=_named(tag)))

    LIES.append(Case(name, make, ("weights", "model_card"), about))


def _named(tag: str) -> dict[str, str]:
    if tag in ("apache-2.0", "mit", "llama2", "llama3.1"):
        return {"license": tag}
    return {"license": "other", "license_name": tag}


_licensed(
    "licence_number", "700 million monthly users became 7 million", "llama-3.1-license-2024",
    "llama3.1", lambda t: t.replace("700 million", "7 million"),
)  # fmt: skip
_licensed(
    "licence_rider", "Apache-2.0 with a ban on commercial use behind it", "Apache-2.0",
    "apache-2.0", lambda t: t + "\n\nThis model may not be used for any commercial purpose.\n",
)  # fmt: skip
_licensed(
    "licence_rider_before", "MIT with a field of use before it", "MIT", "mit",
    lambda t: "Use of this model is limited to academic research.\n\n" + t,
)  # fmt: skip
_licensed(
    "licence_not", "a permission of Apache-2.0 turned into its opposite", "Apache-2.0",
    "apache-2.0",
    lambda t: t.replace(
        "You may reproduce and distribute copies", "You may not reproduce and distribute copies"
    ),
)  # fmt: skip
_licensed(
    "licence_clause_left_out", "Apache-2.0 without its patent licence", "Apache-2.0", "apache-2.0",
    lambda t: t[: t.index("3. Grant of Patent License")] + t[t.index("4. Redistribution") :],
)  # fmt: skip
_licensed(
    "licence_of_another", "the tag says MIT and the text is that of Llama 3.1",
    "llama-3.1-license-2024", "mit", lambda t: t + "\n",
)  # fmt: skip
_licensed(
    "licence_version", "the tag says Llama 3.1 and the text is that of Llama 2",
    "llama-2-license-2023", "llama3.1", lambda t: t + "\n",
)  # fmt: skip


@lie("weights", "model_card", "metadata")
def licence_in_card_and_header(folder: Path, text: Text) -> Planted:
    """the card says Apache-2.0 and the header of the file says Gemma"""
    path = folder / "model"
    path.mkdir(parents=True)
    tiny.gguf(path / "tiny-Q8_0.gguf", metadata={"general.license": "gemma"})
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    return Planted(path)


@lie("weights", "model_card")
def licence_of_base_dropped(folder: Path, text: Text) -> Planted:
    """said to be MIT, and made of Llama 3.1, whose terms it must pass on"""
    card = {"license": "mit", "base_model": "meta-llama/Llama-3.1-8B"}
    return Planted(tiny.release(folder / "model", licence=text("MIT"), card=card))


# -- files that run --------------------------------------------------------------------------------


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.system, ("echo planted",)


def _with_file(name: str, data: bytes) -> Maker:
    return _release(files={name: data})


_BAD = pickle.dumps(_Runs())
for _name, _file, _data, _about in (
    ("pickle", "pytorch_model.bin", _BAD, "a pickle that runs a program"),
    ("pickle_as_json", "training_args.json", _BAD, "a pickle under the name of a JSON file"),
    ("pickle_as_tensors", "extra.safetensors", _BAD, "a pickle under the name of weights"),
):
    LIES.append(Case(_name, _with_file(_file, _data), ("weights",), _about))


@lie("weights")
def pickle_in_zip(folder: Path, text: Text) -> Planted:
    """a checkpoint in torch's own form whose pickle runs a program"""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("archive/data.pkl", _BAD)
    files = {"optimizer.pt": packed.getvalue()}
    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), files=files))


_ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


@lie("chat_template")
def template_leaves_its_sandbox(folder: Path, text: Text) -> Planted:
    """the chat template reaches for Python's inner parts"""
    return Planted(
        tiny.release(
            folder / "model",
            licence=text("Apache-2.0"),
            tokenizer_config={"chat_template": tiny.CHAT_TEMPLATE + _ESCAPE},
        )
    )


@lie("chat_template")
def template_of_a_gguf(folder: Path, text: Text) -> Planted:
    """the chat template in the header of a GGUF file does"""
    metadata = {"tokenizer.chat_template": tiny.CHAT_TEMPLATE + _ESCAPE}
    return Planted(tiny.gguf(folder / "tiny-Q8_0.gguf", metadata=metadata))


@lie("chat_template")
def template_by_filter(folder: Path, text: Text) -> Planted:
    """a template file that builds the name of an inner attribute"""
    trick = "{{ messages|attr('_' ~ '_class_' ~ '_') }}"
    files = {"chat_template.jinja": tiny.CHAT_TEMPLATE + trick}
    return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), files=files))


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


def _whole(name: str, about: str, *components: str, **changes: Any) -> None:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(Whole(**changes).write(folder, text))

    LIES.append(Case(name, make, components, about))


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


LIES[:] = [_resolved(case) for case in LIES]

# -- honest ones -----------------------------------------------------------------------------------


def _clean(name: str, make: Maker) -> None:
    CLEAN.append(Case(name, make))


for _architecture in tiny.ARCHITECTURES:
    _clean(f"release_{_architecture}", _release(architecture=_architecture, seed=3))
for _dtype in ("F32", "F16"):
    _clean(f"release_{_dtype}", _release(dtype=_dtype))
_clean("release_in_shards", _release(shards=3))
_clean("release_wide", _release(width=64, layers=3, inner=160, vocabulary=128))
_clean("release_without_tokenizer", _release(files={"tokenizer.json": None}))
_clean(
    "release_with_a_true_card",
    _release(
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
    _clean(f"gguf_{_type}", _gguf(_type))
for _type in ("Q4_K", "Q6_K", "Q3_K"):
    _clean(f"gguf_{_type}", _gguf(_type, name="tiny.gguf", width=256, inner=256))
for _architecture in ("gemma3", "qwen3", "olmo2", "gpt_neox", "mixtral"):
    _clean(f"gguf_of_{_architecture}", _gguf("Q8_0", architecture=_architecture))
for _type in ("Q8_0", "Q4_0", "Q5_1", "F16"):
    _clean(f"gguf_with_base_{_type}", _over_base(_type))
_clean("gguf_with_base_Q4_K", _over_base("Q4_K", width=256, inner=256))


def _honest_licence(key: str, tag: str, change: Callable[[str], str] = lambda t: t) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(tiny.release(folder / "model", licence=change(text(key)), card=_named(tag)))

    return make


_clean("licence_llama31", _honest_licence("llama-3.1-license-2024", "llama3.1"))
_clean("licence_llama2", _honest_licence("llama-2-license-2023", "llama2"))
_clean(
    "licence_mit_with_holder",
    _honest_licence("MIT", "mit", lambda t: "Copyright (c) 2026 The Tiny Authors\n\n" + t),
)
_clean(
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


_clean("fine_tune", _fine_tune)
_clean("whole_release", lambda folder, text: Planted(Whole().write(folder, text)))
_clean(
    "release_with_python",
    _release(files={"modeling_tiny.py": "class Tiny:\n    pass\n", "requirements.txt": "torch\n"}),
)
