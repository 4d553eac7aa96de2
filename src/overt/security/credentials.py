"""Keys of providers: where they are looked for, kept and forgotten.

A name is ``openai``, ``anthropic``, ``gemini``, or the base URL of any other server. Its key is
looked for in the environment, then in ``logins.json`` of Overt's home (for its owner alone), then
in the system's keyring. A key is never written into an error, a log, a `repr` or a command line.
"""

import json
import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from overt.errors import BadRef, BadSetting, Failure, NoEgress, NotFound, Refused
from overt.files import atomic
from overt.security.urls import PORTS, read
from overt.settings import Settings

Keep = Literal["auto", "keyring", "file"]
_T = TypeVar("_T")

VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
}
"""Where each provider's key is looked for in the environment, first the first."""

_BASES: Final = {  # the variable that moves it, and the provider's own
    "openai": ("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    "anthropic": ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    "gemini": ("GOOGLE_GEMINI_BASE_URL", "https://generativelanguage.googleapis.com"),
}
_SERVICE = "overt"  # of the keyring
_MAX_KEY = 8192  # characters; tokens of clouds have some 2000
_MAX_FILE = 1 << 20
_MAX_LOGINS = 1000
_READ_SECONDS = 3.0  # a locked keyring waits for a person who may not be there
_WRITE_SECONDS = 60.0  # somebody who has just typed a key is


@dataclass(frozen=True, slots=True)
class ProviderLogin:
    """What a request to a provider needs.

    Attributes:
        secret: the key, "" where there is none.
        base: the URL that paths are put behind, without a slash at its end.
        place: where the key was: a variable's name, a file's path, ``keyring``, or "".
        bearer: it goes out as ``Authorization: Bearer`` where its provider knows another header too
            (ANTHROPIC_AUTH_TOKEN).
    """

    secret: str = field(repr=False)
    base: str
    place: str
    bearer: bool = False


def find(name: str, settings: Settings, environ: Mapping[str, str]) -> ProviderLogin:
    """The key of `name` and where it goes.

    Raises:
        BadRef: `name` is neither a provider nor the URL of a server.
        BadSetting: a key or a base URL of the environment cannot be one.
        NoEgress: the key would cross a network unencrypted, and was not kept for that very URL.
        Refused: logins.json can be read by others.
        Failure: logins.json cannot be read.
    """
    name = name_of(name)
    url = _base(name, environ)
    secret, place = _look_up(name, settings, environ)
    if secret and _exposed(url) and not _meant_for(url, name, place):
        server = name_of(url)
        other, there = ("", "") if name == server else _look_up(server, settings, environ)
        if not other or not _meant_for(server, server, there):
            raise NoEgress(
                f"the key of {name} would go to {url} without encryption",
                f"use https, or keep a key for that server: overt login {server}",
            )
        secret, place = other, there
    return ProviderLogin(secret, url, place, bearer=place == "ANTHROPIC_AUTH_TOKEN")


def name_of(name: str) -> str:
    """A provider's name, or a base URL spelled in one way.

    A URL loses the slash at its end and the model behind a ``#``, and without a path it gets the
    ``/v1`` that requests to it get too.

    Raises:
        BadRef: neither. Shows nothing of `name`, which might be a key typed in the wrong place.
    """
    if name in VARIABLES:
        return name
    if not name.lower().startswith(("http://", "https://")):
        raise BadRef(
            "this is not the name of a provider",
            "write openai, anthropic, gemini, or a server's URL: http://10.0.0.5:8000/v1",
        )
    url = _url(name)
    return url if url.count("/") > 2 else f"{url}/v1"


def _url(text: str) -> str:
    to = read(text)
    if "?" in to.path:
        raise BadRef("the URL of a server has no '?'", "write it like http://10.0.0.5:8000/v1")
    return to.origin + to.path.rstrip("/")


def base(name: str, environ: Mapping[str, str]) -> str:
    """Where requests for `name` go, without looking for a key. Raises BadRef, BadSetting."""
    return _base(name_of(name), environ)


def official(name: str) -> str:
    """The base URL that a provider itself gives; "" for any other server."""
    return _BASES[name][1] if name in _BASES else ""


def moved_by(provider: str) -> str:
    """The environment variable that sends requests for `provider` elsewhere."""
    return _BASES[provider][0]


def variables(name: str) -> tuple[str, ...]:
    """The environment variables that a key of `name` is looked for in. Raises BadRef."""
    name = name_of(name)
    if name in VARIABLES:
        return VARIABLES[name]
    to = read(name)
    port = "" if to.port == PORTS[to.scheme] else f"_{to.port}"
    return ("OVERT_KEY_" + re.sub(r"[^A-Z0-9]", "_", to.host.upper()) + port,)


def clean(secret: str, where: str) -> str:
    """`secret` without blanks around it.

    Raises:
        BadSetting: no key looks so. `where` is named, the key is not shown.
    """
    secret = secret.strip()
    wrong = (
        f"is longer than {_MAX_KEY} characters"
        if len(secret) > _MAX_KEY
        else "holds a character that is not ASCII"
        if not secret.isascii()
        else "holds a blank or control character"
        if re.search(r"[^!-~]", secret)
        else "stands in quotation marks"
        if secret[:1] in ("'", '"')
        else ""
    )
    if wrong:
        raise BadSetting(f"the key in {where} {wrong}", "copy it again, and nothing else with it")
    return secret


def save(
    name: str,
    secret: str,
    settings: Settings,
    keep: Keep = "auto",
    environ: Mapping[str, str] | None = None,
) -> str:
    """Keep a key and return its place; "auto" is the keyring where there is one, else the file.

    Raises:
        BadRef, BadSetting: not a name, not a key.
        Failure: the keyring or the disk did not take it.
        Refused, Busy: the file can be read by others, or is being written.
    """
    name, secret = name_of(name), clean(secret, "what was typed")
    environ = os.environ if environ is None else environ
    if not secret:
        raise BadSetting("there is no key in what was typed", f"overt login {name}")
    with _locked(settings.home):
        stored = _read(settings.home)  # before the keyring: it must not hold what cannot be listed
        if len(stored.keys | dict.fromkeys(stored.keyring)) >= _MAX_LOGINS and not stored.has(name):
            raise Failure(f"there are {_MAX_LOGINS} keys already", "overt login NAME --remove")
        in_keyring = keep != "file" and _into_keyring(name, secret, environ)
        if keep == "keyring" and not in_keyring:
            raise Failure(
                "this machine has no keyring that takes keys", f"overt login {name} --to file"
            )
        if in_keyring:
            stored.keys.pop(name, None)
            stored.keyring.add(name)
        else:
            stored.keys[name] = secret
            if name in stored.keyring and _out_of_keyring(name, environ):
                stored.keyring.discard(name)
        _write(settings.home, stored)
    return "keyring" if in_keyring else str(_path(settings.home))


def forget(
    name: str, settings: Settings, environ: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Remove a key from the file and the keyring, and return where it was.

    Raises:
        NotFound: it was in neither.
        Failure: the keyring has it and does not let it go.
        BadRef, Refused, Busy: as `save`.
    """
    name = name_of(name)
    environ = os.environ if environ is None else environ
    places = []
    with _locked(settings.home):
        stored = _read(settings.home)
        listed = name in stored.keyring
        if stored.keys.pop(name, None) is not None:
            places.append(str(_path(settings.home)))
        gone = _out_of_keyring(name, environ) if listed or name in VARIABLES else False
        if gone is not None:
            stored.keyring.discard(name)
        if gone:
            places.append("keyring")
        if places or (name in stored.keyring) != listed:
            _write(settings.home, stored)
    if gone is None and listed:
        raise Failure(f"the keyring did not let the key of {name} go", "unlock it and try again")
    if not places:
        raise NotFound(f"no key of {name} is kept", "`overt login` lists those that are")
    return tuple(places)


def list_keys(settings: Settings, environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """All keys that can be found: name, place, and the end of it where that gives nothing away.

    A key that a variable holds for a server is listed under the variable's name, since that does
    not tell the URL. Raises as `find`.
    """
    stored = _read(settings.home)
    rows = []
    for name in (*VARIABLES, *sorted((stored.keyring | set(stored.keys)) - set(VARIABLES))):
        for variable in variables(name):
            if environ.get(variable, "").strip():
                rows.append((name, variable, _end(clean(environ[variable], variable))))
        if name in stored.keys:
            rows.append((name, str(_path(settings.home)), _end(stored.keys[name])))
        secret = _from_keyring(name, stored, environ)
        if secret:
            rows.append((name, "keyring", _end(secret)))
    named = {place for _, place, _ in rows}
    rows += [
        (variable, variable, _end(clean(environ[variable], variable)))
        for variable in sorted(environ)
        if variable.startswith("OVERT_KEY_") and variable not in named and environ[variable].strip()
    ]
    return rows


def _end(secret: str) -> str:
    return secret[-4:] if len(secret) >= 20 else ""


# ---- where a key is, and where it may go ---------------------------------------------------


def _look_up(name: str, settings: Settings, environ: Mapping[str, str]) -> tuple[str, str]:
    """A key and its place; ("", "") for none."""
    for variable in variables(name):
        secret = clean(environ.get(variable, ""), variable)
        if secret:
            return secret, variable
    stored = _read(settings.home)
    if name in stored.keys:
        return stored.keys[name], str(_path(settings.home))
    secret = _from_keyring(name, stored, environ)
    return (secret, "keyring") if secret else ("", "")


def _base(name: str, environ: Mapping[str, str]) -> str:
    if name not in VARIABLES:
        return name
    variable, official = _BASES[name]
    value = environ.get(variable, "").strip()
    if not value:
        return official
    try:
        return _url(value)
    except BadRef as error:
        raise BadSetting(
            f"{variable}: {error.message}", f"write it like {official}, or unset it"
        ) from None


def _exposed(base: str) -> bool:
    to = read(base)
    return to.scheme == "http" and not to.loopback


def _meant_for(base: str, name: str, place: str) -> bool:
    """Whether whoever kept the key said that it goes to `base`, encrypted or not.

    A variable that names a host and no port may have been meant for https.
    """
    return name == base and (not place.startswith("OVERT_KEY_") or read(base).port != 80)


# ---- the file ------------------------------------------------------------------------------


@dataclass(slots=True)
class _StoredKeys:
    """`keyring` names what was put into the keyring, which cannot list itself."""

    keys: dict[str, str] = field(default_factory=dict, repr=False)
    keyring: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        return name in self.keys or name in self.keyring


def _path(home: Path) -> Path:
    return home / "logins.json"


def _read(home: Path) -> _StoredKeys:
    path = _path(home)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return _StoredKeys()
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}", "check the file") from None
    stat_ = os.fstat(handle)
    if not stat.S_ISREG(stat_.st_mode):
        os.close(handle)
        raise Failure(f"{path} is not a file", "move it away and type `overt login` again")
    with os.fdopen(handle, "rb") as file:
        if os.name == "posix" and stat_.st_mode & 0o077:
            raise Refused(
                f"{path} can be read by others (mode {stat.S_IMODE(stat_.st_mode):04o})",
                f"chmod 600 {path}",
            )
        data = file.read(_MAX_FILE + 1)
    stored = _parsed(data)
    if stored is None:
        raise Failure(
            f"{path} is not a file of keys as Overt writes it",
            "move it away and type `overt login` again",
        )
    return stored


def _parsed(data: bytes) -> _StoredKeys | None:
    if len(data) > _MAX_FILE:
        return None
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    keys, ring = document.get("keys"), document.get("keyring")
    if not isinstance(keys, dict) or not isinstance(ring, list):
        return None
    try:
        stored = _StoredKeys(
            {name_of(name): clean(secret, "it") for name, secret in keys.items()},
            {name_of(name) for name in ring},
        )
    except (BadRef, BadSetting, AttributeError, TypeError):
        return None
    return stored if all(stored.keys.values()) else None


def _write(home: Path, stored: _StoredKeys) -> None:
    value = {"keys": dict(sorted(stored.keys.items())), "keyring": sorted(stored.keyring)}
    try:
        atomic.write(_path(home), (json.dumps(value, indent=1) + "\n").encode())
    except OSError as error:
        raise atomic.unwritable(_path(home), error) from None


def _locked(home: Path) -> AbstractContextManager[None]:
    return atomic.file_lock(home / "logins.lock", "the keys of providers")


# ---- the system's keyring ------------------------------------------------------------------

_silent = threading.Event()  # there is none, or it never answers: it is not asked again
_NO_KEYRING = ("keyring.backends.fail", "keyring.backends.null")


def _from_keyring(name: str, stored: _StoredKeys, environ: Mapping[str, str]) -> str:
    """ "" where there is none, or no keyring.

    Servers are looked up where `save` put them alone: most local ones need no key, and asking the
    keyring takes longer than they do.
    """
    if name not in VARIABLES and name not in stored.keyring:
        return ""
    secret = _keyring(lambda ring: ring.get_password(_SERVICE, name), environ)
    return clean(secret, "the keyring") if isinstance(secret, str) else ""


def _into_keyring(name: str, secret: str, environ: Mapping[str, str]) -> bool:
    def put(ring: Any) -> bool:
        ring.set_password(_SERVICE, name, secret)
        return bool(ring.get_password(_SERVICE, name) == secret)  # some take all and keep nothing

    return _keyring(put, environ, _WRITE_SECONDS) is True


def _out_of_keyring(name: str, environ: Mapping[str, str]) -> bool | None:
    """Whether it was there; None where the keyring could not be asked, or keeps it."""

    def take(ring: Any) -> bool:
        there = ring.get_password(_SERVICE, name) is not None
        if there:
            ring.delete_password(_SERVICE, name)
        return there

    return _keyring(take, environ, _WRITE_SECONDS)


def _keyring(ask: Callable[[Any], _T], environ: Mapping[str, str], seconds: float = 0) -> _T | None:
    """What `ask` gets of the keyring; None where there is none, or it fails, is locked or silent.

    A backend may wait for a person, or on a bus that nobody answers: it is asked in a thread of
    its own, which is left alone once the time is over.
    """
    if _silent.is_set() or environ.get("OVERT_KEYRING", "").strip().lower() in ("off", "0", "no"):
        return None
    answers: list[_T] = []

    def work() -> None:
        try:
            import keyring

            backend = keyring.get_keyring()
            if type(backend).__module__ in _NO_KEYRING:
                _silent.set()
            else:
                answers.append(ask(backend))
        except BaseException:  # noqa: BLE001 - third-party backends; no key is the answer to all
            return

    thread = threading.Thread(target=work, name="keyring", daemon=True)
    thread.start()
    thread.join(seconds or _READ_SECONDS)
    if thread.is_alive():
        _silent.set()
        return None
    return answers[0] if answers else None
