"""OpenAI's Responses API (``/v1/responses``), with all that it keeps between requests.

A response that runs in the background belongs to this process: if the server ends first, the
response is found failed. ``truncation: "auto"`` is taken, and nothing is ever cut from a
conversation: one that does not fit the context is refused, as with ``disabled``.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from weakref import WeakKeyDictionary

import anyio
import msgspec

from overt.chat import Failed, Request, Routed
from overt.errors import OvertError, Unsupported
from overt.protocols.base import (
    BadBody,
    Caller,
    HttpCall,
    HttpReply,
    HttpRoute,
    ModelHold,
    ServicesInterface,
    Stream,
    encode,
    new_id,
)
from overt.protocols.failure import error_of, failed_of
from overt.protocols.openai import responses_input as given
from overt.protocols.openai import responses_stored as kept
from overt.protocols.openai import stored, wire
from overt.protocols.openai.responses_items import Item, items_of, messages
from overt.protocols.openai.responses_stream import Error, Response, ResponseStream

_EVENTS = "response_events"
_EVENTS_LIFE = 3600  # seconds that the events of a background response can be read again
_RUNNING = ("queued", "in_progress")
_SILENT = Failed("engine_failed", "the engine ended without a word")


class DeletedResponse(msgspec.Struct, frozen=True):
    id: str
    object: str = "response"
    deleted: bool = True


class InputTokenCount(msgspec.Struct, frozen=True):
    input_tokens: int
    object: str = "response.input_tokens"


class _ResponseTurn:
    """One response on its way."""

    def __init__(
        self,
        call: HttpCall,
        body: given.CreateResponse,
        response: Response,
        items: list[Item],
        request: Request,
    ) -> None:
        self.services: ServicesInterface = call.services
        self.caller: Caller = call.caller
        self.items = items
        self.request = request
        self.hold: ModelHold = wire.hold(body.keep_alive)
        self.conversation = body.conversation_id
        self.streamed = bool(body.stream)
        self.store = body.store is not False
        self.telling = ResponseStream(
            response,
            customs=given.customs(body),
            logprobs=body.logprobs is not None,
            quiet=not body.stream,
        )

    @property
    def response(self) -> Response:
        return self.telling.response

    async def keep(self) -> None:
        """Store the response as it is now; what was said, once it is over."""
        response = self.response
        if self.store:
            turn = kept.StoredResponse(
                response=msgspec.Raw(encode(response)),
                items=self.items,
                previous=response.previous_response_id,
                conversation=self.conversation,
                streamed=self.streamed,
            )
            await kept.keep(self.services, self.caller, turn, response.id)
        if self.conversation and response.status in ("completed", "incomplete"):
            new_items = [*self.items, *response.output]
            await kept.add_items(self.services, self.caller, self.conversation, new_items)


# ---- create ----------------------------------------------------------------------------------


async def create(call: HttpCall) -> HttpReply | Stream:
    """``POST /v1/responses``."""
    body = call.read(given.CreateResponse)
    given.check(body)
    id = new_id("resp_")
    items, before = await _items(call, body, id)
    request = given.request(body, messages([*before, *items], body.instructions))
    turn = _ResponseTurn(call, body, _response(body, id), items, request)
    if body.background:
        return await _in_background(turn)
    if body.stream:
        return Stream(_live_events(turn))
    return HttpReply(await _final_response(turn))


async def _items(
    call: HttpCall, body: given.PromptedBody, id: str
) -> tuple[list[Item], list[Item]]:
    """The items of this turn, and those before it."""
    before = await kept.past(
        call.services, call.caller, body.previous_response_id, body.conversation_id
    )
    items = items_of(body.input, id.removeprefix("resp_"))
    if not items and not before and not body.instructions:
        raise BadBody("input is missing: give text or items", "input")
    return await kept.resolved(call.services, call.caller, items, before), before


def _response(body: given.CreateResponse, id: str) -> Response:
    reasoning = body.reasoning or given.ReasoningBody()
    conversation = body.conversation_id
    text = body.text or given.TextOptions()
    form = text.format or given.ResponseTextFormat(type="text")
    return Response(
        id=id,
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=bool(body.background),
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        conversation=conversation and {"id": conversation},
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": reasoning.effort, "summary": None},
        safety_identifier=body.safety_identifier,
        store=body.store is not False,
        temperature=body.temperature,
        text={"format": _text_options(form), "verbosity": text.verbosity or "medium"},
        tool_choice=body.tool_choice or "auto",
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
        metadata=body.metadata or {},
    )


def _text_options(form: given.ResponseTextFormat) -> dict[str, Any]:
    return {
        name: value for name, value in msgspec.structs.asdict(form).items() if value is not None
    }


async def _final_response(turn: _ResponseTurn) -> Response:
    telling = turn.telling
    async with aclosing(_events(turn)) as pieces:
        async for _ in pieces:
            pass
    if telling.failed is not None:  # nothing was sent yet, so it can have a status of its own
        raise error_of(telling.failed)
    await turn.keep()
    return telling.response


async def _live_events(turn: _ResponseTurn) -> AsyncGenerator[bytes, None]:
    telling = turn.telling
    async with aclosing(_events(turn)) as pieces:
        async for piece in pieces:
            yield piece
    await turn.keep()  # first, so that whoever is told can ask for it
    telling.end()
    yield b"".join(telling.take())


async def _events(turn: _ResponseTurn) -> AsyncGenerator[bytes, None]:
    """What there is to tell until the response is over; what goes wrong at first is raised."""
    telling = turn.telling
    begun = False
    async with aclosing(turn.services.stream(turn.caller, turn.request, turn.hold)) as events:
        async for event in events:
            if not begun:
                if isinstance(event, Routed):  # says nothing yet
                    continue
                if isinstance(event, Failed):
                    raise error_of(event)
                begun = True
                telling.begin()
                telling.start()
            telling.add(event)
            if out := telling.take():
                yield out[0] if len(out) == 1 else b"".join(out)
    if not telling.over:
        telling.add(_SILENT)
        yield b"".join(telling.take())


# ---- in the background -----------------------------------------------------------------------


class _Live:
    """A response that runs in the background. An event's place is its sequence number."""

    def __init__(self, turn: _ResponseTurn) -> None:
        self.turn = turn
        self.events: list[bytes] = []
        self.over = asyncio.Event()
        self.scope = anyio.CancelScope()
        self.unwanted = False
        self._more = asyncio.Event()

    def tell(self) -> None:
        """Let followers have what there is."""
        self.events += self.turn.telling.take()
        self._more.set()
        self._more = asyncio.Event()

    async def follow(self, after: int) -> AsyncGenerator[bytes, None]:
        """The events after number `after`, as they come."""
        number = after + 1
        yield b""
        while True:
            more = self._more
            for event in self.events[number:]:
                yield event
                number += 1
            if self.over.is_set() and number >= len(self.events):
                return
            if more is self._more:
                await more.wait()


_running: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], _Live]] = (
    WeakKeyDictionary()
)


def _live() -> dict[tuple[str, str], _Live]:
    """Those of this server, by owner and id."""
    return _running.setdefault(asyncio.get_running_loop(), {})


async def _in_background(turn: _ResponseTurn) -> HttpReply | Stream:
    live = _Live(turn)
    turn.telling.begin()
    await turn.keep()
    _live()[turn.caller.key, turn.response.id] = live
    body = encode(turn.response)  # as it is now: the response goes on changing
    turn.services.background(_run(live))
    return Stream(live.follow(-1)) if turn.streamed else HttpReply(body)


async def _run(live: _Live) -> None:
    turn, telling = live.turn, live.turn.telling
    try:
        with live.scope:
            try:
                await _answer(live)
            except OvertError as error:
                telling.add(failed_of(error))
        if not telling.over:
            telling.cancel()
        if not live.unwanted:
            await turn.keep()
            telling.end()
            live.tell()
            if turn.streamed:
                await _keep_events(live)
    finally:
        _live().pop((turn.caller.key, turn.response.id), None)
        live.over.set()
        live.tell()


async def _answer(live: _Live) -> None:
    turn, telling = live.turn, live.turn.telling
    live.tell()
    started = False
    async with aclosing(turn.services.stream(turn.caller, turn.request, turn.hold)) as events:
        async for event in events:
            if not started:
                started = True
                telling.start()
                await turn.keep()
            telling.add(event)
            live.tell()
    if not telling.over:
        telling.add(_SILENT)


async def _keep_events(live: _Live) -> None:
    turn, expires = live.turn, time.time() + _EVENTS_LIFE
    body = encode([event.decode() for event in live.events])
    await turn.services.records.put(_EVENTS, turn.response.id, turn.caller, body, expires=expires)


# ---- what is kept ----------------------------------------------------------------------------


async def retrieve(call: HttpCall) -> HttpReply | Stream:
    """``GET /v1/responses/{id}``; with ``stream=true`` its events, after ``starting_after``."""
    turn = await _current(call)
    if call.query.get("stream") != "true":
        return HttpReply(bytes(turn.response))
    id = call.params["id"]
    after = stored.integer(call, "starting_after", -1, least=0, most=10**9)
    live = _live().get((call.caller.key, id))
    if live is not None and live.turn.streamed:
        return Stream(live.follow(after))
    events = await call.services.records.get(_EVENTS, id, call.caller)
    if events is None:
        raise BadBody(
            "only a response made with background and stream can be streamed, for one hour",
            "stream",
        )
    return Stream(_replay_events(msgspec.json.decode(events, type=list[str])[after + 1 :]))


async def _replay_events(events: list[str]) -> AsyncGenerator[bytes, None]:
    yield "".join(events).encode()


async def _current(call: HttpCall) -> kept.StoredResponse:
    """A kept response. One that nobody works on any more was cut off by the server's end."""
    id, caller = call.params["id"], call.caller
    turn = await kept.find(call.services, caller, id)
    response = turn.shown()
    if response.status in _RUNNING and (caller.key, id) not in _live():
        turn = await kept.find(call.services, caller, id)  # it may have ended in between
        response = turn.shown()
        if response.status in _RUNNING:
            response.status = "failed"
            response.error = Error("server_error", "the server ended before the response did")
            turn.response = msgspec.Raw(encode(response))
            await kept.keep(call.services, caller, turn, id)
    return turn


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /v1/responses/{id}``; one that runs is cancelled."""
    id, records = call.params["id"], call.services.records
    await kept.find(call.services, call.caller, id)
    live = _live().get((call.caller.key, id))
    if live is not None:
        live.unwanted = True
        live.scope.cancel()
        await live.over.wait()
    await records.delete(kept.KIND, id, call.caller)
    await records.delete(_EVENTS, id, call.caller)
    return HttpReply(DeletedResponse(id))


async def cancel(call: HttpCall) -> HttpReply:
    """``POST /v1/responses/{id}/cancel``: for those in the background; again does no harm."""
    id = call.params["id"]
    response = (await _current(call)).shown()
    if not response.background:
        raise BadBody("only a response made with background can be cancelled")
    live = _live().get((call.caller.key, id))
    if live is not None:
        live.scope.cancel()
        await live.over.wait()
    elif response.status != "cancelled":
        raise BadBody(f"the response is {response.status} and can no longer be cancelled")
    return HttpReply(bytes((await kept.find(call.services, call.caller, id)).response))


async def input_items(call: HttpCall) -> HttpReply:
    """``GET /v1/responses/{id}/input_items``: all that the model was given, newest first."""
    limit = stored.integer(call, "limit", 20, least=1, most=100)
    turn = await kept.find(call.services, call.caller, call.params["id"])
    before = await kept.past(call.services, call.caller, turn.previous, None)
    items = [*before, *turn.items]
    if stored.newest_first(call):
        items.reverse()
    ids = [item["id"] for item in items]
    first, last = 0, len(items)
    for name in ("after", "before"):
        if (word := call.query.get(name)) is None:
            continue
        if word not in ids:
            raise BadBody(f"the response has no input item {word[:80]!r}", name)
        if name == "after":
            first = ids.index(word) + 1
        else:
            last = ids.index(word)
    if "before" in call.query and "after" not in call.query:
        first = max(first, last - limit)
    chosen = slice(first, max(first, last))
    return stored.page(items[chosen], ids[chosen], limit)


async def input_tokens(call: HttpCall) -> HttpReply:
    """``POST /v1/responses/input_tokens``: what a response would read."""
    body = call.read(given.CountInput)
    items, before = await _items(call, body, new_id("resp_"))
    request = given.prompt(body, messages([*before, *items], body.instructions))
    return HttpReply(InputTokenCount(await call.services.count(call.caller, request)))


async def compact(call: HttpCall) -> HttpReply:
    """``POST /v1/responses/compact``."""
    raise Unsupported("this server compacts no conversations", "send a summary as input")


_ONE = "/v1/responses/{id}"
ROUTES: tuple[HttpRoute, ...] = (
    HttpRoute("POST", "/v1/responses", create, "Answer, and keep the answer", given.CreateResponse),
    HttpRoute("POST", "/v1/responses/input_tokens", input_tokens, "Count tokens", given.CountInput),
    HttpRoute("POST", "/v1/responses/compact", compact, "Not done by this server"),
    HttpRoute("GET", _ONE, retrieve, "A response that was kept"),
    HttpRoute("DELETE", _ONE, delete, "Forget a response"),
    HttpRoute("POST", f"{_ONE}/cancel", cancel, "Cancel a response that runs in the background"),
    HttpRoute("GET", f"{_ONE}/input_items", input_items, "What a response was asked"),
)
