"""What all rules are made of: the logistic curve, and chances put together. Nothing of raids.

Chances are floats in 0..1.
"""

import math
from collections.abc import Iterable

from raidhub_dagster.cheat_detection.parameters import Curve


class CannotSayError(ValueError):
    """A rule lacks an input, or would divide by one that is 0; the message says which."""


def sigmoid(k: float, x0: float, x: float) -> float:
    """1 / (1 + e^(k (x - x0))); where the exponent overflows, the 0 or 1 that it goes to."""
    try:
        return 1 / (1 + math.exp(k * (x - x0)))
    except OverflowError:
        return 0.0


def on(curve: Curve, x: float) -> float:
    """Where `x` is on the curve."""
    return sigmoid(curve.k, curve.x0, x)


def clip(chance: float) -> float:
    """Into 0..1. Raises CannotSayError for what is no number."""
    if math.isnan(chance):
        raise CannotSayError("the chance is no number")
    return min(1.0, max(0.0, chance))


def any_of(chances: Iterable[float]) -> float:
    """The chance of at least one, as if they were independent."""
    none = 1.0
    for chance in chances:
        none *= 1 - chance if chance < 1 else 0.0
    return max(0.0, 1 - none)


def two_of(chances: Iterable[float]) -> float:
    """The chance of at least two, as if they were independent."""
    none, one = 1.0, 0.0
    for chance in chances:
        none, one = none * (1 - chance), one * (1 - chance) + none * chance
    return max(0.0, 1 - none - one)
