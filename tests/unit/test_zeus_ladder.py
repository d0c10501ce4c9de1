"""Stepping down after a throttle, and coming back without anybody's help."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.zeus.ladder import Backoff, Ladder


def test_after_a_pause_half_the_rate_and_a_tenth_more_every_30_seconds() -> None:
    ladder = Ladder()
    assert ladder.share(0.0) == 1
    assert ladder.pause(100.0, 10.0, 99.9)
    assert ladder.is_paused(109.9)
    assert not ladder.is_paused(110.0)
    shares = [ladder.share(110.0 + seconds) for seconds in (0, 29.9, 30, 60, 90, 120, 149, 150)]
    assert shares == pytest.approx([0.5, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9, 1.0])


def test_what_was_on_its_way_when_the_pause_began_is_not_another_throttle() -> None:
    """Thirty requests in flight are refused together: one pause, not thirty."""
    ladder = Ladder()
    ladder.pause(100.0, 10.0, 99.0)
    assert not ladder.pause(101.0, 10.0, 99.5)
    assert ladder.paused_until == 110
    assert not ladder.pause(102.0, 60.0, 99.6)  # code 35 among them wants the whole minute
    assert ladder.paused_until == 160
    assert ladder.pause(161.0, 10.0, 160.5)
    assert ladder.paused_until == 171


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(10, 60)), max_size=30))
def test_it_always_recovers(throttles: list[tuple[float, float]]) -> None:
    """Bungie once throttled everybody by mistake for two days: nobody may have to restart us."""
    ladder, now = Ladder(), 0.0
    for wait, seconds in throttles:
        now += wait
        ladder.pause(now, seconds, now)
        assert ladder.share(now) == 0.5
    assert ladder.share(max(now, ladder.paused_until) + 150.001) == 1
    assert not ladder.is_paused(now + 60)


def test_a_back_off_doubles_while_the_trouble_persists() -> None:
    backoff, now, pauses = Backoff(), 1000.0, []
    for _ in range(6):
        pauses.append(backoff.back_off(now, now))
        now = backoff.paused_until + 1  # the first request after it is refused again
    assert pauses == [10, 20, 40, 80, 120, 120]
    now = backoff.paused_until + 61
    assert backoff.back_off(now, now) == 10


def test_a_back_off_takes_refusals_from_before_it_for_one() -> None:
    backoff = Backoff()
    assert backoff.back_off(50.0, 49.0) == 10
    assert backoff.back_off(51.0, 49.5) == 0
    assert backoff.paused_until == 60
    assert backoff.back_off(61.0, 60.5, least_s=45) == 45
