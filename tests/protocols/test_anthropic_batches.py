"""Anthropic's message batches over real records, judged by the official types."""

import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pydantic
import pytest
from anthropic.types.messages import MessageBatch, MessageBatchIndividualResponse
from hypothesis import given, settings
from wire_rig import ANSWER, Answered, Services, ask, mutated

from overt.chat import Request
from overt.protocols.anthropic import PROTOCOL, batches
from overt.protocols.base import Caller
from overt.protocols.batching import BatchOutcome

pytestmark = pytest.mark.anyio

AT = "/v1/messages/batches"
PARAMS = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
TWO = {
    "requests": [
        {"custom_id": "good", "params": PARAMS},
        {"custom_id": "bad", "params": {**PARAMS, "foo": 1}},
    ]
}
ANN, BOB = Caller("ann"), Caller("bob")


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    found = Services(tmp_path, lambda request: ANSWER)
    yield found
    await found.close()


async def send(services: Services, method: str, path: str, body: Any = b"") -> Answered:
    headers = {"host": "127.0.0.1:11435"}
    return await ask(services, PROTOCOL, method, path, body, headers=headers, caller=ANN)


def official(value: Any) -> MessageBatch:
    batch = pydantic.TypeAdapter(MessageBatch).validate_json(json.dumps(value))
    assert not batch.model_extra
    return batch


async def test_life_of_a_batch(services: Services) -> None:
    made = official((await send(services, "POST", AT, TWO)).json)
    assert made.processing_status == "in_progress"
    assert made.request_counts.processing == 2
    assert made.results_url is None
    assert (made.expires_at - made.created_at).total_seconds() == 86400
    early = await send(services, "GET", f"{AT}/{made.id}/results")
    assert (early.status, early.json["error"]["type"]) == (400, "invalid_request_error")
    assert (await send(services, "DELETE", f"{AT}/{made.id}")).status == 400

    await services.run()
    ended = official((await send(services, "GET", f"{AT}/{made.id}")).json)
    assert ended.processing_status == "ended"
    assert ended.ended_at is not None
    counts = ended.request_counts
    assert (counts.succeeded, counts.errored, counts.processing) == (1, 1, 0)
    assert ended.results_url == f"http://127.0.0.1:11435{AT}/{made.id}/results"
    assert services.dispatched[0] == ("POST", "/v1/messages", PARAMS)

    lines = (await send(services, "GET", f"{AT}/{made.id}/results")).body.splitlines()
    kind = pydantic.TypeAdapter(MessageBatchIndividualResponse)
    results = {one.custom_id: one.result for one in map(kind.validate_json, lines)}
    assert results["good"].type == "succeeded"
    assert results["good"].message.content[0].text == "Hello you"  # type: ignore[union-attr]
    assert results["bad"].type == "errored"
    assert results["bad"].error.error.type == "invalid_request_error"

    assert (await send(services, "POST", f"{AT}/{made.id}/cancel")).status == 400
    deleted = await send(services, "DELETE", f"{AT}/{made.id}")
    assert deleted.json == {"id": made.id, "type": "message_batch_deleted"}
    assert (await send(services, "GET", f"{AT}/{made.id}")).status == 404
    assert not [path for path in services.files.rglob("*") if path.is_file()]


async def test_what_is_cancelled_is_not_asked(services: Services) -> None:
    made = (await send(services, "POST", AT, TWO)).json
    canceling = official((await send(services, "POST", f"{AT}/{made['id']}/cancel")).json)
    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    again = official((await send(services, "GET", f"{AT}/{made['id']}")).json)
    assert again.processing_status == "canceling"
    await services.run()
    ended = official((await send(services, "GET", f"{AT}/{made['id']}")).json)
    assert (ended.processing_status, ended.request_counts.canceled) == ("ended", 2)
    assert ended.cancel_initiated_at is not None
    lines = (await send(services, "GET", f"{AT}/{made['id']}/results")).body.splitlines()
    assert [json.loads(line)["result"] for line in lines] == [{"type": "canceled"}] * 2
    assert not services.dispatched


async def test_nobody_sees_anothers_batch(services: Services) -> None:
    made = (await send(services, "POST", AT, TWO)).json
    await services.run()
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/results"),
    ):  # fmt: skip
        answered = await ask(services, PROTOCOL, method, f"{AT}/{made['id']}{path}", caller=BOB)
        assert (answered.status, answered.json["error"]["type"]) == (404, "not_found_error")
    assert (await ask(services, PROTOCOL, "GET", AT, caller=BOB)).json["data"] == []


async def test_pages(services: Services) -> None:
    one = {"requests": TWO["requests"][:1]}
    ids = [(await send(services, "POST", AT, one)).json["id"] for _ in range(3)][::-1]

    async def page(query: str) -> tuple[list[str], bool]:
        found = (await send(services, "GET", f"{AT}?{query}")).json
        told = [batch["id"] for batch in found["data"]]
        assert (found["first_id"], found["last_id"]) == (told[0], told[-1])
        return told, found["has_more"]

    assert await page("limit=2") == (ids[:2], True)
    assert await page(f"limit=2&after_id={ids[1]}") == (ids[2:], False)
    assert await page(f"limit=1&before_id={ids[2]}") == (ids[1:2], True)
    assert (await send(services, "GET", f"{AT}?after_id=nothing")).status == 404
    for work in services.work:
        work.close()  # type: ignore[attr-defined]


async def test_a_killed_server_goes_on(services: Services, tmp_path: Path) -> None:
    made = (await send(services, "POST", AT, TWO)).json
    services.work.pop().close()  # type: ignore[attr-defined]
    old = services.files / "message_batches" / "msgbatch_old.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (0, time.time() - 30 * 86400))
    await batches.resume(services)  # type: ignore[arg-type]
    await services.run()
    ended = official((await send(services, "GET", f"{AT}/{made['id']}")).json)
    assert ended.processing_status == "ended"
    assert not old.exists()


async def test_results_that_cannot_be_kept(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    made = (await send(services, "POST", AT, TWO)).json
    (services.files / "message_batches").write_text("in the way of the folder")
    await services.run()
    ended = official((await send(services, "GET", f"{AT}/{made['id']}")).json)
    assert (ended.processing_status, ended.request_counts.errored) == ("ended", 2)
    assert (await send(services, "GET", f"{AT}/{made['id']}/results")).status == 404
    assert "could not be kept" in caplog.text


async def test_every_outcome_has_its_line() -> None:
    outcomes = [
        BatchOutcome("a", reason="expired"),
        BatchOutcome("b", 500, msgspec.Raw(b'"no error of ours"')),
        BatchOutcome("c", 200, msgspec.Raw(b'{"id":"m"}')),
    ]
    counts = batches.AnthropicBatchCounts()
    lines = [json.loads(line) for line in batches._lines(outcomes, counts)]  # type: ignore[arg-type]
    assert lines[0] == {"custom_id": "a", "result": {"type": "expired"}}
    assert lines[1]["result"]["error"]["error"]["type"] == "api_error"
    assert lines[2]["result"] == {"type": "succeeded", "message": {"id": "m"}}
    assert (counts.expired, counts.errored, counts.succeeded) == (1, 1, 1)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([], "requests: Expected `array` of length >= 1"),
        ([{"custom_id": "a b", "params": PARAMS}], "requests.0.custom_id: "),
        ([TWO["requests"][0]] * 2, "requests.1.custom_id: custom_id 'good' is there twice"),
        (
            [{"custom_id": "a", "params": {**PARAMS, "stream": True}}],
            "requests.0.params.stream: a request of a batch is not streamed",
        ),
        ([{"custom_id": "a", "params": 3}], "requests.0.params: "),
        ([{"custom_id": "a", "params": PARAMS, "foo": 1}], "requests.0.foo: Extra inputs"),
    ],
)
async def test_refused(services: Services, requests: Any, message: str) -> None:
    answered = await send(services, "POST", AT, {"requests": requests})
    assert answered.status == 400
    assert answered.json["error"]["message"].startswith(message)


async def test_the_address_of_the_results_is_the_clients(services: Services) -> None:
    made = (await send(services, "POST", AT, TWO)).json
    await services.run()
    path = f"{AT}/{made['id']}"
    for headers, origin in (
        ({"host": "a.example", "x-forwarded-proto": "https"}, "https://a.example"),
        ({}, ""),
    ):
        told = await ask(services, PROTOCOL, "GET", path, headers=headers, caller=ANN)
        assert told.json["results_url"] == f"{origin}{path}/results"


@given(mutated([TWO]))
@settings(max_examples=100)
def test_no_body_breaks_a_batch(body: Any) -> None:
    def script(request: Request) -> Any:
        return ANSWER

    async def attempt() -> int:
        with tempfile.TemporaryDirectory() as folder:
            services = Services(Path(folder), script)
            try:
                answered = await send(services, "POST", AT, body)
                await services.run()
                return answered.status
            finally:
                await services.close()

    assert anyio.run(attempt) in (200, 400)
