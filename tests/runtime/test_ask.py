"""Asking a worker over its own listener: it is reached after the last filter, and not trusted."""

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_supervise import ask, worker

from overt.errors import BadRequest, EngineFailed, Unsupported, WorkerDied
from overt.runtime.worker import http as asks

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no UNIX sockets"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="by descriptor, which is Linux's")


@pytest.mark.parametrize("isolation", ["best", "off"])
async def test_a_worker_is_asked_however_deep_its_folder_lies(home: Path, isolation: str):
    deep = home / ("deep" * 25) / ("folder" * 15)
    deep.mkdir(parents=True)
    async with worker(deep, host="Listens", isolation=isolation) as one:
        assert await one.ask("/echo", b"hello") == b"hello"
        assert await one.ask("/echo", b"") == b""
        long = os.urandom(3 << 20)
        assert await one.ask("/echo", long) == long
        many = [str(number).encode() for number in range(100)]
        assert await asyncio.gather(*(one.ask("/echo", body) for body in many)) == many


async def test_a_worker_that_does_not_listen_says_so(home: Path):
    async with worker(home) as one:
        with pytest.raises(Unsupported, match="does not listen"):
            await one.ask("/echo", b"")


BAD = {
    "no HTTP": b"hello\r\n\r\n",
    "older HTTP": b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nx",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
    "a huge length": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx",
    "no end of its head": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000,
    "less than it says": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
    "nothing": b"",
}


async def test_a_bad_reply_is_one_error_and_the_next_question_is_answered(home: Path):
    async with worker(home, host="Listens") as one:
        for what, reply in BAD.items():
            with pytest.raises(EngineFailed, match="broke off"):
                await one.ask("/raw", reply)
            assert await one.ask("/echo", what.encode()) == what.encode()
        assert one.restarts == 0


async def test_silence_ends(home: Path):
    async with worker(home, host="Listens") as one:
        [folder] = (home / "run").glob("*.tmp")
        with pytest.raises(EngineFailed, match=r"within 0\.1 s"):
            await asks.ask(folder, one.pid, "/silent", b"", seconds=0.1)


async def test_a_death_while_asked_is_told_as_one_and_the_worker_comes_back(home: Path):
    async with worker(home, host="Listens") as one:
        with pytest.raises(WorkerDied, match=r"status 3|code 3"):
            await one.ask("/die", b"")
        assert await one.ask("/echo", b"again") == b"again"
        assert one.restarts == 1


async def test_too_much_is_refused_before_it_is_sent(home: Path, monkeypatch):
    monkeypatch.setattr(asks, "LIMIT", 10)
    with pytest.raises(BadRequest, match="send less"):
        await asks.ask(home, 1, "/", bytes(11))


@linux
async def test_a_worker_cannot_send_the_parent_to_another_socket(home: Path, tmp_path: Path):
    reached: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(await reader.read(10))
        writer.close()

    victim = tmp_path / "victim.sock"
    async with await asyncio.start_unix_server(hear, victim):
        async with worker(home, host="Listens") as one:
            await ask(one, "point", os.fsencode(victim))
            with pytest.raises(EngineFailed, match="is not a socket"):
                await one.ask("/echo", b"secret")
            [folder] = (home / "run").glob("*.tmp")
            # Even a socket of another process under the very name is not taken for the worker's.
            (folder / "engine.sock").unlink()
            os.link(victim, folder / "engine.sock")
            with pytest.raises(EngineFailed, match=f"held by process {os.getpid()}"):
                await one.ask("/echo", b"secret")
            await ask(one, "file")
            with pytest.raises(EngineFailed, match="is not a socket"):
                await one.ask("/echo", b"secret")
        await asyncio.sleep(0)
    assert reached in ([], [b""])  # at most a connection that said nothing


GOOD = b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Length: 12\r\n\r\n"


def test_the_head_llama_cpp_sends_is_read():
    assert asks._length(GOOD) == 12


@given(st.binary(max_size=30), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_any_head_is_a_length_within_bounds_or_refused(noise, at, cut):
    try:
        length = asks._length(GOOD[:at] + noise + GOOD[at + cut :])
    except ValueError:
        return
    assert 0 <= length <= asks.LIMIT
