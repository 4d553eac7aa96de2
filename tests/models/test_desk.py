"""Several files at once: as fast as allowed, stopped together, resumed together."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from overt.errors import IntegrityError, NotFound, Stopped
from overt.models.pull import pull
from overt.models.sources.base import FetchProgress
from overt.models.sources.download import Download, Network
from overt.models.sources.staging import Staging
from overt.models.store import Store
from overt.settings import load
from servers import Answer, Hub, Seen, Server, gguf, serving

BODIES = {f"f{number}": hashlib.shake_256(b"%d" % number).digest(400_000) for number in range(6)}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        found.files |= {f"/{name}": body for name, body in BODIES.items()}
        yield found


def downloads(server: Server) -> list[Download]:
    return [
        Download(f"{server.url}/{name}", name, len(body), hashlib.sha256(body).hexdigest())
        for name, body in BODIES.items()
    ]


def desk(folder: Path, **options: int) -> Staging:
    folder.mkdir(exist_ok=True)
    network = Network(environ={}, pause=0.001, **options)
    return Staging(folder, network, lambda step: None)


def test_files_come_at_once_and_in_the_order_given(server: Server, tmp_path: Path) -> None:
    server.speed = 1_000_000  # 0.4 s a file
    steps: list[FetchProgress] = []
    table = Staging(tmp_path, Network(environ={}, at_once=6), steps.append)
    begun = time.monotonic()
    found = table.fetch_all(downloads(server))
    taken = time.monotonic() - begun
    table.network.close()
    assert [one.file.read_bytes() for one in found] == list(BODIES.values())
    assert taken < 0.4 * len(BODIES) * 0.8
    for name, body in BODIES.items():
        assert FetchProgress(name, len(body), len(body)) in steps


def test_no_more_come_at_once_than_allowed(server: Server, tmp_path: Path) -> None:
    server.speed = 4_000_000
    most = [0]
    running: set[str] = set()
    lock = threading.Lock()

    def watch(step: FetchProgress) -> None:
        with lock:
            if step.what in BODIES:
                running.add(step.what)
                most[0] = max(most[0], len(running))
                if step.done == step.total:
                    running.discard(step.what)

    table = Staging(tmp_path, Network(environ={}, at_once=2), watch)
    table.fetch_all(downloads(server))
    table.network.close()
    assert most[0] == 2


def test_a_bandwidth_limit_holds_for_all_files_together(server: Server, tmp_path: Path) -> None:
    table = desk(tmp_path, at_once=3, bandwidth=2_000_000)
    begun = time.monotonic()
    table.fetch_all(downloads(server))
    taken = time.monotonic() - begun
    table.network.close()
    expected = sum(map(len, BODIES.values())) / 2_000_000  # 1.2 s
    assert expected * 0.85 < taken < expected * 2


def test_one_failure_stops_the_others_and_they_keep_what_they_have(
    server: Server, tmp_path: Path
) -> None:
    server.speed = 500_000
    wanted = downloads(server)
    wanted[2] = Download(f"{server.url}/nowhere", "nowhere", 10)
    table = desk(tmp_path / "desk", at_once=6)
    begun = time.monotonic()
    with pytest.raises(NotFound, match="/nowhere is not there"):
        table.fetch_all(wanted)
    assert time.monotonic() - begun < 0.7  # alone, each of the others takes 0.8 s
    table.network.close()
    assert threading.active_count() < 20
    with pytest.raises(Stopped):
        table.fetch_all(downloads(server))
    server.speed = None
    again = desk(tmp_path / "desk", at_once=6)
    assert [f.file.read_bytes() for f in again.fetch_all(downloads(server))] == [*BODIES.values()]
    again.network.close()


def test_a_server_that_falls_silent_does_not_hold_up_the_end(
    server: Server, tmp_path: Path
) -> None:
    silent = threading.Event()

    def route(seen: Seen) -> Answer | None:
        if seen.path in ("/f1", "/f2"):
            silent.wait(20)
        return None

    server.routes.append(route)
    wanted = downloads(server)
    wanted[0] = Download(f"{server.url}/nowhere", "nowhere", 10)
    table = desk(tmp_path / "desk", at_once=3)
    begun = time.monotonic()
    try:
        with pytest.raises(NotFound):
            table.fetch_all(wanted)
        assert time.monotonic() - begun < 5
    finally:
        silent.set()
    for thread in threading.enumerate():
        if thread.name.endswith("(work)"):
            thread.join(10)
    table.network.close()


def test_a_wrong_file_among_many_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["/f3"] = BODIES["f2"]
    table = desk(tmp_path / "desk", at_once=4)
    with pytest.raises(IntegrityError, match=r"f3 from .* has the sha256"):
        table.fetch_all(downloads(server))
    table.network.close()


def test_a_kill_in_the_middle_of_several_files_is_resumed_in_each(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    files = {f"m-{n:05}-of-00003.gguf": gguf(n, 3_000_000) for n in (1, 2, 3)}
    with serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        Hub(server, server, "org/m", files, frozenset(files))
        server.speed = 1_500_000
        killed = subprocess.Popen(
            [sys.executable, "-m", "overt", "pull", "-q", "hf:org/m"], env=dict(os.environ)
        )
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                parts = list((home / "partial").rglob("*.part"))
                sizes = [part.stat().st_size for part in parts]
                if len(parts) == 3 and min(sizes) > 300_000:
                    break
                time.sleep(0.02)
            else:
                pytest.fail(f"three parts never came: {sizes}")
        finally:
            os.kill(killed.pid, signal.SIGKILL)
            killed.wait()
        have = {part.name: part.stat().st_size for part in (home / "partial").rglob("*.part")}
        assert all(300_000 < size < 3_000_000 for size in have.values())
        server.speed = None
        server.seen.clear()
        manifest = pull("hf:org/m", load())
        ranges = [seen.range for seen in server.seen if seen.path.startswith("/lfs/")]
        assert sorted(map(str, ranges)) == sorted(f"bytes={size}-" for size in have.values())
    store = Store(home)
    assert [store.path(file).read_bytes() for file in manifest.files] == list(files.values())
    assert store.verify() == []
