"""Bodies that are handed on with a word changed: where their members stand, and nothing else.

A body is JSON of somebody else's; all of it that nobody must change stays as it came, byte for
byte. So it is looked through and cut, never decoded and written anew.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from overt.errors import BadRequest

_MAX_COLONS = 100_000  # of a body whose members are all taken apart at once: each has one
_MAX_TOKENS = 4_000_000  # strings and brackets of a body; more take seconds
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(_STRING + rb'|[{}\[\]]|[^"{}\[\]]+', re.DOTALL)
_BEGIN = re.compile(rb"\s*(" + _STRING + rb")\s*:\s*", re.DOTALL)
_NEXT = re.compile(rb"\s*([,}])")
_BLANK = b" \t\r\n"

_values = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_word = msgspec.json.Decoder(str).decode


@dataclass(frozen=True, slots=True)
class RefusedMembers:
    """What a provider would refuse of an outermost object.

    Attributes:
        cut: members that go, wherever they are not null.
        names: members that it has another name for.
        most: members whose number may be no more than this.
    """

    cut: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    most: Mapping[str, int] = field(default_factory=dict)


_NOTHING = RefusedMembers()


class _Member(NamedTuple):
    """Where a member stands: its key with the quotes, and its value without blanks around it."""

    name: str  # "" where it is no text
    at: int
    key_end: int
    start: int
    end: int


def renamed(body: bytes, model: str) -> bytes:
    """A JSON object with another value of its ``model``; every other byte stays what it is.

    Raises as `edited`.
    """
    return edited(body, model)[0]


def edited(
    body: bytes, model: str, spare: RefusedMembers = _NOTHING
) -> tuple[bytes, tuple[str, ...]]:
    """A JSON object with another value of its ``model`` and without what is to be spared.

    All of several such values are replaced, and ``Model`` as well: which of them counts, readers
    do not agree on (those written in Go take either).

    Args:
        body: valid JSON, with a ``model``.

    Returns:
        The body, and what of it was left out, in its own words.

    Raises:
        BadRequest: the members of a body that has too many strings cannot be told apart.
    """
    members = _quick(body)
    if members is None:
        members = _slow(body)
    out: list[bytes] = []
    left: list[str] = []
    names = {member.name for member in members}
    at, last_end = 0, -1  # what is copied up to here; where the last member ends that stays
    for number, member in enumerate(members):
        name = member.name
        known = name in spare.cut or name in spare.names or name in spare.most
        value = body[member.start : member.end] if known else b""
        if value == b"null":
            known = False
        other = spare.names.get(name)
        if known and (name in spare.cut or other in names):
            if last_end >= 0:
                out.append(body[at:last_end])
                at = member.end
            else:
                out.append(body[at : member.at])
                following = members[number + 1 : number + 2]
                at = following[0].at if following else member.end
            left.append(name)
            continue
        last_end = member.end
        if name.lower() == "model":
            out += [body[at : member.start], msgspec.json.encode(model)]
            at = member.end
        elif known and other:
            out += [body[at : member.at], msgspec.json.encode(other)]
            at = member.key_end
        elif known and (most := spare.most.get(name)) and _above(value, most):
            out += [body[at : member.start], str(most).encode()]
            at = member.end
            left.append(f"{name} above {most}")
    return b"".join((*out, body[at:])), tuple(dict.fromkeys(left))


def _above(value: bytes, most: int) -> bool:
    return value.isdigit() and (len(value) > 40 or int(value) > most)


def _quick(body: bytes) -> Sequence[_Member] | None:
    """The members of the outermost object; None where one stands there twice, or too many do.

    msgspec finds where values end a hundred times faster than Python, but tells only the last of
    several of one name: then the lengths do not add up.
    """
    if body.count(b":") > _MAX_COLONS:
        return None
    try:
        values = _values(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    members: list[_Member] = []
    at = body.find(b"{") + 1
    while match := _BEGIN.match(body, at):
        name, start = _text(match[1]), match.end()
        value = bytes(values.get(name, b""))
        after = _NEXT.match(body, end := start + len(value))
        if not value or after is None or not body.startswith(value, start):
            return None
        members.append(_Member(name, match.start(1), match.end(1), start, end))
        at = after.end()
    return members


def _slow(body: bytes) -> Sequence[_Member]:
    """The same of any valid JSON, one string or bracket after the other."""
    members: list[_Member] = []
    at = key_end = start = -1  # of the member that is being read
    for place, token in _outermost(body):
        if token.startswith(b'"'):
            if at < 0:
                at, key_end = place, place + len(token)
            continue
        if at >= 0 and start < 0:
            start = place + token.find(b":") + 1
        end = 0 if token == b"}" else token.find(b",")
        if end >= 0 and at >= 0:
            name, where = _text(body[at:key_end]), _strip_whitespace(body, start, place + end)
            members.append(_Member(name, at, key_end, *where))
            at = start = -1
    return members


def _outermost(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Where strings, and what lies between them, are in the outermost object; its end as "}"."""
    depth = 0
    for number, match in enumerate(_TOKEN.finditer(body)):
        if number > _MAX_TOKENS:
            raise BadRequest(
                f"the body has more than {_MAX_TOKENS} strings and brackets", "send less"
            )
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                yield match.start(), token
        elif depth == 1:
            yield match.start(), token


def _strip_whitespace(body: bytes, start: int, end: int) -> tuple[int, int]:
    """Without blanks around it."""
    while body[start] in _BLANK:
        start += 1
    while body[end - 1] in _BLANK:
        end -= 1
    return start, end


def _text(key: bytes) -> str:
    try:
        return _word(key)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
