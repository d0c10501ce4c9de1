"""What the game's definitions say about hashes and activities, read from PostgreSQL.

Loading them is `seeds.py`. Nothing is cached here: a long-lived process reads again from time to
time, so that a corrected definition takes effect without a restart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "definitions")


@dataclass(frozen=True, slots=True)
class Activity:
    """A raid, or a Pantheon when not `is_raid`; times are aware, the ends exclusive."""

    id: int
    name: str
    path: str
    is_raid: bool
    is_sunset: bool
    release_date: datetime
    day_one_end: datetime
    contest_end: datetime | None
    week_one_end: datetime | None


def load_tracked_hashes(connection: Connection) -> dict[int, tuple[int, int]]:
    """Activity hash -> (activity id, version id), for every hash whose reports are stored."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["select_tracked_hashes"])
        return {hash_: (activity, version) for hash_, activity, version in cursor}


def load_hash_names(connection: Connection) -> dict[int, tuple[str, str]]:
    """Activity hash -> (name of the activity, name of the version)."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["select_hash_names"])
        return {hash_: (activity, version) for hash_, activity, version in cursor}


def load_activities(connection: Connection) -> list[Activity]:
    """Every activity, by id."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["select_activities"])
        return [Activity(*row) for row in cursor]


def recompute_sum_of_best(cursor: Cursor, players: Sequence[int] | None = None) -> int:
    """Brings sums of best times of everyone, or of `players`, to the present raids.

    Returns how many changed. The caller owns the transaction and keeps other writers of these
    players out (`seeds.py` does, `derived_columns.py` for a few at a time): a sum written meanwhile
    by the old definitions would stay.
    """
    given = None if players is None else array(players)
    cursor.execute(_SQL["recompute_sum_of_best"], {"players": given})
    return cursor.rowcount


class Definition(NamedTuple):
    """A row of a definition; `digest` changes whenever any of its columns does."""

    table: str
    key: int
    name: str
    digest: str


def load_digests(connection: Connection) -> list[Definition]:
    """Every activity, version, hash and season, by table and key."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["select_digests"])
        return [Definition(*row) for row in cursor]
