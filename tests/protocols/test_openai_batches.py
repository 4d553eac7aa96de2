"""Batches: a file of requests in, a file of answers out; see also test_batching.py."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import stateful
from hypothesis import given
from hypothesis import strategies as st
from stateful import World

from overt.protocols import batching
from overt.protocols.openai import batches
from overt.protocols.openai.batches import BatchedRequest, BatchProblem, _check_line, resume

pytestmark = pytest.mark.anyio

BATCHES = "/v1/batches"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    async with stateful.world(home) as made:
        yield made


def _line(id: str, body: Any = None, url: str = CHAT, **more: Any) -> dict[str, Any]:
    body = body or {"model": "echo:any", "messages": [{"role": "user", "content": f"say {id}"}]}
    return {"custom_id": id, "method": "POST", "url": url, "body": body, **more}


async def _input(world: World, lines: list[Any] | bytes, purpose: str = "batch") -> str:
    if not isinstance(lines, bytes):
        lines = b"\n".join(
            line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines
        )
    answer = await world.client.post(
        "/v1/files", data={"purpose": purpose}, files={"file": ("in.jsonl", lines)}
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def _create(world: World, lines: list[Any] | bytes, url: str = CHAT, **more: Any) -> Any:
    body = {
        "input_file_id": await _input(world, lines),
        "endpoint": url,
        "completion_window": "24h",
    }
    return await world.ask("POST", BATCHES, {**body, **more})


async def _ended(world: World, id: str) -> Any:
    while True:
        batch = await world.ask("GET", f"{BATCHES}/{id}")
        if batch["status"] in ("failed", "completed", "expired", "cancelled"):
            return batch
        await asyncio.sleep(0.01)


async def _lines(world: World, id: str | None) -> dict[str, Any]:
    if id is None:
        return {}
    answer = await world.client.get(f"/v1/files/{id}/content")
    return {line["custom_id"]: line for line in map(json.loads, answer.text.splitlines())}


async def test_a_batch_is_answered(world: World) -> None:
    bad = {"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}
    lines = [_line(f"c{n}", bad if n in (3, 7) else None) for n in range(20)]
    made = await _create(world, lines, metadata={"a": "b"})
    assert {
        key: made[key]
        for key in ("object", "endpoint", "status", "completion_window", "metadata", "errors")
    } == {
        "object": "batch",
        "endpoint": CHAT,
        "status": "validating",
        "completion_window": "24h",
        "metadata": {"a": "b"},
        "errors": None,
    }
    assert made["expires_at"] == made["created_at"] + 86400
    assert made["request_counts"] == {"total": 20, "completed": 0, "failed": 0}
    batch = await _ended(world, made["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 20, "completed": 18, "failed": 2}
    times = [batch[f"{name}_at"] for name in ("created", "in_progress", "finalizing", "completed")]
    assert times == sorted(times)
    output = await _lines(world, batch["output_file_id"])
    assert set(output) == {f"c{n}" for n in range(20)} - {"c3", "c7"}
    line = output["c5"]
    assert (line["error"], line["response"]["status_code"]) == (None, 200)
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "say c5"
    assert line["id"].startswith("batch_req_")
    errors = await _lines(world, batch["error_file_id"])
    assert set(errors) == {"c3", "c7"}
    assert errors["c3"]["response"]["status_code"] == 404
    assert errors["c3"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert batch["usage"]["input_tokens"] == 18 * 2
    assert batch["usage"]["output_tokens"] == 18 * 2
    assert batch["usage"]["total_tokens"] == 18 * 4
    file = await world.ask("GET", f"/v1/files/{batch['output_file_id']}")
    assert (file["purpose"], "expires_at" in file) == ("batch_output", False)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/completions", {"model": "echo:any", "prompt": "x"}),
        ("/v1/responses", {"model": "echo:any", "input": "x"}),
    ],
)
async def test_other_endpoints(world: World, url: str, body: Any) -> None:
    batch = await _ended(world, (await _create(world, [_line("a", body, url)], url))["id"])
    assert batch["request_counts"] == {"total": 1, "completed": 1, "failed": 0}
    assert batch["model"] == "echo:any"
    assert batch["error_file_id"] is None
    assert batch["usage"]["total_tokens"] == 2


async def test_an_input_that_is_wrong_fails_with_its_lines(world: World) -> None:
    lines = [
        _line("a"),
        b"not json",
        _line("a"),
        _line("b", url="/v1/embeddings"),
        b"",
        _line("c", method="GET"),
        {"custom_id": "d"},
        _line("e", {"model": "echo:any", "stream": True}),
        _line("f"),
    ]
    batch = await _create(world, lines)
    assert batch["status"] == "failed"
    assert batch["failed_at"] >= batch["created_at"]
    assert [(one["line"], one["code"]) for one in batch["errors"]["data"]] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
        (6, "invalid_method"),
        (7, "invalid_request"),
        (8, "invalid_request"),
    ]
    assert await world.ask("GET", f"{BATCHES}/{batch['id']}") == batch
    assert (await world.refused("POST", f"{BATCHES}/{batch['id']}/cancel"))[0] == 400


@pytest.mark.parametrize(
    ("lines", "code"),
    [(b"", "empty_file"), (b"\n \n", "empty_file"), (b"\xff", "invalid_json_line")],
)
async def test_an_input_of_nothing_fails(world: World, lines: bytes, code: str) -> None:
    batch = await _create(world, lines)
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)


async def test_too_much_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_REQUESTS", 3)
    batch = await _create(world, [_line(f"c{n}") for n in range(4)])
    assert batch["errors"]["data"][0]["code"] == "too_many_requests"
    monkeypatch.setattr(batches, "MAX_BYTES", 10)
    batch = await _create(world, [_line("a")])
    assert batch["errors"]["data"][0]["code"] == "file_too_large"


async def test_a_byte_order_mark_is_no_request(world: World) -> None:
    batch = await _create(world, b"\xef\xbb\xbf" + json.dumps(_line("a")).encode() + b"\r\n")
    assert (await _ended(world, batch["id"]))["request_counts"]["completed"] == 1


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"endpoint": "/v1/images"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": "file-none"}, 404, None),
        ({"nonsense": 1}, 400, "nonsense"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            400,
            "output_expires_after.seconds",
        ),
    ],
)
async def test_what_cannot_be_done_is_refused(
    world: World, more: Any, status: int, param: str | None
) -> None:
    file = await _input(world, [_line("a")])
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h", **more}
    found, error = await world.refused("POST", BATCHES, body)
    assert found == status
    assert str(error["param"]).startswith(str(param))


async def test_a_file_of_another_purpose_or_owner_is_refused(world: World) -> None:
    file = await _input(world, [_line("a")], "evals")
    body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    assert (await world.refused("POST", BATCHES, body))[1]["param"] == "input_file_id"
    body["input_file_id"] = await _input(world, [_line("a")])
    answer = await world.client.post(BATCHES, json=body, headers={"x-key": "ben"})
    assert answer.status_code == 404


async def test_nobody_sees_or_cancels_anothers(world: World) -> None:
    made = await _create(world, [_line("a", _slow())])
    one = f"{BATCHES}/{made['id']}"
    for method, path in (("GET", one), ("POST", f"{one}/cancel")):
        answer = await world.client.request(method, path, headers={"x-key": "ben"})
        assert answer.status_code == 404
    assert (await world.client.get(BATCHES, headers={"x-key": "ben"})).json()["data"] == []
    assert (await world.ask("GET", one))["status"] != "cancelled"


def _slow(words: int = 500) -> Any:
    return {"model": "echo:slow", "messages": [{"role": "user", "content": "w " * words}]}


async def test_a_batch_is_cancelled(world: World) -> None:
    lines = [_line(f"c{n}", _slow(10)) for n in range(30)]
    made = await _create(world, lines)
    one = f"{BATCHES}/{made['id']}"
    while (await world.ask("GET", one))["status"] == "validating":
        await asyncio.sleep(0.01)
    cancelling = await world.ask("POST", f"{one}/cancel")
    assert (cancelling["status"], cancelling["cancelling_at"] is None) == ("cancelling", False)
    batch = await _ended(world, made["id"])
    assert batch["status"] == "cancelled"
    assert batch["cancelled_at"] >= batch["cancelling_at"]
    done = batch["request_counts"]["completed"]
    assert done <= batching.AT_ONCE
    assert len(await _lines(world, batch["output_file_id"])) == done
    errors = await _lines(world, batch["error_file_id"])
    assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
    assert len(errors) == 30 - done
    assert (await world.refused("POST", f"{one}/cancel"))[0] == 400


async def test_a_batch_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_WINDOW", -1)
    batch = await _ended(world, (await _create(world, [_line("a")]))["id"])
    assert batch["status"] == "expired"
    assert batch["expired_at"] is not None
    errors = await _lines(world, batch["error_file_id"])
    assert errors["a"]["error"]["code"] == "batch_expired"


async def test_its_output_expires_where_that_is_asked(world: World) -> None:
    expiry = {"anchor": "created_at", "seconds": 3600}
    made = await _create(world, [_line("a")], output_expires_after=expiry)
    batch = await _ended(world, made["id"])
    file = await world.ask("GET", f"/v1/files/{batch['output_file_id']}")
    assert file["expires_at"] == file["created_at"] + 3600


async def test_batches_are_listed_in_pages(world: World) -> None:
    ids = [(await _create(world, [_line("a")]))["id"] for _ in range(3)]
    for id in ids:
        await _ended(world, id)
    page = await world.ask("GET", f"{BATCHES}?limit=2")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:0:-1], True)
    page = await world.ask("GET", f"{BATCHES}?limit=2&after={page['last_id']}")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (ids[:1], False)
    assert (await world.refused("GET", f"{BATCHES}?limit=101"))[1]["param"] == "limit"


async def test_a_restart_goes_on_with_a_batch_whose_input_is_gone(home: Path) -> None:
    async with stateful.world(home) as world:
        file = await _input(world, [_line(f"c{n}", _slow(4)) for n in range(12)])
        body = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        made = await world.ask("POST", BATCHES, body)
        while (await world.ask("GET", f"{BATCHES}/{made['id']}"))["request_counts"][
            "completed"
        ] == 0:
            await asyncio.sleep(0.01)
        await world.ask("DELETE", f"/v1/files/{file}")
    async with stateful.world(home) as world:
        before = await world.ask("GET", f"{BATCHES}/{made['id']}")
        assert before["status"] == "in_progress"
        await resume(world.services)
        batch = await _ended(world, made["id"])
        assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
        assert batch["in_progress_at"] == before["in_progress_at"]
        assert len(await _lines(world, batch["output_file_id"])) == 12


async def test_output_that_cannot_be_written_fails_the_batch(
    world: World, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await _create(world, [_line("a", _slow(6))])
    folder = home / "files/uploads"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(b"in the way")
    batch = await _ended(world, made["id"])
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", "out_of_disk")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
_VALID = json.dumps(_line("a")).encode()


@given(
    line=st.binary(max_size=40)
    | st.dictionaries(
        st.sampled_from(["custom_id", "method", "url", "body", "x"]),
        _values | st.sampled_from(["POST", CHAT, {"model": "m"}]),
    ).map(lambda value: json.dumps(value).encode())
    | st.tuples(st.integers(0, len(_VALID)), st.binary(max_size=3)).map(
        lambda edit: _VALID[: edit[0]] + edit[1] + _VALID[edit[0] + 1 :]
    )
)
def test_any_line_is_a_request_or_a_problem(line: bytes) -> None:
    seen: set[str] = set()
    found = _check_line(line, CHAT, seen)
    assert isinstance(found, BatchedRequest | BatchProblem)
    assert bool(seen) is isinstance(found, BatchedRequest)


async def test_a_large_input_is_checked_quickly(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(json.dumps(_line(f"c{n}")).encode() + b"\n" for n in range(50_000)))
    begin = time.process_time()
    total, model, problems = batches._checked(path, CHAT)
    assert (total, model, problems) == (50_000, "echo:any", [])
    assert time.process_time() - begin < 5
