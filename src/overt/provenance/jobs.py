"""The folders of unfinished work: ``<home>/jobs/<the recipe's digest>``.

::

    recipe.json     what is made
    job.json        {"name", "command", "folder", "variables", "begun", "starts"}
    pid             of the process that works on it, while it holds the lock
    result.json     once the step is done: the manifest, and where its files lie
    work/           the step's own; events.jsonl in it has what it told

The lock is a file of ``<home>/locks``, and ends with its process however that dies.
"""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import ELOOP
from pathlib import Path
from typing import Any

from overt.errors import Busy, NotFound, OvertError
from overt.files.atomic import unwritable, write
from overt.models.recipe import Recipe
from overt.models.store.manifest import hex_of
from overt.provenance import steps
from overt.provenance.environment import CHOOSING

_TAIL = 64 << 10  # bytes at the end of events.jsonl that hold the last event
_SMALL = 1 << 20
_ID = 12  # digits of a folder's name
_VARIABLES = ("OVERT_HOME", "OVERT_THREADS", *CHOOSING)
"""What of the environment decides which recipe, and in which home, a command carries out."""
_PATIENCE = 0.5  # seconds; `list_jobs` holds the lock for a moment to see whether it is free


@dataclass(frozen=True, slots=True)
class LocalJob:
    """Work that was begun and is not finished.

    Attributes:
        id: the first hex digits of its recipe's digest, or of a replay's folder.
        name: of the model it makes.
        step: of its recipe.
        command: what goes on with it.
        begun: when it was started first (ISO 8601, UTC).
        starts: how often it was started.
        event: the last thing its step told, or None.
        size: bytes on disk.
        pid: of the process that works on it now, or None.
        folder: where it lies.
    """

    id: str
    name: str
    step: str
    command: str
    begun: str
    starts: int
    event: Mapping[str, Any] | None
    size: int
    pid: int | None
    folder: Path


def folder_of(recipe: Recipe, home: Path) -> Path:
    return home / "jobs" / hex_of(recipe.digest)


@contextmanager
def locked(folder: Path, home: Path) -> Iterator[Path]:
    """Hold the one lock of a job, in its folder, which is made.

    Raises:
        Busy: another process works on it, named by its pid.
        OutOfDisk, Failure: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(home / "locks" / f"job-{folder.name[:32]}.lock")
    try:
        (home / "locks").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE, poll_interval=0.02)
    except Timeout:
        pid = _text(folder / "pid") or "another"
        raise Busy(
            f"the process {pid} is making this already", "wait for it, or see `overt jobs`"
        ) from None
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        try:
            if folder.is_symlink():  # what is private would be written where somebody else wants it
                raise OSError(ELOOP, "it is a link")
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)  # what it was trained on is the person's own
            write(folder / "pid", str(os.getpid()).encode(), lasting=False)
        except OSError as error:
            raise unwritable(folder, error) from None
        yield folder
    finally:
        with suppress(OSError):
            (folder / "pid").unlink()
        lock.release()
        if folder.name.startswith("replay-"):  # nobody waits for a name that is used once
            with suppress(OSError):
                Path(lock.lock_file).unlink()


def begin(folder: Path, recipe: Recipe, name: str) -> dict[str, Any]:
    """Note in the folder what is made; returns what stands in ``job.json``. Raises OSError."""
    noted = noted_in(folder)
    if typed := command_line():
        noted |= {
            "command": typed,
            "folder": _folder(),
            "variables": {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)},
        }
    noted = {
        "name": name,
        **{name: noted[name] for name in ("command", "folder", "variables") if name in noted},
        "begun": str(noted.get("begun") or now()),
        "starts": _count(noted.get("starts")) + 1,
    }
    write(folder / "recipe.json", recipe.encode())
    write(folder / "job.json", json.dumps(noted, sort_keys=True).encode())
    (folder / "work").mkdir(exist_ok=True)
    return noted


def hand_on(source: Path, folder: Path) -> None:
    """The job `folder`, held and not begun, goes on with what the job `source` has made: it counts
    as begun when that was, and as started as often. Raises OSError.
    """
    (folder / "work").mkdir(exist_ok=True)
    if not (folder / "job.json").exists():
        noted = noted_in(source)
        noted["starts"] = max(0, _count(noted.get("starts")) - 1)  # `begin` counts one more
        write(folder / "job.json", json.dumps(noted, sort_keys=True).encode())


def noted_in(folder: Path) -> dict[str, Any]:
    """``job.json``; empty where it cannot be read."""
    try:
        notes = json.loads(_text(folder / "job.json") or "{}")
    except (ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def idle(folder: Path) -> bool:
    """Whether the step has left nothing to go on from."""
    try:
        left = [entry.name for entry in (folder / "work").iterdir()]
    except OSError:
        left = []
    return not set(left) - {"events.jsonl"} and not (folder / "result.json").exists()


def drop(folder: Path) -> None:
    """Delete a folder whose lock is held."""
    (folder / "result.json").unlink(missing_ok=True)  # first: what it names goes with the rest
    shutil.rmtree(folder, ignore_errors=True)


def list_jobs(home: Path) -> list[LocalJob]:
    """Every unfinished job, the oldest first."""
    try:
        folders = sorted(folder_ for folder_ in (home / "jobs").iterdir() if folder_.is_dir())
    except OSError:
        return []
    return sorted((_job(folder_, home) for folder_ in folders), key=lambda job: (job.begun, job.id))


def find(id: str, home: Path) -> LocalJob:
    """The job whose id begins so.

    Raises:
        NotFound: none does, or several do.
    """
    jobs = [job for job in list_jobs(home) if id and job.folder.name.startswith(id)]
    if len(jobs) != 1:
        how = "is no unfinished job" if not jobs else f"is the beginning of {len(jobs)} jobs"
        raise NotFound(f"{id!r} {how}", "`overt jobs` lists them")
    return jobs[0]


def remove(job: LocalJob, home: Path) -> int:
    """Delete what a job has so far; returns the bytes freed.

    Raises:
        Busy: a process works on it.
    """
    with locked(job.folder, home):
        drop(job.folder)
    return job.size


def command_line() -> str:
    """The command that is running, as a person would type it again; "" where there is none."""
    program = Path(sys.argv[0] if sys.argv else "")
    own = program.name == "overt" or program.parts[-2:] == ("overt", "__main__.py")
    if own and len(sys.argv) > 1:
        return shlex.join(["overt", *sys.argv[1:]])
    return ""


def going_on(folder: Path, noted: Mapping[str, Any], step: str) -> str:
    """The command that goes on with a job, to be typed here: the one that it was begun with, in the
    folder and with the variables of then. Where that folder is gone, one that needs neither.

    Args:
        step: of its recipe. A table of types has none that `overt replay` knows, and goes on by its
            own command alone; where that is not known, it can only be deleted.
    """
    command, place = str(noted.get("command", "")), str(noted.get("folder", ""))
    gone = bool(place) and not Path(place).is_dir()
    if (not command or gone) and step in steps.STEPS:
        name = shlex.quote(str(noted.get("name", "")))
        return f"overt replay {shlex.quote(str(folder / 'recipe.json'))} --keep {name}"
    if not command:
        return f"overt jobs rm {folder.name[:_ID]}"
    before = f"cd {shlex.quote(place)} && " if place and not gone and place != _folder() else ""
    return before + _with(noted.get("variables")) + command


def _with(variables: object) -> str:
    """What stands before a command so that it has these of `_VARIABLES` and no others."""
    if not isinstance(variables, dict):  # noted by an Overt of before
        return ""
    gone = [f"-u {name}" for name in _VARIABLES if os.environ.get(name) and name not in variables]
    other = [
        f"{name}={shlex.quote(str(variables[name]))}"
        for name in _VARIABLES
        if name in variables and os.environ.get(name) != str(variables[name])
    ]
    words = [*(["env", *gone] if gone else []), *other]
    return " ".join([*words, ""]) if words else ""


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _job(folder: Path, home: Path) -> LocalJob:
    noted = noted_in(folder)
    step = ""
    with suppress(OvertError, OSError):
        step = Recipe.decode((folder / "recipe.json").read_bytes()).step
    return LocalJob(
        folder.name[:_ID],
        str(noted.get("name", "")),
        step,
        going_on(folder, noted, step),
        str(noted.get("begun", "")),
        _count(noted.get("starts")),
        _last(folder),
        _size(folder),
        _holder(folder, home),
        folder,
    )


def _folder() -> str:
    """Where a command is typed; "" where that is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def _holder(folder: Path, home: Path) -> int | None:
    """The pid of who holds the lock, 0 where it says none."""
    from filelock import FileLock, Timeout

    path = home / "locks" / f"job-{folder.name[:32]}.lock"
    if not path.exists():
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        pid = _text(folder / "pid") or ""
        return int(pid) if pid.isdecimal() else 0
    except OSError:
        return None
    lock.release()
    return None


def _last(folder: Path) -> Mapping[str, Any] | None:
    try:
        with (folder / "work" / "events.jsonl").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                return event
    return None  # killed within its first line


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_size if not path.is_dir() else 0
    return total


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_SMALL).decode("utf-8", "replace")
    except OSError:
        return None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
