"""Go templates as Jinja: both are rendered, and the texts are the same.

``go_templates.json`` holds templates that use each construct, conversations, and what Go itself
makes of them: Go 1.24's text/template with the values and functions that Ollama gives a template,
run once when the file was written. Here the Jinja is rendered by Jinja and by llama.cpp.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gguf_writer import write_llama
from overt.errors import FormatError
from overt.formats.gosyntax import MAX_CHARACTERS
from overt.formats.gotemplate import to_jinja

HERE = Path(__file__).resolve().parent
DATA = json.loads((HERE / "go_templates.json").read_text("utf-8"))


def runs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Name, template, and one run with its conversation and tools looked up."""
    for item in DATA["templates"]:
        for run in item["runs"]:
            found = dict(run, messages=DATA["conversations"][run["messages"]])
            if "tools" in run:
                found["tools"] = DATA["conversations"][run["tools"]]
            yield item["name"], item["template"], found


def render(jinja: str, run: dict[str, Any]) -> str:
    """As the libraries do that render chat templates, with arguments as llama.cpp passes them."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def tojson(value: object, separators: tuple[str, str] | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, separators=separators)

    environment.filters["tojson"] = tojson
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    messages = json.loads(json.dumps(run["messages"]))
    for message in messages:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    given = {"messages": messages, "tools": run.get("tools"), "add_generation_prompt": True}
    if "think" in run:
        given |= {"enable_thinking": run["think"], "reasoning_effort": run.get("level", "")}
    return environment.from_string(jinja).render(given)


@pytest.mark.parametrize(
    ("template", "run"),
    [pytest.param(t, r, id=f"{n}-{i}") for i, (n, t, r) in enumerate(runs())],
)
def test_jinja_renders_what_go_renders(template: str, run: dict[str, Any]) -> None:
    assert render(to_jinja(template), run) == run["text"]


def test_llamacpp_renders_what_go_renders(tmp_path: Path) -> None:
    write_llama(tmp_path / "tiny.gguf")
    asked: dict[str, list[dict[str, Any]]] = {}
    expected: dict[str, list[str]] = {}
    for _, template, run in runs():
        # An answer that has begun is llama.cpp's own business, and it always says whether to think.
        if run["messages"][-1]["role"] == "assistant":
            continue
        if "Think" in template and "think" not in run:
            continue
        body: dict[str, Any] = {"messages": run["messages"]}
        if "tools" in run:
            body["tools"] = run["tools"]
        if "think" in run:
            body["chat_template_kwargs"] = {
                "enable_thinking": run["think"],
                "reasoning_effort": run.get("level", ""),
            }
        asked.setdefault(template, []).append(body)
        expected.setdefault(template, []).append(run["text"])
    work = [[to_jinja(template), bodies] for template, bodies in asked.items()]
    script = HERE.parent / "llamacpp_render.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "tiny.gguf"],
        input=json.dumps(work), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == list(expected.values())


def test_the_date() -> None:
    jinja = to_jinja('{{ currentDate }} {{ currentDate "2006" }}{{ .Prompt }}')
    before = datetime.now().strftime("%Y-%m-%d")
    found = render(jinja, {"messages": [{"role": "user", "content": "?"}]})
    after = datetime.now().strftime("%Y-%m-%d")
    assert found in (f"{before} {before}?", f"{after} {after}?")


def test_only_what_a_template_uses_is_named_in_it() -> None:
    """The exchange reads from these words what a model can do."""
    plain = to_jinja("{{ range .Messages }}{{ .Role }}{{ .Content }}{{ end }}")
    assert "tools" not in plain
    assert "think" not in plain
    assert "tools" in to_jinja("{{ if .Tools }}{{ .Messages }}{{ end }}")
    assert "think" in to_jinja("{{ if .Think }}{{ .Prompt }}{{ end }}")


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}]
    run = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": None}]}
    jinja = to_jinja("{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}")
    assert render(jinja, run) == "<user>ab<assistant>"


def test_arguments_that_are_still_text_are_printed_as_they_stand() -> None:
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    jinja = to_jinja(
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments }}{{ end }}{{ end }}"
    )
    environment = ImmutableSandboxedEnvironment()
    given = {"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}
    assert environment.from_string(jinja).render(given) == '{"a": 1}'


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ shout .Prompt }}", "the function shout"),
        ("{{ yesterdayDate }}", "the function yesterdayDate"),
        ("{{ .Prompt | html }}", "the function html"),
        ("{{ .Nonsense }}", "the field .Nonsense of root"),
        ("{{ range .Messages }}{{ .System }}{{ end }}", "the field .System of message"),
        ("{{ .Prompt.Length }}", "the field .Length of str"),
        ('{{ define "x" }}{{ end }}', "{{ define }}"),
        ('{{ template "x" . }}', "{{ template }}"),
        ('{{ block "x" . }}{{ end }}', "{{ block }}"),
        ("{{ range .Prompt }}{{ end }}", "a range over str"),
        ("{{ range 5 }}{{ end }}", "a range over int"),
        ("{{ index .Prompt 1 }}", "an index of str"),
        ('{{ printf "%q" .Prompt }}', "%q in a printf"),
        ('{{ printf "%5d" 1 }}', "%5 in a printf"),
        ('{{ printf "%s" }}', "%s in a printf"),
        ('{{ printf "" 1 }}', "more values"),
        ("{{ printf .Prompt 1 }}", "whose form is no plain text"),
        ("{{ .Prompt 1 }}", "a value with arguments"),
        ("{{ . }}", "the whole of what it is given"),
        ("{{ 1.5 }}", "the number 1.5"),
        ("{{ $x }}", "the variable $x, which it never sets"),
        ("{{ $x = 1 }}", "the variable $x, which it never sets"),
        ("{{ if .Prompt }}{{ $x := 1 }}{{ end }}{{ $x }}", "the variable $x, which it never sets"),
        ("{{ len }}", "calls len with 0 values"),
        ("{{ if .Prompt }}", "without its {{ end }}"),
        ("{{ end }}", "without a beginning"),
        ("{{ else }}", "without a beginning"),
        ("{{ if .Prompt }}{{ else }}{{ else }}{{ end }}", "without its {{ end }}"),
        ("{{ break }}", "break in a place where it cannot stand"),
        ("{{ range .Messages }}{{ else }}{{ continue }}{{ end }}", "continue in a place"),
        ("{{ .Prompt", "no }} at its end"),
        ('{{ "open }}', "inside {{ }}"),
        ("{{ (.Prompt }}", "a ( without its )"),
        ("{{ .Prompt ) }}", "')' in a place where it cannot stand"),
        ("{{ | }}", "an empty command"),
        ("{{ $a, $b := .Prompt }}", "2 variables at once"),
        ('{{ "\\q" }}', "the escape"),
        ("{{ /* a */ }}", "inside {{ }}"),
        ("{{/* a */ .Prompt }}", "a comment that shares its braces"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(template: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        to_jinja(template)
    assert said in caught.value.message
    assert caught.value.message.startswith("the template ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{{ if .Prompt }}" * 5000,
        "{{ " + "(" * 50_000,
        "{{ if .Prompt }}a{{ else " * 5000,
        "{{ " + "| " * 100_000 + "}}",
        "{{ " + ".Prompt " * 200_000 + "}}",
        "x" * (MAX_CHARACTERS + 1),
        "{{ printf " + '"' + "%s" * 400_000 + '" }}',
        "{{ range .Messages }}" * 90 + "{{ continue }}x" * 4000 + "{{ end }}" * 90,
        "{{ " + "9" * 100_000 + " }}",
        "{{" * 400_000,
        "{{ " + "print (or .System (" * 45 + ".Prompt" + "))" * 45 + " }}",
        "{{ " + "eq 1 1 (" * 90 + "true" + ")" * 90 + " }}",
        "{{ " + "(eq " * 90 + "1" + " 1 1)" * 90 + " }}",
        "{{/*" * 200_000,
        "{{ with .Prompt }}" * 99 + "\\" * 400_000 + "{{ end }}" * 99,
    ],
    ids=lambda text: text[:20],
)
def test_large_templates_take_little_time(template: str) -> None:
    begun = time.process_time()
    said = ""
    try:
        to_jinja(template)
    except FormatError as error:
        said = str(error)
    assert len(said) < 300
    assert time.process_time() - begun < 5


def test_mutated_templates_become_jinja_or_a_sentence() -> None:
    environment = ImmutableSandboxedEnvironment()
    pick, said = random.Random(7), []
    known = [item["template"] for item in DATA["templates"]]
    pieces = ["{{", "}}", "-}}", "{{-", "end", "else", "range", ".Messages", "$x", ":=", '"', "|",
              "(", ")", " ", "\\", "`", "/*", "continue", "if", "%"]  # fmt: skip
    made = 0
    for _ in range(4000):
        text = pick.choice(known)
        for _ in range(pick.randint(1, 3)):
            place = pick.randrange(len(text))
            match pick.randrange(3):
                case 0:
                    text = text[:place] + pick.choice(pieces) + text[place:]
                case 1:
                    text = text[:place] + text[place + pick.randint(1, 12) :]
                case 2:
                    text = text[:place] + pick.choice(known)[place:]
            text = text or "x"
        try:
            jinja = to_jinja(text)
        except FormatError as error:
            said.append(str(error))
            continue
        made += 1
        environment.parse(jinja)  # whatever comes out is Jinja
    assert made > 200
    assert len(said) > 200
    assert not any("\n" in text or len(text) > 300 for text in said)
