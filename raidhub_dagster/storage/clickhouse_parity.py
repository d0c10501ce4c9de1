"""Compares ClickHouse with PostgreSQL, and its aggregates with what its rows add up to.

Only looks: what differs is repaired by a correction or the rebuild of a day.
"""

from datetime import date
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.queries import load

_POSTGRES = load("postgres", "clickhouse_parity")
_CLICKHOUSE = load("clickhouse", "parity")

_DAY_AGGREGATES = ("player_population_by_hour", "clear_time_by_day", "weapon_meta_by_hour")
_TIMELESS_AGGREGATE = "player_relation_weights_bidirectional"
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(2106, 1, 1)  # a little within what DateTime holds


class Difference(NamedTuple):
    """One number that is not what it should be."""

    table: str  # of ClickHouse
    day: date | None  # UTC; of clear times the game day; None where the table has no day
    key: str
    measure: str
    expected: float
    stored: float
    awaits_rebuild: bool  # its day is marked: known, and repaired by the next rebuild


def compare(
    connection: Connection,
    client: Client,
    *,
    since: date | None = None,
    until: date | None = None,
    limit: int = 20,
) -> list[Difference]:
    """Differences on the days from `since` to the one before `until`, at most `limit` a table.

    Base rows are compared with PostgreSQL per day, aggregates with a recomputation from the base
    rows, as far as they are kept. Relations of players have no day and are compared only without
    `since` and `until`. Rows that are still to be sent, or are stored meanwhile, show as
    differences: compare when the outbox is empty.
    """
    window = {"since": since or _FIRST_DAY, "until": until or _LAST_DAY}
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["select_dirty_days"])
        dirty = {day for (day,) in cursor}
    aggregates = list(_DAY_AGGREGATES)
    if since is None and until is None:
        aggregates.append(_TIMELESS_AGGREGATE)
    differences = _compare_days(connection, client, window)[:limit]
    for table in aggregates:
        found = client.query(_CLICKHOUSE[table], parameters={**window, "limit": limit})
        for day, key, measure, expected, stored in found.result_rows:
            awaits_rebuild = day in dirty if day else bool(dirty)
            differences.append(
                Difference(table, day, key, measure, expected, stored, awaits_rebuild)
            )
    return differences


def _compare_days(
    connection: Connection, client: Client, window: dict[str, date]
) -> list[Difference]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["day_totals"], window)
        _, *measures = (column.name for column in cursor.description or ())
        expected = {day: totals for day, *totals in cursor}
    rows = client.query(_CLICKHOUSE["day_totals"], parameters=window).result_rows
    stored = {day: totals for day, *totals in rows}
    nothing = [0] * len(measures)
    return [
        Difference("instance", day, str(day), measure, wanted, held, False)
        for day in sorted(expected.keys() | stored.keys())
        for measure, wanted, held in zip(
            measures, expected.get(day, nothing), stored.get(day, nothing), strict=True
        )
        if wanted != held
    ]
