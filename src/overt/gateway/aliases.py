"""Names of a person's own for models: `writer` today is one model, and tomorrow another.

``<home>/aliases.json`` (mode 0600) holds them::

    {"version": 1, "aliases": {"writer": {
        "target": "anthropic:claude-…" or a route's mapping, null once removed,
        "time": "2026-11-25T23:17:03Z",
        "before": [{"target": …, "time": …}, …]      at most 20, the oldest first
    }}}

The file is replaced whole, under a lock, so that two who change it at once lose nothing and a
reader sees the old or the new one. A name is ``word[:tag]`` of ref.py; `writer:latest` is `writer`.
An alias may stand for an alias, at most 8 in a row. What a route is, this module does not know: it
keeps the mapping, and `read` makes the value of it. It looks into a route for the refs it names
alone, so that no circle can be set or found.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, Generic, TypeVar

from overt import ref as refs
from overt.errors import BadRef, BadRequest, Failure, NotFound, Refused
from overt.files import atomic

__all__ = ["Alias", "Aliases", "Target", "plain_name"]

Target = str | Mapping[str, Any]
"""A ref, or a route as JSON."""

T = TypeVar("T")

_MAX_CHAIN = 8
_HISTORY = 20
_MAX_ALIASES = 10_000  # aliases, those removed counted too
_MAX_BYTES = 16 << 20  # of the file
_ROUTE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Alias:
    """One name. `time` is when it was set (ISO 8601, UTC); `before` what it stood for earlier."""

    name: str
    target: Target
    time: str
    before: tuple[Target, ...] = ()


@dataclass(slots=True)
class _Entry:
    target: Target | None
    time: str
    before: list[dict[str, Any]] = field(default_factory=list)


class Aliases(Generic[T]):
    """The aliases of one OVERT_HOME. One object may be asked for years: it follows the file.

    `read` makes of a route's mapping what `find` answers with (routes.read_mapping); it may raise
    an OvertError, which then names the alias.
    """

    def __init__(self, home: Path, read: Callable[[Mapping[str, Any]], T]) -> None:
        self._path = home / "aliases.json"
        self._text_path = str(self._path)
        self._lock = home / "aliases.lock"
        self._read = read
        self._seen: tuple[int, int, int] | None = None
        self._entries: dict[str, _Entry] = {}
        self._found: dict[str, str | T] = {}

    # ---- asked for every request -----------------------------------------------------------

    def find(self, name: str) -> str | T | None:
        """What `name` stands for in the end: a ref that is no alias, or a route; None for no alias.

        Costs one stat while the file is as it was.

        Raises:
            Failure: the file is damaged. Refused: others may write to it.
            BadRequest: the aliases go in a circle, or on for too long, by somebody's own hand.
        """
        self._follow()
        # In this order, and taken once: another thread may see that the file has changed, and
        # what was found in the old one must not be kept for the new one.
        cache = self._found
        entries = self._entries
        name = plain_name(name)
        target = cache.get(name)
        if target is None:
            entry = entries.get(name)
            if entry is None or entry.target is None:
                return None
            target = cache[name] = self._end(name, entries)
        return target

    def _end(self, name: str, entries: Mapping[str, _Entry]) -> str | T:
        _check_circle(name, entries)
        target = entries[name].target
        while isinstance(target, str):
            following = entries.get(plain_name(target))
            if following is None or following.target is None:
                return target
            name, target = plain_name(target), following.target
        assert target is not None  # a name that was removed ends the loop
        try:
            return self._read(target)
        except (BadRequest, BadRef) as error:
            raise type(error)(f"alias {name!r}: {error.message}", error.hint) from None

    def _follow(self) -> None:
        try:
            about = os.stat(self._text_path)  # noqa: PTH116 - half the time of Path.stat
        except FileNotFoundError:
            if self._seen is not None:
                self._seen, self._entries, self._found = None, {}, {}
            return
        except OSError as error:
            raise _unreadable(self._path, error) from None
        seen = (about.st_mtime_ns, about.st_size, about.st_ino)
        if seen != self._seen:
            self._entries, self._found = _load(self._path), {}
            self._seen = seen

    # ---- kept by people --------------------------------------------------------------------

    def all(self) -> list[Alias]:
        """Every alias, by name. Raises as `find`."""
        self._follow()
        return [
            Alias(name, entry.target, entry.time, tuple(_targets(entry.before)))
            for name, entry in sorted(self._entries.items())
            if entry.target is not None
        ]

    def get(self, name: str) -> Alias:
        """One alias as it was set, not followed.

        Raises:
            NotFound: no such alias. Also as `find`.
        """
        name = plain_name(name)
        for alias in self.all():
            if alias.name == name:
                return alias
        raise NotFound(f"there is no alias {name[:80]!r}", "`overt alias list` shows them")

    def set(self, name: str, target: Target) -> Alias:
        """Let `name` stand for `target` from now on; requests under way end as they began.

        Raises:
            BadRef: a name or a ref that does not follow the grammar, or a path that depends on
                the folder a program was started in.
            BadRequest: a circle, a chain that is too long, too many aliases, too large a route.
            Busy, OutOfDisk, Failure: not written.
        """
        name = checked_name(name)
        checked = _checked_target(target, self._read)
        with self._changing() as entries:
            already = _in_circles(entries)
            entry = entries.get(name) or _Entry(None, "")
            if entry.target is not None:
                entry.before.append({"target": entry.target, "time": entry.time})
                del entry.before[:-_HISTORY]
            entry.target, entry.time = checked, _now()
            entries[name] = entry
            if len(entries) > _MAX_ALIASES:
                raise BadRequest(
                    f"there are {_MAX_ALIASES} aliases", "remove some: overt alias remove"
                )
            _check_new_circles(entries, already)
        return Alias(name, checked, entry.time, tuple(_targets(entry.before)))

    def remove(self, name: str) -> Alias:
        """Take an alias away; `undo` brings it back.

        Raises:
            NotFound: no such alias. Busy, OutOfDisk, Failure: not written.
        """
        name = plain_name(name)
        with self._changing() as entries:
            entry = entries.get(name)
            if entry is None or entry.target is None:
                raise NotFound(f"there is no alias {name[:80]!r}", "`overt alias list` shows them")
            gone = Alias(name, entry.target, entry.time, tuple(_targets(entry.before)))
            entry.before.append({"target": entry.target, "time": entry.time})
            del entry.before[:-_HISTORY]
            entry.target, entry.time = None, _now()
        return gone

    def undo(self, name: str) -> Alias:
        """Go back to what `name` stood for before the last change.

        Raises:
            NotFound: it never stood for anything else.
            BadRequest: that would make a circle now. Busy, OutOfDisk, Failure: not written.
        """
        name = plain_name(name)
        with self._changing() as entries:
            entry = entries.get(name)
            if entry is None or not entry.before:
                raise NotFound(
                    f"nothing was changed about {name[:80]!r}", "`overt alias list` shows aliases"
                )
            already = _in_circles(entries)
            earlier = entry.before.pop()
            entry.target, entry.time = earlier["target"], _now()
            _check_new_circles(entries, already)
        return Alias(name, earlier["target"], entry.time, tuple(_targets(entry.before)))

    @contextmanager
    def _changing(self) -> Iterator[dict[str, _Entry]]:
        """The entries, to be changed in place; written at the end unless something was raised."""
        with atomic.file_lock(self._lock, "aliases"):
            entries = _load(self._path)
            yield entries
            data = _encode(entries)
            try:
                for left in self._path.parent.glob(".aliases.json-*"):
                    left.unlink(missing_ok=True)  # of a writer that was killed: we hold the lock
                atomic.write(self._path, data)
            except OSError as error:
                raise atomic.unwritable(self._path, error) from None


def plain_name(name: str) -> str:
    """`writer:latest` is `writer`, as clients of Ollama write it."""
    return name.removesuffix(":latest")


def checked_name(name: str) -> str:
    """`name` as it is kept.

    Raises:
        BadRef: not ``word[:tag]``.
    """
    try:
        fits = refs.parse(name).scheme == "name"
    except BadRef:
        fits = False
    if not fits:
        raise BadRef(
            f"{name[:80]!r} is no name for an alias",
            "letters, digits, '.', '_' and '-', such as writer or writer:fast",
        )
    return plain_name(name)


def referenced_models(target: Target | None) -> list[str]:
    """The refs that a target names: itself, or those of a route, whatever else that holds."""
    if isinstance(target, str):
        return [target]
    if not isinstance(target, Mapping):
        return []
    rules, models = target.get("rules"), target.get("models")
    refs = [rule.get("use") for rule in _list(rules) if isinstance(rule, Mapping)]
    refs += [entry.get("model") if isinstance(entry, Mapping) else entry for entry in _list(models)]
    return [ref for ref in refs if isinstance(ref, str)]


# ---- the file ------------------------------------------------------------------------------


def _load(path: Path) -> dict[str, _Entry]:
    """What `path` holds; nothing where it is not there.

    Raises:
        Failure: it is damaged, too large, or of a later Overt. Refused: others may write to it.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise Failure(f"{path} is not a file", "move it away and set the aliases again")
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(path, error) from None
    if os.name == "posix" and stat.S_IMODE(about.st_mode) & 0o022:
        # Whoever writes here decides where the text of every request goes, and which command runs.
        raise Refused(f"others may write to {path}", f"chmod 600 {path}")
    try:
        if len(data) > _MAX_BYTES:
            raise ValueError("too large")
        document = json.loads(data)
        version, rows = document["version"], document["aliases"]
        if version != 1 and isinstance(version, int):
            raise Failure(f"{path} was written by a later Overt (version {version})", "update")
        if version != 1 or len(rows) > _MAX_ALIASES:
            raise ValueError(version)
        return {name: _entry(name, row) for name, row in rows.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, BadRef):
        raise Failure(
            f"{path} is damaged",
            f"to go on: mv {quote(str(path))} {quote(str(path) + '.damaged')}, then set the "
            "aliases again; models, keys and chats are not in it",
        ) from None


def _at_once(path: str, flags: int) -> int:
    """Opens a file and waits for nobody: a pipe that no one writes to would stop the server."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _entry(name: str, row: Any) -> _Entry:
    """One row of the file.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not one.
    """
    if refs.parse(name).scheme != "name" or name != plain_name(name):
        raise ValueError(name)
    before = [{"target": entry["target"], "time": str(entry["time"])} for entry in row["before"]]
    for target in (row["target"], *(entry["target"] for entry in before)):
        if isinstance(target, str):
            refs.parse(target)
        elif not isinstance(target, dict | None):
            raise TypeError(name)
    if len(before) > _HISTORY or any(entry["target"] is None for entry in before):
        raise ValueError(name)
    return _Entry(row["target"], str(row["time"]), before)


def _encode(entries: Mapping[str, _Entry]) -> bytes:
    rows = {
        name: {"target": entry.target, "time": entry.time, "before": entry.before}
        for name, entry in sorted(entries.items())
    }
    data = json.dumps({"version": 1, "aliases": rows}, indent=1).encode()
    if len(data) > _MAX_BYTES:
        raise BadRequest(
            f"the aliases would be {len(data)} bytes and the most is {_MAX_BYTES}",
            "remove some: overt alias remove NAME",
        )
    return data


def _checked_target(target: Target, read: Callable[[Mapping[str, Any]], object]) -> Target:
    if isinstance(target, str):
        ref = refs.parse(target)
        if ref.scheme == "path" and not Path(target).is_absolute():
            raise BadRef(
                f"{target[:80]!r} depends on the folder a program is started in",
                f"write it whole: {Path(target).expanduser().absolute()}",
            )
        return target
    read(target)
    data = json.dumps(target)
    if len(data) > _ROUTE_BYTES:
        raise BadRequest(
            f"the route is {len(data)} bytes and the most is {_ROUTE_BYTES}", "make it shorter"
        )
    copy: dict[str, Any] = json.loads(data)  # a copy that nobody else can change
    return copy


def _check_circle(name: str, entries: Mapping[str, _Entry]) -> None:
    """Raises BadRequest: what `name` leads to comes back to it, or is more than 8 aliases away."""
    done: set[tuple[str, int]] = set()

    def walk(at: str, way: tuple[str, ...]) -> None:
        if at in way:
            raise BadRequest(
                f"the aliases go in a circle: {' -> '.join([*way, at])}",
                f"let one of them stand for a model: overt alias set {name} REF",
            )
        if len(way) > _MAX_CHAIN:
            raise BadRequest(
                f"more than {_MAX_CHAIN} aliases in a row: {' -> '.join(way)}",
                f"let the first stand for the model itself: overt alias set {name} REF",
            )
        entry = entries.get(at)
        if entry is None or entry.target is None or (at, len(way)) in done:
            return
        done.add((at, len(way)))
        for ref in referenced_models(entry.target):
            walk(plain_name(ref), (*way, at))

    walk(name, ())


def _in_circles(entries: Mapping[str, _Entry]) -> set[str]:
    """The names that `find` would refuse, by somebody's own hand."""
    members = set()
    for name in entries:
        try:
            _check_circle(name, entries)
        except BadRequest:
            members.add(name)
    return members


def _check_new_circles(entries: Mapping[str, _Entry], already: Container[str]) -> None:
    for name in entries:
        if name not in already:
            _check_circle(name, entries)


def _targets(before: list[dict[str, Any]]) -> list[Target]:
    return [entry["target"] for entry in before]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _unreadable(path: Path, error: OSError) -> Failure:
    return Failure(f"{path} cannot be read: {error.strerror}", "check who owns it")
