"""Chat templates: whether one is a way out of the sandbox, breaks, or leaves out what is said.

Each is looked at and tried in a process of its own (`overt.formats.template`), so a hostile one
costs time that is bounded and nothing else.
"""

from collections.abc import Iterator
from typing import Any, Final

from overt.formats import subprocess_reader, template
from overt.openness.evidence import Finding
from overt.openness.subject.subject import Subject
from overt.openness.verdicts.components import Strength

VERSION = 3
TTL = 180  # so do the known ways out of a sandbox

_MAX_TEMPLATES: Final = 8
_MAX_LENGTH: Final = 1 << 20
"""Characters of all templates that are tried together."""
_MAX_TIMEOUTS: Final = 2
"""Trials that may be stopped before the rest is left out."""
_SECONDS: Final = 2
_ENDLESS: Final = ("Range too big", "it writes more than", "it is nested too deeply")
_STOPPED: Final = "a trial run was stopped"
_SAID: Final = "seventeen otters"
_ANSWERED: Final = "eleven herons"
_SAMPLES: Final[list[dict[str, Any]]] = [
    {"messages": [{"role": "user", "content": f"Name {_SAID}"}]},
    {
        "messages": [
            {"role": "user", "content": f"Name {_SAID}"},
            {"role": "assistant", "content": f"There are {_ANSWERED}"},
            {"role": "user", "content": f"And {_SAID} again"},
        ]
    },
]


def check(subject: Subject) -> Iterator[Finding]:
    """Try each template that is here; of equal texts only one."""
    texts: dict[str, list[str]] = {}
    for name, text in subject.templates.items():
        texts.setdefault(text, []).append(name)
    left, late = _MAX_LENGTH, 0
    for number, (text, names) in enumerate(texts.items()):
        left -= len(text)
        if number == _MAX_TEMPLATES or (number and left < 0) or late == _MAX_TIMEOUTS:
            yield Finding(
                "chat_template",
                "not_run",
                Strength.EXECUTED,
                reason=f"of {len(texts)} templates the first {number} were tried",
            )
            return
        finding = _tried(subject, text, names)
        late += _STOPPED in finding.observed
        yield finding
    yield from _differing(subject)


def _tried(subject: Subject, text: str, names: list[str]) -> Finding:
    paths = tuple(dict.fromkeys(_file(subject, name) for name in names))
    where = names[0] + (f" and {len(names) - 1} more of the same text" if names[1:] else "")
    escapes, failed, rendered = _try_template(text)
    if escapes:
        more = f" and {len(escapes) - 1} more" if len(escapes) > 1 else ""
        return Finding(
            "chat_template",
            "fail",
            Strength.EXECUTED,
            observed=f"{where}: {escapes[0]}{more}",
            expected="no more than a template needs: messages in, text out",
            paths=paths,
        )
    if failed is not None:
        return _broken(text, where, failed, paths)
    if _SAID not in rendered:
        return Finding(
            "chat_template",
            "fail",
            Strength.EXECUTED,
            observed=f"{where} writes {len(rendered)} characters without what the user said",
            expected="the words of every message",
            paths=paths,
        )
    strange = [word for word in ("http://", "https://", "<script") if word in rendered]
    if strange:
        return Finding(
            "chat_template",
            "inconclusive",
            Strength.EXECUTED,
            reason=f"{where} writes {strange[0]} into a conversation that has none",
            paths=paths,
        )
    return Finding(
        "chat_template",
        "pass",
        Strength.EXECUTED,
        observed=f"{where}: {len(text)} characters, renders two conversations, nothing leaves the "
        "sandbox",
        paths=paths,
    )


def _try_template(text: str) -> tuple[list[str], str | None, str]:
    """What `template.check` tells, and what came out, in one process."""
    if len(text) > template.MAX_TEMPLATE:
        return [], f"it has {len(text)} characters, more than {template.MAX_TEMPLATE}", ""
    try:
        report = subprocess_reader.run(
            template.__name__, {"text": text, "samples": _SAMPLES}, _SECONDS
        )
    except subprocess_reader.Exceeded as error:
        return [f"{_STOPPED}: {error.message}"], error.message, ""
    return list(report["escapes"]), report["failed"], str(report["rendered"])


def _broken(text: str, where: str, failed: str, paths: tuple[str, ...]) -> Finding:
    """A text that is no Jinja, or takes without end, is not what it must be; one that refuses our
    samples may be."""
    if any(word in failed for word in _ENDLESS):
        return Finding(
            "chat_template",
            "fail",
            Strength.EXECUTED,
            observed=f"{where}: {failed}",
            expected="a template that ends after a conversation",
            paths=paths,
        )
    result = "fail" if len(text) <= template.MAX_TEMPLATE and _is_no_jinja(text) else None
    if result:
        return Finding(
            "chat_template",
            "fail",
            Strength.EXECUTED,
            observed=f"{where}: {failed}",
            expected="a template in Jinja",
            paths=paths,
        )
    return Finding(
        "chat_template",
        "inconclusive",
        Strength.EXECUTED,
        reason=f"{where} could not be rendered for a plain question: {failed}",
        paths=paths,
    )


def _is_no_jinja(text: str) -> bool:
    """Whether it cannot be parsed. Only asked of a text that the confined process got through."""
    from jinja2 import Environment, TemplateSyntaxError

    plain = text.replace("{% generation", "{# ").replace("{% endgeneration", "{# ")
    if "generation %}" in text and plain != text:
        return False
    try:
        Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(text)
    except TemplateSyntaxError as error:
        # A tag that some other loader of templates may know is no proof of damage.
        return "unknown tag" not in str(error)
    except RecursionError:
        return False
    return False


def _differing(subject: Subject) -> Iterator[Finding]:
    """The default template in two places with two texts: which one counts differs by program."""
    config = "tokenizer_config.json"
    defaults = (config, f"{config}: default", "chat_template.jinja")
    by_name = {name: text for name, text in subject.templates.items() if name in defaults}
    if len(set(by_name.values())) > 1:
        first, second = list(by_name)[:2]
        yield Finding(
            "chat_template",
            "inconclusive",
            Strength.CONSISTENT,
            reason=f"{first} ({len(by_name[first])} characters) and {second} "
            f"({len(by_name[second])}) are different texts, and programs differ in which they take",
            paths=tuple(dict.fromkeys(_file(subject, name) for name in by_name)),
        )


def _file(subject: Subject, name: str) -> str:
    """The file of a template's name, which may go on with ``: which``."""
    return name if subject.file(name) else name.rpartition(": ")[0] or name
