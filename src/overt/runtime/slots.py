"""The place of one resident of the scheduler: who waits for it, who has a seat, who is next."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

_NEWEST = 0.2  # weight of the newest request in the running mean of their duration


class Closable(Protocol):
    async def close(self) -> None: ...


E = TypeVar("E", bound=Closable)


@dataclass(frozen=True, slots=True)
class LoadPlan(Generic[E]):
    """How a resident would be loaded: bytes it takes, its seats, and its size (of the context)."""

    memory: int
    seats: int
    size: int
    load: Callable[[], Awaitable[E]]


class LoadPlanner(Protocol[E]):
    """Makes a `LoadPlan`.

    Given the bytes that are there for all residents together, and the least size that is asked for
    (0 leaves it open); what it gives may be smaller where there is no larger one. Raises
    OutOfMemory, with numbers, where it could never fit.
    """

    def __call__(self, budget: int, size: int) -> LoadPlan[E]: ...


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[E]):
    """One resident as others see it; `used` and `expires` are Unix seconds, inf for never."""

    key: Hashable
    it: E
    memory: int
    seats: int
    size: int
    busy: int
    waiting: int
    used: float
    expires: float


@dataclass(slots=True)
class Waiter:
    """Somebody in the queue. `number` grows with time; `seat` is done when it is let in."""

    number: int
    caller: str
    size: int
    seat: "asyncio.Future[None]"


@dataclass(slots=True)
class ModelSlot(Generic[E]):
    """One resident's place, whether or not it is there.

    Attributes:
        plan: set from the moment it is being loaded until it has gone.
        draft: what was planned last, while there is no room for it yet; the scheduler's.
        it: the resident, once it is there.
        parting: it is to go as soon as nobody needs it.
        barrier: waiters from this number on wait until it has been emptied.
        barred: there was a barrier before, so that the choice of who has to go stays as it is.
        guests: callers that take no seat.
        used: Unix seconds when somebody last left.
        mean: seconds a request takes, a running mean.
    """

    key: Hashable
    planner: LoadPlanner[E]
    keep_alive: float
    plan: LoadPlan[E] | None = None
    draft: tuple[int, int, int, LoadPlan[E]] | None = None
    it: E | None = None
    closing: bool = False
    parting: bool = False
    barrier: float = math.inf
    barred: bool = False
    busy: int = 0
    guests: int = 0
    waiting: int = 0
    timer: asyncio.TimerHandle | None = None
    used: float = 0.0
    mean: float = 1.0
    queues: dict[str, deque[Waiter]] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)  # caller -> seats
    _turns: dict[str, int] = field(default_factory=dict)  # caller -> when it was last let in

    @property
    def ready(self) -> bool:
        return self.it is not None and not self.closing

    @property
    def idle(self) -> bool:
        return self.it is not None and not (self.closing or self.busy or self.guests)

    # ---- the queue -------------------------------------------------------------------------

    def waiters(self) -> Iterator[Waiter]:
        for queue in self.queues.values():
            yield from queue

    def first(self) -> float:
        """The number of whoever has waited longest."""
        return min((queue[0].number for queue in self.queues.values()), default=math.inf)

    def enter(self, waiter: Waiter) -> None:
        self.queues.setdefault(waiter.caller, deque()).append(waiter)
        self.waiting += 1

    def drop(self, waiter: Waiter) -> bool:
        """Take somebody out of the queue; False where it is not in it."""
        queue = self.queues.get(waiter.caller)
        if queue is None or waiter not in queue:
            return False
        queue.remove(waiter)
        self.waiting -= 1
        if not queue:
            del self.queues[waiter.caller]
            self._forget(waiter.caller)
        return True

    def next(self) -> Waiter | None:
        """Who is let in next: of the caller with fewest seats, then of the one served longest ago.

        None where all wait for the room to be emptied.
        """
        heads = [queue[0] for queue in self.queues.values() if queue[0].number < self.barrier]
        return min(heads, key=self._claim, default=None)

    def _claim(self, head: Waiter) -> tuple[int, int, int]:
        return self._taken.get(head.caller, 0), self._turns.get(head.caller, 0), head.number

    # ---- seats -----------------------------------------------------------------------------

    def sit(self, caller: str, turn: int = 0) -> None:
        self.busy += 1
        self._taken[caller] = self._taken.get(caller, 0) + 1
        if turn:
            self._turns[caller] = turn
        self.stop_clock()

    def rise(self, caller: str, seconds: float | None) -> None:
        """Give a seat back after so many seconds; None does not count."""
        self.busy -= 1
        self._taken[caller] -= 1
        if not self._taken[caller]:
            del self._taken[caller]
            self._forget(caller)
        if seconds is not None:
            self.mean += _NEWEST * (seconds - self.mean)

    def stop_clock(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None

    def _forget(self, caller: str) -> None:
        """Turns of callers that have gone are not kept."""
        if caller not in self._taken and caller not in self.queues:
            self._turns.pop(caller, None)
