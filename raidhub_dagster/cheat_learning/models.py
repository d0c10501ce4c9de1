"""What is learned: how odd a player's run is, how much it looks like a confirmed one, and both.

scikit-learn is an optional extra; it is imported where it is needed, so that everything else runs
without it. Rules: docs/domain/cheat-learning.md, "Models".
"""

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
_TREES = 200
_ROWS_A_TREE = 4096  # with fewer, what is odd in one measure alone is not isolated
_ROUNDS = 150
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


@dataclass(frozen=True)
class Model:
    """Everything a score needs; made by `train`, kept by artifact.py."""

    norms: Norms
    forest: Any  # IsolationForest
    classifier: Any  # HistGradientBoostingClassifier
    middle: float  # the oddness that one clean row in a thousand has: there `odd` is 0.5
    width: float  # from there to what one in a hundred has, where `odd` is 0.05


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
    clean = _filled(spreads[~positive])
    forest = IsolationForest(
        n_estimators=_TREES, max_samples=min(_ROWS_A_TREE, len(clean)), random_state=seed
    )
    forest.fit(clean)
    usual, rare = np.quantile(_oddness(forest, clean), (0.99, 0.999))
    labelled = positive | negative
    classifier = HistGradientBoostingClassifier(
        max_iter=_ROUNDS,
        learning_rate=0.08,
        max_leaf_nodes=15,
        min_samples_leaf=20,
        l2_regularization=1.0,
        monotonic_cst=[feature.sign for feature in FEATURES],
        early_stopping=False,
        random_state=seed,
    )
    # So that few positives among many rows still weigh enough to be learned, and yet the scores
    # stay probabilities of the whole.
    classifier.fit(spreads[labelled], positive[labelled], sample_weight=weights[labelled])
    return Model(norms, forest, classifier, float(rare), max(float(rare - usual), 1e-6))


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
    for start in range(0, len(spreads), _CHUNK):
        chunk = spreads[start : start + _CHUNK]
        known.append(model.classifier.predict_proba(chunk)[:, 1])
        distance = (_oddness(model.forest, _filled(chunk)) - model.middle) / model.width
        odd.append(1 / (1 + np.exp(-_LOGITS_TO_A_TWENTIETH * np.clip(distance, -20, 20))))
    of_known, of_odd = np.concatenate(known), np.concatenate(odd)
    return Scores(1 - (1 - of_known) * (1 - of_odd), of_known, of_odd)


def _filled(spreads: Floats) -> Floats:
    return np.nan_to_num(spreads, nan=0.0)


def _oddness(forest: Any, filled: Floats) -> Floats:
    """In 0..1: how few cuts it takes to separate a row from all others."""
    return np.asarray(-forest.score_samples(filled), dtype=np.float64)
