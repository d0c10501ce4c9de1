"""When a topic stops instead of parking more."""

import pytest

from streaming.hermes.breaker import LEAST, Breaker


def parked_of(ends: list[bool]) -> int:
    """How many are parked of messages of which True ones would be, before the breaker opens."""
    breaker = Breaker()
    for bad in ends:
        if not bad:
            breaker.count(parked=False)
        elif breaker.may_park():
            breaker.count(parked=True)
        else:
            break
    return breaker.parked


@pytest.mark.parametrize(
    ("ends", "parked"),
    [
        ([True] * 3 + [False] * 97, 3),  # three bad messages at the start are no bad release
        ([False] * 4 * 50 + [True] * 40, 40),  # 40 of 200 are 20 %, and not more
        ([False] * 160 + [True] * 41, 40),
        (([False] * 4 + [True]) * 40, 40),  # one of five for ever
        (([True] + [False] * 3) * 40, 10),  # one of four: judged from the 40th on
        ([True] * 100, LEAST - 1),
        (([True, False, False] * 34)[:100], 13),
    ],
)
def test_opens_above_a_fifth_of_the_last_200(ends: list[bool], parked: int) -> None:
    assert parked_of(ends) == parked


def test_what_ended_long_ago_counts_no_more() -> None:
    """A million good messages of last week must not hide a release that fails at everything."""
    assert parked_of([False] * 10_000 + [True] * 200) == 40


def test_stays_open() -> None:
    """It would otherwise park a few more with every good message."""
    breaker = Breaker()
    for _ in range(LEAST - 1):
        breaker.count(parked=True)
    assert not breaker.is_open
    assert not breaker.may_park()
    for _ in range(500):
        breaker.count(parked=False)
    assert breaker.is_open
    assert not breaker.may_park()
