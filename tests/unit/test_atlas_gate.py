"""The gate in front of the API: one trial fetch at a time, pauses that grow while it is ill."""

import pytest

from streaming.atlas.gate import Gate, Throttles


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


def test_an_outage_is_looked_at_more_often(gate: Gate, clock: Clock) -> None:
    """An API that just says nothing is not made worse by a fetch every 20 s."""
    gate.close("errors", 5, trial=False, longest_s=20)
    for _ in range(5):
        clock.time = gate.until
        gate.enter()
        gate.close("errors", 5, trial=True, longest_s=20)
    assert gate.until == clock.time + 20


def test_a_list_of_systems_holds_the_gate_until_it_says_otherwise(gate: Gate, clock: Clock) -> None:
    gate.hold("maintenance: Destiny2", 60)
    clock.time += 170
    assert not gate.lets_through()
    gate.hold("maintenance: Destiny2", 60)
    clock.time += 170
    assert not gate.lets_through()
    gate.end_maintenance()
    assert gate.lets_through()
    assert gate.enter()  # one fetch, in case the list is wrong


def test_the_end_of_a_maintenance_opens_no_gate_that_is_shut_for_another_reason(
    gate: Gate, clock: Clock
) -> None:
    gate.close("throttled", 60, trial=False)
    gate.end_maintenance()
    assert not gate.lets_through()
    assert gate.until == clock.time + 60


def test_most_of_the_last_answers_are_throttles() -> None:
    throttles = Throttles()
    for _ in range(100):
        throttles.count(False)
    for _ in range(8):
        throttles.count(True)
    assert not throttles.are_most
    throttles.count(True)
    assert throttles.are_most
    throttles.forget()
    assert not throttles.are_most


def test_keeps_a_longer_pause_the_api_asks_for(gate: Gate, clock: Clock) -> None:
    gate.close("throttled", 10, trial=False)
    gate.close("throttled", 60, trial=False)
    assert gate.until == clock.time + 60
    clock.time = gate.until
    gate.enter()
    gate.close("throttled", 300, trial=True)
    assert gate.until == clock.time + 300
