"""llama.cpp as an engine: `Request` to its server's JSON, its JSON chunks to `Event`s.

Nothing native is loaded here. The worker process that is (host.py) is passed in by the
exchange as a `WorkerCaller`, so that engines and workers do not know each other. The two directions
are request.py and answer.py; questions about words and tokens are tokenizer.py.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from overt.chat import Event, Request
from overt.engine import Capabilities
from overt.runtime.llamacpp.answer import AnswerReader
from overt.runtime.llamacpp.request import body, check, continued
from overt.runtime.llamacpp.tokenizer import TokenizerMixin
from overt.runtime.worker_engine import HostedModel, WorkerCaller

HOST = "overt.runtime.llamacpp.host:LlamaServerHost"


class LlamaCpp(TokenizerMixin, HostedModel):
    """One model loaded in one worker, to answer."""

    def __init__(self, worker: WorkerCaller, capabilities: Capabilities) -> None:
        super().__init__(worker, capabilities)
        self._turns = _Turns()

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer `request`.

        Raises:
            BadRequest: something llama.cpp or this model cannot do.
            ContextExceeded: the prompt does not fit, with both numbers.
            EngineFailed: llama.cpp gave up; WorkerDied where its process ended.
        """
        if request.prompt is None and not self._capabilities.chat:
            request = continued(request)
        check(request, self._capabilities)
        tokens = await self.gap(request) if request.suffix is not None else None
        kind = "chat" if request.prompt is None else "completion"
        payload = json.dumps(body(request, self._capabilities, tokens)).encode()
        answer = AnswerReader(request, self._capabilities.longest)
        async with (
            self._turns.take(alone=request.deterministic),
            aclosing(self._worker.call(kind, payload)) as chunks,
        ):
            async for chunk in chunks:
                for event in answer.events(chunk):
                    yield event
        for event in answer.last():
            yield event


class _Turns:
    """Lets many requests through at once, or one that asked to be alone."""

    def __init__(self) -> None:
        self._active = 0
        self._alone = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def take(self, *, alone: bool) -> AsyncIterator[None]:
        async with self._alone:  # later requests queue behind one that waits to be alone
            if alone:
                await self._idle.wait()
                yield
                return
            self._active += 1
            self._idle.clear()
        try:
            yield
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
