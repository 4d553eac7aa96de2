"""Lies and honest releases in the style of another generator (other_models.py), with the wordings
of real cards. The base, where there is one, is only named by the card: it lies beside the model."""

import codecs
import gzip
import io
import json
import os
import pickle
import tarfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import other_models as other
from lies_base import LIES, Case, Maker, Planted, Text, clean

_UP = "model.layers.1.mlp.up_proj.weight"


def _lie(name: str, about: str, components: tuple[str, ...], make: Maker) -> None:
    LIES.append(Case(f"other_{name}", make, components, about))


def _true(name: str, make: Maker) -> None:
    clean(f"other_{name}", make)


def _folder(**changes: Any) -> Maker:
    return lambda folder, text: Planted(other.folder(folder / "model", **changes))


def _says(body: str, **fields: Any) -> Maker:
    return _folder(readme=other.card(body, **fields))


def _file(name: str, type: str = "Q8_0", **changes: Any) -> Maker:
    return lambda folder, text: Planted(other.quantized(folder / name, type, **changes))


def _in_folder(readme: str, type: str = "Q4_0", name: str = "model") -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        (folder / name).mkdir()
        other.quantized(folder / name / "model.gguf", type)
        (folder / name / "README.md").write_text(readme)
        return Planted(folder / name)

    return make


# -- cards -----------------------------------------------------------------------------------------

_CARD = ("model_card", "weights", "metadata", "architecture", "tokenizer")
for _name, _body in {
    "parameters_bold": "**Parameters:** 1.2M",
    "parameters_sentence": "This is a 7B parameters language model.",
    "parameters_sentence_of_name": "Tiny is a 1.1 billion parameter model trained by us.",
    "parameters_misspelt": "- **Number of Paramaters (Non-Embedding):** 6.5B",
    "parameters_html": "<b>Parameters</b>: 7B",
    "parameters_in_a_row": "| Model | Params | Context |\n|---|---|---|\n| Tiny | 7B | 128 |",
    "parameters_as_size": "- Size: 7B parameters",
    "heads_of_both_kinds": "- Number of Attention Heads (GQA): 40 for Q and 8 for KV",
    "layers_and_heads": "- **Layers:** 32, **Heads:** 32",
    "experts": "- Number of experts: 8",
    "inner_size": "- Intermediate size: 11008",
    "context_sentence": "This model supports a context length of 128K tokens.",
    "family": "- Architecture: GPT-NeoX",
    "licence_sentence": "This model is released under the Apache 2.0 license.",
    "digest_alone": f"SHA-256: `{'ab' * 32}`",
    "digest_of_the_config": f"```\n{'ab' * 32}  config.json\n```",
}.items():
    _lie(f"card_{_name}", f"the card says {_body[:60]!r}", _CARD, _says(f"# Tiny\n\n{_body}\n"))
_lie("field_parameters", "the card's fields say 7 billion parameters", _CARD,
     _says("# Tiny\n", num_parameters=7_000_000_000))  # fmt: skip
_lie("field_task", "the card's fields say it takes pictures", _CARD,
     _says("# Tiny\n", pipeline_tag="image-text-to-text"))  # fmt: skip

_QUANTIZED = ("weights", "metadata")
_lie("quantization_in_the_card", "the card says Q8_0 of a Q4_0 file", _QUANTIZED,
     _in_folder(other.card("# Tiny\n\nQuantization: Q8_0\n")))  # fmt: skip
_lie("quantization_in_a_sentence", "a sentence says Q8_0 of a Q4_0 file", _QUANTIZED,
     _in_folder(other.card("# Tiny\n\nThis is a Q8_0 quantization by me.\n")))  # fmt: skip
_lie("quantization_in_a_tag", "a tag says Q8_0 of a Q4_0 file", _QUANTIZED,
     _in_folder(other.card(tags=["gguf", "Q8_0"])))  # fmt: skip
_lie("quantization_in_a_table", "a table says Q8_0 of a Q4_0 file", _QUANTIZED,
     _in_folder(other.card("# T\n\n| File | Type |\n|---|---|\n| model.gguf | Q8_0 |\n")),
)  # fmt: skip
_lie("quantization_of_the_folder", "the folder is called Q8_0 and holds Q4_0", _QUANTIZED,
     _in_folder(other.card(), name="Tiny-Q8_0"))  # fmt: skip
_lie("quantization_in_general_name", "general.name says Q8_0 of a Q4_0 file", _QUANTIZED,
     _file("m.gguf", "Q4_0", keys={"general.name": "Tiny Q8_0"}))  # fmt: skip
_lie("packed_as_awq", "config.json says AWQ over plain tensors", _QUANTIZED,
     _folder(config={"quantization_config": {"quant_method": "awq", "bits": 4}}))  # fmt: skip

# -- weights ---------------------------------------------------------------------------------------

_SHAPES = ("architecture", "weights", "metadata", "tokenizer")
_lie("class_of_another", "the class is Mistral's and the type Llama's", _SHAPES,
     _folder(config={"architectures": ["MistralForCausalLM"]}))  # fmt: skip
_lie("biases", "config.json says that attention has biases", _SHAPES,
     _folder(config={"attention_bias": True}))  # fmt: skip
for _key, _value in {"vocab_size": 32000, "rope.dimension_count": 64, "block_count": 3,
                     "feed_forward_length": 128}.items():  # fmt: skip
    _lie(f"gguf_{_key}", f"llama.{_key} is {_value}", _SHAPES,
         _file("m.gguf", keys={f"llama.{_key}": _value}))  # fmt: skip
_lie("parts_left_out", "two of three parts of a split file are not there", ("weights",),
     _file("tiny-00001-of-00003.gguf", keys={"split.count": 3}))  # fmt: skip


def _zero(found: other.Arrays) -> None:
    found["model.layers.1.self_attn.q_proj.weight"][:] = 0


def _same_layers(found: other.Arrays) -> None:
    for name in list(found):
        found[name.replace("layers.0", "layers.1")] = found[name]


def _noise(share: float) -> other.Edit:
    def edit(found: other.Arrays) -> None:
        draw = np.random.default_rng(5).standard_normal(found[_UP].shape)
        found[_UP] = (found[_UP] + draw * found[_UP].std() * share).astype(np.float32)

    return edit


def _turned(found: other.Arrays) -> None:
    found[_UP] = -found[_UP]


def _heads(found: other.Arrays) -> None:
    name = "model.layers.0.self_attn.q_proj.weight"
    found[name] = np.ascontiguousarray(found[name].reshape(2, 16, 32)[::-1].reshape(32, 32))


def _layers(found: other.Arrays) -> None:
    for name in [name for name in found if "layers.0" in name]:
        twin = name.replace("layers.0", "layers.1")
        found[name], found[twin] = found[twin], found[name]


_lie("small_matrix_of_zeros", "a small matrix is zero", ("weights",), _folder(edit=_zero))
_lie("layer_twice", "both layers are the same", ("weights",), _folder(edit=_same_layers))
_lie("vocabulary_too_large", "vocab.json has more tokens than there are rows", ("tokenizer",),
     _folder(files={"vocab.json": json.dumps({f"w{n}": n for n in range(100)})}))  # fmt: skip


def _of_base(
    edit: other.Edit | None = None, relation: str | None = None, name: str = "../base", **base: Any
) -> Maker:
    """A model in transformers' form; its base lies beside it and only the card says so."""

    def make(folder: Path, text: Text) -> Planted:
        other.folder(folder / "base", **base)
        fields = {"base_model": name, "base_model_relation": relation or "finetune"}
        if relation is None:
            del fields["base_model_relation"]
        readme = other.card(**fields)
        return Planted(other.folder(folder / "model", edit=edit, readme=readme))

    return make


def _quantized_base(edit: other.Edit | None = None, type: str = "Q8_0", seed: int = 0) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        other.folder(folder / "base", seed=seed)
        keys = {"general.base_model.count": 1, "general.base_model.0.name": "Base"}
        return Planted(other.quantized(folder / f"m-{type}.gguf", type, edit=edit, keys=keys))

    return make


_lie("base_by_path", "unrelated to the base at the path the card names", ("weights",),
     _of_base(seed=3))  # fmt: skip
_lie("base_by_name", "unrelated to the base of that name beside it", ("weights",),
     _of_base(name="acme/base", seed=3))  # fmt: skip
_lie("base_of_a_gguf", "unrelated to the base its header names", ("weights",),
     _quantized_base(seed=3))  # fmt: skip
_lie("fine_tune_that_is_none", "a fine-tune that is its base, bit for bit", ("weights",),
     _of_base(relation="finetune"))  # fmt: skip
for _share in (0.05, 0.5):
    _lie(f"noise_in_a_copy_{_share}", "one matrix of a copy has noise in it", ("weights",),
         _of_base(_noise(_share)))  # fmt: skip
for _name, _edit in {"noise": _noise(0.002), "turned": _turned, "heads": _heads,
                     "layers": _layers}.items():  # fmt: skip
    _lie(f"quantized_with_{_name}", f"a Q8_0 of its base but for {_name}", ("weights",),
         _quantized_base(_edit))  # fmt: skip


def _restricted_base(folder: Path, text: Text) -> Planted:
    """MIT over a base beside it that is under Llama 3.1's licence."""
    files = {"LICENSE": text("llama-3.1-license-2024")}
    other.folder(folder / "base", readme=other.card(license="llama3.1"), files=files)
    return Planted(other.folder(folder / "model", readme=other.card(base_model="../base")))


_lie("terms_of_the_base", "MIT over a base under Llama 3.1's terms", ("weights", "model_card"),
     _restricted_base)  # fmt: skip

# -- adapters --------------------------------------------------------------------------------------


def _lora(edit: other.Edit | None = None, base: bool = True, **changes: Any) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        if base:
            other.folder(folder / "base")
        return Planted(other.lora(folder / "lora", edit=edit, **changes))

    return make


def _renamed(old: str, new: str) -> other.Edit:
    def edit(found: other.Arrays) -> None:
        for name in [name for name in found if old in name]:
            found[name.replace(old, new)] = found.pop(name)

    return edit


def _without_half(found: other.Arrays) -> None:
    del found[next(name for name in found if "lora_B" in name)]


def _untrained(found: other.Arrays) -> None:
    for name in found:
        if "lora_B" in name:
            found[name][:] = 0


for _name, _about, _make in (
    ("rank", "an adapter of rank 4 says 16", _lora(config={"r": 16})),
    ("modules", "an adapter of q and v says q, k and v",
     _lora(base=False, config={"target_modules": ["q_proj", "k_proj", "v_proj"]})),
    ("layer", "an adapter has a layer that its base has not", _lora(_renamed("s.1.", "s.7."))),
    ("half", "an adapter lacks one half of a pair", _lora(_without_half, base=False)),
    ("untrained", "an adapter that changes nothing", _lora(_untrained, base=False)),
):  # fmt: skip
    _lie(f"adapter_{_name}", _about, ("weights",), _make)

# -- files -----------------------------------------------------------------------------------------


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = (function, arguments)

    def __reduce__(self) -> Any:
        return self.called


_SYSTEM = pickle.dumps(_Calls(os.system, "echo planted"), protocol=0)


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("data.pkl")
        member.size = len(_SYSTEM)
        archive.addfile(member, io.BytesIO(_SYSTEM))
    return packed.getvalue()


_RUNS = "import os\nos.system('echo planted')\n\n\nclass Tiny:\n    pass\n"
_WRONG = "cd" * 32
_ROWS = {"train.txt": {"sha256": _WRONG}}
_OTHER_CODE = (
    "import torch\n\nSIZES = dict(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)\n"
    "optimizer = torch.optim.AdamW([])\n"
)
_ESCAPES = "{{ messages[0].content }}{{ ''.__class__.__mro__ }}"
_SCORES = "# T\n\n| Benchmark | Tiny | Other |\n|---|---|---|\n| arc_easy | 71.0 | 50.0 |\n"
for _name, _components, _files in (
    ("pickle_compressed", ("weights",), {"optimizer.pt": gzip.compress(_SYSTEM)}),
    ("pickle_in_tar", ("weights",), {"model.tar": _tar()}),
    ("pickle_that_decodes", ("weights",),
     {"a.bin": pickle.dumps(_Calls(codecs.decode, b"aa", "hex"))}),
    ("template_of_a_processor", ("chat_template",),
     {"chat_template.json": json.dumps({"chat_template": _ESCAPES})}),
    ("checksums", ("weights",), {"checksums.txt": f"{_WRONG}  model.safetensors\n"}),
    ("data_in_yaml", ("training_data",),
     {"data/train.txt": "x\n" * 50, "data/manifest.yaml": json.dumps(_ROWS)}),
    ("code_of_another", ("training_code",), {"train.py": _OTHER_CODE}),
    ("licence_empty", ("weights",), {"LICENSE": ""}),
    ("licence_of_its_own", ("weights",), {"LICENSE": "For academic research purposes only.\n"}),
):  # fmt: skip
    _lie(_name, f"what {' and '.join(_files)} would be is not so", _components,
         _folder(files=_files))  # fmt: skip
_lie("code_beside_weights", "code that is loaded with the model starts a program",
     ("inference_code", "weights"),
     _folder(config={"auto_map": {"AutoModel": "modeling_tiny.Tiny"}},
             files={"modeling_tiny.py": _RUNS}))  # fmt: skip
for _name, _data in {"json": '{"results": {"arc_easy": {"acc,none": 0.25}}}',
                     "csv": "task,acc\narc_easy,0.25\n"}.items():  # fmt: skip
    _lie(f"scores_in_{_name}", "the card has 71 where 25 was measured", ("evaluation_results",),
         _folder(readme=other.card(_SCORES), files={f"results.{_name}": _data}))  # fmt: skip

# -- honest ones -----------------------------------------------------------------------------------

for _dtype in ("F32", "F16", "BF16"):
    _true(f"folder_{_dtype}", _folder(dtype=_dtype))
_true("folder_with_tokens", _folder(tokens=60))
for _type in ("F32", "F16", "Q8_0", "Q4_0", "Q5_0"):
    _true(f"of_base_{_type}", _quantized_base(type=_type))
_true("gguf_that_says_nothing", _file("x.gguf", headers=False))
_true("gguf_one_of_several", _in_folder(other.card("# Tiny GGUF, Q4_0 and Q8_0\n")))
_true("adapter", _lora())
_true("adapter_alone", _lora(base=False))
_true("copy_of_base", _of_base())


def _everywhere(share: float) -> other.Edit:
    def edit(found: other.Arrays) -> None:
        draw = np.random.default_rng(5)
        for name, array in found.items():
            if array.ndim > 1:
                noise = draw.standard_normal(array.shape) * array.std() * share
                found[name] = (array + noise).astype(np.float32)

    return edit


for _share in (0.01, 0.4):
    _true(f"fine_tune_{_share}", _of_base(_everywhere(_share), "finetune"))


def _embedding(found: other.Arrays) -> None:
    found["model.embed_tokens.weight"] *= np.float32(1.1)


_true("embedding_tuned", _of_base(_embedding))
for _name, _body in {
    "of_a_family": "The Tiny family has models of 1B, 7B and 70B parameters.",
    "compared": "Compared to GPT-3 with 175 billion parameters, ours is small.",
    "trained": "- sequence length: 2048\n- batch size: 1M tokens\n- Hidden dim: 14,336",
    "own": "Tiny has 25K parameters.\n\n- **Layers:** 2\n- **Context length:** 128",
    "bytes": "**Model size**: `0.1M`",
    "wide": "| Model | Params |\n|---|---|\n| Tiny | 25K |\n| Big | 7B |",
    "long": "- Context length: 32K tokens\n\nUse YaRN for this: add rope_scaling to config.json.",
}.items():
    _true(f"card_{_name}", _says(f"# Tiny\n\n{_body}\n"))
_MEASURED: Mapping[str, str] = {"results.json": '{"arc_easy": 0.71}'}
_true("scores", _folder(readme=other.card(_SCORES), files=_MEASURED))
_true("scores_of_a_trainer", _folder(
    readme=other.card("# T\n\n- Loss: 0.31\n- eval_loss: 0.31\n- epoch: 2.0\n- Accuracy: 0.9\n"),
    files={"all_results.json": '{"epoch": 3.0, "eval_loss": 0.35, "eval_accuracy": 0.89}'},
))  # fmt: skip


def _sums(folder: Path, text: Text) -> Planted:
    path = other.folder(folder / "model")
    digest = sha256((path / "model.safetensors").read_bytes()).hexdigest()
    (path / "checksums.txt").write_text(f"{digest}  model.safetensors\n")
    return Planted(path)


_true("checksums_true", _sums)


def _licence(key: str, tag: str) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        readme = other.card(license=tag)
        return Planted(other.folder(folder / "model", readme=readme, files={"LICENSE": text(key)}))

    return make


for _key, _tag in {"bigscience-open-rail-m": "openrail", "gemma-tou-2024-04-01": "gemma",
                   "CC-BY-NC-4.0": "cc-by-nc-4.0"}.items():  # fmt: skip
    _true(f"licence_{_tag}", _licence(_key, _tag))
