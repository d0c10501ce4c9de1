"""What is learned: how odd a player's run is, how much it looks like a confirmed one, and both.

scikit-learn is an optional extra; it is imported where it is needed, so that everything else runs
without it. Rules: docs/domain/cheat-learning.md, "Models".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from raidhub_dagster.cheat_learning.features import (
    FEATURES,
    Flags,
    Floats,
    Norms,
    Rows,
    Usual,
    find_usual,
    fit_norms,
    standardise,
)
from raidhub_dagster.errors import ConfigurationError

SEED = 20170913
_TREES = 100
_ROWS_A_TREE = 1024  # with fewer, what is odd in one measure alone is not isolated
_ROUNDS = 60
_ROWS_OF_THE_TAIL = 50_000  # enough for one in a thousand
# A logistic curve is 0.05 so many units before its middle.
_LOGITS_TO_A_TWENTIETH = 2.944
_CHUNK = 50_000  # rows that are scored at once: some 100 MB


def is_installed() -> bool:
    """Whether the extra `ml` is there; looked up, not imported, which takes a second."""
    return find_spec("sklearn") is not None


def require_installed() -> None:
    """Raises ConfigurationError, saying how to install it, without the extra `ml`."""
    if not is_installed():
        raise ConfigurationError(
            "learned scores need scikit-learn: pip install 'raidhub-dagster[ml]'"
        )


def library_version() -> str:
    """Of scikit-learn, whose objects other versions do not read. Raises ConfigurationError."""
    require_installed()
    import sklearn

    return str(sklearn.__version__)


class Scores(NamedTuple):
    """One of each a row, all in 0..1."""

    total: Floats  # how much speaks for a look: either of the two, or both
    known: Floats  # how much it looks like what was confirmed
    odd: Floats  # how odd it is among clean runs


class Tail(NamedTuple):
    """Where a number becomes rare among rows that nobody confirmed."""

    middle: float  # what one in a thousand would reach
    width: float  # from there down to what one in a hundred reaches

    def distance(self, values: Floats) -> Floats:
        """0 at one in a thousand, -1 at one in a hundred."""
        return (values - self.middle) / self.width


@dataclass(frozen=True)
class Model:
    """Everything a score needs; made by `train`, kept by artifact.py."""

    norms: Norms
    forest: Any  # IsolationForest
    classifier: Any  # HistGradientBoostingClassifier
    rarity: float  # clean rows behind one that was learned from, against the same of confirmed ones
    tails: tuple[Tail, Tail]  # of the forest's oddness, and of the largest gains


def train(
    rows: Rows,
    positive: Flags,
    negative: Flags,
    weights: Floats,
    *,
    norms: Norms | None = None,
    seed: int = SEED,
) -> Model:
    """Learns from `rows`; those that are neither positive nor negative only show what is usual.

    `weights` are how many rows of the whole each one stands for. `norms` are those of `rows`,
    unless given. The same input gives the same model. Raises ConfigurationError without the extra,
    ValueError without a positive or a negative.
    """
    require_installed()
    from sklearn.ensemble import (
        HistGradientBoostingClassifier,
        IsolationForest,
    )

    if not positive.any() or not negative.any():
        raise ValueError("a model needs positives and negatives")
    norms = norms or fit_norms(rows)
    spreads = standardise(rows, find_usual(norms, rows))
    clean = _gains(spreads[~positive])
    forest = IsolationForest(
        n_estimators=_TREES, max_samples=min(_ROWS_A_TREE, len(clean)), random_state=seed
    )
    forest.fit(clean)
    some = clean[:: -(-len(clean) // _ROWS_OF_THE_TAIL)]
    tails = _tail(_oddness(forest, some)), _tail(_largest(some))
    labelled = positive | negative
    classifier = HistGradientBoostingClassifier(
        max_iter=_ROUNDS,
        learning_rate=0.12,
        max_leaf_nodes=8,
        min_samples_leaf=30,
        l2_regularization=5.0,
        monotonic_cst=[feature.sign for feature in FEATURES],
        early_stopping=False,
        random_state=seed,
    )
    with one_thread():
        # Without weights, by which scikit-learn sorts every column once a bin (a minute at 200 000
        # rows): how many more clean rows there are than were drawn is put into the scores instead.
        classifier.fit(spreads[labelled], positive[labelled])
    rarity = float(weights[negative].mean() / weights[positive].mean())
    return Model(norms, forest, classifier, rarity, tails)


def score(model: Model, rows: Rows) -> Scores:
    """The scores of `rows`, against the norms that the model was trained with."""
    return score_spreads(model, standardise(rows, find_usual(model.norms, rows)))


def score_usual(model: Model, rows: Rows, usual: Usual) -> tuple[Scores, Floats]:
    """Scores and spreads, for whoever looked up already what is usual."""
    spreads = standardise(rows, usual)
    return score_spreads(model, spreads), spreads


def score_spreads(model: Model, spreads: Floats) -> Scores:
    """The scores of rows of which the spreads are known; nan is unknown, which is usual."""
    if not len(spreads):
        return Scores(np.empty(0), np.empty(0), np.empty(0))
    known, odd = [], []
    with one_thread():
        for start in range(0, len(spreads), _CHUNK):
            chunk = spreads[start : start + _CHUNK]
            clean, confirmed = model.classifier.predict_proba(chunk).T
            known.append(confirmed / (confirmed + clean * model.rarity))
            gains = _gains(chunk)
            distance = model.tails[0].distance(_oddness(model.forest, gains))
            distance = (distance + model.tails[1].distance(_largest(gains))) / 2
            odd.append(1 / (1 + np.exp(-_LOGITS_TO_A_TWENTIETH * np.clip(distance, -20, 20))))
    of_known, of_odd = np.concatenate(known), np.concatenate(odd)
    # Half, because what resembles verdicts is what the rules judge already.
    return Scores(1 - (1 - of_known / 2) * (1 - of_odd), of_known, of_odd)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, OpenMP works in the caller's thread alone.

    Its threads wait for each other at every node of a tree, actively: beside other work on the same
    cores that took ten times as long as one thread does.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="openmp"):
        yield


_GAINS = [place for place, feature in enumerate(FEATURES) if feature.gain]
_DIRECTIONS = np.array([feature.gain for feature in FEATURES if feature.gain], dtype=np.float64)
_LARGEST = 3


def _gains(spreads: Floats) -> Floats:
    """How far each row is on the side that helps; the other side, and the unknown, are 0.

    Who idles is odd too, but nobody cheats to be worse.
    """
    return np.maximum(np.nan_to_num(spreads[:, _GAINS], nan=0.0) * _DIRECTIONS, 0.0)


def _largest(gains: Floats) -> Floats:
    """The mean of the three largest gains; a forest alone cuts past those who are odd in few."""
    return np.asarray(np.sort(gains, axis=1)[:, -_LARGEST:].mean(axis=1), dtype=np.float64)


def _oddness(forest: Any, gains: Floats) -> Floats:
    """In 0..1: how few cuts it takes to separate a row from all others."""
    return np.asarray(-forest.score_samples(gains), dtype=np.float64)


def _tail(values: Floats) -> Tail:
    """From what one in ten and one in a hundred reach: a tail falls by a tenth in equal steps.

    Not read off farther out, where the cheaters are whom nobody knows yet.
    """
    often, seldom = np.quantile(values, (0.9, 0.99))
    step = max(float(seldom - often), 1e-6)
    return Tail(float(seldom) + step, step)
