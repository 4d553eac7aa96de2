"""Rendering and masking: the tokens are what the engine sees, and only answers are learnt.

The oracle is transformers: its mask of the assistant's tokens, by a template with
``{% generation %}`` around what SmolLM2's template writes for an answer, over the tokenizer that
the GGUF file holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overt.errors import BadRequest, FormatError
from overt.formats import gguf
from overt.lab.convert import tokenizer_files
from overt.lab.finetune import data, render, templates
from overt.lab.finetune.templates import ChatTemplate
from overt.lab.tokenizer import VocabularyWorker
from overt.models.defaults import Overlay
from overt.settings import Settings, load

ASK = {"role": "user", "content": "Hé, what is 2 + 2?\n"}
SAY = {"role": "assistant", "content": " Four — 4.\n\nYes"}
TALKS: list[list[dict[str, Any]]] = [
    [ASK, SAY],
    [{"role": "system", "content": "Be short."}, ASK, SAY],
    [ASK, SAY, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "\nSure 🙂"}],
]
MARKED = (
    "{%- for m in messages -%}"
    "{%- if loop.first and m.role != 'system' -%}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{%- endif -%}"
    "{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' -%}"
    "{%- generation -%}{{ m.content + '<|im_end|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ m.content + '<|im_end|>' }}{%- endif -%}{{ '\n' }}"
    "{%- endfor -%}"
)
SHORT = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}{{ eos_token }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}[assistant]\n{% endif %}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(environ={}, flags={"home": str(tmp_path_factory.mktemp("render"))})


@pytest.fixture(scope="module")
def words(smollm2_gguf: Path, home: Settings) -> Iterator[VocabularyWorker]:
    with VocabularyWorker(smollm2_gguf, home) as opened:
        yield opened


@pytest.fixture(scope="module")
def own(smollm2_gguf: Path, words: VocabularyWorker) -> ChatTemplate:
    return templates.choose(Overlay(), gguf.read(smollm2_gguf), words)


def read(folder: Path, *rows: object) -> data.Data:
    path = folder / "d.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return data.read(path)


def learnt(made: render.Rendered, words: VocabularyWorker) -> list[list[str]]:
    return [
        [one.text for one in render.spans_of(example, words) if one.learnt]
        for example in made.examples
    ]


def test_the_mask_is_transformers_own(
    smollm2_gguf: Path, words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    from transformers import PreTrainedTokenizerFast

    for name, content in tokenizer_files.files(gguf.read(smollm2_gguf)).items():
        (tmp_path / name).write_bytes(content)
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    made = render.render(read(tmp_path, *({"messages": one} for one in TALKS)), words, own, 512)
    for talk, example in zip(TALKS, made.examples, strict=True):
        found = oracle.apply_chat_template(
            talk, chat_template=MARKED, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        assert example.ids == found["input_ids"]
        assert example.labels == [bool(one) for one in found["assistant_masks"]]


def test_what_is_learnt_is_the_answer_and_its_end(
    words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    made = render.render(read(tmp_path, *({"messages": one} for one in TALKS)), words, own, 512)
    assert learnt(made, words) == [
        [" Four — 4.\n\nYes<|im_end|>"],
        [" Four — 4.\n\nYes<|im_end|>"],
        [" Four — 4.\n\nYes<|im_end|>", "\nSure 🙂<|im_end|>"],
    ]
    assert not made.left
    assert not made.told


def test_system_text_of_the_model_goes_before(words: VocabularyWorker, tmp_path: Path) -> None:
    template = ChatTemplate(SHORT + PROMPT, own=True, system="S!")
    made = render.render(read(tmp_path, {"messages": [ASK, SAY]}), words, template, 512)
    text = words.decode(made.examples[0].ids)
    assert text.startswith("[system]\nS!")


def test_a_template_that_writes_no_prompt_for_an_answer(
    words: VocabularyWorker, tmp_path: Path
) -> None:
    made = render.render(
        read(tmp_path, {"messages": [ASK, SAY]}), words, ChatTemplate(SHORT, True), 99
    )
    assert learnt(made, words) == [["[assistant]\n Four — 4.\n\nYes<|im_end|>"]]


def test_a_template_that_rewrites_what_was_said(words: VocabularyWorker, tmp_path: Path) -> None:
    shorter = (
        "{% for m in messages %}[{{ m.role }}]\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content[:3] + m.content[-2:] }}"
        "{{ eos_token }}{% endfor %}" + PROMPT
    )
    long = {"role": "assistant", "content": "One two three"}
    made = render.render(
        read(tmp_path, {"messages": [ASK, {**long, "content": "One"}, ASK, long]}),
        words, ChatTemplate(SHORT + PROMPT, True), 99,
    )  # fmt: skip
    assert learnt(made, words) == [["One<|im_end|>", "One two three<|im_end|>"]]
    with pytest.raises(FormatError, match="has a turn of the assistant that the chat template lea"):
        render.render(
            read(tmp_path, {"messages": [ASK, long, ASK, SAY]}),
            words,
            ChatTemplate(shorter, True),
            99,
        )
    thinks = (
        "{% for m in messages %}[{{ m.role }}]\n{{ '(hm)' if loop.last and m.role == 'assistant' }}"
        "{{ m.content }}{{ eos_token }}{% endfor %}" + PROMPT
    )
    made = render.render(
        read(tmp_path, {"messages": [ASK, long, ASK, SAY]}), words, ChatTemplate(thinks, True), 99
    )
    assert learnt(made, words) == [["(hm) Four — 4.\n\nYes<|im_end|>"]]
    assert made.told[render.LAST] == 1


def test_a_prompt_that_chats_do_not_have(words: VocabularyWorker, tmp_path: Path) -> None:
    template = ChatTemplate(
        SHORT + "{% if add_generation_prompt %}[assistant]\n<think>{% endif %}", True
    )
    made = render.render(read(tmp_path, {"messages": [ASK, SAY, ASK, SAY]}), words, template, 99)
    assert learnt(made, words) == [[" Four — 4.\n\nYes<|im_end|>"] * 2]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"messages": [ASK, SAY], "tools": [{"function": {"name": "add_up"}}]},
            "has tools, and the model's chat template shows none",
        ),
        (
            {
                "messages": [
                    ASK,
                    {"role": "assistant", "tool_calls": [{"function": {"name": "add_up"}}]},
                    {"role": "tool", "content": "3"},
                    SAY,
                ]
            },
            "calls a tool, and the model's chat template shows no calls",
        ),
    ],
)
def test_tools_of_a_model_that_knows_none(
    row: object, sentence: str, words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=f"^line 2 of .* {sentence}"):
        render.render(read(tmp_path, {"messages": [ASK, SAY]}, row), words, own, 512)


def test_tools_of_a_model_that_knows_them(words: VocabularyWorker, tmp_path: Path) -> None:
    template = ChatTemplate(
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]\n"
        "{{ m.content }}{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}"
        "{{ eos_token }}{% endfor %}" + PROMPT,
        own=True,
    )
    row = {
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "messages": [
            ASK,
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
            {"role": "tool", "content": "4"},
            SAY,
        ],
    }
    made = render.render(read(tmp_path, row), words, template, 512)
    assert learnt(made, words) == [
        ['{"name": "add", "arguments": {}}<|im_end|>', " Four — 4.\n\nYes<|im_end|>"]
    ]


def test_a_template_that_refuses_says_where(words: VocabularyWorker, tmp_path: Path) -> None:
    template = ChatTemplate("{{ raise_exception('no system here') }}", own=True)
    with pytest.raises(FormatError, match=r"^line 1 of .*: the chat template says: no system here"):
        render.render(read(tmp_path, {"messages": [ASK, SAY]}), words, template, 512)


def test_what_is_too_long_is_left_out_and_counted(
    words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    rows = [{"messages": [ASK, SAY]}, {"messages": [ASK, {**SAY, "content": "long " * 200}]}]
    made = render.render(read(tmp_path, *rows), words, own, 128)
    assert (len(made.examples), made.left[render.LONG]) == (1, 1)
    with pytest.raises(FormatError, match=r"the one row of .* is left out: longer than"):
        render.render(read(tmp_path, rows[0]), words, own, 9)


def test_text_is_cut_and_nothing_of_it_is_lost(
    words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    text = "All the world's a stage. " * 40
    made = render.render(read(tmp_path, {"text": text}), words, own, 32)
    assert words.decode([id for one in made.examples for id in one.ids]) == text + "<|im_end|>"
    assert all(len(one.ids) <= 32 and one.labels[0] is False for one in made.examples)
    assert made.told[render.CUT] == 1


def test_without_a_template(gemma3_gguf: Path, home: Settings, tmp_path: Path) -> None:
    with VocabularyWorker(gemma3_gguf, home) as words:
        header = gguf.read(gemma3_gguf)
        none = templates.choose(Overlay(), header, words)
        assert none.text == ""
        made = render.render(
            read(tmp_path, {"prompt": "2 + 2 =", "completion": " 4"}), words, none, 64
        )
        assert words.decode(made.examples[0].ids) == "<bos>2 + 2 = 4<eos>"
        assert learnt(made, words) == [[" 4<eos>"]]
        with pytest.raises(FormatError, match="no chat template") as caught:
            render.render(read(tmp_path, {"messages": [ASK, SAY]}), words, none, 64)
        assert "--template gemma" in str(caught.value)
        with pytest.raises(BadRequest, match=r"<\|im_end\|> is no token"):
            templates.choose(Overlay(), header, words, "chatml")
        for name, end in (("gemma", "<end_of_turn>"), ("plain", "<eos>")):
            template = templates.choose(Overlay(), header, words, name)
            made = render.render(read(tmp_path, {"messages": TALKS[2]}), words, template, 128)
            # what begins with a line break is one token with that of the template
            assert learnt(made, words) == [[f" Four — 4.\n\nYes{end}", f"Sure 🙂{end}"]]
            assert made.told == {render.JOINED: 1}
            assert words.decode(made.examples[0].ids).count("<bos>") == 1


def test_pairs_share_their_prompt(
    words: VocabularyWorker, own: ChatTemplate, tmp_path: Path
) -> None:
    row = {"prompt": "Q", "chosen": "Good one", "rejected": "Bad"}
    (pair,) = render.render(read(tmp_path, row), words, own, 128).pairs
    assert words.decode(pair.prompt).endswith(
        "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    )
    assert words.decode(pair.chosen) == "Good one<|im_end|>"
    assert words.decode(pair.rejected) == "Bad<|im_end|>"
