"""When a missed id is tried again."""

import pytest

from raidhub_dagster.storage.missed import Backoff, State

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86400


class Middle:
    """Jitter that does nothing."""

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


class Ends:
    """Both ends of the jitter, in turn."""

    def __init__(self) -> None:
        self._low = False

    def uniform(self, a: float, b: float, /) -> float:
        self._low = not self._low
        return a if self._low else b


@pytest.mark.parametrize(
    ("state", "attempts", "age_s", "delay_s"),
    [
        (State.WAITING, 1, 0, 15),
        (State.WAITING, 2, 60, 30),
        (State.WAITING, 8, 1800, 1920),
        (State.WAITING, 9, 4000, HOUR_S),
        (State.WAITING, 10_000, 6 * DAY_S, HOUR_S),
        (State.WAITING, 10_000, 7 * DAY_S, DAY_S),
        (State.MALFORMED, 1, 0, 15 * MINUTE_S),
        (State.MALFORMED, 2, 0, HOUR_S),
        (State.MALFORMED, 3, 0, 6 * HOUR_S),
        (State.MALFORMED, 4, 0, DAY_S),
        (State.MALFORMED, 14, 0, DAY_S),
        (State.BLOCKED, 1, 0, None),
        (State.UNKNOWN_HASH, 1, 0, None),
        (State.MISSING, 1, 0, None),
        (State.RESOLVED, 1, 0, None),
        (State.REJECTED, 1, 0, None),
    ],
)
def test_delay(state: State, attempts: int, age_s: float, delay_s: float | None) -> None:
    assert Backoff(Middle()).delay_s(state, attempts, age_s) == delay_s


def test_jitter_is_a_fifth_to_both_sides() -> None:
    backoff = Backoff(Ends())
    delays = [backoff.delay_s(State.MALFORMED, 1) for _ in range(2)]
    assert delays == pytest.approx([720, 1080])


def test_the_scale_shortens_delays_and_ages() -> None:
    backoff = Backoff(Middle(), scale=0.01)
    assert backoff.delay_s(State.WAITING, 1) == pytest.approx(0.15)
    assert backoff.is_given_up(State.WAITING, 0.07 * DAY_S)


@pytest.mark.parametrize(
    ("state", "days", "given_up"),
    [
        (State.WAITING, 6.9, False),
        (State.WAITING, 7, True),
        (State.MALFORMED, 13.9, False),
        (State.MALFORMED, 14, True),
        (State.BLOCKED, 1000, False),
    ],
)
def test_gives_up(state: State, days: float, given_up: bool) -> None:
    assert Backoff(Middle()).is_given_up(state, days * DAY_S) is given_up
