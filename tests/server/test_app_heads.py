"""The head of a request is bounded, in bytes; a large body that comes with it is not part of it."""

import socket

import psutil
import pytest

import serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    with serving.serving(tmp_path_factory.mktemp("home")) as one:
        yield one


def _said(port: int, *pieces: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:  # refused before all was sent
            pass
        found = b""
        try:
            while data := connection.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


def test_an_endless_head_is_refused(served: serving.Served) -> None:
    pieces = [b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(2000)]
    answer = _said(served.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n", *pieces)
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_long_head_in_one_piece_is_refused(served: serving.Served) -> None:
    fields = b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(60))
    answer = _said(served.port, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400")


def test_a_packed_body_is_not_taken_for_json(served: serving.Served) -> None:
    answer = _said(
        served.port,
        b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"gzip" in answer


def test_a_body_that_comes_with_its_head_is_read(served: serving.Served) -> None:
    body = b'{"model":"echo:x","messages":[{"role":"user","content":"%s"}]}' % (b"a " * 60_000)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    for _ in range(3):
        assert _said(served.port, head + body).startswith(b"HTTP/1.1 200")


def test_fields_after_the_body_are_left_out(served: serving.Served) -> None:
    body = b'{"model":"echo:x","messages":[{"role":"user","content":"a"}]}'
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n" % (len(body), body)
    )
    late = b"Host: elsewhere\r\nAuthorization: Bearer sk-ov-wrong\r\n"
    assert _said(served.port, head + late + b"\r\n").startswith(b"HTTP/1.1 200")


def test_fields_after_the_body_are_not_kept(served: serving.Served) -> None:
    process = psutil.Process(served.process.pid)
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(
            b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        )
        before = process.memory_info().rss
        for _ in range(40):
            connection.sendall(b"a: b\r\n" * 20_000)  # 4.8 MB, and 14 times that if kept
        assert _said(served.port, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
        assert process.memory_info().rss - before < 30 << 20
