"""The curves and chances that every verdict is made of, against numbers worked out by hand."""

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.cheat_detection.curves import (
    CannotSayError,
    any_of,
    clip,
    on,
    sigmoid,
    two_of,
)
from raidhub_dagster.cheat_detection.parameters import Curves, load_parameters

CURVES = load_parameters().curves
chances = st.floats(0, 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)

CASES = [
    # 1 / (1 + e^(k (x - x0))), each at its middle and at a point beside it
    ("kills_per_minute", 40, 0.5),
    ("kills_per_minute", 60, 0.9525741268),  # 1 / (1 + e^-3)
    ("grenades", 20, 0.5),
    ("grenades", 25, 0.8519528019),  # 1 / (1 + e^-1.75)
    ("supers_per_minute", 6, 0.5),
    ("supers_per_minute", 8, 0.8175744762),  # 1 / (1 + e^-1.5)
    ("heavy", 0.8, 0.5),
    ("heavy", 1.0, 0.9308615797),  # 1 / (1 + e^-2.6)
    ("completion_time", 0.93, 0.5),
    ("completion_time", 1.0, 0.0573241759),  # 1 / (1 + e^2.8)
    ("kills_share", 1.48, 0.5),
    ("kills_share", 2, 0.9744192117),  # 1 / (1 + e^-3.64)
    ("total_kills", 0.83, 0.5),
    ("total_kills", 0.5, 0.9986414800),  # 1 / (1 + e^-6.6)
    ("total_kills_size", 60, 0.5),
    ("total_kills_size", 10, 0.1192029220),  # 1 / (1 + e^2)
    ("not_finished", 220, 0.5),
    ("not_finished", 720, 0.0691384203),  # 1 / (1 + e^2.6)
    ("time_dilation", 0.6, 0.5),
    ("time_dilation", 0.5, 0.7685247835),  # 1 / (1 + e^-1.2)
    ("checkpoint_duration", 0.82, 0.5),
    ("checkpoint_duration", 0.5, 0.9918374288),  # 1 / (1 + e^-4.8)
    ("pantheon_floor", 0.72, 0.5),
    ("pantheon_floor", 0.5, 0.9812934900),  # 1 / (1 + e^-3.96)
]


@pytest.mark.parametrize(("curve", "x", "expected"), CASES)
def test_a_curve_has_the_number_of_the_page(curve: str, x: float, expected: float) -> None:
    """A number read from the wrong name judges everybody by another rule's measure."""
    assert on(getattr(CURVES, curve), x) == pytest.approx(expected, abs=1e-9)


def test_no_curve_is_left_out() -> None:
    """One that is added later without a number worked out by hand is not known to be right."""
    named = {curve for curve, *_ in CASES} | {"participation"}  # tested with the players
    assert named == set(Curves.model_fields)


@pytest.mark.parametrize(("k", "expected"), [(1, 0.0), (-1, 1.0)])
def test_an_exponent_that_overflows_is_the_curves_end(k: float, expected: float) -> None:
    """e^710 has no float: a run of absurd numbers must not take the batch with it."""
    assert sigmoid(k, 0, 1e6) == expected
    assert sigmoid(k, 0, math.inf) == expected


@given(k=st.floats(-50, 50).filter(bool), x0=numbers, x=numbers)
def test_a_curve_stays_in_0_to_1(k: float, x0: float, x: float) -> None:
    """Whatever the facts: a chance outside of 0..1 is refused by the ledger."""
    assert 0 <= sigmoid(k, x0, x) <= 1


@pytest.mark.parametrize(
    ("given_chances", "any_expected", "two_expected"),
    [
        ((), 0, 0),
        ((0.3,), 0.3, 0),
        ((0.2, 0.5), 0.6, 0.1),  # 1 - 0.8 * 0.5; 0.2 * 0.5
        ((0.5, 0.5, 0.5), 0.875, 0.5),  # 1 - 1/8 - 3/8
        ((0.1, 0.2, 0.3), 0.496, 0.098),  # 1 - 0.504; 1 - 0.504 - 0.056 - 0.126 - 0.216
        ((1, 0.4), 1, 0.4),
        ((1, 1, 0), 1, 1),
        ((0, 0, 0), 0, 0),
    ],
)
def test_chances_are_put_together(
    given_chances: tuple[float, ...], any_expected: float, two_expected: float
) -> None:
    """At least one, and at least two."""
    assert any_of(given_chances) == pytest.approx(any_expected, abs=1e-12)
    assert two_of(given_chances) == pytest.approx(two_expected, abs=1e-12)


def test_a_chance_above_1_counts_as_1_and_a_negative_one_lowers() -> None:
    """Accounts have factors below 0, which speak for the player."""
    assert any_of((1.5, 0.2)) == 1
    assert any_of((-0.2, 0.5)) == pytest.approx(0.4)  # 1 - 1.2 * 0.5
    assert any_of((-0.5, -0.5)) == 0


@given(st.lists(chances, max_size=6))
def test_at_least_two_is_the_sum_over_all_that_can_happen(listed: list[float]) -> None:
    """The running sums against every one of the 2^n outcomes."""
    expected = 0.0
    for outcome in product((True, False), repeat=len(listed)):
        if sum(outcome) >= 2:
            expected += math.prod(
                p if happened else 1 - p for p, happened in zip(listed, outcome, strict=True)
            )
    assert two_of(listed) == pytest.approx(expected, abs=1e-12)
    assert 0 <= two_of(listed) <= any_of(listed) + 1e-12


def test_what_is_no_number_is_no_chance() -> None:
    """NaN passes every comparison and would be stored as a verdict."""
    assert (clip(-0.5), clip(0.5), clip(1.5)) == (0, 0.5, 1)
    with pytest.raises(CannotSayError, match="no number"):
        clip(math.nan)
