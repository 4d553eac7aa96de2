"""Chat templates are looked at and tried in a sandbox; what escapes or runs away is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from overt.errors import FormatError
from overt.formats import subprocess_reader, template
from overt.formats.template import TemplateReport, check, render

CHATML = """{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}
{{- '<|im_end|>' + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""  # noqa: E501

PROPER = {
    "chatml": CHATML,
    "no system": "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "namespace": "{% set ns = namespace(found=false) %}{% for m in messages %}"
    "{% set ns.found = true %}{% endfor %}{{ ns.found }}",
    "date": "{{ strftime_now('%d %b %Y') }}",
    "json": "{{ messages | tojson(indent=2) }}{{ messages[0] | tojson }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "select": "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "slices": "{{ messages[::-1][0]['content'][:3] }}{{ messages[0].get('tools') is none }}",
}


@pytest.mark.parametrize("text", PROPER.values(), ids=PROPER)
def test_a_proper_template_passes(text: str) -> None:
    assert check(text) == TemplateReport((), None)


@pytest.mark.parametrize(
    ("text", "escape"),
    [
        ("{{ ''.__class__.__mro__ }}", "inner attribute __class__"),
        ("{{ messages['__class__'] }}", "inner name '__class__'"),
        ("{{ messages[('_'*2) ~ 'class' ~ '__'] }}", "inner item '_'"),
        ("{{ messages | attr('\\x5f\\x5fclass\\x5f\\x5f') }}", "computed name (|attr)"),
        ("{{ messages | map(attribute='_x.y') | list }}", "inner item '_x.y'"),
        ("{% include '/etc/passwd' %}", "line 1 loads another template"),
        ("\n{% import 'x' as y %}", "line 2 loads another template"),
        ("{{ '{0.__class__}'.format(messages) }}", "__class__"),
        ("{{ messages.append(1) }}", "the sandbox forbids"),
        ("{{ self._TemplateReference__context }}", "inner attribute _TemplateReference__context"),
        (
            "{% for x in ().__class__.__base__.__subclasses__() %}"
            "{% if 'warning' in x.__name__ %}"
            "{{ x()._module.__builtins__['__import__']('os').popen('touch /tmp/x') }}"
            "{% endif %}{% endfor %}",
            "inner attribute __subclasses__",
        ),
    ],
)
def test_what_a_way_out_of_the_sandbox_needs_is_named(text: str, escape: str) -> None:
    found = check(text)
    assert not found.ok
    assert any(escape in one for one in found.escapes), found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "2 s"),
        ("{{ 10 ** (10 ** 10) }}", "2 s"),
        ("{{ 'a' * 10 ** 11 }}", "memory"),
        ("{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}", "more than 1 MiB"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("{{ nothing.of.that }}", "undefined"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('never') }}", "never"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_runs_away_or_fails_is_told_with_its_reason(text: str, reason: str) -> None:
    found = check(text)
    assert found.failed is not None
    assert reason in found.failed


def test_a_template_that_is_too_long_is_not_read() -> None:
    found = check("a" * (template.MAX_TEMPLATE + 1))
    assert found.failed is not None
    assert "more than 1048576" in found.failed


def test_rendering_gives_the_text_or_one_sentence() -> None:
    values = {"messages": [{"role": "user", "content": "Grüße <b>"}], "tools": None}
    assert render(CHATML, values) == (
        "<|im_start|>user\nGrüße <b><|im_end|>\n<|im_start|>assistant\n"
    )
    assert "assistant" not in render(CHATML, {**values, "add_generation_prompt": False})
    with pytest.raises(FormatError, match="cannot be rendered: Expected an expression"):
        render("{% if %}", values)
    with pytest.raises(FormatError, match="stopped: it took more than"):
        render("{{ 'a' * 10 ** 11 }}", values)


def test_a_reader_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(subprocess_reader.Exceeded, match="the process that read it ended with 1"):
        subprocess_reader.run("overt.formats.no_such_module", {}, 2)


def test_the_reader_can_open_nothing(tmp_path: Path) -> None:
    """Even code that got out of Jinja's sandbox finds no file and no socket to open."""
    code = (
        "import socket\n"
        "from overt.formats import subprocess_reader as confined, template\n"
        "def reply(question):\n"
        "    found = []\n"
        "    for attempt in (lambda: open('/etc/passwd'), lambda: socket.socket()):\n"
        "        try:\n"
        "            attempt()\n"
        "            found.append('open')\n"
        "        except OSError as error:\n"
        "            found.append(error.strerror)\n"
        "    return found\n"
        "confined.serve(reply)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "5"], input=b"{}", capture_output=True, check=True
    )
    assert json.loads(ran.stdout) == {"answer": ["Too many open files", "Too many open files"]}


def test_the_reader_knows_nothing_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    seen: dict[str, dict[str, str]] = {}
    popen = subprocess_reader.subprocess.Popen

    def watched(*arguments: object, **options: object) -> object:
        seen.update(options)  # type: ignore[arg-type]
        return popen(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess_reader.subprocess, "Popen", watched)
    assert check(CHATML).ok
    assert set(seen["env"]) <= {"PATH", "LD_LIBRARY_PATH"}


def test_a_name_that_is_put_together_is_refused_in_the_trial_run() -> None:
    found = check("{% set a = '__cl' + 'ass__' %}{{ messages[a] }}")
    assert any("reads '__class__' of list" in one for one in found.escapes)
    assert check("{{ messages[0]['nothing'] }}{{ messages[0].name }}") == TemplateReport((), None)
