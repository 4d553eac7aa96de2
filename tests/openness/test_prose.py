"""Sentences of a card that speak of the model itself, and those that do not."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from overt.openness import prose

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
