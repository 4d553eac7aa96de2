"""Models that are on their way into the store: what LM Studio calls download jobs.

A job goes on when the request that began it is over; `ServicesInterface.background` holds it. Jobs
are kept in memory, the newest `_KEPT` of them, and told only to the key that began them.
"""

import re
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from overt.errors import BadRef, OvertError, TooMany
from overt.protocols.base import BadBody, Caller, ServicesInterface, new_id
from overt.protocols.lmstudio.errors import NoJob
from overt.ref import parse

State = Literal["downloading", "completed", "failed"]

_KEPT = 1000
_EACH = 8  # under way for one key
_HUB = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([^/\s?#]+/[^/\s?#]+)/?")


def ref_of(model: str, quantization: str | None = None) -> str:
    """The ref that a client of LM Studio means by `model`.

    Raises:
        BadBody: it is no ref and no address of the hub.
        BadRef: as `ref.parse`.
    """
    match = _HUB.fullmatch(model)
    ref = f"hf:{match[1]}" if match else model
    if quantization:
        if not ref.startswith("hf:") or "#" in ref:
            raise BadBody("a quantization is chosen for a Hugging Face link only", "quantization")
        ref = f"{ref}#{quantization}"
    try:
        parse(ref)
    except BadRef:
        if model.count("/") != 1:
            raise
        ref = f"hf:{model}" + (f"#{quantization}" if quantization else "")
        parse(ref)
    return ref


@dataclass(slots=True)
class Amount:
    """How much has come, over all parts of a model."""

    parts: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)

    def add(self, step: Any) -> None:
        """A step of `library.pull`."""
        self.parts[step.what] = (step.done, step.total)

    @property
    def done(self) -> int:
        return sum(done for done, _ in self.parts.values())

    @property
    def total(self) -> int:
        return sum(done if total is None else total for done, total in self.parts.values())

    @property
    def speed(self) -> float:
        """Bytes a second since the beginning."""
        return self.done / max(time.monotonic() - self.begun, 1e-3)


async def steps(services: ServicesInterface, ref: str) -> AsyncGenerator[Amount, None]:
    """Bring `ref` into the store, telling how much has come."""
    amount = Amount()
    async with aclosing(services.library.pull(ref)) as pulled:
        async for step in pulled:
            amount.add(step)
            yield amount


@dataclass(slots=True)
class DownloadJob:
    id: str
    owner: str
    ref: str
    state: State = "downloading"
    amount: Amount = field(default_factory=Amount)
    started: str = ""
    ended: str = ""
    error: str = ""

    def told(self) -> dict[str, Any]:
        """As `GET /api/v1/models/download/status` answers."""
        amount = self.amount
        status: dict[str, Any] = {
            "job_id": self.id,
            "status": self.state,
            "total_size_bytes": amount.total,
            "downloaded_bytes": amount.done,
            "started_at": self.started,
        }
        if self.state == "downloading":
            status["bytes_per_second"] = round(amount.speed, 1)
            left = (amount.total - amount.done) / max(amount.speed, 1.0)
            status["estimated_completion"] = _now(left)
        elif self.state == "completed":
            status["completed_at"] = self.ended
        else:
            status["error"] = {"message": self.error}
        return status


class Downloads:
    """Those of one server."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, DownloadJob] = OrderedDict()

    def begin(self, services: ServicesInterface, caller: Caller, ref: str) -> DownloadJob:
        """A job that runs until its model is here.

        Raises:
            TooMany: this key has `_EACH` under way.
        """
        running = [job for job in self._jobs.values() if job.state == "downloading"]
        mine = [job for job in running if job.owner == caller.key]
        for job in mine:
            if job.ref == ref:
                return job
        if len(mine) >= _EACH:
            raise TooMany(
                f"{len(mine)} models are on their way already", "wait for one of them", 10
            )
        job = DownloadJob(new_id("job_"), caller.key, ref, started=_now())
        self._jobs[job.id] = job
        while len(self._jobs) > _KEPT:
            self._jobs.popitem(last=False)
        services.background(_run(services, job))
        return job

    def get(self, caller: Caller, id: str) -> DownloadJob:
        """Raises NoJob."""
        job = self._jobs.get(id)
        if job is None or job.owner != caller.key:
            raise NoJob(f"there is no download {id[:80]!r}")
        return job


async def _run(services: ServicesInterface, job: DownloadJob) -> None:
    try:
        async with aclosing(steps(services, job.ref)) as amounts:
            async for amount in amounts:
                job.amount = amount
        job.state = "completed"
    except OvertError as error:
        job.state, job.error = "failed", str(error)
    finally:
        if job.state == "downloading":  # the server ends, or something broke
            job.state, job.error = "failed", "it was interrupted"
        job.ended = _now()


def _now(later: float = 0.0) -> str:
    """ISO 8601 with milliseconds, `later` seconds from now (a year at most)."""
    moment = datetime.fromtimestamp(time.time() + min(later, 3.15e7), UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_all: "weakref.WeakKeyDictionary[object, Downloads]" = weakref.WeakKeyDictionary()


def of(services: ServicesInterface) -> Downloads:
    """The downloads of a server."""
    return _all.setdefault(services.records, Downloads())
