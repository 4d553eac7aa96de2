"""Pulling and finding: catalogue names, two processes at once, and kill -9 at any moment."""

import dataclasses
import hashlib
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from conftest import repeats
from overt.errors import BadRef, IntegrityError, ModelNotFound, Offline, SourceFailed
from overt.models.pull import FetchProgress, find, pull
from overt.models.sources import catalogue
from overt.models.store import Store
from overt.ref import parse
from overt.settings import Settings, load
from servers import Hub, Server, filename, gguf, publish, serving, wheel

MODEL = gguf(1)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        monkeypatch.setattr(
            "overt.models.sources.download.Network.__init__.__defaults__", (False, None, 0)
        )
        yield server


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> catalogue.CatalogueEntry:
    """A catalogue of one model: a package first, a hub second, the weights pinned."""
    text = f"""
[tiny]
about = "tiny"
default = "q4"
[tiny.tags.q4]
refs = ["pypi:tiny==1#tiny/m.gguf", "hf:org/tiny#m.gguf"]
kind = "chat"
licence = "Apache-2.0"
sha256 = "{hashlib.sha256(MODEL).hexdigest()}"
facts = []
"""
    entries = catalogue.read(text)
    monkeypatch.setattr(catalogue, "_builtin", lambda: entries)
    return entries[0]


def test_a_catalogue_name_is_pulled_once_and_found_by_all_its_names(
    index: Server, settings: Settings, listed: catalogue.CatalogueEntry
) -> None:
    publish(index, "tiny", {"1": wheel("tiny", "1", {"tiny/m.gguf": MODEL})})
    steps: list[FetchProgress] = []
    manifest = pull("tiny", settings, steps.append)
    assert manifest.licence == "Apache-2.0"  # the catalogue's word, not the wheel's
    assert any(step.done == step.total for step in steps)
    asked = len(index.seen)
    assert pull("tiny", settings) == pull("tiny:q4", settings) == manifest
    assert len(index.seen) == asked
    for name in ("tiny", "tiny:q4", "pypi:tiny==1#tiny/m.gguf", manifest.digest):
        found = find(name, settings)
        assert (found.digest, found.weights.read_bytes()) == (manifest.digest, MODEL)
    assert find("tiny", settings).catalogue == listed


def test_the_next_ref_is_tried_and_the_first_reason_is_told(
    index: Server, settings: Settings, listed: catalogue.CatalogueEntry
) -> None:
    with pytest.raises(ModelNotFound, match="no package tiny on http"):
        pull("tiny", settings)
    Hub(index, index, "org/tiny", {"m.gguf": MODEL}, frozenset({"m.gguf"}))
    steps: list[FetchProgress] = []
    assert pull("tiny", settings, steps.append).ref.startswith("hf:org/tiny@")
    assert any("trying the next" in step.what for step in steps)
    asked = len(index.seen)
    pull("tiny", settings)
    assert len(index.seen) == asked


def test_other_weights_than_the_catalogue_pins_end_the_pull(
    index: Server, settings: Settings, listed: catalogue.CatalogueEntry
) -> None:
    publish(index, "tiny", {"1": wheel("tiny", "1", {"tiny/m.gguf": gguf(2)})})
    Hub(index, index, "org/tiny", {"m.gguf": MODEL}, frozenset({"m.gguf"}))
    with pytest.raises(IntegrityError, match="where the catalogue has"):
        pull("tiny", settings)
    assert Store(settings.home).names() == []
    assert not any(seen.path.startswith("/api") for seen in index.seen)


def test_another_wheel_than_the_catalogue_pins_is_not_downloaded(
    index: Server,
    settings: Settings,
    listed: catalogue.CatalogueEntry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned = dataclasses.replace(listed, pins={filename("tiny", "1"): "0" * 64})
    monkeypatch.setattr(catalogue, "_builtin", lambda: (pinned,))
    publish(index, "tiny", {"1": wheel("tiny", "1", {"tiny/m.gguf": MODEL})})
    with pytest.raises(IntegrityError, match="the catalogue has 000000000000"):
        pull("tiny", settings)
    assert not any(seen.path.startswith("/files") for seen in index.seen)


def test_a_damaged_model_is_mended_by_removing_and_pulling(
    index: Server, settings: Settings, listed: catalogue.CatalogueEntry
) -> None:
    publish(index, "tiny", {"1": wheel("tiny", "1", {"tiny/m.gguf": MODEL})})
    manifest = pull("tiny", settings)
    store = Store(settings.home)
    blob = store.path(manifest.weights)
    blob.chmod(0o644)
    blob.write_bytes(MODEL[:10])
    assert pull("tiny", settings) == manifest  # of another size: seen without hashing
    assert store.verify() == []
    blob.chmod(0o644)
    blob.write_bytes(MODEL[::-1])
    assert [p.hint for p in store.verify()] == ["type `overt rm tiny`, then `overt pull tiny`"]
    store.remove(parse("tiny"))
    pull("tiny", settings)
    assert store.verify() == []


def test_what_is_not_here_says_how_to_get_it(settings: Settings) -> None:
    with pytest.raises(ModelNotFound, match="type `overt pull smollm2`"):
        find("smollm2", settings)
    with pytest.raises(ModelNotFound, match="did you mean smollm2"):
        find("smolm2", settings)
    with pytest.raises(ModelNotFound, match="type `overt pull hf:org/m`"):
        find("hf:org/m", settings)
    with pytest.raises(ModelNotFound, match="not a model on this disk"):
        find("openai:gpt-5", settings)
    for name in ("openai:gpt-5", "anthropic:x", "echo:x", "http://127.0.0.1:1/v1"):
        with pytest.raises(BadRef, match="cannot be pulled"):
            pull(name, settings)


def test_offline_gives_what_is_here_and_asks_nobody(index: Server, settings: Settings) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})})
    manifest = pull("pypi:m", settings)
    index.seen.clear()
    offline = load(flags={"offline": True})
    assert pull("pypi:m", offline) == manifest
    with pytest.raises(Offline, match=r"n is not in the store and needs the network"):
        pull("pypi:n", offline)
    assert index.seen == []


def test_an_unreachable_index_is_one_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, index: Server
) -> None:
    with serving() as gone:
        monkeypatch.setenv("PIP_INDEX_URL", f"{gone.url}/simple/")
    with pytest.raises(SourceFailed, match="cannot be read"):
        pull("pypi:m", settings)


# ---- the cold path -----------------------------------------------------------------------------


def test_finding_a_stored_model_is_fast_and_loads_no_network(
    index: Server, settings: Settings
) -> None:
    publish(index, "m", {"1": wheel("m", "1", {"m.gguf": MODEL})})
    pull("pypi:m", settings)
    program = """
import sys, time
from overt.models.pull import find
from overt.settings import load
settings = load()
times = []
for _ in range(21):
    begun = time.perf_counter()
    find("pypi:m", settings)
    times.append(time.perf_counter() - begun)
heavy = {"httpx2", "huggingface_hub", "filelock", "packaging", "ssl", "tomllib.x", "zipfile"}
print(sorted(times)[10], *sorted(heavy & set(sys.modules)))
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    median, *loaded = ran.stdout.split()
    assert float(median) < 0.005
    assert loaded == []


# ---- two at once -------------------------------------------------------------------------------

DRIVER = """
import gc, os, sys, threading
import filelock, httpx2, truststore
import overt.models.pull, overt.models.sources.pypi, overt.models.sources.folder
import overt.formats.pickle
from overt.settings import load
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        def show(step, seen=set()):
            if step.what not in seen:
                seen.add(step.what)
                os.write(1, f"step {step.what}\\n".encode())
        try:
            overt.models.pull.pull(line.strip(), load(), show)
        except BaseException as error:
            os.write(1, f"error {type(error).__name__}: {error}\\n".encode())
            os._exit(1)
        os._exit(0)
    os.write(1, f"pid {pid}\\n".encode())  # in one piece, between those of the child
    os.write(1, f"end {os.waitpid(pid, 0)[1]}\\n".encode())
"""


class Driver:
    """A process that pulls in a new child for each line; the child can be killed."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        assert self.next("ready") == ""

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))
        self.lines.put("gone")

    def next(self, *kinds: str) -> str:
        """What follows the next line of one of these kinds."""
        while True:
            kind, _, rest = self.lines.get(timeout=60).partition(" ")
            if kind == "error":
                self.errors.append(rest)
            if kind in kinds:
                return rest
            assert kind != "gone"

    def begin(self, ref: str) -> int:
        assert self.process.stdin
        self.process.stdin.write(f"{ref}\n")
        self.process.stdin.flush()
        return int(self.next("pid"))

    def end(self) -> int:
        return int(self.next("end"))

    def until(self, step: str, timeout: float) -> bool:
        """Wait until the child reports a step of that beginning; False if it ends or takes long."""
        limit = time.monotonic() + timeout
        while True:
            try:
                line = self.lines.get(timeout=max(0.001, limit - time.monotonic()))
            except queue.Empty:
                return False
            if line.startswith(f"step {step}"):
                return True
            if line.startswith("end "):
                self.lines.put(line)
                return False

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.thread.join()
        self.process.stdout.close()


@pytest.fixture
def drivers(index: Server) -> Iterator[list[Driver]]:
    made: list[Driver] = []
    yield made
    for driver in made:
        driver.close()


def test_two_processes_pull_the_same_model_at_once(
    index: Server, settings: Settings, drivers: list[Driver]
) -> None:
    body = wheel("m", "1", {"m.gguf": gguf(3, 2_000_000)})
    publish(index, "m", {"1": body})
    index.speed = 3_000_000
    drivers += [Driver(), Driver()]
    for driver in drivers:
        driver.begin("pypi:m")
    waited = [driver.until("another process is pulling pypi:m==1", 30) for driver in drivers]
    assert [driver.end() for driver in drivers] == [0, 0]
    assert sorted(waited) == [False, True]
    assert len(index.asked(f"/files/{filename('m', '1')}")) == 1
    assert Store(settings.home).verify() == []


# ---- kill -9 -----------------------------------------------------------------------------------

KILLS = repeats(40, 200)
MAX_KILLS = 200  # a busy machine may need more than a few to see every moment
STEPS = ("asking", "m-1", "checking", "unpacking m", "unpacking METADATA", "unpacking METADATA")
LEFT = ("nothing", "part", "unpacked", "blobs", "named")


def _left(home: Path) -> str:
    """What a killed pull left: nothing, a part, a whole download, blobs without a name, or all."""
    if (home / "names/pypi%3Am.json").exists():
        return "named"
    if any((home / "blobs").rglob("*/*/*")):
        return "blobs"
    names = [path.name for path in (home / "partial").rglob("*")]
    if any(name.startswith("member-") for name in names):
        return "unpacked"
    if any(name.endswith(".whl") for name in names):
        return "downloaded"
    return "part" if any(name.endswith(".part") for name in names) else "nothing"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_leave_the_store_whole_and_the_pull_resumable(
    index: Server, settings: Settings, drivers: list[Driver]
) -> None:
    chance = random.Random(os.environ.get("OVERT_TEST_SEED", "17"))
    model = gguf(4, 20_000_000)
    body = wheel("m", "1", {"m.gguf": model, "LICENSE": b"text"})
    publish(index, "m", {"1": body})
    file = f"/files/{filename('m', '1')}"
    store = Store(settings.home)
    driver = Driver()
    drivers.append(driver)
    left: Counter[str] = Counter()
    while left.total() < KILLS or (left.total() < MAX_KILLS and not set(LEFT) <= set(left)):
        index.speed = chance.choice((40e6, 100e6, 300e6))
        pid = driver.begin("pypi:m")
        if chance.random() < 0.4:
            time.sleep(chance.uniform(0, 0.4) * chance.choice((0.05, 1)))
        elif driver.until(chance.choice(STEPS), 2):
            time.sleep(chance.uniform(0, 0.03))
        with suppress(ProcessLookupError):  # it may have been faster
            os.kill(pid, signal.SIGKILL)
        driver.end()
        state = _left(settings.home)
        left[state] += 1
        assert store.verify() == [], state
        if state in ("named", "blobs") or chance.random() < 0.2:
            with suppress(ModelNotFound):  # killed before it had a folder of its own
                store.remove(parse("pypi:m"))
            assert store.verify() == []
    assert driver.errors == []
    print(f"{left.total()} kills left: {dict(left)}")
    assert set(LEFT) <= set(left), left

    # A pull cut off in the middle of its download goes on from the very byte it had.
    with suppress(ModelNotFound):
        store.remove(parse("pypi:m"))
    index.speed = 20e6
    pid = driver.begin("pypi:m")
    assert driver.until("m-1", 10)
    time.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    driver.end()
    (part,) = (settings.home / "partial").rglob("*.part")
    have = part.stat().st_size
    assert 0 < have < len(body)
    index.seen.clear()
    index.speed = None
    manifest = pull("pypi:m", settings)
    assert [seen.range for seen in index.asked(file)] == [f"bytes={have}-"]
    assert store.path(manifest.weights).read_bytes() == model
    assert store.verify() == []
    print(f"resumed at byte {have} of {len(body)}")
