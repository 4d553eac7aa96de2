"""Names of the owner's where there is no answer to route: counting, embedding, loading."""

from pathlib import Path

import pytest

from overt.chat import EmbedRequest, Message, Request, Routed
from overt.errors import Refused, Unsupported
from overt.gateway import routing
from overt.gateway.exchange import Exchange
from overt.settings import load

pytestmark = pytest.mark.anyio


async def test_words_go_nowhere_before_the_rules_of_a_route_were_asked(home: Path) -> None:
    rule = {"when": {"images": True}, "refuse": "no pictures"}
    routing.aliases(home).set("writer", {"rules": [rule], "models": ["http://127.0.0.1:9/v1#m"]})
    exchange = Exchange(load({"OVERT_HOME": str(home)}))
    try:
        with pytest.raises(Unsupported, match="writer has rules"):
            await exchange.count(Request("writer", (Message.of("user", "secret"),)))
        with pytest.raises(Unsupported, match="writer has rules"):
            await exchange.embed(EmbedRequest("writer", ("secret",)))
        assert (await exchange.load("writer")).ref == "http://127.0.0.1:9/v1#m"  # no words in it
    finally:
        await exchange.close()


async def test_a_name_within_a_route_within_a_route_is_followed(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("fast", "echo:x")
    aliases.set("inner", {"models": ["fast"]})
    aliases.set("writer", {"rules": [{"use": "inner"}], "models": ["inner", "fast"]})
    exchange = Exchange(load({"OVERT_HOME": str(home)}))
    try:
        asked = Request("writer", (Message.of("user", "a b c"),))
        assert await exchange.count(asked) > 0
        events = [event async for event in exchange.stream(asked)]
        assert isinstance(events[0], Routed)
        assert events[0].model == "echo:x"
        assert events[0].why == "rule 1: always; inner stands for it"
    finally:
        await exchange.close()


async def test_a_name_costs_what_it_stands_for(home: Path) -> None:
    """A cap that counted names as free would hold nothing back."""
    aliases = routing.aliases(home)
    aliases.set("big", "openai:gpt-of-no-known-price")
    aliases.set("writer", {"models": ["big"], "price_cap": 0.01})
    exchange = Exchange(load({"OVERT_HOME": str(home), "OVERT_OFFLINE": "1"}))
    try:
        asked = Request("writer", (Message.of("user", "a"),), max_tokens=5)
        with pytest.raises(Refused, match="its price is not known"):
            [event async for event in exchange.stream(asked)]
    finally:
        await exchange.close()
