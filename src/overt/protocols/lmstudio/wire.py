"""What travels on LM Studio's sockets: JSON in text frames, one message each.

::

    client  {authVersion, clientIdentifier, clientPasskey}
    server  {success} or {success, error}

    client  rpcCall {endpoint, callId, parameter}
    server  rpcResult {callId, result} or rpcError {callId, error}

    client  channelCreate {endpoint, channelId, creationParameter}
    both    channelSend {channelId, message, ackId?}, channelAck {channelId, ackId}
    server  channelClose {channelId} or channelError {channelId, error}

    client  keepAlive
    server  keepAliveAck
    client  signalSubscribe, writableSignalSubscribe {endpoint, subscribeId}
    server  signalError, writableSignalError {subscribeId, error}: there are no signals here
    both    communicationWarning {warning}

Read in lmstudio-js, packages/lms-communication (Transport.ts), August 2026, and in the Python SDK
1.5.0, `json_api.py`.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from overt.protocols.base import decode, encode

LIMIT = 64 << 20
"""Characters of one frame. uvicorn refuses frames beyond its own `ws_max_size` before this."""

Id = Annotated[int, Meta(ge=-(2**53), le=2**53)]
NOTHING = Raw(b"null")


class Hello(msgspec.Struct, rename="camel"):
    """The first frame of a client. A key ``sk-lm-ID:SECRET`` travels as identifier and passkey."""

    auth_version: int
    client_identifier: Annotated[str, Meta(max_length=256)]
    client_passkey: Annotated[str, Meta(max_length=256)]


class SocketFrame(msgspec.Struct, rename="camel"):
    """Any later frame of a client; what does not belong to its type is not looked at."""

    type: Annotated[str, Meta(max_length=64)]
    endpoint: Annotated[str, Meta(max_length=256)] = ""
    call_id: Id | None = None
    channel_id: Id | None = None
    subscribe_id: Id | None = None
    ack_id: Id | None = None
    parameter: Raw = NOTHING
    creation_parameter: Raw = NOTHING
    message: Raw = NOTHING


class Packet(msgspec.Struct):
    """A message to a channel: ``cancel`` or ``stop`` is all that clients say."""

    type: str = ""


def as_json(value: Any) -> str:
    """A frame, or a part of one."""
    return encode(value).decode()


def frame(data: str) -> SocketFrame:
    """Raises BadBody."""
    return decode(data.encode("utf-8", "surrogatepass"), SocketFrame)


class Empty(msgspec.Struct):
    """The parameter of an endpoint that has none; whatever is sent for it is ignored."""


def parameter(raw: Raw, kind: type[Any]) -> Any:
    """The parameter of a call as `kind`.

    Raises:
        BadBody: it is not one.
    """
    if kind is Empty:
        return Empty()
    return decode(bytes(raw), kind)
