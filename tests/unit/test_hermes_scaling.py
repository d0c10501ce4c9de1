"""The law of scaling: when a topic gets more workers, fewer, and how many."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.hermes.scaling import Scaler
from streaming.hermes.topic import Limits, Scaling

LIMITS = Limits(minimum=5, maximum=100, desired=20, contest=50)
LAW = Scaling()  # up at 100, down at 10, 20 % and 10 %, steps of 1 to 10, 2 and 3 checks
EVERY = LAW.check_every_s


def after(
    depths: Sequence[int], limits: Limits = LIMITS, law: Scaling = LAW, *, floor: int = 5
) -> list[int]:
    """Workers after each check, one an interval."""
    scaler, found = Scaler(limits, law, 0.0), []
    for number, depth in enumerate(depths, 1):
        scaler.check(depth, number * law.check_every_s, floor=floor)
        found.append(scaler.workers)
    return found


def test_a_long_queue_brings_workers_after_two_checks_and_then_with_each() -> None:
    """The predecessor began to count anew after each step and took an hour to reach its limit."""
    assert after([101] * 6) == [20, 24, 28, 33, 39, 46]


def test_a_short_queue_takes_them_after_three_checks() -> None:
    assert after([9] * 6) == [20, 20, 18, 17, 16, 15]


@pytest.mark.parametrize("between", [10, 50, 100])
def test_thresholds_are_neither_long_nor_short_and_start_the_count_again(between: int) -> None:
    assert after([101, between, 101, 9, 9, between, 9, 9]) == [20] * 8


@pytest.mark.parametrize(
    ("workers", "up", "down"),
    [(1, 1, 0), (4, 1, 1), (5, 1, 1), (9, 1, 1), (10, 2, 1), (15, 3, 1), (30, 6, 3), (90, 10, 9)],
)
def test_a_step_is_a_share_of_the_workers_within_bounds(workers: int, up: int, down: int) -> None:
    limits = Limits(1, 200, workers, workers)
    assert after([101] * 2, limits, floor=1)[-1] == workers + up
    assert after([9] * 3, limits, floor=1)[-1] == workers - down


def test_the_limits_hold() -> None:
    assert after([10**6] * 30)[-1] == 100
    assert after([0] * 60)[-1] == 5


def test_within_the_cooldown_nothing_moves_and_then_at_once() -> None:
    law = replace(LAW, check_every_s=10.0, cooldown_s=25.0, checks_up=1)
    assert after([101] * 6, law=law) == [24, 24, 24, 28, 28, 28]


def test_further_steps_wait_for_the_cooldown_only() -> None:
    """A queue that was long for two checks does not wait five minutes for each of ten steps."""
    scaler = Scaler(LIMITS, LAW, 0.0)
    assert [scaler.is_due(at) for at in (0.0, EVERY - 1, EVERY)] == [False, False, True]
    scaler.check(500, EVERY, floor=5)
    assert not scaler.is_due(EVERY + LAW.cooldown_s)
    assert scaler.check(500, 2 * EVERY, floor=5) == 4
    stepped_at = 2 * EVERY
    assert not scaler.is_due(stepped_at + LAW.cooldown_s - 1)
    assert scaler.is_due(stepped_at + LAW.cooldown_s)
    assert scaler.check(50, stepped_at + LAW.cooldown_s, floor=5) == 0
    assert not scaler.is_due(stepped_at + 2 * LAW.cooldown_s)


def test_a_contest_jumps_and_is_the_floor_while_the_law_goes_on() -> None:
    scaler = Scaler(LIMITS, LAW, 0.0)
    assert scaler.raise_to(50, 1.0) == 30
    assert scaler.raise_to(50, 2.0) == 0
    for number in range(1, 5):
        scaler.check(500, number * EVERY, floor=50)
    assert scaler.workers == 80
    for number in range(5, 40):
        scaler.check(0, number * EVERY, floor=50)
    assert scaler.workers == 50
    for number in range(40, 100):  # the contest is over
        scaler.check(0, number * EVERY, floor=5)
    assert scaler.workers == 5


def test_a_rest_begins_anew() -> None:
    """While Bungie is away the queue grows and nothing could be done about it."""
    scaler = Scaler(LIMITS, LAW, 0.0)
    scaler.check(500, EVERY, floor=5)
    scaler.rest(2 * EVERY)
    assert not scaler.is_due(2 * EVERY + 1)
    assert scaler.check(500, 3 * EVERY, floor=5) == 0
    assert scaler.check(500, 4 * EVERY, floor=5) == 4


@st.composite
def laws(draw: st.DrawFn) -> Scaling:
    down, least = draw(st.integers(0, 50)), draw(st.integers(1, 5))
    return Scaling(
        up_depth=draw(st.integers(down, 200)),
        down_depth=down,
        up_share=draw(st.floats(0, 2)),
        down_share=draw(st.floats(0, 1)),
        least_step=least,
        most_step=draw(st.integers(least, 30)),
        checks_up=draw(st.integers(1, 4)),
        checks_down=draw(st.integers(1, 4)),
        check_every_s=draw(st.floats(1, 600)),
        cooldown_s=draw(st.floats(0, 600)),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    minimum, desired, contest, maximum = sorted(
        draw(st.lists(st.integers(1, 120), min_size=4, max_size=4))
    )
    return Limits(minimum, maximum, desired, contest)


@given(
    limits(),
    laws(),
    st.lists(
        st.tuples(st.floats(0.1, 900), st.integers(0, 400), st.booleans()), min_size=1, max_size=60
    ),
)
def test_whatever_comes_the_bounds_hold(
    bounds: Limits, law: Scaling, course: list[tuple[float, int, bool]]
) -> None:
    """Limits, step bounds and cooldown, and no step against what the queue says."""
    scaler, now, stepped_at = Scaler(bounds, law, 0.0), 0.0, None
    for passed_s, depth, is_contest in course:
        now += passed_s
        floor = bounds.contest if is_contest else bounds.minimum
        if scaler.raise_to(floor, now):
            stepped_at = now
            assert scaler.workers == floor
        before = scaler.workers
        change = scaler.check(depth, now, floor=floor)
        assert floor <= scaler.workers <= bounds.maximum
        assert scaler.workers == before + change
        assert abs(change) <= law.most_step
        if change:
            assert stepped_at is None or now >= stepped_at + law.cooldown_s
            assert depth > law.up_depth if change > 0 else depth < law.down_depth
            stepped_at = now
