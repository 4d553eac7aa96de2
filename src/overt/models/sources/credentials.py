"""Credentials for a registry, where docker and podman keep them; Overt keeps none of its own.

The files are those that ``docker login`` and ``podman login`` write: ``$REGISTRY_AUTH_FILE``,
``$DOCKER_CONFIG/config.json`` (or ``~/.docker/config.json``) and
``$XDG_RUNTIME_DIR/containers/auth.json``; the first that knows the registry is used. In them
``credHelpers`` and ``credsStore`` name a program ``docker-credential-NAME``, which is asked by that
protocol. A login is looked for only after the registry has asked for one.
"""

import base64
import binascii
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_BYTES = 1 << 20  # a larger configuration is a mistake
_SECONDS = 30.0
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes part of a program's name

# Docker's own registry is stored under the address of its first version.
_HUB = "https://index.docker.io/v1/"
_HUB_HOSTS = ("docker.io", "index.docker.io", "registry-1.docker.io")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """A user with a password, or a `token` that is exchanged for access (then `user` is empty)."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True, slots=True)
class CredentialLookup:
    """What was looked up. `place` is where the login is kept; `trouble` is why there is none."""

    login: RegistryLogin | None
    place: str = ""
    trouble: str = ""


def find(host: str, repository: str, environ: Mapping[str, str]) -> CredentialLookup:
    """The login for one repository of a registry; a broken place is skipped and named."""
    trouble = ""
    for path in _files(environ):
        try:
            config = _read(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError):
            trouble = trouble or f"{path} cannot be read"
            continue
        access = _helped(config, host, environ)
        if access.login is None:
            trouble = trouble or access.trouble
            access = _from_config(config, host, repository, path)
        if access.login:
            return access
        trouble = trouble or access.trouble
    return CredentialLookup(None, trouble=trouble)


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()
    if named := environ.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"


def _read(path: Path) -> Mapping[str, object]:
    with path.open("rb") as file:
        data = file.read(_BYTES + 1)
    config = json.loads(data) if len(data) <= _BYTES else None
    if not isinstance(config, dict):
        raise ValueError("not a configuration")
    return config


def _from_config(
    config: Mapping[str, object], host: str, repository: str, path: Path
) -> CredentialLookup:
    """The entry under ``auths``: podman's may be for one namespace, docker's is for a host."""
    auths = _mapping(config.get("auths"))
    known = {_plain(key): value for key, value in auths.items()}
    parts = repository.split("/")
    wanted = ["/".join([host.lower(), *parts[:count]]) for count in range(len(parts), -1, -1)]
    if host.lower() in _HUB_HOSTS:
        wanted += [_plain(_HUB), "docker.io"]
    for key in wanted:
        entry = _mapping(known.get(key))
        try:
            login = _entry(entry)
        except ValueError:
            return CredentialLookup(None, trouble=f"the entry for {key} in {path} cannot be read")
        if login:
            return CredentialLookup(login, str(path))
    return CredentialLookup(None)


def _entry(entry: Mapping[str, object]) -> RegistryLogin | None:
    """A login, or None for an entry that only says a helper has it."""
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return RegistryLogin(token=token)
    packed = entry.get("auth")
    if isinstance(packed, str) and packed:
        try:
            text = base64.b64decode(packed, validate=True).decode("utf-8")
        except binascii.Error:
            raise ValueError("not base64") from None
        user, colon, password = text.partition(":")
        if not colon:
            raise ValueError("no colon")
        return RegistryLogin(user, password.rstrip("\0"))
    user_, password_ = entry.get("username"), entry.get("password")
    if isinstance(user_, str) and isinstance(password_, str) and user_:
        return RegistryLogin(user_, password_)
    return None


def _helped(
    config: Mapping[str, object], host: str, environ: Mapping[str, str]
) -> CredentialLookup:
    """What the program says that this configuration names for `host`, if it names one."""
    key = _HUB if host.lower() in _HUB_HOSTS else host
    helpers = {_plain(name): value for name, value in _mapping(config.get("credHelpers")).items()}
    name = helpers.get(_plain(key)) or helpers.get(host.lower()) or config.get("credsStore")
    if not name:
        return CredentialLookup(None)
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        return CredentialLookup(
            None, trouble=f"{str(name)[:64]!r} is no name of a credential helper"
        )
    program = f"docker-credential-{name}"
    path = shutil.which(program, path=environ.get("PATH"))
    if path is None:
        return CredentialLookup(None, trouble=f"the credential helper {program} is not installed")
    try:
        done = subprocess.run(
            [path, "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_SECONDS,
            env=dict(environ),
        )
    except (OSError, subprocess.TimeoutExpired):
        return CredentialLookup(None, trouble=f"{program} did not answer")
    if done.returncode:
        missing = b"credentials not found" in done.stdout + done.stderr
        return CredentialLookup(None, trouble="" if missing else f"{program} failed")
    try:
        answer = _mapping(json.loads(done.stdout[:_BYTES]))
    except (ValueError, RecursionError):
        answer = {}
    user, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        return CredentialLookup(None, trouble=f"{program} gave an answer that cannot be read")
    login = RegistryLogin(token=secret) if user == "<token>" else RegistryLogin(user, secret)
    return CredentialLookup(login, program)


def _plain(key: str) -> str:
    """A key of a configuration without scheme and API version: ``https://host/v1/`` is ``host``."""
    bare = re.sub(r"\Ahttps?://", "", key.strip().lower())
    return re.sub(r"/v[12]/?\Z", "", bare).rstrip("/")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}
