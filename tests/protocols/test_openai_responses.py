"""The Responses API by itself, over `echo:`; tests/clients has it through the official client."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import msgspec
import pytest
import stateful
from hypothesis import given
from hypothesis import strategies as st
from stateful import World

from overt import chat
from overt.protocols.base import BadBody, Caller, HttpCall
from overt.protocols.openai.responses import create
from overt.protocols.openai.responses_input import CreateResponse, request
from overt.protocols.openai.responses_items import items_of, messages
from overt.protocols.openai.responses_stream import Response, ResponseStream

pytestmark = pytest.mark.anyio

RESPONSES = "/v1/responses"
TOOL = {
    "type": "function",
    "name": "note",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n rest").decode()


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    async with stateful.world(home) as made:
        yield made


def _ask(**more: Any) -> dict[str, Any]:
    return {"model": "echo:any", "input": "one two three", **more}


def _slow() -> dict[str, Any]:
    return _ask(model="echo:slow", input="w " * 500, background=True)


def _text(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


# ---- whole answers ---------------------------------------------------------------------------


async def test_an_answer_has_every_field(world: World) -> None:
    answer = await world.ask("POST", RESPONSES, _ask(metadata={"a": "b"}, instructions="Be brief."))
    assert answer["id"].startswith("resp_")
    item = answer["output"][0]
    assert item == {
        "type": "message",
        "id": item["id"],
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "one two three", "annotations": [], "logprobs": []}
        ],
    }
    assert answer["completed_at"] >= answer["created_at"]
    assert answer["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    shown = {
        key: answer[key] for key in ("object", "status", "error", "model", "metadata", "store")
    }
    assert shown == {
        "object": "response",
        "status": "completed",
        "error": None,
        "model": "echo:any",
        "metadata": {"a": "b"},
        "store": True,
    }
    assert answer["text"] == {"format": {"type": "text"}, "verbosity": "medium"}
    assert (answer["tools"], answer["tool_choice"], answer["instructions"]) == (
        [], "auto", "Be brief.",
    )  # fmt: skip


async def test_a_limit_leaves_it_incomplete(world: World) -> None:
    answer = await world.ask("POST", RESPONSES, _ask(max_output_tokens=2))
    assert (answer["status"], _text(answer)) == ("incomplete", "one two ")
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"
    assert answer["completed_at"] is None


async def test_reasoning_is_an_item_of_its_own(world: World) -> None:
    answer = await world.ask("POST", RESPONSES, _ask(model="echo:think"))
    thought, message = answer["output"]
    assert thought["type"] == "reasoning"
    assert thought["summary"] == []
    assert thought["content"] == [
        {"type": "reasoning_text", "text": "The message has 13 characters."}
    ]
    assert message["type"] == "message"
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 1}


async def test_tools_are_called(world: World) -> None:
    answer = await world.ask("POST", RESPONSES, _ask(model="echo:tool", tools=[TOOL]))
    call = answer["output"][0]
    assert call == {
        "type": "function_call",
        "id": call["id"],
        "call_id": "call_0",
        "name": "note",
        "arguments": '{"text": "one two three"}',
        "status": "completed",
    }
    assert answer["tools"] == [TOOL]


async def test_log_probabilities_come_where_they_are_asked_for(world: World) -> None:
    without = await world.ask("POST", RESPONSES, _ask(top_logprobs=1))
    assert without["output"][0]["content"][0]["logprobs"] == []
    answer = await world.ask(
        "POST", RESPONSES, _ask(include=["message.output_text.logprobs"], top_logprobs=1)
    )
    first, *_ = found = answer["output"][0]["content"][0]["logprobs"]
    assert first == {
        "token": "one ",
        "logprob": 0.0,
        "bytes": [111, 110, 101, 32],
        "top_logprobs": [{"token": "one ", "logprob": 0.0, "bytes": [111, 110, 101, 32]}],
    }
    assert [one["token"] for one in found] == ["one ", "two ", "three"]


# ---- streams ---------------------------------------------------------------------------------

TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


async def test_a_stream_tells_everything_in_order(world: World) -> None:
    events = await world.events("POST", RESPONSES, _ask(stream=True))
    assert [event["type"] for event in events] == TEXT_EVENTS
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress"
    item = events[2]["item"]
    assert (item["status"], item["content"]) == ("in_progress", [])
    deltas = events[4:7]
    assert [event["delta"] for event in deltas] == ["one ", "two ", "three"]
    for event in deltas:
        assert (event["item_id"], event["output_index"], event["content_index"]) == (
            item["id"], 0, 0,
        )  # fmt: skip
        assert event["logprobs"] == []
    assert events[7]["text"] == events[8]["part"]["text"] == "one two three"
    assert events[9]["item"] == events[10]["response"]["output"][0]
    assert events[10]["response"]["usage"]["output_tokens"] == 3


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"model": "echo:think"},
        {"model": "echo:tool", "tools": [TOOL]},
        {"model": "echo:tool", "tools": [{"type": "custom", "name": "note"}]},
        {"max_output_tokens": 1},
        {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
        {"input": "  "},
    ],
    ids=lambda more: ",".join(f"{k}" for k in more) or "plain",
)
async def test_a_stream_comes_to_what_a_whole_answer_is(world: World, more: Any) -> None:
    whole = await world.ask("POST", RESPONSES, _ask(**more))
    events = await world.events("POST", RESPONSES, _ask(**more, stream=True))
    told = events[-1]["response"]
    for answer in (whole, told):
        for field in ("id", "created_at", "completed_at"):
            answer.pop(field)
        for item in answer["output"]:
            item.pop("id")
    assert told == whole
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [{k: v for k, v in item.items() if k != "id"} for item in done] == told["output"]


async def test_reasoning_streams(world: World) -> None:
    events = await world.events("POST", RESPONSES, _ask(model="echo:think", stream=True))
    kinds = [event["type"] for event in events]
    assert kinds[2:8] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert events[8]["output_index"] == 1


async def test_calls_stream(world: World) -> None:
    events = await world.events(
        "POST", RESPONSES, _ask(model="echo:tool", tools=[TOOL], stream=True)
    )
    added, delta, done, item = events[2:6]
    assert added["item"]["arguments"] == ""
    assert delta["type"] == "response.function_call_arguments.delta"
    assert delta["delta"] == done["arguments"] == item["item"]["arguments"]


async def test_log_probabilities_stream_with_their_text(world: World) -> None:
    events = await world.events(
        "POST", RESPONSES, _ask(include=["message.output_text.logprobs"], stream=True)
    )
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["delta"] for event in deltas] == ["one ", "two ", "three"]
    assert [event["logprobs"][0]["token"] for event in deltas] == ["one ", "two ", "three"]


async def test_a_failure_in_the_middle_is_told_and_kept(world: World) -> None:
    events = await world.events(
        "POST", RESPONSES, _ask(model="echo:fail", input="1 2 3 4 5", stream=True)
    )
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert "fails after three words" in last["response"]["error"]["message"]
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert _text(await world.ask("GET", f"{RESPONSES}/{last['response']['id']}")) == "1 2 3 "


async def test_a_failure_of_a_whole_answer_has_a_status(world: World) -> None:
    status, error = await world.refused(
        "POST", RESPONSES, _ask(model="echo:fail", input="1 2 3 4 5")
    )
    assert (status, error["type"]) == (500, "server_error")


async def test_a_stream_that_cannot_begin_has_a_status(world: World) -> None:
    status, error = await world.refused("POST", RESPONSES, _ask(model="no-such-model", stream=True))
    assert (status, error["code"]) == (404, "model_not_found")


async def test_a_client_that_leaves_stops_the_engine(world: World) -> None:
    closed = asyncio.Event()

    async def events(*_: Any) -> Any:
        try:
            while True:
                yield chat.Text("word ")
        finally:
            closed.set()

    world.services.stream = events  # type: ignore[method-assign]
    body = msgspec.json.encode(_ask(stream=True))
    call = HttpCall(world.services, Caller("anne"), "", "POST", RESPONSES, {}, {}, {}, body)
    async with aclosing((await create(call)).chunks) as chunks:  # type: ignore[union-attr]
        for _ in range(5):
            await anext(chunks)
        assert not closed.is_set()
    assert closed.is_set()


@pytest.mark.parametrize("more", [{}, {"stream": True}, {"background": True}])
async def test_the_engine_is_heard_to_its_end(world: World, more: Any) -> None:
    """A stream that is closed before it ends counts as cancelled, wherever that is counted."""
    ends: list[str] = []

    async def events(*_: Any) -> Any:
        try:
            yield chat.Text("word")
            yield chat.Done("stop")
            ends.append("whole")
        finally:
            ends.append("closed")

    world.services.stream = events  # type: ignore[method-assign]
    answer = await world.client.post(RESPONSES, json=_ask(**more))
    assert answer.status_code == 200
    if "background" in more:
        await _until(world, answer.json()["id"], "completed")
    assert ends == ["whole", "closed"]


@pytest.mark.parametrize("more", [{}, {"stream": True}])
async def test_an_engine_that_falls_silent_has_failed(world: World, more: Any) -> None:
    async def events(*_: Any) -> Any:
        yield chat.Text("word")

    world.services.stream = events  # type: ignore[method-assign]
    answer = await world.client.post(RESPONSES, json=_ask(**more))
    assert answer.status_code == (200 if more else 500)
    if more:
        last = stateful.read(answer.content)[-1]
        assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")


# ---- what is kept ----------------------------------------------------------------------------


async def test_a_response_can_be_asked_for_until_it_is_deleted(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask())
    one = f"{RESPONSES}/{made['id']}"
    assert await world.ask("GET", one) == made
    assert (await world.client.get(one, headers={"x-key": "ben"})).status_code == 404
    assert (await world.client.delete(one, headers={"x-key": "ben"})).status_code == 404
    assert await world.ask("DELETE", one) == {
        "id": made["id"], "object": "response", "deleted": True,
    }  # fmt: skip
    assert (await world.refused("GET", one))[0] == 404
    assert (await world.refused("DELETE", one))[0] == 404


async def test_it_is_not_kept_against_ones_wish(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask(store=False))
    assert made["store"] is False
    assert (await world.refused("GET", f"{RESPONSES}/{made['id']}"))[0] == 404
    assert list(await world.records.list("response", Caller("anne"))) == []


async def test_a_streamed_response_is_kept_before_its_end_is_told(world: World) -> None:
    events = await world.events("POST", RESPONSES, _ask(stream=True))
    last = events[-1]["response"]
    assert await world.ask("GET", f"{RESPONSES}/{last['id']}") == last


async def test_a_conversation_goes_on(world: World) -> None:
    seen: list[chat.Request] = []
    stream = world.services.stream

    def watched(caller: Any, request: chat.Request, *more: Any) -> Any:
        seen.append(request)
        return stream(caller, request, *more)

    world.services.stream = watched  # type: ignore[method-assign]
    first = await world.ask("POST", RESPONSES, _ask(input="my name is Ada", instructions="Old."))
    second = await world.ask(
        "POST", RESPONSES, _ask(input="and yours?", previous_response_id=first["id"])
    )
    third = await world.ask(
        "POST",
        RESPONSES,
        _ask(input="well", previous_response_id=second["id"], instructions="New."),
    )
    assert [(m.role, m.text) for m in seen[-1].messages] == [
        ("system", "New."),  # those of earlier turns are not carried over
        ("user", "my name is Ada"),
        ("assistant", "my name is Ada"),
        ("user", "and yours?"),
        ("assistant", "and yours?"),
        ("user", "well"),
    ]
    assert third["previous_response_id"] == second["id"]
    await world.ask("DELETE", f"{RESPONSES}/{first['id']}")
    status, error = await world.refused("POST", RESPONSES, _ask(previous_response_id=second["id"]))
    assert (status, error["param"]) == (400, "previous_response_id")
    assert first["id"] in error["message"]


async def test_nobody_goes_on_with_anothers_conversation(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask())
    answer = await world.client.post(
        RESPONSES, json=_ask(previous_response_id=made["id"]), headers={"x-key": "ben"}
    )
    assert answer.status_code == 400
    item = {"type": "item_reference", "id": made["output"][0]["id"]}
    answer = await world.client.post(RESPONSES, json=_ask(input=[item]), headers={"x-key": "ben"})
    assert answer.status_code == 404


async def test_items_can_be_referred_to(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask(input="remember this"))
    for id in (made["output"][0]["id"], await _first_input(world, made["id"])):
        answer = await world.ask("POST", RESPONSES, _ask(input=[{"id": id}]))
        assert _text(answer) == "remember this"
    status, _ = await world.refused("POST", RESPONSES, _ask(input=[{"id": "msg_nothing"}]))
    assert status == 404


async def _first_input(world: World, id: str) -> str:
    items = await world.ask("GET", f"{RESPONSES}/{id}/input_items?order=asc")
    return str(items["first_id"])


async def test_input_items_are_listed_in_pages(world: World) -> None:
    first = await world.ask("POST", RESPONSES, _ask(input="a"))
    items = [{"role": "user", "content": word} for word in "bcd"]
    made = await world.ask("POST", RESPONSES, _ask(input=items, previous_response_id=first["id"]))
    path = f"{RESPONSES}/{made['id']}/input_items"

    async def words(query: str = "") -> str:
        found = await world.ask("GET", path + query)
        return "".join(item["content"][0]["text"] for item in found["data"])

    assert await words() == "dcbaa"  # the turn before, its answer, and this one
    assert await words("?order=asc") == "aabcd"
    page = await world.ask("GET", path + "?order=asc&limit=2")
    assert page["has_more"] is True
    assert page["last_id"] == page["data"][-1]["id"]
    assert await words(f"?order=asc&limit=2&after={page['last_id']}") == "bc"
    assert await words(f"?order=asc&before={page['last_id']}") == "a"
    last = await world.ask("GET", path + f"?order=asc&after={page['last_id']}")
    assert last["has_more"] is False
    assert (await world.refused("GET", path + "?after=nothing"))[0] == 400
    assert (await world.refused("GET", path + "?limit=0"))[1]["param"] == "limit"
    assert (await world.refused("GET", path + "?order=up"))[1]["param"] == "order"


# ---- in the background -----------------------------------------------------------------------


async def _until(world: World, id: str, *states: str) -> dict[str, Any]:
    while True:
        found = await world.ask("GET", f"{RESPONSES}/{id}")
        if found["status"] in states:
            return dict(found)
        await asyncio.sleep(0.01)


async def test_a_background_response_is_polled(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask(background=True))
    assert (made["status"], made["output"], made["background"]) == ("queued", [], True)
    done = await _until(world, made["id"], "completed")
    assert _text(done) == "one two three"


async def test_a_background_response_can_be_cancelled(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _slow())
    await _until(world, made["id"], "in_progress")
    one = f"{RESPONSES}/{made['id']}"
    cancelled = await world.ask("POST", f"{one}/cancel")
    assert cancelled["status"] == "cancelled"
    assert await world.ask("GET", one) == cancelled
    assert (await world.ask("POST", f"{one}/cancel", headers={}))["status"] == "cancelled"


async def test_what_is_not_in_the_background_or_over_cannot_be_cancelled(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask())
    assert (await world.refused("POST", f"{RESPONSES}/{made['id']}/cancel"))[0] == 400
    made = await world.ask("POST", RESPONSES, _ask(background=True))
    await _until(world, made["id"], "completed")
    assert (await world.refused("POST", f"{RESPONSES}/{made['id']}/cancel"))[0] == 400
    assert (await world.refused("POST", f"{RESPONSES}/resp_none/cancel"))[0] == 404


async def test_a_background_failure_is_found_by_asking(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask(model="no-such-model", background=True))
    failed = await _until(world, made["id"], "failed")
    assert "no-such-model" in failed["error"]["message"]


async def test_a_background_response_that_is_deleted_stays_deleted(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _slow())
    await world.ask("DELETE", f"{RESPONSES}/{made['id']}")
    assert (await world.refused("GET", f"{RESPONSES}/{made['id']}"))[0] == 404


async def test_a_background_stream_can_be_read_again_from_anywhere(world: World) -> None:
    body = _ask(model="echo:slow", background=True, stream=True)
    events = await world.events("POST", RESPONSES, body)
    kinds = [event["type"] for event in events]
    assert kinds == [TEXT_EVENTS[0], "response.queued", *TEXT_EVENTS[1:]]
    one = f"{RESPONSES}/{events[0]['response']['id']}"
    assert await world.events("GET", f"{one}?stream=true") == events
    assert await world.events("GET", f"{one}?stream=true&starting_after=4") == events[5:]


async def test_a_running_background_stream_can_be_joined(world: World) -> None:
    made = msgspec.json.encode(_ask(model="echo:slow", background=True, stream=True))
    call = HttpCall(world.services, Caller("anne"), "", "POST", RESPONSES, {}, {}, {}, made)
    async with aclosing((await create(call)).chunks) as chunks:  # type: ignore[union-attr]
        first = b""
        while not first:
            first = await anext(chunks)
    id = stateful.read(first)[0]["response"]["id"]  # the client left; the response goes on
    events = await world.events("GET", f"{RESPONSES}/{id}?stream=true&starting_after=0")
    assert [event["sequence_number"] for event in events] == list(range(1, 12))
    assert events[-1]["type"] == "response.completed"


async def test_only_background_streams_can_be_read_again(world: World) -> None:
    made = await world.ask("POST", RESPONSES, _ask())
    status, error = await world.refused("GET", f"{RESPONSES}/{made['id']}?stream=true")
    assert (status, error["param"]) == (400, "stream")


async def test_a_background_response_does_not_outlive_the_server(home: Path) -> None:
    async with stateful.world(home) as world:
        made = await world.ask("POST", RESPONSES, _slow())
        await _until(world, made["id"], "in_progress")
    async with stateful.world(home) as world:
        found = await world.ask("GET", f"{RESPONSES}/{made['id']}")
        assert found["status"] == "failed"
        assert "server ended" in found["error"]["message"]


# ---- conversations ---------------------------------------------------------------------------

CONVERSATIONS = "/v1/conversations"


async def test_a_conversation_collects_what_is_said_in_it(world: World) -> None:
    items = [{"role": "user", "content": "I am Ada"}]
    made = await world.ask("POST", CONVERSATIONS, {"items": items, "metadata": {"a": "b"}})
    assert (made["object"], made["metadata"]) == ("conversation", {"a": "b"})
    answer = await world.ask("POST", RESPONSES, _ask(input="hello", conversation=made["id"]))
    assert answer["conversation"] == {"id": made["id"]}
    assert answer["usage"]["input_tokens"] == 4
    await world.ask("POST", RESPONSES, _ask(input="bye", conversation={"id": made["id"]}))
    path = f"{CONVERSATIONS}/{made['id']}/items"
    listed = await world.ask("GET", f"{path}?order=asc")
    said = [(item["role"], item["content"][0]["text"]) for item in listed["data"]]
    assert said == [
        ("user", "I am Ada"),
        ("user", "hello"),
        ("assistant", "hello"),
        ("user", "bye"),
        ("assistant", "bye"),
    ]
    page = await world.ask("GET", f"{path}?limit=2&after={listed['data'][3]['id']}")
    assert [item["id"] for item in page["data"]] == [listed["data"][n]["id"] for n in (2, 1)]
    one = await world.ask("GET", f"{path}/{listed['data'][0]['id']}")
    assert one == listed["data"][0]
    await world.ask("DELETE", f"{path}/{one['id']}")
    assert (await world.refused("GET", f"{path}/{one['id']}"))[0] == 404
    assert (await world.client.get(path, headers={"x-key": "ben"})).status_code == 404


async def test_a_conversation_is_changed_added_to_and_deleted(world: World) -> None:
    made = await world.ask("POST", CONVERSATIONS)
    one = f"{CONVERSATIONS}/{made['id']}"
    changed = await world.ask("POST", one, {"metadata": {"c": "d"}})
    assert await world.ask("GET", one) == changed == {**made, "metadata": {"c": "d"}}
    added = await world.ask("POST", f"{one}/items", {"items": [{"role": "user", "content": "x"}]})
    assert added["data"][0]["content"] == [{"type": "input_text", "text": "x"}]
    assert await world.ask("DELETE", one) == {
        "id": made["id"], "object": "conversation.deleted", "deleted": True,
    }  # fmt: skip
    for path in (one, f"{one}/items"):
        assert (await world.refused("GET", path))[0] == 404
    assert list(await world.records.list(made["id"], Caller("anne"))) == []
    assert (await world.refused("POST", RESPONSES, _ask(conversation=made["id"])))[0] == 404


# ---- what is asked ---------------------------------------------------------------------------


def _user(part: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [_user({"type": "input_audio"})]}, "input[0].content[0]"),
        (
            {"input": [_user({"type": "input_image", "image_url": "http://x"})]},
            "input[0].content[0].image_url",
        ),
        ({"input": [{"type": "function_call", "name": "x"}]}, "input[0].call_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "no good"}]}, "tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice"),
        ({"tool_choice": {"type": "mcp", "server_label": "x"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"include": ["nonsense"]}, "include[0]"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"metadata": {"k": "v" * 513}}, "metadata[...]"),
        ({"truncation": "often"}, "truncation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"background": True, "store": False}, "store"),
        ({"previous_response_id": "resp_none"}, "previous_response_id"),
        ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_what_cannot_be_done_is_refused_by_name(world: World, more: Any, param: str) -> None:
    body = {key: value for key, value in _ask(**more).items() if value is not None}
    status, error = await world.refused("POST", RESPONSES, body)
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)


async def test_what_this_server_never_does_is_501(world: World) -> None:
    assert (await world.refused("POST", RESPONSES, _ask(moderation={"model": "m"})))[0] == 501
    assert (await world.refused("POST", f"{RESPONSES}/compact", {"model": "m"}))[0] == 501


def _create(**more: Any) -> chat.Request:
    asked = msgspec.convert(_ask(**more), CreateResponse)
    items = items_of(asked.input, "x")
    return request(asked, messages(items, asked.instructions))


def test_everything_becomes_one_request() -> None:
    asked = _create(
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "And kind."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
                ],
            },
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
            },
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": '{"a":1}'},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {
                "type": "function_call_output",
                "call_id": "c2",
                "output": [{"type": "input_text", "text": "a hat"}],
            },
        ],
        tools=[{**TOOL, "name": "look", "description": "Look.", "strict": True}],
        tool_choice={"type": "function", "name": "look"},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        seed=3,
        stop="END",
        max_output_tokens=9,
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        reasoning={"effort": "high"},
    )
    assert asked == chat.Request(
        model="echo:any",
        messages=(
            chat.Message(
                "system",
                (chat.TextPart("Be brief."), chat.TextPart("\n\n"), chat.TextPart("And kind.")),
            ),
            chat.Message(
                "user",
                (
                    chat.TextPart("What is it?"),
                    chat.ImagePart(b"\x89PNG\r\n\x1a\n rest", "image/png"),
                ),
            ),
            chat.Message(
                "assistant",
                (
                    chat.ThoughtPart("hm"),
                    chat.TextPart("I look."),
                    chat.ToolCallPart("c1", "look", "{}"),
                    chat.ToolCallPart("c2", "look", '{"a":1}'),
                ),
            ),
            chat.Message("tool", (chat.ToolResultPart("c1", "a cat"),)),
            chat.Message("tool", (chat.ToolResultPart("c2", "a hat"),)),
        ),
        sampling=chat.Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=3),
        max_tokens=9,
        stop=("END",),
        tools=(chat.Tool("look", "Look.", TOOL["parameters"]),),  # type: ignore[arg-type]
        tool_choice="look",
        parallel_tools=False,
        json_schema={"type": "object"},
        effort="high",
    )


def test_two_answers_in_a_row_stay_two() -> None:
    said = _create(input=[{"role": "assistant", "content": text} for text in ("a", "b")])
    assert [message.text for message in said.messages] == ["a", "b"]


@pytest.mark.parametrize(
    ("effort", "thinking", "left"),
    [("none", False, None), ("low", None, "low"), ("minimal", False, "low")],
)
def test_effort(effort: str, thinking: bool | None, left: str | None) -> None:
    asked = _create(reasoning={"effort": effort})
    assert (asked.thinking, asked.effort) == (thinking, left)


def test_allowed_tools_narrow_the_tools() -> None:
    tools = [{**TOOL, "name": name} for name in ("a", "b", "c")]
    choice = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "b"}],
    }
    asked = _create(tools=tools, tool_choice=choice)
    assert ([tool.name for tool in asked.tools], asked.tool_choice) == (["b"], "required")


async def test_custom_tools_take_and_give_text(world: World) -> None:
    tools = [{"type": "custom", "name": "shell", "description": "Run."}]
    events = await world.events(
        "POST", RESPONSES, _ask(model="echo:tool", tools=tools, stream=True)
    )
    added, delta, done, item = events[2:6]
    assert added["item"]["type"] == item["item"]["type"] == "custom_tool_call"
    assert delta["type"] == "response.custom_tool_call_input.delta"
    # echo answers with {"text": …} whatever it is given, which is not what it was told
    assert delta["delta"] == done["input"] == item["item"]["input"] == '{"text": "one two three"}'
    back = [
        {"type": "custom_tool_call", "call_id": "c", "name": "shell", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "a b"},
    ]
    call, result = _create(input=back, tools=tools).messages
    assert call.parts == (chat.ToolCallPart("c", "shell", '{"input":"ls"}'),)
    assert result.parts == (chat.ToolResultPart("c", "a b"),)


def test_a_custom_call_is_told_by_its_text() -> None:
    telling = ResponseStream(
        Response(id="resp_x", created_at=0, model="m"), customs=frozenset({"shell"})
    )
    for event in (
        chat.ToolCall(0, "c1", "shell", '{"inp'),
        chat.ToolCall(0, "", "", 'ut": "ls"}'),
        chat.ToolCall(1, "c2", "note", "{}"),
        chat.Usage(1, 2),
        chat.Done("tool_calls"),
    ):
        telling.add(event)  # type: ignore[arg-type]
    custom, call = telling.response.output
    assert (custom.input, custom.call_id, custom.status) == ("ls", "c1", "completed")
    assert (call.arguments, call.call_id) == ("{}", "c2")


async def test_tokens_are_counted_without_an_answer(world: World) -> None:
    seen = []

    async def count(caller: Any, request: chat.Request) -> int:
        seen.append(request)
        return 42

    world.services.count = count  # type: ignore[method-assign]
    first = await world.ask("POST", RESPONSES, _ask(input="before"))
    body = _ask(previous_response_id=first["id"], personality="friendly", instructions="I")
    assert await world.ask("POST", f"{RESPONSES}/input_tokens", body) == {
        "object": "response.input_tokens", "input_tokens": 42,
    }  # fmt: skip
    assert [m.text for m in seen[0].messages] == ["I", "before", "before", "one two three"]


# ---- hostile input ---------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "role", "content", "text", "id", "output", "call_id", "name", "summary",
                 "image_url", "input", "arguments"]
            ),
            inner | st.sampled_from(
                ["message", "user", "assistant", "input_text", "function_call", "reasoning",
                 "function_call_output", "custom_tool_call", "item_reference", "input_image"]
            ),
            max_size=5,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(items=st.lists(_json, max_size=3))
def test_any_items_are_read_or_refused(items: list[Any]) -> None:
    try:
        asked = msgspec.convert({"model": "m", "input": items}, CreateResponse)
    except msgspec.ValidationError:
        return
    try:
        made = items_of(asked.input, "f" * 24)
    except BadBody:
        return
    assert len(made) == len(items)
    # What is kept is read again with the next turn: it must come to the same.
    again = items_of(msgspec.json.decode(msgspec.json.encode(made)), "0" * 24)
    assert again == made
    messages([item for item in made if item["type"] != "item_reference"])


JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "\n",
    "\0",
    "x" * 300,
    "\N{SNOWMAN}",
    [],
    {},
    [[]],
    [None],
    {"id": 1},
    {"type": []},
    {"format": {"type": "json_schema"}},
    {"type": "allowed_tools"},
    {"type": "allowed_tools", "tools": [1]},
    [{"id": "\0"}],
    [{"type": "message"}],
    [{"type": ["message"], "role": {}}],
    [{"type": "function", "name": {}}],
    [{"role": "user", "content": [{"type": "input_text", "text": []}]}],
    [{"type": "function_call_output", "call_id": "x", "output": [{"type": "input_image"}]}],
]
FULL: dict[str, dict[str, Any]] = {
    RESPONSES: _ask(
        instructions="i", previous_response_id=None, conversation=None, background=None,
        include=[], max_output_tokens=5, metadata={}, parallel_tool_calls=True, reasoning={},
        store=True, stream=False, text={}, tool_choice="auto", tools=[], top_logprobs=0,
        temperature=1, top_p=1, truncation="auto", user="u", stop=None, seed=1, keep_alive=None,
        chat_template_kwargs=None,
    ),
    f"{RESPONSES}/input_tokens": _ask(personality="p", conversation=None, text={}),
    f"{RESPONSES}/compact": {"model": "m"},
    CONVERSATIONS: {"items": [], "metadata": {}},
    "/v1/batches": {
        "input_file_id": "f", "endpoint": "/v1/responses", "completion_window": "24h",
        "metadata": {}, "output_expires_after": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("path", FULL)
async def test_no_body_breaks_the_server(world: World, path: str) -> None:
    """Each field in turn is everything it should not be: refused by name, or done."""
    for field in FULL[path]:
        for junk in JUNK:
            answer = await world.client.post(path, json={**FULL[path], field: junk})
            assert answer.status_code in (200, 400, 404, 501), (field, junk, answer.text)
            if answer.status_code != 200 and "error" in answer.json():
                assert answer.json()["error"]["message"]
    for body in (b"", b"[]", b"{", b"\xff", b"[" * 5000, b'"x"', b"null"):
        answer = await world.client.post(path, content=body)
        assert answer.status_code in (200, 400, 501), body


@pytest.mark.parametrize("id", ["%00", "%2e%2e", "x" * 3000, "%F0%9F%98%80", "a b", "'", "resp_"])
async def test_no_address_breaks_the_server(world: World, id: str) -> None:
    for method, path in [
        ("GET", f"{RESPONSES}/{id}"),
        ("DELETE", f"{RESPONSES}/{id}"),
        ("POST", f"{RESPONSES}/{id}/cancel"),
        ("GET", f"{RESPONSES}/{id}/input_items"),
        ("GET", f"{CONVERSATIONS}/{id}/items/{id}"),
        ("GET", f"/v1/files/{id}/content"),
        ("POST", f"/v1/batches/{id}/cancel"),
        ("GET", f"/v1/files?after={id}"),
    ]:
        assert (await world.client.request(method, path)).status_code == 404, path


_event = st.one_of(
    st.builds(chat.Text, st.text(max_size=5)),
    st.builds(chat.Thought, st.text(max_size=5)),
    st.builds(
        chat.ToolCall,
        st.integers(0, 3),
        st.just("id"),
        st.sampled_from(["f", "c"]),
        st.text(max_size=5),
    ),
    st.builds(lambda t: chat.Logprobs((chat.TokenLogprob(t, -1.5),)), st.text(max_size=3)),
    st.just(chat.Progress(1, 2)),
    st.just(chat.Usage(3, 2)),
)


@given(
    events=st.lists(_event, max_size=20),
    last=st.sampled_from(
        [chat.Done("stop"), chat.Done("length"), chat.Failed("engine_failed", "x")]
    ),
    logprobs=st.booleans(),
)
def test_any_events_make_a_stream_that_adds_up(
    events: list[Any], last: Any, logprobs: bool
) -> None:
    """The invariants a client's accumulator stands on, for any engine."""
    told = ResponseStream(
        Response(id=f"resp_{'0' * 24}", created_at=0, model="m"),
        customs=frozenset({"c"}),
        logprobs=logprobs,
    )
    told.begin()
    told.start()
    for event in [*events, last]:
        told.add(event)
        if told.over:
            break
    told.end()
    sent = stateful.read(b"".join(told.take()))
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    opened: dict[int, Any] = {}
    texts: dict[int, str] = {}
    for event in sent:
        kind, index = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert index == len(opened)
            opened[index] = event["item"]
            texts[index] = ""
        elif kind.endswith(".delta"):
            assert event["item_id"] == opened[index]["id"]
            assert index == len(opened) - 1
            texts[index] += event["delta"]
        elif kind == "response.output_item.done":
            item = event["item"]
            assert item["id"] == opened[index]["id"]
            whole = item.get("arguments", item.get("input"))
            assert texts[index] == (item["content"][0]["text"] if whole is None else whole)
    assert [item["id"] for item in sent[-1]["response"]["output"]] == [
        item["id"] for item in opened.values()
    ]
    text = "".join(e.text for e in events if isinstance(e, chat.Text))
    if sent[-1]["type"] != "response.failed":
        assert _text(sent[-1]["response"]) == text


def test_a_delta_is_cheap() -> None:
    """A gateway may cost 8 µs an event; this one costs 0.4 µs where nothing else runs."""
    told = ResponseStream(Response(id=f"resp_{'0' * 24}", created_at=0, model="m"))
    event = chat.Text("word ")
    best = 10**9
    for _ in range(5):
        begin = perf_counter_ns()
        for _ in range(2000):
            told.add(event)
            told.take()
        best = min(best, (perf_counter_ns() - begin) // 2000)
    assert best < 8_000, f"{best} ns an event"
