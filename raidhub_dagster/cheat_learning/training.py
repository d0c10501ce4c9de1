"""From stored runs to a model in its folder, with the figures of what was held out."""

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_learning.artifact import Entry, save
from raidhub_dagster.cheat_learning.evaluation import (
    Bin,
    Figures,
    evaluate_splits,
)
from raidhub_dagster.cheat_learning.features import (
    FEATURES,
    KINDS,
    Floats,
    Rows,
    count_kept,
    count_players,
    find_usual,
    fit_norms,
    read_rows,
    standardise,
)
from raidhub_dagster.cheat_learning.labels import read_labelled, slices, window_of
from raidhub_dagster.cheat_learning.models import require_installed, train

# Less teaches a model chance: it would advise to look at whoever is rare.
LEAST_ROWS = 2000
LEAST_POSITIVES = 30
LEAST_NEGATIVES = 1000


class TooLittle(NamedTuple):
    """Why no model was made; nothing was written."""

    rows: int
    positives: int
    negatives: int

    @property
    def reason(self) -> str:
        return (
            f"too little to learn from: {self.rows} player-instances (at least {LEAST_ROWS}), "
            f"{self.positives} confirmed (at least {LEAST_POSITIVES}), "
            f"{self.negatives} clean (at least {LEAST_NEGATIVES})"
        )


@dataclass(frozen=True)
class Trained:
    """A model that was made, and how good it was on what it did not see."""

    entry: Entry
    figures: tuple[Figures, ...]
    calibration: tuple[Bin, ...]  # on weeks that it did not see
    read_s: float
    train_s: float
    evaluate_s: float


def train_model(
    connection: Connection,
    client: Client,
    parameters: Parameters,
    folder: Path,
    *,
    since: datetime,
    until: datetime,
    most_rows: int,
    precision: float,
    now: datetime,
) -> Trained | TooLittle:
    """Learns from runs completed in [since, until) and saves what it learned.

    `precision` is the one at which recall is read. All times are aware. Raises ConfigurationError
    without the extra `ml`, and as `read_labelled` and `save`.
    """
    require_installed()
    started = time.monotonic()
    window = window_of(connection, parameters, since, until)
    labelled = read_labelled(connection, client, window, parameters, most_rows=most_rows)
    counts = (len(labelled.rows), int(labelled.positive.sum()), int(labelled.negative.sum()))
    if any(n < least for n, least in zip(counts, _LEAST, strict=True)):
        return TooLittle(*counts)
    read = time.monotonic()
    model = train(labelled.rows, labelled.positive, labelled.negative, labelled.weights)
    trained = time.monotonic()
    figures, bins = evaluate_splits(labelled, precision=precision)
    evaluated = time.monotonic()
    entry = save(
        connection,
        folder,
        model,
        since=since,
        until=until,
        counts=counts,
        metrics={"precision": precision, "splits": [f._asdict() for f in figures]},
        now=now,
    )
    return Trained(
        entry,
        tuple(figures),
        tuple(bins),
        read_s=read - started,
        train_s=trained - read,
        evaluate_s=evaluated - trained,
    )


_LEAST = (LEAST_ROWS, LEAST_POSITIVES, LEAST_NEGATIVES)


@dataclass(frozen=True)
class Overview:
    """Features of a window as they are read, without any model."""

    rows: int
    expected_rows: int  # counted in another way
    seconds: float
    kinds: dict[str, float]  # words of a kind -> share of measures that it says what is usual of
    features: tuple[dict[str, object], ...]  # a line a feature


def look_at_features(
    connection: Connection,
    client: Client,
    parameters: Parameters,
    *,
    since: datetime,
    until: datetime,
) -> Overview:
    """Reads all rows of the window and says how they look. Raises as `read_rows`."""
    started = time.monotonic()
    window = window_of(connection, parameters, since, until)
    number = count_players(client, window)
    rows = Rows.joined([read_rows(client, part) for part in slices(window, number)])
    usual = find_usual(fit_norms(rows), rows)
    spreads = standardise(rows, usual)
    seconds = time.monotonic() - started
    told = usual.players > 0
    kinds = {
        words: float((told & (usual.kind == level)).sum() / max(told.size, 1))
        for level, words in enumerate(KINDS)
    }
    kinds["too few anywhere"] = float((~told).sum() / max(told.size, 1))
    return Overview(
        len(rows),
        count_kept(client, window),
        seconds,
        kinds,
        tuple(_line(rows, spreads, place) for place in range(len(FEATURES))),
    )


def _line(rows: Rows, spreads: Floats, place: int) -> dict[str, object]:
    column, away = rows.values[:, place], np.abs(spreads[:, place])
    known = ~np.isnan(column)
    quantiles = np.quantile(column[known], (0.1, 0.5, 0.9)) if known.any() else (0.0, 0.0, 0.0)
    return {
        "feature": FEATURES[place].column,
        **dict(zip(("low_tenth", "median", "high_tenth"), map(_rounded, quantiles), strict=True)),
        "unknown_percent": _rounded(100 * (~known).mean()) if len(column) else 0.0,
        "beyond_4_spreads_percent": _rounded(100 * (away > 4).mean()) if len(column) else 0.0,
    }


def _rounded(number: float) -> float:
    return round(float(number), 4)
