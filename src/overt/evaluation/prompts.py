"""Requests to put to several models, read from a prompt or from a file of many.

A file is text (one prompt), JSONL (a line an object with ``prompt`` or ``messages``, and ``system``
where it needs one) or CSV (a column ``prompt``, and ``system`` where it needs one). The name
decides which: ``.jsonl``, ``.csv``, anything else is text.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, cast, get_args

from overt.chat import Message, Role
from overt.errors import BadRequest

MAX_BYTES: Final = 64 << 20
MAX_PROMPTS: Final = 10_000
_MAX_MESSAGES: Final = 1000
_MAX_FIELD: Final = 1 << 17  # characters of one place in a CSV file
_HINT: Final = 'write a line as {"prompt": "…"} or {"messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True, slots=True)
class PromptCase:
    """One conversation that waits for its answer."""

    messages: tuple[Message, ...]

    @property
    def system(self) -> str:
        return "\n\n".join(message.text for message in self.messages if message.role == "system")

    @property
    def prompt(self) -> str:
        """What is asked, for people: the last message, or all with their roles."""
        turns = [message for message in self.messages if message.role != "system"]
        if len(turns) == 1:
            return turns[0].text
        return "\n\n".join(f"{message.role}: {message.text}" for message in turns)

    @property
    def digest(self) -> str:
        """``sha256:…`` of the messages: the same question has the same digest everywhere."""
        content = json.dumps([[message.role, message.text] for message in self.messages])
        return "sha256:" + sha256(content.encode()).hexdigest()


def of_text(prompt: str, system: str | None = None) -> PromptCase:
    """A question. Raises BadRequest: it is empty."""
    if not prompt.strip():
        raise BadRequest("the prompt is empty", 'write one: overt compare "Hello" -m smollm2')
    before = (Message.of("system", system),) if system else ()
    return PromptCase((*before, Message.of("user", prompt)))


def of_file(path: Path, data: bytes, system: str | None = None) -> tuple[PromptCase, ...]:
    """The requests of a file with the content `data`; `system` is for those that have none.

    Raises:
        BadRequest: it is not of its form, empty, or too much; the message names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(
            f"{path.name} is not UTF-8 text (byte {error.start})", "convert it with iconv"
        ) from None
    if path.suffix.lower() not in (".jsonl", ".csv"):
        return (of_text(text.rstrip("\r\n"), system),)
    read = _json_lines if path.suffix.lower() == ".jsonl" else _csv_rows
    asks: list[PromptCase] = []
    for ask in read(path.name, text, system):
        if len(asks) == MAX_PROMPTS:
            raise BadRequest(f"{path.name} has more than {MAX_PROMPTS} requests", "split it")
        asks.append(ask)
    if not asks:
        raise BadRequest(f"{path.name} has no request in it", _HINT)
    return tuple(asks)


def _json_lines(name: str, text: str, system: str | None) -> Iterator[PromptCase]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"line {number} of {name}"
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = getattr(error, "msg", "nested too deeply")
            raise BadRequest(f"{where} is not JSON ({why})", _HINT) from None
        if not isinstance(content, dict):
            raise BadRequest(f"{where} is no JSON object", _HINT)
        yield _of_object(content, where, system)


def _of_object(content: Mapping[str, Any], where: str, system: str | None) -> PromptCase:
    if ("prompt" in content) == ("messages" in content):
        raise BadRequest(f"{where} needs either a prompt or messages", _HINT)
    own = content.get("system")
    if own is not None:
        system = _text(own, f"the system text in {where}")
    if "prompt" in content:
        return of_text(_text(content["prompt"], f"the prompt in {where}"), system)
    listed = content["messages"]
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_MESSAGES:
        raise BadRequest(f"the messages in {where} are no list of 1 to {_MAX_MESSAGES}", _HINT)
    messages = [_message(message, where) for message in listed]
    if messages[-1].role != "user":
        raise BadRequest(f"the last message in {where} is not the user's", _HINT)
    if system and messages[0].role != "system":
        messages.insert(0, Message.of("system", system))
    return PromptCase(tuple(messages))


def _message(content: Any, where: str) -> Message:
    role = content.get("role") if isinstance(content, dict) else None
    if role == "developer":  # the newer word of one provider
        role = "system"
    if role not in get_args(Role) or role == "tool":
        raise BadRequest(f"a message in {where} is not of system, user or assistant", _HINT)
    value = content.get("content")
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        parts = [part.get("text") if part.get("type") == "text" else None for part in value]
        if None in parts:
            raise BadRequest(f"a message in {where} has parts that are no text", "leave them out")
        value = "".join(_text(part, f"a message in {where}") for part in parts)
    return Message.of(cast("Role", role), _text(value, f"a message in {where}"))


def _text(value: Any, what: str) -> str:
    """`value` as text that UTF-8 can write."""
    if not isinstance(value, str):
        raise BadRequest(f"{what} is no text", _HINT)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRequest(f"{what} holds half a character (a lone surrogate)", _HINT) from None
    return value


def _csv_rows(name: str, text: str, system: str | None) -> Iterator[PromptCase]:
    hint = "give the column with the questions the heading: prompt"
    csv.field_size_limit(_MAX_FIELD)  # of the whole process: whoever read before set its own
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if "prompt" not in (rows.fieldnames or ()):
            raise BadRequest(f"{name} has no column named prompt", hint)
        for row in rows:
            prompt = row.get("prompt") or ""
            if prompt.strip():
                yield of_text(prompt, row.get("system") or system)
            elif any(value for key, value in row.items() if key is not None):
                raise BadRequest(f"line {rows.line_num} of {name} has an empty prompt", hint)
    except csv.Error as error:
        raise BadRequest(f"{name} is not CSV after line {rows.line_num}: {error}", hint) from None
