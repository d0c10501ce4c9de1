"""What the game's definitions say about hashes and activities, read from PostgreSQL.

Loading them is `seeds.py`. Nothing is cached here: a long-lived process reads again from time to
time, so that a corrected definition takes effect without a restart.
"""

from dataclasses import dataclass
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

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


def recompute_sum_of_best(cursor: Cursor) -> int:
    """Brings every player's sum of best times to the present raids; returns how many changed.

    The caller owns the transaction and keeps other writers of players out (`seeds.py` does): a
    sum written meanwhile by the old definitions would stay.
    """
    cursor.execute(_SQL["recompute_sum_of_best"])
    return cursor.rowcount
