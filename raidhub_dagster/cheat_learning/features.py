"""What a player did in a run, as numbers beside those of runs of the same kind.

A run's kind is its raid, version, season, team size and whether it was fresh; its norms say what is
usual there. Reading is SQL (sql/clickhouse/queries/cheat_features.sql), the rest plain arrays. No
model and no verdict here. Rules: docs/domain/cheat-learning.md, "Features".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from clickhouse_connect.driver.client import Client
from numpy.typing import NDArray

from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.queries import load

_SQL = load("clickhouse", "cheat_features")

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Feature(NamedTuple):
    """One measure, by its column; `words` for a sentence.

    `floor` is the least spread that counts as one, after the logarithm if there is one: where
    everybody does the same, a hair's breadth is no sign. `sign` is 1 where only more of it speaks
    for cheating, -1 where only less of it does, 0 where either may. `gain` is 1 where more of it
    helps a team, -1 where less does, 0 where it helps nobody, or is a part of another measure.
    """

    column: str
    words: str
    is_log: bool
    floor: float
    sign: int = 0
    gain: int = 0


FEATURES = (
    Feature("kills_per_minute", "kills per minute", True, 0.10, 1, 1),
    Feature("deaths_per_minute", "deaths per minute", True, 0.03, 0, -1),
    Feature("assists_per_minute", "assists per minute", True, 0.10, 0, 1),
    Feature("supers_per_minute", "super kills per minute", True, 0.05, 1),
    Feature("grenades_per_minute", "grenade kills per minute", True, 0.05, 1),
    Feature("melees_per_minute", "melee kills per minute", True, 0.05),
    Feature("precision_share", "precision kills of all kills", False, 0.04, 0, 1),
    Feature("ability_share", "ability kills of all kills", False, 0.04),
    Feature("kills_to_team", "kills against the team's average", True, 0.08, 1, 1),
    Feature("deaths_to_team", "deaths against the team's average", True, 0.10, 0, -1),
    Feature("assists_to_team", "assists against the team's average", True, 0.08, 0, 1),
    Feature("kills_per_death", "kills per death", True, 0.25, 0, 1),
    Feature("assists_per_kill", "assists per kill", True, 0.05),
    Feature("time_share", "of the run's duration played", False, 0.03),
    Feature("team_time_share", "of the run's duration played by the team", False, 0.03),
    Feature("duration_minutes", "minutes of duration", True, 0.08, -1, -1),
    Feature("weapons_used", "different weapons", True, 0.10),
    Feature("top_weapon_share", "kills by the most used weapon", False, 0.04, 0, 1),
    Feature("heavy_share", "kills by heavy weapons", False, 0.04, 1, 1),
    Feature("start_share", "of the duration before joining", False, 0.05),
)
# What a model was made for: the columns and how they are read. A model of another schema is
# refused, so a change of any feature is a change here.
SCHEMA = tuple(
    f"{f.column}:{'log' if f.is_log else 'plain'}:{f.floor}:{f.sign}:{f.gain}" for f in FEATURES
)

# Fewer players than this say nothing about what is usual: the next wider kind is asked.
MIN_GROUP = 40
MOST_SPREADS = 8.0  # farther away is no stranger, and no number too large for a model
_FULL_WEIGHT_MINUTES = 10.0
_QUANTILES = (0.1, 0.5, 0.9)
_SPREADS_OF_A_TENTH = 1.2816  # of a normal distribution, from the median to its outer tenths


@dataclass(frozen=True)
class Rows:
    """Player-instances, one a row, ascending by instance and player; all arrays of that length."""

    instance_ids: Ints
    membership_ids: Ints
    activity_ids: Ints
    version_ids: Ints
    seasons: Ints
    team_sizes: Ints
    is_fresh: Flags
    weeks: Ints  # since 1970
    is_sampled: Flags  # drawn by chance, so that each stands for `modulus` rows
    values: Floats  # (rows, FEATURES), nan where nothing is known

    def __len__(self) -> int:
        return len(self.instance_ids)

    def take(self, which: Flags | Ints) -> "Rows":
        """Those of a mask, or at these places."""
        return Rows(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    @staticmethod
    def joined(parts: Sequence["Rows"]) -> "Rows":
        """All of them, one part after another; at least one part."""
        names = Rows.__dataclass_fields__
        return Rows(*(np.concatenate([getattr(part, n) for part in parts]) for n in names))


class Window(NamedTuple):
    """Of which runs: completed in [since, until), both aware; see the SQL for the rest."""

    since: datetime
    until: datetime
    seasons: tuple[datetime, ...]  # their beginnings, ascending
    bugs: tuple[tuple[datetime, datetime], ...]  # known ones, whose runs are left out


def count_players(client: Client, window: Window) -> int:
    """How many rows a reading of the whole window has, about. Raises as `read_rows`."""
    return _count(client, "count_players", window)


def count_kept(client: Client, window: Window) -> int:
    """How many rows exactly, counted in another way than they are read. Raises as `read_rows`."""
    return _count(client, "count_kept", window)


def read_rows(
    client: Client, window: Window, *, modulus: int = 1, wanted: Iterable[int] = ()
) -> Rows:
    """Rows of every `modulus`-th run of the window (0: of none), and of the runs `wanted` besides.

    Which ones is settled by their ids. At most a thousand may be wanted: they travel in the
    address. Raises TransientError when ClickHouse is away or busy, PermanentError when it refuses.
    """
    parameters = _parameters(window) | {"modulus": modulus, "wanted": list(wanted)}
    with answered():
        # Columns as arrays: as lists of Python's numbers they take ten times the memory.
        frame = client.query_df(_SQL["read_measures"], parameters=parameters)
    return _rows({name: frame[name].to_numpy() for name in frame.columns})


def _parameters(window: Window) -> dict[str, Any]:
    return {
        "since": window.since,
        "until": window.until,
        "seasons": list(window.seasons),
        "begins": [begin for begin, _ in window.bugs],
        "ends": [end for _, end in window.bugs],
    }


def _count(client: Client, name: str, window: Window) -> int:
    with answered():
        ((rows,),) = client.query(_SQL[name], parameters=_parameters(window)).result_rows
    return int(rows)


def _rows(named: dict[str, Any]) -> Rows:
    """Of columns by name; a result without a block has none of them."""

    def integers(name: str) -> Ints:
        return np.asarray(named.get(name, ()), dtype=np.int64)

    def flags(name: str) -> Flags:
        return np.asarray(named.get(name, ()), dtype=np.bool_)

    columns = [np.asarray(named.get(f.column, ()), dtype=np.float64) for f in FEATURES]
    return Rows(
        integers("instance_id"),
        integers("membership_id"),
        integers("activity_id"),
        integers("version_id"),
        integers("season"),
        integers("team_size"),
        flags("is_fresh"),
        integers("week"),
        flags("is_sampled"),
        np.column_stack(columns),
    )


# From the narrowest kind to the widest; words for a sentence.
KINDS = (
    "the same raid, version, season, team size and freshness",
    "the same raid, version, team size and freshness",
    "the same raid and freshness",
    "the same freshness",
)


def _keys(rows: Rows) -> tuple[Ints, ...]:
    """The kind of each row as a number, from the narrowest to the widest (KINDS)."""
    fresh = rows.is_fresh.astype(np.int64)
    raid = (rows.activity_ids << 1) | fresh
    team = (((raid << 16) | rows.version_ids) << 6) | np.minimum(rows.team_sizes, 63)
    return (team << 10) | rows.seasons, team, raid, fresh


@dataclass(frozen=True)
class Norms:
    """What is usual in each kind of run: quantiles of every measure, by kind from narrow to wide.

    `keys[k]` ascends; `quantiles[k]` is (kinds, FEATURES, 3) and `counts[k]` (kinds, FEATURES), of
    players of whom the measure is known.
    """

    keys: tuple[Ints, ...]
    quantiles: tuple[Floats, ...]
    counts: tuple[Ints, ...]


class Usual(NamedTuple):
    """What is usual where each row belongs; all are (rows, FEATURES)."""

    median: Floats  # in the measure's own unit; nan when no kind is large enough
    low: Floats  # the lowest tenth
    high: Floats  # the highest tenth
    players: Ints  # of how many it is told
    kind: Ints  # which of KINDS


def fit_norms(rows: Rows) -> Norms:
    """The norms of `rows`, whoever they are of: cheaters are few, and quantiles do not mind few."""
    found = [_quantiles(key, rows.values) for key in _keys(rows)]
    keys, quantiles, counts = zip(*found, strict=True)
    return Norms(keys, quantiles, counts)


def _quantiles(key: Ints, values: Floats) -> tuple[Ints, Floats, Ints]:
    kinds, inverse = np.unique(key, return_inverse=True)
    starts = np.searchsorted(inverse[np.argsort(inverse, kind="stable")], np.arange(len(kinds)))
    quantiles = np.full((len(kinds), values.shape[1], len(_QUANTILES)), np.nan)
    counts = np.zeros((len(kinds), values.shape[1]), dtype=np.int64)
    for place, column in enumerate(values.T):
        ordered = column[np.lexsort((column, inverse))]  # nan comes last in each kind
        known = np.bincount(inverse, weights=~np.isnan(column), minlength=len(kinds))
        count = known.astype(np.int64)
        some = count > 0
        for rank, quantile in enumerate(_QUANTILES):
            at = quantile * (count[some] - 1)
            below = np.floor(at).astype(np.int64)
            above = np.minimum(below + 1, count[some] - 1)
            left, right = ordered[starts[some] + below], ordered[starts[some] + above]
            quantiles[some, place, rank] = left + (at - below) * (right - left)
        counts[:, place] = count
    return kinds, quantiles, counts


def find_usual(norms: Norms, rows: Rows) -> Usual:
    """Of each row and measure: by the narrowest kind of which MIN_GROUP players are known."""
    shape = rows.values.shape
    quantiles = np.full((*shape, len(_QUANTILES)), np.nan)
    players, kind = np.zeros(shape, dtype=np.int64), np.full(shape, len(KINDS) - 1)
    missing = np.ones(shape, dtype=np.bool_)
    for level, key in enumerate(_keys(rows)):
        keys = norms.keys[level]
        if not len(keys):
            continue
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        known = norms.counts[level][at]
        usable = missing & (keys[at] == key)[:, None] & (known >= MIN_GROUP)
        quantiles[usable] = norms.quantiles[level][at][usable]
        players[usable], kind[usable] = known[usable], level
        missing &= ~usable
    low, median, high = np.moveaxis(quantiles, 2, 0)
    return Usual(median, low, high, players, kind)


def standardise(rows: Rows, usual: Usual) -> Floats:
    """How many spreads each measure is from the median of its kind, in +-MOST_SPREADS.

    The spread is that of the side on which it lies, by the outer tenth. Who played less than ten
    minutes is nearer by as much: rates of a short time are chance. nan where the measure or what is
    usual is unknown.
    """
    scores = np.empty_like(rows.values)
    for place, feature in enumerate(FEATURES):
        value, median, low, high = (
            np.log1p(np.maximum(column, 0)) if feature.is_log else column
            for column in (
                rows.values[:, place],
                usual.median[:, place],
                usual.low[:, place],
                usual.high[:, place],
            )
        )
        side = np.where(value >= median, high - median, median - low) / _SPREADS_OF_A_TENTH
        scores[:, place] = (value - median) / np.maximum(side, feature.floor)
    minutes = rows.values[:, _TIME_SHARE] * rows.values[:, _MINUTES]
    weight = np.minimum(minutes / _FULL_WEIGHT_MINUTES, 1)
    return np.clip(scores, -MOST_SPREADS, MOST_SPREADS) * weight[:, None]


_TIME_SHARE, _MINUTES = (
    [feature.column for feature in FEATURES].index(name)
    for name in ("time_share", "duration_minutes")
)
