"""aliases.json: names of a person's own, swapped without loss, followed cheaply, in no circle."""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import repeats
from overt.errors import BadRef, BadRequest, Failure, NotFound, OvertError, Refused
from overt.gateway import routing
from overt.gateway.aliases import Aliases
from overt.gateway.routing import Route

ROUTE = {"models": ["smollm2", "openai:gpt-6-luna"]}


def test_a_name_stands_for_another_model_from_one_moment_to_the_next(home: Path) -> None:
    ours, theirs = routing.aliases(home), routing.aliases(home)
    assert ours.find("writer") is None
    theirs.set("writer", "anthropic:claude-opus-5-5")
    assert ours.find("writer") == "anthropic:claude-opus-5-5"
    theirs.set("writer", "hf:org/repo#model.gguf")
    assert ours.find("writer") == "hf:org/repo#model.gguf"
    assert ours.find("writer:latest") == "hf:org/repo#model.gguf"
    assert ours.find("writer:fast") is None
    theirs.remove("writer")
    assert ours.find("writer") is None
    (home / "aliases.json").unlink()
    assert ours.find("writer") is None


def test_a_route_is_read_once_and_kept(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("best", ROUTE)
    aliases.set("writer", "best")
    found = aliases.find("writer")
    assert isinstance(found, Route)
    assert [rung.model for rung in found.models] == ["smollm2", "openai:gpt-6-luna"]
    assert aliases.find("writer") is found


def test_unchanged_it_costs_one_stat(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases = routing.aliases(home)
    aliases.set("writer", "smollm2")
    aliases.find("writer")
    calls: list[object] = []
    original = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        calls.append(path)
        return original(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("it was opened"))
    assert aliases.find("writer") == "smollm2"
    assert len(calls) == 1


def test_the_file_is_the_owners_alone_and_has_a_version(home: Path) -> None:
    routing.aliases(home).set("writer", "smollm2")
    path = home / "aliases.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["version"] == 1


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_a_file_that_others_may_write_is_not_followed(home: Path) -> None:
    routing.aliases(home).set("writer", "smollm2")
    (home / "aliases.json").chmod(0o666)
    with pytest.raises(Refused, match=r"others may write to .*aliases\.json; chmod 600"):
        routing.aliases(home).find("writer")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"version": 1}', '{"version": 1, "aliases": []}',
     '{"version": "1", "aliases": {}}', '{"version": true, "aliases": 3}',
     '{"version": 1, "aliases": {"a": {"target": 3, "time": "", "before": []}}}',
     '{"version": 1, "aliases": {"a": {"target": "not a ref", "time": "", "before": []}}}',
     '{"version": 1, "aliases": {"openai:gpt-5": {"target": "b", "time": "", "before": []}}}',
     '{"version": 1, "aliases": {"a:latest": {"target": "b", "time": "", "before": []}}}',
     '{"version": 1, "aliases": {"a": {"target": "b", "time": "", "before": [{"target": null,'
     ' "time": ""}]}}}',
     "[" * 100_000],
)  # fmt: skip
def test_a_damaged_file_is_told_and_not_overwritten(home: Path, text: str) -> None:
    path = home / "aliases.json"
    path.write_text(text)
    path.chmod(0o600)
    for _ in range(2):  # not only at the first look
        with pytest.raises(Failure, match=r"aliases\.json is damaged") as caught:
            routing.aliases(home).find("writer")
        assert f"mv {path} {path}.damaged" in str(caught.value)
        assert "models, keys and chats are not in it" in str(caught.value)
    with pytest.raises(Failure):
        routing.aliases(home).set("writer", "smollm2")
    assert path.read_text() == text


def test_a_file_of_a_later_overt_is_not_guessed_at(home: Path) -> None:
    (home / "aliases.json").write_text('{"version": 2, "aliases": {}}')
    (home / "aliases.json").chmod(0o600)
    with pytest.raises(Failure, match="later Overt"):
        routing.aliases(home).find("writer")


@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 60))
@settings(
    max_examples=repeats(60, 150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_the_file_holds_it_is_read_or_one_clear_error(
    home: Path, piece: bytes, at: int, cut: int
) -> None:
    path = home / "aliases.json"
    path.unlink(missing_ok=True)
    aliases = routing.aliases(home)
    aliases.set("a", "b")
    aliases.set("a", ROUTE)
    aliases.set("c", "a")
    data = path.read_bytes()
    path.write_bytes(data[:at] + piece + data[at + cut :])
    fresh = routing.aliases(home)
    with suppress(OvertError):
        for alias in fresh.all():
            fresh.find(alias.name)


# ---- what may be set -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "openai:gpt-5", "./a", "hf:a/b", "a/b", "x" * 200])
def test_names_are_words(home: Path, name: str) -> None:
    with pytest.raises(BadRef, match="no name for an alias"):
        routing.aliases(home).set(name, "smollm2")


@pytest.mark.parametrize("target", ["", "a b", "openai:", "http//x", "./model.gguf", "~/m.gguf"])
def test_targets_are_refs_that_mean_the_same_everywhere(home: Path, target: str) -> None:
    with pytest.raises(BadRef) as caught:
        routing.aliases(home).set("writer", target)
    assert caught.value.hint
    assert not (home / "aliases.json").exists()


def test_a_path_is_kept_whole(home: Path) -> None:
    assert routing.aliases(home).set("writer", "/models/a.gguf").target == "/models/a.gguf"


@pytest.mark.parametrize("target", ["a", "a:latest", "b", {"models": ["b", "smollm2"]}])
def test_a_circle_is_not_set(home: Path, target: Any) -> None:
    aliases = routing.aliases(home)
    aliases.set("b", {"rules": [{"when": {}, "use": "c"}]})
    aliases.set("c", "a")
    with pytest.raises(BadRequest, match=r"circle: .* -> "):
        aliases.set("a", target)
    assert aliases.find("a") is None


def test_a_circle_made_by_hand_is_found(home: Path) -> None:
    row = {"time": "", "before": []}
    rows = {"a": {"target": "b", **row}, "b": {"target": {"models": ["a", "x"]}, **row}}
    rows["z"] = {"target": "smollm2", **row}
    (home / "aliases.json").write_text(json.dumps({"version": 1, "aliases": rows}))
    (home / "aliases.json").chmod(0o600)
    aliases = routing.aliases(home)
    for name in ("a", "b"):
        with pytest.raises(BadRequest, match="circle"):
            aliases.find(name)
    assert aliases.find("z") == "smollm2"
    aliases.set("z", "gemma3")  # what is wrong elsewhere is no hindrance
    aliases.set("a", "smollm2")
    assert isinstance(aliases.find("b"), Route)


def test_eight_in_a_row_and_no_more(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("a1", "smollm2")
    for number in range(2, 9):
        aliases.set(f"a{number}", f"a{number - 1}")
    assert aliases.find("a8") == "smollm2"
    with pytest.raises(BadRequest, match="more than 8 aliases"):
        aliases.set("a9", "a8")
    aliases.set("b0", "smollm2")
    with pytest.raises(BadRequest, match="more than 8 aliases"):
        aliases.set("a1", "b0")  # a8 would be the ninth


def test_a_route_that_cannot_be_read_is_not_set(home: Path) -> None:
    with pytest.raises(BadRequest, match=r"models\[0\] of the route"):
        routing.aliases(home).set("writer", {"models": [3]})
    assert routing.aliases(home).all() == []


# ---- history and those who write at once ------------------------------------------------------


def test_undo_goes_back_step_by_step(home: Path) -> None:
    aliases = routing.aliases(home)
    for number in range(25):
        aliases.set("writer", f"m{number}")
    aliases.remove("writer")
    assert aliases.all() == []
    assert aliases.undo("writer").target == "m24"
    assert aliases.find("writer") == "m24"
    for number in range(23, 4, -1):
        assert aliases.undo("writer").target == f"m{number}"
    with pytest.raises(NotFound):
        aliases.undo("writer")
    assert aliases.find("writer") == "m5"
    with pytest.raises(NotFound, match="no alias"):
        aliases.remove("reader")
    with pytest.raises(NotFound, match="nothing was changed"):
        aliases.undo("reader")


def test_undo_makes_no_circle(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("a", "b")
    aliases.set("a", "smollm2")
    aliases.set("b", "a")
    with pytest.raises(BadRequest, match="circle"):
        aliases.undo("a")
    assert aliases.find("b") == "smollm2"


def test_get_shows_what_was_set_and_before(home: Path) -> None:
    aliases = routing.aliases(home)
    aliases.set("writer", "b")
    aliases.set("writer", ROUTE)
    assert aliases.get("writer:latest").target == ROUTE
    assert aliases.get("writer").before == ("b",)
    with pytest.raises(NotFound):
        aliases.get("b")


def test_those_who_write_at_once_lose_nothing(home: Path) -> None:
    def write(who: int) -> None:
        for number in range(5):
            routing.aliases(home).set(f"w{who}-{number}", "smollm2")

    threads = [threading.Thread(target=write, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(routing.aliases(home).all()) == 30
    assert sorted(path.name for path in home.iterdir()) == ["aliases.json", "aliases.lock"]


def test_readers_see_the_old_or_the_new(home: Path) -> None:
    writer, reader = routing.aliases(home), routing.aliases(home)
    writer.set("writer", "m0")
    seen: list[object] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(reader.find("writer"))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 20):
        writer.set("writer", f"m{number}")
    done.set()
    thread.join()
    assert set(seen) <= {f"m{number}" for number in range(20)}


def test_what_reads_a_route_is_anybodys(home: Path) -> None:
    def read(mapping: Mapping[str, Any]) -> int:
        return len(mapping)

    aliases = Aliases(home, read)
    aliases.set("writer", {"models": ["a"], "x": 1})
    assert aliases.find("writer") == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_in_place_of_the_file_stops_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "aliases.json", 0o600)
    with pytest.raises(Failure, match="is not a file"):
        routing.aliases(tmp_path).find("writer")


def test_what_was_found_before_a_change_is_not_kept_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if another thread saw the change while this one was looking."""
    mine, theirs = routing.aliases(tmp_path), routing.aliases(tmp_path)
    mine.set("writer", "echo:old")
    end = mine._end

    def late(*given: Any) -> Any:
        found = end(*given)
        theirs.set("writer", "echo:new")
        mine._follow()
        return found

    monkeypatch.setattr(mine, "_end", late)
    assert mine.find("writer") == "echo:old"
    monkeypatch.undo()
    assert mine.find("writer") == "echo:new"
