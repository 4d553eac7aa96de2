"""What all engines in a worker of this machine have in common."""

from collections.abc import AsyncGenerator
from typing import Protocol

from overt.chat import Event, Request
from overt.engine import Capabilities, Partial
from overt.errors import Unsupported


class WorkerCaller(Protocol):
    """What an engine needs of a worker."""

    def call(self, kind: str, body: bytes) -> AsyncGenerator[bytes, None]: ...

    async def ask(self, path: str, body: bytes) -> bytes: ...

    async def stop(self) -> None: ...


class HostedModel(Partial):
    """One model loaded in one worker; `purpose` says what for, where that is not to answer."""

    name = "llamacpp"
    purpose = ""

    def __init__(self, worker: WorkerCaller, capabilities: Capabilities) -> None:
        self._worker = worker
        self._capabilities = capabilities

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Refuses.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"this model is loaded {self.purpose}, and does not answer")
        yield  # what makes it a generator

    async def close(self) -> None:
        await self._worker.stop()
