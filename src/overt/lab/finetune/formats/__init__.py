"""Formats of training data: one module each, which says what a row of it looks like.

A module has:

- ``NAME``, ``ABOUT`` (a few words) and ``EXAMPLE`` (one row, as JSON).
- ``KIND``: ``answers``, ``text`` or ``preference``.
- ``looks(row)``: whether the columns of a row are this format's.
- ``read(row)``: the row as an `item.Item`; raises `item.Bad`. It reads each column that it uses
  from `row` and no other: a column that holds something and was not read is told to the person.

To add one: such a module, its name in `FORMATS`, a row in the table of the tests. Turns of a chat
are read by `turns.py`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from overt.errors import BadRequest
from overt.lab.finetune.row import Item, Kind, TrackedRow

FORMATS = ("preference", "chat", "sharegpt", "alpaca", "completion", "text")
"""In the order in which a row is tried."""


class DataFormat(Protocol):
    NAME: str
    ABOUT: str
    EXAMPLE: str
    KIND: Kind

    def looks(self, row: Mapping[str, Any]) -> bool: ...

    def read(self, row: TrackedRow) -> Item: ...


def all_formats() -> list[DataFormat]:
    return [find(name) for name in FORMATS]


def find(name: str) -> DataFormat:
    """The format of that name. Raises BadRequest: there is none."""
    if name not in FORMATS:
        raise BadRequest(
            f"no data has the format {name[:40]!r}", f"it is one of {', '.join(FORMATS)}"
        )
    return cast("DataFormat", import_module(f"{__name__}.{name}"))


def of(row: Mapping[str, Any]) -> DataFormat | None:
    """The format that a row looks like."""
    return next((format for format in all_formats() if format.looks(row)), None)
