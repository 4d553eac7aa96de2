"""Lies about licences, files that run when loaded, templates that reach out."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lies_base import LIES, Case, Maker, Planted, Text, lie, named, release

import tiny_models as tiny

# -- licences --------------------------------------------------------------------------------------


def _licensed(name: str, about: str, key: str, tag: str, change: Callable[[str], str]) -> None:
    def make(folder: Path, text: Text) -> Planted:
        original = text(key)
        changed = change(original)
        if changed == original:
            raise ValueError(f"{name} changes nothing")
        return Planted(tiny.release(folder / "model", licence=changed, card=named(tag)))

    LIES.append(Case(name, make, ("weights", "model_card"), about))


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
    return release(files={name: data})


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
