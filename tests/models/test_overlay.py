"""What lies over the weights, and how it meets a request and the settings."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import repeats
from overt.chat import Message, Request, Sampling
from overt.errors import FormatError
from overt.models import defaults
from overt.models.defaults import Overlay, apply, build
from overt.settings import Settings

USER = Message.of("user", "hi")
SYSTEM = Message.of("system", "theirs")
SHOTS = (Message.of("user", "a"), Message.of("assistant", "b"))
OVER = Overlay(
    system="mine",
    messages=SHOTS,
    sampling=Sampling(temperature=0.5, top_k=10),
    stop=("X", "Y"),
    max_tokens=7,
)


def test_a_request_that_says_nothing_gets_everything() -> None:
    found = apply(OVER, Request("m", (USER,)))
    assert found.messages == (Message.of("system", "mine"), *SHOTS, USER)
    assert found.sampling == Sampling(temperature=0.5, top_k=10)
    assert found.stop == ("X", "Y")
    assert found.max_tokens == 7


def test_a_request_keeps_what_it_says() -> None:
    asked = Request(
        "m", (SYSTEM, USER), sampling=Sampling(temperature=0, seed=3), stop=("Z", "X"), max_tokens=9
    )
    found = apply(OVER, asked)
    assert found.messages == (SYSTEM, *SHOTS, USER)
    assert found.sampling == Sampling(temperature=0, top_k=10, seed=3)
    assert found.stop == ("Z", "X", "Y")
    assert found.max_tokens == 9


def test_a_bare_prompt_stays_bare() -> None:
    found = apply(OVER, Request("m", prompt="once upon"))
    assert (found.messages, found.prompt, found.max_tokens) == ((), "once upon", 7)


def test_nothing_over_the_weights_changes_nothing() -> None:
    asked = Request("m", (SYSTEM, USER), thinking=False, logprobs=2)
    assert apply(Overlay(), asked) == asked


def test_texts_become_an_overlay() -> None:
    found = build(
        {
            "system": "be kind",
            "parameters": json.dumps(
                {
                    "temperature": 1,
                    "top_k": -1,
                    "seed": -1,
                    "stop": ["a", "b"],
                    "num_ctx": 4096,
                    "num_predict": -2,
                    "num_thread": 3,
                    "num_gpu": 99,
                }
            ),
            "messages": json.dumps([{"role": "user", "content": "q"}]),
            "template": "{{ .Prompt }}",
        },
        (Path("lora.gguf"),),
    )
    assert found.system == "be kind"
    assert found.sampling == Sampling(temperature=1, top_k=0)
    assert (found.stop, found.context, found.threads) == (("a", "b"), 4096, 3)
    assert found.max_tokens is None
    assert found.messages == (Message.of("user", "q"),)
    assert found.adapters == (Path("lora.gguf"),)
    assert found.template
    assert "{%" in found.template
    assert found.notices == ()


def test_what_is_not_used_is_said() -> None:
    found = build({"parameters": '{"draft_num_predict": 2, "mirostat": 1}'})
    assert found.notices == (
        "draft_num_predict of this model's parameters is not used by this engine",
    )
    found = build({"template": "{{ .Content | shout }}"})
    assert found.template is None
    assert found.notices == (
        "the template has the field .Content of root, which Overt does not translate, so the "
        "template of the model's file is used",
    )
    found = build({}, renderer="qwen3")
    assert "qwen3 is a renderer inside Ollama" in found.notices[0]


def test_jinja_is_taken_as_it_stands() -> None:
    jinja = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert build({"template": jinja}).template == jinja


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": "{"},
        {"parameters": "[]"},
        {"parameters": '{"temperature": "hot"}'},
        {"parameters": '{"temperature": true}'},
        {"parameters": '{"num_ctx": 1.5}'},
        {"parameters": '{"stop": [1]}'},
        {"parameters": '{"stop": ""}'},
        {"parameters": "[" * 100_000},
        {"messages": "{}"},
        {"messages": '[{"role": "tool", "content": "x"}]'},
        {"messages": '[{"role": "user", "content": 1}]'},
        {"messages": "[1]"},
    ],
)
def test_damaged_parts_are_refused_in_one_sentence(texts: dict[str, str]) -> None:
    with pytest.raises(FormatError) as caught:
        build(texts)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_mutated_parts_are_read_or_refused() -> None:
    texts = {
        "parameters": '{"temperature": 0.5, "stop": ["a"], "num_ctx": 10, "seed": 4}',
        "messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]',
        "template": "{{ range .Messages }}{{ .Role }}{{ .Content }}{{ end }}",
    }
    pick, said = random.Random(11), []
    for _ in range(repeats(600, 1500)):
        role = pick.choice(list(texts))
        changed = list(texts[role])
        for _ in range(pick.randint(1, 4)):
            changed[pick.randrange(len(changed))] = pick.choice('{}[]",.:$ 0a-e|')
        try:
            found = build({**texts, role: "".join(changed)})
        except FormatError as error:
            said.append(str(error))
            continue
        apply(found, Request("m", (USER,)))
    assert 40 < len(said) < repeats(600, 1500)
    assert not any("\n" in text or len(text) > 300 for text in said)


def test_settings_keep_the_last_word() -> None:
    over = Overlay(context=4096, threads=2)
    assert defaults.settings(over, Settings(), 8192).context == 4096
    assert defaults.settings(over, Settings(), 2048).context == 2048
    assert defaults.settings(over, Settings(), None).context == 4096
    chosen = replace(Settings(), context=512, threads=1)
    assert defaults.settings(over, chosen, 8192) == chosen
    assert defaults.settings(Overlay(), Settings(), 8192) == Settings()
