"""What an answer costs, in US dollars: by the user's own file, else by public list prices.

The file is ``prices.toml`` in Overt's home (`prices.file` says how it is written). List prices are
those that the package genai-prices carries, read offline and never updated over the network. A
price that nobody knows is None and `known` is False; it is never 0. What local models cost is what
the user says of power and hardware in the same file, else not known.

List prices are for tokens at the standard tier: no batch discount, no searches, no storage of
caches, no taxes, and none of what was agreed between a provider and a customer.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from overt import ref as refs
from overt.chat import Usage
from overt.errors import BadRef, BadSetting
from overt.prices.file import PriceFile, Rates
from overt.prices.file import load as load_file
from overt.ref import Ref
from overt.security.urls import read
from overt.settings import Settings

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, Provider

_MILLION: Final = 1_000_000
_LISTS: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}
_MAX_DEPTH = 8  # routes that ask routes
_MAX_TOKENS = 10**12  # more in one answer is a mistake of whoever counted
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class CostPart:
    """One thing that is paid for.

    Attributes:
        name: ``input`` (read anew), ``cached``, ``written``, ``written_hour``, ``output``
            (reasoning among it), ``other``; of a local model ``energy`` and ``hardware``.
        amount: how many tokens, kilowatt-hours or hours.
        price: US dollars for a million tokens, a kilowatt-hour or an hour.
        usd: amount times price.
    """

    name: str
    amount: float
    price: float
    usd: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one answer cost.

    Attributes:
        usd: US dollars, all of `before` among them; None where a part of it is not known.
        known: whether `usd` is.
        source: where the prices are from.
        day: the day (UTC) that they are those of, as 2026-11-25.
        why: where it is not known, the reason in a few words; else "".
        parts: what the answering model's own share is made of; empty where that is not known.
        before: what each model cost that a route had asked first, with its ref.
    """

    usd: float | None
    known: bool
    source: str
    day: str
    why: str = ""
    parts: tuple[CostPart, ...] = ()
    before: "tuple[tuple[str, Cost], ...]" = ()

    @property
    def least(self) -> float:
        """US dollars that are known to be owed, where the whole may not be."""
        if self.usd is not None:
            return self.usd
        return sum(part.usd for part in self.parts) + sum(cost_.least for _, cost_ in self.before)

    def part(self, name: str) -> CostPart | None:
        return next((part for part in self.parts if part.name == name), None)


def cost(
    ref: Ref | str,
    usage: Usage,
    settings: Settings,
    *,
    day: dt.date | str | None = None,
    joules: float | None = None,
) -> Cost:
    """What `usage` of the model `ref` cost.

    Args:
        day: whose prices: the day of the answer; None is today (UTC).
        joules: measured for a local model; else its power is what the user's file says.

    Raises:
        BadSetting: prices.toml cannot be read as one, or `day` is no day.
    """
    moment = _moment(day)
    file = load_file(settings.home / "prices.toml")
    return _with_before(ref, usage, _Ask(file, moment, joules), 0)


@dataclass(frozen=True, slots=True)
class _Ask:
    file: PriceFile
    moment: dt.datetime
    joules: float | None

    @property
    def day(self) -> str:
        return self.moment.date().isoformat()

    def unknown(self, why: str) -> Cost:
        return Cost(None, False, "", self.day, why)


def _moment(day: dt.date | str | None) -> dt.datetime:
    """A point in time of that day; noon where it is not today, since some prices have hours."""
    if day is None:
        return dt.datetime.now(dt.UTC)
    if isinstance(day, dt.datetime):
        return day.replace(tzinfo=day.tzinfo or dt.UTC).astimezone(dt.UTC)
    if isinstance(day, str):
        text = day
        try:
            day = dt.date.fromisoformat(text)
        except ValueError:
            raise BadSetting(f"{text[:40]!r} is not a day", "write it like 2026-11-25") from None
    return dt.datetime.combine(day, dt.time(12), dt.UTC)


def _with_before(ref: Ref | str, usage: Usage, ask: _Ask, depth: int) -> Cost:
    own = _own_cost(ref, usage, ask)
    if not usage.before:
        return own
    if depth >= _MAX_DEPTH:
        return ask.unknown(f"routes lead to routes more than {_MAX_DEPTH} times")
    before = tuple((name, _with_before(name, used, ask, depth + 1)) for name, used in usage.before)
    missing = next(((name, cost_) for name, cost_ in before if not cost_.known), None)
    if own.usd is None or missing is not None:
        why = own.why or (f"{missing[0]}: {missing[1].why}" if missing else "")
        return replace(own, usd=None, known=False, why=why, before=before)
    total = own.usd + sum(cost_.usd or 0.0 for _, cost_ in before)
    return replace(own, usd=total, before=before)


def _own_cost(ref: Ref | str, usage: Usage, ask: _Ask) -> Cost:
    text = str(ref)
    why = _miscounted(usage)
    if why:
        return ask.unknown(why)
    rates = ask.file.rates(text, ask.moment.date())
    if rates is not None:
        return _by_file(usage, rates, ask)
    try:
        parsed = refs.parse(ref) if isinstance(ref, str) else ref
    except BadRef:
        return ask.unknown("this names no model")
    if parsed.remote:
        return _by_list(parsed, usage, ask)
    return _by_assumptions(usage, ask)


def _miscounted(usage: Usage) -> str:
    counts = (
        usage.tokens_in,
        usage.tokens_out,
        usage.tokens_cached,
        usage.tokens_written,
        usage.tokens_written_hour,
    )
    if not all(0 <= count <= _MAX_TOKENS for count in counts):
        return "the tokens were not counted"
    if usage.tokens_cached + usage.tokens_written > usage.tokens_in:
        return "more tokens are said to be cached than were read"
    if usage.tokens_written_hour > usage.tokens_written:
        return "more tokens are said to be kept for an hour than were kept at all"
    return ""


def _amounts(usage: Usage) -> Iterator[tuple[str, int]]:
    yield "input", usage.tokens_in - usage.tokens_cached - usage.tokens_written
    yield "cached", usage.tokens_cached
    yield "written", usage.tokens_written - usage.tokens_written_hour
    yield "written_hour", usage.tokens_written_hour
    yield "output", usage.tokens_out


# ---- the user's file -----------------------------------------------------------------------


def _by_file(usage: Usage, rates: Rates, ask: _Ask) -> Cost:
    tier = rates.tier(usage.tokens_in)
    parts = []
    for name, amount in _amounts(usage):
        price: Decimal = getattr(tier, name)
        parts.append(_tokens(name, amount, price))
    usd = sum((price for _, price in parts), Decimal(0))
    source = f"prices.toml: {rates.source} (from {rates.day.isoformat()})"
    return Cost(float(usd), True, source, ask.day, parts=tuple(part for part, _ in parts))


def _tokens(name: str, amount: int, price: Decimal) -> tuple[CostPart, Decimal]:
    usd = price * amount / _MILLION
    return CostPart(name, amount, float(price), float(usd)), usd


def _by_assumptions(usage: Usage, ask: _Ask) -> Cost:
    """A model of this machine: its seconds, at what the user says that power and hardware cost."""
    local = ask.file.local
    seconds = usage.prompt_seconds + usage.decode_seconds
    if local is None:
        return ask.unknown("a model of this machine; prices.toml has no [local]")
    if not 0 < seconds < float("inf"):
        return ask.unknown("the engine did not say how long it took")
    parts, measured = [], False
    if local.price_per_kwh is not None:
        measured = ask.joules is not None and ask.joules >= 0
        if measured and ask.joules is not None:
            energy = ask.joules / (1000 * _HOUR)
        else:
            energy = local.watts * seconds / (1000 * _HOUR)
        parts.append(CostPart("energy", energy, local.price_per_kwh, energy * local.price_per_kwh))
    if local.per_hour is not None:
        hours = seconds / _HOUR
        parts.append(CostPart("hardware", hours, local.per_hour, hours * local.per_hour))
    source = "your assumptions (prices.toml)"
    if measured:
        source = f"measured energy, {source}"
    return Cost(sum(part.usd for part in parts), True, source, ask.day, parts=tuple(parts))


# ---- list prices ---------------------------------------------------------------------------


def _by_list(ref: Ref, usage: Usage, ask: _Ask) -> Cost:
    import genai_prices
    from genai_prices.data_snapshot import get_snapshot

    snapshot = get_snapshot()
    if snapshot.from_auto_update:  # somebody in this process fetched others: not ours to use
        return ask.unknown("the list of prices was replaced over the network")
    model = ref.file or "" if ref.scheme == "http" else ref.name
    provider = _provider(ref, snapshot.providers)
    if provider is None:
        return ask.unknown(f"no list of prices for {_host(ref)}")
    model_ = provider.find_model(model.lower(), all_providers=snapshot.providers)
    if model_ is None:
        return ask.unknown(f"no list price of {model} at {provider.id}")
    source = f"genai-prices {genai_prices.__version__}: {provider.id}, {model_.id}"
    return _at_list(usage, provider, model_, ask, source)


def _provider(ref: Ref, providers: "list[Provider]") -> "Provider | None":
    if ref.scheme in _LISTS:
        return next((provider for provider in providers if provider.id == _LISTS[ref.scheme]), None)
    import re

    try:
        to = read(ref.name)
    except BadRef:
        return None
    url = to.origin + to.path
    for provider in providers:
        match = re.match(provider.api_pattern, url)
        # The patterns have no end: api.openai.com.example.org is somebody else's.
        if match and (match.end() == len(url) or url[match.end()] in "/:?" or match[0][-1] in "/."):
            return provider
    return None


def _host(ref: Ref) -> str:
    if ref.scheme != "http":
        return ref.scheme
    try:
        return read(ref.name).shown
    except BadRef:
        return "this server"


def _at_list(
    usage: Usage, provider: "Provider", model: "ModelInfo", ask: _Ask, source: str
) -> Cost:
    from genai_prices import Usage as Counted

    price = model.get_prices(ask.moment)
    rates = {name: _rate(price, name, usage.tokens_in) for name, _ in _amounts(usage)}
    amounts = dict(_amounts(usage))
    if any(amounts[name] and rates[name] is None for name in rates):
        return ask.unknown(f"{model.id} has no list price for tokens")
    counted: dict[str, Any] = {
        "input_tokens": usage.tokens_in,
        "output_tokens": usage.tokens_out,
        "cache_read_tokens": usage.tokens_cached,
        "cache_write_tokens": usage.tokens_written,
        "cache_write_1h_tokens": usage.tokens_written_hour,
        "output_reasoning_tokens": min(usage.tokens_thought, usage.tokens_out),
    }
    try:
        total = model.calc_price(
            Counted(**{name: count for name, count in counted.items() if count > 0}),
            provider,
            genai_request_timestamp=ask.moment,
        ).total_price
    except (ValueError, TypeError, ArithmeticError) as error:
        return ask.unknown(f"genai-prices: {str(error)[:120]}")
    priced = [_tokens(name, amounts[name], rates[name] or Decimal(0)) for name in rates]
    parts = [part for part, _ in priced if part.amount or part.name in ("input", "output")]
    rest = total - sum((usd for _, usd in priced), Decimal(0))
    if rest:  # a price for each request, for reasoning, for citations
        parts.append(CostPart("other", 1, float(rest), float(rest)))
    return Cost(float(total), True, source, ask.day, parts=tuple(parts))


_KEYS: Final = {  # each falls back on what stands behind it, as genai-prices does
    "input": ("input_mtok",),
    "cached": ("cache_read_mtok", "input_mtok"),
    "written": ("cache_write_5m_mtok", "cache_write_mtok", "input_mtok"),
    "written_hour": ("cache_write_1h_mtok", "cache_write_mtok", "input_mtok"),
    "output": ("output_mtok",),
}


def _rate(price: "ModelPrice", name: str, tokens_in: int) -> Decimal | None:
    """US dollars a million tokens at the tier of so long a prompt."""
    from genai_prices.types import TieredPrices

    for key in _KEYS[name]:
        rates = price.__dict__.get(key)
        if isinstance(rates, TieredPrices):
            over = [tier.price for tier in rates.tiers if tokens_in > tier.start]
            return over[-1] if over else rates.base
        if isinstance(rates, Decimal):
            return rates
    return None
