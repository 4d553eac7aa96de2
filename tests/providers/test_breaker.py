"""The circuit breaker, without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from overt.providers.http.circuit_breaker import Breaker


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        assert breaker.wait(now) == 0
        breaker.bad(breaker.begin(), now)


def test_it_opens_after_five_in_a_row_and_says_how_long() -> None:
    breaker = Breaker()
    fail(breaker, 0, 4)
    assert breaker.wait(0) == 0
    fail(breaker, 1)
    assert breaker.wait(1) == 10
    assert breaker.wait(8.5) == 2.5
    assert breaker.wait(11) == 0


def test_a_success_between_begins_the_row_anew() -> None:
    breaker = Breaker()
    fail(breaker, 0, 4)
    breaker.good(breaker.begin())
    fail(breaker, 0, 4)
    assert breaker.wait(0) == 0


def test_half_open_lets_one_through_and_its_success_closes() -> None:
    breaker = Breaker()
    fail(breaker, 0, 5)
    probe = breaker.begin()
    assert breaker.wait(10) == 1  # the others wait for the probe
    breaker.good(probe)
    assert breaker.wait(10) == 0
    fail(breaker, 10, 4)
    assert breaker.wait(10) == 0


def test_each_probe_that_fails_doubles_the_pause_up_to_two_minutes() -> None:
    breaker = Breaker()
    fail(breaker, 0, 5)
    now, pauses = 0.0, []
    for _ in range(6):
        now += breaker.wait(now)
        fail(breaker, now)
        pauses.append(breaker.wait(now))
    assert pauses == [20, 40, 80, 120, 120, 120]


def test_a_cancelled_probe_leaves_the_next_one_free() -> None:
    breaker = Breaker()
    fail(breaker, 0, 5)
    breaker.neither(breaker.begin())
    assert breaker.wait(10) == 0
    breaker.good(breaker.begin())
    assert breaker.wait(10) == 0


def test_what_began_before_it_opened_changes_nothing_after() -> None:
    breaker = Breaker()
    old = [breaker.begin() for _ in range(4)]
    fail(breaker, 0, 5)
    breaker.good(old[0])
    assert breaker.wait(1) == 9
    probe = breaker.begin()
    breaker.bad(old[1], 10)
    breaker.neither(old[2])
    assert breaker.wait(10) == 1  # the probe is still out
    breaker.good(probe)
    breaker.bad(old[3], 10)
    assert breaker.wait(10) == 0


def test_a_turn_is_settled_once() -> None:
    breaker = Breaker(failures=2)
    turn = breaker.begin()
    breaker.bad(turn, 0)
    breaker.bad(turn, 0)
    breaker.good(turn)
    assert breaker.wait(0) == 0
    fail(breaker, 0)
    assert breaker.wait(0) == 10


@given(some.lists(some.tuples(some.sampled_from("gbnw"), some.integers(0, 5)), max_size=60))
def test_it_is_never_stuck(steps: list[tuple[str, int]]) -> None:
    breaker, now, out = Breaker(), 0.0, []
    for step, number in steps:
        if step == "w":
            now += 7 * number
        elif out and number % 2:
            turn = out.pop(number % len(out))
            match step:
                case "g":
                    breaker.good(turn)
                case "b":
                    breaker.bad(turn, now)
                case _:
                    breaker.neither(turn)
        elif breaker.wait(now) == 0:
            out.append(breaker.begin())
        assert 0 <= breaker.wait(now) <= 120
    for turn in out:
        breaker.neither(turn)
    assert breaker.wait(now + 120) == pytest.approx(0)
