"""What a model learns from: runs of which rules or people are sure, and runs found clean.

The labels are weak: the rules may be wrong, and a clean verdict only says that no rule spoke. What
people decided wins over what rules said. Rules: docs/domain/cheat-learning.md, "Labels".
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import NamedTuple

import numpy as np
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_learning.features import (
    Flags,
    Floats,
    Ints,
    Rows,
    Window,
    count_players,
    read_rows,
)
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "review_queue")

SURE = 0.85  # of a player's flag: class a of the levels
_MOST_LISTED = 5000  # confirmed, and dismissed, player-instances; the newest
_WANTED_AT_ONCE = 500
_IDS_AT_ONCE = 10_000
_ROWS_AT_ONCE = 100_000  # some 60 MB on this side
_FIRST_REASON, _LAST_REASON = 46, 62  # bits of a flag that are not a raid's
_MOST_REASONS = 3
_LEAST_OF_A_REASON = 5

Pair = tuple[int, int]  # instance, player


@dataclass(frozen=True)
class Labelled:
    """Rows with what is thought of them; a row may be neither positive nor negative."""

    rows: Rows
    positive: Flags
    negative: Flags
    bitmasks: Ints  # of the flags behind a positive; 0 where people said so
    weights: Floats  # how many rows of the whole each one stands for

    def take(self, which: Flags) -> "Labelled":
        return Labelled(
            self.rows.take(which),
            self.positive[which],
            self.negative[which],
            self.bitmasks[which],
            self.weights[which],
        )

    def reasons(self) -> list[int]:
        """The commonest bits of reasons among the positives, the commonest first."""
        bits = {
            bit: int(((self.bitmasks[self.positive] >> bit) & 1).sum())
            for bit in range(_FIRST_REASON, _LAST_REASON + 1)
        }
        often = [bit for bit, number in bits.items() if number >= _LEAST_OF_A_REASON]
        return sorted(often, key=lambda bit: (-bits[bit], bit))[:_MOST_REASONS]


class Known(NamedTuple):
    """What is thought of player-instances and players, before it is put beside rows."""

    confirmed: Mapping[Pair, int]  # -> bitmask of the flags
    dismissed: Collection[Pair]
    clean: Collection[int]  # instances
    doubtful: Collection[int]  # players


def window_of(
    connection: Connection, parameters: Parameters, since: datetime, until: datetime
) -> Window:
    """Runs completed in [since, until), both aware, outside the bug windows of the rules."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_seasons"])
        seasons = tuple(begin for (begin,) in cursor)
    bugs = tuple((w.begins, w.ends or _FAR_OFF) for w in parameters.skip.windows)
    return Window(since, until, seasons, bugs)


_FAR_OFF = datetime(2100, 1, 1, tzinfo=UTC)


def slices(window: Window, rows: int) -> Iterator[Window]:
    """The window, of which about `rows` will be read, in pieces of equal length.

    So that neither store nor this process holds all of it at once.
    """
    pieces = max(1, ceil(rows / _ROWS_AT_ONCE))
    ends = [window.since + (window.until - window.since) * n / pieces for n in range(pieces)]
    for since, until in zip(ends, [*ends[1:], window.until], strict=True):
        yield window._replace(since=since, until=until)


def read_labelled(
    connection: Connection,
    client: Client,
    window: Window,
    parameters: Parameters,
    *,
    most_rows: int,
) -> Labelled:
    """About `most_rows` rows drawn by runs, and every confirmed or dismissed one besides.

    Of those two the newest 5000 each. Raises as `read_rows`, and psycopg2's errors.
    """
    scope = {
        "sure": SURE,
        "prefixes": list(parameters.flag_prefixes),
        "since": window.since,
        "until": window.until,
        "limit": _MOST_LISTED,
    }
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_confirmed"], scope)
        confirmed = {(instance, player): bitmask for instance, player, bitmask in cursor}
        cursor.execute(_SQL["read_dismissed"], scope)
        dismissed = set(cursor.fetchall())
    number = count_players(client, window)
    modulus = max(1, ceil(number / most_rows))
    parts = [read_rows(client, part, modulus=modulus) for part in slices(window, number // modulus)]
    listed = {instance for instance, _ in (*confirmed, *dismissed)}
    rows = _with_listed(client, window, parts, listed)
    known = Known(
        confirmed,
        dismissed,
        _ask(connection, "read_clean", "instances", rows.instance_ids, scope),
        _ask(connection, "read_doubtful", "players", rows.membership_ids, scope),
    )
    return label(rows, known, modulus=modulus)


def label(rows: Rows, known: Known, *, modulus: int) -> Labelled:
    """Puts beside each row what is thought of it; a drawn row stands for `modulus` rows."""
    bitmasks = np.zeros(len(rows), dtype=np.int64)
    positive, dismissed = np.zeros((2, len(rows)), dtype=np.bool_)
    listed = {instance for instance, _ in (*known.confirmed, *known.dismissed)}
    for place in np.flatnonzero(_among(rows.instance_ids, listed)):
        pair = (int(rows.instance_ids[place]), int(rows.membership_ids[place]))
        dismissed[place] = pair in known.dismissed
        if pair in known.confirmed and not dismissed[place]:
            positive[place], bitmasks[place] = True, known.confirmed[pair]
    negative = _among(rows.instance_ids, known.clean) & rows.is_sampled
    negative &= ~_among(rows.membership_ids, known.doubtful)
    negative = (negative | dismissed) & ~positive
    # What was read besides, because it is known, is there whole and stands for itself.
    weights = np.where(rows.is_sampled & ~positive & ~dismissed, float(modulus), 1.0)
    return Labelled(rows, positive, negative, bitmasks, weights)


def _with_listed(
    client: Client, window: Window, parts: Sequence[Rows], listed: Collection[int]
) -> Rows:
    """The drawn rows and, of runs that were not drawn, the listed ones, ordered by id."""
    drawn = {int(instance) for part in parts for instance in np.unique(part.instance_ids)}
    missing = sorted(set(listed) - drawn)
    others = [
        read_rows(client, window, modulus=0, wanted=missing[start : start + _WANTED_AT_ONCE])
        for start in range(0, len(missing), _WANTED_AT_ONCE)
    ]
    rows = Rows.joined([*parts, *others])
    return rows.take(np.lexsort((rows.membership_ids, rows.instance_ids)))


def _ask(
    connection: Connection, statement: str, name: str, ids: Ints, scope: Mapping[str, object]
) -> set[int]:
    """What `statement` returns for these ids, asked in batches."""
    found: set[int] = set()
    distinct = np.unique(ids)
    for start in range(0, len(distinct), _IDS_AT_ONCE):
        batch = array(distinct[start : start + _IDS_AT_ONCE].tolist())
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL[statement], {**scope, name: batch})
            found.update(id_ for (id_,) in cursor)
    return found


def _among(ids: Ints, wanted: Iterable[int]) -> Flags:
    return np.isin(ids, np.fromiter(wanted, dtype=np.int64))
