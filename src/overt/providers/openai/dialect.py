"""GPT models at OpenAI: Responses where it can carry the request, Chat Completions where it cannot.

Responses is OpenAI's main interface, and the only one in which reasoning survives from one turn to
the next. Stop sequences, seed, logit bias and penalties exist in Chat Completions alone. A bare
prompt goes to ``/completions``, for the few old models that still continue text.

What a family of models refuses stands in openai.toml. Stop sequences that a family refuses, and
those beyond the four that OpenAI takes, are carried out here: the answer is read to its end, so
that what it cost is known, and cut.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from overt.chat import (
    Done,
    Embeddings,
    EmbedRequest,
    Event,
    Logprobs,
    Request,
    Text,
    ThoughtPart,
)
from overt.engine import Capabilities
from overt.errors import BadRequest, OvertError, Unsupported
from overt.providers.base import EventReader, PostRequest, ServerEvent
from overt.providers.dialect import encode
from overt.providers.openai import chat, responses
from overt.providers.openai import embed as openai_embed
from overt.providers.openai.chat_answer import ChatReader
from overt.providers.openai.compatible import LISTING, PARALLEL, ROUNDED, headers, token_count
from overt.providers.openai.failure import failure
from overt.providers.openai.responses_answer import ResponsesReader
from overt.providers.openai.strict import strict
from overt.providers.supported_parameters import SupportedParameters, accepts, pruned

_WHO = "openai"
_MAX_STOPS = 4
_NOT_HERE = ("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n")
_CHAT_ONLY = ("logit_bias", "seed", "presence_penalty", "frequency_penalty")


class OpenAI:
    """The dialect of ``openai:`` refs."""

    name = _WHO
    protocol = "openai"
    listing = LISTING

    def capabilities(self, model: str) -> Capabilities:
        taken = accepts(_WHO, model)
        return Capabilities(
            context=taken.context,
            longest=taken.context,
            parallel=PARALLEL,
            chat=not taken.extra.get("completions", False),
            images=taken.images,
            tools=taken.tools,
            thinking=taken.thinking,
            logprobs="logprobs" not in taken.refuses,
            constrained="json_schema" not in taken.refuses,
        )

    def headers(self, secret: str) -> dict[str, str]:
        return headers(secret)

    def post(self, request: Request, model: str) -> tuple[PostRequest, tuple[str, ...]]:
        """See `Dialect`. Which of the two interfaces, is said at the top of this file."""
        _check(request)
        taken = accepts(_WHO, model)
        if request.prompt is not None:
            return _completion(request, model, taken)
        if taken.extra.get("completions", False):
            raise BadRequest(f"{model} continues text and takes no messages", "give it a prompt")
        effort, notes = _effort(request, model, taken)
        request_, dropped = _supported_request(request, model, taken, effort)
        notes += dropped
        interface = taken.extra.get("only", "")
        if interface == "chat" or (interface != "responses" and responses.needs_chat(request_)):
            return _chat(request_, model, effort, notes)
        if interface == "responses":
            _only_responses(request_, model)
        body = responses.body(
            request_, model, effort=effort, reasons=bool(taken.extra.get("efforts", []))
        )
        return PostRequest("/responses", encode(body)), tuple(notes)

    def reader(self, request: Request) -> EventReader:
        reader: EventReader = _EitherReader(request)
        return _CutReader(reader, request.stop) if request.stop else reader

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> OvertError:
        return failure(
            _WHO,
            status,
            headers,
            body,
            add_key="overt login openai, or set OPENAI_API_KEY",
            missing="OPENAI_BASE_URL should end in /v1; other servers are http://HOST/v1#MODEL",
        )

    def embed(self, request: EmbedRequest, model: str) -> PostRequest:
        # A third of the bytes of numbers in decimal.
        return PostRequest(
            "/embeddings", encode(openai_embed.body(request, model, _WHO, encoding="base64"))
        )

    def embedded(self, body: bytes, request: EmbedRequest) -> Embeddings:
        return openai_embed.read(body, request, _WHO)

    def counting(self, request: Request, model: str) -> PostRequest:
        _check(request)
        effort, _ = _effort(request, model, accepts(_WHO, model))
        fields = responses.conversation(request, model, effort=effort)
        return PostRequest("/responses/input_tokens", encode(fields))

    def counted(self, body: bytes) -> int:
        return token_count(body, _WHO)


# ---- what is asked -------------------------------------------------------------------------


def _check(request: Request) -> None:
    chat.check(request, _WHO)
    if request.grammar is not None:
        raise BadRequest(
            "openai follows no GBNF grammar", "give a JSON schema, or ask a model on this machine"
        )


def _completion(
    request: Request, model: str, taken: SupportedParameters
) -> tuple[PostRequest, tuple[str, ...]]:
    if not taken.extra.get("completions", False):
        raise Unsupported(
            f"{model} answers messages and continues no bare prompt",
            "send messages, or use gpt-3.5-turbo-instruct",
        )
    if request.json_schema is not None:
        raise BadRequest("openai holds no bare prompt to a schema", "send messages")
    if request.suffix is not None and not taken.extra.get("suffix", False):
        raise BadRequest(f"{model} fills no gaps", "leave out the suffix")
    if request.logprobs is not None and request.logprobs > 5:
        raise BadRequest(
            f"logprobs is {request.logprobs}; a bare prompt has 5 at most", "ask for 5 or fewer"
        )
    known, notes = _without_unknown_fields(request)
    return PostRequest("/completions", encode(chat.completion(known, model))), tuple(notes)


def _chat(
    request: Request, model: str, effort: str | None, notes: list[str]
) -> tuple[PostRequest, tuple[str, ...]]:
    extra = {} if effort is None else {"reasoning_effort": effort}
    if any(
        isinstance(part, ThoughtPart) and part.origin == responses.ORIGIN and part.signature
        for message in request.messages
        for part in message.parts
    ):
        notes.append(
            "the reasoning of earlier turns was left out: Chat Completions, which this request "
            "needs, takes none"
        )
    body = chat.chat(request, model, length="max_completion_tokens", extra=extra)
    return PostRequest("/chat/completions", encode(body)), tuple(notes)


def _only_responses(request: Request, model: str) -> None:
    """Raises BadRequest: what Responses has no field for, of a model that has nothing else."""
    for name in _CHAT_ONLY:
        value = getattr(request if name == "logit_bias" else request.sampling, name)
        if value or (name == "seed" and value is not None):
            raise BadRequest(f"{model} takes no {name}", f"leave out {name}")
    if request.stop:
        raise BadRequest(f"{model} takes no stop sequences", "leave out stop")
    if request.max_tokens is not None and request.max_tokens < responses.MIN_OUTPUT_TOKENS:
        raise BadRequest(
            f"max_tokens is {request.max_tokens}; {model} answers in "
            f"{responses.MIN_OUTPUT_TOKENS} or more",
            f"ask for {responses.MIN_OUTPUT_TOKENS}",
        )


def _effort(
    request: Request, model: str, taken: SupportedParameters
) -> tuple[str | None, list[str]]:
    """The effort that is sent, and what is to be said about it.

    A word that the family is not known to take is sent all the same: openai.toml may be older than
    the model, and OpenAI refuses by name.
    """
    efforts: Sequence[str] = taken.extra.get("efforts", [])
    if not taken.thinking:
        if request.effort not in (None, "none") or request.thinking:
            return None, [f"the effort was left out: {model} does not reason"]
        return None, []
    if request.effort is not None:
        return request.effort, []
    if request.thinking is not False:
        return None, []
    if not efforts:
        return None, [f"thinking was left as it is: how little {model} takes is not known"]
    if efforts[0] == "none":
        return "none", []
    return efforts[0], [f"{model} always reasons: effort {efforts[0]} is its least"]


def _supported_request(
    request: Request, model: str, taken: SupportedParameters, effort: str | None
) -> tuple[Request, list[str]]:
    """`request` without what this model refuses and OpenAI does not have."""
    refuses = taken.refuses
    if (effort or taken.extra.get("effort", "")) == "none":
        refuses -= frozenset(taken.extra.get("at_none", []))
    notes: list[str] = []
    if request.stop and "stop" in refuses:
        notes.append(f"{model} takes no stop sequences: its answer is cut here instead")
        refuses -= {"stop"}
        request = replace(request, stop=())
    known, told_known = _without_unknown_fields(request)
    pruned_request, names = pruned(known, replace(taken, refuses=refuses))
    notes += told_known
    notes += [f"{name} was left out: {model} refuses it" for name in names]
    if pruned_request.json_schema is not None and not strict(pruned_request.json_schema):
        notes.append(
            "the schema is a hint and no promise: openai keeps to schemas whose objects are closed "
            "and whose properties are all required"
        )
    return pruned_request, notes


def _without_unknown_fields(request: Request) -> tuple[Request, list[str]]:
    """`request` without what OpenAI has no field for, or no room."""
    names = [name for name in _NOT_HERE if getattr(request.sampling, name) is not None]
    notes = [f"{name} was left out: openai has no such field" for name in names]
    if chat.rounded(request.logit_bias):
        notes.append(ROUNDED)
    if len(request.stop) > _MAX_STOPS:
        notes.append(
            f"openai takes {_MAX_STOPS} stop sequences: for the others its answer is cut here"
        )
        request = replace(request, stop=request.stop[:_MAX_STOPS])
    if not names:
        return request, notes
    nothing: dict[str, Any] = dict.fromkeys(names)
    return replace(request, sampling=replace(request.sampling, **nothing)), notes


# ---- what is answered ----------------------------------------------------------------------


class _Kind(msgspec.Struct):
    type: Any = None


_kind = msgspec.json.Decoder(_Kind).decode


class _EitherReader:
    """Reads what comes by its first event: each interface knows its own from the other's."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._inner: EventReader | None = None

    @property
    def done(self) -> bool:
        return self._inner is not None and self._inner.done

    def feed(self, server_event: ServerEvent) -> Iterable[Event]:
        """See `EventReader`."""
        if self._inner is None:
            self._inner = self._chosen(server_event)
        return self._inner.feed(server_event)

    def end(self) -> Iterable[Event]:
        """See `EventReader`."""
        return (self._inner or ResponsesReader(self._request)).end()

    def _chosen(self, server_event: ServerEvent) -> EventReader:
        name: Any = server_event.name
        if not name:
            try:
                name = _kind(server_event.data).type
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                name = ""
        if isinstance(name, str) and (name.startswith("response.") or name == "error"):
            return ResponsesReader(self._request)
        return ChatReader(self._request, _WHO, _WHO)


class _CutReader:
    """Ends the text of an answer before the first of `stops`, where the model itself does not.

    Nothing changes where it does. What comes after is read, for its `Usage`, and not told.
    """

    def __init__(self, inner: EventReader, stops: Sequence[str]) -> None:
        self._inner = inner
        self._stops = tuple(stop for stop in stops if stop)
        self._longest = max(map(len, self._stops), default=1)
        self._held = ""
        self._found: str | None = None

    @property
    def done(self) -> bool:
        return self._inner.done

    def feed(self, server_event: ServerEvent) -> Iterator[Event]:
        """See `EventReader`."""
        for event in self._inner.feed(server_event):
            yield from self._event(event)

    def end(self) -> Iterator[Event]:
        """See `EventReader`."""
        for event in self._inner.end():
            if isinstance(event, Done):
                yield from self._flush()
                if self._found is not None:
                    event = Done("stop", self._found)
            yield event

    def _event(self, event: Event) -> Iterator[Event]:
        if isinstance(event, Text):
            if self._found is None:
                yield from self._text(event.text)
            return
        if self._found is not None:
            return  # of an answer that has ended
        if not isinstance(event, Logprobs):
            yield from self._flush()
        yield event

    def _text(self, text: str) -> Iterator[Event]:
        self._held += text
        places = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            at, self._found = min(places)
            text, self._held = self._held[:at], ""
        else:
            # So much may be the beginning of a stop.
            keep = next(
                (
                    size
                    for size in range(min(self._longest - 1, len(self._held)), 0, -1)
                    if any(stop.startswith(self._held[-size:]) for stop in self._stops)
                ),
                0,
            )
            at = len(self._held) - keep
            text, self._held = self._held[:at], self._held[at:]
        if text:
            yield Text(text)

    def _flush(self) -> Iterator[Event]:
        if self._held:
            yield Text(self._held)
            self._held = ""
