"""Requests handed on as they are, where the model that is asked for speaks the caller's protocol.

A client of Anthropic's that asks for a model of Anthropic's needs no translation, and would lose by
one: fields and betas that are newer than this program. So its body goes on byte for byte, but for
the name of the model; the answer comes back byte for byte. What the caller proved itself with to
this server stays here, and the owner's key goes instead. Where a name of the owner's led there, a
parameter that the model refuses is cut out of the body, and told.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import msgspec

from overt.chat import Routed
from overt.errors import BadRequest, OvertError, ProviderFailed
from overt.protocols.anthropic.request import marked
from overt.protocols.base import HttpCall, HttpReply, Stream
from overt.providers.base import PassedResponse, PostRequest
from overt.providers.http.redact import clean, cleaned
from overt.server.passthrough.body import RefusedMembers, edited
from overt.server.passthrough.needs_translation import refused, spared
from overt.server.passthrough.stream import ResponseTap, last_word, pieces, without
from overt.server.request_log import generation

if TYPE_CHECKING:
    from overt.providers.base import Provider
    from overt.server.routing import MatchedRoute

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
_VERBS = (
    "generateContent",
    "streamGenerateContent",
    "countTokens",
    "embedContent",
    "batchEmbedContents",
)
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
_MAX_ANSWER = 64 << 20
_LARGE = 1 << 20  # bytes of a body that is read through beside the event loop
_MAX_ERROR = 64 << 10
_MAX_QUERY = 4096
_QUERY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_PROOFS = ("key", "api_key", "api-key", "access_token", "oauth_token", "userProject")
"""What of a query proves who asks, or names an account: as with headers, it stays here."""
_OURS = (b'"overt:', b'"b3ZlcnQ6')  # how a signature begins that protocols/signed.py wrote


class _ForwardedBody(msgspec.Struct):
    model: str = ""
    stream: Any = None


class _Continuation(msgspec.Struct):
    previous_response_id: Any = None
    conversation: Any = None
    background: Any = None


async def forward(
    call: HttpCall, matched: "MatchedRoute", services: Any
) -> HttpReply | Stream | None:
    """The provider's own answer; None where the request is to be translated.

    Raises:
        OvertError: it may not or cannot be handed on.
    """
    if call.method != "POST" or matched.protocol.name not in ("openai", "anthropic", "gemini"):
        return None
    request = _forward_request(call, matched)
    if request is None:
        return None
    model, path, engines, stream = request
    engine = services.passes(model, engines)
    if engine is None or await _needs_own_handling(call, matched):
        return None
    named = model != engine.ref
    beta = "openai-beta" in call.headers
    if refused(call.body, matched.route.path, engine.name, engine.model, named=named, beta=beta):
        return None
    left: Sequence[str] = ()
    if matched.protocol.name == "gemini":
        from overt.providers.gemini.dialect import resource

        path, body = path.replace("{model}", resource(engine.model)), call.body
    else:
        spare = RefusedMembers()
        if named:
            spare = spared(call.body, matched.route.path, engine.name, engine.model)
        if len(call.body) > _LARGE:
            body, left = await asyncio.to_thread(edited, call.body, engine.model, spare)
        else:
            body, left = edited(call.body, engine.model, spare)
    headers = _on(call.headers)
    if engine.name == "anthropic":
        headers.setdefault("anthropic-version", "2023-06-01")  # this server does without it
    post = PostRequest(path + _query(call.query), body, headers)
    return await _send(call, matched, engine, post, _ForwardRequest(model, stream, left))


class _ForwardRequest(NamedTuple):
    model: str
    stream: bool
    left: Sequence[str]  # what was left out


def _forward_request(
    call: HttpCall, matched: "MatchedRoute"
) -> tuple[str, str, tuple[str, ...], bool] | None:
    """The model that is asked for, the path to hand on to, the engines that have it, …

    … and whether its answer is to be a stream of events.
    """
    if there := _PLAIN.get(matched.route.path):
        protocol, path, engines = there
        if protocol != matched.protocol.name:
            return None
        try:
            named = msgspec.json.decode(call.body, type=_ForwardedBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None  # whoever translates says what is wrong with it
        return (named.model, path, engines, named.stream is True) if named.model else None
    if match := _GEMINI.fullmatch(matched.route.path):
        name, _, verb = call.params["id"].rpartition(":")
        if verb not in _VERBS or not name:
            return None
        if verb not in _ASKS and b'"model"' in call.body:
            return None  # the caller's name for the model stands inside too
        stream = verb == "streamGenerateContent" and call.query.get("alt") == "sse"
        at = f"/{match[1]}/{{model}}:{verb}"
        return name.removeprefix("models/"), at, ("gemini",), stream
    return None


def _query(query: Mapping[str, str]) -> str:
    """What of a caller's query goes on.

    Raises:
        BadRequest: it is too long.
    """
    passed_on = {
        name: value
        for name, value in query.items()
        if _QUERY.fullmatch(name)
        and name not in _PROOFS
        and (name != "alt" or value in ("sse", "json"))
    }
    encoded = urlencode(passed_on)
    if len(encoded) > _MAX_QUERY:
        raise BadRequest(
            f"the query has {len(encoded)} bytes of {_MAX_QUERY}", "send it in the body"
        )
    return f"?{encoded}" if encoded else ""


async def _needs_own_handling(call: HttpCall, matched: "MatchedRoute") -> bool:
    """Whether a conversation began here, on another model: the provider would refuse its marks.

    Translating it leaves out what only another provider can read.
    """
    if matched.protocol.name == "anthropic" and marked(call.body):
        return True
    if any(mark in call.body for mark in _OURS):
        return True
    if not matched.route.path.startswith("/v1/responses"):
        return False
    after = msgspec.json.decode(call.body, type=_Continuation)
    if after.conversation is not None or after.background is True:
        return True  # conversations, and answers to be fetched later, are kept by this server
    id = after.previous_response_id
    return isinstance(id, str) and (
        await call.services.records.get("response", id, call.caller) is not None
    )


# ---- sending -------------------------------------------------------------------------------


async def _send(
    call: HttpCall,
    matched: "MatchedRoute",
    engine: "Provider",
    post: PostRequest,
    request: _ForwardRequest,
) -> HttpReply | Stream:
    work = generation("chat", request.model)
    notices = [f"{name} was left out: {engine.model} refuses it" for name in request.left]
    answer = engine.forward(post, notices)
    try:
        head = await anext(answer)
        assert not isinstance(head, bytes)
        why = "" if request.model == engine.ref else f"{request.model} is an alias of it"
        work.event(Routed(engine.ref, why, head.request_id, head.bytes_out))
        kind = head.headers.get("content-type", "application/json").lower()
        coding = head.headers.get("content-encoding", "identity").lower()
        headers = _response_headers(head)
        if request.left:
            headers["x-overt-left-out"] = ", ".join(request.left)
        if head.status == 200 and coding != "identity":
            raise _odd(engine, f"compressed ({coding[:20]!r}), although it was asked not to")
        events = kind.startswith(_STREAMS[0])
        whole = not {"fields", "$fields"} & call.query.keys()
        tap = ResponseTap(engine, work, matched.route.path, whole=whole)
        if head.status == 200 and kind.startswith(_STREAMS) and (events or not request.stream):
            read = tap if events else None
            chunks = pieces(answer, engine, work, read, last_word(call, matched))
            return Stream(chunks, kind, headers)
        if not (head.status == 200 and _JSON.fullmatch(kind)) and not 400 <= head.status < 600:
            raise _odd(engine, f"with status {head.status} and {kind[:60]!r}")
        body = await _read_all(answer, engine)
        if head.status == 200:
            if request.stream:
                raise _odd(engine, f"with {kind[:60]!r} where a stream of events was asked for")
            _must_be_json(body, engine)
    except BaseException as error:
        await answer.aclose()
        work.end(error.code if isinstance(error, OvertError) else "cancelled")
        raise
    if head.status == 200:
        tap.whole(body)
        work.end()
        return HttpReply(without(body, engine.to.secret), 200, headers, kind)
    failure = engine.dialect.failure(head.status, head.headers, body[:_MAX_ERROR])
    work.end(failure.code)
    own = head.status in (401, 403, 407)  # about the owner's key: the caller's is not at fault
    if own or len(body) > _MAX_ERROR or not _JSON.fullmatch(kind) or coding != "identity":
        raise cleaned(failure, engine.to.secret)
    shown = clean(body.decode("utf-8", "replace"), engine.to.secret)
    return HttpReply(shown.encode(), head.status, headers, kind)


async def _read_all(
    answer: AsyncGenerator[PassedResponse | bytes, None], engine: "Provider"
) -> bytes:
    whole = bytearray()
    async for piece in answer:
        whole += piece if isinstance(piece, bytes) else b""
        if len(whole) > _MAX_ANSWER:
            raise _odd(engine, f"with more than {_MAX_ANSWER >> 20} MiB")
    return bytes(whole)


def _must_be_json(body: bytes, engine: "Provider") -> None:
    """Raises ProviderFailed: a client's library would choke on it."""
    try:
        msgspec.json.decode(body, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _odd(engine, "with what is no JSON") from None
    if body.lstrip()[:1] not in (b"{", b"["):
        raise _odd(engine, "with JSON that is no object")


def _odd(engine: "Provider", how: str) -> ProviderFailed:
    hint = "it may be billed: look what is at its address before you ask again"
    return ProviderFailed(f"{engine.to.label} answered {how}", hint, billed=True)


def _on(headers: Mapping[str, str]) -> dict[str, str]:
    """What of a caller's headers goes on."""
    return {
        name: value
        for name, value in headers.items()
        if _HEADERS.fullmatch(name) and value.isascii() and value.isprintable()
    }


def _response_headers(head: PassedResponse) -> dict[str, str]:
    """What of a provider's headers the caller gets; the kind is told apart."""
    return {
        name: value
        for name, value in head.headers.items()
        if _BACK.fullmatch(name) and not _OWNERS.fullmatch(name)
    }
