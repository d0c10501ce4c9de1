"""How good scores are on what the model has not seen: weeks, raids, and reasons it never learned.

What counts as true are the weak labels of labels.py: the figures say how far a model follows
people and rules where it was not shown them. A cheater whom nobody found counts as a mistake here.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from raidhub_dagster.cheat_learning.features import Flags, Floats, Ints, fit_norms
from raidhub_dagster.cheat_learning.labels import Labelled
from raidhub_dagster.cheat_learning.models import score, train

TOP = 100  # as many as somebody looks at in a day
_BINS = 10
_LATE_SHARE = 0.25  # of the weeks, the last ones
_MOST_SPLITS = 3  # of raids, and of reasons: each is a training
_LEAST_POSITIVES = 5  # of which a figure says anything
_FOLDS = 4  # of the negatives, by run, of which one is held out with a reason


class Figures(NamedTuple):
    """Of one split. Precision and calibration are of the whole, not of the drawn sample."""

    split: str  # weeks, raid, reason
    held_out: str
    rows: int
    positives: int
    average_precision: float
    precision_at_top: float  # of the TOP highest scores
    recall: float  # where precision is at least the one that was asked for
    threshold: float  # the score there; 1 when no score is so precise
    brier: float
    calibration_error: float  # mean distance of score and share, over ten bins of the score


def evaluate(
    scores: Floats, positive: Flags, weights: Floats, *, precision: float, split: str, held_out: str
) -> Figures:
    """Figures of `scores` against labels; recall is read where precision is at least `precision`.

    With no positive or no row the figures are 0.
    """
    rows, positives = len(scores), int(positive.sum())
    if not rows or not positives:
        return Figures(split, held_out, rows, positives, 0, 0, 0, 1, 0, 0)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.where(positive[order], weights[order], 0.0))
    all_ = np.cumsum(weights[order])
    # Rows of one score stand or fall together.
    last = np.append(scores[order][1:] != scores[order][:-1], True)
    at, recalls = hits[last] / all_[last], hits[last] / hits[-1]
    good = np.flatnonzero(at >= precision)
    top = min(TOP, rows) - 1
    return Figures(
        split,
        held_out,
        rows,
        positives,
        average_precision=float(np.sum(at * np.diff(recalls, prepend=0.0))),
        precision_at_top=float(hits[top] / all_[top]),
        recall=float(recalls[good[-1]]) if len(good) else 0.0,
        threshold=float(scores[order][last][good[-1]]) if len(good) else 1.0,
        brier=float(np.average((scores - positive) ** 2, weights=weights)),
        calibration_error=sum(
            abs(b.mean_score - b.share) * b.weight for b in calibration(scores, positive, weights)
        ),
    )


class Bin(NamedTuple):
    at_least: float
    weight: float  # of all rows
    mean_score: float
    share: float  # of positives


def calibration(scores: Floats, positive: Flags, weights: Floats) -> list[Bin]:
    """How often rows of a score are positive, in ten bins of the score; empty bins are left out."""
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    found = []
    for number in range(_BINS):
        inside = bins == number
        if weight := float(weights[inside].sum()):
            found.append(
                Bin(
                    number / _BINS,
                    weight / float(weights.sum()),
                    float(np.average(scores[inside], weights=weights[inside])),
                    float(np.average(positive[inside], weights=weights[inside])),
                )
            )
    return found


class Split(NamedTuple):
    kind: str
    held_out: str
    learned: Flags  # rows that the model sees
    asked: Flags  # rows that it is asked about


def splits(labelled: Labelled) -> Iterator[Split]:
    """What is held out: the last quarter of the weeks, raids, and reasons, the commonest first."""
    rows, known = labelled.rows, labelled.positive | labelled.negative
    weeks = np.unique(rows.weeks)
    if len(weeks) > 1:
        first = weeks[-max(1, round(_LATE_SHARE * len(weeks)))]
        late = rows.weeks >= first
        yield Split("weeks", f"last {(weeks >= first).sum()}", ~late, late & known)
    for raid in _commonest(rows.activity_ids[labelled.positive]):
        held = rows.activity_ids == raid
        yield Split("raid", str(raid), ~held, held & known)
    held_negatives = labelled.negative & (rows.instance_ids % _FOLDS == 0)
    for bit in labelled.reasons():
        held = labelled.positive & ((labelled.bitmasks >> bit) & 1 == 1)
        yield Split("reason", str(bit), ~held & ~held_negatives, held | held_negatives)


def _commonest(values: Ints) -> list[int]:
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_SPLITS]
    return [int(found[place]) for place in order if counts[place] >= _LEAST_POSITIVES]


def evaluate_splits(labelled: Labelled, *, precision: float) -> tuple[list[Figures], list[Bin]]:
    """Figures of every split in which enough is held out and enough is left to learn from.

    With the calibration on the weeks that were held out, empty without any. What is usual is
    learned from the rows that the model sees; for a raid or a reason from all, because a new raid
    has runs before it has verdicts.
    """
    all_norms = fit_norms(labelled.rows)
    found: list[Figures] = []
    bins: list[Bin] = []
    for split in splits(labelled):
        learned, asked = labelled.take(split.learned), labelled.take(split.asked)
        enough = learned.positive.sum() >= _LEAST_POSITIVES and learned.negative.any()
        if not enough or asked.positive.sum() < _LEAST_POSITIVES:
            continue
        is_later = split.kind == "weeks"
        model = train(
            learned.rows,
            learned.positive,
            learned.negative,
            learned.weights,
            norms=None if is_later else all_norms,
        )
        totals = score(model, asked.rows).total
        found.append(
            evaluate(
                totals,
                asked.positive,
                asked.weights,
                precision=precision,
                split=split.kind,
                held_out=split.held_out,
            )
        )
        if is_later:
            bins = calibration(totals, asked.positive, asked.weights)
    return found, bins
