"""The tests' own isolation holds: these run small test files under the same conftest.py."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Outcome = Callable[[str], tuple[dict[str, int], str]]


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """Runs a test file's text and returns pytest's counts and output."""
    here = Path(__file__).parent
    folder = tmp_path / "inner"
    folder.mkdir()
    shutil.copy(here / "conftest.py", folder / "conftest.py")

    def run(text: str) -> tuple[dict[str, int], str]:
        (folder / "test_inner.py").write_text(text, "utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio",
             "-W", "error", "--rootdir", str(folder), str(folder)],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=60,
            env={
                **os.environ, "OVERT_HOME": "/of/the/person", "HF_TOKEN": "secret", "CI": "",
                "PYTHONPATH": str(here),  # what conftest.py imports
            },
        )  # fmt: skip
        summary = done.stdout.strip().splitlines()[-1]
        counts = {
            word.removesuffix("s"): int(number)
            for number, word in re.findall(r"(\d+) (\w+)", summary)
        }
        return counts, done.stdout + done.stderr

    return run


def test_a_swallowed_attempt_to_reach_the_network_still_fails(outcome: Outcome) -> None:
    counts, output = outcome("""
import contextlib, socket

def test_connect():
    with contextlib.suppress(Exception), socket.socket() as one:
        one.connect(("192.0.2.1", 80))

def test_look_up():
    with contextlib.suppress(Exception):
        socket.getaddrinfo("example.org", 443)

def test_datagram():
    with contextlib.suppress(Exception), socket.socket(type=socket.SOCK_DGRAM) as one:
        one.sendto(b"x", ("192.0.2.1", 53))
""")
    assert (counts["passed"], counts["error"]) == (3, 3), output
    assert "192.0.2.1" in output
    assert "example.org" in output


def test_loopback_and_unix_sockets_stay_open(outcome: Outcome) -> None:
    counts, output = outcome("""
import socket

def test_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(("localhost", server.getsockname()[1])):
            pass

def test_unix(tmp_path):
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))
""")
    assert counts["passed"] == 2, output
    assert set(counts) <= {"passed"}, output


@pytest.mark.parametrize(
    "leak",
    [
        "open(__file__)",
        "socket.socket()",
        "ring = [open(__file__)]; ring.append(ring)",
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()",
    ],
)
def test_what_a_test_leaves_open_is_its_own_failure(outcome: Outcome, leak: str) -> None:
    counts, output = outcome(f"""
import socket, threading

def test_leak():
    {leak}

def test_innocent():
    pass
""")
    # Found while the test runs or at its end, depending on when Python frees the object.
    assert counts.get("failed", 0) + counts.get("error", 0) == 1, output
    assert re.search(r"^(FAILED|ERROR) test_inner.py::test_leak", output, re.MULTILINE), output


def test_the_persons_settings_and_home_are_out_of_reach(outcome: Outcome) -> None:
    counts, output = outcome("""
import os
from pathlib import Path

def test_environment(tmp_path, home):
    assert Path.home().is_relative_to(tmp_path)
    assert home.is_relative_to(tmp_path) and not any(home.iterdir())
    assert os.environ["OVERT_HOME"] == str(home)
    assert "HF_TOKEN" not in os.environ
""")
    assert counts == {"passed": 1}, output


def test_a_missing_model_skips_here_and_fails_in_ci(outcome: Outcome) -> None:
    text = """
import conftest

def test_missing():
    conftest._missing("no such model", "pull it")

def test_missing_in_ci():
    conftest.CI = True
    conftest._missing("no such model", "pull it")
"""
    counts, output = outcome(text)
    assert (counts["skipped"], counts["failed"]) == (1, 1), output


def test_listed_data_is_the_data_that_is_there(shared_data: Callable[[str], Path]) -> None:
    assert shared_data("text/tinyshakespeare.txt").stat().st_size == 1_115_394
