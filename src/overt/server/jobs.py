"""Long work in threads (pulls, pushes, new models), which any number of callers can watch.

Callers that ask for the same thing share one job. It goes on as long as somebody watches; when the
last one leaves it is told to stop at its next word about progress. Each watcher gets the newest
step of each part, so that a slow client costs no memory and holds nobody up.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from overt.errors import Busy, Stopped
from overt.models.sources.base import FetchProgress, Report

Work = Callable[[Report], object]

_AT_ONCE = 16  # jobs; each has a thread of its own
_EVERY = 0.05  # seconds between two words about the same part


class Jobs:
    """The jobs of one server. Belongs to the event loop it is first used in."""

    def __init__(self) -> None:
        self._jobs: dict[str, _ServerJob] = {}
        self._threads: set[threading.Thread] = set()

    async def watch(self, key: str, work: Work) -> AsyncGenerator[FetchProgress, None]:
        """The steps of the job `key`, which is begun where nobody has; ends when it does.

        Raises:
            Busy: too many jobs are running.
            Whatever `work` raises.
        """
        job = self._jobs.get(key) or self._begin(key, work)
        watcher = job.join()
        try:
            ended = False
            while not ended:
                ended = job.task.done()  # first: what is told while the steps leave comes again
                for step in watcher.take():
                    yield step
                if not ended:
                    await watcher.told.wait()
            job.task.result()
        finally:
            job.leave(watcher)
            if job.stopped and self._jobs.get(key) is job:
                del self._jobs[key]  # whoever asks now begins anew

    async def close(self) -> None:
        """Stop every job; a thread that hears nothing from its network is left to itself."""
        jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.stopped = True
            job.task.cancel()
        await asyncio.gather(*(job.task for job in jobs), return_exceptions=True)

    def _begin(self, key: str, work: Work) -> "_ServerJob":
        self._threads = {thread for thread in self._threads if thread.is_alive()}
        if len(self._threads) >= _AT_ONCE:
            raise Busy(f"{_AT_ONCE} models are on their way already", "wait for one of them", 10)
        job = self._jobs[key] = _ServerJob(work)
        self._threads.add(job.thread)
        job.task.add_done_callback(lambda _: self._ended(key, job))
        return job

    def _ended(self, key: str, job: "_ServerJob") -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]
        if not job.task.cancelled():
            job.task.exception()  # looked at: nobody may be watching any more
        for watcher in job.watchers:
            watcher.told.set()


class _Watcher:
    def __init__(self, steps: dict[str, FetchProgress]) -> None:
        self._waiting = dict(steps)
        self.told = asyncio.Event()

    def tell(self, step: FetchProgress) -> None:
        self._waiting[step.what] = step
        self.told.set()

    def take(self) -> list[FetchProgress]:
        steps = list(self._waiting.values())
        self._waiting.clear()
        self.told.clear()
        return steps


class _ServerJob:
    def __init__(self, work: Work) -> None:
        self.watchers: set[_Watcher] = set()
        self.stopped = False
        self._latest: dict[str, FetchProgress] = {}
        self._said: dict[str, float] = {}  # only in the job's own threads
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[BaseException | None] = self._loop.create_future()
        # Not a pool's: those are waited for at the end, also one that hears nothing from its
        # server, and the end of ours should be prompt.
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.task = self._loop.create_task(self._outcome())
        self.thread.start()

    def _run(self, work: Work) -> None:
        failed: BaseException | None = None
        try:
            work(self._report)
        except BaseException as error:  # noqa: BLE001 -- raised again for who watches
            failed = error
        with suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(self._settle, failed)

    def _settle(self, failed: BaseException | None) -> None:
        if not self._ended.done():
            self._ended.set_result(failed)

    async def _outcome(self) -> None:
        failed = await self._ended
        if failed is not None:
            raise failed

    def join(self) -> _Watcher:
        watcher = _Watcher(self._latest)
        self.watchers.add(watcher)
        return watcher

    def leave(self, watcher: _Watcher) -> None:
        self.watchers.discard(watcher)
        self.stopped = self.stopped or (not self.watchers and not self.task.done())

    def _report(self, step: FetchProgress) -> None:
        """Called in the job's threads. Raises Stopped once nobody watches."""
        if self.stopped:
            raise Stopped("whoever asked for it has left", "ask again: it goes on where it was")
        now = time.monotonic()
        ends = step.total is None or step.done >= step.total
        if not ends and now - self._said.get(step.what, 0) < _EVERY:
            return
        self._said[step.what] = now
        try:
            self._loop.call_soon_threadsafe(self._tell, step)
        except RuntimeError:  # the server has ended
            raise Stopped("the server has ended") from None

    def _tell(self, step: FetchProgress) -> None:
        self._latest[step.what] = step
        for watcher in self.watchers:
            watcher.tell(step)
