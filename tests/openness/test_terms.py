"""The files of clauses: whole, cited, in words of our own, and quick to read."""

import csv
import re
import time
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from overt.openness.permissions import phrases, terms, uses
from overt.openness.permissions.conditions import ALWAYS

NAMES = terms.ids()
KEYS = {
    "id", "title", "version", "date", "source", "sha256", "read", "about", "policies", "notice",
    "attribution", "name_prefix", "reaches_outputs", "clauses", "obligations", "bans", "limits",
}  # fmt: skip
CLAUSE = {"section", "effect", "rule", "when", "outputs", "asked"}
DUTY = {"section", "text", "when"}


def _content(name: str) -> dict[str, Any]:
    file = resources.files("overt.openness") / "data" / "terms" / f"{name}.toml"
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _terms(name: str) -> terms.Terms:
    found = terms.load(name)
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_file_holds_what_a_reader_expects_and_nothing_else(name: str) -> None:
    content = _content(name)
    assert content["id"] == name
    assert set(content) <= KEYS
    assert all(set(one) <= CLAUSE for one in content.get("clauses", ()))
    assert all(set(one) <= DUTY for one in content.get("obligations", ()))
    found = _terms(name)
    assert re.fullmatch(r"|\d{4}-\d{2}(-\d{2})?", found.date)
    assert all(one.effect in ("deny", "needs_permission", "note") for one in found.clauses)
    assert all(one.category in uses.FIELDS for one in found.bans)
    assert "general" not in {one.category for one in found.bans}
    said = [one.rule for one in found.clauses] + [one.text for one in found.obligations]
    assert all(one[0].isupper() and not one.endswith(".") for one in said)
    assert not any("{" in one for one in said)
    assert all(one.section for one in (*found.clauses, *found.obligations, *found.bans))
    assert all(phrases.when(one.when) or one.when == ALWAYS for one in found.clauses)
    notice = " ".join(one.text for one in found.obligations)
    assert all(line in notice for line in (*found.notice, found.name_prefix))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_that_was_read_has_its_digest_and_another_says_so(name: str) -> None:
    found = _terms(name)
    if found.read:
        assert found.sha256 or found.source.startswith("https://github.com/")
    else:
        assert not found.sha256
        assert found.about
        assert found.source.startswith("https://") or found.source == "copyright law"


def test_digests_are_those_of_the_texts(shared_data: Callable[[str], Path]) -> None:
    with shared_data("licences/index.tsv").open(encoding="utf-8", newline="") as table:
        listed = {row["key"]: row["sha256"] for row in csv.DictReader(table, delimiter="\t")}
    for name in NAMES:
        found = _terms(name)
        if found.source in listed:
            assert found.sha256 == listed[found.source]
    # every text that is at hand has its clauses
    assert set(listed) <= set(NAMES)


def _thresholds(name: str) -> set[int]:
    found = _terms(name)
    text = str([one.when for one in (*found.clauses, *found.obligations)])
    return {int(one) for one in re.findall(r"wanted=(\d+)", text)}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


AT_HAND = [name for name in NAMES if "/" not in _terms(name).source and _terms(name).read]
LIMITS = [name for name in AT_HAND if _thresholds(name)]


@pytest.mark.parametrize("name", AT_HAND)
def test_rules_are_in_words_of_our_own_and_quotes_are_exact(
    name: str, shared_data: Callable[[str], Path]
) -> None:
    found = _terms(name)
    content = _content(name)
    plain = " ".join(_words(shared_data(f"licences/{found.source}.txt").read_text("utf-8")))
    for one in (*content.get("clauses", ()), *content.get("obligations", ())):
        words = _words(one.get("rule", "") + one.get("text", ""))
        runs = [" ".join(words[at : at + 9]) for at in range(len(words) - 8)]
        assert not [run for run in runs if run in plain], one
    quoted = (*found.notice, *found.attribution, found.name_prefix)
    assert all(" ".join(_words(one)) in plain for one in quoted)


@pytest.mark.parametrize("name", LIMITS)
def test_numbers_stand_in_the_text(name: str, shared_data: Callable[[str], Path]) -> None:
    plain = shared_data(f"licences/{_terms(name).source}.txt").read_text("utf-8")
    for one in _thresholds(name):
        assert f"{one:,}" in plain or f"{one // 10**6} million" in plain


def test_a_policy_is_read_with_its_licence() -> None:
    found = _terms("llama-3.2-license-2024")
    assert {one.licence for one in found.bans} == {"llama-3.2-use-policy"}
    assert {one.licence for one in found.clauses} == {
        "llama-3.2-license-2024",
        "llama-3.2-use-policy",
    }


@pytest.mark.parametrize(
    "name", ["", "no-such-licence", "../terms/MIT", "MIT.toml", "a/b", "MIT\n", "x" * 300, "\0"]
)
def test_what_is_not_in_the_table_is_nothing(name: str) -> None:
    assert terms.load(name) is None


@pytest.mark.parametrize("name", ["EUPL-1.2", "PostgreSQL", "OFL-1.1"])
def test_an_open_licence_without_a_file_gets_what_its_kind_says(name: str) -> None:
    found = _terms(name)
    assert name not in NAMES
    assert (found.read, found.clauses) == (False, ())
    assert "its own conditions are not in the table" in found.obligations[0].text


def test_a_non_commercial_licence_without_a_file_is_at_least_that() -> None:
    found = _terms("CC-BY-NC-2.5")
    assert [(one.effect, phrases.when(one.when)) for one in found.clauses] == [
        ("deny", "if the use is commercial")
    ]


def test_a_research_licence_without_a_file_is_at_least_that() -> None:
    assert [one.effect for one in _terms("apple-amlr").clauses] == ["deny", "deny"]


def test_a_licence_of_another_kind_without_a_file_stays_unknown() -> None:
    assert terms.load("solar") is None or "solar" in NAMES


def test_no_file_is_so_large_that_reading_it_is_felt() -> None:
    slow = {}
    for name in NAMES:
        best = min(_timed(name) for _ in range(5))
        if best > 20:  # one or two when measured alone
            slow[name] = best
    assert not slow


def _timed(name: str) -> float:
    terms.load.cache_clear()
    begun = time.perf_counter()
    terms.load(name)
    return (time.perf_counter() - begun) * 1000
