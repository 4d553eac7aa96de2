"""Swapping what a name stands for, while many stream from it: nobody loses a word."""

import asyncio
import json
from pathlib import Path

import httpx2
import pytest

import serving
from conftest import OvertCli
from overt.gateway import routing

pytestmark = pytest.mark.anyio

CLIENTS = 50
WORDS = " ".join(f"w{number}" for number in range(12))


async def _ask(client: httpx2.AsyncClient, number: int) -> tuple[str, str]:
    """One streamed answer: the text, and which model gave it."""
    said, body = [], {
        "model": "writer", "stream": True,
        "messages": [{"role": "user", "content": f"{number} {WORDS}"}],
    }  # fmt: skip
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        model = answer.headers["x-overt-model"]
        done = False
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                said += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
        assert done
    return "".join(said), model


async def test_fifty_clients_stream_on_while_the_alias_moves(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    with serving.serving(there) as other, serving.serving(here) as server:
        targets = ["echo:slow", f"{other.url}/v1#echo:slow", "echo:other"]
        aliases = routing.aliases(here)
        aliases.set("writer", targets[0])
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            asked = []
            for number in range(CLIENTS):
                asked.append(asyncio.create_task(_ask(client, number)))
                await asyncio.sleep(0.01)
                aliases.set("writer", targets[number % 3])
            answers = await asyncio.gather(*asked)
    assert [text for text, _ in answers] == [f"{number} {WORDS}" for number in range(CLIENTS)]
    assert {model for _, model in answers} == set(targets)


async def test_clients_find_the_name_among_the_models(
    home: Path, overt_cli: OvertCli, server: serving.Served
) -> None:
    set_ = overt_cli("alias", "set", "writer", f"{server.url}/v1#echo:x")
    assert set_.code == 0, set_.stderr
    with serving.serving(home) as mine:
        async with httpx2.AsyncClient(base_url=mine.url) as client:
            listed = (await client.get("/v1/models")).json()["data"]
            assert [model["id"] for model in listed] == ["writer"]
            tags = (await client.get("/api/tags")).json()["models"]
            assert [model["name"] for model in tags] == ["writer:latest"]
            asked = {"model": "writer:latest", "messages": [{"role": "user", "content": "Hi"}],
                     "stream": False}  # fmt: skip
            answer = await client.post("/api/chat", json=asked)
            assert answer.json()["message"]["content"] == "Hi", answer.text
            overt_cli("alias", "set", "writer", "echo:y")
            again = await client.post("/api/chat", json=asked)
            assert again.headers["x-overt-model"] == "echo:y"


async def test_names_that_lead_in_a_circle_of_servers_end(home: Path) -> None:
    with serving.serving(home) as mine:
        names = routing.aliases(home)
        names.set("round", f"{mine.url}/v1#round")
        asked = {"model": "round", "messages": [{"role": "user", "content": "Hi"}]}
        async with httpx2.AsyncClient(base_url=mine.url, timeout=30) as client:
            answer = await client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 403
    assert "came through 5 servers" in answer.text
