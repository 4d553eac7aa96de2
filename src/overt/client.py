"""Models from Python.

    import overt

    with overt.open("smollm2") as model:
        print(model.ask("Why is the sky blue?").text)
        for piece in model.stream("Tell me a story.", max_tokens=200):
            print(piece, end="", flush=True)

    answer = await model.ask_async("…")

A model that runs elsewhere, or a name of your own (`overt alias`), is opened in the same way, and
what you ask it leaves this machine; `Answer.routed` says who answered, and how many bytes left::

    with overt.open("openai:gpt-5") as model:        # the key: `overt login openai`
        answer = model.ask("Why is the sky blue?")
        print(answer.routed.model, answer.routed.bytes_out)

One async core serves both faces: every `Model` keeps the exchange in an event loop of its own, in
one background thread, and the methods, sync or async, hand their work to it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from overt import errors, settings
from overt.chat import Answer, Event, Failed, Message, Request, Sampling, Text
from overt.protocols.failure import error_of

Prompt = str | Sequence[Message]
_SAMPLING = frozenset(Sampling.__dataclass_fields__)


def open(ref: str | None = None, *, pull: bool = True, **options: Any) -> "Model":
    """Open a model for use from Python.

    Args:
        ref: any ref of ref.py, or an alias; the default model without one. Nothing is sent to a
            provider before something is asked.
        pull: get the model first when it is not in the store; False raises ModelNotFound.
        options: settings by name, such as ``context=4096`` or ``parallel=8``.

    Raises:
        BadRef, BadSetting, ModelNotFound, OutOfMemory, EngineFailed and the rest of errors.py;
        NeedsAccess where a provider's key is not known.
    """
    chosen = settings.load(flags=options)
    return Model(ref or chosen.model, chosen, pull=pull)


class Model:
    """A model that answers. Close it (or use `with`) to stop its worker, or its connections."""

    def __init__(self, ref: str, chosen: settings.Settings, *, pull: bool = True) -> None:
        from anyio.from_thread import start_blocking_portal

        from overt.gateway.exchange import Exchange

        self.ref = ref
        self.notices: list[str] = []
        self._exchange = Exchange(chosen, self.notices.append)
        target = self._exchange.resolve(ref)
        if pull and isinstance(target, str):
            _pull(target, chosen)
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            stack.callback(self._portal.call, self._exchange.close)
            if isinstance(target, str):  # a route opens what it asks
                self._portal.call(self._exchange.open, ref)
            self._stack = stack.pop_all()

    # ---- whole answers

    def ask(self, prompt: Prompt, **options: Any) -> Answer:
        """Ask and wait for the whole answer.

        Args:
            prompt: a question, or the messages of a conversation.
            options: fields of chat.Request and chat.Sampling by name, such as ``max_tokens=50``,
                ``temperature=0``, ``seed=1``, ``json_schema={…}``; ``system`` adds a system
                message.

        `Answer.routed` says which model answered, where that was a provider's, an alias or a route;
        else it is None.

        Raises:
            BadRequest, ContextExceeded, EngineFailed: as the engine does, also half-way.
            ProviderFailed, Busy, NoEgress …: of a model that runs elsewhere.
        """
        return self._portal.call(self._collect, self._request(prompt, options))

    async def ask_async(self, prompt: Prompt, **options: Any) -> Answer:
        """`ask`, for callers in an event loop of their own."""
        request = self._request(prompt, options)
        return await asyncio.wrap_future(self._portal.start_task_soon(self._collect, request))

    # ---- streams

    def stream(self, prompt: Prompt, **options: Any) -> Iterator[str]:
        """The answer's text, piece by piece. Stop iterating to cancel."""
        for event in self.events(self._request(prompt, options)):
            if isinstance(event, Text):
                yield event.text

    async def stream_async(self, prompt: Prompt, **options: Any) -> AsyncIterator[str]:
        """`stream`, for callers in an event loop of their own."""
        events = self._exchange.stream(self._request(prompt, options))
        try:
            while True:
                step = self._portal.start_task_soon(_next, events)
                event = await asyncio.wrap_future(step)
                if event is None:
                    return
                if isinstance(event, Text):
                    yield event.text
        finally:
            self._portal.start_task_soon(_close, events)

    def events(self, request: Request) -> Iterator[Event]:
        """Every event of one request, as the exchange gives it."""
        events = self._exchange.stream(request)
        try:
            while (event := self._portal.call(_next, events)) is not None:
                yield event
        finally:
            self._portal.call(_close, events)

    # ---- the rest

    def close(self) -> None:
        """Stop the worker. The model cannot be used afterwards."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _request(self, prompt: Prompt, options: dict[str, Any]) -> Request:
        messages = (Message.of("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        rest = dict(options)
        if system := rest.pop("system", None):
            messages = (Message.of("system", system), *messages)
        sampling = {name: rest.pop(name) for name in _SAMPLING & rest.keys()}
        if unknown := sorted(rest.keys() - set(Request.__dataclass_fields__)):
            raise errors.BadRequest(
                f"there is no option {unknown[0]!r}",
                f"options: {', '.join(sorted(_SAMPLING | set(Request.__dataclass_fields__)))}",
            )
        return Request(self.ref, messages, sampling=Sampling(**sampling), **rest)

    async def _collect(self, request: Request) -> Answer:
        answer = Answer()
        async for event in self._exchange.stream(request):
            answer.add(event)
        if answer.failed is not None:
            raise error_of(answer.failed)
        return answer


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()


async def _next(events: AsyncIterator[Event]) -> Event | None:
    event = await anext(events, None)
    if isinstance(event, Failed):
        raise error_of(event)
    return event


def _pull(ref: str, chosen: settings.Settings) -> None:
    from overt.models import pull
    from overt.ref import parse

    parsed = parse(ref)
    if parsed.scheme in ("echo", "path", "sha256") or parsed.remote:
        return
    try:
        pull.find(ref, chosen)
    except errors.ModelNotFound:
        pull.pull(ref, chosen)
