"""Requests handed on as they are, where the model that is asked for speaks the caller's protocol.

A client of Anthropic's that asks for a model of Anthropic's needs no translation, and would lose by
one: fields and betas that are newer than this program. So its body goes on byte for byte, but for
the name of the model; the answer comes back byte for byte. What the caller proved itself with to
this server stays here, and the owner's key goes instead.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import msgspec

from overt.chat import Request, Routed
from overt.engines.provider import Passed, Post, Reader, Said
from overt.engines.scrub import INSTEAD, PIECE, clean, cleaned
from overt.engines.sse import Splitter
from overt.errors import BadRequest, OvertError, ProviderFailed
from overt.protocols.anthropic_request import marked
from overt.protocols.base import Call, Reply, Stream
from overt.server.foreign import refused
from overt.server.watch import Generation, generation

if TYPE_CHECKING:
    from overt.engines.provider import Provider
    from overt.server.routing import Found

_PLAIN = {
    "/v1/chat/completions": ("openai", "/chat/completions", ("openai", "http")),
    "/v1/completions": ("openai", "/completions", ("openai", "http")),
    "/v1/embeddings": ("openai", "/embeddings", ("openai", "http")),
    "/v1/responses": ("openai", "/responses", ("openai",)),
    "/v1/messages": ("anthropic", "/v1/messages", ("anthropic",)),
    "/v1/messages/count_tokens": ("anthropic", "/v1/messages/count_tokens", ("anthropic",)),
}
"""By address: the protocol, the path behind a provider's base URL, the engines that have it."""
_GEMINI = re.compile(r"/(v1|v1beta|v1alpha)/models/\{id:path\}")
_VERBS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent",
          "batchEmbedContents")  # fmt: skip
_ASKS = ("generateContent", "streamGenerateContent")
_HEADERS = re.compile(
    r"accept|content-type|idempotency-key|x-client-request-id|user-agent"
    r"|(?:anthropic|openai|x-stainless|x-goog-api-client)(?:-[a-z0-9-]+)?"
)
"""What of a caller's headers goes on: never what it proves itself with."""
_BACK = re.compile(
    r"content-language|retry-after(?:-ms)?|server-timing|x-should-retry"
    r"|(?:x-|x-goog-|x-ms-)?request-id|x-amzn-requestid"
    r"|(?:x-ratelimit|x-gemini|anthropic|openai)-[a-z0-9_-]+"
)
"""What of a provider's headers comes back. Others rule browsers and proxies: those are ours."""
_OWNERS = re.compile(r"(?:anthropic|openai)-(?:organization|project|workspace)(?:-id)?")
"""… but for whose account it is."""
_STREAMS = ("text/event-stream", "application/x-ndjson")
_JSON = re.compile(r"application/(?:[a-z0-9.-]+\+)?json\s*(?:;.*)?")
_MOST_ANSWER = 64 << 20
_LARGE = 1 << 20  # bytes of a body that is read through beside the event loop
_MOST_ERROR = 64 << 10
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|[^"{}\[\]]+', re.DOTALL)
_ONCE = re.compile(rb'"model"\s*:\s*("[^"\\]*(?:\\.[^"\\]*)*")', re.DOTALL)
_SPELLED = re.compile(rb"\\u00[46][cdfCDF45]")  # a letter of "model", as an escape
_MOST_TOKENS = 4_000_000  # strings and brackets of a body; more take seconds
_OURS = (b'"overt:', b'"b3ZlcnQ6')  # how a signature begins that protocols/signed.py wrote


class _Named(msgspec.Struct):
    model: str = ""


class _Follows(msgspec.Struct):
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None


async def passed(call: Call, found: "Found", services: Any) -> Reply | Stream | None:
    """The provider's own answer; None where the request is to be translated.

    Raises:
        OvertError: it may not or cannot be handed on.
    """
    if call.method != "POST" or found.protocol.name not in ("openai", "anthropic", "gemini"):
        return None
    asked = _asked(call, found)
    if asked is None:
        return None
    model, path, engines = asked
    engine = services.passes(model, engines)
    if engine is None or await _is_ours(call, found):
        return None
    named = model != engine.ref
    if refused(call.body, found.route.path, engine.name, engine.model, named=named):
        return None
    if found.protocol.name == "gemini":
        from overt.engines.gemini import resource

        path, body = path.replace("{model}", resource(engine.model)), call.body
    elif len(call.body) > _LARGE:
        body = await asyncio.to_thread(renamed, call.body, engine.model)
    else:
        body = renamed(call.body, engine.model)
    headers = _on(call.headers)
    if engine.name == "anthropic":
        headers.setdefault("anthropic-version", "2023-06-01")  # this server does without it
    return await _sent(call, found, engine, Post(path, body, headers), model)


def _asked(call: Call, found: "Found") -> tuple[str, str, tuple[str, ...]] | None:
    """The model that is asked for, the path to hand on to, and the engines that have it."""
    if there := _PLAIN.get(found.route.path):
        protocol, path, engines = there
        if protocol != found.protocol.name:
            return None
        try:
            model = msgspec.json.decode(call.body, type=_Named).model
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # whoever translates says what is wrong with it
        return (model, path, engines) if model else None
    if match := _GEMINI.fullmatch(found.route.path):
        name, _, verb = call.params["id"].rpartition(":")
        if verb not in _VERBS or not name:
            return None
        if verb not in _ASKS and b'"model"' in call.body:
            return None  # the caller's name for the model stands inside too
        query = "?alt=sse" if call.query.get("alt") == "sse" else ""
        at = f"/{match[1]}/{{model}}:{verb}{query}"
        return name.removeprefix("models/"), at, ("gemini",)
    return None


async def _is_ours(call: Call, found: "Found") -> bool:
    """Whether a conversation began here, on another model: the provider would refuse its marks.

    Translating it leaves out what only another provider can read.
    """
    if found.protocol.name == "anthropic" and marked(call.body):
        return True
    if any(mark in call.body for mark in _OURS):
        return True
    if not found.route.path.startswith("/v1/responses"):
        return False
    after = msgspec.json.decode(call.body, type=_Follows)
    if after.conversation is not None or after.background is True:
        return True  # conversations, and answers to be fetched later, are kept by this server
    id = after.previous_response_id
    return isinstance(id, str) and (
        await call.services.records.get("response", id, call.caller) is not None
    )


def renamed(body: bytes, model: str) -> bytes:
    """A JSON object with another value of its ``model``; every other byte stays what it is.

    All of several such values are replaced, and ``Model`` as well: which of them counts, readers
    do not agree on (those written in Go take either).

    Raises:
        BadRequest: the name stands at several places, of a body that has too many.
    """
    spelled = b"\\u00" in body and _SPELLED.search(body)
    if body.lower().count(b'"model"') == 1 and not spelled:
        # As good as always, and a hundred times faster than to look for where objects end.
        found = _ONCE.match(body, body.find(b'"model"'))
        assert found
        return b"".join((body[: found.start(1)], msgspec.json.encode(model), body[found.end(1) :]))
    out, at = [], 0
    for start, end in _places(body):
        out += [body[at:start], msgspec.json.encode(model)]
        at = end
    return b"".join((*out, body[at:]))


def _places(body: bytes) -> Iterator[tuple[int, int]]:
    """Where the values of the outermost object's ``model`` are, in valid JSON."""
    depth, last, key = 0, b"", b""
    for number, match in enumerate(_TOKEN.finditer(body)):
        if number > _MOST_TOKENS:
            raise BadRequest(
                f"the body has more than {_MOST_TOKENS} strings and brackets", "send less"
            )
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
        elif depth == 1 and token.startswith(b'"'):
            if last.endswith((b"{", b",")):
                key = token
            elif last.endswith(b":") and _is_model(key):
                yield match.span()
        if depth <= 1:
            last = token.rstrip() or last


def _is_model(key: bytes) -> bool:
    if b"\\" not in key:
        return key.lower() == b'"model"'
    try:
        return msgspec.json.decode(key, type=str).lower() == "model"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


# ---- sending -------------------------------------------------------------------------------


async def _sent(
    call: Call, found: "Found", engine: "Provider", post: Post, model: str
) -> Reply | Stream:
    work = generation("chat", model)
    answer = engine.forward(post)
    try:
        head = await anext(answer)
        assert not isinstance(head, bytes)
        why = "" if model == engine.ref else f"{model} is an alias of it"
        work.event(Routed(engine.ref, why, head.request_id, head.bytes_out))
        kind = head.headers.get("content-type", "application/json").lower()
        coding = head.headers.get("content-encoding", "identity").lower()
        if head.status == 200 and coding != "identity":
            raise _odd(engine, f"compressed ({coding[:20]!r}), although it was asked not to")
        if head.status == 200 and kind.startswith(_STREAMS):
            return Stream(_pieces(answer, engine, work, _last(call, found)), kind, _back(head))
        if not (head.status == 200 and _JSON.fullmatch(kind)) and not 400 <= head.status < 600:
            raise _odd(engine, f"with status {head.status} and {kind[:60]!r}")
        whole = bytearray()
        async for piece in answer:
            whole += piece if isinstance(piece, bytes) else b""
            if len(whole) > _MOST_ANSWER:
                raise _odd(engine, f"with more than {_MOST_ANSWER >> 20} MiB")
    except BaseException as error:
        await answer.aclose()
        work.end(error.code if isinstance(error, OvertError) else "cancelled")
        raise
    if head.status == 200:
        _Tap(engine, work).whole(bytes(whole))
        work.end()
        return Reply(_without(bytes(whole), engine.to.secret), 200, _back(head), kind)
    failure = engine.dialect.failure(head.status, head.headers, bytes(whole[:_MOST_ERROR]))
    work.end(failure.code)
    own = head.status in (401, 403, 407)  # about the owner's key: the caller's is not at fault
    if own or len(whole) > _MOST_ERROR or not _JSON.fullmatch(kind) or coding != "identity":
        raise cleaned(failure, engine.to.secret)
    told = clean(bytes(whole[:_MOST_ERROR]).decode("utf-8", "replace"), engine.to.secret)
    return Reply(told.encode(), head.status, _back(head), kind)


async def _pieces(
    answer: AsyncGenerator[Passed | bytes, None],
    engine: "Provider",
    work: Generation,
    last: Callable[[OvertError], bytes],
) -> AsyncGenerator[bytes, None]:
    """The body as it comes, read along for the figures.

    Where the provider breaks off, `last` says so to the client; b"" breaks its connection too.
    """
    tap = _Tap(engine, work)
    code = "cancelled"
    async with aclosing(answer):
        try:
            async for piece in answer:
                assert isinstance(piece, bytes)
                tap.piece(piece)
                yield _without(piece, engine.to.secret)
            tap.end()
            code = ""
        except OvertError as error:
            code = error.code
            if not (said := last(error)):
                raise
            yield said
        finally:
            work.end(code)


def _last(call: Call, found: "Found") -> Callable[[OvertError], bytes]:
    """The event that ends a stream with an error, in the words of the protocol."""

    def said(error: OvertError) -> bytes:
        told = found.protocol.refuse(error, call.id).body()
        if found.route.path in ("/v1/chat/completions", "/v1/completions"):
            return b"\n\ndata: " + told + b"\n\n"
        if found.route.path == "/v1/messages":
            return b"\n\nevent: error\ndata: " + told + b"\n\n"
        return b""

    return said


class _Tap:
    """Reads an answer along with the client, for metrics; whatever it cannot read is no matter."""

    def __init__(self, engine: "Provider", work: Generation) -> None:
        self._reader: Reader | None = engine.dialect.reader(Request(engine.ref))
        self._splitter = Splitter()
        self._work = work

    def piece(self, data: bytes) -> None:
        if self._reader is None:
            return
        try:
            for said in self._splitter.feed(data):
                for event in self._reader.feed(said):
                    self._work.event(event)
        except OvertError:
            self._reader = None

    def whole(self, data: bytes) -> None:
        """An answer in one piece."""
        if self._reader is None:
            return
        with suppress(OvertError):
            for event in self._reader.feed(Said("", data)):
                self._work.event(event)
            self.end()

    def end(self) -> None:
        if self._reader is None:
            return
        with suppress(OvertError):
            for event in self._reader.end():
                self._work.event(event)


def _odd(engine: "Provider", how: str) -> ProviderFailed:
    hint = "it may be billed: look what is at its address before you ask again"
    return ProviderFailed(f"{engine.to.label} answered {how}", hint, billed=True)


def _without(data: bytes, secret: str) -> bytes:
    """`data`, as it is unless it repeats the whole of the owner's key."""
    key = secret.encode()
    return data.replace(key, INSTEAD.encode()) if len(key) >= PIECE and key in data else data


def _on(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a caller's headers goes on."""
    return {
        name: value
        for name, value in headers.items()
        if _HEADERS.fullmatch(name) and value.isascii() and value.isprintable()
    }


def _back(head: Passed) -> dict[str, str]:
    """What of a provider's headers the caller gets; the kind is told apart."""
    return {
        name: value
        for name, value in head.headers.items()
        if _BACK.fullmatch(name) and not _OWNERS.fullmatch(name)
    }
