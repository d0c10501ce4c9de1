"""One message when something begins, one when it worsens, one when it is over; never a flood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.monitoring.episodes import Limit, Reading, follow
from sensors.episodes import numbers, read_cursor

LIMIT = Limit((10, 100), over_at=2)
BEGUN, OVER = Alert("a_b", "begun", Colour.RED), Alert("a_o", "over", Colour.BLUE)


def told(*values: float) -> list[str]:
    """Titles of what was sent for these readings, one after another."""
    levels: dict[str, int] = {}
    sent: list[str] = []
    for value in values:
        reading = Reading("it", value, LIMIT, BEGUN, OVER)
        levels = follow(levels, [reading], lambda alert: sent.append(alert.title))
    return sent


@pytest.mark.parametrize(
    ("values", "titles"),
    [
        ((0, 9), []),
        ((10,), ["begun"]),
        ((10, 50, 99, 12), ["begun"]),
        ((10, 100, 50, 100), ["begun", "begun"]),
        ((500,), ["begun"]),
        ((10, 3, 10, 3, 10), ["begun"]),
        ((10, 2, 1, 0), ["begun", "over"]),
        ((10, 2, 10), ["begun", "over", "begun"]),
    ],
)
def test_tells_begin_worsening_and_end(values: tuple[float, ...], titles: list[str]) -> None:
    """A figure that swings about a limit would otherwise fill the channel until nobody reads it."""
    assert told(*values) == titles


@given(st.lists(st.floats(0, 200)))
def test_is_silent_between_the_limits(values: list[float]) -> None:
    """However a figure moves, no more messages than ways from one limit to the other."""
    ways = sum(a < 10 <= b or a < 100 <= b for a, b in zip([0.0, *values], values, strict=False))
    falls = sum(a > 2 >= b for a, b in zip([0.0, *values], values, strict=False))
    assert len(told(*values)) <= ways + falls


def test_keeps_an_episode_that_nobody_could_look_at() -> None:
    """The broker away is no end of the backlog in it."""
    assert follow({"it": 1}, [], lambda _alert: None) == {"it": 1}


@pytest.mark.parametrize("cursor", [None, "", "{old", "[1]", '"text"', "7"])
def test_an_unreadable_cursor_is_empty(cursor: str | None) -> None:
    """Otherwise one bad deploy stops a sensor until somebody resets it by hand."""
    assert read_cursor(cursor) == {}


def test_takes_only_numbers_from_a_cursor() -> None:
    assert numbers({"a": 1, "b": "x", "c": True, "d": None}) == {"a": 1}
    assert numbers(["a"]) == {}
