"""The everyday verbs with models that run elsewhere: refs of providers and servers, and aliases.

The other server is `overt serve` with its `echo:` engine.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import overt
import serving
from conftest import OvertCli
from overt.errors import NeedsAccess, NoEgress
from overt.gateway import routing
from overt.providers.manager import server_of
from overt.ref import parse

KEY = "sk-1234567890-never-to-be-shown"
PRICES = """
[[price]]
models = ["openai:echo:*"]
from = 2026-01-01
input = 1000
output = 2000
source = "a contract"
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Served]:
    home = tmp_path_factory.mktemp("peer")
    routing.aliases(home).set("only", "echo:only")
    with serving.serving(home, env={"OVERT_KEYRING": "off"}) as served:
        yield served


@pytest.fixture
def openai(peer: serving.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI, as far as this test's programs can tell."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{peer.url}/v1")


# ---- list ----------------------------------------------------------------------------------


def test_list_has_the_aliases_too(overt_cli: OvertCli, home: Path) -> None:
    assert json.loads(overt_cli("list", "--json").stdout) == {"models": [], "aliases": []}
    aliases = routing.aliases(home)
    aliases.set("writer", "openai:gpt-5")
    aliases.set("both", {"models": ["echo:a", "openai:gpt-5"]})
    both, writer = json.loads(overt_cli("list", "--json").stdout)["aliases"]
    assert (writer["name"], writer["target"]) == ("writer", "openai:gpt-5")
    assert (both["target"], both["models"]) == ("route", ["echo:a", "openai:gpt-5"])
    text = overt_cli("list").stdout
    assert "writer  openai:gpt-5 " in text
    assert "both    a route: echo:a, openai:gpt-5 " in text
    assert overt_cli("list", "-q").stdout == "both\nwriter\n"


# ---- run -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("openai")
def test_run_says_who_answered_what_it_cost_and_where_it_went(
    overt_cli: OvertCli, home: Path, peer: serving.Served
) -> None:
    plain = overt_cli("run", "openai:echo:x", "a b c")
    assert (plain.code, plain.stdout, plain.stderr) == (0, "a b c\n", "")
    unknown = json.loads(overt_cli("run", "openai:echo:x", "a b c", "--json").stdout)
    assert (unknown["cost"], unknown["cost_known"]) == (None, False)
    assert "no list price" in unknown["cost_why"]

    home.mkdir(exist_ok=True)
    (home / "prices.toml").write_text(PRICES)
    routing.aliases(home).set("writer", "openai:echo:x")
    ran = json.loads(overt_cli("run", "writer", "a b c", "--json").stdout)
    assert (ran["model"], ran["text"], ran["engine"]) == ("writer", "a b c", "openai")
    assert ran["build"] == peer.address
    assert (ran["cost"], ran["cost_known"]) == (pytest.approx(0.009), True)
    assert ran["hosts"] == [peer.address]
    assert (ran["tokens_cached"], ran["tokens_thought"]) == (0, 0)
    routed = ran["routed"]
    assert routed["model"] == "openai:echo:x"
    assert routed["why"] == "writer is an alias of it"
    assert routed["request_id"].startswith("req_")
    assert routed["bytes_out"] > 100
    assert routed["tried"] == []

    said = overt_cli("run", "writer", "a b c", "--stats").stderr
    assert f"openai at {peer.address}; answered by openai:echo:x (writer is an alias of it)" in said
    assert f"cost $0.009; stayed on this machine ({peer.address})" in said
    assert KEY not in said


def test_a_model_of_this_machine_has_no_bill_that_is_known(overt_cli: OvertCli) -> None:
    ran = json.loads(overt_cli("run", "echo:x", "a", "--json").stdout)
    assert (ran["routed"], ran["hosts"], ran["where"]) == (None, [], "stayed on this machine")
    assert (ran["cost"], ran["cost_known"]) == (None, False)


@pytest.mark.usefixtures("openai")
def test_a_route_is_told_with_whom_it_tried(overt_cli: OvertCli, home: Path) -> None:
    routing.aliases(home).set("both", {"models": ["openai:echo:fail", "echo:b"]})
    ran = json.loads(overt_cli("run", "both", "a b c d e", "--json").stdout)
    assert (ran["model"], ran["text"], ran["engine"]) == ("both", "a b c d e", "echo")
    assert (ran["routed"]["model"], ran["routed"]["tried"]) == ("echo:b", ["openai:echo:fail"])
    assert len(ran["hosts"]) == 1
    # Its first model is not here: that is the route's to find out, and no reason not to ask it.
    routing.aliases(home).set("both", {"models": ["nowhere", "echo:b"]})
    (row,) = json.loads(overt_cli("compare", "a b", "-m", "both", "--json").stdout)["rows"]
    assert (row["text"], row["answered"], row["error"]) == ("a b", "echo:b", None)
    assert (row["where"], row["bytes_out"]) == ("stayed on this machine", 0)


def test_a_server_without_a_model_is_asked_for_its_only_one(
    overt_cli: OvertCli, peer: serving.Served
) -> None:
    url = f"{peer.url}/v1"
    ran = json.loads(overt_cli("run", url, "hello", "--json").stdout)
    assert (ran["text"], ran["routed"]["model"]) == ("hello", f"{url}#only")
    aliases = routing.aliases(peer.home)
    aliases.set("second", "echo:second")
    try:
        several = overt_cli("run", url, "hello")
    finally:
        aliases.remove("second")
    assert several.code == 2
    assert f"write {url}#MODEL with one of: only, second" in several.stderr
    nobody = overt_cli("run", "http://127.0.0.1:1/v1", "hello", env={"OVERT_RETRIES": "0"})
    assert nobody.code == 2
    assert "names a server and no model of it" in nobody.stderr
    assert "127.0.0.1:1 cannot be reached" in nobody.stderr
    away = overt_cli("run", "http://10.0.0.5:8000/v1", "hello", "--offline")
    assert "nothing was sent to 10.0.0.5:8000" in away.stderr


@pytest.mark.anyio
async def test_so_does_the_server(api: Any, home: Path, peer: serving.Served) -> None:
    routing.aliases(home).set("bare", f"{peer.url}/v1")
    said = {"model": "bare", "messages": [{"role": "user", "content": "hello"}]}
    answer = await api.post("/v1/chat/completions", json=said)
    assert answer.json()["choices"][0]["message"]["content"] == "hello", answer.text
    assert answer.headers["x-overt-model"] == f"{peer.url}/v1#only"


# ---- chat ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("openai")
def test_a_chat_moves_between_models_and_keeps_what_failed(
    overt_cli: OvertCli, home: Path, peer: serving.Served
) -> None:
    routing.aliases(home).set("writer", f"{peer.url}/v1#echo:fail")
    lines = ["a b", "/model openai:echo:x", "c", "/show info", "/set context 9", "/show license",
             "/model anthropic:claude-x", "d", "/model writer", "e f g h i", "/model echo:y",
             "/retry"]  # fmt: skip
    ran = overt_cli("chat", "echo:x", "--json", stdin="\n".join(lines))
    found = list(map(json.loads, ran.stdout.splitlines()))
    first, second, info, context, licence, no_key, third, failed, again = found
    assert "openai:echo:x runs elsewhere and has no file" in licence["error"]["message"]
    assert "is not loaded here" in context["error"]["message"]
    assert (first["tokens_in"], second["tokens_in"], third["tokens_in"]) == (2, 5, 7)
    assert second["routed"]["model"] == "openai:echo:x"
    assert f"openai at {peer.address}" in info["text"]
    assert no_key["error"]["code"] == "needs_access"
    assert "fails after three words" in failed["error"]["message"]
    assert (again["text"], again["tokens_in"], again["engine"]) == ("e f g h i", 13, "echo")


def test_thoughts_keep_their_signatures_over_a_saved_chat(
    overt_cli: OvertCli, home: Path, peer: serving.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", peer.url)
    lines = ["a b", "/save one", "/clear", "/load one", "c", "/save two"]
    ran = overt_cli("chat", "anthropic:echo:think", "--json", stdin="\n".join(lines))
    first, second = map(json.loads, ran.stdout.splitlines())
    assert second["routed"]["bytes_out"] > first["routed"]["bytes_out"]
    one, two = (json.loads((home / f"chats/{name}.json").read_text()) for name in ("one", "two"))
    thought = one["messages"][1]["parts"][0]
    assert (thought["type"], thought["origin"]) == ("thought", "anthropic")
    assert thought["signature"]
    assert two["messages"][:2] == one["messages"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_stops_the_other_server_too(peer: serving.Served) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "overt", "chat", f"{peer.url}/v1#echo:slow"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    before = peer.metric("overt_requests_in_flight") or 0
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(" ".join(map(str, range(10, 900))) + "\nnext\n")
        process.stdin.flush()
        assert process.stdout.read(9) == "10 11 12 "
        assert peer.metric("overt_requests_in_flight") == before + 1
        process.send_signal(signal.SIGINT)
        assert len(process.stdout.readline().split()) < 60
        until = time.monotonic() + 20  # all of the answer would take 40 seconds
        while peer.metric("overt_requests_in_flight") != before:
            assert time.monotonic() < until, "the other server goes on writing for nobody"
            time.sleep(0.05)
        process.communicate(timeout=20)


# ---- show, doctor, help --------------------------------------------------------------------


def test_show_tells_what_is_known_of_a_provider_s_model(overt_cli: OvertCli, home: Path) -> None:
    environ = {"OPENAI_API_KEY": KEY, "OVERT_EGRESS": "none"}
    found = json.loads(overt_cli("show", "openai:gpt-5", "--json", env=environ).stdout)
    assert found["server"] == "api.openai.com"
    assert found["text_may_go_there"] is False
    assert found["key"]["place"] == "OPENAI_API_KEY"
    assert "temperature" in found["refuses"]
    assert found["context"] > 100_000
    assert found["price"]["input"] > 0
    assert (found["step"], found["step_basis"]) == ("fully_closed", "declared")
    text = overt_cli("show", "openai:gpt-5", env=environ).stdout
    assert "key           known (OPENAI_API_KEY)" in text
    assert "openness      fully closed, declared" in text
    assert KEY[-4:] not in text + json.dumps(found)
    nothing = overt_cli("show", "openai:nonsense").stdout
    assert "key           not known: overt login openai" in nothing
    assert "price         not known: no list price of nonsense at openai" in nothing
    refused = overt_cli("show", "openai:gpt-5", "--template")
    assert (refused.code, refused.stdout) == (2, "")


def test_show_asks_a_server_for_its_models_and_follows_names(
    overt_cli: OvertCli, home: Path, peer: serving.Served
) -> None:
    url = f"{peer.url}/v1"
    found = json.loads(overt_cli("show", url, "--json").stdout)
    assert (found["models"], found["models_problem"]) == (["only"], None)
    nobody = json.loads(overt_cli("show", "http://127.0.0.1:1/v1", "--json").stdout)
    assert nobody["models"] is None
    assert nobody["models_problem"].startswith("127.0.0.1:1 cannot be reached")
    aliases = routing.aliases(home)
    aliases.set("writer", f"{url}#only")
    aliases.set("both", {"models": ["echo:a", "openai:gpt-5"]})
    writer = json.loads(overt_cli("show", "writer", "--json").stdout)
    assert (writer["alias"], writer["model"]) == ("writer", f"{url}#only")
    both = json.loads(overt_cli("show", "both", "--json").stdout)
    assert (both["models"], both["asked_first"]) == (["echo:a", "openai:gpt-5"], "echo:a")


def test_doctor_says_whose_keys_are_known_and_nothing_of_them(overt_cli: OvertCli) -> None:
    environ = {"ANTHROPIC_API_KEY": KEY, "OVERT_EGRESS": "api.openai.com"}
    ran = overt_cli("doctor", "--json", env=environ)
    found = json.loads(ran.stdout)["providers"]
    assert found["keys"] == [{"name": "anthropic", "place": "ANTHROPIC_API_KEY"}]
    assert (found["egress"], found["offline"], found["problem"]) == ("api.openai.com", False, None)
    assert KEY[-4:] not in ran.stdout + ran.stderr


def test_help_names_every_kind_of_ref(overt_cli: OvertCli) -> None:
    said = overt_cli("help", "refs").stdout
    for kind in ("openai:", "anthropic:", "gemini:", "http://", "hf:", "overt alias set"):
        assert kind in said
    assert "Usage: overt alias set" in overt_cli("help", "alias", "set").stdout
    assert "there is no help on 'alias nope'" in overt_cli("help", "alias", "nope").stderr


# ---- Python --------------------------------------------------------------------------------


@pytest.mark.usefixtures("openai")
def test_python_opens_providers_aliases_and_routes(home: Path, peer: serving.Served) -> None:
    with overt.open("openai:echo:x") as model:
        answer = model.ask("a b", max_tokens=10)
        assert (answer.text, answer.usage.tokens_in) == ("a b", 2)
        assert answer.routed is not None
        assert (answer.routed.model, answer.routed.why) == ("openai:echo:x", "")
        assert answer.routed.bytes_out > 0
        assert "".join(model.stream("c d e")) == "c d e"
    aliases = routing.aliases(home)
    aliases.set("writer", f"{peer.url}/v1#echo:x")
    aliases.set("both", {"models": ["openai:echo:fail", "echo:b"]})
    with overt.open("writer") as model:
        routed = model.ask("a").routed
        assert routed is not None
        assert routed.model == f"{peer.url}/v1#echo:x"
    with overt.open("both") as model:
        routed = model.ask("a b c d e").routed
        assert routed is not None
        assert (routed.model, routed.tried) == ("echo:b", ("openai:echo:fail",))


def test_python_says_what_is_in_the_way(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NeedsAccess, match="no key for gemini"):
        overt.open("gemini:gemini-2.5-pro")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with overt.open("openai:gpt-5", egress="none") as model, pytest.raises(NoEgress) as caught:
        model.ask("hello")
    assert KEY not in str(caught.value)


def test_the_server_of_a_ref() -> None:
    assert server_of(parse("openai:gpt-5"), {}).shown == "api.openai.com"
    moved = server_of(parse("openai:gpt-5"), {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"})
    assert (moved.shown, moved.loopback) == ("127.0.0.1:9", True)
    assert server_of(parse("http://10.0.0.5:8000"), {}).shown == "10.0.0.5:8000"
