"""`overt keys`: who may use this machine's server."""

import re
import time
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, table
from overt.errors import BadRequest
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.server.api_keys import Key

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


@click.group("keys", short_help="make and revoke keys for the server")
def command() -> None:
    """Keys that clients of `overt serve` send.

    On this machine alone a server needs none; beyond it, it does not start without one. A running
    server takes up new and revoked keys by itself.
    """


@command.command("add", short_help="make a key and show it once")
@click.argument("name", default="", metavar="[NAME]")
@click.option("--expires", metavar="TIME", help="How long it works: 12h, 90d, 1y; else for good.")
@click.option("--lm-studio", is_flag=True, help="Print it as LM Studio's client wants it.")
@verb
def add(
    out: Output, settings: Settings, *, name: str, expires: str | None, lm_studio: bool
) -> None:
    """Make a key; NAME is for you, to know it again. It is shown now and never again.

    The same key has two spellings; --quiet prints the first alone, or the second with --lm-studio.
    """
    from overt.server.api_keys import ApiKeys

    new = ApiKeys(settings.home).add(name, None if expires is None else seconds(expires))
    first, second = new.text, new.lm_studio
    if lm_studio:
        first, second = second, first
    out.result(
        {**as_json(new.key, {}), "key": new.text, "lm_studio": new.lm_studio},
        lambda: first,
        lambda: first,
    )
    if not out.json:
        until = f"until {_date(new.key.expires)}" if new.key.expires else "until it is revoked"
        other = "for other clients" if lm_studio else "for LM Studio's client"
        out.note(f"works {until}: overt keys revoke {new.key.id}")
        out.note(f"the same key {other}: {second}")
        out.note("this is the only time it is shown; what is kept cannot be turned back into it")


@command.command("list", short_help="the keys there are, without their secrets")
@verb
def show(out: Output, settings: Settings) -> None:
    """The keys that were made, with when each was last used (to about a minute)."""
    from overt.server.api_keys import ApiKeys

    keys = ApiKeys(settings.home)
    all_keys, used, now = keys.all(), keys.used(), time.time()

    def human() -> str:
        if not all_keys:
            return "there are no keys; `overt keys add` makes one"
        rows = [
            (
                key.id,
                key.name or "-",
                _state(key, now),
                _date(key.created),
                _date(key.expires) if key.expires else "never",
                _date(used[key.id], to_the_minute=True) if key.id in used else "never",
            )
            for key in all_keys
        ]
        return table(("id", "name", "state", "made", "expires", "last used"), rows)

    out.result(
        {"keys": [as_json(key, used) for key in all_keys]},
        human,
        lambda: "\n".join(key.id for key in all_keys if key.works(now)),
    )


@command.command("revoke", short_help="end keys")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@verb
def revoke(out: Output, settings: Settings, ids: tuple[str, ...]) -> None:
    """End each key named by its ID; a running server refuses it within two seconds."""
    from overt.server.api_keys import ApiKeys

    keys, ended = ApiKeys(settings.home), []
    for id in ids:
        key = keys.revoke(id)
        ended.append(key)
        if not out.json:
            out.note(f"revoked {key.id}{f' ({key.name})' if key.name else ''}")
    used = keys.used()
    out.result({"revoked": [as_json(key, used) for key in ended]}, str)


def seconds(text: str) -> float:
    """``90d`` as seconds; a bare number is days.

    Raises:
        BadRequest: not a time.
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:[.][0-9]{1,3})?)\s*([mhdwy]?)", text.strip().lower())
    if match is None:
        raise BadRequest(f"{text[:40]!r} is not a time", "write it like 12h, 90d or 1y")
    return float(match[1]) * _UNITS[match[2] or "d"]


def as_json(key: "Key", used: dict[str, float]) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "state": _state(key, time.time()),
        "created": _stamp(key.created),
        "expires": _stamp(key.expires),
        "revoked": _stamp(key.revoked),
        "used": _stamp(used.get(key.id)),
    }


def _state(key: "Key", now: float) -> str:
    if key.revoked is not None:
        return "revoked"
    return "works" if key.works(now) else "expired"


def _stamp(moment: float | None) -> str | None:
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _date(moment: float | None, *, to_the_minute: bool = False) -> str:
    form = "%Y-%m-%d %H:%M" if to_the_minute else "%Y-%m-%d"
    return time.strftime(form, time.gmtime(moment))
