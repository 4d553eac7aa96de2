"""A row of a data file as what it means, before a template and a vocabulary make tokens of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Turn = Mapping[str, Any]
"""A message as chat templates take it: ``role``, ``content``, and perhaps ``tool_calls``."""


@dataclass(frozen=True, slots=True)
class Talk:
    """Turns whose assistant's are learnt.

    Attributes:
        turns: the last is the assistant's.
        tools: that the assistant could call, as OpenAI writes them.
        plain: the same as a prompt and what follows it, for a model without a chat template;
            None where it cannot be said so.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    plain: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Prose:
    """A text that is learnt from its first to its last word."""

    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Two answers to one prompt, of which the first is better."""

    chosen: Talk
    rejected: Talk


Item = Talk | Prose | Choice
Kind = Literal["answers", "text", "preference"]


class Bad(Exception):
    """A row is not what its format asks for.

    Attributes:
        what: what is wrong with it, as the end of a sentence that begins with the row.
        hint: what is expected.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.what, self.hint = what, hint


_ROLES = ("system", "developer", "user", "assistant", "tool")
_AFTER: Mapping[str, Sequence[str]] = {
    "": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
"""Whose turn follows whose; ``call`` is the assistant's that calls a tool."""
_MOST_TURNS = 10_000


def said(value: Any, name: str) -> str:
    """A text that is there and says something.

    Raises:
        Bad: it is missing, no text, empty, or has a NUL character.
    """
    if value is None:
        raise Bad(f"has no {name!r}", f"give each row a text {name!r}")
    if not isinstance(value, str):
        raise Bad(f"has a {name!r} that is no text", f'write it in quotes: "{name}": "…"')
    if not value.strip():
        raise Bad(f"has an empty {name!r}", "fill it in, or leave the row out")
    return clean(value, name)


def clean(value: str, name: str) -> str:
    """A text that can be tokenized. Raises Bad: it has a NUL character or half a character."""
    if "\x00" in value:
        raise Bad(f"has a NUL character in its {name!r}", "take it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Bad(
            f"has half a character in its {name!r}", r"a \ud8… in JSON needs its other half"
        ) from None
    return value


def talk(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> Talk:
    """Turns in an order that a chat can have.

    Raises:
        Bad: a turn out of order, or the last is not the assistant's.
    """
    if not turns:
        raise Bad("has no turns", "give it a question and an answer")
    if len(turns) > _MOST_TURNS:
        raise Bad(f"has {len(turns)} turns", f"{_MOST_TURNS} are the most")
    before = ""
    for number, turn in enumerate(turns, 1):
        role = str(turn["role"])
        if role in ("system", "developer"):
            if number > 1:
                raise Bad(
                    f"has its system turn at {number}", "it is the first turn, or there is none"
                )
            continue
        if role not in _AFTER[before]:
            after = f"after {_named(before)}" if before else "first"
            expected = " or ".join(map(_named, _AFTER[before]))
            raise Bad(
                f"has {_named(role)} {after} (turn {number})", f"{expected} is expected there"
            )
        before = "call" if turn.get("tool_calls") else role
    if turns[-1]["role"] != "assistant":
        raise Bad(
            f"ends with {_named(str(turns[-1]['role']))}",
            "the assistant's turn is the last: it is what is learnt",
        )
    return Talk(tuple(turns), tuple(tools))


def turn(role: str, content: str) -> Turn:
    """One turn. Raises Bad: the role is not known, or it says nothing."""
    if role not in _ROLES:
        raise Bad(f"has a turn of the role {role[:40]!r}", f"roles are {', '.join(_ROLES)}")
    if not content.strip():
        raise Bad(f"has an empty turn of the {role}", "fill it in, or leave the row out")
    return {"role": role, "content": clean(content, role)}


def ask(question: str, answer: str, system: str = "") -> Talk:
    """One question and one answer; `plain` is the question, a line break and the answer."""
    turns = [turn("user", question), turn("assistant", answer)]
    if system.strip():
        turns.insert(0, turn("system", system))
    return Talk(tuple(turns))


def _named(role: str) -> str:
    return {
        "user": "the user's turn",
        "assistant": "the assistant's turn",
        "call": "a call of a tool",
        "tool": "a tool's result",
    }.get(role, f"a turn of the {role}")
