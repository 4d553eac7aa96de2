"""Starting the server with the machine: a systemd user unit, or a launchd agent on macOS.

A file that somebody else wrote, or that somebody changed, is never overwritten or deleted: ours end
with a line that holds the digest of all before it.
"""

import hashlib
import os
import plistlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from overt.errors import BadSetting, Failure, NotFound, Refused, Unsupported

NAME = "overt"
_LABEL = "org.overt.serve"
_MARK = "made by overt serve, sha256 of all above: "


@dataclass(frozen=True, slots=True)
class Unit:
    """A file of the machine's own service manager, and what to type to use it."""

    path: Path
    text: str
    start: tuple[str, ...]
    stop: tuple[str, ...]


def unit(
    arguments: Sequence[str], environ: Mapping[str, str], platform: str = sys.platform
) -> Unit:
    """The file that starts `overt serve` with `arguments`.

    `environ` is what the server is to find there beside what the manager gives it.

    Raises:
        Unsupported: no manager we know. BadSetting: an argument no unit can hold.
    """
    for word in (*arguments, *environ.values()):
        if any(ord(c) < 32 or ord(c) == 127 for c in word):
            raise BadSetting(f"{word[:80]!r} holds a control character", "leave it out")
    command = [sys.executable, "-m", "overt", "serve", *arguments]
    if platform == "darwin":
        return _agent(command, environ)
    if platform.startswith("linux"):
        return _systemd(command, environ)
    raise Unsupported(
        f"there is no way to start with the machine on {platform} yet", "start overt serve yourself"
    )


def install(unit: Unit) -> bool:
    """Write `unit`; False where it is there already.

    Raises:
        Refused: another file is there. Failure: it cannot be written.
    """
    old = _read_unit(unit.path)
    if old == unit.text:
        return False
    if old is not None and not _is_overt_unit(old):
        raise Refused(
            f"{unit.path} is there and was not written by overt, or was changed since",
            "move it away and try again",
        )
    try:
        unit.path.parent.mkdir(parents=True, exist_ok=True)
        new = unit.path.with_name(f".{unit.path.name}.new")
        new.unlink(missing_ok=True)
        # For its owner alone: its variables may hold a token.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(unit.text.encode())
        new.replace(unit.path)
    except OSError as error:
        raise Failure(f"{unit.path} cannot be written: {error.strerror}") from None
    return True


def uninstall(path: Path) -> None:
    """Delete what `install` wrote at `path`.

    Raises:
        NotFound: nothing is there. Refused: it is not ours. Failure: it cannot be deleted.
    """
    old = _read_unit(path)
    if old is None:
        raise NotFound(f"{path} is not there", "overt serve --install writes it")
    if not _is_overt_unit(old):
        raise Refused(
            f"{path} was not written by overt, or was changed since", "delete it yourself"
        )
    try:
        path.unlink()
    except OSError as error:
        raise Failure(f"{path} cannot be deleted: {error.strerror}") from None


def _systemd(command: Sequence[str], environ: Mapping[str, str]) -> Unit:
    """https://www.freedesktop.org/software/systemd/man/latest/systemd.service.html"""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    lines = [f"Environment={_quoted(f'{name}={value}')}" for name, value in environ.items()]
    variables = "".join(f"{line}\n" for line in lines)
    text = f"""\
[Unit]
Description=Overt: open models for the programs of this machine
After=network.target

[Service]
ExecStart={" ".join(_quoted(word, in_command=True) for word in command)}
{variables}Restart=on-failure
RestartSec=2
KillMode=mixed
TimeoutStopSec=45

[Install]
WantedBy=default.target
"""
    ctl = "systemctl --user"
    return Unit(
        folder / "systemd/user" / f"{NAME}.service",
        _marked(text, "# ", "\n"),
        (f"{ctl} daemon-reload", f"{ctl} enable --now {NAME}", "loginctl enable-linger"),
        (f"{ctl} disable --now {NAME}", f"{ctl} daemon-reload"),
    )


def _agent(command: Sequence[str], environ: Mapping[str, str]) -> Unit:
    """launchd.plist(5)"""
    home = Path("~").expanduser()
    about = {
        "Label": _LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": 45,
        "StandardErrorPath": str(home / "Library/Logs/overt.log"),
    }
    path = home / "Library/LaunchAgents" / f"{_LABEL}.plist"
    return Unit(
        path,
        _marked(plistlib.dumps(about).decode(), "<!-- ", " -->\n"),
        (f"launchctl bootstrap gui/$(id -u) {path}",),
        (f"launchctl bootout gui/$(id -u)/{_LABEL}",),
    )


def _quoted(word: str, *, in_command: bool = False) -> str:
    """A word as systemd reads it back: quoted, with its own specifiers and variables written out.

    systemd.syntax(7): `%` begins a specifier everywhere, `$` a variable in commands alone.
    """
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if in_command:
        word = word.replace("$", "$$")
    return f'"{word}"'


def _marked(text: str, before: str, after: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}{before}{_MARK}{digest}{after}"


def _is_overt_unit(text: str) -> bool:
    head, mark, tail = text.rpartition(_MARK)
    line = head.rfind("\n") + 1
    return bool(mark) and tail[:64] == hashlib.sha256(head[:line].encode()).hexdigest()


def _read_unit(path: Path) -> str | None:
    """What is at `path`; "" for what is no text file of ours, None where nothing is."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""
