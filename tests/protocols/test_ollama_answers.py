"""Ollama's API by its handlers: what becomes of a request, and what of the events."""

import base64
import json
import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from time import process_time
from typing import Any

import pytest
from ollama_desk import PLAIN, Desk

import overt.errors as errors
from overt.chat import (
    Answer,
    Done,
    Event,
    Failed,
    ImagePart,
    Logprobs,
    Message,
    Progress,
    Sampling,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from overt.models.sources.base import FetchProgress
from overt.protocols.base import BadBody, HttpReply, ModelHold, Stream
from overt.protocols.ollama import PROTOCOL, answer, wire
from overt.protocols.ollama.chat import _body

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
HELLO: tuple[Event, ...] = (
    Progress(3, 3), Text("Hel"), Text("lo \"ü\"\n"), Usage(3, 2, 1, 0.5, 0.25), Done("stop"),
)  # fmt: skip
USER = [{"role": "user", "content": "hi"}]


# ---- answers -------------------------------------------------------------------------------


async def test_chat_streams_by_default() -> None:
    lines = await Desk(HELLO).lines("/api/chat", {"model": "plain", "messages": USER})
    assert [line["message"] for line in lines] == [
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": 'lo "ü"\n'},
        {"role": "assistant", "content": ""},
    ]
    assert [line["done"] for line in lines] == [False, False, True]
    assert {line["model"] for line in lines} == {"plain"}
    last = lines[-1]
    assert last["done_reason"] == "stop"
    assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (500_000_000, 250_000_000)
    assert last["total_duration"] > 0
    assert last["load_duration"] >= 0
    assert last["prompt_eval_cached_count"] == 1
    assert "done_reason" not in lines[0]


async def test_chat_as_a_whole() -> None:
    found = await Desk(HELLO).ask(
        "/api/chat", {"model": "plain", "messages": USER, "stream": False}
    )
    assert found["message"] == {"role": "assistant", "content": 'Hello "ü"\n'}
    assert (found["done"], found["done_reason"], found["eval_count"]) == (True, "stop", 2)


async def test_generate_streams_and_ends_with_its_context() -> None:
    desk = Desk(HELLO)
    lines = await desk.lines("/api/generate", {"model": "plain", "prompt": "hi"})
    assert [line["response"] for line in lines] == ["Hel", 'lo "ü"\n', ""]
    assert lines[-1]["context"] == [ord(c) for c in '<user>hiHello "ü"\n']
    assert desk.asked[0].messages == (Message.of("user", "hi"),)
    assert desk.closed == 1


async def test_generate_without_tokens_has_no_context() -> None:
    desk = Desk(HELLO)
    desk.tokens = False
    found = await desk.ask("/api/generate", {"model": "plain", "prompt": "hi", "stream": False})
    assert found["response"] == 'Hello "ü"\n'
    assert "context" not in found


async def test_a_limit_is_told() -> None:
    events = (Text("a"), Usage(1, 1), Done("length"))
    lines = await Desk(events).lines("/api/chat", {"model": "plain", "messages": USER})
    assert lines[-1]["done_reason"] == "length"


async def test_thoughts_are_kept_apart() -> None:
    events = (Thought("hm"), Text("yes"), Usage(1, 2), Done("stop"))
    body = {"model": "thinker", "messages": USER, "think": True}
    lines = await Desk(events).lines("/api/chat", body)
    assert lines[0]["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert lines[1]["message"] == {"role": "assistant", "content": "yes"}
    whole = await Desk(events).ask("/api/chat", {**body, "stream": False})
    assert whole["message"] == {"role": "assistant", "content": "yes", "thinking": "hm"}
    lines = await Desk(events).lines(
        "/api/generate", {"model": "thinker", "prompt": "x", "think": "low"}
    )
    assert (lines[0]["response"], lines[0]["thinking"]) == ("", "hm")


async def test_tool_calls_come_whole() -> None:
    events = (
        Text("let me see"), ToolCall(0, "c1", "look", '{"a":'), ToolCall(0, "", "", "1}"),
        ToolCall(1, "c2", "wait", ""), Usage(1, 2), Done("tool_calls"),
    )  # fmt: skip
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    desk = Desk(events)
    body = {"model": "thinker", "messages": USER, "tools": [tool]}
    lines = await desk.lines("/api/chat", body)
    calls = [
        {"id": "c1", "function": {"index": 0, "name": "look", "arguments": {"a": 1}}},
        {"id": "c2", "function": {"index": 1, "name": "wait", "arguments": {}}},
    ]
    assert lines[1]["message"] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert lines[-1]["done_reason"] == "stop"
    assert desk.asked[0].tools == (Tool("look", "", {"type": "object"}),)
    whole = await Desk(events).ask("/api/chat", {**body, "stream": False})
    assert whole["message"]["tool_calls"] == calls


@pytest.mark.parametrize("arguments", ['{"a": 1', "[1]", "x"])
async def test_a_call_that_was_cut_off_is_left_out(arguments: str) -> None:
    events = (ToolCall(0, "c", "look", arguments), Usage(1, 1), Done("length"))
    lines = await Desk(events).lines("/api/chat", {"model": "thinker", "messages": USER})
    assert [line["done"] for line in lines] == [True]
    assert lines[0]["done_reason"] == "length"


def token(text: str, logprob: float | None = -0.5) -> TokenLogprob:
    return TokenLogprob(text, logprob, ((text, -0.5), ("other", -1.5)))


async def test_logprobs_come_with_their_text() -> None:
    events = (
        Text("a"), Logprobs((token("a"),)), Text("b"), Logprobs((token("b"), token("c"))),
        Usage(1, 3), Done("stop"),
    )  # fmt: skip
    body = {"model": "plain", "messages": USER, "logprobs": True, "top_logprobs": 2}
    desk = Desk(events)
    lines = await desk.lines("/api/chat", body)
    assert desk.asked[0].logprobs == 2
    assert [line["message"]["content"] for line in lines] == ["a", "b", ""]
    top = [
        {"token": "a", "logprob": -0.5, "bytes": [97]},
        {"token": "other", "logprob": -1.5, "bytes": list(b"other")},
    ]
    assert lines[0]["logprobs"] == [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": top}
    ]
    assert [one["token"] for one in lines[1]["logprobs"]] == ["b", "c"]
    assert "logprobs" not in lines[2]
    whole = await Desk(events).ask("/api/chat", {**body, "stream": False})
    assert [one["token"] for one in whole["logprobs"]] == ["a", "b", "c"]


# ---- what is asked of the engine -------------------------------------------------------------


async def test_every_field_of_generate_arrives() -> None:
    desk = Desk(HELLO)
    await desk.lines(
        "/api/generate",
        {
            "model": "thinker", "prompt": "p", "system": "s", "format": {"type": "string"},
            "images": [base64.b64encode(PNG).decode()], "think": "high", "keep_alive": "5m",
            "options": {"temperature": 0, "seed": 1, "stop": "x", "num_predict": 9, "num_ctx": 77},
            "truncate": True, "shift": False, "future_field": {"a": 1},
        },
    )  # fmt: skip
    asked = desk.asked[0]
    assert asked.messages == (
        Message.of("system", "s"),
        Message("user", (ImagePart(PNG, "image/png"), TextPart("p"))),
    )
    assert asked.json_schema == {"type": "string"}
    assert (asked.thinking, asked.effort) == (True, "high")
    assert asked.sampling == Sampling(temperature=0.0, seed=1)
    assert (asked.stop, asked.max_tokens) == (("x",), 9)
    assert desk.held == [ModelHold(300.0, 77)]


async def test_a_context_is_continued_by_its_tokens() -> None:
    desk = Desk(HELLO)
    lines = await desk.lines("/api/generate", {"model": "plain", "prompt": "x", "context": [1, 2]})
    prompt = (1, 2, *map(ord, "<user>x"))
    assert (desk.asked[0].prompt, desk.asked[0].messages) == (prompt, ())
    assert lines[-1]["context"] == [*prompt, *map(ord, 'Hello "ü"\n')]


async def test_raw_is_the_prompt_as_it_stands() -> None:
    desk = Desk(HELLO)
    lines = await desk.lines("/api/generate", {"model": "plain", "prompt": "x", "raw": True})
    assert (desk.asked[0].prompt, desk.asked[0].messages) == ("x", ())
    assert "context" not in lines[-1]


@pytest.mark.parametrize("more", [{"system": "s"}, {"template": "t"}, {"context": [1]}])
async def test_raw_excludes(more: dict[str, Any]) -> None:
    with pytest.raises(errors.BadRequest, match="raw mode does not support"):
        await Desk().raw("/api/generate", {"model": "plain", "prompt": "x", "raw": True, **more})


async def test_a_suffix_is_a_gap_to_fill() -> None:
    desk = Desk(HELLO)
    await desk.lines("/api/generate", {"model": "plain", "prompt": "a", "suffix": "b"})
    assert (desk.asked[0].prompt, desk.asked[0].suffix) == ("a", "b")
    for more in ({"template": "t"}, {"context": [1]}):
        with pytest.raises(errors.BadRequest, match="a suffix goes neither"):
            await desk.raw(
                "/api/generate", {"model": "plain", "prompt": "a", "suffix": "b", **more}
            )


async def test_a_template_of_the_clients_own() -> None:
    desk = Desk(HELLO)
    body = {"model": "plain", "prompt": "p", "system": "s", "template": "T"}
    await desk.lines("/api/generate", body)
    given = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    assert desk.asked[0].prompt == "T" + json.dumps(given)


@pytest.mark.parametrize(
    "more", [{"raw": True}, {"suffix": "b"}, {"template": "t"}, {"context": [1]}]
)
async def test_images_go_with_a_plain_prompt_only(more: dict[str, Any]) -> None:
    body = {"model": "plain", "prompt": "x", "images": [base64.b64encode(PNG).decode()], **more}
    with pytest.raises(errors.BadRequest, match="images exclude each other"):
        await Desk().raw("/api/generate", body)


async def test_a_conversation_with_everything_in_it() -> None:
    call = {"function": {"name": "look", "arguments": {"a": 1}}}
    named = {"id": "x9", "function": {"name": "wait", "arguments": {}}}
    desk = Desk(HELLO)
    await desk.lines(
        "/api/chat",
        {
            "model": "thinker",
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u", "images": [base64.b64encode(PNG).decode()]},
                {"role": "assistant", "thinking": "t", "tool_calls": [call, named]},
                {"role": "tool", "content": "r2", "tool_call_id": "x9"},
                {"role": "tool", "content": "r1", "tool_name": "look"},
                {"role": "assistant", "content": None},
            ],
        },
    )
    assert desk.asked[0].messages == (
        Message.of("system", "s"),
        Message("user", (ImagePart(PNG, "image/png"), TextPart("u"))),
        Message(
            "assistant",
            (
                ThoughtPart("t"),
                ToolCallPart("call_0", "look", '{"a":1}'),
                ToolCallPart("x9", "wait", "{}"),
            ),
        ),
        Message("tool", (ToolResultPart("x9", "r2"),)),
        Message("tool", (ToolResultPart("call_0", "r1"),)),
        Message.of("assistant", ""),
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"messages": [{"role": "wizard", "content": "x"}]}, "invalid role"),
        ({"messages": [{"role": "user", "content": "x", "images": ["!"]}]}, "image"),
        ({"messages": USER, "tools": [{"function": {"name": ""}}]}, "no name"),
        ({"messages": USER, "format": "xml"}, "invalid format"),
        ({"messages": USER, "options": {"seed": "x"}}, "must be of type integer"),
        ({"messages": USER, "keep_alive": "soon"}, "invalid duration"),
        ({"messages": USER, "top_logprobs": 21}, "between 0 and 20"),
        ({"messages": "hi"}, "Expected `array"),
    ],
)
async def test_what_makes_no_sense_is_refused(body: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.BadRequest, match=says) as caught:
        await Desk().raw("/api/chat", {"model": "thinker", **body})
    assert caught.value.status == 400


async def test_no_body() -> None:
    for path in ("/api/chat", "/api/generate", "/api/show", "/api/pull", "/api/embed"):
        with pytest.raises(errors.BadRequest, match="missing request body"):
            await Desk().raw(path)


# ---- models that are not asked anything ------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_without_a_question_a_model_is_loaded(path: str) -> None:
    desk = Desk()
    found = await desk.ask(path, {"model": "plain", "keep_alive": -1})
    assert (found["done"], found["done_reason"]) == (True, "load")
    assert desk.held == [ModelHold(math.inf)]
    found = await desk.ask(path, {"model": "plain", "keep_alive": 0})
    assert found["done_reason"] == "unload"
    assert desk.unloaded == ["plain"]


@pytest.mark.parametrize("name", ["plain:latest", "library/plain"])
async def test_latest_falls_back_to_the_name(name: str) -> None:
    desk = Desk(HELLO)
    lines = await desk.lines("/api/chat", {"model": name, "messages": USER})
    assert desk.asked[0].model == "plain"
    assert lines[0]["model"] == name, "the client's own word"


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/show", "/api/embed"])
async def test_a_model_that_is_not_there_in_ollamas_words(path: str) -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        await Desk().raw(path, {"model": "nothing", "prompt": "x", "input": "x", "messages": USER})
    reply = PROTOCOL.refuse(caught.value, "req_1")
    assert (reply.status, reply.content) == (404, {"error": "model 'nothing' not found"})


async def test_what_a_model_cannot_do_is_told_in_ollamas_words() -> None:
    with pytest.raises(errors.BadRequest, match=r'^"vectors" does not support generate$'):
        await Desk().raw("/api/chat", {"model": "vectors", "messages": USER})
    with pytest.raises(errors.BadRequest, match=r'^"plain" does not support thinking$'):
        await Desk().raw("/api/chat", {"model": "plain", "messages": USER, "think": True})
    desk = Desk(HELLO)
    await desk.lines("/api/chat", {"model": "plain", "messages": USER, "think": False})
    assert desk.asked[0].thinking is False


async def test_where_the_files_say_nothing_the_engine_has_the_last_word() -> None:
    desk = Desk(HELLO)
    desk.library.cards["odd"] = replace(PLAIN, id="odd", capabilities=())
    await desk.lines("/api/chat", {"model": "odd", "messages": USER, "think": True})
    assert desk.asked[0].thinking is True


async def test_only_the_rendering() -> None:
    body = {"model": "plain", "messages": USER, "_debug_render_only": True}
    found = await Desk().ask("/api/chat", body)
    assert found["_debug_info"] == {"rendered_template": "<user>hi"}
    body = {"model": "plain", "prompt": "p", "_debug_render_only": True}
    found = await Desk().ask("/api/generate", body)
    assert found["_debug_info"] == {"rendered_template": "<user>p"}


# ---- embeddings ----------------------------------------------------------------------------


async def test_embeddings() -> None:
    desk = Desk()
    body = {"model": "vectors", "input": ["a", "b"], "dimensions": 2, "truncate": False}
    found = await desk.ask("/api/embed", body)
    assert found["embeddings"] == [[1.0, 0.0], [1.0, 0.0]]
    assert (found["model"], found["prompt_eval_count"]) == ("vectors", 7)
    asked = desk.embedded[0]
    assert (asked.inputs, asked.dimensions, asked.truncate) == (("a", "b"), 2, False)
    found = await desk.ask("/api/embed", {"model": "vectors", "input": "a"})
    assert len(found["embeddings"]) == 1
    assert desk.embedded[1].truncate, "the default"
    assert (await desk.ask("/api/embed", {"model": "vectors", "input": []}))["embeddings"] == []
    old = await desk.ask("/api/embeddings", {"model": "vectors", "prompt": "a"})
    assert old == {"embedding": [1.0, 0.0]}


async def test_more_texts_than_are_embedded_at_once() -> None:
    desk = Desk()
    await desk.ask("/api/embed", {"model": "vectors", "input": ["a"] * 2048})
    with pytest.raises(BadBody, match="input holds 100000 texts; 2048 is the most"):
        await desk.ask("/api/embed", {"model": "vectors", "input": ["a"] * 100_000})
    assert len(desk.embedded) == 1


async def test_only_models_of_the_store_are_shown() -> None:
    for name in ("http://127.0.0.1:1/v1#m", "openai:gpt-5", "echo:x", "nothing"):
        with pytest.raises(errors.ModelNotFound, match="not found"):
            await Desk().ask("/api/show", {"model": name})


async def test_what_a_new_model_cannot_use_is_told_before_success() -> None:
    steps = [FetchProgress("reading", 1, 2), FetchProgress("the template is not used", 0, None)]

    async def create(name: str, **_: Any) -> AsyncGenerator[FetchProgress, None]:
        for step in steps:
            yield step

    desk = Desk()
    desk.library.create = create  # type: ignore[attr-defined]
    body = {"model": "mine", "from": "plain", "template": "{{ .Bad"}
    lines = await desk.lines("/api/create", body)
    assert [line["status"] for line in lines][-2:] == ["the template is not used", "success"]
    whole = await desk.ask("/api/create", {**body, "stream": False})
    assert whole == {"status": "success", "notices": ["the template is not used"]}
    steps.pop()
    assert await desk.ask("/api/create", {**body, "stream": False}) == {"status": "success"}


# ---- lists ---------------------------------------------------------------------------------


async def test_tags_and_ps() -> None:
    first = (await Desk().ask("/api/tags", method="GET"))["models"][0]
    details = {
        "parent_model": "", "format": "gguf", "family": "llama", "families": ["llama"],
        "parameter_size": "134.52M", "quantization_level": "Q4_1", "context_length": 8192,
        "embedding_length": 576,
    }  # fmt: skip
    assert first == {
        "name": "thinker:latest", "model": "thinker:latest", "size": 1000, "digest": "a" * 64,
        "modified_at": "2023-11-14T22:13:20.500000000Z", "details": details,
        "capabilities": ["completion", "tools", "thinking", "vision"],
    }  # fmt: skip
    (running,) = (await Desk().ask("/api/ps", method="GET"))["models"]
    assert (running["size"], running["size_vram"], running["context_length"]) == (5000, 0, 2048)
    assert running["expires_at"] > "2300"


async def test_the_small_addresses() -> None:
    root = await Desk().raw("/", method="GET")
    assert isinstance(root, HttpReply)
    assert (root.body(), root.media_type) == (b"Ollama is running", "text/plain; charset=utf-8")
    version = await Desk().ask("/api/version", method="GET")
    assert version == {"version": wire.VERSION, "overt": "9.9"}
    status = await Desk().ask("/api/status", method="GET")
    assert status["cloud"]["disabled"] is True
    for path in ("/api/me", "/api/signout", "/api/experimental/web_search"):
        with pytest.raises(errors.OvertError, match="ollama cloud is disabled") as caught:
            await Desk().raw(path, {})
        assert caught.value.status == 403


async def test_what_push_and_create_cannot_do() -> None:
    with pytest.raises(errors.BadRef, match="no registry"):
        await Desk().raw("/api/push", {"model": "plain"})
    with pytest.raises(errors.Unsupported, match="does not quantize"):
        await Desk().raw("/api/create", {"model": "x", "from": "plain", "quantize": "q4_K_M"})
    with pytest.raises(errors.BadRequest, match="model is required"):
        await Desk().raw("/api/create", {"from": "plain"})


# ---- errors --------------------------------------------------------------------------------


def kinds() -> list[type[errors.OvertError]]:
    found: list[type[errors.OvertError]] = []
    waiting = [errors.OvertError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__ == errors.__name__:
            found.append(kind)
    return sorted(found, key=lambda kind: kind.__name__)


def made(kind: type[errors.OvertError]) -> errors.OvertError:
    return (
        errors.ContextExceeded(9, 5) if kind is errors.ContextExceeded else kind("bad", "do this")
    )


@pytest.mark.parametrize("kind", kinds())
async def test_every_error_in_ollamas_form(kind: type[errors.OvertError]) -> None:
    error = made(kind)
    reply = PROTOCOL.refuse(error, "req_1")
    assert (reply.status, reply.content) == (kind.status, {"error": str(error)})


@pytest.mark.parametrize("kind", kinds())
async def test_every_error_that_comes_late(kind: type[errors.OvertError]) -> None:
    error = made(kind)
    events = (Text("a"), Failed(error.code, error.message, error.hint))
    body = {"model": "plain", "messages": USER}
    lines = await Desk(events).lines("/api/chat", body)
    assert lines[0]["message"]["content"] == "a"
    assert lines[1:] == [{"error": str(error)}]
    with pytest.raises(errors.OvertError) as caught:
        await Desk(events).raw("/api/chat", {**body, "stream": False})
    assert (caught.value.status, str(caught.value)) == (kind.status, str(error))


async def test_an_error_before_the_first_piece_is_raised() -> None:
    answer_ = await Desk(errors.Busy("full", retry_after=3)).raw(
        "/api/chat", {"model": "plain", "messages": USER}
    )
    assert isinstance(answer_, Stream)
    with pytest.raises(errors.Busy) as caught:
        await anext(answer_.chunks)
    assert PROTOCOL.refuse(caught.value, "").headers == {"retry-after": "3"}


async def test_closing_the_answer_closes_the_events() -> None:
    desk = Desk(HELLO)
    answer_ = await desk.raw("/api/chat", {"model": "plain", "messages": USER})
    assert isinstance(answer_, Stream)
    async with aclosing(answer_.chunks) as chunks:
        await anext(chunks)
        assert desk.closed == 0
    assert desk.closed == 1


# ---- cost ----------------------------------------------------------------------------------


async def test_an_event_costs_little() -> None:
    """The bar is 8 µs an event; a busy machine is allowed three times that."""
    count = 20_000

    async def words() -> Any:
        for _ in range(count):
            yield Text(" word")
        yield Usage(1, count)
        yield Done("stop")

    async def nothing(_: Answer) -> dict[str, Any]:
        return {}

    form = answer.ResponseForm("plain", _body)
    begun = process_time()
    async for _ in answer.lines(words(), form, wire.RequestClock(), nothing):
        pass
    assert (process_time() - begun) / count < 24e-6
