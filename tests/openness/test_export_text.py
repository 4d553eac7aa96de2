"""What all exports share: texts that can be written, addresses, names of licences, determinism."""

import json
import re
from pathlib import Path

import pytest
from dossier_samples import SAMPLES, fully_open, hostile, open_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.errors import UsageError
from overt.openness import export
from overt.openness.export import licences, text, words
from overt.openness.verdicts.components import COMPONENTS, Availability

ANY = st.text(st.characters(codec=None), max_size=80)  # lone surrogates too


@pytest.mark.parametrize("form", export.FORMATS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_the_same_dossier_gives_the_same_text_with_one_newline_at_its_end(form, sample):
    first = export.render(SAMPLES[sample](), form)
    assert first == export.render(SAMPLES[sample](), form)
    assert first.endswith("\n")
    assert not first.endswith("\n\n")
    first.encode()


@pytest.mark.parametrize("form", export.FORMATS)
@settings(max_examples=8, deadline=None)
@given(texts=st.lists(ANY, min_size=1, max_size=7))
def test_any_text_anywhere_is_written(form, texts):
    export.render(hostile(tuple(texts)), form).encode()


def test_every_format_has_a_file_name_and_an_unknown_one_is_a_sentence():
    assert set(export.FORMATS) == set(export.SUFFIXES)
    with pytest.raises(UsageError, match="no format 'pdf'"):
        export.render(fully_open(), "pdf")


def test_documents_of_different_dossiers_have_different_numbers():
    numbers = {
        str(text.identifier(make(), form)) for make in SAMPLES.values() for form in ("spdx", "x")
    }
    assert len(numbers) == 2 * len(SAMPLES)


@given(ANY)
def test_an_address_is_ascii_on_the_web_or_nothing(one):
    for given_ in (one, f"https://a.example/{one}", f"http://{one}"):
        found = text.address(given_)
        assert re.fullmatch(r"(https?://[A-Za-z0-9.:-]+(/[!-~]*|[?#][!-~]*)?)?", found)
        assert not set(found) & set('<>"`{}|\\^')
        assert text.address(found) == found


def test_addresses_that_are_none_are_left_out():
    for one in (
        "javascript:alert(1)",
        "data:text/html,x",
        "//a.example",
        "https://",
        "ftp://a.example",
        "https://user:word@a.example/",
        "https://[::1",
        "https://a" + "b" * 3000,
    ):
        assert text.address(one) == ""


@given(ANY)
def test_what_people_read_shows_the_unseen(one):
    shown = text.visible(one + "\u202e\u200b\x00\x1b")
    assert "⟨U+202E⟩⟨U+200B⟩" in shown
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200c\u200e\u200f\u202a-\u202e\u2066-\u2069]", shown
    )


@pytest.mark.parametrize("one", ["👩‍💻", "👩🏽‍🚒", "❤️‍🔥", "🏳️‍🌈", "👨‍👩‍👧‍👦", "🐈‍⬛", "🤷‍♀️"])
def test_an_emoji_made_of_several_stays_whole(one):
    assert text.visible(f"a {one} b") == f"a {one} b"


def test_a_joiner_elsewhere_is_shown():
    assert text.visible("pay\u200dpal \U0001f469\u200dx\u200d\U0001f469") == (
        "pay⟨U+200D⟩pal \U0001f469⟨U+200D⟩x⟨U+200D⟩\U0001f469"
    )


@given(st.recursive(ANY | st.floats() | st.integers() | st.none() | st.booleans(), lambda x:
       st.lists(x, max_size=3) | st.dictionaries(ANY, x, max_size=3), max_leaves=8))  # fmt: skip
def test_any_value_is_json(value):
    assert json.loads(text.canonical(value)) == json.loads(text.pretty(value))


@pytest.mark.parametrize(
    ("said", "form", "value"),
    [
        ("Apache-2.0", "id", "Apache-2.0"),
        ("MIT OR Apache-2.0", "expression", "MIT OR Apache-2.0"),
        ("llama-3.1-license-2024", "ref", "LicenseRef-llama-3.1-license-2024"),
        ("LicenseRef-mine", "ref", "LicenseRef-mine"),
        ("my own terms; see <here>", "ref", "LicenseRef-my-own-terms-see-here"),
        ("…", "ref", "LicenseRef-unnamed"),
    ],
)
def test_a_licence_is_named_as_spdx_wants_it(said, form, value):
    one = licences.exported(said)
    assert (one.form, one.value) == (form, value)
    assert one.title


@given(ANY)
def test_any_words_become_a_licence_name(said):
    one = licences.exported(said)
    assert one.form != "ref" or re.fullmatch(r"LicenseRef-[A-Za-z0-9.-]+", one.value)


def test_an_altered_text_is_no_longer_that_licence():
    found = licences.concluded(open_weights())
    assert found is not None
    assert found.value == "LicenseRef-llama-3.1-license-2024-altered"


def test_every_component_and_word_has_its_sentence():
    names = [one.name for one in COMPONENTS]
    assert sorted(name for _, group in words.GROUPS for name in group) == sorted(names)
    assert set(words.COMPONENT_MEANING) == set(names)
    assert set(words.AVAILABILITY_WORDS) == set(words.CLAIMED) == set(Availability)


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (
            "fully_open",
            "You can download it and run it. You can check what it was trained on and how.",
        ),
        (
            "open_weights",
            "You can download it and run it. You cannot check what it was trained on.",
        ),
        (
            "closed_api",
            "You can use it only on its provider's computers; you cannot download it. "
            "You cannot check what it was trained on.",
        ),
        (
            "overstated",
            "You can download it and run it. What is said about its training data does not hold.",
        ),
    ],
)
def test_the_first_sentence_says_what_a_person_can_do(sample, sentence):
    assert words.headline(SAMPLES[sample]()) == sentence


def test_no_third_partys_text_is_in_the_package():
    folder = Path(export.__file__).parent
    assert {one.name for one in folder.iterdir() if one.suffix not in (".py", ".css")} <= {
        "__pycache__"
    }
