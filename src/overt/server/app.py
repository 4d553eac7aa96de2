"""Runs doors on one port: binding, the guard, errors, the log of requests, and an orderly end."""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import uvicorn
from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from overt.errors import BadSetting, Failure, OvertError
from overt.server.connection import HEAD_BYTES, ClientConnection
from overt.server.guard import Guard, Rules

_CONNECTIONS = 256  # more at once get 503
_CLIENTS = 4096  # the same for the API, whose own queue refuses with a word and a time to wait
_FRAME_BYTES = 64 << 20  # the longest WebSocket message: an image in a chat
_KEEP_ALIVE = 15  # seconds an idle connection is kept
_GRACE = 30  # seconds that running transfers get to finish at the end


class MirrorProtocol(Protocol):
    """One protocol: what it says to a request, or None where the path is not its own.

    `path` is the request's path, cut at its slashes and then decoded. Called in a thread.
    """

    def answer(self, request: Request, path: list[str]) -> Response | None: ...


Refuse = Callable[[str, int, str], Response]
"""Makes an error of (path, status, message) in the form of the protocol that owns the path."""


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """One request that is over; `sent` counts bytes of the body, `whole` says all were sent."""

    method: str
    path: str
    status: int
    sent: int
    seconds: float
    whole: bool


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. Port 0 takes a free one. Both or neither of `certificate` and `key`."""

    host: str = "127.0.0.1"
    port: int = 11435
    certificate: Path | None = None
    key: Path | None = None


def address_of(host: str) -> str:
    """The IP address that `host` means.

    Raises:
        BadSetting: it means none.
    """
    try:
        addresses = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise BadSetting(
            f"{host!r} is no address of this machine: {error}", "leave out --host for 127.0.0.1"
        ) from None
    return str(addresses[0][4][0])


def application(
    doors: Sequence[MirrorProtocol],
    rules: Rules,
    refuse: Refuse,
    log: Callable[[RequestSummary], None],
) -> ASGIApp:
    """The ASGI application: log around guard around doors."""

    async def endpoint(request: Request) -> Response:
        path = [unquote(part) for part in _raw_path(request).split("/")[1:]]
        try:
            for door in doors:
                answer = await to_thread.run_sync(door.answer, request, path)
                if answer is not None:
                    return answer
        except OvertError as error:
            return refuse(request.url.path, error.status, error.message)
        return refuse(request.url.path, 404, "there is nothing at this address")

    routes = [Route("/{path:path}", endpoint, methods=["GET", "HEAD"])]
    inside = Starlette(routes=routes, exception_handlers={405: _only_reading})
    return _Logged(Guard(inside, rules, refuse), log)


def run(
    app: ASGIApp, listen: ListenAddress, ready: Callable[[str], None], *, interactive: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT; then let running transfers finish, 30 s at most.

    `ready` is called with the URL once connections are accepted. `interactive` is for many small
    answers: a faster parser and event loop, WebSockets, and the application's start and end.

    Raises:
        Failure: the port is taken, or may not be used.
        BadSetting: the certificate or its key cannot be used.
    """
    with _bound(listen) as bound:
        scheme = "https" if listen.certificate else "http"
        url = f"{scheme}://{_write_address(*bound.getsockname()[:2])}"
        config = uvicorn.Config(
            app,
            http=ClientConnection if interactive else "h11",
            ws="websockets-sansio" if interactive else "none",
            ws_max_size=_FRAME_BYTES,
            loop="auto" if interactive else "asyncio",
            lifespan="on" if interactive else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CLIENTS if interactive else _CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
            h11_max_incomplete_event_size=HEAD_BYTES,
            ssl_certfile=str(listen.certificate) if listen.certificate else None,
            ssl_keyfile=str(listen.key) if listen.key else None,
        )
        try:
            config.load()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise BadSetting(
                f"{listen.certificate} cannot be used for TLS: {error}",
                "give --certificate and --key PEM files that belong together",
            ) from None
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # each request is logged by us
        server = _Server(config, lambda: ready(url))
        # What is loaded by now stays: without it a full collection has nothing to look through,
        # where it would stop all answers for tens of milliseconds.
        gc.collect()
        gc.freeze()
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[bound]))
        if interactive and not server.started:
            raise Failure("the server could not start", "see the lines above for the reason")


class _Server(uvicorn.Server):
    """uvicorn with an end of its own: a second signal ends at once, and none is raised again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        kinds = (signal.SIGINT, signal.SIGTERM)
        for kind in kinds:
            loop.add_signal_handler(kind, self.handle_exit, kind, None)
        try:
            yield
        finally:
            for kind in kinds:
                loop.remove_signal_handler(kind)

    def handle_exit(self, sig: int, frame: Any) -> None:
        if self.should_exit:
            self.force_exit = True
            # From Python 3.12 a listener counts as closed only when its connections are.
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True


class _Logged:
    """Tells `log` of every request when it is over, also of those that the guard refuses."""

    def __init__(self, app: ASGIApp, log: Callable[[RequestSummary], None]) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begun, status, sent, whole = time.monotonic(), 0, 0, False

        async def counting(message: Message) -> None:
            nonlocal status, sent, whole
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)

        call: Callable[[Scope, Receive, Send], Awaitable[None]] = self._app
        try:
            await call(scope, receive, counting)
        finally:
            seconds = time.monotonic() - begun
            self._log(RequestSummary(scope["method"], scope["path"], status, sent, seconds, whole))


def _raw_path(request: Request) -> str:
    """The path as it was sent: a slash within a name arrives as %2F and is not one that cuts."""
    raw = request.scope.get("raw_path") or request.scope["path"].encode()
    return bytes(raw).partition(b"?")[0].decode("latin-1")


async def _only_reading(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "only GET and HEAD"}, 405, {"Allow": "GET, HEAD"})


@contextmanager
def _bound(listen: ListenAddress) -> Iterator[socket.socket]:
    address = address_of(listen.host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address, listen.port))
        except OSError as error:
            raise Failure(
                f"{_write_address(address, listen.port)} cannot be used: "
                f"{os.strerror(error.errno or 0)}",
                "choose another with --port, or --port 0 for any that is free",
            ) from None
        yield bound


def _write_address(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
