"""Which of llama.cpp's pre-tokenizers a tokenizer.json means, told by what it does.

A pre-tokenizer is brought to a plain list of steps, and the list is looked up in
``pre_tokenizers.toml``; the file says what a name and a step are.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from overt.errors import FormatError, Unsupported

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ALONE = (("Isolated", False), ("Removed", True))
"""A Split whose matches stand alone; what matches everything says so in either way."""
_MAX_DEPTH = 4
_MAX_STEPS = 16


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One row of the table; `ignores` None: whether merges are ignored makes no difference."""

    name: str
    what: str
    also: tuple[str, ...]
    spellings: tuple[tuple[str, ...], ...]
    ignores: bool | None
    architectures: tuple[str, ...]


@cache
def table() -> tuple[PreTokenizer, ...]:
    """Every pre-tokenizer known, in the order of the file."""
    text = (files("overt.lab.convert") / "pre_tokenizers.toml").read_text("utf-8")
    return tuple(
        PreTokenizer(
            entry["name"],
            entry["what"],
            tuple(entry.get("also", ())),
            tuple(tuple(steps) for steps in entry["steps"]),
            entry.get("ignore_merges"),
            tuple(entry.get("architectures", ())),
        )
        for entry in tomllib.loads(text)["pre"]
    )


def recognise(pre_tokenizer: object, ignores: bool, architecture: str) -> str:
    """llama.cpp's name for the ``pre_tokenizer`` of a byte-level tokenizer.json.

    Args:
        ignores: the model's ``ignore_merges``.

    Raises:
        FormatError: it is no pre-tokenizer.
        Unsupported: it is none of the table.
    """
    found_steps = steps(pre_tokenizer)
    fitting = [
        entry
        for entry in table()
        if found_steps in entry.spellings
        and entry.ignores in (ignores, None)
        and (not entry.architectures or architecture in entry.architectures)
    ]
    if not fitting:
        shown = ", ".join(found_steps)[:200]
        raise Unsupported(
            f"the tokenizer cuts words in a way that has no name in llama.cpp: {shown}"
            f"{', known words unmerged' if ignores else ''}",
            "choose a GGUF version of the model, or name it as llama.cpp does: --pre NAME",
        )
    return max(fitting, key=lambda entry: bool(entry.architectures)).name


def spelled(name: str) -> tuple[dict[str, Any], bool]:
    """The ``pre_tokenizer`` of a tokenizer.json for llama.cpp's name, and its ``ignore_merges``.

    Raises:
        Unsupported: a name that is not in the table.
    """
    for entry in table():
        if name == entry.name or name in entry.also:
            steps = entry.spellings[0]
            words = steps[-1] == "words"
            parts = [_step_as_json(step) for step in (steps[:-1] if words else steps)]
            whole = {"type": "Sequence", "pretokenizers": [*parts, _bytes(words)]}
            return whole if parts else _bytes(words), bool(entry.ignores)
    raise Unsupported(
        f"Overt cannot write the pre-tokenizer {name[:80]!r} in the form of a tokenizer.json",
        f"it knows {', '.join(entry.name for entry in table())}",
    )


def steps(pre_tokenizer: object) -> tuple[str, ...]:
    """The plain steps of a byte-level pre-tokenizer.

    Raises:
        FormatError: it is no pre-tokenizer.
        Unsupported: it holds a step that llama.cpp has in none of its own, or is not byte-level.
    """
    found_steps = list(_steps(pre_tokenizer, 0))
    if not found_steps or found_steps.pop() != "bytes":
        raise Unsupported("the tokenizer's BPE is not over bytes in the end")
    if "bytes" in found_steps or len(found_steps) > _MAX_STEPS:
        raise Unsupported(f"the tokenizer's pre-tokenizer has {len(found_steps)} odd steps")
    return tuple(found_steps)


def is_bytes(pre_tokenizer: object) -> bool:
    """Whether the last step turns words into bytes.

    Raises:
        FormatError: it is no pre-tokenizer.
    """
    part = pre_tokenizer
    for _ in range(_MAX_DEPTH):
        if not isinstance(part, Mapping):
            return False
        if part.get("type") != "Sequence":
            return part.get("type") == "ByteLevel"
        parts = part.get("pretokenizers")
        if not isinstance(parts, list) or not parts:
            raise FormatError("tokenizer.json has an empty sequence of pre-tokenizers")
        part = parts[-1]
    raise FormatError(f"tokenizer.json nests its pre-tokenizers more than {_MAX_DEPTH} deep")


def _steps(part: object, depth: int) -> list[str]:
    if not isinstance(part, Mapping) or depth > _MAX_DEPTH:
        raise FormatError("tokenizer.json has something that is no pre-tokenizer, or too deep")
    match part.get("type"):
        case "Sequence":
            parts = part.get("pretokenizers")
            if not isinstance(parts, list) or len(parts) > _MAX_STEPS:
                raise FormatError("tokenizer.json has a sequence of pre-tokenizers that is none")
            return [step for part in parts for step in _steps(part, depth + 1)]
        case "ByteLevel":
            if part.get("add_prefix_space"):
                raise Unsupported(
                    "the tokenizer puts a space before each text, and llama.cpp's BPE does not"
                )
            return ["words", "bytes"] if part.get("use_regex", True) else ["bytes"]
        case "Digits":
            return ["digits" if part.get("individual_digits") else "digits together"]
        case "Split":
            return [_expression(part)]
    raise Unsupported(f"the tokenizer has the pre-tokenizer {str(part.get('type'))[:80]!r}")


def _expression(part: Mapping[Any, Any]) -> str:
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if not isinstance(regex, str) or len(regex) > 1 << 14:
        raise Unsupported("the tokenizer splits by something that is no regular expression")
    if (part.get("behavior"), bool(part.get("invert"))) not in _ALONE:
        raise Unsupported(f"the tokenizer splits in the manner {str(part.get('behavior'))[:40]!r}")
    return "words" if regex == _WORDS else regex


def _step_as_json(step: str) -> dict[str, Any]:
    """A step as tokenizer.json has it."""
    if step == "digits":
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}


def _bytes(words: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": words,
    }
