"""Who answered, what that cost and where the words went: what a record and the figures say of it.

The model that a person names may be a name of theirs for another, or a route to several; what
answered is known when the answer is there.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from overt import ref as refs
from overt.chat import Usage
from overt.errors import OvertError
from overt.evaluation.timing import UNCOUNTED, is_measurable
from overt.settings import Settings

if TYPE_CHECKING:
    from overt.evaluation.timing import TimedAnswer
    from overt.gateway.exchange import Exchange, ModelFacts

HERE = "stayed on this machine"


@dataclass(frozen=True, slots=True)
class Account:
    """What is told of one answer beside its text.

    Attributes:
        name: the model that was asked for.
        routed: model, why, tried, request_id and bytes_out; None where the model that was named
            answered on this machine.
        where: where the words went, in one sentence; `hosts` are the servers, as ``host:port``.
        usd: US dollars; None where that is not known, which is not 0. `why` says why.
        source: where the prices are from.
    """

    name: str
    routed: dict[str, Any] | None
    where: str
    hosts: tuple[str, ...]
    usd: float | None
    why: str
    source: str

    def as_json(self) -> dict[str, object]:
        return {
            "routed": self.routed,
            "where": self.where,
            "hosts": list(self.hosts),
            "cost": self.usd,
            "cost_known": self.usd is not None,
            "cost_why": self.why or None,
            "cost_source": self.source or None,
        }

    def figures(self) -> list[str]:
        """For the line of --stats."""
        parts = []
        if self.routed:
            why = f" ({self.routed['why']})" if self.routed["why"] else ""
            if why or self.routed["model"] != self.name:
                parts.append(f"answered by {self.routed['model']}{why}")
            tried = ", ".join(self.routed["tried"])
            parts += [f"asked before: {tried}"] if tried else []
            number = self.routed["request_id"]
            parts += [f"request {number}"] if number else []
        price = f"cost not known ({self.why})" if self.usd is None else f"cost {dollars(self.usd)}"
        return [*parts, price, self.where]


async def prepare(exchange: "Exchange", name: str) -> "ModelFacts":
    """Have what `name` stands for ready, and its facts. Of a route nothing is started yet.

    Raises:
        ModelNotFound, NeedsAccess, OutOfMemory …: as `Exchange.open`.
    """
    from overt.gateway.exchange import ModelFacts

    if not isinstance(exchange.resolve(name), str):
        return ModelFacts(name, "", "route")
    await exchange.open(name)
    return exchange.facts(name)


def answering(exchange: "Exchange", facts: "ModelFacts", timed: "TimedAnswer") -> "ModelFacts":
    """The facts of what answered, under the name that was asked for; `facts` are of that name."""
    routed = timed.answer.routed
    if routed is None or facts.engine != "route":
        return facts
    if routed.model.startswith("echo:"):
        return replace(facts, engine="echo")
    try:
        if refs.parse(routed.model).remote:
            return replace(exchange.providers.open(routed.model).facts, ref=facts.ref)
    except OvertError:
        return facts
    held = (model.facts for model in exchange.loaded() if model.ref == routed.model)
    return replace(next(held, facts), ref=facts.ref)


def account(name: str, timed: "TimedAnswer", settings: Settings) -> Account:
    """What is told of the answer of `name`."""
    routed, usage = timed.answer.routed, timed.answer.usage
    model = routed.model if routed else name
    hosts, where = destinations((model, *routed.tried) if routed else (model,))
    usd, why, source = None, UNCOUNTED, ""
    if is_measurable(timed.answer):
        usd, why, source = _cost(model, usage, settings)
    timing = None
    if routed:
        timing = {
            "model": routed.model,
            "why": routed.why,
            "tried": list(routed.tried),
            "request_id": routed.request_id,
            "bytes_out": routed.bytes_out,
        }
    return Account(name, timing, where, hosts, usd, why, source)


def destinations(models: Iterable[str]) -> tuple[tuple[str, ...], str]:
    """The servers that words for `models` go to, and that in a sentence."""
    from overt.providers.manager import server_of

    hosts: dict[str, bool] = {}  # host -> whether it is this machine
    for model in models:
        try:
            ref = refs.parse(model)
            if ref.remote:
                server = server_of(ref)
                hosts[server.shown] = server.loopback
        except OvertError:
            hosts[model] = False
    if not hosts:
        return (), HERE
    if all(hosts.values()):
        return tuple(hosts), f"{HERE} ({', '.join(hosts)})"
    text = " and ".join(f"{host} (this machine)" if here else host for host, here in hosts.items())
    return tuple(hosts), f"went to {text}"


def leaves_for(exchange: "Exchange", name: str) -> tuple[str, ...]:
    """Servers on other machines that words for `name` may go to.

    Raises:
        BadRef, FormatError: a name that leads nowhere, or a damaged file of aliases.
    """
    from overt.providers.manager import server_of

    hosts: dict[str, None] = {}
    names, seen = [name], set[str]()
    while names:
        candidate = names.pop(0)
        if candidate in seen:
            continue
        seen.add(candidate)
        target = exchange.resolve(candidate)
        if not isinstance(target, str):
            names += target.named
            continue
        ref = refs.parse(target)
        if ref.remote and not (server := server_of(ref)).loopback:
            hosts[server.shown] = None
    return tuple(hosts)


def dollars(usd: float) -> str:
    """``$0.0308``: three digits that count, and never 0 for what is not."""
    if usd == 0 or usd >= 0.01:
        return f"${usd:.4g}"
    return "$" + f"{usd:.9f}".rstrip("0") if usd >= 1e-9 else f"${usd:.2g}"


def _cost(model: str, usage: Usage, settings: Settings) -> tuple[float | None, str, str]:
    """US dollars, why they are not known, and whose prices they are."""
    from overt import prices

    try:
        cost = prices.cost(model, usage, settings)
    except OvertError as error:  # a damaged prices.toml must not cost the answer
        return None, error.message, ""
    return cost.usd, cost.why, cost.source
