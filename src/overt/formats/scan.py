"""What a pickle would run if somebody loaded it, by name, so that a refusal can say so.

`picklescan` lists the functions it names; which of them are harmless is that package's judgement,
and only used to put the worst first. Nothing is allowed on the ground of a scan: a pickle is
refused whatever it holds (formats/pickle.py). The scan runs in a process of its own with limits,
since the scanner keeps every opcode in memory.
"""

from pathlib import Path
from typing import Any

from overt.formats import subprocess_reader

_SECONDS = 5
_NAMES = 64
_LEVELS = ("dangerous", "suspicious")


def runs(path: Path) -> tuple[str, ...]:
    """Functions a pickle would call, such as ``posix.system``; the dangerous ones first.

    Empty where it names nothing beyond what plain weights need, or where it cannot be told.
    """
    try:
        imports = subprocess_reader.run(__name__, str(path.absolute()), _SECONDS)
    except subprocess_reader.Exceeded:
        return ()
    rows = [row for row in imports if isinstance(row, list) and len(row) == 3]
    return tuple(f"{module}.{name}" for level, module, name in rows if level in _LEVELS)


def _scan(path: Any) -> list[list[str]]:
    import logging

    from picklescan.scanner import GenOpsError, scan_file_path

    logging.disable()
    try:
        imports = scan_file_path(str(path)).globals
    except (GenOpsError, OSError, ValueError, EOFError, KeyError, IndexError):
        return []
    rows = {(item.safety.value, item.module[:100], item.name[:100]) for item in imports}
    order = {level: place for place, level in enumerate(_LEVELS)}
    ordered = sorted(rows, key=lambda row: (order.get(row[0], len(order)), row))
    return [list(row) for row in ordered[:_NAMES]]


if __name__ == "__main__":
    subprocess_reader.serve(_scan, files=16)
