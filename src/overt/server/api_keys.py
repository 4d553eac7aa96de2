"""Keys of those who may use a server: made, listed, revoked, and looked up for every request.

A key is ``sk-ov-ID-SECRET``: 8 letters and digits that name it, and 20 that prove it (119 bits).
LM Studio's client takes only keys of its own form, so ``sk-lm-ID:SECRET`` is the same key. The file
``$OVERT_HOME/keys.json`` (mode 0600) holds the SHA-256 of each and never the key; a secret of that
length cannot be guessed from its digest, so no slow hash is needed. The file is replaced whole: a
kill at any moment leaves the old or the new one. When each key was last used is kept beside it in
``keys-used.json``, about once a minute; losing that loses nothing else.
"""

import hmac
import json
import re
import secrets
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from overt.errors import BadRequest, Failure, NotFound
from overt.files import atomic
from overt.protocols.base import Caller

PREFIXES = ("sk-ov-", "sk-lm-")
"""How our keys begin: whatever does is held to be one, and nothing else is."""

_ID, _SECRET = 8, 20  # characters, as LM Studio's client wants them
_LETTERS = string.ascii_letters + string.digits
_FORM = re.compile(
    rf"sk-(?:ov-([A-Za-z0-9]{{{_ID}}})-|lm-([A-Za-z0-9]{{{_ID}}}):)([A-Za-z0-9]{{{_SECRET}}})"
)
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,80}")
_MAX_KEYS = 100_000  # keys; the file is read whole
_LOOK_EVERY = 1.0  # seconds between looks at whether the file changed
_NOTE_EVERY = 60.0  # seconds between writes of when keys were used


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of one key. Times are Unix seconds; `expires` None is never."""

    id: str
    name: str
    sha256: str
    created: float
    expires: float | None = None
    revoked: float | None = None

    def works(self, now: float) -> bool:
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, in both spellings: the only moment they are known."""

    key: Key
    text: str
    lm_studio: str


class ApiKeys:
    """The keys of one OVERT_HOME. One object may be asked for years: it follows the file."""

    def __init__(self, home: Path) -> None:
        self._path = home / "keys.json"
        self._used_path = home / "keys-used.json"
        self._lock = home / "keys.lock"
        self._by_id: dict[str, Key] = {}
        self._callers: dict[str, Caller] = {}
        self._seen: tuple[int, int, int] | None = None
        self._looked = -_LOOK_EVERY
        self._used: dict[str, float] = {}
        self._noted = time.monotonic()

    # ---- asked for every request -----------------------------------------------------------

    def find(self, secret: str) -> Caller | None:
        """Whose key `secret` is, in either spelling; None for one that is wrong or over.

        Keeps up with the file within a second. Where the file cannot be read, nobody is known.
        """
        match = _FORM.fullmatch(secret)
        if match is None:
            return None
        self._follow()
        key = self._by_id.get(match[1] or match[2])
        # Compared also where there is no such id, so that time does not tell which ids exist.
        wanted = key.sha256 if key else _NONE
        digest = _digest(match[1] or match[2], match[3])
        if not hmac.compare_digest(digest, wanted) or key is None:
            return None
        now = time.time()
        if not key.works(now):
            return None
        self._used[key.id] = now
        if time.monotonic() - self._noted > _NOTE_EVERY:
            self.note_used()
        return self._callers[key.id]

    def usable(self) -> bool:
        """Whether some key works now."""
        self._follow()
        now = time.time()
        return any(key.works(now) for key in self._by_id.values())

    def note_used(self) -> None:
        """Write when keys were used. Best effort: it never fails a request."""
        self._noted = time.monotonic()
        if not self._used:
            return
        with suppress(OSError):
            merged = {**self.used(), **self._used}
            atomic.write(self._used_path, json.dumps(merged).encode(), lasting=False)
            self._used.clear()

    def _follow(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        try:
            about = self._path.stat()
            seen = (about.st_mtime_ns, about.st_size, about.st_ino)
            if seen == self._seen:
                return
            self._take(self._read())
            self._seen = seen
        except FileNotFoundError:
            self._take([])
            self._seen = None
        except (OSError, Failure):
            self._take([])  # closed rather than open: what cannot be read admits nobody
            self._seen = None

    def _take(self, keys: list[Key]) -> None:
        self._by_id = {key.id: key for key in keys}
        self._callers = {key.id: Caller(key.id, key.name) for key in keys}

    # ---- kept by people --------------------------------------------------------------------

    def add(self, name: str = "", seconds: float | None = None) -> NewKey:
        """Make a key that works for `seconds` (None: until revoked).

        Raises:
            BadRequest: an odd name, or no time at all. Busy, OutOfDisk, Failure: not written.
        """
        if name and (not _NAME.fullmatch(name) or name != name.strip()):
            raise BadRequest(
                f"{name[:80]!r} is no name for a key", "use up to 80 visible characters"
            )
        if seconds is not None and not 0 < seconds < 1e10:
            raise BadRequest(f"a key cannot last {seconds:g} seconds", "try --expires 90d")
        with self._changing() as keys:
            if len(keys) >= _MAX_KEYS:
                raise BadRequest(f"there are {len(keys)} keys", "revoke some: overt keys revoke ID")
            taken = {key.id for key in keys}
            id = next(
                candidate for candidate in iter(lambda: _random(_ID), "") if candidate not in taken
            )
            secret, now = _random(_SECRET), time.time()
            expires = None if seconds is None else now + seconds
            key = Key(id, name, _digest(id, secret), now, expires)
            keys.append(key)
        return NewKey(key, f"sk-ov-{id}-{secret}", f"sk-lm-{id}:{secret}")

    def revoke(self, id: str) -> Key:
        """End a key, named by its id or the key itself; running servers know within two seconds.

        Raises:
            NotFound: no such key, or it was revoked before. Busy, OutOfDisk, Failure: not written.
        """
        match = _FORM.fullmatch(id)
        id = (match[1] or match[2]) if match else id
        with self._changing() as keys:
            for at, key in enumerate(keys):
                if key.id == id and key.revoked is None:
                    keys[at] = replace(key, revoked=time.time())
                    return keys[at]
            was = any(key.id == id for key in keys)
            raise NotFound(
                f"key {id[:40]!r} was revoked before" if was else f"there is no key {id[:40]!r}",
                "`overt keys list` shows the ids",
            )

    def all(self) -> list[Key]:
        """Every key that was made, oldest first, also those that are over.

        Raises:
            Failure: the file is not what `add` writes.
        """
        try:
            return self._read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise Failure(f"{self._path} cannot be read: {error.strerror}") from None

    def used(self) -> dict[str, float]:
        """When each key was last used, to about a minute; those never used are left out."""
        try:
            document = json.loads(self._used_path.read_bytes())
            return {str(id): float(when) for id, when in document.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def _read(self) -> list[Key]:
        try:
            document = json.loads(self._path.read_bytes())
            return [_key(row) for row in document["keys"]]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Failure(
                f"{self._path} is damaged", "restore it, or delete it and make new keys"
            ) from None

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        """The keys, to be changed in place; written at the end unless something was raised."""
        with atomic.file_lock(self._lock, "the keys"):
            before = self.all()
            keys = [*before]
            yield keys
            if keys != before:
                self._write(keys)

    def _write(self, keys: list[Key]) -> None:
        try:
            for left in self._path.parent.glob(".keys*.json-*"):
                left.unlink(missing_ok=True)  # of a writer that was killed: we hold the lock
            data = json.dumps({"version": 1, "keys": [asdict(key) for key in keys]}, indent=1)
            atomic.write(self._path, data.encode(), lasting=True)
        except OSError as error:
            raise atomic.unwritable(self._path, error) from None


def is_overt_key(secret: str) -> bool:
    """Whether a secret claims to be one of our keys, right or wrong."""
    return secret.startswith(PREFIXES)


def _digest(id: str, secret: str) -> str:
    return sha256(f"{id}:{secret}".encode()).hexdigest()


_NONE = _digest("", "")


def _random(length: int) -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def _key(row: dict[str, Any]) -> Key:
    """One row of the file.

    Raises:
        TypeError, KeyError, ValueError: it is not one.
    """
    id, digest = row["id"], row["sha256"]
    if not re.fullmatch(r"[A-Za-z0-9]{8}", id) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(id)
    expires, revoked = row.get("expires"), row.get("revoked")
    return Key(
        id,
        str(row.get("name", "")),
        digest,
        float(row["created"]),
        None if expires is None else float(expires),
        None if revoked is None else float(revoked),
    )
