"""Why a score is high: the measures without which it would be lower, in sentences with numbers."""

from typing import NamedTuple

import numpy as np

from raidhub_dagster.cheat_learning.features import (
    FEATURES,
    KINDS,
    Floats,
    Rows,
    Usual,
)
from raidhub_dagster.cheat_learning.models import Model, score_spreads

MOST_REASONS = 4


class Reason(NamedTuple):
    """One measure; `drop` is how far the score falls when the measure is as usual."""

    feature: str
    drop: float
    value: float
    median: float  # of the same kind of runs
    spreads: float  # from there
    text: str


def find_reasons(
    model: Model, rows: Rows, usual: Usual, spreads: Floats, total: Floats
) -> list[list[Reason]]:
    """Of each row, the measures whose replacement by the median lowers its score most.

    Where no single one does, because several say the same, the ones farthest from the median;
    their drop is 0. Best for a few hundred rows: each is scored once a feature.
    """
    drops = np.zeros_like(spreads)
    for place in range(len(FEATURES)):
        replaced = spreads.copy()
        replaced[:, place] = np.where(np.isnan(spreads[:, place]), np.nan, 0.0)
        drops[:, place] = total - score_spreads(model, replaced).total
    found = []
    for row in range(len(rows)):
        far = np.nan_to_num(np.abs(spreads[row]), nan=0.0)
        best = [int(p) for p in np.argsort(-drops[row], kind="stable") if drops[row, p] >= 0.005]
        others = [int(p) for p in np.argsort(-far, kind="stable") if far[p] >= 1 and p not in best]
        chosen = best[:MOST_REASONS] or others[:MOST_REASONS]
        found.append([_reason(rows, usual, spreads, drops, row, place) for place in chosen])
    return found


def _reason(
    rows: Rows, usual: Usual, spreads: Floats, drops: Floats, row: int, place: int
) -> Reason:
    feature = FEATURES[place]
    value, median = float(rows.values[row, place]), float(usual.median[row, place])
    away = float(spreads[row, place])
    text = (
        f"{feature.words}: {value:.2f}, where the median of {usual.players[row, place]} players in "
        f"runs of {KINDS[usual.kind[row, place]]} is {median:.2f}"
    )
    drop = max(float(drops[row, place]), 0.0)
    return Reason(
        feature.column, round(drop, 4), round(value, 4), round(median, 4), round(away, 2), text
    )
