"""Chat templates that show what was said otherwise than it was said, and turns that are not learnt.

The two texts are written after those of Llama 3.1 and Qwen 3, shorter: the one writes results of
tools with ``tojson``, the other cuts thoughts out of older answers. The oracle of the masks is
transformers, over the tokenizer that the GGUF file holds.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overt.chat import Message
from overt.errors import BadRequest, FormatError
from overt.formats import gguf
from overt.lab.convert import tokenizer_files
from overt.lab.finetune import data, render, templates
from overt.lab.finetune.templates import ChatTemplate
from overt.lab.tokenizer import VocabularyWorker
from overt.models.defaults import Overlay
from overt.settings import Settings, load

LLAMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|system|>\n" }}
{%- if tools is defined and tools is not none %}
    {{- "Environment: ipython\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|im_end|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|' + message['role'] + '|>\n\n'+ message['content'] | trim + '<|im_end|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|assistant|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|im_end|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|ipython|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|im_end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>\n\n' }}
{%- endif %}
"""
QWEN = """{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n') %}
            {%- set reasoning_content = reasoning_content.split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' }}
        {%- endif %}
        {{- content.lstrip('\n') + '<|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
R1 = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]<think>\n{% endif %}"
)
CHATML = templates.NAMED["chatml"]
MARKED = (
    "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and m.learn is not defined -%}"
    "{%- generation -%}{{ m.content + '<|im_end|>' }}{%- endgeneration -%}"
    "{%- else -%}{{ m.content + '<|im_end|>' }}{%- endif -%}{{ '\n' }}"
    "{%- endfor -%}"
)
ASK = {"role": "user", "content": "What is 2 + 2?"}
SAY = {"role": "assistant", "content": "Four."}
SURE = {"role": "assistant", "content": "Quite sure."}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(environ={}, flags={"home": str(tmp_path_factory.mktemp("templates"))})


@pytest.fixture(scope="module")
def words(smollm2_gguf: Path, home: Settings) -> Iterator[VocabularyWorker]:
    with VocabularyWorker(smollm2_gguf, home) as opened:
        yield opened


def rendered(
    folder: Path,
    words: VocabularyWorker,
    template: str | ChatTemplate,
    *rows: object,
    length: int = 512,
) -> render.Rendered:
    path = folder / "d.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    chosen = template if isinstance(template, ChatTemplate) else ChatTemplate(template, own=True)
    return render.render(data.read(path), words, chosen, length)


def learnt(made: render.Rendered, words: VocabularyWorker) -> list[list[str]]:
    return [
        [one.text for one in render.spans_of(example, words) if one.learnt]
        for example in made.examples
    ]


RESULTS = ['{"a": 1}', "two\nlines\t", 'a \\ and "quotes"', "née 🙂\n", "[1, 2]", "plain"]


@pytest.mark.parametrize("result", RESULTS)
def test_results_of_tools_as_json(result: str, words: VocabularyWorker, tmp_path: Path) -> None:
    row = {
        "tools": [{"type": "function", "function": {"name": "add"}}],
        "messages": [
            ASK,
            {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]},
            {"role": "tool", "content": result},
            SAY,
        ],
    }
    made = rendered(tmp_path, words, LLAMA, row)
    assert learnt(made, words) == [
        ['{"name": "add", "parameters": {}}<|im_end|>', "Four.<|im_end|>"]
    ]
    assert not made.told
    hidden = LLAMA.replace("{{- message.content | tojson }}", "{{- 'none' }}")
    with pytest.raises(FormatError, match="a turn of the tool that the chat template leaves out"):
        rendered(tmp_path, words, hidden, row)


def test_thoughts_of_older_answers_are_cut(words: VocabularyWorker, tmp_path: Path) -> None:
    first = {**SAY, "content": "<think>\nEasy.\n</think>\n\nFour."}
    second = {**SURE, "content": "<think>They ask\nagain.</think>Quite sure."}
    made = rendered(
        tmp_path, words, QWEN,
        {"messages": [ASK, first]},
        {"messages": [ASK, first, ASK, second]},
        {"messages": [ASK, {**SAY, "reasoning_content": "Easy."}, ASK, SURE]},
        {"messages": [ASK, second]},
    )  # fmt: skip
    assert learnt(made, words) == [
        ["<think>\nEasy.\n</think>\n\nFour.<|im_end|>"],
        ["<think>\nThey ask\nagain.\n</think>\n\nQuite sure.<|im_end|>"],
        ["<think>\n\n</think>\n\nQuite sure.<|im_end|>"],
        ["<think>\nThey ask\nagain.\n</think>\n\nQuite sure.<|im_end|>"],
    ]
    assert made.told == {render.LAST: 2, render.THOUGHT: 2}
    assert "Easy" not in words.decode(made.examples[1].ids)


def test_thoughts_that_a_template_never_shows_are_told(
    words: VocabularyWorker, tmp_path: Path
) -> None:
    row = {"messages": [ASK, {**SAY, "content": "<think>\nEasy.\n</think>\n\nFour."}]}
    made = rendered(tmp_path, words, R1, row)
    assert [one[0].strip() for one in learnt(made, words)] == ["Four.<|im_end|>"]
    assert made.told[render.THOUGHT] == 1
    made = rendered(tmp_path, words, CHATML, {"messages": [ASK, {**SAY, "reasoning_content": "E"}]})
    assert made.told == {render.THOUGHT: 1}


def test_turns_that_are_not_learnt(
    smollm2_gguf: Path, words: VocabularyWorker, tmp_path: Path
) -> None:
    """Held against transformers: read as the others are, and without a mark."""
    from transformers import PreTrainedTokenizerFast

    for name, content in tokenizer_files.files(gguf.read(smollm2_gguf)).items():
        (tmp_path / name).write_bytes(content)
    oracle = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    talks = [
        [ASK, {**SAY, "weight": 0}, ASK, {**SURE, "weight": 1}],
        [{**ASK, "weight": 0}, {**SAY, "train": False}, ASK, SURE, ASK, {**SAY, "train": True}],
        [ASK, SAY, ASK, {**SURE, "weight": 0}],
    ]
    made = rendered(tmp_path, words, CHATML, *({"messages": one} for one in talks))
    for talk, example in zip(talks, made.examples, strict=True):
        marked = [
            {**one, "learn": 0} if one.get("weight", one.get("train", 1)) == 0 else one
            for one in talk
        ]
        found = oracle.apply_chat_template(
            marked, chat_template=MARKED, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True,
        )  # fmt: skip
        count = len(example.ids)  # what comes after the last answer that is learnt is not read
        assert example.ids == found["input_ids"][:count]
        mask = [bool(one) for one in found["assistant_masks"]]
        assert example.labels == mask[:count]
        assert not any(mask[count:])
        assert any(example.labels)
    assert not made.told
    rows = [{"messages": [ASK, {**SAY, "weight": 0}]}, {"messages": [ASK, SAY]}]
    made = rendered(tmp_path, words, CHATML, *rows)
    assert (len(made.examples), made.left) == (1, {render.NOTHING: 1})
    with pytest.raises(FormatError, match=r"the one row of .* is left out: without anything"):
        rendered(tmp_path, words, CHATML, rows[0])


def test_turns_of_the_model_itself_are_not_learnt(words: VocabularyWorker, tmp_path: Path) -> None:
    """A Modelfile's MESSAGE lines stand in every row, and the model says so already."""
    shots = Overlay(messages=(Message.of("user", "Shot?"), Message.of("assistant", "Shown.")))
    header = gguf.GgufHeader(Path(), 3, {"tokenizer.chat_template": CHATML}, (), 0, 0, 0)
    template = templates.choose(shots, header, words)
    system = {"role": "system", "content": "Be short."}
    rows = [{"messages": [ASK, SAY]}, {"messages": [system, ASK, SAY, ASK, SURE]}]
    made = rendered(tmp_path, words, template, *rows)
    assert [words.decode(one.ids).count("Shown.<|im_end|>") for one in made.examples] == [1, 1]
    assert learnt(made, words) == [
        ["Four.<|im_end|>"], ["Four.<|im_end|>", "Quite sure.<|im_end|>"],
    ]  # fmt: skip


def test_of_a_pair_the_last_answers_are_compared(words: VocabularyWorker, tmp_path: Path) -> None:
    """The same prompt, whichever way the row holds it."""
    shared = [ASK, SAY, {"role": "user", "content": "Sure?"}]
    bad = {**SURE, "content": "No."}
    told = [{"from": {"user": "human"}.get(one["role"], "gpt"), "value": one["content"]}
            for one in (*shared, SURE, bad)]  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"prompt": shared, "chosen": [SURE], "rejected": [bad]},
        {"chosen": [*shared, SURE], "rejected": [*shared, bad]},
        {"prompt": "Sure?", "chosen": [*shared, SURE], "rejected": [*shared, bad]},
        {"conversations": told[:3], "chosen": told[3], "rejected": told[4]},
        {"input": {"messages": shared}, "preferred_output": [SURE], "non_preferred_output": [bad]},
    ]
    made = rendered(tmp_path, words, CHATML, *rows)
    assert len({(*one.prompt, -1, *one.chosen, -1, *one.rejected) for one in made.pairs}) == 1
    pair = made.pairs[0]
    assert words.decode(pair.prompt).endswith("Sure?<|im_end|>\n<|im_start|>assistant\n")
    assert words.decode(pair.chosen) == "Quite sure.<|im_end|>"
    assert words.decode(pair.rejected) == "No.<|im_end|>"


def test_what_is_true_of_a_row_is_told_once(words: VocabularyWorker, tmp_path: Path) -> None:
    endless = CHATML.replace("<|im_end|>", "<end>")
    rows = [{"prompt": "Q", "chosen": "Good one", "rejected": "Bad"}] * 2
    made = rendered(tmp_path, words, endless, *rows)
    assert made.told == {render.ENDLESS: 2}


def test_why_nothing_is_left(words: VocabularyWorker, tmp_path: Path) -> None:
    long = {"messages": [ASK, {**SAY, "content": "long " * 200}]}
    rows = [long, long, {"messages": [ASK, {**SAY, "weight": 0}]}]
    path = tmp_path / "held.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    read, template = data.read(path), ChatTemplate(CHATML, own=True)
    for length, most, hint in (
        (64, 0, "give more tokens: --length 128"),
        (64, 100, "give more tokens: --length 100"),
        (64, 64, "the model reads no more: cut the rows, or choose another model"),
    ):
        with pytest.raises(FormatError) as caught:
            render.render(read, words, template, length, most)
        assert caught.value.message.endswith(
            "held.jsonl are left out: 2 longer than the sequence of 64 tokens, "
            "1 without anything to learn"
        )
        assert caught.value.message.startswith("all 3 rows of ")
        assert caught.value.hint == hint


def test_a_long_text_goes_over_in_parts(
    words: VocabularyWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_PART", 1000)
    texts = ["Ein Absatz hat Ende.\n\n" * 150, "x" * 2500, "Zeile\n" * 400, "wörter " * 400]
    for text in texts:
        whole = rendered(tmp_path, words, CHATML, {"text": text}, length=400)
        assert words.decode([id for one in whole.examples for id in one.ids]) == text + "<|im_end|>"
        assert whole.told == {render.CUT: 1}
        assert all(len(one.ids) <= 400 for one in whole.examples)
    parts = [one.found.text for one in render._parts(data.DataLine(1, "", None), texts[0])]  # type: ignore[arg-type]
    assert all(one.endswith("Ende.\n\n") and len(one) <= 1000 for one in parts)


def test_a_row_of_many_megabytes_is_left_out(
    words: VocabularyWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_MAX_ROW", 1000)
    rows = [{"messages": [ASK, {**SAY, "content": "long " * 200}]}, {"messages": [ASK, SAY]}]
    made = rendered(tmp_path, words, CHATML, *rows)
    assert (len(made.examples), made.left) == (1, {render.HUGE: 1})


class Marks:
    """A vocabulary that has some marks as tokens; the last of them ends an answer."""

    def __init__(self, *marks: str) -> None:
        self.known = {mark: id for id, mark in enumerate(marks)}
        self.ends, self.eos = frozenset({len(marks) - 1}), len(marks) - 1

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[self.known[one]] if one in self.known else [7, 8] for one in texts]


HEADS = ("<|start_header_id|>", "<|end_header_id|>")


@pytest.mark.parametrize(
    ("marks", "fits", "lacking"),
    [
        (("<|im_start|>", "<|im_end|>"), "chatml", "<|eot_id|> is no token of this model that"),
        ((*HEADS, "<|eot_id|>"), "llama3", ""),
        ((HEADS[1], "<|eot_id|>"), "plain", "<|start_header_id|> is no token of this model"),
        ((*HEADS, "<|eot_id|>", "</s>"), "plain", "<|eot_id|> is no token of this model that"),
        (("[INST]", "[/INST]", "</s>"), "mistral", "<|eot_id|> is no token of this model that"),
        (("[INST]", "</s>"), "plain", "<|eot_id|> is no token of this model that"),
    ],
)
def test_which_template_fits(marks: tuple[str, ...], fits: str, lacking: str) -> None:
    words: Any = Marks(*marks)
    assert templates.fit(words) == fits
    header = gguf.GgufHeader(Path(), 3, {}, (), 0, 0, 0)
    if not lacking:
        assert not templates.choose(Overlay(), header, words, "llama3").own
        return
    with pytest.raises(BadRequest) as caught:
        templates.choose(Overlay(), header, words, "llama3")
    assert caught.value.message.startswith(lacking)
    assert caught.value.hint == f"type --template {fits}"


WRITTEN = {
    "llama3": (
        "<|im_start|><|start_header_id|>system<|end_header_id|>\n\nBe short.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nFour.<|eot_id|>",
        "Four.<|eot_id|>",
    ),
    "mistral": (
        "<|im_start|>[INST] Be short.\n\nWhat is 2 + 2?[/INST] Four.<|im_end|>",
        " Four.<|im_end|>",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_templates_for_others_write(
    name: str, words: VocabularyWorker, tmp_path: Path
) -> None:
    template = ChatTemplate(templates.NAMED[name], own=False)
    system = {"role": "system", "content": "Be short."}
    made = rendered(tmp_path, words, template, {"messages": [system, ASK, SAY]})
    text, answer = WRITTEN[name]
    assert words.decode(made.examples[0].ids) == text
    assert learnt(made, words) == [[answer]]
