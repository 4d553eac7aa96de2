"""Who is answered when, and which models are in memory: seats, queues, a budget, eviction.

Knows nothing of engines: a *resident* is whatever `LoadPlan.load` returns and has a `close`. Each
is known by a key, takes so many bytes, and has so many seats. A caller takes a seat, waits for one
where none is free, and leaves it at the end; the first to come for an absent resident has it loaded
for all. The rules:

- within one caller first come, first served; between callers the one with fewest seats is next,
  and of those the one whose last turn is longest ago;
- to make room the idle resident that was used longest ago goes first; a busy one is never cut off,
  but where only busy ones are left they take in nobody who came later than whoever waits for room;
- who has to wait for room waits in line: a later one does not slip in before, however small.

Belongs to one event loop. Nothing here polls: every change ends in `_settle`.
"""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic

from overt.errors import Busy, OutOfMemory, TooMany
from overt.runtime.slots import E, LoadedModel, LoadPlan, LoadPlanner, ModelSlot, Waiter

__all__ = [
    "KEEP_ALIVE",
    "QUEUE",
    "Lease",
    "LoadPlan",
    "LoadPlanner",
    "LoadedModel",
    "Scheduler",
    "SchedulerStats",
]

KEEP_ALIVE = 300.0
"""Seconds an idle resident stays, where nobody said otherwise; as Ollama does."""
QUEUE = 512
_RETRY = (1.0, 60.0)  # seconds: least and most that a caller is told to wait


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """What has happened so far, and what is: by key where it says so.

    Attributes:
        waiting, busy: callers in the queue and with a seat, by key.
        memory: bytes of all residents, as planned.
        evictions: residents that went for want of room, not for want of use.
        refused: callers that found the queue full.
    """

    waiting: dict[Hashable, int]
    busy: dict[Hashable, int]
    memory: int
    loads: int
    evictions: int
    refused: int


class Lease(Generic[E]):
    """A place with a resident, `it`: ``with await scheduler.take(…) as it``, or leave it once."""

    __slots__ = ("_begun", "_caller", "_guest", "_room", "_scheduler", "it")

    def __init__(
        self, scheduler: "Scheduler[E]", room: ModelSlot[E], caller: str, *, guest: bool
    ) -> None:
        assert room.it is not None
        self.it: E = room.it
        self._scheduler, self._room, self._caller = scheduler, room, caller
        self._guest, self._begun = guest, time.monotonic()

    def leave(self) -> None:
        room = self._room
        if self._guest:
            room.guests -= 1
        else:
            room.rise(self._caller, time.monotonic() - self._begun)
        self._scheduler.left(room)

    def __enter__(self) -> E:
        return self.it

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()


class Scheduler(Generic[E]):
    """Seats for many callers with several residents.

    Args:
        budget: bytes that all residents together may take, asked before each load.
        keep_alive: seconds an idle one stays by default; 0 lets it go at once, inf never.
        queue: most callers that wait at once, for all residents together.
        most: most residents at once; 0 is as many as fit.
    """

    def __init__(
        self,
        budget: Callable[[], int],
        *,
        keep_alive: float = KEEP_ALIVE,
        queue: int = QUEUE,
        most: int = 0,
    ) -> None:
        self._budget, self._keep_alive, self._queue, self._most = budget, keep_alive, queue, most
        self._rooms: dict[Hashable, ModelSlot[E]] = {}
        self._tasks: dict[asyncio.Task[None], ModelSlot[E]] = {}
        self._line = False  # whether somebody waits for room
        self._changes = 0  # of what is resident
        self._number = 0
        self._waiting = 0
        self._closed = False
        self._loads = self._evictions = self._refused = 0

    # ---- what callers do -------------------------------------------------------------------

    async def take(
        self,
        key: Hashable,
        planner: LoadPlanner[E],
        *,
        caller: str = "",
        keep_alive: float | None = None,
        size: int = 0,
        guest: bool = False,
    ) -> Lease[E]:
        """Wait for a seat with the resident `key`, loading it if need be.

        Args:
            key: names the resident.
            planner: says how to load it; asked only where it is not there, or is too small.
            caller: whose turn this is; "" is not told apart from others and has no share.
            keep_alive: how long it stays idle from now on; None leaves what is in force.
            size: least size; a smaller resident is loaded again once it is idle.
            guest: asks for little, so takes none of the seats (but keeps it from being let go).

        Raises:
            Busy: the queue is full, or the scheduler is closed.
            TooMany: `caller` has more than its share of the queue.
            OutOfMemory: it can never fit; and whatever else `planner` or its load raises.
        """
        if self._closed:
            raise _ending()
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = ModelSlot(key, planner, self._keep_alive)
        if keep_alive is not None:
            room.keep_alive = keep_alive
        plan = room.plan
        if plan is not None and size > plan.size:
            # Before anybody is kept waiting for a larger one: could there ever be one?
            larger = planner(self._budget(), size)
            _check(larger, self._budget())
            size = min(size, larger.size)
        if (
            plan is not None
            and size <= plan.size
            and room.ready
            and room.barrier == math.inf
            and (guest or room.busy < plan.seats)
        ):
            return self._let_in(room, caller, guest=guest)
        room.planner = planner
        await self._wait(room, caller, size)
        if guest:  # it stood in line like the others, and does not keep the seat
            seat = self._let_in(room, caller, guest=True)
            room.rise(caller, None)
            self.left(room)
            return seat
        return Lease(self, room, caller, guest=False)

    async def load(
        self,
        key: Hashable,
        planner: LoadPlanner[E],
        *,
        caller: str = "",
        keep_alive: float | None = None,
        size: int = 0,
    ) -> LoadedModel[E]:
        """Have a resident there. Raises as `take` does."""
        with await self.take(
            key, planner, caller=caller, keep_alive=keep_alive, size=size, guest=True
        ):
            return self._seen(self._rooms[key])

    async def unload(self, key: Hashable) -> bool:
        """Let a resident go, at once or when its last caller leaves; False where there is none.

        Returns when it has gone; at once where it is busy.
        """
        room = self._rooms.get(key)
        if room is None or room.plan is None:
            return False
        room.parting = True
        self._settle()
        closing = [task for task, of in self._tasks.items() if of is room and room.closing]
        if closing:
            await asyncio.wait(closing)
        return True

    async def close(self) -> None:
        """Refuse who comes and who waits, end loads under way, then close every resident."""
        self._closed = True
        rooms = list(self._rooms.values())
        for task in [task for task, room in self._tasks.items() if room.it is None]:
            task.cancel()
        for room in rooms:
            self._fail(room, _ending())
            room.stop_clock()
            if room.ready:
                self._close(room)
        while self._tasks:
            await asyncio.wait(list(self._tasks))
            await asyncio.sleep(0)  # their callbacks take them off the list
        self._rooms.clear()

    # ---- what there is ---------------------------------------------------------------------

    def loaded(self) -> list[LoadedModel[E]]:
        """The residents that are there, the one used last first."""
        views = [self._seen(room) for room in self._rooms.values() if room.it is not None]
        return sorted(views, key=lambda view: -view.used)

    def holds(self, key: Hashable) -> bool:
        """Whether it is there, or being loaded."""
        room = self._rooms.get(key)
        return room is not None and room.plan is not None and not room.closing

    def stats(self) -> SchedulerStats:
        rooms = self._rooms.values()
        return SchedulerStats(
            waiting={room.key: room.waiting for room in rooms},
            busy={room.key: room.busy + room.guests for room in rooms},
            memory=self._committed(),
            loads=self._loads,
            evictions=self._evictions,
            refused=self._refused,
        )

    # ---- waiting, and being let in ---------------------------------------------------------

    async def _wait(self, room: ModelSlot[E], caller: str, size: int) -> None:
        """Stand in the queue until a seat has been given to `caller`."""
        self._check_queue(room, caller)
        self._number += 1
        seat = asyncio.get_running_loop().create_future()
        waiter = Waiter(self._number, caller, size, seat)
        room.enter(waiter)
        self._waiting += 1
        self._settle()
        try:
            await seat
        except asyncio.CancelledError:
            if seat.done() and not seat.cancelled() and not seat.exception():
                room.rise(caller, None)  # it was let in just now, and cannot come
                self.left(room)
            elif room.drop(waiter):
                self._waiting -= 1
                self._settle()
            raise

    def _check_queue(self, room: ModelSlot[E], caller: str) -> None:
        """Raises Busy or TooMany."""
        if self._waiting >= self._queue:
            self._refused += 1
            raise Busy(
                f"{self._waiting} requests are waiting, and no more can",
                "try again later",
                self._patience(room),
            )
        if not caller:
            return
        rooms = self._rooms.values()
        mine = sum(len(room.queues[caller]) for room in rooms if caller in room.queues)
        others = {name for room in rooms for name in room.queues} - {caller}
        if mine >= max(1, self._queue // (len(others) + 2)):  # always room for one more like it
            self._refused += 1
            raise TooMany(
                f"{mine} requests of this key are waiting, which is its share of the queue",
                "ask for less at once, or try again later",
                self._patience(room),
            )

    def _patience(self, room: ModelSlot[E]) -> float:
        """Whole seconds until the queue has moved on, judged by what requests took so far."""
        seats = room.plan.seats if room.plan else 1
        low, high = _RETRY
        return float(math.ceil(min(high, max(low, room.mean * (room.waiting + 1) / seats))))

    def _let_in(self, room: ModelSlot[E], caller: str, *, guest: bool) -> Lease[E]:
        if guest:
            room.guests += 1
            room.stop_clock()
        else:
            room.sit(caller)
        return Lease(self, room, caller, guest=guest)

    def left(self, room: ModelSlot[E]) -> None:
        """A seat of `room` was given back."""
        room.used = time.time()
        if room.waiting or self._line:
            self._settle()
        elif room.idle:
            self._rest(room)

    def _fail(self, room: ModelSlot[E], error: Exception, least: int = 0) -> None:
        """Tell everybody who waits for `room` of that size or more."""
        for waiter in [waiter for waiter in room.waiters() if waiter.size >= least]:
            room.drop(waiter)
            self._waiting -= 1
            if not waiter.seat.done():
                waiter.seat.set_exception(_copy_of_error(error))

    # ---- settling: who goes, who comes, who is let in --------------------------------------

    def _settle(self) -> None:
        """Bring everything in line with the rules after a change. Never waits."""
        if self._closed:
            return
        absent = []
        for room in self._rooms.values():
            room.barred, room.barrier = room.barrier != math.inf, math.inf
            if room.waiting and room.plan is None:
                absent.append(room)
            elif room.waiting and room.plan is not None:
                most = room.plan.size
                larger = (waiter.number for waiter in room.waiters() if waiter.size > most)
                room.barrier = min(larger, default=math.inf)
        absent.sort(key=ModelSlot.first)
        self._line = not all(self._begin(room) for room in absent)
        for room in list(self._rooms.values()):
            if room.ready:
                self._grant(room)
                if room.idle:
                    self._rest(room)
            elif room.plan is None and not room.waiting:
                del self._rooms[room.key]

    def _grant(self, room: ModelSlot[E]) -> None:
        """Let in whoever may, as long as there are seats."""
        assert room.plan is not None
        while room.busy < room.plan.seats and (waiter := room.next()):
            room.drop(waiter)
            self._waiting -= 1
            if waiter.seat.done():  # it gave up, and has not had its turn to say so
                continue
            self._number += 1
            room.sit(waiter.caller, self._number)
            waiter.seat.set_result(None)

    def _rest(self, room: ModelSlot[E]) -> None:
        """What becomes of a resident that nobody uses now: it goes, or its clock starts."""
        if room.barrier != math.inf:
            self._evictions += self._line
            self._close(room)
        elif room.parting or room.keep_alive <= 0:
            self._close(room)
        elif room.keep_alive != math.inf and not room.timer:
            loop = asyncio.get_running_loop()
            room.timer = loop.call_later(room.keep_alive, self._close, room)

    def _begin(self, room: ModelSlot[E]) -> bool:
        """Start loading; False where room has to be made first. Who cannot have it is told."""
        while room.waiting:
            size = max(waiter.size for waiter in room.waiters())
            # Plans are dear, and nothing has changed for them until a resident came or went.
            if room.draft is None or room.draft[:2] != (self._changes, size):
                budget = self._budget()
                try:
                    plan = room.planner(budget, size)
                    _check(plan, budget)
                except Exception as error:  # noqa: BLE001 - theirs who wait
                    self._fail(room, error, least=size)
                    continue
                room.draft = self._changes, size, budget, plan
            _, _, budget, plan = room.draft
            if not self._make_room(room, plan.memory, budget):
                return False
            for waiter in room.waiters():
                waiter.size = min(waiter.size, plan.size)
            room.plan, room.draft, room.parting = plan, None, False
            self._changes += 1
            self._loads += 1
            self._run(room, self._load(room, plan))
            break
        return True

    def _make_room(self, coming: ModelSlot[E], memory: int, budget: int) -> bool:
        """Whether `memory` bytes are free now; what is in the way is let go, or shut to others."""
        there = [room for room in self._rooms.values() if room.plan is not None]
        over = self._committed() + memory - budget
        too_many = len(there) + 1 - self._most if self._most else 0
        if over <= 0 and too_many <= 0:
            return True
        going = [room for room in there if room.closing]
        ready = [room for room in there if room.ready]
        going += sorted(ready, key=lambda room: (not room.idle, not room.barred, room.used))
        for room in going:
            if over <= 0 and too_many <= 0:
                break
            assert room.plan is not None
            over -= room.plan.memory
            too_many -= 1
            if not room.closing:  # one that is idle goes as soon as all is settled
                room.barrier = min(room.barrier, coming.first())
        return False

    def _committed(self) -> int:
        return sum(room.plan.memory for room in self._rooms.values() if room.plan is not None)

    # ---- loading and letting go ------------------------------------------------------------

    def _run(self, room: ModelSlot[E], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = room
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()):
            context = {"message": "a resident could not be closed", "exception": error}
            task.get_loop().call_exception_handler(context)

    async def _load(self, room: ModelSlot[E], plan: LoadPlan[E]) -> None:
        try:
            it = await plan.load()
        except asyncio.CancelledError:
            room.plan = None
            self._fail(room, Busy("loading was broken off", "ask again", 1))
            raise
        except Exception as error:  # noqa: BLE001 - theirs who wait
            room.plan = None
            self._changes += 1
            self._fail(room, error)
            self._settle()
            return
        room.it, room.used = it, time.time()
        self._changes += 1
        if self._closed:  # it was too late to be cancelled
            await self._shut(room)
        self._settle()

    def _close(self, room: ModelSlot[E]) -> None:
        room.stop_clock()
        room.closing = True
        self._run(room, self._shut(room))

    async def _shut(self, room: ModelSlot[E]) -> None:
        assert room.it is not None
        try:
            await room.it.close()
        finally:
            room.it = room.plan = None
            self._changes += 1
            room.closing = room.parting = False
            self._settle()

    def _seen(self, room: ModelSlot[E]) -> LoadedModel[E]:
        assert room.it is not None
        assert room.plan is not None
        left = room.keep_alive
        if room.timer:
            left = room.timer.when() - asyncio.get_running_loop().time()
        return LoadedModel(
            room.key,
            room.it,
            room.plan.memory,
            room.plan.seats,
            room.plan.size,
            room.busy + room.guests,
            room.waiting,
            room.used,
            time.time() + left,
        )


def _ending() -> Busy:
    return Busy("this server is ending", "try again in a minute", 30)


def _check(plan: LoadPlan[E], budget: int) -> None:
    """Raises OutOfMemory; a planner that knows more has said so before, and better."""
    if plan.memory > budget:
        raise OutOfMemory(
            f"{plan.memory >> 20} MiB of memory are needed and {budget >> 20} MiB are there"
        )


def _copy_of_error(error: Exception) -> Exception:
    """A copy: an exception raised in several tasks would collect all their tracebacks."""
    copy = type(error).__new__(type(error), *error.args)
    copy.args = error.args
    copy.__dict__.update(error.__dict__)
    return copy
