"""Carries a route out: its rules here, its models one after another in cascade.py."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from overt.chat import Event, ImagePart, Request
from overt.errors import Refused
from overt.gateway.routing import checks
from overt.gateway.routing.cascade import Ask, Cascade, RouteContext, most_usd
from overt.gateway.routing.route import Route, Rule, When

__all__ = ["Ask", "RouteContext", "answer"]

_BYTES_A_TOKEN = 3.5
_TOKENS_OF_AN_IMAGE = 1000


async def answer(
    route: Route, request: Request, ask: Ask, facts: RouteContext
) -> AsyncGenerator[Event, None]:
    """The events of the answer; `Routed` first, with why.

    `Routed.tried` names the models that were asked before, `Usage.before` what they used, and
    `Routed.bytes_out` counts what left this machine for all of them.

    Raises:
        Refused: a rule refuses, or no model is within the price cap.
        BadRequest: no answer could be judged by the request's schema.
        OvertError: what the last model that was asked raised, as long as nothing was delivered.
    """
    tokens = facts.count(request) if facts.count else estimated(request)
    chosen = _rule(route, request, facts, tokens)
    if chosen is not None:
        number, rule = chosen
        if rule.use is None:
            raise Refused(rule.refuse or "", "this is a rule of the route; ask its owner")
        why = f"rule {number}: {_words(rule.when)}"
        ladder = Cascade(route, request, ask, facts, tokens)
        async with aclosing(ladder.straight(rule.use, why)) as events:
            async for event in events:
                yield event
        return
    if not route.models:
        raise Refused("no rule of the route fits this request", "add `models:` to the route")
    if request.json_schema is not None and len(route.models) > 1 and route.escalate.schema:
        await asyncio.to_thread(checks.check_schema, request)
    async with aclosing(Cascade(route, request, ask, facts, tokens).climb()) as events:
        async for event in events:
            yield event


def estimated(request: Request) -> int:
    """Tokens of a request, at 3.5 bytes each, with 1000 for an image."""
    if isinstance(request.prompt, tuple):
        return len(request.prompt)
    size, images = len((request.prompt or "").encode("utf-8", "replace")), 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, ImagePart):
                images += 1
                continue
            for name in ("text", "arguments", "content"):
                size += len(str(getattr(part, name, "")).encode("utf-8", "replace"))
    for tool in request.tools:
        size += len(tool.name) + len(tool.description) + len(str(dict(tool.parameters)))
    return int(size / _BYTES_A_TOKEN) + images * _TOKENS_OF_AN_IMAGE


# ---- rules -----------------------------------------------------------------------------------


def _rule(
    route: Route, request: Request, facts: RouteContext, tokens: int
) -> tuple[int, Rule] | None:
    """The first rule that fits, and its number from 1."""
    for number, rule in enumerate(route.rules, 1):
        if _fits(rule.when, route, request, facts, tokens):
            return number, rule
    return None


def _fits(when: When, route: Route, request: Request, facts: RouteContext, tokens: int) -> bool:
    has = {
        "images": any(isinstance(p, ImagePart) for m in request.messages for p in m.parts),
        "tools": bool(request.tools),
        "schema": request.json_schema is not None,
        "thinking": bool(request.thinking),
    }
    if any(
        getattr(when, name) not in (None, features_found) for name, features_found in has.items()
    ):
        return False
    if when.egress not in (None, facts.egress):
        return False
    if when.caller is not None and not {facts.caller, facts.caller_name} & {*when.caller} - {""}:
        return False
    if when.context_over is not None and tokens <= when.context_over:
        return False
    if when.usd_over is not None:
        prices = [most_usd(rung.model, request, facts, tokens) for rung in route.models]
        return any(price is None or price > when.usd_over for price in prices)
    return True


def _words(when: When) -> str:
    """The conditions of a rule as people read them."""
    conditions = []
    for name in When.__slots__:
        value = getattr(when, name)
        if value is None:
            continue
        if isinstance(value, bool):
            conditions.append(name if value else f"no {name}")
        elif name == "context_over":
            conditions.append(f"context over {value} tokens")
        elif name == "usd_over":
            conditions.append(f"may cost over ${value:g}")
        else:
            conditions.append(f"{name} {value if isinstance(value, str) else 'as named'}")
    return ", ".join(conditions) or "always"
