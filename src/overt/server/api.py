"""The API as an ASGI application: from bytes on a socket to a protocol's handler and back.

::

    guard (who asks?)  ->  table (whose address?)  ->  body  ->  handler  ->  Reply or Stream

A request is answered in the task that uvicorn made for it. A second task listens for the client
leaving; when it does, the first is cancelled, which closes the stream of events and frees the
engine's slot. Nothing here knows a wire format: errors are told by the protocol that owns the
address.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import aclosing, suppress
from typing import Any
from typing import Protocol as Interface
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from overt.chat import Routed
from overt.errors import (
    BadRequest,
    Failure,
    NotFound,
    OvertError,
    Refused,
    TooLarge,
    WrongMethod,
)
from overt.protocols.base import NOBODY, Caller, HttpCall, HttpReply, Protocol, Stream, new_id
from overt.providers.base import HOPS, HOPS_HEADER, MAX_HOPS
from overt.server.passthrough.forward import forward
from overt.server.request_log import RequestRecord, Watch
from overt.server.routing import MatchedRoute, RoutingTable

log = logging.getLogger("overt.server")

_BODY_IDLE_TIMEOUT = 60  # seconds between two pieces of a body

Page = Callable[[Mapping[str, str]], tuple[bytes, dict[str, str]]]
"""A page of the server's own (`/docs`, `/metrics`): of the request's headers, body and headers."""


class GateInterface(Interface):
    """What says who asks: `guard.Gate`."""

    def preflight(self, scope: Scope) -> list[tuple[bytes, bytes]] | None: ...

    def admit(self, scope: Scope) -> Caller: ...

    def cors(self, scope: Scope) -> list[tuple[bytes, bytes]]: ...


class Api:
    """All protocols on one port.

    Args:
        table: the routes.
        services: given to every handler.
        gate: identifies the caller, or refuses. There is no default: a server without one is open.
        pages: addresses of the server's own, for GET.
        free: those of `pages` that need no key (`/healthz`).
    """

    def __init__(
        self,
        table: RoutingTable,
        services: Any,
        gate: GateInterface,
        *,
        pages: Mapping[str, Page] | None = None,
        free: Container[str] = (),
        watch: Watch | None = None,
        started: Callable[[], Awaitable[None]] | None = None,
        ended: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.table = table
        self._services = services
        self._gate = gate
        self._pages = dict(pages or {})
        self._free = free
        self._watch = watch or Watch()
        self._started, self._ended = started, ended
        services.dispatch_with(self.dispatch)

    async def close(self) -> None:
        """End what the application holds, where no server does."""
        if self._ended is not None:
            await self._ended()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    # ---- HTTP ------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        headers, path = _headers(scope), _raw_path(scope)
        answer = _ConnectionAnswer(send, new_id("req_"), self._gate.cors(scope))
        matched = self.table.find(method, path, headers)
        owner = matched.protocol if matched else self.table.owner(path, headers)
        seen: RequestRecord | None = None
        error_code = ""
        try:
            if method == "OPTIONS" and (allowed := self._gate.preflight(scope)) is not None:
                await answer.bare(204, allowed)
                return
            if path not in self._free:  # whoever asks every second how it goes is not worth a line
                seen = self._watch.begin(
                    answer.id,
                    protocol=owner.name,
                    method=method,
                    route=matched.route.path if matched else "",
                    path=path,
                    traceparent=headers.get("traceparent"),
                )
                answer.seen = seen
            _count_hops(headers.get(HOPS_HEADER, ""))
            await self._admitted(scope, path, receive, headers, matched, answer, seen)
        except OvertError as error:
            error_code = error.code
            await answer.refuse(owner, error)
        except asyncio.CancelledError:
            if not answer.gone:
                raise
        except Exception:
            error_code = "failure"
            log.exception("request %s failed", answer.id)
            if answer.begun:
                raise  # uvicorn breaks the connection: the client must not take it for whole
            await answer.refuse(owner, Failure("the server failed", f"see its log for {answer.id}"))
        finally:
            if seen is not None:
                seen.end(
                    499 if answer.gone else answer.status,
                    sent=answer.sent,
                    error=error_code,
                    whole=answer.over,
                )

    async def _admitted(
        self,
        scope: Scope,
        path: str,
        receive: Receive,
        headers: Mapping[str, str],
        matched: MatchedRoute | None,
        answer: "_ConnectionAnswer",
        seen: RequestRecord | None,
    ) -> None:
        method: str = scope["method"]
        caller = NOBODY if path in self._free else self._gate.admit(scope)
        if seen is not None:
            seen.key = caller.key
        if path in self._pages and method in ("GET", "HEAD"):
            body, extra = self._pages[path](headers)
            await answer.send(HttpReply(body, 200, extra, extra.pop("content-type")))
            return
        if matched is None:
            raise self._nothing(method, path)
        await self._handled(scope, receive, headers, matched, caller, answer)

    async def _handled(
        self,
        scope: Scope,
        receive: Receive,
        headers: Mapping[str, str],
        matched: MatchedRoute,
        caller: Caller,
        answer: "_ConnectionAnswer",
    ) -> None:
        query = scope["query_string"]
        call = HttpCall(
            self._services,
            caller,
            answer.id,
            scope["method"],
            scope["path"],
            matched.params,
            dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)) if query else {},
            headers,
        )
        if matched.route.upload:
            call.chunks = _chunks(receive, matched.route.limit)
            await answer.send(await matched.route.handler(call), matched.protocol)
            return
        call.body = await _body(receive, headers, matched.route.limit)
        task = asyncio.current_task()
        assert task is not None
        leaving = asyncio.get_running_loop().create_task(_leaving(receive, answer, task))
        try:
            result = await forward(call, matched, self._services)
            await answer.send(result or await matched.route.handler(call), matched.protocol)
        finally:
            leaving.cancel()

    def _nothing(self, method: str, path: str) -> OvertError:
        there = self.table.methods(path)
        if there:
            return WrongMethod(f"{path[:200]} takes {' and '.join(there)}, not {method}")
        return NotFound(
            f"there is nothing at {method} {path[:200]}",
            "see /docs for the addresses of this server",
        )

    # ---- requests without a socket ---------------------------------------------------------

    async def dispatch(
        self, caller: Caller, method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """What a request of `caller` would be answered, for batches."""
        matched = self.table.find(method, path, {})
        if matched is None or matched.route.upload:
            refused = self.table.owner(path, {}).refuse(self._nothing(method, path), "")
            return refused.status, refused.body()
        id = new_id("req_")
        call = HttpCall(self._services, caller, id, method, path, matched.params, {}, {}, body)
        try:
            result = await matched.route.handler(call)
            if isinstance(result, HttpReply):
                return result.status, result.body()
            async with aclosing(result.chunks) as chunks:
                return 200, b"".join([chunk async for chunk in chunks])
        except OvertError as error:
            refused = matched.protocol.refuse(error, id)
            return refused.status, refused.body()

    # ---- the other kinds of ASGI scope -----------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        matched = self.table.find("WEBSOCKET", _raw_path(scope), _headers(scope))
        socket = WebSocket(scope, receive, send)
        try:
            self._gate.admit(scope)
        except OvertError:
            matched = None
        if matched is None:
            await socket.close(1008)  # before it was accepted: the client sees 403
            return
        await matched.route.handler(self._services, socket)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            work = self._started if message["type"] == "lifespan.startup" else self._ended
            try:
                if work is not None:
                    await work()
            except Exception as error:
                log.exception("the server could not start or end")
                await send({"type": f"{message['type']}.failed", "message": str(error)})
                return
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


class _ConnectionAnswer:
    """What goes back over one connection."""

    def __init__(self, send: Send, id: str, extra: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._extra = extra
        self.id = id
        self.status = 0
        self.sent = 0  # bytes of the body
        self.begun = False
        self.over = False
        self.gone = False  # the client left first
        self.seen: RequestRecord | None = None

    async def send(self, result: HttpReply | Stream, protocol: Protocol | None = None) -> None:
        header = protocol.id_header if protocol else "x-request-id"
        if isinstance(result, HttpReply):
            await self._whole(result, header)
        else:
            await self._pieces(result, header)

    async def refuse(self, protocol: Protocol, error: OvertError) -> None:
        if self.begun:
            raise error
        await self._whole(protocol.refuse(error, self.id), protocol.id_header)

    async def _whole(self, reply: HttpReply, id_header: str) -> None:
        body = reply.body()
        headers = {
            "content-type": reply.media_type,
            "content-length": str(len(body)),
            id_header: self.id,
            **reply.headers,
        }
        await self._start(reply.status, headers)
        self.over = True
        self.sent = len(body)
        await self._send({"type": "http.response.body", "body": body})

    async def _pieces(self, stream: Stream, id_header: str) -> None:
        send = self._send
        async with aclosing(stream.chunks) as chunks:
            # The first piece is waited for: what goes wrong before it still has a status.
            piece = await anext(chunks, b"")
            headers = {
                "content-type": stream.media_type,
                "cache-control": "no-cache",
                "x-accel-buffering": "no",  # nginx would hold the pieces back
                id_header: self.id,
                **stream.headers,
            }
            await self._start(200, headers)
            self.sent = len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            async for piece in chunks:
                self.sent += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        self.over = True
        await send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.begun, self.status = True, status
        raw = [(name.encode("latin-1"), _safe(value)) for name, value in headers.items()]
        if self.seen is not None and (routed := self.seen.routed) is not None:
            raw += [(name, _safe(value)) for name, value in _routing_headers(routed) if value]
        raw += self._extra
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def bare(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """An answer of headers alone."""
        self.begun, self.status, self.over = True, status, True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b""})


def _count_hops(header: str) -> None:
    """Note how many servers a request came through.

    Raises:
        Refused: it goes round in a circle of aliases that lead from server to server.
    """
    hops = int(header) if header.isascii() and header.isdigit() and len(header) < 4 else 0
    if hops > MAX_HOPS:
        raise Refused(
            f"the request came through {hops} servers, one name leading to the next",
            "see where it leads: overt alias list",
        )
    HOPS.set(hops)


def _routing_headers(routed: Routed) -> tuple[tuple[bytes, str], ...]:
    """Who answers and why, for whoever looks."""
    return (
        (b"x-overt-model", routed.model),
        (b"x-overt-why", routed.why),
        (b"x-overt-tried", ", ".join(routed.tried)),
        (b"x-overt-provider-request", routed.request_id),
    )


async def _leaving(receive: Receive, answer: _ConnectionAnswer, task: "asyncio.Task[Any]") -> None:
    """Cancel `task` when the client leaves before its answer is over."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not answer.over:
        answer.gone = True
        task.cancel()


async def _body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    if (coding := headers.get("content-encoding", "identity")) != "identity":
        raise BadRequest(f"the body is packed as {coding[:40]!r}", "send it as it is")
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise _too_long(int(declared), limit)
    parts: list[bytes] = []
    length = 0
    async for part in _chunks(receive, limit):
        length += len(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _chunks(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    length, more = 0, True
    while more:
        try:
            async with asyncio.timeout(_BODY_IDLE_TIMEOUT):
                message = await receive()
        except TimeoutError:
            raise BadRequest(
                f"nothing of the body came for {_BODY_IDLE_TIMEOUT} s", "try again"
            ) from None
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError
        part: bytes = message.get("body", b"")
        length += len(part)
        if length > limit:
            raise _too_long(length, limit)
        more = message.get("more_body", False)
        if part:
            yield part


def _too_long(length: int, limit: int) -> TooLarge:
    return TooLarge(
        f"the body is {length} bytes or more, and this address takes {limit >> 20} MiB",
        "send less",
    )


def _headers(scope: Scope) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        # One that is sent twice is a list (RFC 9110, section 5.3); betas come like that.
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _raw_path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    if raw is None:
        path: str = scope["path"]
        return path
    with suppress(UnicodeDecodeError):
        return bytes(raw).partition(b"?")[0].decode("ascii")
    return "/"


def _safe(value: str) -> bytes:
    """A header's value without what would end it."""
    return value.replace("\r", " ").replace("\n", " ").encode("latin-1", "replace")
