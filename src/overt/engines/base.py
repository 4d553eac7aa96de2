"""The engine contract: a `Request` goes in, `Event`s come out.

An engine is one file in this folder whose name is the engine's. Everything else reaches engines
through `Engine`, so a worker on this machine, a provider's API and the built-in echo look alike.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from overt.chat import Event, Request


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this engine can do with the model it has loaded."""

    context: int
    longest: int = 0  # the most tokens the model was made for; 0 is not known
    parallel: int = 1
    chat: bool = True  # the model has a chat template; without one it continues text
    images: bool = False
    tools: bool = False
    thinking: bool = False
    logprobs: bool = False
    constrained: bool = False  # JSON schema and grammar
    local: bool = True  # the text of a request stays on this machine


class Engine(Protocol):
    """Something that answers requests for one loaded model.

    `stream` yields events as chat.Event describes, or raises an OvertError, at any moment. Closing
    the iterator (or cancelling the task that reads it) cancels the request in the engine within a
    second and frees its slot.
    """

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    def stream(self, request: Request) -> AsyncGenerator[Event, None]: ...

    async def close(self) -> None: ...
