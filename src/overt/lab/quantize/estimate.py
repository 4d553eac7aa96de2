"""What a file of each type will hold, asked of llama.cpp before any is made.

llama.cpp decides the type of each tensor from its name, its rows and the options, and tells what it
decided without quantizing (``dry_run``). From that follow the file's bytes and the memory the model
will take, so that neither depends on which files happen to lie here already.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from overt.errors import EngineFailed, OvertError
from overt.formats import gguf, split
from overt.formats.ggml import TYPES as TENSOR_TYPES
from overt.lab.quantize import types, worker
from overt.settings import Settings


@dataclass(frozen=True, slots=True)
class SizeForecast:
    """One type's file.

    Attributes:
        header: as it will be, its metadata apart; None where there will be none.
        problem: why it cannot be made, or None.
        unread: the problem is only that llama.cpp's words were not understood: it may be made.
    """

    header: gguf.GgufHeader | None
    problem: OvertError | None = None
    unread: bool = False


def foresee(
    source: Path,
    header: gguf.GgufHeader,
    wanted: Sequence[types.QuantType],
    parameters: Mapping[str, Any],
    settings: Settings,
    *,
    importance: bool,
) -> dict[str, SizeForecast]:
    """The files of the types `wanted`, by name.

    Args:
        parameters: of the step, beside the type.
        importance: whether there will be an importance matrix.

    Raises:
        EngineFailed: llama.cpp gave up on all of them.
    """
    body = {
        "source": str(source.absolute()),
        "importance": importance,
        "threads": 1,
        "types": {type_.name: type_.number for type_ in wanted},
        **types.numbers(parameters),
    }
    task = worker.Task(
        "foresee",
        body,
        "reading what the types will hold",
        {},
        split.files(source),
        memory=2 << 30,
    )
    replies = {str(reply.get("type")): reply for reply in worker.carry_out(task, settings).replies}
    return {type_.name: _foreseen(header, replies.get(type_.name)) for type_ in wanted}


def _foreseen(header: gguf.GgufHeader, reply: Mapping[str, Any] | None) -> SizeForecast:
    if reply is None:
        raise EngineFailed("the worker broke its own protocol", "type the same command again")
    if reply.get("problem"):
        return SizeForecast(None, EngineFailed(str(reply["problem"])[:300]))
    if reply.get("lacks_importance"):
        return SizeForecast(None, worker.lacks_importance())
    kinds = reply.get("kinds")
    by_name = {kind.name: kind for kind in TENSOR_TYPES.values()}
    tensors, at = [], 0
    for tensor in header.tensors:
        name = str(kinds.get(tensor.name)).upper() if isinstance(kinds, dict) else ""
        if name not in by_name:
            why = f"llama.cpp does not say what becomes of {tensor.name[:64]!r}"
            return SizeForecast(None, EngineFailed(why, "name one type: -q q8_0"), unread=True)
        kind = by_name[name]
        size = tensor.parameters // kind.block * kind.bytes
        tensors.append(
            replace(tensor, type=name, size=size, offset=header.data_offset + at, part=0)
        )
        at += -(-size // header.alignment) * header.alignment
    return SizeForecast(
        replace(header, tensors=tuple(tensors), file_size=header.data_offset + at, parts=())
    )
