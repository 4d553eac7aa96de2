"""What an endpoint of a socket is given: who asks, what for, and its channel."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

from overt.protocols.base import Caller, ServicesInterface
from overt.protocols.lmstudio.model_info import Domain
from overt.protocols.lmstudio.wire import Empty, as_json

Write = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Context:
    """`domain` is what the socket is for; None for sockets without models."""

    services: ServicesInterface
    caller: Caller
    domain: Domain | None = None


@dataclass(slots=True)
class Channel:
    """One open channel. `scope` is what a cancelling client ends; `asked_to_end` says that it did.

    `head` is the beginning of every frame of it; `write` takes frames, `send` packets.
    """

    id: int
    write: Write
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    asked_to_end: bool = False
    head: str = ""

    def __post_init__(self) -> None:
        self.head = f'{{"type":"channelSend","channelId":{self.id},"message":'

    async def send(self, packet: Any) -> None:
        await self.write(f"{self.head}{as_json(packet)}}}")

    def cancel(self) -> None:
        self.asked_to_end = True
        self.scope.cancel()

    def until_cancelled(self) -> anyio.CancelScope:
        """A scope that ends when the client says so, or at once if it already has."""
        self.scope = anyio.CancelScope()
        if self.asked_to_end:
            self.scope.cancel()
        return self.scope

    async def wait(self) -> None:
        """Until the client ends the channel."""
        with self.until_cancelled():
            await anyio.sleep_forever()


@dataclass(frozen=True, slots=True)
class Rpc:
    """A call: `kind` is what its parameter is, the handler's result what is answered."""

    handler: Callable[[Context, Any], Awaitable[Any]]
    kind: type[Any] = Empty


@dataclass(frozen=True, slots=True)
class ChannelKind:
    """A kind of channel. It closes when the handler returns, with an error when it raises."""

    handler: Callable[[Context, Any, Channel], Awaitable[None]]
    kind: type[Any] = Empty


@dataclass(frozen=True, slots=True)
class Namespace:
    """What one socket offers."""

    name: str
    calls: Mapping[str, Rpc] = field(default_factory=dict)
    channels: Mapping[str, ChannelKind] = field(default_factory=dict)
    domain: Domain | None = None
    unsupported: str = ""  # why there is nothing here, where that is so


class Void(msgspec.Struct):
    """The result of a call that answers nothing."""
