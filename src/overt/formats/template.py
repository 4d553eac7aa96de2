"""Chat templates: programs in Jinja that come with a model, written by nobody one knows.

The engine renders them in its worker, which has no network and sees no files. Here a template is
looked at before anybody trusts it: its syntax tree for what a way out of Jinja's sandbox needs, and
a trial run in that sandbox, in a process of its own with limits of time, memory and output.

Sources: jinja2.sandbox (what the sandbox forbids), transformers' chat_template_utils.py (the names
a template may use), CVE-2024-34359 and CVE-2025-27516 (templates that escaped).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from overt.errors import FormatError
from overt.formats import subprocess_reader

if TYPE_CHECKING:
    from jinja2 import Environment, nodes

MAX_TEMPLATE: Final = 1 << 20
"""Characters; the largest known has 30 000."""
_SECONDS = 2
_OUTPUT = 1 << 20
_FOUND = 20
_HIDDEN = re.compile(r"__\w+__|\A_|\._")  # in a text: an inner attribute, or a part of its name
_SAMPLES: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Hello"}]},
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello to you."},
            {"role": "user", "content": "Goodbye"},
        ]
    },
)


@dataclass(frozen=True, slots=True)
class TemplateReport:
    """What became of a look at a template.

    Attributes:
        escapes: what in it a way out of the sandbox needs, one phrase each; none in a proper one.
        failed: why it could not be rendered for a plain question, or None.
    """

    escapes: tuple[str, ...]
    failed: str | None

    @property
    def ok(self) -> bool:
        return not self.escapes and self.failed is None


def check(text: str) -> TemplateReport:
    """Look at a template and try it on two short conversations. Nothing raises."""
    if len(text) > MAX_TEMPLATE:
        return TemplateReport((), f"it has {len(text)} characters, more than {MAX_TEMPLATE}")
    try:
        reply = subprocess_reader.run(__name__, {"text": text, "samples": _SAMPLES}, _SECONDS)
    except subprocess_reader.Exceeded as error:
        return TemplateReport((f"a trial run was stopped: {error.message}",), error.message)
    return TemplateReport(tuple(reply["escapes"]), reply["failed"])


def render(text: str, values: Mapping[str, Any]) -> str:
    """What a template makes of `values` (messages, tools, add_generation_prompt …).

    Raises:
        FormatError: it cannot be rendered, tries to leave the sandbox, or takes too much.
    """
    if len(text) > MAX_TEMPLATE:
        raise FormatError(f"the template has {len(text)} characters", "use a shorter one")
    try:
        reply = subprocess_reader.run(__name__, {"text": text, "samples": [dict(values)]}, _SECONDS)
    except subprocess_reader.Exceeded as error:
        raise FormatError(f"the template was stopped: {error.message}") from None
    if reply["failed"] is not None:
        raise FormatError(f"the template cannot be rendered: {reply['failed']}")
    return str(reply["rendered"])


# ---- inside the process ----------------------------------------------------------------------


class Rendering:
    """A template that renders many values, for a process that is confined already.

    There is no clock in it (``strftime_now`` is not defined, and templates that ask for it have a
    day of their own then), so that the same values give the same text every day.
    """

    def __init__(self, text: str) -> None:
        """Raises ValueError: it is no template, too long, or does what a way out needs."""
        from jinja2 import TemplateError

        if len(text) > MAX_TEMPLATE:
            raise ValueError(f"it has {len(text)} characters, more than {MAX_TEMPLATE}")
        environment = _environment()
        del environment.globals["strftime_now"]
        try:
            for escape in _escapes(environment.parse(text)):
                raise ValueError(escape)
            self._template = environment.from_string(text)
        except (TemplateError, RecursionError) as error:
            raise ValueError(_line(error)) from None

    def render(self, values: Mapping[str, Any], most: int) -> str:
        """What it makes of `values`. Raises ValueError: it fails, or writes over `most` letters."""
        try:
            return _bounded(self._template.generate(dict(values)), most)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a template raises whatever its values raise
            raise ValueError(_line(error)) from None


def _reply(question: Any) -> dict[str, Any]:
    from jinja2.exceptions import SecurityError, TemplateError

    escapes: list[str] = []
    failed: str | None = None
    rendered = ""
    try:
        environment = _environment()
        escapes += dict.fromkeys(_escapes(environment.parse(question["text"])))
        template = environment.from_string(question["text"])
        for values in question["samples"]:
            rendered = _bounded(template.generate({"add_generation_prompt": True, **values}))
            failed = None
    except SecurityError as error:
        escapes.append(f"the trial run did what the sandbox forbids: {_line(error)}")
        failed = _line(error)
    except TemplateError as error:
        failed = failed if rendered else _line(error)  # a refused system message is no fault
    except RecursionError:
        failed = "it is nested too deeply"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template raises whatever its values raise
        failed = failed if rendered else f"{type(error).__name__}: {_line(error)}"
    return {"escapes": escapes[:_FOUND], "failed": failed, "rendered": rendered}


def _bounded(pieces: Iterator[str], most: int = _OUTPUT) -> str:
    chunks, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > most:
            raise ValueError(f"it writes more than {most >> 20} MiB")
        chunks.append(piece)
    return "".join(chunks)


def _environment() -> "Environment":
    """The sandbox with what chat templates are promised by transformers."""
    import json
    import time

    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what a model is trained on; here it changes nothing."""

        tags = {"generation"}  # noqa: RUF012 - the name and type jinja2 asks for

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, indent: int | None = None, **_: Any) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    class Sandbox(ImmutableSandboxedEnvironment):
        """Jinja's own leaves what it refuses undefined, so that a template goes on unseen."""

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            refused = f"reads {attribute[:40]!r} of {type(obj).__name__}"
            raise SecurityError(refused)

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: time.strftime(str(form)[:100])
    return environment


def _escapes(tree: "nodes.Template") -> Iterator[str]:
    """What in the tree no chat template needs and every known escape does."""
    from jinja2 import nodes

    for node in tree.find_all((nodes.Import, nodes.Include, nodes.Extends, nodes.FromImport)):
        yield f"line {node.lineno} loads another template"
    for attribute in tree.find_all(nodes.Getattr):
        if attribute.attr.startswith("_"):
            yield f"line {attribute.lineno} reads the inner attribute {attribute.attr[:40]}"
    for filter_ in tree.find_all(nodes.Filter):
        if filter_.name == "attr":
            yield f"line {filter_.lineno} reads an attribute by a computed name (|attr)"
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and re.search(r"__\w+__", constant.value):
            yield f"line {constant.lineno} writes the inner name {constant.value[:40]!r}"
    for item in tree.find_all(nodes.Getitem):
        yield from _hidden(item.arg)
    for keyword in tree.find_all(nodes.Keyword):
        if keyword.key == "attribute":  # of map, selectattr and their like
            yield from _hidden(keyword.value)


def _hidden(node: "nodes.Node") -> Iterator[str]:
    for constant in _constants(node):
        if isinstance(constant.value, str) and _HIDDEN.search(constant.value):
            yield f"line {constant.lineno} reads the inner item {constant.value[:40]!r}"


def _constants(node: "nodes.Node") -> "Iterator[nodes.Const]":
    from jinja2 import nodes

    if isinstance(node, nodes.Const):
        yield node
    yield from node.find_all(nodes.Const)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


if __name__ == "__main__":
    # Once without limits, on a text of ours: it imports all that Jinja needs.
    _reply({"text": "{{ messages | tojson }}{{ strftime_now('%Y') }}", "samples": [{}]})
    subprocess_reader.serve(_reply)
