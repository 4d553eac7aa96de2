"""Calls of tools and their results: paired up, or told as text.

Other programs export calls without results, results without calls, and ids that are empty or used
twice. Every provider refuses all of these, and most refuse even a sound call where the request
declares no tools.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from overt.chat import ImagePart, Message, Part, Role, TextPart, ToolCallPart, ToolResultPart

MISSING = "(no result was exported)"
"""The result of a call that came without one."""

_Place = tuple[int, int]
"""Which message, and which of its parts."""


def repair_tool_calls(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`messages` with every call followed by its result, under an id of their own.

    The results of a message's calls come right behind it, in the order of the calls. A result goes
    to the first call before it that has its id and no result yet, or without an id to the first
    that has none. A result of no call, and a call that no assistant made, become text. Doing
    it twice changes nothing more.
    """
    pairs = _paired(messages)
    results = {pair.result for pair in pairs.values() if pair.result}
    result: list[Message] = []
    for number, message in enumerate(messages):
        parts: list[Part] = []
        behind: list[Message] = []
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCallPart) and (number, place) in pairs:
                pair = pairs[number, place]
                parts.append(replace(part, id=pair.id, name=part.name or "tool"))
                behind.append(Message("tool", (pair.answer(messages),)))
            elif isinstance(part, ToolCallPart):
                parts.append(TextPart(_called(part)))
            elif not isinstance(part, ToolResultPart):
                parts.append(part)
            elif (number, place) not in results:
                parts.append(TextPart(_returned("a tool", part)))
        if parts or not message.parts:
            result.append(Message(_speaker(message, parts), tuple(parts)))
        result += behind
    return tuple(result)


def spoken(messages: Sequence[Message]) -> tuple[Message, ...]:
    """`messages` without tool traffic: what was called, and what came of it, as the model's text.

    For a request that declares no tools: OpenAI, Anthropic and Gemini refuse calls in it, and most
    chat templates leave them out. What the model says in a row, thoughts too, becomes one message,
    since many templates want the two sides to take turns.
    """
    names: dict[str, str] = {}
    turns: list[tuple[Role, list[Message]]] = []
    for message in repair_tool_calls(messages):
        role = _speaker(message, message.parts)
        if role == "assistant" and turns and turns[-1][0] == role:
            turns[-1][1].append(message)
        else:
            turns.append((role, [message]))
    return tuple(_turn(role, messages, names) for role, messages in turns)


@dataclass(slots=True)
class _CallPair:
    id: str
    result: _Place | None = None

    def answer(self, messages: Sequence[Message]) -> ToolResultPart:
        if self.result is None:
            return ToolResultPart(self.id, MISSING)
        number, place = self.result
        part = messages[number].parts[place]
        assert isinstance(part, ToolResultPart)
        return replace(part, id=self.id)


def _paired(messages: Sequence[Message]) -> dict[_Place, _CallPair]:
    """The assistant's calls, each with an id that no other has and where its result is."""
    pairs: dict[_Place, _CallPair] = {}
    open_: dict[
        str, deque[_CallPair]
    ] = {}  # by the id they came with; those with a result may be left
    all_: deque[_CallPair] = deque()
    used = {
        part.id for message in messages for part in message.parts if isinstance(part, ToolCallPart)
    }
    taken: set[str] = set()
    last = 0  # the number of the last id that was made; it never goes back, so the search is short
    for number, message in enumerate(messages):
        for place, part in enumerate(message.parts):
            if isinstance(part, ToolCallPart) and message.role == "assistant":
                id = part.id
                if not id or id in taken:
                    last = max(last, len(pairs)) + 1
                    while (id := f"call_{last}") in used:
                        last += 1
                taken.add(id)
                pairs[number, place] = pair = _CallPair(id)
                open_.setdefault(part.id, deque()).append(pair)
                all_.append(pair)
            elif isinstance(part, ToolResultPart):
                waiting = open_.get(part.id, deque()) if part.id else all_
                while waiting and waiting[0].result:
                    waiting.popleft()
                if waiting:
                    waiting[0].result = (number, place)
    return pairs


def _speaker(message: Message, parts: Sequence[Part]) -> Role:
    """Who says `parts`: a tool itself says nothing but results."""
    if message.role != "tool":
        return message.role
    return "user" if any(isinstance(part, ImagePart) for part in parts) else "assistant"


def _turn(role: Role, messages: Sequence[Message], names: dict[str, str]) -> Message:
    """What one speaker says in a row, as one message; notes in `names` which call has which id.

    Its texts are one where they touch: providers make a message of each, or drop blank ones.
    """
    parts = [part for message in messages for part in message.parts]
    if len(messages) == 1 and not any(isinstance(p, ToolCallPart | ToolResultPart) for p in parts):
        return messages[0]
    result: list[Part] = []
    texts: list[str] = []  # of the run of texts at the end of `found`
    begun = False
    for part in (*_calls_as_text(parts, names), None):
        if isinstance(part, TextPart):
            texts += [part.text] if part.text else []
            continue
        if texts:
            result.append(TextPart(("\n\n" if begun else "") + "\n\n".join(texts)))
            texts, begun = [], True
        result += [part] if part else []
    return Message(role, tuple(result))


def _calls_as_text(parts: Sequence[Part], names: dict[str, str]) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, ToolCallPart):
            names[part.id] = part.name
            yield TextPart(_called(part))
        elif not isinstance(part, ToolResultPart):
            yield part
        elif part.content != MISSING:
            yield TextPart(_returned(names[part.id], part))


def _called(part: ToolCallPart) -> str:
    return f"({part.name or 'tool'} was called: {part.arguments})"


def _returned(name: str, part: ToolResultPart) -> str:
    return f"({name} {'failed' if part.error else 'returned'}: {part.content})"
