"""OpenAI's batches (``/v1/batches``): a file of requests in, a file of answers out.

While a batch runs, its record says what was asked and `batching` how far it is; when it has ended,
the record says all.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from overt.errors import NotFound, OvertError
from overt.protocols import batching
from overt.protocols.base import (
    BadBody,
    Caller,
    HttpCall,
    HttpReply,
    HttpRoute,
    ServicesInterface,
    encode,
    new_id,
)
from overt.protocols.openai import files, stored

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
MAX_REQUESTS, MAX_BYTES = 50_000, 200 << 20  # as OpenAI has it
_WINDOW = 86400  # seconds
_ERRORS = 100  # told of one file
_KIND = "batch"

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
_ENDED = ("failed", "completed", "expired", "cancelled")


class CreateBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/batches``."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: stored.Metadata | None = None
    output_expires_after: files.Expiry | None = None


class BatchProblem(msgspec.Struct, frozen=True):
    """What is wrong with a line (counted from 1) of the input file, or with the whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Problems(msgspec.Struct, frozen=True):
    data: Sequence[BatchProblem]
    object: str = "list"


class OpenAIBatchCounts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class ReasonedTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class BatchUsage(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasonedTokens
    total_tokens: int


class OpenAIBatch(msgspec.Struct, frozen=True):
    """Times are whole Unix seconds."""

    id: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    status: Status = "validating"
    object: str = "batch"
    completion_window: str = "24h"
    model: str | None = None
    errors: Problems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: OpenAIBatchCounts = OpenAIBatchCounts()
    usage: BatchUsage | None = None
    metadata: dict[str, str] | None = None


class BatchLine(msgspec.Struct, frozen=True):
    """One request of an input file."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class BatchedRequest(msgspec.Struct, frozen=True):
    """What is looked at in a request before it is run."""

    model: str | None = None
    stream: bool | None = None
    background: bool | None = None


class BatchRecord(msgspec.Struct, frozen=True):
    """The record: the batch, and what is needed at its end."""

    batch: OpenAIBatch
    seconds: int | None = None  # the life of its output


# ---- handlers --------------------------------------------------------------------------------


async def create(call: HttpCall) -> HttpReply:
    """``POST /v1/batches``."""
    body = call.read(CreateBatch)
    if body.endpoint not in ENDPOINTS:
        raise BadBody(f"endpoint must be one of {', '.join(ENDPOINTS)}", "endpoint")
    expiry = body.output_expires_after
    seconds = expiry.check("output_expires_after").seconds if expiry else None
    services, caller = call.services, call.caller
    file = await files.find(services, caller, body.input_file_id)
    if file.purpose != "batch":
        raise BadBody(
            f"the file {file.id} was uploaded for {file.purpose!r} and not for 'batch'",
            "input_file_id",
        )
    now = int(time.time())
    batch = OpenAIBatch(
        new_id("batch_"), body.endpoint, file.id, now, now + _WINDOW, metadata=body.metadata
    )
    path = files.path_of(services, file)
    total, model, problems = await anyio.to_thread.run_sync(_checked, path, body.endpoint)
    if problems:
        failed = msgspec.structs.replace(
            batch, status="failed", failed_at=now, errors=Problems(problems)
        )
        await _save_record(services, caller, BatchRecord(failed))
        return HttpReply(failed)
    batch = msgspec.structs.replace(batch, model=model, request_counts=OpenAIBatchCounts(total))
    job = await RUNNER.submit(
        services, caller, batch.id, _items(path), deadline=batch.created_at + _WINDOW
    )
    await _save_record(services, caller, BatchRecord(batch, seconds))
    RUNNER.start(services, job)
    return HttpReply(batch)


async def retrieve(call: HttpCall) -> HttpReply:
    """``GET /v1/batches/{id}``."""
    return HttpReply(await _now(call.services, await _find_batch(call)))


async def list_(call: HttpCall) -> HttpReply:
    """``GET /v1/batches``, newest first."""
    limit = stored.integer(call, "limit", 20, least=1, most=100)
    bodies = await call.services.records.list(
        _KIND, call.caller, limit=limit + 1, after=call.query.get("after")
    )
    records = [msgspec.json.decode(body, type=BatchRecord).batch for body in bodies]
    batches = [await _now(call.services, batch) for batch in records]
    return stored.page(batches, [batch.id for batch in batches], limit)


async def cancel(call: HttpCall) -> HttpReply:
    """``POST /v1/batches/{id}/cancel``."""
    batch = await _now(call.services, await _find_batch(call))
    if batch.status in _ENDED:
        raise BadBody(f"the batch is {batch.status} and can no longer be cancelled")
    await RUNNER.cancel(call.services, batch.id)
    return HttpReply(await _now(call.services, batch))


async def resume(services: ServicesInterface) -> None:
    """Go on with the batches that a server before this one had not finished."""
    await RUNNER.resume(services)


# ---- where a batch stands --------------------------------------------------------------------


async def _find_batch(call: HttpCall) -> OpenAIBatch:
    return (await _load_record(call.services, call.caller, call.params["id"])).batch


async def _load_record(services: ServicesInterface, caller: Caller, id: str) -> BatchRecord:
    body = await services.records.get(_KIND, id, caller)
    if body is None:
        raise NotFound(f"No batch found with id '{id[:80]}'")
    return msgspec.json.decode(body, type=BatchRecord)


async def _save_record(services: ServicesInterface, caller: Caller, record: BatchRecord) -> None:
    await services.records.put(_KIND, record.batch.id, caller, encode(record))


async def _now(services: ServicesInterface, batch: OpenAIBatch) -> OpenAIBatch:
    """`batch` with how far its job is; the record alone says so once it has ended."""
    if batch.status in _ENDED:
        return batch
    job = await RUNNER.get(services, batch.id)
    return batch if job is None else _with(batch, job)


def _with(batch: OpenAIBatch, job: batching.BatchJob) -> OpenAIBatch:
    states: Mapping[str, Status] = {
        "queued": "validating",
        "running": "in_progress",
        "finishing": "finalizing",
    }
    status = states[job.state]
    return msgspec.structs.replace(
        batch,
        status="cancelling" if job.cancelled is not None else status,
        in_progress_at=_second(job.started),
        finalizing_at=_second(job.finishing),
        cancelling_at=_second(job.cancelled),
        request_counts=OpenAIBatchCounts(job.total, job.completed, job.failed),
    )


def _second(time: float | None) -> int | None:
    return None if time is None else int(time)


# ---- the input -------------------------------------------------------------------------------


def _checked(path: Path, endpoint: str) -> tuple[int, str | None, list[BatchProblem]]:
    """The number of requests, the model where all ask for the same, and what is wrong."""
    if path.stat().st_size > MAX_BYTES:
        message = f"the file has {path.stat().st_size} bytes and may have {MAX_BYTES}"
        return 0, None, [BatchProblem("file_too_large", message)]
    problems: list[BatchProblem] = []
    seen: set[str] = set()
    models: set[str | None] = set()
    for number, text in _lines(path):
        if len(seen) >= MAX_REQUESTS:
            message = f"the file has more than {MAX_REQUESTS} requests"
            problems.append(BatchProblem("too_many_requests", message, number))
            break
        result = _check_line(text, endpoint, seen)
        if isinstance(result, BatchedRequest):
            models.add(result.model)
            continue
        problems.append(msgspec.structs.replace(result, line=number))
        if len(problems) == _ERRORS:
            break
    if not seen and not problems:
        problems.append(BatchProblem("empty_file", "the file has no requests"))
    return len(seen), models.pop() if len(models) == 1 else None, problems


def _check_line(text: bytes, endpoint: str, seen: set[str]) -> BatchedRequest | BatchProblem:
    """What is wrong with one line, or what it asks; its custom id is then in `seen`."""
    try:
        line = msgspec.json.decode(text, type=BatchLine)
        body = msgspec.json.decode(line.body, type=BatchedRequest)
    except msgspec.ValidationError as error:
        return BatchProblem("invalid_request", f"the line is no request: {error}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return BatchProblem("invalid_json_line", f"the line is not valid JSON: {error}")
    if line.method.upper() != "POST":
        return BatchProblem(
            "invalid_method", f"the method is {line.method!r}; use POST", param="method"
        )
    if line.url != endpoint:
        message = f"the url is {line.url!r} and the batch is for {endpoint}"
        return BatchProblem("invalid_url", message, param="url")
    if line.custom_id in seen:
        message = f"the custom_id {line.custom_id!r} is used twice"
        return BatchProblem("duplicate_custom_id", message, param="custom_id")
    if body.stream or body.background:
        message = "a request of a batch cannot be streamed or run in the background"
        return BatchProblem("invalid_request", message, param="body")
    seen.add(line.custom_id)
    return body


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if number == 1:
                text = text.removeprefix(b"\xef\xbb\xbf")
            if text.strip():
                yield number, text


def _items(path: Path) -> Iterator[batching.BatchItem]:
    for _, text in _lines(path):
        line = msgspec.json.decode(text, type=BatchLine)
        yield batching.BatchItem(line.custom_id, "POST", line.url, line.body)


# ---- the output ------------------------------------------------------------------------------


async def _finish(
    services: ServicesInterface, caller: Caller, job: batching.BatchJob, outcomes: batching.Outcomes
) -> None:
    body = await services.records.get(_KIND, job.id, caller)
    if body is None:  # the server was killed before the client was told of it
        return
    record = msgspec.json.decode(body, type=BatchRecord)
    if record.batch.status in _ENDED:
        return
    batch = _with(record.batch, job)
    try:
        ended = await _finished(services, caller, record, batch, outcomes)
    except OvertError as error:
        ended = msgspec.structs.replace(
            batch,
            status="failed",
            failed_at=int(time.time()),
            errors=Problems([BatchProblem(error.code, str(error))]),
        )
    await _save_record(services, caller, BatchRecord(ended, record.seconds))


async def _finished(
    services: ServicesInterface,
    caller: Caller,
    record: BatchRecord,
    batch: OpenAIBatch,
    outcomes: batching.Outcomes,
) -> OpenAIBatch:
    def write(well: bool, name: str) -> Any:
        lines = (_line(batch.id, outcome) for outcome in outcomes if outcome.well is well)
        file, seed = f"{batch.id}_{name}.jsonl", f"{batch.id} {name}"
        return files.write(services, caller, file, lines, seed=seed, seconds=record.seconds)

    output = await write(True, "output")
    errors = await write(False, "error")
    expired, usage = await anyio.to_thread.run_sync(_summed, outcomes)
    now = int(time.time())
    status: Status = "completed"
    if batch.cancelling_at is not None:
        status = "cancelled"
    elif expired:
        status = "expired"
    return msgspec.structs.replace(
        batch,
        status=status,
        output_file_id=output and output.id,
        error_file_id=errors and errors.id,
        usage=usage,
        **{f"{status}_at": now},
    )


class _BatchResponse(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _BatchError(msgspec.Struct):
    code: str
    message: str


class _Output(msgspec.Struct):
    id: str
    custom_id: str
    response: _BatchResponse | None = None
    error: _BatchError | None = None


def _line(batch: str, outcome: batching.BatchOutcome) -> bytes:
    # The same at every writing: a file written again after a restart is the same file.
    id = hashlib.sha256(f"{batch} {outcome.custom_id}".encode()).hexdigest()[:24]
    line = _Output(f"batch_req_{id}", outcome.custom_id)
    if outcome.status:
        line.response = _BatchResponse(outcome.status, f"req_{id}", outcome.body)
    elif outcome.reason == "expired":
        message = "This request could not be executed before the completion window expired."
        line.error = _BatchError("batch_expired", message)
    else:
        line.error = _BatchError(
            "batch_cancelled", "This request was not executed: its batch ended."
        )
    return encode(line) + b"\n"


class _BatchTokenDetails(msgspec.Struct):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _AnyUsage(msgspec.Struct):
    """Of any of the endpoints."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _BatchTokenDetails | None = None
    input_tokens_details: _BatchTokenDetails | None = None
    completion_tokens_details: _BatchTokenDetails | None = None
    output_tokens_details: _BatchTokenDetails | None = None


class _AnyAnswer(msgspec.Struct):
    usage: _AnyUsage | None = None


def _summed(outcomes: batching.Outcomes) -> tuple[bool, BatchUsage]:
    """Whether any request expired, and the tokens of all answers."""
    expired, read, written, cached, reasoned = False, 0, 0, 0, 0
    for outcome in outcomes:
        expired |= outcome.reason == "expired"
        if not outcome.well:
            continue
        try:
            usage = msgspec.json.decode(outcome.body, type=_AnyAnswer).usage or _AnyUsage()
        except msgspec.ValidationError:  # an answer that tells no tokens
            continue
        read += usage.prompt_tokens or usage.input_tokens or 0
        written += usage.completion_tokens or usage.output_tokens or 0
        into = usage.prompt_tokens_details or usage.input_tokens_details or _BatchTokenDetails()
        out = usage.completion_tokens_details or usage.output_tokens_details or _BatchTokenDetails()
        cached += into.cached_tokens or 0
        reasoned += out.reasoning_tokens or 0
    return expired, BatchUsage(
        read, CachedTokens(cached), written, ReasonedTokens(reasoned), read + written
    )


RUNNER = batching.BatchRunner("openai_batch", _finish)

ROUTES: tuple[HttpRoute, ...] = (
    HttpRoute(
        "POST", "/v1/batches", create, "Answer a file of requests in the background", CreateBatch
    ),
    HttpRoute("GET", "/v1/batches", list_, "List batches"),
    HttpRoute("GET", "/v1/batches/{id}", retrieve, "How far a batch is"),
    HttpRoute("POST", "/v1/batches/{id}/cancel", cancel, "Ask no more of a batch's requests"),
)
