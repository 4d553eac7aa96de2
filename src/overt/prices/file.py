"""The user's own prices: ``prices.toml`` in Overt's home.

::

    [[price]]
    models = ["openai:gpt-6*", "http://10.0.0.5:8000/v1#*"]   # refs; shell patterns
    from = 2026-10-01             # the first day, UTC
    input = 2.00                  # US dollars for a million tokens
    output = 10.00                # reasoning among them
    cached = 0.20                 # read from a cache; left out: as input
    written = 2.50                # put into a cache; left out: as input
    written_hour = 4.00           # put there for an hour; left out: as written
    above = [{ tokens = 272000, input = 4.00, output = 15.00 }]   # all tokens, of longer prompts
    source = "contract of 1 October"

    [local]                       # models of this machine
    watts = 65                    # what it draws more while it answers
    price_per_kwh = 0.30
    hardware = 2400               # US dollars, spread over
    hours = 20000                 # hours of answering
    source = "my electricity bill"

Of all entries that fit a model and have begun, the one that began last holds; of two from the same
day, the lower one in the file. In `[local]` either pair may be left out. Prices may be whole
numbers, decimal fractions, or text such as "0.075".
"""

import datetime as dt
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from overt.errors import BadSetting

MAX_BYTES: Final = 1 << 20
MAX_ENTRIES: Final = 2000
MAX_PATTERNS: Final = 200  # of one entry
_MAX_USD = Decimal(1_000_000)  # for a million tokens
_PRICES = ("input", "output", "cached", "written", "written_hour")
_HEADER = re.compile(r"\s*(\[\[?)\s*[\"']?(price|local)[\"']?\s*\]")


@dataclass(frozen=True, slots=True)
class Tier:
    """US dollars for a million tokens, where a prompt has more than `above`."""

    above: int
    input: Decimal
    output: Decimal
    cached: Decimal
    written: Decimal
    written_hour: Decimal


@dataclass(frozen=True, slots=True)
class Rates:
    """One entry; `tiers` begin at 0 and grow."""

    models: tuple[str, ...]
    day: dt.date
    tiers: tuple[Tier, ...]
    source: str

    def tier(self, tokens_in: int) -> Tier:
        """What a prompt of so many tokens is charged by."""
        return next(
            (tier for tier in reversed(self.tiers) if tokens_in > tier.above), self.tiers[0]
        )


@dataclass(frozen=True, slots=True)
class LocalCost:
    """What a second of this machine costs; None where the user did not say."""

    watts: float
    price_per_kwh: float | None
    per_hour: float | None


@dataclass(frozen=True, slots=True)
class PriceFile:
    """All of prices.toml; empty where there is none."""

    entries: tuple[Rates, ...] = ()
    local: LocalCost | None = None

    def rates(self, ref: str, day: dt.date) -> Rates | None:
        """What holds for `ref` on `day`; None where nothing does."""
        newest: Rates | None = None
        for entry in self.entries:
            newer = newest is None or entry.day >= newest.day
            if (
                entry.day <= day
                and newer
                and any(fnmatchcase(ref, pattern) for pattern in entry.models)
            ):
                newest = entry
        return newest


def load(path: Path) -> PriceFile:
    """Read prices.toml, again only once it has changed.

    Raises:
        BadSetting: it cannot be read; names the line.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return PriceFile()
    except OSError as error:
        raise _unreadable(path, error) from None
    return _loaded(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=8)
def _loaded(path: Path, _changed: int, size: int, _inode: int) -> PriceFile:
    if not path.is_file() or size > MAX_BYTES:
        raise BadSetting(
            f"{path} is not a file of at most {MAX_BYTES} bytes", "move it away, or shorten it"
        )
    try:
        return parse(path.read_bytes(), str(path))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> BadSetting:
    return BadSetting(f"{path} cannot be read: {error.strerror}", "check the file")


def parse(data: bytes, name: str = "prices.toml") -> PriceFile:
    """Read the text of such a file.

    Raises:
        BadSetting: names the line, and what should stand there.
    """
    try:
        text = data.decode("utf-8-sig")
        # Decimal("NaN") of "nan" is refused with the other prices that are none.
        document = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise BadSetting(f"{name}: {str(error)[:200]}", "correct it, or delete it") from None
    where = _LineFinder(name, text)
    for key in document:
        if key not in ("price", "local"):
            raise where.error(
                "", 0, key, f"{key[:40]!r} is not known", "write [[price]] or [local]"
            )
    listed = document.get("price", [])
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise where.error("price", 0, "", "this is not a list of prices", "begin it with [[price]]")
    if len(listed) > MAX_ENTRIES:
        raise BadSetting(f"{name} has {len(listed)} prices", f"{MAX_ENTRIES} is the most")
    entries = tuple(
        _entry(_PriceTable(where, "price", at, entry)) for at, entry in enumerate(listed)
    )
    local = document.get("local")
    if local is not None and not isinstance(local, dict):
        raise where.error("local", 0, "", "this is not a table", "begin it with [local]")
    return PriceFile(
        entries, None if local is None else _local(_PriceTable(where, "local", 0, local))
    )


# ---- one entry -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _LineFinder:
    """Finds the line of a value, for errors."""

    name: str
    text: str

    def error(self, table: str, at: int, key: str, message: str, hint: str) -> BadSetting:
        return BadSetting(f"{self.name}, line {self._line(table, at, key)}: {message}", hint)

    def _line(self, table: str, at: int, key: str) -> int:
        """The line of `key` in the table of that name that comes as number `at`, else its head."""
        inside, seen, head, quoted = table == "", -1, 1, ""
        wanted = re.compile(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]") if key else None
        for number, line in enumerate(self.text.splitlines(), 1):
            if quoted or '"""' in line or "'''" in line:  # nothing within a long text is a key
                quoted = _still_quoted(line, quoted)
                continue
            header = _HEADER.match(line)
            if header or line.lstrip().startswith("["):
                seen += bool(header and header[2] == table)
                inside = bool(header and header[2] == table and seen == at)
                head = number if inside else head
            if not table and key and re.match(rf"\s*\[+\s*[\"']?{re.escape(key)}\b", line):
                return number
            if inside and wanted and wanted.match(line):
                return number
            if seen == at and key and re.match(rf"\s*\[+{table}\.{re.escape(key)}\b", line):
                return number
            if head == 1 and table and re.match(rf"\s*{table}\s*=", line):
                head = number  # price = [{…}], all in one
        return head


def _still_quoted(line: str, quoted: str) -> str:
    """Which long quotation is open behind `line`."""
    for quote in re.findall(r'"""|\'\'\'', line):
        quoted = "" if quoted == quote else quoted or quote
    return quoted


@dataclass(frozen=True, slots=True)
class _PriceTable:
    """One table of the file, and how to complain of it."""

    where: _LineFinder
    name: str
    at: int
    values: Mapping[str, Any]

    def error(self, key: str, message: str, hint: str) -> BadSetting:
        return self.where.error(self.name, self.at, key, message, hint)

    def known(self, *keys: str) -> None:
        for key in self.values:
            if key not in keys:
                raise self.error(key, f"{key[:40]!r} is not known", f"known: {', '.join(keys)}")

    def amount(self, key: str, *, most: Decimal = _MAX_USD, over: bool = False) -> Decimal | None:
        """A number, 0 or more (with `over` more); None where it is left out."""
        if key not in self.values:
            return None
        return self.checked(key, self.values[key], most, over=over)

    def checked(self, key: str, value: Any, most: Decimal, *, over: bool = False) -> Decimal:
        number = _decimal(value)
        if number is None or number < 0 or number > most or (over and not number):
            least = "more than 0" if over else "0 or more"
            raise self.error(
                key, f"{key} is {_shown_value(value)}", f"write a number, {least}, at most {most}"
            )
        return number

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value.strip() or len(value) > 500:
            raise self.error(
                key,
                f"{key} is {_shown_value(value)}",
                f'say where it is from: {key} = "price page"',
            )
        return " ".join(value.split())


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        return None
    if isinstance(value, str) and len(value) > 40:
        return None
    if isinstance(value, int) and abs(value) > 10**15:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() and abs(number.adjusted()) <= 40 else None


def _entry(table: _PriceTable) -> Rates:
    table.known("models", "from", "source", "above", *_PRICES)
    models = table.values.get("models")
    models = [models] if isinstance(models, str) else models
    if (
        not isinstance(models, list)
        or not 0 < len(models) <= MAX_PATTERNS
        or not all(isinstance(pattern, str) and 0 < len(pattern) <= 600 for pattern in models)
    ):
        raise table.error(
            "models", f"models is {_shown_value(models)}", 'write a list of refs: ["openai:gpt-6*"]'
        )
    day = table.values.get("from")
    if isinstance(day, dt.datetime) or not isinstance(day, dt.date):
        raise table.error("from", f"from is {_shown_value(day)}", "write the first day: 2026-10-01")
    base = _tier(table, table.values, 0, None)
    return Rates(tuple(models), day, (base, *_above(table, base)), table.text("source"))


def _above(table: _PriceTable, base: Tier) -> list[Tier]:
    steps = table.values.get("above", [])
    if not isinstance(steps, list) or len(steps) > 20:
        raise table.error(
            "above", f"above is {_shown_value(steps)}", "write above = [{ tokens = 200000 }]"
        )
    tiers = [base]
    for step in steps:
        known = isinstance(step, dict) and set(step) <= {"tokens", *_PRICES}
        tokens = step.get("tokens") if known else None
        if type(tokens) is not int or not tiers[-1].above < tokens <= 10**9:
            raise table.error(
                "above",
                f"above has {_shown_value(step)}",
                "write { tokens = 200000, input = …, output = … }, the longest last",
            )
        tiers.append(_tier(table, step, tokens, base))
    return tiers[1:]


def _tier(table: _PriceTable, values: Mapping[str, Any], above: int, base: Tier | None) -> Tier:
    """The prices of one tier; what it leaves out falls back on its own input, not on the base's."""
    got = {key: table.checked(key, values[key], _MAX_USD) for key in _PRICES if key in values}
    for key in ("input", "output"):
        if key not in got:
            raise table.error(
                "above" if base else key,
                f"a price for {key} is missing",
                f"write {key} = 1.25, US dollars for a million tokens",
            )
    cached = got.get("cached", got["input"])
    written = got.get("written", got["input"])
    hour = got.get("written_hour", written)
    return Tier(above, got["input"], got["output"], cached, written, hour)


def _local(table: _PriceTable) -> LocalCost:
    table.known("watts", "price_per_kwh", "hardware", "hours", "source")
    if "source" in table.values:
        table.text("source")
    for key, other in (("watts", "price_per_kwh"), ("hardware", "hours")):
        if (key in table.values) != (other in table.values):
            there, missing = (key, other) if key in table.values else (other, key)
            raise table.error(
                there, f"{there} stands without {missing}", f"write both, or neither: {missing} = …"
            )
    watts = table.amount("watts")
    kwh = table.amount("price_per_kwh")
    hardware = table.amount("hardware", most=Decimal(10**9))
    hours = table.amount("hours", most=Decimal(10**7), over=True)
    if watts is None and hardware is None:
        raise table.error("", "[local] says nothing", "write watts and price_per_kwh")
    return LocalCost(
        float(watts or 0),
        None if kwh is None else float(kwh),
        None if hardware is None or hours is None else float(hardware / hours),
    )


def _shown_value(value: Any) -> str:
    text = "missing" if value is None else str(value) if isinstance(value, Decimal) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
