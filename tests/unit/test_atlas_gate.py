"""The gate in front of the API: one trial fetch at a time, pauses that grow while it is ill."""

import pytest

from streaming.atlas.gate import Gate


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock)


def test_is_open_at_first(gate: Gate) -> None:
    assert gate.lets_through()
    assert not gate.enter()
    assert gate.reason == ""


def test_lets_one_trial_through_after_the_pause(gate: Gate, clock: Clock) -> None:
    gate.close("throttled", 10, trial=False)
    assert not gate.lets_through()
    assert gate.until == 110
    clock.time = 110
    assert gate.lets_through()
    assert gate.enter()
    assert not gate.lets_through()
    assert gate.until == float("inf")  # nobody waits for the clock: the answer decides
    gate.open()
    assert gate.lets_through()


def test_the_pause_doubles_with_each_failed_trial_up_to_its_limit(gate: Gate, clock: Clock) -> None:
    gate.close("throttled", 10, trial=False)
    pauses = []
    for _ in range(6):
        clock.time = gate.until
        assert gate.enter()
        gate.close("throttled", 10, trial=True)
        pauses.append(gate.until - clock.time)
    assert pauses == [20, 40, 80, 120, 120, 120]
    gate.open()
    gate.close("throttled", 10, trial=False)
    assert gate.until - clock.time == 10


def test_answers_that_were_on_their_way_do_not_double_the_pause(gate: Gate, clock: Clock) -> None:
    """A wave of 25 throttled answers is one event."""
    for _ in range(25):
        gate.close("throttled", 10, trial=False)
    assert gate.until == clock.time + 10


def test_keeps_a_longer_pause_the_api_asks_for(gate: Gate, clock: Clock) -> None:
    gate.close("throttled", 10, trial=False)
    gate.close("throttled", 60, trial=False)
    assert gate.until == clock.time + 60
    clock.time = gate.until
    gate.enter()
    gate.close("throttled", 300, trial=True)
    assert gate.until == clock.time + 300
