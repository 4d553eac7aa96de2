"""What is known of a model that runs elsewhere, or of a name that stands for others: `overt show`.

Nothing is sent for openai:, anthropic: and gemini:. A server that is named by its URL is asked for
its list of models, where text may go there.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from overt import ref as refs
from overt.chat import Usage
from overt.cli.output import Output, number, pairs
from overt.cli.usage_report import dollars
from overt.errors import OvertError, UsageError
from overt.ref import Ref
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.gateway.routing import Route

_ONE_OF_EACH = Usage(4, 1, tokens_cached=1, tokens_written=2, tokens_written_hour=1)
_MAX_SHOWN = 40  # models of a server, for people


def show(text: str, alias: str | None, out: Output, settings: Settings) -> None:
    """Show the model that the ref `text` names on another server; `alias` is how it was asked for.

    Raises:
        BadSetting: prices.toml, or a base URL of the environment, cannot be read.
    """
    ref = refs.parse(text)
    value: dict[str, Any] = {
        "model": text,
        "alias": alias,
        "provider": ref.scheme,
        **_server(ref, settings),
    }
    model = ref.file if ref.scheme == "http" else ref.name
    if ref.scheme == "http":
        out.status(f"asking {value['server']} for its models")
        value |= _listed(text, settings)
        out.clear()
        if not model and len(value["models"] or ()) == 1:
            model = value["models"][0]
            text = f"{text}#{model}"
    if model:
        value |= (
            _model_facts(ref, model) | {"price": price(text, settings)} | _openness(text, settings)
        )
    out.result(value, lambda: _human(value), lambda: text)


def refuse(text: str) -> UsageError:
    """The error of asking for the file of a model that has none here."""
    return UsageError(
        f"{text} runs elsewhere and has no file here", f"`overt show {text}` tells what is known"
    )


def route(name: str, route: "Route", out: Output, settings: Settings) -> None:
    """Show the route that `name` stands for."""
    from overt.gateway import routing
    from overt.gateway.aliases import referenced_models

    alias = routing.aliases(settings.home).get(name)
    models = list(dict.fromkeys(referenced_models(alias.target)))
    value = {
        "model": name,
        "alias": name,
        "stands_for": alias.target,
        "models": models,
        "asked_first": route.first,
        "since": alias.time,
    }
    unless = f", unless one of {len(route.rules)} rules decides" if route.rules else ""
    out.result(
        value,
        lambda: pairs(
            {
                "alias": name,
                "stands for": f"a route to {', '.join(models)}",
                "asked first": route.first + unless,
                "since": alias.time,
                "all of it": f"overt alias show {name}",
            }
        ),
        lambda: "\n".join(models),
    )


# ---- what is known -------------------------------------------------------------------------


def _server(ref: Ref, settings: Settings) -> dict[str, Any]:
    """Where text would go, whether it may, and whether there is a key; never the key."""
    from overt.providers import registry
    from overt.providers.manager import server_of
    from overt.security import credentials, egress

    name, server = registry.login_name(ref), server_of(ref)
    try:
        place, problem = credentials.find(name, settings, os.environ).place, None
    except OvertError as error:
        place, problem = "", str(error)
    return {
        "server": server.shown,
        "this_machine": server.loopback,
        "text_may_go_there": egress.allowed(credentials.base(name, os.environ), settings),
        "key": {
            "known": bool(place),
            "place": place or None,
            "problem": problem,
            "needed": ref.scheme != "http",
            "login": f"overt login {name}",
        },
    }


def _listed(text: str, settings: Settings) -> dict[str, Any]:
    """A server's models, or in a sentence why they are not known."""
    import asyncio

    from overt.providers.manager import Providers

    async def ask() -> tuple[str, ...]:
        # Nobody waits for a server that is not there more than once.
        providers = Providers(replace(settings, retries=0))
        try:
            return await providers.models(text)
        finally:
            await providers.close()

    try:
        return {"models": list(asyncio.run(ask())), "models_problem": None}
    except OvertError as error:
        return {"models": None, "models_problem": error.message}


def _model_facts(ref: Ref, model: str) -> dict[str, Any]:
    """What its family takes, by the dated data of the engines; nothing is known of a server's."""
    if ref.scheme == "http":
        return {}
    from overt.providers.supported_parameters import accepts, stated

    taken, (source, day) = accepts(ref.scheme, model), stated(ref.scheme, model)
    return {
        "context": taken.context or None,
        "most_out": taken.most_out or None,
        "images": taken.images if source else None,
        "tools": taken.tools if source else None,
        "thinking": taken.thinking if source else None,
        "refuses": sorted(taken.refuses),
        "stated": source or None,
        "stated_on": day or None,
    }


def price(text: str, settings: Settings) -> dict[str, Any]:
    """US dollars for a million tokens of each kind, of prompts that are not long.

    Raises:
        BadSetting: prices.toml cannot be read.
    """
    from overt import prices

    cost = prices.cost(text, _ONE_OF_EACH, settings)
    return {
        "known": cost.known,
        **{
            name: (part.price if (part := cost.part(name)) else None)
            for name in ("input", "cached", "written", "output")
        },
        "source": cost.source or None,
        "day": cost.day,
        "why": cost.why or None,
    }


def _openness(text: str, settings: Settings) -> dict[str, Any]:
    from overt.evaluation import openness_summary

    summary = openness_summary.of(text, settings)
    return {
        "step": summary.step,
        "step_basis": summary.basis,
        "licence": summary.licence,
        "licence_verdict": summary.verdict,
    }


# ---- what is shown -------------------------------------------------------------------------


def _human(value: Mapping[str, Any]) -> str:
    away = "this machine" if value["this_machine"] else "words leave this machine"
    lines: dict[str, object] = {
        "model": value["model"],
        "alias": value["alias"],
        "runs at": f"{value['server']} ({away})",
        "text may go": None if value["text_may_go_there"] else "no: by --offline or `egress`",
        "key": _key(value["key"]),
        "its models": _models(value) if "models" in value else None,
    }
    if "refuses" in value:
        lines |= {
            "context": _tokens(value["context"]),
            "most written": _tokens(value["most_out"]),
            "can": _can(value),
            "refuses": ", ".join(value["refuses"]) or None,
            "as of": f"{value['stated_on']} (--json has the source)" if value["stated"] else None,
        }
    if "price" in value:
        lines |= {
            "price": _price(value["price"]),
            "price from": value["price"]["source"],
            "openness": _step(value),
            "licence": value["licence"] or "not known",
        }
    return pairs(lines)


def _key(key: Mapping[str, Any]) -> str:
    if key["problem"]:
        return f"cannot be used: {key['problem']}"
    if key["known"]:
        return f"known ({'the keyring' if key['place'] == 'keyring' else key['place']})"
    return f"not known: {key['login']}" if key["needed"] else "none is kept; many need none"


def _models(value: Mapping[str, Any]) -> str:
    names = value["models"]
    if names is None:
        return f"not known: {value['models_problem']}"
    more = f"\nand {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ("\n".join(names[:_MAX_SHOWN]) or "it lists none") + more


def _tokens(count: int | None) -> str:
    return f"{number(count)} tokens" if count else "not known"


def _can(value: Mapping[str, Any]) -> str:
    if not value["stated"]:
        return "not known; its provider is the one to refuse"
    abilities = [word for word in ("images", "tools", "thinking") if value[word]]
    return ", ".join(abilities) or "text alone"


def _price(price: Mapping[str, Any]) -> str:
    if not price["known"]:
        return f"not known: {price['why']}"
    parts = [
        f"{dollars(price[key])} {words}"
        for key, words in (("input", "read"), ("cached", "read again"), ("output", "written"))
        if price[key] is not None
    ]
    return f"{', '.join(parts)}, for a million tokens (long prompts may cost more)"


def _step(value: Mapping[str, Any]) -> str:
    if value["step"] is None:
        return "not known"
    return f"{value['step'].replace('_', ' ')}, {value['step_basis']}"
