"""What only providers say (who answers, signatures, refusals), told in every protocol."""

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import lmstudio_fake
import pytest
from google.genai import types as google
from ollama_desk import Desk
from openai.types.responses import Response
from wire_rig import Services, ask

from overt.chat import (
    Done,
    Event,
    Message,
    Part,
    Request,
    Routed,
    Text,
    TextPart,
    Thought,
    ThoughtPart,
    ToolCall,
    ToolCallPart,
    Usage,
)
from overt.errors import Busy
from overt.protocols import signed
from overt.protocols.base import AS_EVER, Caller, ModelHold, Protocol
from overt.protocols.gemini import PROTOCOL as GEMINI
from overt.protocols.lmstudio.predict import stop_reason
from overt.protocols.openai import PROTOCOL as OPENAI

pytestmark = pytest.mark.anyio

ROUTED = Routed("anthropic:claude", "it is asked for", "req_9", 100)
CLAUDE: tuple[Event, ...] = (
    ROUTED,
    Thought("Hm"), Thought("m."), Thought("", "c2ln", origin="anthropic"),
    Thought("", "c2VhbGVk", sealed=True, origin="anthropic"),
    Text("Hello"), Text(" you"),
    Usage(30, 20, 10, tokens_written=5, tokens_thought=12), Done("stop"),
)  # fmt: skip
CLAUDES_PARTS: tuple[Part, ...] = (
    ThoughtPart("Hmm.", "c2ln", origin="anthropic"),
    ThoughtPart("", "c2VhbGVk", sealed=True, origin="anthropic"),
    TextPart("Hello you"),
)
GOOGLE: tuple[Event, ...] = (
    ROUTED, Thought("Hm.", origin="gemini"), Text("Hello"),
    Thought("", "c2ln", sealed=True, origin="gemini"),
    ToolCall(0, "c1", "look", "{}", "eHk=", "gemini"), Usage(3, 4), Done("tool_calls"),
)  # fmt: skip
ITEM = {
    "id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm."}],
    "encrypted_content": "gAAAA", "status": "completed",
}  # fmt: skip
GPT: tuple[Event, ...] = (
    ROUTED, Thought("Hm"), Thought("m."), Thought("", json.dumps(ITEM), origin="openai"),
    Text("Hello"), Usage(3, 4), Done("stop"),
)  # fmt: skip
REFUSED: tuple[Event, ...] = (ROUTED, Text("I cannot"), Usage(3, 2), Done("refusal"))
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CONTENTS = [{"role": "user", "parts": [{"text": "Hi"}]}]
THOUGHTS = {"thinkingConfig": {"includeThoughts": True}}


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    found = Services(tmp_path)
    yield found
    await found.close()


async def post(
    services: Services, protocol: Protocol, path: str, body: Any, events: Sequence[Any]
) -> Any:
    services.script = lambda request: events
    return await ask(services, protocol, "POST", path, body)


def data(body: bytes) -> list[Any]:
    """What the ``data:`` lines of a stream hold."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


async def chat(services: Services, events: Sequence[Any], **more: Any) -> Any:
    body = {**CHAT, **more}
    return await post(services, OPENAI, "/v1/chat/completions", body, events)


async def responses(services: Services, events: Sequence[Any], **more: Any) -> Any:
    return await post(
        services, OPENAI, "/v1/responses", {"model": "m", "input": "Hi", **more}, events
    )


async def gemini(services: Services, events: Sequence[Any], verb: str, **more: Any) -> Any:
    body = {"contents": CONTENTS, "generationConfig": THOUGHTS, **more}
    return await post(services, GEMINI, f"/v1beta/models/m:{verb}", body, events)


# ---- who answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "path", "body"),
    [
        (OPENAI, "/v1/chat/completions", {**CHAT, "stream": True}),
        (OPENAI, "/v1/completions", {"model": "m", "prompt": "Hi", "stream": True, "echo": True}),
        (OPENAI, "/v1/responses", {"model": "m", "input": "Hi", "stream": True}),
        (GEMINI, "/v1beta/models/m:streamGenerateContent?alt=sse", {"contents": CONTENTS}),
    ],
)
async def test_who_answers_does_not_begin_the_answer(
    services: Services, protocol: Protocol, path: str, body: Any
) -> None:
    """So an error after it still has a status of its own."""
    failed = await post(services, protocol, path, body, (ROUTED, Busy("too much")))
    assert failed.status == 503
    plain = await post(services, protocol, path, body, CLAUDE[1:])
    routed = await post(services, protocol, path, body, CLAUDE)
    assert len(routed.pieces) >= len(plain.pieces) > 2
    assert len(data(routed.body)) == len(data(plain.body))
    assert b"claude" not in routed.body


# ---- signatures ----------------------------------------------------------------------------


def spoken(services: Services) -> tuple[Part, ...]:
    """What the assistant said, in the last request."""
    request = services.asked[-1]
    assert isinstance(request, Request)
    return tuple(
        part
        for message in request.messages
        if message.role == "assistant"
        for part in message.parts
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_signatures_come_back_through_gemini(services: Services, stream: bool) -> None:
    async def returned(events: Sequence[Event]) -> tuple[Part, ...]:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        answered = await gemini(services, events, verb)
        bodies = data(answered.body) if stream else [answered.json]
        parts = []
        for body in bodies:
            # Google's own client reads signatures as bytes, and writes them in its own base64.
            answer = google.GenerateContentResponse.model_validate(body)
            assert answer.candidates
            assert answer.candidates[0].content
            told = answer.candidates[0].content.model_dump(
                mode="json", by_alias=True, exclude_none=True
            )
            parts += told["parts"]
        await gemini(
            services, events, "generateContent",
            contents=[*CONTENTS, {"role": "model", "parts": parts}, *CONTENTS],
        )  # fmt: skip
        return spoken(services)

    assert await returned(CLAUDE) == CLAUDES_PARTS
    assert await returned(GOOGLE) == (
        ThoughtPart("Hm."),
        TextPart("Hello"),
        ThoughtPart("", "c2ln", sealed=True, origin="gemini"),
        ToolCallPart("c1", "look", "{}", "eHk=", "gemini"),
    )


async def test_gemini_tells_signatures_where_thoughts_are_not_told(services: Services) -> None:
    answered = await gemini(services, CLAUDE, "generateContent", generationConfig={})
    sealed, text = answered.json["candidates"][0]["content"]["parts"]
    assert base64.b64decode(sealed["thoughtSignature"]) == b"overt:anthropic:c2VhbGVk"
    assert text == {"text": "Hello you"}


@pytest.mark.parametrize("stream", [False, True])
async def test_signatures_come_back_through_responses(services: Services, stream: bool) -> None:
    async def output(events: Sequence[Event]) -> list[dict[str, Any]]:
        answered = await responses(services, events, stream=stream, store=False)
        whole = data(answered.body)[-1]["response"] if stream else answered.json
        if stream:  # official clients end a stream in which an item changes its id
            said = [
                (one["type"], one["item"]["id"]) for one in data(answered.body) if "item" in one
            ]
            added = [id for kind, id in said if kind == "response.output_item.added"]
            assert added == [id for kind, id in said if kind == "response.output_item.done"]
            assert added == [item["id"] for item in whole["output"]]
        assert Response.model_validate(whole, strict=True).output
        found: list[dict[str, Any]] = whole["output"]
        return found

    async def returned(items: list[dict[str, Any]]) -> tuple[Part, ...]:
        again = [{"role": "user", "content": "Hi"}, *items, {"role": "user", "content": "And?"}]
        await responses(services, CLAUDE, input=again)
        return spoken(services)

    told = await output(CLAUDE)
    assert [item["type"] for item in told] == ["reasoning", "reasoning", "message"]
    assert told[0]["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
    assert await returned(told) == CLAUDES_PARTS
    for item in told:  # some clients send back nothing else
        if item["type"] == "reasoning":
            item["content"] = []
    assert await returned(told) == CLAUDES_PARTS

    told = await output(GPT)
    assert (told[0] == ITEM) is not stream
    thought, text = await returned(told)
    assert isinstance(thought, ThoughtPart)
    assert (thought.text, thought.origin) == ("Hmm.", "openai")
    assert json.loads(thought.signature or "") == ITEM
    assert text == TextPart("Hello")

    sealed = [Thought("", json.dumps(ITEM), sealed=True, origin="openai"), *GPT[4:]]
    assert (await output(sealed))[0] == ITEM

    told = await output(GOOGLE)
    assert told[-2]["type"] == "reasoning"
    assert told[-1]["type"] == "function_call"
    assert (await returned(told))[-1] == ToolCallPart("c1", "look", "{}", "eHk=", "gemini")


async def test_a_kept_response_keeps_its_signatures(services: Services) -> None:
    first = (await responses(services, CLAUDE)).json
    await responses(services, CLAUDE, previous_response_id=first["id"])
    assert spoken(services) == CLAUDES_PARTS


@pytest.mark.parametrize(
    "secret",
    ["overt:anthropic:", "overt:anthropic:{}", "overt:anthropic:[[", "overt:x:1", "overt::"],
)
async def test_a_broken_seal_is_a_thought_without_one(services: Services, secret: str) -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": secret}
    again = [{"role": "user", "content": "Hi"}, item, {"role": "assistant", "content": "Hello"}]
    assert (await responses(services, CLAUDE, input=again)).status == 200
    (thought, _) = spoken(services)
    assert isinstance(thought, ThoughtPart)
    assert thought.origin in (None, "openai")


async def test_chat_shows_thoughts_and_no_seals(services: Services) -> None:
    whole = (await chat(services, CLAUDE)).json["choices"][0]["message"]
    assert (whole["content"], whole["reasoning_content"]) == ("Hello you", "Hmm.")
    streamed = await chat(services, CLAUDE, stream=True)
    deltas = [one["choices"][0]["delta"] for one in data(streamed.body)]
    assert [d["reasoning"] for d in deltas if "reasoning" in d] == ["Hm", "m."]
    for body in (json.dumps(whole).encode(), streamed.body):
        assert b"c2ln" not in body
        assert b"c2VhbGVk" not in body


async def test_a_call_of_geminis_keeps_its_signature_in_chat(services: Services) -> None:
    signed_call = {"google": {"thought_signature": "eHk="}}
    (call,) = (await chat(services, GOOGLE)).json["choices"][0]["message"]["tool_calls"]
    assert call["extra_content"] == signed_call
    streamed = data((await chat(services, GOOGLE, stream=True)).body)
    deltas = [one["choices"][0]["delta"] for one in streamed]
    assert [d["tool_calls"][0]["extra_content"] for d in deltas if "tool_calls" in d] == [
        signed_call
    ]
    for extra, expected in {
        "eHk=": ToolCallPart("c1", "look", "{}", "eHk=", "gemini"),
        "": ToolCallPart("c1", "look", "{}"),
        7: ToolCallPart("c1", "look", "{}"),
    }.items():
        said = {
            "role": "assistant", "content": None, "reasoning_details": [{"of": "another server"}],
            "tool_calls": [{**call, "extra_content": {"google": {"thought_signature": extra}}}],
        }  # fmt: skip
        messages = [{"role": "user", "content": "Hi"}, said]
        assert (await chat(services, CLAUDE, messages=messages)).status == 200
        assert spoken(services) == (expected,)
    assert "extra_content" not in (await chat(services, CLAUDE)).body.decode()


@pytest.mark.parametrize("logprobs", [False, True])
async def test_ollama_shows_thoughts_and_no_seals(logprobs: bool) -> None:
    body = {**CHAT, "model": "thinker", "think": True, "logprobs": logprobs}
    whole = await Desk(CLAUDE).ask("/api/chat", {**body, "stream": False})
    assert whole["message"] == {"role": "assistant", "content": "Hello you", "thinking": "Hmm."}
    told = [line["message"] for line in await Desk(CLAUDE).lines("/api/chat", body)]
    assert [one.get("thinking", "") for one in told] == ["Hm", "m.", "", "", ""]
    assert [one["content"] for one in told] == ["", "", "Hello", " you", ""]


class Scripted(lmstudio_fake.Fake):
    events: Sequence[Event] = CLAUDE

    async def stream(
        self, caller: Caller, request: Request, hold: ModelHold = AS_EVER
    ) -> AsyncGenerator[Event, None]:
        for event in self.events:
            yield event


async def test_lm_studio_shows_thoughts_and_no_seals() -> None:
    fake = Scripted()
    async with lmstudio_fake.client(fake) as api:
        body = {"model": "smollm2", "input": "Hi"}
        whole = (await api.post("/api/v1/chat", json=body)).json()
        streamed = (await api.post("/api/v1/chat", json={**body, "stream": True})).text
    assert whole["output"] == [
        {"type": "reasoning", "content": "Hmm."}, {"type": "message", "content": "Hello you"},
    ]  # fmt: skip
    assert whole["stats"]["reasoning_output_tokens"] == 12
    kinds = [line.removeprefix("event: ") for line in streamed.split("\n") if line[:6] == "event:"]
    assert kinds.count("reasoning.delta") == kinds.count("message.delta") == 2
    assert kinds.count("reasoning.start") == 1


# ---- refusals and usage --------------------------------------------------------------------


async def test_a_refusal(services: Services) -> None:
    choice = (await chat(services, REFUSED)).json["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("I cannot", "content_filter")
    last = data((await chat(services, REFUSED, stream=True)).body)[-1]
    assert last["choices"][0]["finish_reason"] == "content_filter"
    body = {"model": "m", "prompt": "Hi"}
    completed = await post(services, OPENAI, "/v1/completions", body, REFUSED)
    assert completed.json["choices"][0]["finish_reason"] == "content_filter"

    response = (await responses(services, REFUSED)).json
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "content_filter"}
    assert response["output"][0]["content"][0]["text"] == "I cannot"

    for verb in ("generateContent", "streamGenerateContent?alt=sse"):
        answered = await gemini(services, REFUSED, verb)
        answer = data(answered.body)[-1] if "stream" in verb else answered.json
        assert answer["candidates"][0]["finishReason"] == "SAFETY"

    told = await Desk(REFUSED).ask("/api/chat", {**CHAT, "model": "plain", "stream": False})
    assert (told["done_reason"], told["message"]["content"]) == ("stop", "I cannot")


async def test_what_the_provider_counted(services: Services) -> None:
    usage = (await chat(services, CLAUDE)).json["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (30, 20)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 10
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 12
    usage = (await responses(services, CLAUDE)).json["usage"]
    assert usage["input_tokens_details"] == {"cached_tokens": 10, "cache_write_tokens": 5}
    assert usage["output_tokens_details"] == {"reasoning_tokens": 12}
    usage = (await gemini(services, CLAUDE, "generateContent")).json["usageMetadata"]
    assert (usage["candidatesTokenCount"], usage["thoughtsTokenCount"]) == (8, 12)
    assert (usage["cachedContentTokenCount"], usage["totalTokenCount"]) == (10, 50)


async def test_signatures_are_no_tokens(services: Services) -> None:
    """Engines that do not count thoughts are counted by their pieces, as ever."""
    uncounted = [Usage(30, 20) if isinstance(event, Usage) else event for event in CLAUDE]
    usage = (await chat(services, uncounted)).json["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2
    usage = (await responses(services, uncounted)).json["usage"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}
    usage = (await gemini(services, uncounted, "generateContent")).json["usageMetadata"]
    assert usage["thoughtsTokenCount"] == 2


def test_lm_studio_has_a_word_for_a_refusal() -> None:
    assert stop_reason(Done("refusal"), 3, 100) == "eosFound"


def test_whose_a_signature_is() -> None:
    assert (
        signed.with_origin("a", "gemini", "gemini")
        == signed.with_origin("a", None, "gemini")
        == "a"
    )
    for text in ("a", "", "overt:b:c", "\n"):
        assert signed.split(signed.with_origin(text, "other", "gemini"), "gemini") == (
            text,
            "other",
        )
    for text in ("overt:", "overt:A:b", "overt:a", "x"):
        assert signed.split(text, "gemini") == (text, "gemini")


def test_the_messages_of_this_file_are_what_an_answer_makes_of_them() -> None:
    from overt.chat import Answer

    answer = Answer()
    for event in CLAUDE:
        answer.add(event)
    said = answer.message()
    assert said == Message("assistant", CLAUDES_PARTS)
