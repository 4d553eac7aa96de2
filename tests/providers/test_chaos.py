"""A hundred seeded runs of each provider against a peer that misbehaves.

Every request ends in an answer or in one clear error, none hangs past its timeout, and none is sent
again once it may have been billed: the peer counts what it gets.
"""

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from chaos_peer import ALL, REFUSALS, Got, Peer, peer

from overt.chat import Answer, Message, Request, TextPart
from overt.errors import OvertError, ProviderFailed, TimedOut
from overt.providers.anthropic.dialect import Anthropic
from overt.providers.base import Destination, Dialect, Provider
from overt.providers.gemini.dialect import Gemini
from overt.providers.http.client import HttpClient
from overt.providers.openai.dialect import OpenAI
from overt.settings import Settings

RUNS, AT_ONCE = 100, 25
LIMIT = 0.2  # seconds, for the first word and between words
TRIES = 2
KEY = "sk-test-0123456789abcdef"
TEXT = "Grüße, 17 €"
ENOUGH = ("fine", "other type")  # manners that bring the whole answer
CHOICES = [name for name in ALL if name != "huge line"] + ["fine"] * 4


def events(*all_: dict[str, Any], named: bool) -> bytes:
    return b"".join(
        (f"event: {one['type']}\n" if named else "").encode()
        + b"data: " + json.dumps(one, ensure_ascii=False).encode() + b"\n\n"
        for one in all_
    )  # fmt: skip


def anthropic_stream() -> bytes:
    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "claude", "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": usage}  # fmt: skip
    halves = [{"type": "content_block_delta", "index": 0,
               "delta": {"type": "text_delta", "text": half}}
              for half in (TEXT[:6], TEXT[6:])]  # fmt: skip
    return events(
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *halves,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
        named=True,
    )  # fmt: skip


def openai_stream() -> bytes:
    usage = {"input_tokens": 3, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
             "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 8}  # fmt: skip
    response = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5",
                "status": "in_progress", "output": []}  # fmt: skip
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [part]}  # fmt: skip
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    all_: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.output_item.added", "output_index": 0,
         "item": {**item, "status": "in_progress", "content": []}},
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        {"type": "response.output_text.delta", **at, "delta": TEXT[:6]},
        {"type": "response.output_text.delta", **at, "delta": TEXT[6:]},
        {"type": "response.output_text.done", **at, "text": TEXT},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {
            **response, "status": "completed", "output": [item], "usage": usage}},
    ]  # fmt: skip
    return events(*({**one, "sequence_number": n} for n, one in enumerate(all_)), named=True)


def gemini_stream() -> bytes:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 5, "totalTokenCount": 8}

    def piece(text: str, **more: str) -> dict[str, Any]:
        content = {"role": "model", "parts": [{"text": text}]}
        return {"candidates": [{"content": content, "index": 0, **more}], "usageMetadata": usage,
                "modelVersion": "gemini", "responseId": "r"}  # fmt: skip

    return events(piece(TEXT[:6]), piece(TEXT[6:], finishReason="STOP"), named=False)


PROVIDERS: dict[str, tuple[Callable[[], Dialect], str, bytes]] = {
    "openai": (OpenAI, "gpt-5", openai_stream()),
    "anthropic": (Anthropic, "claude-opus-4-1", anthropic_stream()),
    "gemini": (Gemini, "gemini-2.5-flash", gemini_stream()),
}


def upstream() -> HttpClient:
    settings = replace(
        Settings(), retries=TRIES, first_timeout=f"{LIMIT}s", between_timeout=f"{LIMIT}s"
    )
    return HttpClient(settings, sleep=lambda seconds: asyncio.sleep(min(seconds, 0.001)))


async def ask(provider: str, there: Peer, run: int, out: HttpClient) -> Answer | OvertError:
    make, model, _ = PROVIDERS[provider]
    dialect = make()
    to = Destination(there.base, dialect.headers(KEY), KEY, provider, f"overt login {provider}")
    request = Request(model, (Message("user", (TextPart(f"run {run}."),)),), max_tokens=99)
    answer = Answer()
    try:
        # Three tries of at most both limits each, and far more than that of a busy machine.
        async with asyncio.timeout(20), aclosing(
            Provider(dialect, model, to, out).stream(request)
        ) as all_:  # fmt: skip
            async for event in all_:
                answer.add(event)
    except OvertError as error:
        return error
    return answer


def clear(error: OvertError) -> bool:
    said = str(error)
    return bool(
        error.message and len(said) < 600 and "\n" not in said and not error.message.endswith(".")
        and "Traceback" not in said and KEY[3:11] not in said
    )  # fmt: skip


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_hundred_runs(provider: str) -> None:
    plans = {
        run: iter(random.Random(f"{provider} {run}").choices(CHOICES, k=TRIES + 1))
        for run in range(RUNS)
    }
    plans[RUNS - 1] = iter(["huge line"] * (TRIES + 1))

    def plan(got: Got) -> str:
        found = re.search(rb"run (\d+)\.", got.body)
        assert found
        return next(plans[int(found[1])])

    outs = [upstream() for _ in range(RUNS)]
    outcomes: list[Answer | OvertError] = []
    async with peer(plan, PROVIDERS[provider][2]) as there:
        for begin in range(0, RUNS, AT_ONCE):
            runs = range(begin, begin + AT_ONCE)
            outcomes += await asyncio.gather(
                *(ask(provider, there, run, outs[run]) for run in runs)
            )
        for out in outs:
            await out.close()
        assert there.twice() == []
        last = {
            int(re.search(rb"run (\d+)\.", got.body)[1]): got.manner  # type: ignore[index]
            for got in there.got
        }
    for run, outcome in enumerate(outcomes):
        if isinstance(outcome, OvertError):
            assert clear(outcome), f"{run} {last[run]}: {outcome}"
            assert last[run] not in ENOUGH or isinstance(outcome, TimedOut), outcome
            if last[run] not in (*REFUSALS, "502", "504", "redirect"):
                assert isinstance(outcome, ProviderFailed)
        else:
            assert last[run] in ENOUGH, f"{run} {last[run]}: {outcome}"
            assert (outcome.text, outcome.finish) == (TEXT, "stop")
    ends = Counter(type(outcome).__name__ for outcome in outcomes)
    assert ends["Answer"] > 10
    assert len(ends) >= 3, ends
    assert set(last.values()) > {"broken off", "hangs", "huge line"}


@pytest.mark.anyio
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_one_upstream_for_all_of_them_and_the_breaker_between(provider: str) -> None:
    choose = random.Random(provider)
    out = upstream()
    async with peer(lambda got: choose.choice(CHOICES), PROVIDERS[provider][2]) as there:
        outcomes = await asyncio.gather(*(ask(provider, there, run, out) for run in range(40)))
        await out.close()
        assert there.twice() == []
    assert all(clear(one) for one in outcomes if isinstance(one, OvertError))


@pytest.mark.parametrize("odd", [b"1.5", b'"7"', b"-3", b"true", b"[1]", b"10" * 30])
def test_a_count_that_is_none_does_not_throw_a_paid_answer_away(odd: bytes) -> None:
    """The usage comes last, when all of the answer is here."""
    from overt.chat import Done, Request, Text, Usage
    from overt.providers.anthropic.dialect import Anthropic
    from overt.providers.base import ServerEvent
    from overt.providers.gemini.dialect import Gemini
    from overt.providers.openai.dialect import OpenAI

    streams = [
        (OpenAI(), [
            ServerEvent("", b'{"id":"c","object":"chat.completion.chunk",'
                        b'"choices":[{"index":0,"delta":'
                     b'{"content":"Hi"},"finish_reason":"stop"}]}'),
            ServerEvent("", b'{"id":"c","object":"chat.completion.chunk","choices":[],"usage":'
                     b'{"prompt_tokens":%b,"completion_tokens":%b}}' % (odd, odd)),
            ServerEvent("", b"[DONE]"),
        ]),
        (Anthropic(), [
            ServerEvent("message_start", b'{"type":"message_start",'
                                  b'"message":{"usage":{"input_tokens":%b}}'
                                  b"}" % odd),
            ServerEvent("content_block_start", b'{"type":"content_block_start",'
                                        b'"index":0,"content_block":'
                                        b'{"type":"text","text":"Hi"}}'),
            ServerEvent("message_delta", b'{"type":"message_delta",'
                                  b'"delta":{"stop_reason":"end_turn"},'
                                  b'"usage":{"output_tokens":%b}}' % odd),
            ServerEvent("message_stop", b'{"type":"message_stop"}'),
        ]),
        (Gemini(), [
            ServerEvent("", b'{"candidates":[{"content":'
                        b'{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}],'
                     b'"usageMetadata":{"promptTokenCount":%b,"candidatesTokenCount":%b}}'
                     % (odd, odd)),
        ]),
    ]  # fmt: skip
    for dialect, said in streams:
        reader = dialect.reader(Request("x:y"))
        events = [event for one in said for event in reader.feed(one)]
        events += reader.end()
        assert [event for event in events if isinstance(event, Text)] == [Text("Hi")]
        assert isinstance(events[-1], Done)
        usage = next((event for event in events if isinstance(event, Usage)), Usage(0, 0))
        assert 0 <= usage.tokens_in <= 2**53
