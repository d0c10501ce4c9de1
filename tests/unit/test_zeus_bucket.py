"""The budget of one address, as the server at the other end counts it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.faults import Limiter
from streaming.zeus.bucket import JITTER_S, Bucket

RATE, BURST = 40.0, 90.0
gaps = st.lists(
    st.floats(0, 0.2) | st.floats(0, 30) | st.sampled_from([0.0, 0.025]), min_size=1, max_size=300
)


def granted(bucket: Bucket, waits: list[float], start: float = 1000.0) -> list[float]:
    """When a token was given, for one who asks after each of these waits."""
    now, times = start, []
    for wait in waits:
        now += wait
        if bucket.take(now):
            times.append(now)
    return times


@given(gaps)
def test_no_window_holds_more_than_burst_and_rate_allow(waits: list[float]) -> None:
    bucket = Bucket(RATE, BURST, 1000.0)
    times = granted(bucket, waits)
    for first, start in enumerate(times):
        for last in range(first, len(times)):
            allowed = bucket.capacity + RATE * (times[last] - start)
            assert last - first + 1 <= allowed + 1e-6


@given(gaps, st.lists(st.floats(0, JITTER_S), min_size=300, max_size=300))
def test_the_servers_bucket_has_a_token_for_each_that_arrives_late(
    waits: list[float], delays: list[float]
) -> None:
    """Without the reserve, a burst over new connections and then a used one would be throttled."""
    times = granted(Bucket(RATE, BURST, 1000.0), waits)
    clock = [0.0]
    server = Limiter(lambda: clock[0])
    for clock[0] in sorted(t + d for t, d in zip(times, delays, strict=False)):
        assert not server.is_over("address", RATE, BURST)


@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.sampled_from([1.0, 0.5, 0.75]), st.booleans()), max_size=60
    )
)
def test_slowing_down_and_pausing_never_gives_more(steps: list[tuple[float, float, bool]]) -> None:
    bucket, now, times = Bucket(RATE, BURST, 0.0), 0.0, []
    for wait, share, pause in steps:
        now += wait
        bucket.slow_to(share, now)
        if pause:
            bucket.empty(now + 1)
        while bucket.take(now):
            times.append(now)
    for first, start in enumerate(times):
        span = times[-1] - start
        assert len(times) - first <= bucket.capacity + RATE * span + 1e-6


@given(st.floats(0.5, 500), st.floats(1, 500))
def test_who_always_waits_uses_the_whole_rate(rate: float, burst: float) -> None:
    """Rounding that loses a token now and then would cost ids for ever."""
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, 0
    seconds = 500 / rate
    while now <= seconds:
        taken += bucket.take(now)
        now = max(bucket.ready_at(now), now)
    assert taken >= rate * seconds - 1.001


def test_it_begins_empty_and_grows_to_the_burst_less_the_reserve() -> None:
    """A restart must not spend a second burst: the server has not filled up again."""
    bucket = Bucket(RATE, BURST, 5.0)
    assert not bucket.take(5.0)
    assert bucket.take(5.0 + 1 / RATE)
    assert sum(bucket.take(1e6) for _ in range(200)) == BURST - RATE * JITTER_S == 80


def test_after_a_pause_tokens_come_one_by_one() -> None:
    bucket = Bucket(RATE, BURST, 0.0)
    assert bucket.take(100.0)
    bucket.empty(110.0)
    assert not bucket.take(110.0)
    times = granted(bucket, [0.0, *[0.001] * 1000], 110.0)
    assert all(b - a == pytest.approx(1 / RATE, abs=0.0011) for a, b in pairwise(times))


def test_half_the_rate_is_half_the_tokens() -> None:
    bucket = Bucket(RATE, BURST, 0.0)
    bucket.slow_to(0.5, 0.0)
    assert sum(bucket.take(1.0) for _ in range(100)) == 20
    assert bucket.ready_at(1.0) == pytest.approx(1.05)
    assert bucket.inflow(1.0, 3.0) == pytest.approx(40)


def test_a_rate_of_zero_is_no_limit() -> None:
    bucket = Bucket(0.0, 1.0, 0.0)
    assert all(bucket.take(0.0) for _ in range(1000))
    assert bucket.ready_at(7.0) == 7.0
    assert bucket.inflow(0.0, 1.0) == float("inf")


def test_a_burst_below_the_reserve_still_lets_one_through() -> None:
    bucket = Bucket(RATE, 1.0, 0.0)
    assert bucket.take(1.0)
    assert not bucket.take(1.0)
