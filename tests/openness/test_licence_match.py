"""Licence texts are recognised, and what is not theirs is quoted."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.openness.licence.match import Match, match

NOTICE = (
    "Copyright 2024 Acme\n\n"
    "This work is licensed under a Creative Commons Attribution-NonCommercial 4.0 "
    "International License.\n"
)


@pytest.fixture
def text(shared_data: Callable[[str], Path]) -> Callable[[str], str]:
    """A licence text of the shared data by its key."""
    return lambda key: shared_data(f"licences/{key}.txt").read_text(encoding="utf-8")


def test_a_notice_names_a_licence_and_is_not_its_text() -> None:
    assert (found := match(NOTICE)).kind == "notice_only"
    assert found.id == "CC-BY-NC-4.0"
    assert match("SPDX-License-Identifier: Apache-2.0 OR MIT").others == ("MIT",)


def test_a_family_without_a_version() -> None:
    found = match("This model is released under the GNU General Public License.")
    assert (found.id, found.missing_version) == (None, True)


def test_a_notice_with_a_rider() -> None:
    found = match("Released under the MIT License. Commercial use requires a contract.")
    assert found.altered
    assert "Commercial use requires a contract." in found.riders[0]


@pytest.mark.parametrize("said", ["", "   \n", "Dogs may play in the garden."])
def test_what_is_no_licence(said: str) -> None:
    assert match(said).kind == "unknown"
    assert match(said).id is None


def test_an_edited_threshold(text: Callable[[str], str]) -> None:
    found = match(text("llama-4-cla-2025").replace("700 million", "7 million"))
    assert (found.id, found.kind) == ("llama-4-cla-2025", "altered")
    assert [(one.expected, one.found) for one in found.changes] == [("700", "7")]
    assert "greater than 7 million" in found.riders[0]


def test_a_version_taken_out(text: Callable[[str], str]) -> None:
    source = text("llama-3.1-license-2024")
    found = match(source.replace("Llama 3.1", "Llama").replace("LLAMA 3.1", "LLAMA"))
    assert found.missing_version
    assert found.altered
    assert match(text("Apache-2.0").replace("Version 2.0, January 2004", "", 1)).missing_version


def test_a_false_version_of_the_title(text: Callable[[str], str]) -> None:
    found = match(text("openmdw-1.1").replace("1.1", "1.0"))
    assert (found.id, found.altered) == ("openmdw-1.1", True)


def test_a_rider_behind_apache(text: Callable[[str], str]) -> None:
    rider = "The software may not be used for any commercial purpose."
    found = match(f"{text('Apache-2.0')}\n\n{rider}\n")
    assert (found.id, found.kind, found.riders) == ("Apache-2.0", "altered", (rider,))


def test_placeholders_and_lines_that_belong_there(text: Callable[[str], str]) -> None:
    apache = text("Apache-2.0")
    filled = apache.replace("[yyyy]", "2024").replace("[name of copyright owner]", "DeepSeek")
    assert not match(filled).altered
    assert not match(apache[: apache.index("APPENDIX")]).altered
    head = "The MIT License (MIT)\n\nCopyright (c) 2023 Acme Research, Inc. and others\n\n"
    assert match(head + text("MIT")).kind == "near"


def test_two_licences_in_one_file(text: Callable[[str], str]) -> None:
    joined = f"{text('Apache-2.0')}\n\nThe tokenizer has this licence:\n\n{text('MIT')}"
    found = match(joined)
    assert (found.id, found.others, found.altered) == ("Apache-2.0", ("MIT",), False)


def test_a_rider_in_the_place_of_a_name(text: Callable[[str], str]) -> None:
    name = "THE AUTHORS OR COPYRIGHT HOLDERS"
    assert not match(text("MIT").replace(name, "ACME RESEARCH")).altered
    assert match(text("MIT").replace(name, "ACME, WHOM YOU MUST ASK,")).altered


def test_a_version_taken_out_is_a_change_of_the_title(text: Callable[[str], str]) -> None:
    found = match(text("Apache-2.0").replace("Version 2.0, January 2004", "", 1))
    assert (found.altered, found.riders) == (True, ("Apache License",))


def test_a_piece_of_a_long_licence_hides_no_short_one(text: Callable[[str], str]) -> None:
    apache = text("Apache-2.0")
    found = match(f"{apache[: len(apache) // 2]}\n\n{text('MIT')}")
    assert (found.id, found.altered) == ("MIT", True)


@pytest.mark.parametrize(
    "said", ["\u672a\u7ecf\u8bb8\u53ef\u4e0d\u5f97\u5546\u7528", "Home edition, two seats",
             "N o n - p r o f i t",
             "Endast f\u00f6r forskning", "It follows the Acme Model Policy."],
)  # fmt: skip
def test_what_no_list_of_binding_words_would_find(said: str, text: Callable[[str], str]) -> None:
    assert match(f"{text('MIT')}\n\n{said}\n").riders == (said,)


def test_a_contents_table_repeats_headings(text: Callable[[str], str]) -> None:
    source = text("deepseek-la-1.0")
    listed = "1. Definitions ..... 2\n2. Grant of Copyright License ..... 3\n\n"
    assert not match(listed + source).altered
    assert match("1. Sale of the Model ..... 2\n\n" + source).altered


def test_a_letter_of_another_script(text: Callable[[str], str]) -> None:
    assert match(text("MIT").replace("sublicense", "sublic\u0435nse")).altered


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mutation_ends_in_a_match(data: st.DataObject) -> None:
    parts = st.sampled_from(
        ["Permission is hereby granted", "Licensed under the Apache License, Version 2.0", "1. (a)",
         "&quot;", "<p>", "https://a.org/x", "\u200b", "\n\n", "Copyright (c) 2020", "not", "$5"]
    )  # fmt: skip
    made = data.draw(st.lists(st.one_of(parts, st.text(max_size=12)), max_size=40))
    assert isinstance(match(" ".join(made)), Match)


def test_a_notice_cut_short_is_still_one() -> None:
    notice = (
        'Copyright 2024 X\n\nLicensed under the Apache License, Version 2.0 (the "License"); you '
        "may not use this file except in compliance with the License. You may obtain a copy of the "
        "License at\n\n    http://www.apache.org/licenses/LICENSE-2.0\n"
    )
    found = match(notice)
    assert (found.id, found.kind, found.altered) == ("Apache-2.0", "notice_only", False)
    assert match(notice + "You may not use this file at all.\n").altered
