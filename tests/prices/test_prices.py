"""What an answer costs: against the package's own sums, a user's file, and never a guessed 0."""

import datetime as dt
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from overt import prices
from overt.chat import Usage
from overt.errors import BadSetting
from overt.prices import Cost, cost
from overt.prices.energy import Energy, Meter, energy
from overt.prices.file import PriceFile, parse
from overt.settings import Settings

DAY = "2026-11-25"
M = 1_000_000


@pytest.fixture
def settings(home: Path) -> Settings:
    return Settings(home=home)


def of(settings: Settings, ref: str, usage: Usage, day: str = DAY, **given: Any) -> Cost:
    return cost(ref, usage, settings, day=day, **given)


# ---- list prices ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "short", "long"),  # US dollars a million, in and out, of a short prompt and of 1M
    [
        ("openai:gpt-6.1-sol", (2, 10), (4, 15)),
        ("openai:gpt-6-luna", (0.10, 0.50), (0.20, 0.75)),
        ("anthropic:claude-opus-5-5", (4, 20), (4, 20)),
        ("anthropic:claude-haiku-5-5", (0.10, 0.50), (0.50, 2.50)),
        ("gemini:gemini-3.8-flash", (0.75, 3.75), (0.75, 3.75)),
    ],
)
def test_known_list_prices(
    settings: Settings, ref: str, short: tuple[float, float], long: tuple[float, float]
) -> None:
    found = of(settings, ref, Usage(1000, 500))
    assert found.usd == pytest.approx((short[0] * 1000 + short[1] * 500) / M, rel=1e-12)
    assert [(part.name, part.amount, part.price) for part in found.parts] == [
        ("input", 1000, short[0]), ("output", 500, short[1]),
    ]  # fmt: skip
    found = of(settings, ref, Usage(M, M))
    assert found.usd == pytest.approx(sum(long), rel=1e-12)
    assert found.known
    assert found.day == DAY
    assert found.source.startswith(f"genai-prices {genai_prices.__version__}: ")


def test_the_tier_begins_above_its_number(settings: Settings) -> None:
    sol = "openai:gpt-6.1-sol"
    below = of(settings, sol, Usage(272_000, 0))
    assert below.usd == pytest.approx(0.544, rel=1e-12)
    assert [part.price for part in below.parts] == [2, 10]
    assert of(settings, sol, Usage(272_001, 0)).usd == pytest.approx(4 * 0.272001, rel=1e-12)


def test_caches_are_priced_apart_and_reasoning_is_output(settings: Settings) -> None:
    found = of(
        settings, "anthropic:claude-opus-5-5",
        Usage(10_000, 300, tokens_cached=4000, tokens_written=5000, tokens_written_hour=2000,
              tokens_thought=200),
    )  # fmt: skip
    assert [(part.name, part.amount, part.price) for part in found.parts] == [
        ("input", 1000, 4), ("cached", 4000, 0.2), ("written", 3000, 5), ("written_hour", 2000, 8),
        ("output", 300, 20),
    ]  # fmt: skip
    assert found.usd == pytest.approx((4000 + 800 + 15_000 + 16_000 + 6000) / M, rel=1e-12)
    assert found.part("cached") == prices.CostPart("cached", 4000, 0.2, 0.0008)
    assert found.part("nothing") is None


def test_prices_of_another_day(settings: Settings) -> None:
    flash = "gemini:gemini-3.8-flash"
    assert of(settings, flash, Usage(M, 0)).usd == 0.75
    assert of(settings, flash, Usage(M, 0), "2027-01-01").usd == 1.5
    as_date = cost(flash, Usage(M, 0), settings, day=dt.date(2027, 1, 1))
    assert (as_date.usd, as_date.day) == (1.5, "2027-01-01")
    today = dt.datetime.now(dt.UTC).date().isoformat()
    assert today <= cost(flash, Usage(M, 0), settings).day <= "9999"
    with pytest.raises(BadSetting, match="write it like 2026-11-25"):
        of(settings, flash, Usage(1, 1), "yesterday")


PROVIDERS = {"openai": "openai", "anthropic": "anthropic", "gemini": "google"}


def test_every_model_costs_what_the_package_says(settings: Settings) -> None:
    """All models of the three, over usages on both sides of their tiers."""
    usages = [Usage(1000, 500), Usage(M, 10, 200_000, tokens_written=100_000),
              Usage(5000, 5000, 1000, tokens_written=2000, tokens_written_hour=500,
                    tokens_thought=4000)]  # fmt: skip
    moment = dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC)
    seen = {True: 0, False: 0}
    for scheme, provider in PROVIDERS.items():
        models = next(one for one in get_snapshot().providers if one.id == provider).models
        for model in models:
            for usage in usages:
                found = of(settings, f"{scheme}:{model.id}", usage)
                seen[found.known] += 1
                if not found.known:
                    assert found.usd is None
                    assert found.why
                    continue
                counted = {
                    "input_tokens": usage.tokens_in, "output_tokens": usage.tokens_out,
                    "cache_read_tokens": usage.tokens_cached,
                    "cache_write_tokens": usage.tokens_written,
                    "cache_write_1h_tokens": usage.tokens_written_hour,
                }  # fmt: skip
                expected = genai_prices.calc_price(
                    genai_prices.Usage(**counted), model.id, provider_id=provider,
                    genai_request_timestamp=moment,
                ).total_price  # fmt: skip
                assert found.usd == float(expected), model.id
                assert math.isclose(sum(part.usd for part in found.parts), found.usd, rel_tol=1e-9)
                assert found.part("other") is None, model.id
    assert seen[True] > 500
    assert 0 < seen[False] < 120  # what is paid by the hour, the letter, or the picture alone


@examples(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_parts_add_up(settings: Settings, data: st.DataObject) -> None:
    count = st.integers(0, 2 * M)
    cached, hour, five, fresh = (data.draw(count) for _ in range(4))
    usage = Usage(cached + hour + five + fresh, data.draw(count), cached,
                  tokens_written=hour + five, tokens_written_hour=hour)  # fmt: skip
    refs = ["anthropic:claude-opus-5-5", "openai:gpt-6.1-sol", "gemini:gemini-3.8-flash"]
    ref = data.draw(st.sampled_from(refs))
    found = of(settings, ref, usage)
    assert found.usd is not None
    assert math.isclose(sum(p.usd for p in found.parts), found.usd, rel_tol=1e-9, abs_tol=1e-15)
    assert sum(p.amount for p in found.parts) == usage.tokens_in + usage.tokens_out


# ---- what nobody knows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ref", "usage", "why"),
    [
        ("openai:gpt-99", Usage(10, 10), "no list price of gpt-99 at openai"),
        ("openai:whisper-1", Usage(10, 10), "no list price for tokens"),
        (
            "http://127.0.0.1:8000/v1#gpt-6-luna",
            Usage(9, 9),
            "no list of prices for 127.0.0.1:8000",
        ),
        ("https://api.openai.com.evil.example/v1#gpt-6-luna", Usage(9, 9), "no list of prices for"),
        ("https://openrouter.ai/api/v1#some/unknown-model", Usage(9, 9), "no list price of some/"),
        ("https://openrouter.ai/api/v1", Usage(9, 9), "no list price"),
        ("smollm2", Usage(10, 10, 0, 1.0, 1.0), r"prices\.toml has no \[local\]"),
        ("not a ref", Usage(1, 1), "names no model"),
        ("anthropic:claude-opus-5-5", Usage(10, 10, 11), "more tokens are said to be cached"),
        ("anthropic:claude-opus-5-5", Usage(10, 10, 0, 0, 0, 3, 4), "kept for an hour"),
        ("anthropic:claude-opus-5-5", Usage(-1, 10), "not counted"),
        ("anthropic:claude-opus-5-5", Usage(10, 10**15), "not counted"),
    ],
)
def test_unknown_is_none_and_says_why(settings: Settings, ref: str, usage: Usage, why: str) -> None:
    found = of(settings, ref, usage)
    assert (found.usd, found.known, found.source, found.parts) == (None, False, "", ())
    assert re.search(why, found.why), found.why
    assert found.least == 0


def test_a_server_that_the_package_knows(settings: Settings) -> None:
    model = "anthropic/claude-opus-4.5"
    found = of(settings, f"https://openrouter.ai/api/v1#{model}", Usage(1000, 1000))
    expected = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1000, output_tokens=1000), model, provider_id="openrouter",
        genai_request_timestamp=dt.datetime(2026, 11, 25, 12, tzinfo=dt.UTC),
    )  # fmt: skip
    assert found.usd == float(expected.total_price) > 0
    assert "openrouter" in found.source
    assert of(settings, "https://api.openai.com/v1#gpt-6-luna", Usage(M, 0)).usd == 0.2


def test_prices_that_somebody_fetched_are_not_used(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = replace(get_snapshot(), from_auto_update=True)
    monkeypatch.setattr(genai_prices.data_snapshot, "_custom_snapshot", snapshot)
    assert of(settings, "openai:gpt-6-luna", Usage(1, 1)).known is False


def test_nothing_heavy_is_imported_and_nothing_is_fetched(home: Path) -> None:
    """In a process of its own: no genai_prices before it is needed, and no socket ever."""
    script = """
import socket, sys
def no(*a, **k): raise AssertionError("a socket")
import overt.prices, overt.prices.energy, overt.security.egress, overt.security.credentials
heavy = {"genai_prices", "pydantic", "keyring", "httpx2", "filelock"} & set(sys.modules)
assert not heavy, heavy
from overt.settings import Settings
from overt.chat import Usage
assert overt.prices.cost("smollm2", Usage(1, 1), Settings()).usd is None
assert "genai_prices" not in sys.modules
socket.socket.connect = socket.getaddrinfo = no
assert overt.prices.cost("openai:gpt-6-luna", Usage(1000, 0), Settings(), day="2026-11-25").usd
assert "genai_prices" in sys.modules
import threading
assert threading.active_count() == 1
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# ---- what a route asked first --------------------------------------------------------------


def test_what_a_route_asked_first_is_added(settings: Settings) -> None:
    first = Usage(1000, 100)
    usage = Usage(2000, 200, before=(("openai:gpt-6-luna", first),))
    found = of(settings, "anthropic:claude-opus-5-5", usage)
    alone = of(settings, "anthropic:claude-opus-5-5", replace(usage, before=()))
    before = of(settings, "openai:gpt-6-luna", first)
    assert alone.usd is not None
    assert before.usd is not None
    assert found.usd == alone.usd + before.usd
    assert found.before == (("openai:gpt-6-luna", before),)
    assert found.parts == alone.parts


def test_one_unknown_makes_the_whole_unknown(settings: Settings) -> None:
    usage = Usage(2000, 200, before=(("smollm2", Usage(5, 5)), ("openai:gpt-6-luna", Usage(M, 0))))
    found = of(settings, "anthropic:claude-opus-5-5", usage)
    assert (found.usd, found.known) == (None, False)
    assert found.why.startswith("smollm2: ")
    assert found.least == pytest.approx(0.012 + 0.2)
    deep = Usage(1, 1)
    for _ in range(2000):
        deep = Usage(1, 1, before=(("openai:gpt-6-luna", deep),))
    assert of(settings, "openai:gpt-6-luna", deep).known is False


# ---- the user's own file -------------------------------------------------------------------

FILE = """\
[[price]]
models = ["openai:gpt-6*", "http://10.0.0.5:8000/v1#*"]
from = 2026-10-01
input = 2.00
output = 10
cached = "0.075"
written = 2.50
above = [{ tokens = 272000, input = 4.00, output = 15.00 }]
source = "contract of 1 October"

[[price]]
models = "openai:gpt-6-luna"
from = 2026-12-01
input = 0
output = 0
source = "a gift"

[local]
watts = 65
price_per_kwh = 0.30
hardware = 2400
hours = 20000
source = "bill"
"""


def test_the_example_of_the_documentation_is_one() -> None:
    text = (prices.file.__doc__ or "").partition("::\n")[2].partition("Of all entries")[0]
    found = parse("\n".join(line[4:] for line in text.splitlines()).encode())
    assert (len(found.entries), found.entries[0].tiers[1].above) == (1, 272_000)
    assert found.local is not None


def test_the_users_file_comes_first(settings: Settings) -> None:
    path = settings.home / "prices.toml"
    path.write_text(FILE)
    found = of(settings, "openai:gpt-6-luna", Usage(1000, 100, 400, tokens_written=300,
                                                    tokens_written_hour=100))  # fmt: skip
    assert [(part.name, part.price) for part in found.parts] == [
        ("input", 2), ("cached", 0.075), ("written", 2.5), ("written_hour", 2.5), ("output", 10),
    ]  # fmt: skip
    assert found.usd == pytest.approx((600 + 30 + 750 + 1000) / M, rel=1e-12)
    assert found.source == "prices.toml: contract of 1 October (from 2026-10-01)"
    assert of(settings, "openai:gpt-6x", Usage(272_000, 0)).usd == pytest.approx(0.544, rel=1e-12)
    there = of(settings, "http://10.0.0.5:8000/v1#any/thing", Usage(272_001, 1))
    assert there.usd == pytest.approx((4 * 272_001 + 15) / M, rel=1e-12)
    before = of(settings, "openai:gpt-6-luna", Usage(M, 0), "2026-09-30")
    assert before.source.startswith("genai-prices")
    gift = of(settings, "openai:gpt-6-luna", Usage(1000, 100), "2026-12-01")
    assert (gift.usd, gift.known) == (0.0, True)  # somebody says so, which is not the same
    path.write_text(FILE.replace("input = 2.00", "input = 3.00"))
    assert of(settings, "openai:gpt-6-luna", Usage(M // 10, 0)).usd == pytest.approx(0.3)
    path.unlink()
    assert of(settings, "openai:gpt-6-luna", Usage(M, 0)).source.startswith("genai-prices")


def test_of_one_day_the_lower_entry_holds() -> None:
    one = '[[price]]\nmodels = ["a*"]\nfrom = 2026-01-0{}\ninput = {}\noutput = 0\nsource = "x"\n'
    found = parse((one.format(2, 1) + one.format(1, 2) + one.format(2, 3)).encode())
    day = dt.date(2026, 1, 2)
    assert found.rates("ab", day) == found.entries[2]
    assert found.rates("ab", dt.date(2026, 1, 1)) == found.entries[1]
    assert found.rates("b", day) is found.rates("ab", dt.date(2025, 1, 1)) is None


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("input = 2.00", "input = -1", 4, "input is -1"),
        ("input = 2.00", "input = nan", 4, "input is NaN"),
        ("input = 2.00", "input = inf", 4, "input is Infinity"),
        ("input = 2.00", "input = 1e999999", 4, "input is 1E"),
        ("input = 2.00", "input = true", 4, "input is True"),
        ("input = 2.00", 'input = "two"', 4, "input is 'two'"),
        ("input = 2.00\n", "", 1, "a price for input is missing"),
        ("output = 10\n", "", 1, "a price for output is missing"),
        ("cached =", "cashed =", 6, "'cashed' is not known"),
        ("from = 2026-10-01", "from = '2026-10-01'", 3, "from is '2026-10-01'"),
        ("from = 2026-10-01", "from = 2026-10-01T00:00:00Z", 3, "from is datetime"),
        ("from = 2026-10-01\n", "", 1, "from is missing"),
        ('source = "a gift"', 'source = ""', 16, "source is ''"),
        ('source = "a gift"', "", 11, "source is missing"),
        ('models = "openai:gpt-6-luna"', "models = []", 12, "models is []"),
        ('models = "openai:gpt-6-luna"', "models = [1]", 12, "models is [1]"),
        ("tokens = 272000", "tokens = 0", 8, "above has "),
        ("tokens = 272000, ", "", 8, "above has "),
        ("{ tokens = 272000, input = 4.00, output = 15.00 }", "{ tokens = 5, input = 1 }", 8,
         "a price for output is missing"),
        ("watts = 65\n", "", 19, "price_per_kwh stands without watts"),
        ("hours = 20000", "hours = 0", 22, "hours is 0"),
        ("watts = 65", "wats = 65", 19, "'wats' is not known"),
        ("[local]", "[here]", 18, "'here' is not known"),
        ("[local]\n", "[local]\n[local.more]\n", 19, "'more' is not known"),
        ("[[price]]\nmodels = [", "note = '''\n[[price]]\ninput = 1\n'''\n[[price]]\nmodels = [",
         1, "'note' is not known"),
        ("input = 0\n", 'source = """\n[[price]]\ninput = 3\n"""\ninput = -5\n', 18, "input is -5"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(old: str, new: str, line: int, says: str) -> None:
    text = FILE.replace(old, new, 1)
    if "\n[[price]]\ninput = 3" in new:
        text = text.replace('source = "a gift"\n', "")
    assert text != FILE
    with pytest.raises(BadSetting) as caught:
        parse(text.encode(), "/home/prices.toml")
    assert caught.value.message.startswith(f"/home/prices.toml, line {line}: {says}")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["x", "[[price]", "price = 1", "price = [1]", "local = 3", "[local]", "\xff", "[" * 5000,
     "a = " + "[" * 5000, "[[price]]\n" * 2001, "a = 1" + "0" * 5000],
)  # fmt: skip
def test_what_is_no_such_file(home: Path, text: str) -> None:
    (home / "prices.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadSetting, match=r"prices\.toml"):
        cost("openai:gpt-6-luna", Usage(1, 1), Settings(home=home))


def test_what_lies_there_instead(home: Path) -> None:
    (home / "prices.toml").mkdir()
    with pytest.raises(BadSetting, match="is not a file"):
        cost("openai:gpt-6-luna", Usage(1, 1), Settings(home=home))


@given(st.data())
def test_a_mutated_file_is_prices_or_one_error(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(FILE)))
    cut = data.draw(st.integers(0, 12))
    put = data.draw(st.one_of(
        st.text(max_size=6), st.sampled_from(["1e400", "-0", "[[", "]]", "'''", '"""', "= ", "{}",
                                              "inf", "0x1", "[local]\n", "\n", "0.1", "99999999"]),
    ))  # fmt: skip
    try:
        found = parse((FILE[:at] + put + FILE[at + cut :]).encode("utf-8", "surrogatepass"))
    except BadSetting:
        return
    assert isinstance(found, PriceFile)
    for entry in found.entries:
        for tier in entry.tiers:
            assert 0 <= tier.input <= M
            assert math.isfinite(float(tier.output * 10**12))


# ---- models of this machine ----------------------------------------------------------------


def test_local_cost_is_the_users_assumptions(settings: Settings) -> None:
    (settings.home / "prices.toml").write_text(FILE)
    usage = Usage(100, 100, prompt_seconds=36, decode_seconds=324)  # a tenth of an hour
    found = of(settings, "smollm2", usage)
    assert found.usd == pytest.approx(0.1 * 0.065 * 0.30 + 0.1 * 0.12)
    assert found.source == "your assumptions (prices.toml)"
    assert [part.name for part in found.parts] == ["energy", "hardware"]
    measured = of(settings, "./model.gguf", usage, joules=3.6e6)
    assert measured.usd == pytest.approx(0.30 + 0.1 * 0.12)
    assert measured.source.startswith("measured energy")
    assert of(settings, "smollm2", Usage(1, 1)).why == "the engine did not say how long it took"
    (settings.home / "prices.toml").write_text("[local]\nhardware = 3600\nhours = 1\n")
    assert of(settings, "smollm2", Usage(1, 1, decode_seconds=1)).usd == pytest.approx(1.0)
    (settings.home / "prices.toml").write_text("[local]\nwatts = 1000\nprice_per_kwh = 3600\n")
    assert of(settings, "smollm2", Usage(1, 1, decode_seconds=1)).usd == pytest.approx(1.0)


def zone(root: Path, name: str, label: str, uj: int, most: int = 1000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder / "energy_uj"


def test_energy_is_measured_declared_or_unknown(settings: Settings, tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    assert Meter(root).joules() is None
    assert energy(10, settings, Meter(root)) == Energy(None, "unknown")
    package = zone(root, "intel-rapl:0", "package-0", 5_000_000, 10_000_000)
    other = zone(root, "intel-rapl:1", "package-1", 9_000_000, 10_000_000)
    memory = zone(root, "intel-rapl:0:0", "dram", 0, 10_000_000)
    zone(root, "intel-rapl:0:1", "core", 77)
    twin = zone(root, "intel-rapl-mmio:0", "package-0", 5_000_000)
    zone(root, "intel-rapl:2", "psys", 1)
    (root / "empty").mkdir()
    meter = Meter(root)
    assert energy(10, settings, meter) == Energy(0.0, "measured")
    package.write_text("7000000")
    twin.write_text("7000000")
    other.write_text("500000")  # over its end
    memory.write_text("250000")
    assert energy(10, settings, meter) == Energy(2.0 + 1.5 + 0.25, "measured")
    package.write_text("no number")
    (settings.home / "prices.toml").write_text(FILE)
    assert energy(10, settings, meter) == Energy(650.0, "declared")
    assert energy(10, settings) == Energy(650.0, "declared")
    (other.parent / "max_energy_range_uj").unlink()
    package.write_text("7000000")
    assert meter.joules() is None


def test_the_page_for_users_has_the_same_example(settings: Settings) -> None:
    page = (Path(__file__).parents[2] / "docs/providers.md").read_text("utf-8")
    example = (prices.file.__doc__ or "").partition("::\n")[2].partition("Of all entries")[0]
    assert example.strip() in page
    found = of(settings, "anthropic:claude-opus-5-5", Usage(10_000, 300, 4000))
    shown = [f"{found.usd} {found.source}"]
    shown += [f"{part.name} {part.amount} at {part.price}" for part in found.parts]
    assert "\n".join(f"    {line}" for line in shown) in page
