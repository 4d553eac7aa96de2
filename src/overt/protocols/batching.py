"""Many requests given at once and answered in the background, through restarts.

A `BatchRunner` belongs to one protocol. It keeps a job's items in a file, asks
`ServicesInterface.dispatch` for each, a few at a time, and appends what came back to a second file.
A server that is killed goes on where it was: an item whose outcome was not written yet is asked
again, but for one that a provider may have answered and billed already: that it was asked is
written first, and its outcome is then an error that says so. What a job looks like to a client, and
what becomes of its outcomes, is the protocol's.

Life of a job: `submit` (queued), `start` (running), all items have an outcome (finishing: the
protocol's `finish` is called), gone.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from weakref import WeakKeyDictionary

import anyio
import msgspec

from overt.errors import OutOfDisk, OvertError
from overt.protocols.base import Caller, ServicesInterface, encode

T = TypeVar("T")

log = logging.getLogger("overt.server")

AT_ONCE = 4
"""Requests of all jobs together that a server answers at once, so that others get their turn."""

_TRIES = 40  # of an item that is answered "503 busy"; with the pauses about ten minutes
_PAUSE, _MAX_PAUSE_SECONDS = 0.25, 15.0  # seconds between tries
_SAVE_EVERY = 0.2  # seconds; how old the counts of a job that is looked at may be
_KEEPER = Caller(key="*", name="batches")  # jobs are kept for the server, whoever made them


class BatchItem(msgspec.Struct, frozen=True):
    """One request. `body` is JSON; `custom_id` is the client's name for it, unique in its job."""

    custom_id: str
    method: str
    path: str
    body: msgspec.Raw


class BatchOutcome(msgspec.Struct, frozen=True):
    """What an item came to: the HTTP status and JSON body, or why it was never asked.

    ``asked`` is no outcome yet: a provider is about to be asked.
    """

    custom_id: str
    status: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")
    reason: Literal["", "cancelled", "expired", "asked"] = ""

    @property
    def well(self) -> bool:
        return 200 <= self.status < 300


class BatchJob(msgspec.Struct, frozen=True):
    """Where a job stands. Times are Unix seconds.

    `completed` items were answered with success, `failed` ones with an error; the rest of `total`
    waits, or was never asked. `cancelled` is when that was asked for.
    """

    id: str
    owner: str
    name: str
    created: float
    deadline: float
    total: int
    state: Literal["queued", "running", "finishing"] = "queued"
    started: float | None = None
    finishing: float | None = None
    completed: int = 0
    failed: int = 0
    cancelled: float | None = None

    @property
    def caller(self) -> Caller:
        return Caller(self.owner, self.name)


class Outcomes:
    """All outcomes of a job, in the order they were reached; read from disk at each iteration."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[BatchOutcome]:
        return (outcome for outcome in _read(self._path, BatchOutcome) if outcome.reason != "asked")


Finish = Callable[[ServicesInterface, Caller, BatchJob, Outcomes], Awaitable[None]]


@dataclass(slots=True)
class _BatchRun:
    """One job while it runs."""

    job: BatchJob
    items: Iterator[BatchItem]
    kept: "_OutcomeFile"
    saved: float = 0.0

    def keep(self, outcome: BatchOutcome) -> None:
        self.kept.append(outcome)
        if outcome.status:  # one that is about to be asked has none
            self.job = _with_outcome(self.job, outcome)


def _with_outcome(job: BatchJob, outcome: BatchOutcome) -> BatchJob:
    if outcome.well:
        return msgspec.structs.replace(job, completed=job.completed + 1)
    return msgspec.structs.replace(job, failed=job.failed + 1)


class BatchRunner:
    """Runs the jobs of one protocol.

    `finish(services, caller, job, outcomes)` is called when every item has an outcome. It is called
    again where the server was killed in the middle of it, and also for a job whose own record its
    protocol had no time to keep. Afterwards the job and its files are gone.
    """

    def __init__(self, name: str, finish: Finish) -> None:
        self._name = name
        self._finish = finish

    async def submit(
        self,
        services: ServicesInterface,
        caller: Caller,
        id: str,
        items: Iterable[BatchItem],
        *,
        deadline: float,
    ) -> BatchJob:
        """Keep a new job; it does not run before `start`, or a restart.

        Args:
            id: letters, digits, ``_`` and ``-``, unique.
            deadline: Unix seconds after which waiting items are given up.

        Raises:
            OutOfDisk: the items could not be written.
        """
        path = self._path(services, id, "items")
        total = await anyio.to_thread.run_sync(_write_items, path, items)
        job = BatchJob(id, caller.key, caller.name, time.time(), deadline, total)
        await self._save(services, job)
        return job

    def start(self, services: ServicesInterface, job: BatchJob) -> None:
        """Run it in the background."""
        services.background(self._run(services, job))

    async def get(self, services: ServicesInterface, id: str) -> BatchJob | None:
        """Where it stands; None where there is no such job, or no longer.

        It may be anybody's: the protocol's own record says who may see it.
        """
        body = await services.records.get(self._name + "_job", id, _KEEPER)
        if body is None:
            return None
        job = msgspec.json.decode(body, type=BatchJob)
        return msgspec.structs.replace(job, cancelled=await self._cancelled(services, id))

    async def cancel(self, services: ServicesInterface, id: str) -> BatchJob | None:
        """Ask no more of its items. Those being answered are awaited."""
        job = await self.get(services, id)
        if job is None or job.cancelled is not None:
            return job
        now = time.time()
        kind, expires = self._name + "_cancel", job.deadline + 86400
        await services.records.put(kind, id, _KEEPER, encode(now), expires=expires)
        return msgspec.structs.replace(job, cancelled=now)

    async def resume(self, services: ServicesInterface) -> None:
        """Go on with what a server that ended had not finished. Call it once, at the start."""
        known = set()
        for body in await services.records.list(
            self._name + "_job", _KEEPER, limit=1_000_000, newest_first=False
        ):
            job = msgspec.json.decode(body, type=BatchJob)
            known.add(job.id)
            self.start(services, job)
        await anyio.to_thread.run_sync(self._sweep, _folder(services), known)

    # ---- running -----------------------------------------------------------------------------

    async def _run(self, services: ServicesInterface, job: BatchJob) -> None:
        items = self._path(services, job.id, "items")
        outcomes = self._path(services, job.id, "outcomes")
        if not items.exists():  # finished, and killed while clearing up
            await self._clear(services, job)
            return
        done = await anyio.to_thread.run_sync(_done, outcomes)
        job = msgspec.structs.replace(
            job, state="running", started=job.started or time.time(), completed=0, failed=0
        )
        for outcome in done.values():
            job = _with_outcome(job, outcome) if outcome.status else job
        await self._save(services, job)
        waiting = (item for item in _read(items, BatchItem) if item.custom_id not in done)
        with _OutcomeFile(outcomes) as writer:
            run = _BatchRun(job, waiting, writer)
            for outcome in done.values():
                if outcome.reason == "asked":
                    run.keep(_interrupted(outcome.custom_id))
            async with anyio.create_task_group() as group:
                for _ in range(AT_ONCE):
                    group.start_soon(self._work, services, run)
        job = msgspec.structs.replace(
            run.job,
            state="finishing",
            finishing=time.time(),
            cancelled=await self._cancelled(services, job.id),
        )
        await self._save(services, job)
        await self._finish(services, job.caller, job, Outcomes(outcomes))
        await self._clear(services, job)

    async def _work(self, services: ServicesInterface, run: _BatchRun) -> None:
        for item in run.items:  # shared: each worker takes the next one
            if time.time() >= run.job.deadline:
                run.keep(BatchOutcome(item.custom_id, reason="expired"))
                continue
            async with _room():
                if services.elsewhere(_model(item)):
                    run.keep(BatchOutcome(item.custom_id, reason="asked"))
                outcome = await self._ask(services, run, item)
            run.keep(outcome)
            if time.monotonic() - run.saved > _SAVE_EVERY:
                run.saved = time.monotonic()
                await self._save(services, run.job)

    async def _ask(
        self, services: ServicesInterface, run: _BatchRun, item: BatchItem
    ) -> BatchOutcome:
        """The outcome of one item. A server that is full is asked again until it is not."""
        pause, tries = _PAUSE, 0
        while not await self._cancelled(services, run.job.id):
            try:
                status, body = await services.dispatch(
                    run.job.caller, item.method, item.path, bytes(item.body)
                )
            except OvertError as error:
                status, body = error.status, encode(error.as_json())
            except Exception:  # one item's bad luck must not take the rest of the job with it
                log.exception("item %r of batch %s failed", item.custom_id, run.job.id)
                status, body = 500, b'{"error":{"message":"the server failed; see its log"}}'
            tries += status == 503
            late = time.time() >= run.job.deadline
            if status not in (429, 503) or tries >= _TRIES or late:
                return BatchOutcome(item.custom_id, status, compact(body))
            await anyio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE_SECONDS)
        return BatchOutcome(item.custom_id, reason="cancelled")

    # ---- what is kept ------------------------------------------------------------------------

    async def _cancelled(self, services: ServicesInterface, id: str) -> float | None:
        # A record of its own: the job's is written by whoever runs it, and would be overwritten.
        body = await services.records.get(self._name + "_cancel", id, _KEEPER)
        return None if body is None else msgspec.json.decode(body, type=float)

    async def _save(self, services: ServicesInterface, job: BatchJob) -> None:
        await services.records.put(self._name + "_job", job.id, _KEEPER, encode(job))

    async def _clear(self, services: ServicesInterface, job: BatchJob) -> None:
        for suffix in ("items", "outcomes"):
            self._path(services, job.id, suffix).unlink(missing_ok=True)
        for kind in ("_job", "_cancel"):
            await services.records.delete(self._name + kind, job.id, _KEEPER)

    def _path(self, services: ServicesInterface, id: str, suffix: str) -> Path:
        if not id.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"{id!r} is no id of a job")
        return _folder(services) / f"{self._name}.{id}.{suffix}"

    def _sweep(self, folder: Path, known: set[str]) -> None:
        """Remove what a killed server wrote for jobs it had no time to keep."""
        for path in folder.glob(f"{self._name}.*"):
            if path.name.split(".")[1] not in known:
                path.unlink(missing_ok=True)


class _ModelField(msgspec.Struct):
    model: str = ""


def _model(item: BatchItem) -> str:
    """The model that an item asks for; "" where it names none."""
    try:
        return msgspec.json.decode(item.body, type=_ModelField).model
    except msgspec.DecodeError:
        return ""


def _interrupted(custom_id: str) -> BatchOutcome:
    """Of an item that a provider was asked when the server ended."""
    message = (
        "the server ended while the provider was asked, so that this may be billed and is not "
        "asked again; send it in another batch if you want it"
    )
    body = encode({"type": "error", "error": {"type": "provider_failed", "message": message}})
    return BatchOutcome(custom_id, 502, msgspec.Raw(body))


def compact(json: bytes) -> msgspec.Raw:
    """JSON on one line; what is not JSON becomes a JSON text."""
    try:
        return msgspec.Raw(msgspec.json.format(json, indent=-1))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.Raw(encode(json.decode("utf-8", "replace")))


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _room() -> asyncio.Semaphore:
    """The one of this server, which is this event loop's."""
    return _rooms.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE))


def _folder(services: ServicesInterface) -> Path:
    return services.files / "jobs"


# ---- files, one JSON value a line ------------------------------------------------------------


class _OutcomeFile:
    """Appends outcomes to a file, each whole before the next call returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "_OutcomeFile":
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._file = os.open(self._path, flags, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, outcome: BatchOutcome) -> None:
        line = encode(outcome) + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
        except OSError as error:
            raise OutOfDisk(f"the answers of a batch could not be kept: {error}") from None


def _write_items(path: Path, items: Iterable[BatchItem]) -> int:
    """The number of items written, all or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    total = 0
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for item in items:
                body = msgspec.structs.replace(item, body=compact(bytes(item.body)))
                file.write(encode(body) + b"\n")
                total += 1
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutOfDisk(f"the requests of a batch could not be kept: {error}") from None
    return total


def _done(path: Path) -> dict[str, BatchOutcome]:
    """Outcomes by custom id, without their bodies; a line cut short by a kill is taken away."""
    if not path.exists():
        return {}
    whole = 0
    done = {}
    with path.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            outcome = msgspec.json.decode(line, type=BatchOutcome)
            done[outcome.custom_id] = msgspec.structs.replace(outcome, body=msgspec.Raw(b"null"))
            whole += len(line)
        file.truncate(whole)
    return done


def _read(path: Path, kind: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(kind)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)
