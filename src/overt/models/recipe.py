"""How a model was made: the step, its inputs by digest, its parameters, what it ran on.

Whatever Overt makes carries its recipe in a file with the role ``recipe``, so that anybody can
follow a model back to the bytes it came from. A model made from a made model keeps the older
recipes too, newest first. A recipe is canonical JSON: the same step on the same inputs gives the
same bytes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from overt.errors import FormatError

MAX_BYTES = 8 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORD = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_MAX_INPUTS = 10_000


@dataclass(frozen=True, slots=True)
class Input:
    """Something a step read.

    Attributes:
        role: what the step used it for, such as ``from``, ``adapter`` or ``data``.
        digest: ``sha256:`` and 64 hex, of a manifest or of a file.
        ref: what a person calls it, where it has such a name.
    """

    role: str
    digest: str
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One step.

    Attributes:
        step: its name, such as ``create``.
        version: of the step's meaning: with another version the same parameters may do otherwise.
        inputs: in the order the step uses them.
        parameters: JSON values; everything that decides the outcome beside the inputs.
        environment: what else could change the outcome, such as versions.
    """

    step: str
    version: str
    inputs: tuple[Input, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return "sha256:" + sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces, UTF-8."""
        content = {
            "step": self.step,
            "version": self.version,
            "inputs": [asdict(entry) for entry in self.inputs],
            "parameters": dict(self.parameters),
            "environment": dict(self.environment),
        }
        return json.dumps(
            content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Recipe":
        """Read a recipe; nothing in it is trusted.

        Raises:
            FormatError: not a recipe.
        """
        try:
            if len(data) > MAX_BYTES:
                raise ValueError(f"it is {len(data)} bytes")
            content = json.loads(data)
            inputs = content["inputs"]
            parameters, environment = content["parameters"], content["environment"]
            if not isinstance(inputs, list) or len(inputs) > _MAX_INPUTS:
                raise ValueError("its inputs are no list, or too many")
            if not isinstance(parameters, dict) or not isinstance(environment, dict):
                raise ValueError("its parameters or its environment are no object")
            recipe = cls(
                step=_text(content["step"], _WORD),
                version=_text(content["version"]),
                inputs=tuple(_input(entry) for entry in inputs),
                parameters=parameters,
                environment={_text(k): _text(v) for k, v in environment.items()},
            )
            recipe.encode()  # NaN and half a surrogate are read, and cannot be written
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"a recipe cannot be read: {str(error)[:200]}") from None
        return recipe


def _input(content: Mapping[str, object]) -> Input:
    return Input(
        _text(content["role"], _WORD),
        _text(content["digest"], _DIGEST),
        _text(content.get("ref", "")),
    )


def _text(value: object, pattern: re.Pattern[str] | None = None) -> str:
    if not isinstance(value, str) or (pattern and not pattern.fullmatch(value)):
        raise ValueError(f"{str(value)[:80]!r} is not in its place")
    return value
