"""`overt login`: keep the key of a provider, without ever showing it."""

import os
import sys
from typing import TYPE_CHECKING

import click

from overt.cli.options import verb
from overt.cli.output import Output, is_terminal, table
from overt.errors import BadRef, BadRequest, NeedsAccess, ProviderFailed
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.security.credentials import Keep, ProviderLogin

_MAX_KEY_BYTES = 64 << 10


@click.command("login", short_help="keep the key of a provider")
@click.argument("names", nargs=-1, metavar="[openai|anthropic|gemini|URL]")
@click.option(
    "--to",
    type=click.Choice(["keyring", "file"]),
    help="Keep it in the system's keyring, or in a file for you alone.",
)
@click.option("--remove", is_flag=True, help="Forget the key.")
@click.option(
    "--check", is_flag=True, help="Ask the provider whether the key works; costs nothing."
)
@verb
def command(
    out: Output,
    settings: Settings,
    *,
    names: tuple[str, ...],
    to: "Keep | None",
    remove: bool,
    check: bool,
) -> int:
    """Keep the key of a provider, or of any server with an OpenAI API by its URL.

    \b
      overt login openai                          asks for the key
      overt login https://openrouter.ai/api/v1    the same for a server
      overt login                                 which keys are known, and where

    The key is typed at a prompt that does not show it, or comes on stdin. It goes into the system's
    keyring where there is one, else into logins.json of Overt's home, which you alone can read.
    Keys in the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY, and OVERT_KEY_ with
    host and port for other servers) come first and need no login. Then
    `overt run openai:gpt-5 "Hello"` asks the model; what you ask leaves this machine.
    """
    from overt.security import credentials

    name = _name(names)
    if name is None and not (to or remove or check):
        return _list(out, settings)
    if name is None:
        raise BadRequest("whose key is not said", "overt login openai, anthropic, gemini or a URL")
    if sum((to is not None, remove, check)) > 1:
        raise BadRequest("--to, --remove and --check are three different things", "give one")
    if check:
        return _check(out, settings, name)
    if remove:
        return _remove(out, settings, name)
    place = credentials.save(name, _typed(name, out), settings, to or "auto")
    out.result(
        {"name": name, "place": place}, lambda: f"the key of {name} is kept: {_place_text(place)}"
    )
    if to is None and place != "keyring":
        out.note("this machine has no keyring that takes keys: a file that you alone can read")
    for variable in _set(name):
        out.warn(f"{variable} is set in this environment, and comes before what is kept")
    return 0


def _name(names: tuple[str, ...]) -> str | None:
    """The one name that was given. Nothing of what was typed is shown: it might be a key."""
    from overt.security import credentials

    if not names:
        return None
    try:
        name = credentials.name_of(names[0])
    except BadRef as error:
        if ":" in names[0] or "." in names[0] or len(names[0]) < 16:
            raise
        raise _on_a_command_line() from error
    if len(names) > 1:
        raise _on_a_command_line(name)
    return name


def _on_a_command_line(name: str = "openai") -> BadRequest:
    return BadRequest(
        "a key does not belong on a command line: `ps` shows it to everybody on this machine, and "
        "the shell keeps it in its history",
        f"type `overt login {name}` alone, and the key when you are asked; and have the provider "
        "make you another, if that was one",
    )


def _typed(name: str, out: Output) -> str:
    """The key, from a prompt that does not show it or from stdin."""
    if not is_terminal(sys.stdin):
        data = sys.stdin.buffer.read(_MAX_KEY_BYTES) if sys.stdin else b""
        return data.decode("latin-1")  # what is not ASCII is refused as such
    import getpass
    import warnings

    out.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"key of {name} (it is not shown): ", stream=sys.stderr)
        except (getpass.GetPassWarning, EOFError):
            raise BadRequest(
                "no key was typed, or this terminal would show it", f"overt login {name} < FILE"
            ) from None


def _list(out: Output, settings: Settings) -> int:
    from overt.security import credentials

    rows = credentials.list_keys(settings, os.environ)

    def human() -> str:
        if not rows:
            return "no key is known; `overt login openai` (anthropic, gemini, URL) keeps one"
        shown = [(name, _place_text(place), f"…{end}" if end else "-") for name, place, end in rows]
        return table(("name", "where", "ends in"), shown)

    value = [{"name": name, "place": place, "end": end} for name, place, end in rows]
    out.result({"logins": value}, human, lambda: "\n".join(dict.fromkeys(row[0] for row in rows)))
    return 0


def _remove(out: Output, settings: Settings, name: str) -> int:
    from overt.security import credentials

    places, still = credentials.forget(name, settings), _set(name)
    out.result(
        {"name": name, "removed": list(places), "still": still},
        lambda: f"the key of {name} is gone from {' and '.join(map(_place_text, places))}",
    )
    for variable in still:
        out.warn(f"{variable} is still set in this environment: unset {variable}")
    return 0


def _set(name: str) -> list[str]:
    from overt.security import credentials

    return [
        variable for variable in credentials.variables(name) if os.environ.get(variable, "").strip()
    ]


def _place_text(place: str) -> str:
    return "the keyring" if place == "keyring" else place


# ---- does it work --------------------------------------------------------------------------


def _check(out: Output, settings: Settings, name: str) -> int:
    import asyncio

    from overt.security import credentials

    login = credentials.find(name, settings, os.environ)
    if not login.secret:
        raise NeedsAccess(f"no key of {name} is known", f"overt login {name}")
    models, judged = asyncio.run(_prompt_for_key(name, login, settings, out))
    out.result(
        {"name": name, "place": login.place, "works": judged or None, "models": models},
        lambda: (
            f"the key of {name} ({_place_text(login.place)}) works; models: {models}"
            if judged
            else f"{login.base} lists its {models} models to anybody: the key was not judged"
        ),
    )
    return 0


async def _prompt_for_key(
    name: str, login: "ProviderLogin", settings: Settings, out: Output
) -> tuple[int, bool]:
    """How many models the provider lists, and whether that took a key.

    Raises:
        NeedsAccess: it does not take the key.
        OvertError: it was not asked, or did not answer, and why.
    """
    from dataclasses import replace

    from overt import ref as refs
    from overt.providers import registry
    from overt.providers.http.client import HttpClient

    provider = name in refs.PROVIDERS
    ref = refs.Ref(name, "") if provider else refs.Ref("http", name)  # type: ignore[arg-type]
    spoken = registry.dialect(ref)
    to = registry.destination(ref, spoken, login.base, login.secret, bearer=login.bearer)
    upstream = HttpClient(settings, notice=out.note)
    try:
        count = _model_count(await upstream.ask(to, spoken.listing, spoken.failure), to.label)
        if provider:
            return count, True
        bare = registry.destination(ref, spoken, login.base, "")
        try:
            await upstream.ask(replace(bare, secret=login.secret), spoken.listing, spoken.failure)
        except NeedsAccess:
            return count, True
        return count, False
    finally:
        await upstream.close()


def _model_count(body: bytes, label: str) -> int:
    import json

    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    listed = answer.get("data", answer.get("models")) if isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        raise ProviderFailed(
            f"what {label} answered is no list of models", "check that its address is an API's"
        )
    return len(listed)
