"""How far the tables that the stream writes have come: rows, newest id, lag.

Measures only; who is told, and when, is decided by the sensor.
"""

from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.missed import OPEN, State, count_by_state
from raidhub_dagster.storage.queries import load

_POSTGRES = load("postgres", "progress")
_CLICKHOUSE = load("clickhouse", "progress")


class Progress(NamedTuple):
    """State of one table; what a table does not have is None."""

    table: str  # as the store names it, in PostgreSQL with its schema
    rows: int
    is_estimate: bool  # the planner's figure instead of a count
    newest_id: int | None
    lag_s: float | None  # age of what the table's description says, never negative
    waiting: int | None  # rows that somebody still has to work on, counted up to 100 001


class Stream(NamedTuple):
    """What PostgreSQL knows of the stream at one moment. Counts of what waits stop at 100 001."""

    ids_last_minute: int  # of blocks that were finished in it: a block counts at its end
    raids_last_minute: int  # stored
    newest_id: int | None  # raid
    newest_age_s: float | None  # since it ended
    newest_stored_s: float | None  # since it was stored
    open_gaps: int
    open_gap_ids: int
    unsent: int  # effects in the outbox
    unsent_oldest_s: float
    clickhouse_pending: int  # rows and corrections that it lacks
    clickhouse_oldest_s: float
    dirty_days: int
    missed: dict[State, int]  # rows of every state that somebody still has to work on


def measure_stream(connection: Connection) -> Stream:
    """Takes milliseconds, two statements."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["measure_stream"])
        (row,) = cursor.fetchall()
        missed = {s: rows for s, rows in count_by_state(cursor).items() if s in OPEN}
    return Stream._make((*row, missed))


def postgres_progress(connection: Connection) -> list[Progress]:
    """One Progress for each watched table of PostgreSQL, by name."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["measure_tables"])
        return [Progress(*row) for row in cursor.fetchall()]


def clickhouse_progress(client: Client) -> list[Progress]:
    """One Progress for each watched table of ClickHouse, by name; raises DatabaseError.

    `rows` are as stored, that is before the engine merges them.
    """
    found = client.query(_CLICKHOUSE["measure_tables"]).result_rows
    return [
        Progress(name, rows, False, newest_id, None if lag_s is None else max(lag_s, 0), None)
        for name, rows, newest_id, lag_s in found
    ]
