"""The values that cross every border: what a message says, and what a stream adds up to."""

import dataclasses
import pickle
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt import chat
from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Request,
    Routed,
    Sampling,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    TokenLogprob,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.errors import EngineFailed


def test_the_text_of_a_message_is_its_text_parts() -> None:
    message = Message(
        "assistant",
        (
            ThoughtPart("let me see"),
            TextPart("It is "),
            ToolCallPart("1", "clock", "{}"),
            ImagePart(b"\x89PNG", "image/png"),
            TextPart("noon."),
            ToolResultPart("1", "12:00"),
        ),
    )
    assert message.text == "It is noon."
    assert Message.of("user", "hi") == Message("user", (TextPart("hi"),))


VALUES = [
    Request("smollm2", (Message.of("user", "hi"),), sampling=Sampling(temperature=0.0, seed=1)),
    *(
        Routed("echo:a", "it is local"), Progress(1, 2), Text("a"),
        Thought("b"), ToolCall(0, "1", "f", "{"), Done("stop"),
        Logprobs((TokenLogprob("a", -0.5, (("b", -1.0),)),)), Usage(3, 4, 1, 0.5, 0.25),
        Failed("engine_failed", "it broke", "try again"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_are_frozen_and_travel_whole(value: Request | Event) -> None:
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)
    assert pickle.loads(pickle.dumps(value)) == value
    assert not hasattr(value, "__dict__")  # slots: a misspelt attribute is an error


def test_every_event_is_tried_here() -> None:
    assert {type(value) for value in VALUES[1:]} == set(get_args(chat.Event))


def _add_up(events: Sequence[Event]) -> Answer:
    answer = Answer()
    for event in events:
        answer.add(event)
    return answer


def test_an_answer_is_what_its_events_add_up_to() -> None:
    token = TokenLogprob("a", -0.5)
    answer = _add_up(
        [
            Progress(0, 3),
            Progress(3, 3),
            Thought("hm"),
            Thought("m"),
            Text("It is "),
            Text("noon."),
            ToolCall(0, "1", "clock", '{"zo'),
            ToolCall(1, "2", "lamp", "{}"),
            ToolCall(0, "", "", 'ne":1}'),
            Logprobs((token,)),
            Logprobs((token,)),
            Usage(3, 7),
            Done("tool_calls"),
        ]
    )
    assert (answer.text, answer.thought) == ("It is noon.", "hmm")
    assert answer.tool_calls == [
        ToolCallPart("1", "clock", '{"zone":1}'),
        ToolCallPart("2", "lamp", "{}"),
    ]
    assert answer.logprobs == [token, token]
    assert (answer.usage, answer.finish) == (Usage(3, 7), "tool_calls")
    assert answer.message() == Message(
        "assistant", (ThoughtPart("hmm"), TextPart("It is noon."), *answer.tool_calls)
    )


def test_a_failed_answer_keeps_what_came_before() -> None:
    failed = Failed("worker_died", "the worker was killed")
    answer = _add_up([Text("It is"), failed])
    assert (answer.text, answer.finish, answer.failed) == ("It is", None, failed)


@pytest.mark.parametrize(
    ("events", "parts"),
    [
        ([], (TextPart(""),)),
        ([Text("a")], (TextPart("a"),)),
        ([Thought("a")], (ThoughtPart("a"), TextPart(""))),
        ([ToolCall(0, "1", "f", "{}")], (ToolCallPart("1", "f", "{}"),)),
    ],
)
def test_an_answer_as_a_message_is_never_empty(
    events: list[Event], parts: tuple[chat.Part, ...]
) -> None:
    assert _add_up(events).message() == Message("assistant", parts)


@pytest.mark.parametrize("index", [-1, 1, 10**12])
def test_a_tool_call_out_of_order_is_refused_and_not_made_room_for(index: int) -> None:
    with pytest.raises(EngineFailed, match=f"tool call {index} before"):
        Answer().add(ToolCall(index, "1", "f", "{}"))


def test_signed_thoughts_stay_apart_and_in_their_place() -> None:
    answer = _add_up(
        [
            Routed("anthropic:m", request_id="req_1"),
            Thought("a", origin="anthropic"),
            Thought("b", "SIG", origin="anthropic"),
            Thought("", "SEALED", sealed=True, origin="anthropic"),
            Text("x"),
            Thought("c", origin="anthropic"),
            Thought("", "SIG2", origin="anthropic"),
            ToolCall(0, "1", "f", "{}", "SIG3", "gemini"),
        ]
    )
    assert answer.message().parts == (
        ThoughtPart("ab", "SIG", origin="anthropic"),
        ThoughtPart("", "SEALED", sealed=True, origin="anthropic"),
        TextPart("x"),
        ThoughtPart("c", "SIG2", origin="anthropic"),
        ToolCallPart("1", "f", "{}", "SIG3", "gemini"),
    )
    assert answer.routed == Routed("anthropic:m", request_id="req_1")


@given(st.lists(st.text(max_size=5).map(Text) | st.text(max_size=5).map(Thought)))
def test_no_piece_is_lost(events: list[Text | Thought]) -> None:
    answer = _add_up(events)
    assert answer.text == "".join(event.text for event in events if isinstance(event, Text))
    assert answer.thought == "".join(event.text for event in events if isinstance(event, Thought))
