"""The scheduler with residents made of nothing: turns, queues, memory, clocks, cancellation.

Loads and closings end when the test says so; time passes only where a test is about a clock.
"""

import asyncio
import math
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from conftest import repeats
from overt.errors import Busy, EngineFailed, OutOfMemory, TooMany
from overt.runtime.scheduler import Lease, LoadPlan, Scheduler

pytestmark = pytest.mark.anyio


@dataclass
class Fake:
    """A resident; counts who is with it, and says when it is closed with somebody there."""

    name: str
    size: int = 0
    closed: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    may_close: asyncio.Event | None = None

    async def close(self) -> None:
        self.closing.set()
        if self.may_close:
            await self.may_close.wait()
        self.closed = True


class House:
    """Makes planners, and remembers every load."""

    def __init__(self, budget: int = 100, **options: Any) -> None:
        self.budget = budget
        self.loads: list[Fake] = []
        self.gates: dict[str, asyncio.Event] = {}  # loads and closings of these wait
        self.failures: dict[str, Exception] = {}
        self.scheduler: Scheduler[Fake] = Scheduler(lambda: self.budget, **options)

    def planner(self, name: str, memory: int = 10, seats: int = 1, size: int = 100) -> Any:
        def plan(budget: int, least: int) -> LoadPlan[Fake]:
            tokens = max(size, least)
            needed = memory * tokens // size
            if needed > budget:
                raise OutOfMemory(f"{name} needs {needed} and {budget} is free")

            async def load() -> Fake:
                fake = Fake(name, tokens)
                if gate := self.gates.get(name):
                    await gate.wait()
                if failure := self.failures.get(name):
                    raise failure
                self.loads.append(fake)
                return fake

            return LoadPlan(needed, seats, tokens, load)

        return plan

    def take(self, name: str, who: str = "", **rest: Any) -> Coroutine[Any, Any, Lease[Fake]]:
        shape = {key: rest.pop(key) for key in ("memory", "seats") if key in rest}
        return self.scheduler.take(name, self.planner(name, **shape), caller=who, **rest)

    @property
    def there(self) -> list[str]:
        return [str(one.key) for one in self.scheduler.loaded()]


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def waiting(work: Coroutine[Any, Any, Lease[Fake]]) -> "asyncio.Task[Lease[Fake]]":
    task = asyncio.create_task(work)
    await turns()
    return task


def _clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the scheduler sees it; the loop keeps its own."""
    clock = [0.0]
    both = SimpleNamespace(time=lambda: clock[0], monotonic=lambda: clock[0])
    monkeypatch.setattr("overt.runtime.scheduler.time", both)
    return clock


# ---- seats and turns -----------------------------------------------------------------------


async def test_callers_at_once_share_one_load():
    house = House()
    house.gates["a"] = asyncio.Event()
    tasks = [await waiting(house.take("a", seats=3)) for _ in range(3)]
    assert not any(task.done() for task in tasks)
    assert house.scheduler.holds("a")
    house.gates["a"].set()
    seats = await asyncio.gather(*tasks)
    assert len({id(seat.it) for seat in seats}) == len(house.loads) == 1
    assert house.scheduler.stats().busy == {"a": 3}
    for seat in seats:
        seat.leave()
    assert house.scheduler.stats().busy == {"a": 0}
    await house.scheduler.close()


async def test_a_seat_is_left_at_the_end_of_with_whatever_happens():
    house = House()
    with suppress(RuntimeError), await house.take("a") as it:
        assert it.name == "a"
        raise RuntimeError
    assert house.scheduler.stats().busy == {"a": 0}
    await house.scheduler.close()


async def _order(house: House, arrivals: list[str], seats: int = 1) -> list[str]:
    """Who was let in, when everybody leaves one after the other in the order they came in."""
    first = [await house.take("a", "zero", seats=seats) for _ in range(seats)]
    order: list[str] = []
    inside: list[Lease[Fake]] = []

    async def come(name: str) -> None:
        seat = await house.take("a", name.rstrip("0123456789"), seats=seats)
        order.append(name)
        inside.append(seat)

    tasks = [asyncio.create_task(come(name)) for name in arrivals]
    await turns()
    assert order == []
    leaving = list(first)
    while len(order) < len(arrivals):
        leaving.pop(0).leave()
        await turns()
        leaving += inside[len(order) - 1 :] if inside and inside[-1] not in leaving else []
    await asyncio.gather(*tasks)
    for seat in leaving:
        seat.leave()
    await house.scheduler.close()
    return order


async def test_one_caller_is_served_in_the_order_it_came():
    assert await _order(House(), ["a1", "a2", "a3"]) == ["a1", "a2", "a3"]


async def test_callers_take_turns_whatever_they_ask_for():
    arrivals = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    assert await _order(House(), arrivals) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_a_newcomer_does_not_wait_for_the_queue_of_another():
    house = House(queue=1000)
    arrivals = [*(f"a{n}" for n in range(50)), "b0"]
    order = await _order(house, arrivals)
    assert order.index("b0") == 1


async def test_who_has_fewest_seats_is_next():
    house = House()
    mine = [await house.take("a", "many", seats=5) for _ in range(5)]
    more = await waiting(house.take("a", "many", seats=5))
    few = [await waiting(house.take("a", "few", seats=5)) for _ in range(3)]
    done = []
    for seat in mine[:3]:
        seat.leave()
        await turns()
        done.append((more.done(), sum(task.done() for task in few)))
    # Of `many` there are 4, 3 and 2 left, of `few` 0, 1 and 2: even, and its turn is more recent.
    assert done == [(False, 1), (False, 2), (True, 2)]
    mine[3].leave()
    await turns()
    assert all(task.done() for task in few)
    for seat in (mine[4], more.result(), *(task.result() for task in few)):
        seat.leave()
    await house.scheduler.close()


async def test_guests_take_no_seat_and_keep_the_resident():
    house = House(budget=10)
    seat = await house.take("a")
    guest = await house.take("a", guest=True)
    other = await waiting(house.take("b"))
    seat.leave()
    await turns()
    assert not other.done()
    assert house.there == ["a"]
    guest.leave()
    (await other).leave()
    assert house.there == ["b"]
    await house.scheduler.close()


async def test_a_guest_that_has_to_have_it_loaded_leaves_its_seat_to_others():
    house = House()
    guest = await house.take("a", guest=True)
    seat = await house.take("a")
    assert house.scheduler.stats().busy == {"a": 2}
    seat.leave()
    guest.leave()
    assert house.scheduler.stats().busy == {"a": 0}
    await house.scheduler.close()


# ---- the queue -----------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_when_to_come_back():
    house = House(queue=2)
    seat = await house.take("a")
    tasks = [await waiting(house.take("a")) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests are waiting") as caught:
        await house.take("a")
    assert not isinstance(caught.value, TooMany)
    assert caught.value.retry_after == 3  # two before it and itself, a second each until known
    assert house.scheduler.stats().refused == 1
    seat.leave()
    (await tasks[0]).leave()
    (await tasks[1]).leave()
    (await house.take("a")).leave()
    await house.scheduler.close()


async def test_retry_after_follows_what_requests_take(monkeypatch: pytest.MonkeyPatch):
    clock = _clock(monkeypatch)
    house = House(queue=1)
    for _ in range(50):
        seat = await house.take("a", seats=2)
        clock[0] += 8
        seat.leave()
    seats = [await house.take("a", seats=2) for _ in range(2)]
    task = await waiting(house.take("a", seats=2))
    with pytest.raises(Busy) as caught:
        await house.take("a", seats=2)
    assert caught.value.retry_after == 8  # two of 8 s each, on two seats
    for _ in range(100):
        clock[0] += 1000
        seats[0].leave()
        seats[0] = await task
        task = await waiting(house.take("a", seats=2))
    with pytest.raises(Busy) as caught:
        await house.take("a", seats=2)
    assert caught.value.retry_after == 60
    task.cancel()
    for seat in seats:
        seat.leave()
    await house.scheduler.close()


async def test_one_key_cannot_fill_the_queue():
    house = House(queue=6)
    seat = await house.take("a", "x")
    tasks = [await waiting(house.take("a", "greedy")) for _ in range(3)]
    with pytest.raises(TooMany, match="3 requests of this key") as caught:
        await house.take("a", "greedy")
    assert caught.value.status == 429
    assert caught.value.retry_after is not None
    tasks += [await waiting(house.take("a", "modest")) for _ in range(2)]
    with pytest.raises(TooMany):
        await house.take("a", "modest")
    tasks += [await waiting(house.take("a", "third"))]
    with pytest.raises(Busy, match="6 requests are waiting"):
        await house.take("a", "fourth")
    seat.leave()
    for task in asyncio.as_completed(tasks):
        (await task).leave()
    await house.scheduler.close()


async def test_without_keys_the_whole_queue_is_for_all():
    house = House(queue=6)
    seat = await house.take("a")
    tasks = [await waiting(house.take("a")) for _ in range(6)]
    with pytest.raises(Busy):
        await house.take("a")
    seat.leave()
    for task in tasks:
        (await task).leave()
    await house.scheduler.close()


# ---- loading -------------------------------------------------------------------------------


async def test_a_failed_load_is_told_to_all_who_wait_and_tried_again():
    house = House()
    house.gates["a"] = asyncio.Event()
    house.failures["a"] = EngineFailed("no such luck", "try again")
    tasks = [await waiting(house.take("a")) for _ in range(2)]
    house.gates["a"].set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["no such luck; try again"] * 2
    assert errors[0] is not errors[1]
    assert house.there == []
    del house.failures["a"]
    (await house.take("a")).leave()
    assert house.there == ["a"]
    await house.scheduler.close()


async def test_an_error_with_fields_of_its_own_keeps_them():
    house = House()
    house.failures["a"] = Busy("later", retry_after=7)
    with pytest.raises(Busy) as caught:
        await house.take("a")
    assert (caught.value.message, caught.value.retry_after) == ("later", 7)
    await house.scheduler.close()


async def test_what_never_fits_is_refused_with_the_planners_numbers():
    house = House(budget=100)
    seat = await house.take("a", memory=50)
    with pytest.raises(OutOfMemory, match="b needs 101 and 100 is free"):
        await house.take("b", memory=101)
    assert house.there == ["a"]
    seat.leave()
    await house.scheduler.close()


async def test_a_planner_that_promises_too_much_is_not_believed():
    house = House(budget=1 << 20)

    async def load() -> Fake:
        return Fake("a")

    with pytest.raises(OutOfMemory, match="2 MiB of memory are needed and 1 MiB"):
        await house.scheduler.take("a", lambda budget, size: LoadPlan(2 << 20, 1, 1, load))
    await house.scheduler.close()


async def test_two_models_load_at_the_same_time_where_both_fit():
    house = House()
    house.gates |= {"a": asyncio.Event(), "b": asyncio.Event()}
    tasks = [await waiting(house.take(name, memory=50)) for name in "ab"]
    assert house.scheduler.stats().loads == 2
    house.gates["b"].set()
    (await tasks[1]).leave()
    assert not tasks[0].done()
    house.gates["a"].set()
    (await tasks[0]).leave()
    await house.scheduler.close()


# ---- making room ---------------------------------------------------------------------------


async def test_the_one_used_longest_ago_goes(monkeypatch: pytest.MonkeyPatch):
    clock = _clock(monkeypatch)
    house = House(budget=30)
    for name in "abcab":
        clock[0] += 1
        (await house.take(name)).leave()
    assert sorted(house.there) == ["a", "b", "c"]
    for coming, going in (("d", "c"), ("e", "a"), ("f", "b")):
        clock[0] += 1
        (await house.take(coming)).leave()
        assert going not in house.there
        assert len(house.there) == 3
    assert house.scheduler.stats().evictions == 3
    await house.scheduler.close()


async def test_no_more_go_than_have_to():
    house = House(budget=30)
    for name in "abc":
        (await house.take(name)).leave()
    (await house.take("d", memory=20)).leave()
    assert sorted(house.there) == ["c", "d"]
    await house.scheduler.close()


async def test_memory_is_free_only_once_the_closing_has_ended():
    house = House(budget=10)
    (await house.take("a")).leave()
    house.loads[0].may_close = asyncio.Event()
    task = await waiting(house.take("b"))
    assert house.loads[0].closing.is_set()
    assert house.scheduler.stats().loads == 1
    house.loads[0].may_close.set()
    (await task).leave()
    assert house.there == ["b"]
    await house.scheduler.close()


async def test_a_busy_one_is_never_cut_off_and_the_idle_one_goes_instead():
    house = House(budget=20)
    old = await house.take("a")
    (await house.take("b")).leave()
    (await house.take("c")).leave()
    assert sorted(house.there) == ["a", "c"]
    assert not old.it.closed
    old.leave()
    await house.scheduler.close()


async def test_where_all_are_busy_the_newcomer_waits_and_later_ones_stand_behind_it():
    house = House(budget=10)
    first = await house.take("a", seats=4)
    earlier = await waiting(house.take("b"))
    later = await waiting(house.take("a", seats=4))
    assert not earlier.done()
    assert not later.done(), "a seat is free, and b came first"
    first.leave()
    await turns()
    assert first.it.closed
    assert earlier.done()
    assert not later.done()
    (await earlier).leave()
    (await later).leave()
    assert [one.name for one in house.loads] == ["a", "b", "a"]
    await house.scheduler.close()


async def test_who_waited_before_is_served_before_the_room_is_made():
    house = House(budget=10)
    first = await house.take("a")
    second = await waiting(house.take("a"))
    other = await waiting(house.take("b"))
    first.leave()
    await turns()
    assert (second.done(), other.done()) == (True, False)
    (await second).leave()
    (await other).leave()
    await house.scheduler.close()


async def test_a_room_is_open_again_when_nobody_waits_for_its_memory():
    house = House(budget=10)
    first = await house.take("a", seats=2)
    other = await waiting(house.take("b"))
    later = await waiting(house.take("a", seats=2))
    assert not later.done()
    other.cancel()
    await turns()
    assert later.done()
    first.leave()
    later.result().leave()
    assert house.there == ["a"]
    await house.scheduler.close()


async def test_steady_use_of_two_does_not_keep_a_third_waiting_for_ever():
    house = House(budget=20)
    seats = {name: [await house.take(name, seats=2)] for name in "ab"}
    third = await waiting(house.take("c"))
    rounds = 0
    while not third.done():
        rounds += 1
        assert rounds < 10, "the two take turns in being shut, and neither is ever empty"
        for name in "ab":  # the next request of each comes before its last one has left
            coming = await waiting(house.take(name, seats=2))
            for seat in seats[name]:
                seat.leave()
            seats[name] = []
            await turns()
            if coming.done():
                seats[name] = [coming.result()]
            else:
                coming.cancel()
    third.result().leave()
    for seat in (*seats["a"], *seats["b"]):
        seat.leave()
    await house.scheduler.close()


async def test_who_has_to_go_stays_the_same_while_it_empties(monkeypatch: pytest.MonkeyPatch):
    clock = _clock(monkeypatch)
    house = House(budget=20)
    seats = [await house.take(name, seats=2) for name in "aabb"]
    third = await waiting(house.take("c"))
    again = await waiting(house.take("a", seats=2))
    clock[0] += 1
    seats[0].leave()  # from now on `b` is the one that was used longest ago
    await turns()
    assert not again.done()
    seats[1].leave()
    (await third).leave()
    (await again).leave()
    for seat in seats[2:]:
        seat.leave()
    await house.scheduler.close()


async def test_another_one_that_becomes_idle_goes_at_once_instead():
    house = House(budget=20)
    seats = {name: await house.take(name) for name in "ab"}
    third = await waiting(house.take("c"))
    seats["b"].leave()
    (await third).leave()
    assert house.there == ["c", "a"]
    (await house.take("a", guest=True)).leave()
    seats["a"].leave()
    await house.scheduler.close()


async def test_a_small_one_does_not_slip_in_before_who_waits_for_room():
    house = House(budget=100)
    busy = await house.take("a", memory=60)
    large = await waiting(house.take("large", memory=80))
    small = await waiting(house.take("small", memory=10))
    assert not large.done()
    assert not small.done()
    busy.leave()
    (await large).leave()
    (await small).leave()
    await house.scheduler.close()


async def test_most_residents():
    house = House(most=2)
    for name in "abc":
        (await house.take(name)).leave()
    assert sorted(house.there) == ["b", "c"]
    await house.scheduler.close()


async def test_plans_are_made_again_only_when_something_has_changed():
    house = House(budget=10)
    seats = [await house.take("a", seats=50) for _ in range(50)]
    asked = []
    plan = house.planner("b")

    def counting(budget: int, size: int) -> LoadPlan[Fake]:
        asked.append(size)
        return plan(budget, size)

    other = await waiting(house.scheduler.take("b", counting))
    for seat in seats:
        seat.leave()
    (await other).leave()
    assert len(asked) == 2
    await house.scheduler.close()


# ---- larger ones ---------------------------------------------------------------------------


async def test_a_larger_one_is_loaded_when_it_is_idle_and_smaller_requests_share_it():
    house = House()
    small = await house.take("a", seats=2)
    large = await waiting(house.take("a", seats=2, size=300))
    later = await waiting(house.take("a", seats=2))
    assert not large.done()
    assert not later.done()
    small.leave()
    seat = await large
    assert seat.it.size == 300
    assert (await later).it is seat.it
    assert small.it.closed
    seat.leave()
    later.result().leave()
    assert house.scheduler.stats().evictions == 0
    await house.scheduler.close()


async def test_a_larger_one_that_cannot_be_is_refused_at_once_and_nothing_is_unloaded():
    house = House(budget=100)
    (await house.take("a", memory=10)).leave()
    with pytest.raises(OutOfMemory, match="a needs 110"):
        await house.take("a", memory=10, size=1100)
    assert house.there == ["a"]
    assert not house.loads[0].closed
    await house.scheduler.close()


async def test_only_who_asked_for_too_much_is_refused_while_it_is_not_loaded():
    house = House(budget=100)
    house.gates["x"] = asyncio.Event()
    busy = await house.take("x0", memory=100)
    modest = await waiting(house.take("a"))
    greedy = await waiting(house.take("a", size=5000))
    busy.leave()
    (await modest).leave()
    with pytest.raises(OutOfMemory, match="a needs 500"):
        await greedy
    await house.scheduler.close()


async def test_a_planner_that_has_no_larger_one_gives_what_it_has_once():
    house = House()
    fakes = []

    async def load() -> Fake:
        fakes.append(Fake("a"))
        return fakes[-1]

    for size in (0, 700, 700):
        seat = await house.scheduler.take("a", lambda b, s: LoadPlan(1, 1, 64, load), size=size)
        seat.leave()
    assert len(fakes) == 1
    await house.scheduler.close()


# ---- clocks --------------------------------------------------------------------------------


async def test_it_goes_when_it_has_been_idle_for_so_long():
    house = House(keep_alive=0.01)
    with await house.take("a") as it:
        assert house.scheduler.loaded()[0].expires > 0
    assert not it.closing.is_set()
    await asyncio.wait_for(it.closing.wait(), 10)
    await turns()
    assert house.there == []
    assert house.scheduler.stats().evictions == 0


async def test_a_request_stops_the_clock():
    house = House(keep_alive=0.01)
    with await house.take("a"):
        pass
    with await house.take("a") as it:
        await asyncio.sleep(0.05)
        assert not it.closing.is_set()
    await asyncio.wait_for(it.closing.wait(), 10)


async def test_zero_lets_it_go_at_once_but_not_before_all_have_left():
    house = House()
    first = await house.take("a", seats=2)
    second = await house.take("a", seats=2, keep_alive=0)
    second.leave()
    await turns()
    assert house.there == ["a"]
    first.leave()
    await turns()
    assert house.there == []


async def test_inf_never_lets_it_go_and_the_latest_word_counts():
    house = House(keep_alive=0)
    (await house.take("a", keep_alive=math.inf)).leave()
    await turns()
    assert house.scheduler.loaded()[0].expires == math.inf
    (await house.take("a")).leave()  # says nothing, and changes nothing
    await turns()
    assert house.there == ["a"]
    (await house.take("a", keep_alive=0)).leave()
    await turns()
    assert house.there == []


async def test_load_holds_it_and_counts_from_now():
    house = House()
    held = await house.scheduler.load("a", house.planner("a"), keep_alive=1000)
    assert (held.memory, held.seats, held.size, held.busy) == (10, 1, 100, 1)
    (seen,) = house.scheduler.loaded()
    assert seen.busy == 0
    assert 990 < seen.expires - seen.used < 1010
    held = await house.scheduler.load("a", house.planner("a"), keep_alive=0)
    await turns()
    assert house.there == []


async def test_unload():
    house = House()
    assert await house.scheduler.unload("a") is False
    (await house.take("a")).leave()
    assert await house.scheduler.unload("a") is True
    assert house.there == []
    assert house.loads[0].closed
    seat = await house.take("a")
    later = await waiting(house.take("a"))
    assert await house.scheduler.unload("a") is True
    seat.leave()
    assert (await later).it is seat.it, "who waits is still served"
    assert not seat.it.closing.is_set()
    later.result().leave()
    await turns()
    assert seat.it.closed
    house.gates["a"] = asyncio.Event()
    loading = await waiting(house.take("a"))
    assert await house.scheduler.unload("a") is True
    house.gates["a"].set()
    (await loading).leave()
    await turns()
    assert house.there == []


# ---- giving up -----------------------------------------------------------------------------


async def test_who_gives_up_leaves_the_queue_at_once():
    house = House(queue=1)
    seat = await house.take("a")
    task = await waiting(house.take("a", "x"))
    task.cancel()
    await turns()
    assert house.scheduler.stats().waiting == {"a": 0}
    task = await waiting(house.take("a"))
    seat.leave()
    (await task).leave()
    await house.scheduler.close()


async def test_who_gives_up_at_the_moment_of_being_let_in_leaves_no_seat_taken():
    house = House()
    seat = await house.take("a")
    task = await waiting(house.take("a", "x"))
    seat.leave()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.scheduler.stats().busy == {"a": 0}
    (await house.take("a")).leave()
    await house.scheduler.close()


async def test_a_load_goes_on_for_others_and_for_nobody():
    house = House()
    house.gates["a"] = asyncio.Event()
    first = await waiting(house.take("a"))
    second = await waiting(house.take("a"))
    first.cancel()
    await turns()
    house.gates["a"].set()
    (await second).leave()
    assert len(house.loads) == 1
    house.gates["b"] = asyncio.Event()
    third = await waiting(house.take("b"))
    third.cancel()
    house.gates["b"].set()
    await turns()
    assert sorted(house.there) == ["a", "b"]
    assert house.scheduler.stats().busy == {"a": 0, "b": 0}
    await house.scheduler.close()


async def test_who_gives_up_while_a_load_fails_is_not_told():
    house = House()
    house.gates["a"] = asyncio.Event()
    house.failures["a"] = EngineFailed("no")
    task = await waiting(house.take("a"))
    house.gates["a"].set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await house.scheduler.close()


async def test_close_refuses_those_who_wait_and_those_who_come_and_closes_all():
    house = House()
    seat = await house.take("a")
    queued = await waiting(house.take("a"))
    house.gates["b"] = asyncio.Event()
    loading = await waiting(house.take("b"))
    (await house.take("c")).leave()
    await house.scheduler.close()
    for task in (queued, loading):
        with pytest.raises(Busy, match="this server is ending"):
            await task
    assert [one.closed for one in house.loads] == [True, True]
    with pytest.raises(Busy, match="this server is ending"):
        await house.take("a")
    seat.leave()  # of whoever was cut off
    await house.scheduler.close()


async def test_a_resident_that_loads_too_late_is_closed():
    house = House()

    async def stubborn() -> Fake:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        house.loads.append(Fake("a"))
        return house.loads[0]

    task = await waiting(house.scheduler.take("a", lambda b, s: LoadPlan(1, 1, 1, stubborn)))
    await house.scheduler.close()
    assert house.loads[0].closed
    with pytest.raises(Busy):
        await task


async def test_a_load_that_is_broken_off_is_told():
    house = House()

    async def broken() -> Fake:
        raise asyncio.CancelledError

    with pytest.raises(Busy, match="loading was broken off"):
        await house.scheduler.take("a", lambda b, s: LoadPlan(1, 1, 1, broken))
    (await house.take("a")).leave()
    await house.scheduler.close()


async def test_a_closing_that_fails_is_reported_and_the_room_is_free():
    house = House(budget=10)
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    seat = await house.take("a")

    async def fail() -> None:
        raise RuntimeError("stuck")

    seat.it.close = fail  # type: ignore[method-assign]
    seat.leave()
    (await house.take("b")).leave()
    assert str(told[0]["exception"]) == "stuck"
    asyncio.get_running_loop().set_exception_handler(None)
    await house.scheduler.close()


# ---- anything at all -----------------------------------------------------------------------

NAMES = {"a": (30, 1), "b": (30, 2), "c": (50, 3), "d": (100, 2)}  # memory, seats


class Anything(RuleBasedStateMachine):
    """Any order of coming, leaving, giving up, loading, failing and closing keeps the rules."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.tasks: list[tuple[str, asyncio.Task[Lease[Fake]]]] = []
        self.seats: list[tuple[str, Lease[Fake]]] = []
        self.loading: list[tuple[str, asyncio.Future[bool]]] = []
        self.fakes: list[Fake] = []
        self.ending: asyncio.Event | None = None
        self.run(self._make())

    async def _make(self) -> None:
        self.scheduler: Scheduler[Fake] = Scheduler(lambda: 100, queue=12, keep_alive=math.inf)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def planner(self, name: str) -> Any:
        memory, seats = NAMES[name]

        async def load() -> Fake:
            future = self.loop.create_future()
            self.loading.append((name, future))
            if not await future:
                raise EngineFailed("no")
            fake = Fake(name, may_close=self.ending or asyncio.Event())
            self.fakes.append(fake)
            return fake

        return lambda budget, size: LoadPlan(memory, seats, max(10, min(size, 20)), load)

    async def _settled(self) -> None:
        await turns()
        for name, task in list(self.tasks):
            if task.done():
                self.tasks.remove((name, task))
                with suppress(Busy, EngineFailed, asyncio.CancelledError):
                    self.seats.append((name, task.result()))

    @rule(
        name=st.sampled_from(sorted(NAMES)),
        who=st.sampled_from(["", "x", "y"]),
        size=st.sampled_from([0, 0, 0, 20, 30]),
        keep=st.sampled_from([None, None, 0.0, math.inf]),
        guest=st.booleans(),
    )
    def come(self, name: str, who: str, size: int, keep: float | None, *, guest: bool) -> None:
        async def coming() -> None:
            work = self.scheduler.take(
                name, self.planner(name), caller=who, size=size, keep_alive=keep, guest=guest
            )
            self.tasks.append((name, asyncio.create_task(work)))
            await self._settled()

        self.run(coming())

    @precondition(lambda self: self.seats)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(range(len(self.seats))))

        async def leaving() -> None:
            self.seats.pop(one)[1].leave()
            await self._settled()

        self.run(leaving())

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        task = self.tasks[data.draw(st.sampled_from(range(len(self.tasks))))][1]

        async def cancelling() -> None:
            task.cancel()
            await self._settled()

        self.run(cancelling())

    @precondition(lambda self: self.loading)
    @rule(works=st.sampled_from([True, True, True, False]))
    def loaded(self, *, works: bool) -> None:
        async def ending() -> None:
            self.loading.pop(0)[1].set_result(works)
            await self._settled()

        self.run(ending())

    @rule()
    def closed(self) -> None:
        async def closing() -> None:
            for fake in self.fakes:
                if fake.may_close and fake.closing.is_set():
                    fake.may_close.set()
            await self._settled()

        self.run(closing())

    @rule(name=st.sampled_from(sorted(NAMES)))
    def unload(self, name: str) -> None:
        async def unloading() -> None:
            task = asyncio.create_task(self.scheduler.unload(name))
            await self._settled()
            for fake in self.fakes:
                if fake.may_close and fake.closing.is_set():
                    fake.may_close.set()
            await task
            await self._settled()

        self.run(unloading())

    @invariant()
    def memory_is_kept(self) -> None:
        assert self.scheduler.stats().memory <= 100

    @invariant()
    def nobody_sits_with_what_is_going(self) -> None:
        assert not any(seat.it.closing.is_set() for _, seat in self.seats)

    @invariant()
    def counts_are_true(self) -> None:
        stats = self.scheduler.stats()
        assert sum(stats.busy.values()) == len(self.seats)
        assert sum(stats.waiting.values()) == len(self.tasks)
        for one in self.scheduler.loaded():
            sitting = sum(1 for name, seat in self.seats if name == one.key and not seat._guest)
            assert sitting <= one.seats

    @invariant()
    def nothing_is_kept_of_callers_that_have_gone(self) -> None:
        for room in self.scheduler._rooms.values():
            assert room._turns.keys() <= room._taken.keys() | room.queues.keys()

    @invariant()
    def nobody_waits_without_a_reason(self) -> None:
        """Somebody waits only for a load, a closing, or others to leave."""
        going = any(f.closing.is_set() and not f.closed for f in self.fakes)
        assert not self.tasks or self.loading or self.seats or going

    def teardown(self) -> None:
        """Once everybody leaves and everything works, all who wait are served."""

        async def ending() -> None:
            self.ending = asyncio.Event()
            self.ending.set()
            for fake in self.fakes:
                if fake.may_close:
                    fake.may_close.set()
            for _ in range(200):
                for _, future in self.loading:
                    future.set_result(True)
                self.loading.clear()
                for _, seat in self.seats:
                    seat.leave()
                self.seats.clear()
                await self._settled()
                if not self.tasks and not self.seats:
                    break
            assert not self.tasks
            await self.scheduler.close()
            assert all(fake.closed for fake in self.fakes)

        if hasattr(self, "loop"):
            self.run(ending())
            self.loop.close()


Anything.TestCase.settings = profile(max_examples=repeats(60, 150), stateful_step_count=40)
TestAnything = Anything.TestCase
