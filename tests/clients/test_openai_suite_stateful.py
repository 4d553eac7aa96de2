"""The `openai` package's own tests of responses, conversations, files and batches, on our server.

They ask for things by names such as ``file_id``. Real ones are made through the API, and renamed in
the server's records. What deletes is left out: it deletes one thing many times, and the others need
it; test_openai_responses_client.py deletes.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import suites
from openai import OpenAI

import serving
from overt.protocols.base import NOBODY
from overt.server.records import RecordStore

VERSION = "3.57.0"
FILES = (
    "api_resources/test_responses.py",
    "api_resources/responses/test_input_items.py",
    "api_resources/responses/test_input_tokens.py",
    "api_resources/test_conversations.py",
    "api_resources/conversations/test_items.py",
    "api_resources/test_files.py",
    "api_resources/test_batches.py",
)
MODELS = {"": {"gpt-6-astra": "echo:plain"}}
RESPONSE = "resp_677efb5139a88190b512bc3fef8e535d"


@pytest.fixture
def named(model_home: Path) -> Iterator[serving.Served]:
    """A server that has kept what those tests ask for."""
    with tempfile.TemporaryDirectory(prefix="named-", dir=serving.ROOT / ".cache") as folder:
        home = serving.copy_home(model_home, Path(folder) / "home")
        with (
            serving.serving(home) as server,
            OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
        ):
            made = _make(client)
        asyncio.run(_rename(home, made))
        with serving.serving(home) as server:
            yield server


def _make(client: OpenAI) -> dict[str, str]:
    """The ids of a response, a conversation, its item, a file and a batch."""
    # A cancelled one can be cancelled again, and its events can be read again.
    stream = client.responses.create(
        model="echo:slow", input="w " * 500, background=True, stream=True
    )
    response = next(event.response.id for event in stream if event.type == "response.created")
    client.responses.cancel(response)
    stream.close()
    conversation = client.conversations.create(
        items=[{"role": "user", "content": "hi", "type": "message"}]
    ).id
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/responses",
        "body": {"model": "echo:plain", "input": "x"},
    }
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch").id
    batch = client.batches.create(
        input_file_id=file, endpoint="/v1/responses", completion_window="24h"
    ).id
    while client.batches.retrieve(batch).status != "completed":
        time.sleep(0.02)
    item = client.conversations.items.list(conversation).data[0].id
    assert item is not None
    return {
        "response": response, "conversation": conversation, "item": item, "file": file,
        "batch": batch,
    }  # fmt: skip


async def _rename(home: Path, made: dict[str, str]) -> None:
    records = RecordStore(home / "records.db")

    async def again(kind: str, old: str, new: str, new_kind: str = "") -> None:
        body = await records.get(kind, old, NOBODY)
        assert body is not None
        await records.put(new_kind or kind, new, NOBODY, body.replace(old.encode(), new.encode()))

    for name in (RESPONSE, "response_id", "resp_123"):
        await again("response", made["response"], name)
    await again("response_events", made["response"], RESPONSE)
    await again("conversation", made["conversation"], "conv_123")
    await again(made["conversation"], made["item"], "msg_abc", "conv_123")
    await again("batch", made["batch"], "batch_id")
    content = home / "files/uploads" / made["file"]
    for name in ("file_id", "input_file_id"):
        await again("file", made["file"], name)
        content.with_name(name).write_bytes(content.read_bytes())
    await records.close()


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.client("openai", "the package's own tests: responses, conversations, files, batches")
def test_the_clients_own_tests_of_what_is_kept(
    named: serving.Served, sdist: Callable[[str, str], Path], tmp_path: Path
) -> None:
    into = tmp_path / "suite"
    outcomes = suites.run(
        sdist("openai", VERSION),
        FILES,
        into,
        models=MODELS,
        env={"TEST_API_BASE_URL": f"{named.url}/v1"},
        arguments=("-k", "not aiohttp and not delete"),
    )
    assert len(outcomes) > 150
    expected = suites.table(Path(__file__).with_name("openai_stateful_deselected.tsv"))
    assert suites.differences(outcomes, expected, into) == []
