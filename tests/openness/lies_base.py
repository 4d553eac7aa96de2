"""A release with or without a lie in it, and the lists of both (lies.py says what they are for)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def release(**changes: Any) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        return Planted(tiny.release(folder / "model", licence=text("Apache-2.0"), **changes))

    return make


def simple(name: str, about: str, *components: str, **changes: Any) -> None:
    LIES.append(Case(name, release(**changes), components, about))


def clean(name: str, make: Maker) -> None:
    CLEAN.append(Case(name, make))


def over_base(type: str, edit: Any = None, seed: int = 0, **sizes: int) -> Maker:
    def make(folder: Path, text: Text) -> Planted:
        base = tiny.release(folder / "base", licence=text("Apache-2.0"), **sizes)
        path = tiny.gguf(folder / f"tiny-{type}.gguf", type=type, seed=seed, edit=edit, **sizes)
        return Planted(path, base)

    return make


def named(tag: str) -> dict[str, str]:
    if tag in ("apache-2.0", "mit", "llama2", "llama3.1"):
        return {"license": tag}
    return {"license": "other", "license_name": tag}
