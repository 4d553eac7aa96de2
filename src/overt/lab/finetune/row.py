"""A row of a data file as what it means, before a template and a vocabulary make tokens of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Turn = Mapping[str, Any]
"""A message as chat templates take it: ``role``, ``content``, and perhaps ``tool_calls``."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Turns whose assistant's are learnt.

    Attributes:
        turns: the last is the assistant's.
        tools: that the assistant could call, as OpenAI writes them.
        plain: the same as a prompt and what follows it, for a model without a chat template;
            None where it cannot be said so.
        skipped: places of the assistant's turns that are read and not learnt.
        unread: fields of its turns that say something here to nobody.
    """

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    plain: tuple[str, str] | None = None
    skipped: frozenset[int] = frozenset()
    unread: frozenset[str] = frozenset()

    @property
    def learnt(self) -> tuple[int, ...]:
        """Places of the turns that are learnt."""
        return tuple(
            at
            for at, turn in enumerate(self.turns)
            if turn["role"] == "assistant" and at not in self.skipped
        )


@dataclass(frozen=True, slots=True)
class Prose:
    """A text that is learnt from its first to its last word."""

    text: str


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, of which the first is better."""

    chosen: Dialogue
    rejected: Dialogue


@dataclass(frozen=True, slots=True)
class DialogueTurn:
    """A turn as a row has it.

    Attributes:
        turn: for the template.
        learnt: whether it is, where it is the assistant's.
        unread: fields of it that nobody read.
    """

    turn: Turn
    learnt: bool = True
    unread: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        return str(self.turn["role"])


class TrackedRow(Mapping[str, Any]):
    """The columns of a row, or the fields of a turn, that knows which of them were read.

    To ask whether one is there is not to read it.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self._read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return self.raw[name]

    def __contains__(self, name: object) -> bool:
        return name in self.raw

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def unread(self) -> list[str]:
        """Names that were not read and hold something, in the row's order."""
        return [
            name
            for name, value in self.raw.items()
            if name not in self._read and value not in _NOTHING
        ]


_NOTHING: tuple[Any, ...] = (None, "", [], {})
Item = Dialogue | Prose | PreferencePair
Kind = Literal["answers", "text", "preference"]


class BadRow(Exception):
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
_MAX_TURNS = 10_000


def text_of(value: Any, name: str) -> str:
    """A text that is there and says something.

    Raises:
        Bad: it is missing, no text, empty, or has a NUL character.
    """
    if value is None:
        raise BadRow(f"has no {name!r}", f"give each row a text {name!r}")
    if not isinstance(value, str):
        raise BadRow(f"has {_a(name)} that is no text", f'write it in quotes: "{name}": "…"')
    if not value.strip():
        raise BadRow(f"has an empty {name!r}", "fill it in, or leave the row out")
    return clean(value, name)


def perhaps(value: Any, name: str) -> str:
    """A text that may be missing or empty: then "". Raises Bad: it is no text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"has {_a(name)} that is no text", f'write it in quotes: "{name}": "…"')
    return clean(value, name) if value.strip() else ""


def clean(value: str, name: str) -> str:
    """A text that can be tokenized. Raises Bad: it has a NUL character or half a character."""
    if "\x00" in value:
        raise BadRow(f"has a NUL character in its {name!r}", "take it out")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(
            f"has half a character in its {name!r}", r"a \ud8… in JSON needs its other half"
        ) from None
    return value


def talk(turns: Sequence[DialogueTurn], tools: Sequence[Mapping[str, Any]] = ()) -> Dialogue:
    """Turns in an order that a chat can have.

    Raises:
        Bad: a turn out of order, or the last is not the assistant's.
    """
    if not turns:
        raise BadRow("has no turns", "give it a question and an answer")
    if len(turns) > _MAX_TURNS:
        raise BadRow(f"has {len(turns)} turns", f"{_MAX_TURNS} are the most")
    before = ""
    for number, spoken in enumerate(turns, 1):
        if spoken.role in ("system", "developer"):
            if number > 1:
                raise BadRow(
                    f"has its system turn at {number}", "it is the first turn, or there is none"
                )
            continue
        if spoken.role not in _AFTER[before]:
            after = f"after {_role_name(before)}" if before else "first"
            expected = " or ".join(map(_role_name, _AFTER[before]))
            raise BadRow(
                f"has {_role_name(spoken.role)} {after} (turn {number})",
                f"{expected} is expected there",
            )
        before = "call" if spoken.turn.get("tool_calls") else spoken.role
    if turns[-1].role != "assistant":
        raise BadRow(
            f"ends with {_role_name(turns[-1].role)}",
            "the assistant's turn is the last: it is what is learnt",
        )
    return Dialogue(
        tuple(spoken.turn for spoken in turns),
        tuple(tools),
        skipped=frozenset(at for at, spoken in enumerate(turns) if not spoken.learnt),
        unread=frozenset(name for spoken in turns for name in spoken.unread),
    )


def turn(role: str, content: str) -> DialogueTurn:
    """One turn. Raises Bad: the role is not known, or it says nothing."""
    if role not in _ROLES:
        raise BadRow(f"has a turn of the role {role[:40]!r}", f"roles are {', '.join(_ROLES)}")
    if not content.strip():
        raise BadRow(f"has an empty turn of the {role}", "fill it in, or leave the row out")
    return DialogueTurn({"role": role, "content": clean(content, role)})


def question_answer(question: str, answer: str, system: str = "", plain: str = "") -> Dialogue:
    """One question and one answer; `plain` is the prompt where there is no chat template, before
    which the system's text stands."""
    turns = [turn("user", question), turn("assistant", answer)]
    before = ""
    if system.strip():
        turns.insert(0, turn("system", system))
        before = f"{system}\n\n"
    return replace(talk(turns), plain=(before + plain, answer) if plain else None)


def _a(name: str) -> str:
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name!r}"


def _role_name(role: str) -> str:
    return {
        "user": "the user's turn",
        "assistant": "the assistant's turn",
        "call": "a call of a tool",
        "tool": "a tool's result",
    }.get(role, f"a turn of the {role}")
