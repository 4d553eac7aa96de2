"""Aliases as clients see them, whatever somebody wrote into their file by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from overt.gateway import routing
from overt.providers.manager import Providers
from overt.security import credentials
from overt.settings import load

pytestmark = pytest.mark.anyio


async def test_ollamas_clients_can_look_at_an_alias_of_elsewhere(api: Any, home: Path) -> None:
    for target in ("http://127.0.0.1:1/v1#m", "echo:x", "gemini:gemini-x"):
        routing.aliases(home).set("writer", target)
        shown = await api.post("/api/show", json={"model": "writer:latest"})
        assert shown.status_code == 200, shown.text
        assert "completion" in shown.json()["capabilities"]
    assert (
        await api.post("/api/show", json={"model": "http://127.0.0.1:1/v1#m"})
    ).status_code > 399


async def test_a_time_that_is_none_hides_no_model(api: Any, home: Path) -> None:
    routing.aliases(home).set("writer", "anthropic:claude-x")
    file = home / "aliases.json"
    kept = json.loads(file.read_bytes())
    kept["aliases"]["writer"]["time"] = "yesterday"
    file.write_text(json.dumps(kept))
    listed = (await api.get("/v1/models")).json()["data"]
    assert [(model["id"], model["created"]) for model in listed] == [("writer", 0)]
    assert (await api.get("/v1/models/writer")).json()["created"] == 0


async def test_names_that_clients_write_ask_the_keyring_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    find = credentials.find
    monkeypatch.setattr(credentials, "find", lambda *given: asked.append(given[0]) or find(*given))
    settings = load({"OVERT_HOME": str(home)})
    providers = Providers(settings, environ={"OPENAI_API_KEY": "sk-0123456789"})
    for number in range(300):
        providers.open(f"openai:gpt-{number}")
    assert asked == ["openai"]
    assert "0123456789" not in repr(providers.engine("openai:gpt-1").to)
    credentials.save("openai", "sk-another-0123456789", settings, "file")
    providers.open("openai:gpt-1")
    assert asked == ["openai", "openai"]
