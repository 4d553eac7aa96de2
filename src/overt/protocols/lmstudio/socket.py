"""One connection of LM Studio's SDK: from the first frame to the last.

Calls and channels run side by side, each in a task of its own; when the client leaves, all of them
are cancelled, which frees what they hold. A frame that makes no sense is answered where it names a
call or channel, and warned about where it does not; who goes on sending such frames is sent away.
"""

import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect

from overt.errors import Busy, OvertError, Unsupported
from overt.protocols.base import BadBody, Caller, ServicesInterface, decode
from overt.protocols.lmstudio.errors import ErrorDetails, trouble
from overt.protocols.lmstudio.port import Channel, Context, Namespace, Void
from overt.protocols.lmstudio.wire import (
    LIMIT,
    Hello,
    Packet,
    SocketFrame,
    as_json,
    frame,
    parameter,
)

log = logging.getLogger("overt.server")
T = TypeVar("T")

AT_ONCE = 256
"""Calls and channels one socket may have open."""
_PATIENCE = 10.0  # seconds for the first frame
_WARNINGS = 5  # frames without sense, until the socket is closed
_TOKEN = re.compile(r"[A-Za-z0-9]{8}")
_WORDS = re.compile(r"[A-Za-z0-9]{20}")

_BAD_KIND, _POLICY, _TOO_BIG = 1003, 1008, 1009  # RFC 6455, section 7.4.1


class ClientLeft(Exception):
    """The client is gone, or was sent away."""


async def serve(services: ServicesInterface, socket: WebSocket, namespace: Namespace) -> None:
    """Answer a client on `socket` until it leaves."""
    await socket.accept()
    connection = SocketConnection(services, socket, namespace)
    with suppress(ClientLeft, WebSocketDisconnect):
        await connection.run()


class SocketConnection:
    def __init__(
        self, services: ServicesInterface, socket: WebSocket, namespace: Namespace
    ) -> None:
        self._services = services
        self._socket = socket
        self._namespace = namespace
        self._channels: dict[int, Channel] = {}
        self._last_channel = -(2**53)
        self._calls = 0
        self._warnings = 0

    async def run(self) -> None:
        caller = await self._greet()
        context = Context(self._services, caller, self._namespace.domain)
        async with anyio.create_task_group() as tasks:
            try:
                while True:
                    await self._take(await self._receive(), context, tasks)
            except (ClientLeft, WebSocketDisconnect):
                pass
            finally:
                tasks.cancel_scope.cancel()

    # ---- bytes -----------------------------------------------------------------------------

    async def write(self, data: str) -> None:
        """Send a frame. Raises Left."""
        try:
            await self._socket.send({"type": "websocket.send", "text": data})
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise ClientLeft from error

    async def _receive(self) -> str:
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise ClientLeft
        data: str | None = message.get("text")
        if data is None:
            return await self._close(_BAD_KIND, "frames are text")
        if len(data) > LIMIT:
            await self._close(_TOO_BIG, f"a frame has {LIMIT >> 20} MiB at most")
        return data

    async def _close(self, code: int, reason: str) -> NoReturn:
        """Send the client away. Raises Left."""
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            await self._socket.close(code, reason)
        raise ClientLeft

    # ---- who it is -------------------------------------------------------------------------

    async def _greet(self) -> Caller:
        data: str | None = None
        with anyio.move_on_after(_PATIENCE):
            data = await self._receive()
        if data is None:
            await self._deny(f"no greeting came within {_PATIENCE:g} s")
        try:
            hello = decode(data.encode("utf-8", "surrogatepass"), Hello)
            if hello.auth_version != 1:
                raise BadBody(f"authVersion {hello.auth_version} is not 1", "authVersion")
            caller = self._identify(hello)
        except OvertError as error:
            await self._deny(str(error))
        await self.write('{"success":true}')
        return caller

    def _identify(self, hello: Hello) -> Caller:
        """A key in the handshake comes first, then one in the greeting; others are nobody's."""
        headers = self._socket.headers
        kind, _, secret = headers.get("authorization", "").partition(" ")
        key = secret.strip() if kind.lower() == "bearer" else headers.get("x-api-key")
        if key:
            return self._services.identify(key)
        name, word = hello.client_identifier, hello.client_passkey
        if _TOKEN.fullmatch(name) and _WORDS.fullmatch(word):
            return self._services.identify(f"sk-lm-{name}:{word}")
        if word.startswith("sk-"):
            return self._services.identify(word)
        return self._services.identify(None)

    async def _deny(self, why: str) -> NoReturn:
        await self.write(as_json({"success": False, "error": why}))
        await self._close(_POLICY, why[:100])

    # ---- frames ----------------------------------------------------------------------------

    async def _take(self, data: str, context: Context, tasks: TaskGroup) -> None:
        try:
            message = frame(data)
        except BadBody as error:
            await self._warn(error.message)
            return
        match message.type:
            case "rpcCall":
                await self._call(message, context, tasks)
            case "channelCreate":
                await self._create(message, context, tasks)
            case "channelSend":
                await self._heard(message)
            case "keepAlive":
                await self.write('{"type":"keepAliveAck"}')
            case "signalSubscribe" | "writableSignalSubscribe":
                await self._no_signal(message)
            case "channelAck" | "communicationWarning" | "signalUnsubscribe":
                pass
            case "writableSignalUnsubscribe" | "writableSignalUpdate":
                pass
            case other:
                await self._warn(f"{other!r} is no type of frame")

    async def _warn(self, what: str) -> None:
        self._warnings += 1
        warning = {"type": "communicationWarning", "warning": what, "kind": "unknown"}
        await self.write(as_json(warning))
        if self._warnings >= _WARNINGS:
            await self._close(_POLICY, "too many frames made no sense")

    def _refused(self, endpoint: str) -> OvertError:
        if self._namespace.unsupported:
            return Unsupported(self._namespace.unsupported)
        return Unsupported(f"/{self._namespace.name} has no {endpoint[:100]!r} here")

    def _wanted(self, offered: Mapping[str, T], endpoint: str) -> T:
        """What answers at `endpoint`. Raises Busy, Unsupported."""
        if self._calls + len(self._channels) >= AT_ONCE:
            raise Busy(f"{AT_ONCE} calls and channels are open on this socket", "wait for one")
        if endpoint not in offered:
            raise self._refused(endpoint)
        return offered[endpoint]

    async def _call(self, message: SocketFrame, context: Context, tasks: TaskGroup) -> None:
        if message.call_id is None:
            await self._warn("an rpcCall has no callId")
            return
        try:
            call = self._wanted(self._namespace.calls, message.endpoint)
            argument = parameter(message.parameter, call.kind)
        except OvertError as error:
            await self._rpc_error(message.call_id, trouble(error))
            return
        self._calls += 1
        tasks.start_soon(self._answer_call, message.call_id, call.handler, context, argument)

    async def _answer_call(self, id: int, handler: Any, context: Context, argument: Any) -> None:
        try:
            result = await self._guarded(handler(context, argument))
            if isinstance(result, ErrorDetails):
                await self._rpc_error(id, result)
            elif isinstance(result, Void):
                await self.write(f'{{"type":"rpcResult","callId":{id}}}')
            else:
                await self.write(f'{{"type":"rpcResult","callId":{id},"result":{as_json(result)}}}')
        except ClientLeft:
            pass
        finally:
            self._calls -= 1

    async def _rpc_error(self, id: int, error: ErrorDetails) -> None:
        await self.write(f'{{"type":"rpcError","callId":{id},"error":{as_json(error)}}}')

    async def _create(self, message: SocketFrame, context: Context, tasks: TaskGroup) -> None:
        id = message.channel_id
        if id is None:
            await self._warn("a channelCreate has no channelId")
            return
        if id in self._channels:
            await self._warn(f"channel {id} is open already")
            return
        self._last_channel = max(self._last_channel, id)
        try:
            opened = self._wanted(self._namespace.channels, message.endpoint)
            argument = parameter(message.creation_parameter, opened.kind)
        except OvertError as error:
            await self._channel_error(id, trouble(error))
            return
        channel = self._channels[id] = Channel(id, self.write)
        tasks.start_soon(self._answer_channel, channel, opened.handler, context, argument)

    async def _answer_channel(
        self, channel: Channel, handler: Any, context: Context, argument: Any
    ) -> None:
        try:
            result = await self._guarded(handler(context, argument, channel))
            if isinstance(result, ErrorDetails):
                await self._channel_error(channel.id, result)
            else:
                await self.write(f'{{"type":"channelClose","channelId":{channel.id}}}')
        except ClientLeft:
            pass
        finally:
            self._channels.pop(channel.id, None)

    async def _channel_error(self, id: int, error: ErrorDetails) -> None:
        await self.write(f'{{"type":"channelError","channelId":{id},"error":{as_json(error)}}}')

    async def _heard(self, message: SocketFrame) -> None:
        """A message to a channel. One to a channel that just closed crossed its end on the way."""
        if message.channel_id is None:
            await self._warn("a channelSend has no channelId")
            return
        if message.ack_id is not None:
            ack = {"type": "channelAck", "channelId": message.channel_id, "ackId": message.ack_id}
            await self.write(as_json(ack))
        channel = self._channels.get(message.channel_id)
        if channel is None:
            if message.channel_id > self._last_channel:
                await self._warn(f"there is no channel {message.channel_id}")
            return
        try:
            packet = decode(bytes(message.message), Packet)
        except BadBody as error:
            await self._warn(f"a message to channel {message.channel_id}: {error.message}")
            return
        if packet.type in ("cancel", "stop"):
            channel.cancel()

    async def _no_signal(self, message: SocketFrame) -> None:
        if message.subscribe_id is None:
            await self._warn(f"a {message.type} has no subscribeId")
            return
        kind = "signalError" if message.type == "signalSubscribe" else "writableSignalError"
        error = trouble(self._refused(message.endpoint))
        await self.write(
            as_json({"type": kind, "subscribeId": message.subscribe_id, "error": error})
        )

    async def _guarded(self, work: Any) -> Any:
        """The result of a handler, or the `ErrorDetails` it ended in."""
        try:
            return await work
        except ClientLeft:
            raise
        except OvertError as error:
            return trouble(error)
        except Exception:
            log.exception("a call on /%s failed", self._namespace.name)
            return ErrorDetails("the server failed; its log says how", "the server failed")
