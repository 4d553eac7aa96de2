"""Keys: made once, known by their digest, followed while a server runs, whole after any kill."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overt.errors import BadRequest, Failure, NotFound
from overt.protocols.base import Caller
from overt.server import api_keys
from overt.server.api_keys import ApiKeys


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "_LOOK_EVERY", 0.0)


def test_a_key_is_known_in_both_spellings_and_in_no_other(home: Path) -> None:
    new = ApiKeys(home).add("laptop")
    assert re.fullmatch(r"sk-ov-[A-Za-z0-9]{8}-[A-Za-z0-9]{20}", new.text)
    assert re.fullmatch(r"sk-lm-[A-Za-z0-9]{8}:[A-Za-z0-9]{20}", new.lm_studio)
    kept = ApiKeys(home)
    assert kept.find(new.text) == kept.find(new.lm_studio) == Caller(new.key.id, "laptop")
    other = ApiKeys(home).add("other")
    mixed = f"sk-ov-{new.key.id}-{other.text[-20:]}"
    for wrong in (
        "", new.text[:-1], new.text + "x", new.text.lower() + "\n", new.text.upper(), mixed,
        new.text + "\n", f" {new.text}", new.text.replace("sk-ov", "sk-lm"), new.text[-20:],
        new.lm_studio.replace("sk-lm", "sk-ov"), "sk-ov-" + "é" * 8 + "-" + "x" * 20,
        f"sk-ov-{'x' * 8}-{'y' * 20}", f"sk-ov-{new.key.id}-{new.key.sha256[:20]}", "x" * 100_000,
    ):  # fmt: skip
        assert kept.find(wrong) is None, wrong[:80]


def test_the_file_holds_digests_alone_and_is_for_its_owner_alone(home: Path) -> None:
    os.umask(0)
    try:
        new = ApiKeys(home).add("x")
    finally:
        os.umask(0o022)
    kept = ApiKeys(home)
    kept.find(new.text)
    kept.note_used()
    for path in home.iterdir():
        assert new.text[-20:] not in path.read_text("utf-8")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert {path.name for path in home.iterdir()} == {"keys.json", "keys.lock", "keys-used.json"}
    row = json.loads((home / "keys.json").read_bytes())["keys"][0]
    assert set(row) == {"id", "name", "sha256", "created", "expires", "revoked"}


def test_keys_are_unlike_each_other(home: Path) -> None:
    made = [ApiKeys(home).add() for _ in range(50)]
    assert len({one.text[-20:] for one in made}) == len({one.key.id for one in made}) == 50
    assert set("".join(one.text[-20:] for one in made)) > set("0aA")


def test_a_running_server_follows_the_file(home: Path) -> None:
    running = ApiKeys(home)
    assert not running.usable()
    new = ApiKeys(home).add()
    assert running.usable()
    assert running.find(new.text) == Caller(new.key.id)
    ApiKeys(home).revoke(new.key.id)
    assert running.find(new.text) is None
    assert not running.usable()
    again = ApiKeys(home).add()
    assert running.find(again.text)
    (home / "keys.json").unlink()
    assert running.find(again.text) is None


def test_it_looks_at_the_file_once_a_second_and_no_oftener(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_keys, "_LOOK_EVERY", 1.0)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    new = ApiKeys(home).add()
    running = ApiKeys(home)
    assert running.find(new.text)
    ApiKeys(home).revoke(new.key.id)
    now[0] += 0.9
    assert running.find(new.text)
    now[0] += 0.2
    assert running.find(new.text) is None


def test_a_key_ends_on_the_second_it_should(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = ApiKeys(home).add(seconds=10)
    running = ApiKeys(home)
    assert new.key.expires is not None
    monkeypatch.setattr(time, "time", lambda: new.key.expires - 0.001)
    assert running.find(new.text)
    monkeypatch.setattr(time, "time", lambda: new.key.expires)
    assert running.find(new.text) is None
    assert not running.usable()


def test_what_makes_no_sense_is_refused(home: Path) -> None:
    kept = ApiKeys(home)
    for name in ("a\nb", "\x1b[31m", " x", "x" * 81):
        with pytest.raises(BadRequest):
            kept.add(name)
    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(BadRequest):
            kept.add(seconds=seconds)
    assert kept.all() == []
    new = kept.add("ünï")
    with pytest.raises(NotFound, match="there is no key 'none'"):
        kept.revoke("none")
    assert kept.revoke(new.text).revoked is not None, "the key itself names it too"
    with pytest.raises(NotFound, match="was revoked before"):
        kept.revoke(new.key.id)


def test_when_a_key_was_used_is_written_once_a_minute(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = ApiKeys(home).add()
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    running = ApiKeys(home)
    running.find(new.text)
    assert running.used() == {}
    now[0] += 61
    running.find(new.text)
    assert list(running.used()) == [new.key.id]
    written = (home / "keys-used.json").stat().st_mtime_ns
    now[0] += 59
    running.find(new.text)
    assert (home / "keys-used.json").stat().st_mtime_ns == written
    (home / "keys-used.json").write_text("[1")
    assert running.used() == {}
    now[0] += 2
    assert running.find(new.text), "what cannot be read or written fails no request"
    assert list(running.used()) == [new.key.id]


@pytest.mark.parametrize(
    "body",
    [
        "", "[]", "{}", '{"keys": 1}', '{"keys": [1]}', '{"keys": [{"id": "x"}]}', "[" * 50_000,
        '{"keys": [{"id": "../../ab", "sha256": "' + "0" * 64 + '", "created": 1}]}',
        '{"keys": [{"id": "abcdefgh", "sha256": "' + "0" * 63 + '", "created": 1}]}',
        '{"keys": [{"id": "abcdefgh", "sha256": "' + "0" * 64 + '", "created": "soon"}]}',
        '{"keys": [{"id": 12345678, "sha256": "' + "0" * 64 + '", "created": 1}]}',
    ],
)  # fmt: skip
def test_a_damaged_file_admits_nobody_and_is_not_written_over(home: Path, body: str) -> None:
    new = ApiKeys(home).add()
    running = ApiKeys(home)
    assert running.find(new.text)
    (home / "keys.json").write_text(body)
    assert running.find(new.text) is None
    for act in (running.all, running.add, lambda: running.revoke(new.key.id)):
        with pytest.raises(Failure, match="is damaged"):
            act()
    assert (home / "keys.json").read_text() == body


def _written(home: Path) -> tuple[bytes, str]:
    """A file of three keys, and the one of them that works."""
    folder = home / "written"
    if not folder.exists():
        kept = ApiKeys(folder)
        new = kept.add("one")
        kept.revoke(kept.add("two", 5).key.id)
        kept.add("three", 60)
        (folder / "text").write_text(new.text)
    return (folder / "keys.json").read_bytes(), (folder / "text").read_text()


@given(st.data())
def test_no_change_of_a_byte_breaks_it_or_lets_another_secret_in(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = tmp_path_factory.getbasetemp()
    body, text = _written(base)
    at = data.draw(st.integers(0, len(body) - 1))
    changed = (
        body[:at] + data.draw(st.binary(max_size=3)) + body[at + data.draw(st.integers(0, 3)) :]
    )
    home = base / "changed"
    home.mkdir(exist_ok=True)
    (home / "keys.json").write_bytes(changed)
    kept = ApiKeys(home)
    found = kept.find(text)
    assert found is None or len(found.key) == 8
    assert kept.find(text[:-1] + ("x" if text[-1] != "x" else "y")) is None
    try:
        assert all(len(key.id) == 8 for key in kept.all())
    except Failure:
        assert found is None


def test_many_at_once_lose_no_key(home: Path) -> None:
    threads = [
        threading.Thread(target=lambda: [ApiKeys(home).add() for _ in range(5)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.id for key in ApiKeys(home).all()}) == 20


ADDING = """
import sys
from pathlib import Path
from overt.server.api_keys import ApiKeys
kept = ApiKeys(Path(sys.argv[1]))
while True:
    print(kept.add().key.id, flush=True)
"""


def test_a_kill_at_any_moment_leaves_every_key_that_was_shown(home: Path) -> None:
    shown: list[str] = []
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", ADDING, str(home)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            shown += [process.stdout.readline().strip() for _ in range(3)]
            process.send_signal(signal.SIGKILL)
            shown += [line.strip() for line in process.stdout if line.endswith("\n")]
        assert {key.id for key in ApiKeys(home).all()} >= set(shown)
    ApiKeys(home).add()
    left = [path.name for path in home.iterdir() if path.name.startswith(".")]
    assert left == [], "what the killed left is swept by the next"


def test_the_look_up_is_cheap_and_does_not_grow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1 ms would be ten times too much: this only shows that nothing is read or searched."""
    monkeypatch.setattr(api_keys, "_LOOK_EVERY", 1.0)
    new = ApiKeys(home).add()
    body = json.loads((home / "keys.json").read_bytes())
    row = body["keys"][0]
    body["keys"] += [{**row, "id": f"{i:08}"} for i in range(20_000)]
    (home / "keys.json").write_text(json.dumps(body))
    running = ApiKeys(home)
    assert running.find(new.text)
    begun = time.thread_time()
    for _ in range(1000):
        running.find(new.text)
    assert time.thread_time() - begun < 0.1
