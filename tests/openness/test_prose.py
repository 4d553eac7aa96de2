"""Sentences of a card that speak of the model itself, and those that do not."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from overt.openness.subject import prose

NAMES = ("Tiny-LM", "Tiny")


@pytest.mark.parametrize(
    ("sentence", "number"),
    [
        ("This model has 7 billion parameters.", 7_000_000_000),
        ("The model has **1.1B** parameters and runs anywhere.", 1_100_000_000),
        ("- Tiny is a Transformer with 2.7 billion parameters.", 2_700_000_000),
        ("Tiny-LM is a 350M-parameter model.", 350_000_000),
        ("This is a [small](https://x.org) model of 1,234,567 parameters.", 1_234_567),
        ("Hello. This model contains 12M trainable parameters!", 12_000_000),
    ],
)
def test_a_size_is_read(sentence, number):
    [[said]] = prose.sizes(sentence, NAMES)
    assert said.values[0] == number


@pytest.mark.parametrize(
    "sentence",
    [
        "The Tiny family has models of 1B, 7B and 70B parameters.",
        "Tiny is smaller than a model of 7B parameters.",
        "GPT-3 has 175 billion parameters.",
        "This model was distilled from one of 70B parameters.",
        "Tinyish has 7B parameters.",
        "| This model has 7B parameters |",
        "> This model has 7B parameters.",
        "```\nThis model has 7B parameters.\n```",
        "This model is an adapter with 7B parameters.",
        "This model has many parameters.",
    ],
)
def test_what_is_said_of_others_is_not(sentence):
    assert prose.sizes(sentence, NAMES) == []


def test_contexts_and_licences():
    text = "This model supports a context length of up to 128K tokens."
    assert prose.contexts(text, NAMES)[0].values == (128_000, 131_072)
    assert prose.contexts("Our data has a context length of 4096.", NAMES) == []
    text = "Tiny is released under the Apache 2.0 license."
    assert prose.licences(text, NAMES) == ["Apache 2.0"]
    assert prose.licences("The code is released under the MIT license.", NAMES) == []


@given(st.text(max_size=300))
def test_no_text_breaks_it(text):
    prose.sizes(f"This model {text}", NAMES)
    prose.contexts(f"Tiny {text}", (text,))
    prose.licences(f"This model is {text}", NAMES)


def test_the_lines_below_the_title_and_what_follows_speak_of_the_model():
    card = "# Tiny\n\nA 7B parameter model.\n\nIt has 7B parameters.\n\n## Use\n\nIt has 9B params."
    assert [said.words for [said] in prose.sizes(card, NAMES)] == ["7b", "7b"]
    told = "This model is new. It has 7B parameters."
    assert prose.sizes(told, NAMES) == []  # "new" may be about another
    told = "This model is for tests. It is used in CI and mimics the 7B parameter one."
    assert prose.sizes(told, NAMES) == []
    assert len(prose.sizes("This model is small. It has 7B parameters.", NAMES)) == 1
    for other in ("A model with 70B parameters wrote it.", "A toy of the 7B parameter one."):
        assert prose.sizes(f"# Tiny\n\n{other}", NAMES) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Weights are stored in bfloat16 precision.", "bfloat16"),
        ("- The weights are provided as `fp16`.", "fp16"),
        ("Weights are stored in bfloat16. Weights are stored in float32.", ""),
        ("Training used bfloat16 precision.", ""),
    ],
)
def test_a_number_format_is_read(text, told):
    assert prose.dtype(text) == told


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("This model may be used for non-commercial research purposes only.", True),
        ("The model may not be used for commercial purposes.", True),
        ("Tiny is for non-commercial use only.", True),
        ("This model may be used for commercial and non-commercial purposes.", False),
        ("This model is not only for commercial use.", False),
        ("This model is trained on data for non-commercial use only.", False),
        ("The demo is for non-commercial use only.", False),
        ("Unlike earlier versions for non-commercial use only, it is free.", False),
    ],
)
def test_a_ban_on_commercial_use_is_read(sentence, found):
    assert bool(prose.unpaid(sentence, NAMES)) == found
