"""Anthropic's message batches (``/v1/messages/batches``): many messages asked at once.

While a batch runs, its record says what was asked and `batching` how far it is. When it has ended,
the record has the counts and a file beside the records has the results, for 29 days, as Anthropic
keeps them.
"""

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import msgspec
from msgspec import Meta

from overt.errors import NotFound
from overt.protocols import batching
from overt.protocols.anthropic.answer import AnthropicErrorBody, AnthropicProblem
from overt.protocols.base import (
    BadBody,
    Caller,
    HttpCall,
    HttpReply,
    HttpRoute,
    ServicesInterface,
    Stream,
    decode,
    encode,
    new_id,
)

log = logging.getLogger("overt.server")

MAX_REQUESTS, MAX_BYTES = 100_000, 256 << 20  # as Anthropic has it
_WINDOW = 86400  # seconds in which a batch is answered
_KEPT = 29 * 86400  # seconds that its results are kept
_KIND = "message_batch"
_PIECE = 1 << 16

# ---- the wire ------------------------------------------------------------------------------


class MessageBatchItem(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    params: msgspec.Raw


class CreateMessageBatch(msgspec.Struct, forbid_unknown_fields=True):
    requests: Annotated[list[MessageBatchItem], Meta(min_length=1, max_length=MAX_REQUESTS)]


class _Params(msgspec.Struct):
    """What is looked at before a request is run."""

    stream: bool | None = None


class AnthropicBatchCounts(msgspec.Struct):
    """Anthropic counts a request as ended only once its whole batch is."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class BatchObject(msgspec.Struct):
    """Times are RFC 3339."""

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: AnthropicBatchCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    results_url: str | None
    archived_at: str | None = None
    type: str = "message_batch"


class BatchList(msgspec.Struct):
    data: Sequence[BatchObject]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedMessageBatch(msgspec.Struct):
    id: str
    type: str = "message_batch_deleted"


class BatchResult(msgspec.Struct):
    custom_id: str
    result: dict[str, Any]


class _Record(msgspec.Struct, frozen=True):
    """What is kept of a batch. Times are Unix seconds; `counts` is there once it has ended."""

    id: str
    created: float
    total: int
    ended: float | None = None
    cancelled: float | None = None
    counts: AnthropicBatchCounts | None = None


# ---- handlers ------------------------------------------------------------------------------


async def create(call: HttpCall) -> HttpReply:
    """``POST /v1/messages/batches``."""
    body = call.read(CreateMessageBatch)
    _check(body.requests)
    now = time.time()
    record = _Record(new_id("msgbatch_"), now, len(body.requests))
    items = (
        batching.BatchItem(item.custom_id, "POST", "/v1/messages", item.params)
        for item in body.requests
    )
    job = await RUNNER.submit(call.services, call.caller, record.id, items, deadline=now + _WINDOW)
    await _save(call.services, call.caller, record)
    RUNNER.start(call.services, job)
    return HttpReply(_batch(call, record))


async def retrieve(call: HttpCall) -> HttpReply:
    """``GET /v1/messages/batches/{id}``."""
    return HttpReply(_batch(call, await _now(call)))


async def list_(call: HttpCall) -> HttpReply:
    """``GET /v1/messages/batches``, newest first."""
    most = limit(call)
    after, before = call.query.get("after_id") or None, call.query.get("before_id") or None
    bodies = await call.services.records.list(
        _KIND, call.caller, limit=most + 1, after=after, before=before
    )
    backwards = before is not None and after is None
    page = bodies[-most:] if backwards else bodies[:most]
    batches = []
    for body in page:
        record = msgspec.json.decode(body, type=_Record)
        batches.append(_batch(call, await _with(call.services, record)))
    first, last = (batches[0].id, batches[-1].id) if batches else (None, None)
    return HttpReply(BatchList(batches, len(bodies) > most, first, last))


async def cancel(call: HttpCall) -> HttpReply:
    """``POST /v1/messages/batches/{id}/cancel``."""
    record = await _now(call)
    if record.counts is not None:
        raise BadBody(f"the batch {record.id} has ended and can no longer be canceled")
    job = await RUNNER.cancel(call.services, record.id)
    if job is None:  # it ended just now
        return HttpReply(_batch(call, await _now(call)))
    return HttpReply(_batch(call, msgspec.structs.replace(record, cancelled=job.cancelled)))


async def delete(call: HttpCall) -> HttpReply:
    """``DELETE /v1/messages/batches/{id}``."""
    record = await _now(call)
    if record.counts is None:
        raise BadBody(f"the batch {record.id} is still processing; cancel it first")
    await call.services.records.delete(_KIND, record.id, call.caller)
    await anyio.Path(_path(call.services, record.id)).unlink(missing_ok=True)
    return HttpReply(DeletedMessageBatch(record.id))


async def results(call: HttpCall) -> HttpReply | Stream:
    """``GET /v1/messages/batches/{id}/results``: a line of JSON for each request."""
    record = await _now(call)
    if record.counts is None:
        raise BadBody(f"the batch {record.id} is still processing and has no results yet")
    path = _path(call.services, record.id)
    if not await anyio.Path(path).exists():
        raise NotFound(f"the results of {record.id} are no longer kept")
    return Stream(_pieces(path), "application/x-jsonl")


def limit(call: HttpCall) -> int:
    """The query's ``limit`` of a list.

    Raises:
        BadBody: not a number from 1 to 1000.
    """
    limit_text = call.query.get("limit", "20")
    if not (
        limit_text.isascii()
        and limit_text.isdigit()
        and len(limit_text) <= 4
        and 1 <= int(limit_text) <= 1000
    ):
        raise BadBody(f"{limit_text[:40]!r} is not a number from 1 to 1000", "limit")
    return int(limit_text)


async def resume(services: ServicesInterface) -> None:
    """Go on with the batches that a server before this one had not finished.

    Results that are no longer to be kept are removed.
    """
    await RUNNER.resume(services)
    await anyio.to_thread.run_sync(_sweep, _folder(services))


# ---- where a batch stands ------------------------------------------------------------------


def _check(items: Sequence[MessageBatchItem]) -> None:
    seen: set[str] = set()
    for at, item in enumerate(items):
        path = f"requests[{at}]"
        if item.custom_id in seen:
            raise BadBody(f"custom_id {item.custom_id!r} is there twice", f"{path}.custom_id")
        seen.add(item.custom_id)
        try:
            params = decode(bytes(item.params), _Params)
        except BadBody as error:
            raise BadBody(error.message, f"{path}.params") from None
        if params.stream:
            raise BadBody("a request of a batch is not streamed", f"{path}.params.stream")


async def _now(call: HttpCall) -> _Record:
    id = call.params["id"]
    body = await call.services.records.get(_KIND, id, call.caller)
    if body is None:
        raise NotFound(f"there is no batch {id[:80]!r}")
    return await _with(call.services, msgspec.json.decode(body, type=_Record))


async def _with(services: ServicesInterface, record: _Record) -> _Record:
    """`record` with whether its end was asked for."""
    job = None if record.counts is not None else await RUNNER.get(services, record.id)
    return record if job is None else msgspec.structs.replace(record, cancelled=job.cancelled)


async def _save(services: ServicesInterface, caller: Caller, record: _Record) -> None:
    await services.records.put(
        _KIND, record.id, caller, encode(record), expires=record.created + _KEPT
    )


def _batch(call: HttpCall, record: _Record) -> BatchObject:
    status: Literal["in_progress", "canceling", "ended"] = "in_progress"
    url = None
    if record.counts is not None:
        status = "ended"
        url = f"{_origin(call)}/v1/messages/batches/{record.id}/results"
    elif record.cancelled is not None:
        status = "canceling"
    return BatchObject(
        record.id,
        status,
        record.counts or AnthropicBatchCounts(processing=record.total),
        _moment(record.created),
        _moment(record.created + _WINDOW),
        None if record.ended is None else _moment(record.ended),
        None if record.cancelled is None else _moment(record.cancelled),
        url,
    )


def _origin(call: HttpCall) -> str:
    """How the client reached this server; without a Host, which HTTP/1.0 allows, a bare path."""
    host = call.headers.get("host")
    secure = call.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if secure else 'http'}://{host}" if host else ""


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


# ---- results -------------------------------------------------------------------------------


async def _finish(
    services: ServicesInterface, caller: Caller, job: batching.BatchJob, outcomes: batching.Outcomes
) -> None:
    body = await services.records.get(_KIND, job.id, caller)
    stored = body and msgspec.json.decode(body, type=_Record)
    record = stored or _Record(job.id, job.created, job.total)
    try:
        counts = await anyio.to_thread.run_sync(_write, _path(services, job.id), outcomes)
    except OSError as error:
        log.error("the results of %s could not be kept: %s", job.id, error.strerror or error)
        counts = AnthropicBatchCounts(errored=job.total)
    ended = msgspec.structs.replace(
        record, ended=time.time(), cancelled=job.cancelled, counts=counts
    )
    await _save(services, caller, ended)


def _write(path: Path, outcomes: batching.Outcomes) -> AnthropicBatchCounts:
    """Write the results, and count them."""
    counts = AnthropicBatchCounts()
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for line in _lines(outcomes, counts):
                file.write(line)
        part.chmod(0o600)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return counts


def _lines(outcomes: batching.Outcomes, counts: AnthropicBatchCounts) -> Iterator[bytes]:
    for outcome in outcomes:
        if outcome.reason == "cancelled":
            counts.canceled += 1
            result: dict[str, Any] = {"type": "canceled"}
        elif outcome.reason == "expired":
            counts.expired += 1
            result = {"type": "expired"}
        elif outcome.well:
            counts.succeeded += 1
            result = {"type": "succeeded", "message": outcome.body}
        else:
            counts.errored += 1
            result = {"type": "errored", "error": _error(outcome.body)}
        yield encode(BatchResult(outcome.custom_id, result)) + b"\n"


def _error(body: msgspec.Raw) -> AnthropicErrorBody:
    try:
        return msgspec.json.decode(body, type=AnthropicErrorBody)
    except msgspec.DecodeError:
        return AnthropicErrorBody(AnthropicProblem("api_error", "the server failed; see its log"))


async def _pieces(path: Path) -> AsyncGenerator[bytes, None]:
    async with await anyio.open_file(path, "rb") as file:
        while piece := await file.read(_PIECE):
            yield piece


def _folder(services: ServicesInterface) -> Path:
    return services.files / "message_batches"


def _path(services: ServicesInterface, id: str) -> Path:
    return _folder(services) / f"{id}.jsonl"


def _sweep(folder: Path) -> None:
    oldest = time.time() - _KEPT
    for path in folder.glob("msgbatch_*"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)


RUNNER = batching.BatchRunner("anthropic_batch", _finish)

_AT = "/v1/messages/batches"
ROUTES = (
    HttpRoute("POST", _AT, create, "Ask many messages", CreateMessageBatch, limit=MAX_BYTES),
    HttpRoute("GET", _AT, list_, "List batches"),
    HttpRoute("GET", _AT + "/{id}", retrieve, "See how far a batch is"),
    HttpRoute("DELETE", _AT + "/{id}", delete, "Delete a batch that has ended"),
    HttpRoute("POST", _AT + "/{id}/cancel", cancel, "Cancel a batch"),
    HttpRoute("GET", _AT + "/{id}/results", results, "The results of a batch"),
)
