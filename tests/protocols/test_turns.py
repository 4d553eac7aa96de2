"""Turns of a conversation: read as they always were, in time that grows with them alone."""

from collections.abc import Callable
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.chat import Message, Part, TextPart, ThoughtPart, Tool
from overt.protocols.anthropic import request, wire
from overt.protocols.lmstudio import history
from overt.protocols.ollama.chat import OllamaChatBody, _MessageReader
from overt.protocols.openai import wire as openai_wire
from overt.protocols.openai.responses_items import messages as of_items
from overt.protocols.turns import PendingCalls, joined

WORDS = st.sampled_from(["", "a", "b"])


class Plain:
    """Calls that wait, in the plainest way."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def take(self, id: str | None, name: str | None) -> str | None:
        for call in self.calls:
            if call[0] == id if id is not None else name is None or call[1] == name:
                self.calls.remove(call)
                return call[0]
        return None


@given(st.lists(st.tuples(st.booleans(), st.none() | WORDS, st.none() | WORDS), max_size=40))
def test_results_find_the_first_call_that_fits(
    steps: list[tuple[bool, str | None, str | None]],
) -> None:
    waiting, plain = PendingCalls(), Plain()
    for adds, id, name in steps:
        if adds:
            waiting.add(id or "", name or "")
            plain.calls.append((id or "", name or ""))
        else:
            assert waiting.take(id=id, name=name) == plain.take(id, name)


@given(st.lists(st.sampled_from([TextPart("a"), TextPart("b"), ThoughtPart("t")])), st.text())
def test_texts_in_a_row_are_one(parts: list[Part], between: str) -> None:
    plain: list[Part] = []
    for part in parts:
        if plain and isinstance(part, TextPart) and isinstance(plain[-1], TextPart):
            plain[-1] = TextPart(plain[-1].text + between + part.text)
        else:
            plain.append(part)
    assert joined(parts, between) == tuple(plain)


# ---- as much as is taken -----------------------------------------------------------------------


def anthropic() -> None:
    for role in ("user", "assistant"):
        said = [wire.InputMessage(role, "word " * 100)] * 100_000  # type: ignore[arg-type]
        body = wire.CreateMessage(model="m", max_tokens=1, messages=said)
        assert len(request.request(body).messages) == 1


def openai_items() -> None:
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "t"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    made = of_items([thought] * 20_000 + [call] * 20_000)
    assert [len(message.parts) for message in made] == [40_000]


def openai_tools() -> None:
    tools = [Tool(f"t{n}", "", {}) for n in range(1024)]
    allowed = ["t1023"] * 1_000_000
    assert len(openai_wire.choose(tools, "auto", allowed=allowed)[0]) == 1


def ollama() -> None:
    call = {"function": {"name": "f"}}
    body = {
        "messages": [{"role": "assistant", "tool_calls": [call] * 10}] * 10_000
        + [{"role": "tool", "tool_name": "g"}] * 10_000
    }
    made = _MessageReader().messages(converted(body, OllamaChatBody).messages)
    assert len(made) == 20_000


def lmstudio() -> None:
    calls = [{"type": "toolCallRequest", "toolCallRequest": {"id": f"c{n}", "type": "function",
              "name": "f"}} for n in range(50_000)]  # fmt: skip
    results = [{"type": "toolCallResult", "toolCallId": "none", "content": "x"}] * 50_000
    said = converted(
        {"messages": [{"role": "assistant", "content": calls},
                      {"role": "tool", "content": results}]}, history.History,
    )  # fmt: skip
    assert len(history.messages(said, None)) == 2


def converted(body: Any, kind: Any) -> Any:
    import msgspec

    return msgspec.convert(body, kind)


@pytest.mark.parametrize("read", [anthropic, openai_items, openai_tools, ollama, lmstudio])
def test_the_longest_conversations_are_read_in_seconds(read: Callable[[], None]) -> None:
    begun = process_time()
    read()
    assert process_time() - begun < 4


def test_anthropics_neighbours_are_as_they_were() -> None:
    parts = (TextPart("a"), TextPart("b"))
    merged = request._merged
    alone = [Message("user", parts), Message("tool", ()), Message("tool", ())]
    assert list(merged(iter(alone))) == alone, "one that has no neighbour is left as it is"
    two = [Message("user", parts), Message("user", parts)]
    assert list(merged(iter(two))) == [Message.of("user", "a\nb\na\nb")]
