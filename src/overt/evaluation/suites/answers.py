"""Answers kept as they come, so that a killed run goes on and a repeated one is free.

One JSONL file for each suite and model: ``<home>/evaluations/answers/<key>.jsonl``. A line is
written whole and synced before the next question is asked of it; a line cut short by a crash is
passed over. Kept are answers, never errors. Two runs of the same take turns (`exclusive`): the
second finds there what the first has paid for.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from overt.chat import Request
from overt.errors import Failure, OutOfDisk, OvertError
from overt.files import atomic
from overt.openness.export.text import canonical

_MAX_BYTES = 1 << 30
_POLL = 0.2  # seconds between two looks at whether another run has ended


class NotKept(Failure):
    """An answer came and could not be written: going on would pay for more that are lost."""


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What a model answered.

    Attributes:
        tokens_in, tokens_out: None where it was not told.
        model: the ref that answered, where a name of the owner's stands for several.
        signal: mean log-probability of its tokens; None where the engine does not tell it.
        cost: US dollars; None where nobody knows (prices/).
        cached: it was kept from an earlier run (its seconds and cost are those of then).
    """

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    cost: float | None
    model: str
    signal: float | None = None
    cached: bool = False


_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "finish": (str,),
    "tokens_in": (int, type(None)),
    "tokens_out": (int, type(None)),
    "seconds": (int, float),
    "cost": (int, float, type(None)),
    "model": (str,),
    "signal": (int, float, type(None)),
}


def key_of(request: Request) -> str:
    """What tells two requests apart; the model's name has no part in it, as its file has."""
    value = asdict(request) | {"model": ""}
    return sha256(canonical(_jsonable(value)).encode()).hexdigest()[:32]


@asynccontextmanager
async def exclusive(path: Path, who: str, say: Callable[[str], None]) -> AsyncGenerator[None]:
    """Hold the answers at `path`; while another process does, wait, and say so once.

    Raises:
        OutOfDisk, Failure: the folder, which is made where it is not there, cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = path.with_suffix(".lock")
    warned = False
    try:
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = FileLock(lock, mode=0o600)
        while not held.is_locked:
            try:
                held.acquire(blocking=False)
            except Timeout:
                if not warned:
                    say(f"another process is asking {who} the same: waiting for its answers")
                warned = True
                await asyncio.sleep(_POLL)
    except OSError as error:
        raise atomic.unwritable(lock, error) from None
    try:
        yield
    finally:
        held.release()


class Answers:
    """The answers of one model to one suite. `fresh` forgets those of earlier runs.

    Raises:
        OutOfDisk, Failure: the file cannot be read, or not be removed.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        self._known: dict[str, ModelReply] = {}
        self._file: int | None = None
        try:
            if fresh:
                path.unlink(missing_ok=True)
            self._torn = self._read()
        except OSError as error:
            raise atomic.unwritable(path, error) from None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> ModelReply | None:
        return self._known.get(key)

    def put(self, key: str, reply: ModelReply) -> None:
        """Keep an answer: it is on the disk when this returns.

        Raises:
            OutOfDisk, NotKept: it could not be written.
        """
        line = json.dumps({"key": key} | _reply_fields(reply), ensure_ascii=True) + "\n"
        try:
            self._write(line)
        except OSError as error:
            self._torn = True
            problem = atomic.unwritable(self._path, error)
            if isinstance(problem, OutOfDisk):
                raise problem from None
            raise NotKept(problem.message, problem.hint) from None
        self._known[key] = reply

    def _write(self, line: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = os.open(self._path, flags, 0o600)
        data = (b"\n" if self._torn else b"") + line.encode()
        self._torn = False
        while data:
            data = data[os.write(self._file, data) :]
        os.fsync(self._file)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _read(self) -> bool:
        """Take in what is there; whether it ends in the middle of a line."""
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES)
        except FileNotFoundError:
            return False
        for line in data.splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            reply = _reply(row)
            if reply is not None:
                self._known[row["key"]] = reply
        return not data.endswith(b"\n") and bool(data)


def _reply_fields(reply: ModelReply) -> dict[str, Any]:
    value = asdict(reply)
    del value["cached"]
    return value


def _reply(row: Any) -> ModelReply | None:
    if not isinstance(row, dict) or not isinstance(row.get("key"), str):
        return None
    for name, kinds in _TYPES.items():
        value = row.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return None
    names = {field.name for field in fields(ModelReply)} - {"cached"}
    return ModelReply(**{name: row[name] for name in names}, cached=True)


def _jsonable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return sha256(value).hexdigest() if isinstance(value, bytes) else value


def failed(error: OvertError) -> dict[str, str]:
    """An error as a receipt shows it."""
    return {"code": error.code, "message": error.message[:300]}
