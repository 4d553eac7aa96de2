"""Names of licences become one id."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.openness.licence.names import (
    canonical,
    expression,
    facts,
    family,
    is_open,
    open_expression,
)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("mit", "MIT"),
        ("apache-2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("llama3.1", "llama-3.1-license-2024"),
        ("LicenseRef-Llama-3.2", "llama-3.2-license-2024"),
        ("Llama 2 Community License Agreement", "llama-2-license-2023"),
        ("gemma", "gemma-tou-2025-03-24"),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution Non Commercial 4.0", "CC-BY-NC-4.0"),
        ("GPL-2.0+", "GPL-2.0-or-later"),
        ("BigCode OpenRAIL-M v1 license agreement", "bigcode-open-rail-m-v1"),
        ("OpenMDW-1.1", "openmdw-1.1"),
        ("modified-mit", "moonshot-ai-modified-mit-2025"),
        ("other", None),
        ("", None),
        ("Llama license", None),
    ],
)
def test_a_name_becomes_one_id(name: str, id: str | None) -> None:
    assert canonical(name) == id


def test_a_family_is_no_licence() -> None:
    assert family("GNU General Public License")
    assert family("Llama license")
    assert not family("MIT")


def test_openness_as_the_framework_means_it_and_as_its_tool_answers() -> None:
    assert is_open("Apache-2.0")
    assert is_open("CC-BY-3.0-NL")
    assert not is_open("llama3")
    for missed in ("PDDL-1.0", "C-UDA-1.0", "OpenMDW-1.1"):
        assert is_open(missed)
        assert not is_open(missed, compat=True)
    assert is_open("OpenMDW-1.0", compat=True)
    assert not is_open("apache-2.0", compat=True)


def test_kinds() -> None:
    kinds = {
        name: found.kind
        for name in ("MIT", "CC-BY-4.0", "CC-BY-NC-2.5", "llama3", "mrl", "gemma", "Proprietary")
        if (found := facts(name))
    }
    assert kinds == {
        "MIT": "osd_open",
        "CC-BY-4.0": "data_open",
        "CC-BY-NC-2.5": "non_commercial",
        "llama3": "scale_limited",
        "mrl": "research_only",
        "gemma": "use_restricted",
        "Proprietary": "proprietary",
    }
    assert facts("no such licence") is None


def test_expressions() -> None:
    assert expression("MIT OR (Apache-2.0 AND CC-BY-NC-4.0)") == (
        "MIT",
        "Apache-2.0",
        "CC-BY-NC-4.0",
    )
    assert open_expression("MIT OR CC-BY-NC-4.0") is True
    assert open_expression("MIT AND CC-BY-NC-4.0") is False
    assert open_expression("MIT AND LicenseRef-nobody-knows") is None
    assert open_expression("GPL-2.0-only WITH Classpath-exception-2.0") is True
    assert expression("MIT AND") == ()


@given(st.text(max_size=60))
def test_any_text_has_an_answer(text: str) -> None:
    canonical(text)
    family(text)
    facts(text)
    expression(text)
    open_expression(text)


def test_an_empty_pair_of_brackets_is_no_expression():
    assert expression("()") == ()
    assert expression("MIT AND ()") == ()
