"""Every setting in one table: file < environment < flag.

The file is ``$OVERT_HOME/overt.toml`` (keys as in `Settings`); the environment variable of
``threads`` is ``OVERT_THREADS``. Variables that belong to other programs and are honoured where
they apply (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``, ``PIP_INDEX_URL``, ``UV_INDEX_URL``,
``HTTPS_PROXY`` …) are read by the source that needs them.
"""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from overt.errors import BadSetting

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|[smhd]|)")
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|[smhd]))+|[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BYTES = ("memory", "bandwidth")  # settings that are written as sizes
_KINDS = {bool: "true or false", int: "a whole number", str: "text"}


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Settings:
    """The settings in force. Build one with `load`."""

    home: Path = _setting(
        Path("~/.overt"), "folder of everything Overt writes (models, history, engines)"
    )
    model: str = _setting("smollm2", "the model used when none is named")
    context: int = _setting(0, "context in tokens; 0 is the model's own, as far as memory allows")
    parallel: int = _setting(
        0, "requests answered at once by one worker; 0 is 1, and up to 4 when serving"
    )
    threads: int = _setting(0, "threads for decoding; 0 counts the cores that are free now")
    memory: int = _setting(
        0, "bytes all loaded models together may take (8g, 500m); 0 is what is free now"
    )
    keep_alive: str = _setting(
        "5m", "how long a served model stays loaded when idle: 30s, 5m, 1h30m, 0, forever"
    )
    queue: int = _setting(512, "requests that may wait at once when serving")
    models: int = _setting(0, "models loaded at once when serving; 0 is as many as fit")
    isolation: str = _setting(
        "best", "best: every layer this machine has; full: refuse unless all are in force; off"
    )
    engine: str = _setting(
        "auto", "llama.cpp: auto (native if built), wheel, native; or torch, slow and exact"
    )
    lm_eval: str = _setting("", "lm-eval's command, for `overt eval --lm-eval`; empty looks for it")
    bandwidth: int = _setting(0, "bytes a second that a pull may take (5m); 0 is no limit")
    downloads: int = _setting(4, "files that a pull brings at once")
    licence: str = _setting(
        "warn", "licence conditions of a model that is used: off, warn, enforce (docs/may.md)"
    )
    offline: bool = _setting(False, "never use the network")
    egress: str = _setting(
        "any", "where the text of requests may go: any, none, or hosts: api.openai.com,10.0.0.5"
    )
    connect_timeout: str = _setting("10s", "how long a provider's server may take to be reached")
    first_timeout: str = _setting("5m", "how long a provider may take to begin its answer")
    between_timeout: str = _setting("1m", "how long a provider may be silent within an answer")
    retries: int = _setting(2, "times a provider is asked again before its answer has begun")
    debug: bool = _setting(False, "show tracebacks and the engine's own log")


def load(
    environ: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from the file, then the environment, then `flags` (None there means not given).

    Raises:
        BadSetting: a value of the wrong kind, or a key the file should not have.
    """
    environ = os.environ if environ is None else environ
    from_environment = _from_environment(environ)
    from_flags = {name: value for name, value in (flags or {}).items() if value is not None}
    home = _home(from_flags.get("home") or from_environment.get("home") or "~/.overt")
    merged = {**_from_file(home / "overt.toml"), **from_environment, **from_flags, "home": home}
    settings = replace(
        Settings(), **{name: _as_kind(name, value) for name, value in merged.items()}
    )
    for name in ("queue", "downloads"):
        if getattr(settings, name) == 0:
            raise BadSetting(f"{name} is 0", "set it to 1 or more")
    for name in ("keep_alive", "connect_timeout", "first_timeout", "between_timeout"):
        try:
            seconds_of(getattr(settings, name))
        except BadSetting as error:
            raise BadSetting(f"{name} is {getattr(settings, name)!r}", error.hint) from None
    if settings.downloads > 64:
        raise BadSetting(f"downloads is {settings.downloads}", "set it to 64 or less")
    if settings.isolation not in ("best", "full", "off"):
        raise BadSetting(f"isolation is {settings.isolation!r}", "set it to best, full or off")
    if settings.engine not in ("auto", "wheel", "native", "torch"):
        raise BadSetting(f"engine is {settings.engine!r}", "set it to auto, wheel, native or torch")
    if settings.licence not in ("off", "warn", "enforce"):
        raise BadSetting(f"licence is {settings.licence!r}", "set it to off, warn or enforce")
    return settings


def bytes_of(text: str | int) -> int:
    """``"8g"`` is 8 * 2**30; a bare number is bytes.

    Raises:
        BadSetting: not a size.
    """
    if isinstance(text, int):
        return text
    cleaned = text.strip().lower().removesuffix("ib").removesuffix("b")
    unit = cleaned[-1:] if cleaned[-1:] in _SIZES and cleaned[-1:] else ""
    try:
        return int(float(cleaned.removesuffix(unit)) * _SIZES[unit])
    except (ValueError, OverflowError):
        raise BadSetting(f"{text!r} is not a size", "write it like 500m or 8g") from None


def seconds_of(text: str) -> float:
    """``"1h30m"`` is 5400; a bare number is seconds; ``"forever"`` and what is negative are inf.

    Raises:
        BadSetting: not a duration.
    """
    cleaned = text.strip().lower()
    if cleaned == "forever":
        return math.inf
    if not _DURATION.fullmatch(cleaned.removeprefix("-")):
        raise BadSetting(f"{text!r} is not a duration", "write it like 30s, 5m, 1h30m or forever")
    if cleaned.startswith("-"):
        return math.inf
    return sum(float(number) * _SECONDS[unit] for number, unit in _PIECE.findall(cleaned))


def _home(text: str | Path) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # "~name" without such a person, or "~" without a home
        raise BadSetting(
            f"home is {str(text)!r}", "there is no such home: write it whole"
        ) from None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        f.name: environ[f"OVERT_{f.name.upper()}"]
        for f in fields(Settings)
        if environ.get(f"OVERT_{f.name.upper()}")
    }


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BadSetting(f"{path} cannot be read: {error}", "correct it or delete it") from None
    unknown = sorted(
        set(document) - {f.name for f in fields(Settings)} | ({"home"} & set(document))
    )
    if unknown:
        raise BadSetting(
            f"{path} has the unknown key {unknown[0]!r}",
            f"known keys: {', '.join(f.name for f in fields(Settings) if f.name != 'home')}",
        )
    return document


def _as_kind(name: str, value: Any) -> Any:
    """Turn text from a file, variable or flag into the setting's own type."""
    default = getattr(Settings(), name)
    kind = "a size like 500m or 8g" if name in _BYTES else _KINDS.get(type(default), "a folder")
    try:
        if isinstance(default, bool):
            return _as_bool(value)
        if isinstance(default, int):
            # A number of the file is one already: 1.7 or true there is a mistake, not 1.
            number = value if type(value) is int else _read(name, value)
        elif isinstance(value, str | type(default)):
            return type(default)(value)
        else:
            raise TypeError(value)
    except (TypeError, ValueError, BadSetting):
        raise BadSetting(f"{name} is {value!r}", f"it should be {kind}") from None
    if number < 0:
        raise BadSetting(f"{name} is {value!r}", "it cannot be negative")
    return number


def _read(name: str, value: Any) -> int:
    if not isinstance(value, str):
        raise TypeError(value)
    return bytes_of(value) if name in _BYTES else int(value)


def _as_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(value)
