"""Compares ClickHouse with PostgreSQL, and its aggregates with what its rows add up to.

Only looks: what differs is repaired by a correction or the rebuild of a day.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_sender import held_off
from raidhub_dagster.storage.queries import load

_POSTGRES = load("postgres", "clickhouse_parity")
_SNAPSHOT = load("postgres", "clickhouse")["begin_snapshot"]
_CLICKHOUSE = load("clickhouse", "parity")

DAY_AGGREGATES = ("player_population_by_hour", "clear_time_by_day", "weapon_meta_by_hour")
TIMELESS_AGGREGATE = "player_relation_weights_bidirectional"
_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(2106, 1, 1)  # a little within what DateTime holds


class Total(NamedTuple):
    """What one day adds up to."""

    instances: int
    players: int
    kills: int
    time_played_seconds: int
    first_clears: int
    sherpas: int


Totals = Mapping[date, Total]
_NOTHING = Total(0, 0, 0, 0, 0, 0)


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
    first, end = since or _FIRST_DAY, until or _LAST_DAY
    aggregates = list(DAY_AGGREGATES)
    if since is None and until is None:
        aggregates.append(TIMELESS_AGGREGATE)
    with connection, connection.cursor() as cursor:
        expected = day_totals(cursor, first, end)
    stored = stored_totals(client, first, end)
    differences = list(differing_totals(expected, stored))[:limit]
    for table in aggregates:
        marked = marked_days(connection, table)
        differences += [
            d._replace(awaits_rebuild=d.day in marked if d.day else bool(marked))
            for d in differing_counts(client, table, first, end, limit=limit)
        ]
    return differences


def marked_days(connection: Connection, table: str) -> dict[date, datetime]:
    """Days on which `table` awaits a rebuild, and when each was marked last."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["select_marks"], {"table": table})
        return dict(cursor.fetchall())


def compare_sent(
    connection: Connection, client: Client, since: date, until: date, *, now: datetime
) -> tuple[list[dict[str, object]], list[Difference]]:
    """Both stores on days that runs still come to, and a line of figures for each day.

    The sender is held off meanwhile and what it has yet to send is left out, so that a difference
    is one. Days with an open correction count as awaiting.
    """
    with answered(), held_off(connection, client, now=now):
        with connection, connection.cursor() as cursor:
            cursor.execute(_SNAPSHOT)
            expected = day_totals(cursor, since, until, sent_only=True)
            cursor.execute(_POSTGRES["select_correcting_days"])
            correcting = {day for (day,) in cursor}
        stored = stored_totals(client, since, until)
        differences = [
            d._replace(awaits_rebuild=d.day in correcting)
            for d in differing_totals(expected, stored)
        ]
        for table in DAY_AGGREGATES:
            marked = marked_days(connection, table).keys() | correcting
            differences += [
                d._replace(awaits_rebuild=d.day in marked)
                for d in differing_counts(client, table, since, until)
            ]
    off = {d.day for d in differences}
    days = [
        {"day": day, "is_equal": day not in off}
        | {
            f"{measure}_{store}": getattr(totals.get(day, _NOTHING), measure)
            for measure in ("instances", "players", "kills", "time_played_seconds")
            for store, totals in (("postgres", expected), ("clickhouse", stored))
        }
        for day in sorted(expected.keys() | stored.keys())
    ]
    return days, differences


def day_totals(cursor: Cursor, since: date, until: date, *, sent_only: bool = False) -> Totals:
    """What PostgreSQL has of each day; `sent_only` leaves out what ClickHouse has yet to get."""
    cursor.execute(
        _POSTGRES["day_totals"], {"since": since, "until": until, "sent_only": sent_only}
    )
    return {day: Total(*measures) for day, *measures in cursor}


def stored_totals(client: Client, since: date, until: date) -> Totals:
    """The same of ClickHouse."""
    window = {"since": since, "until": until}
    rows = client.query(_CLICKHOUSE["day_totals"], parameters=window).result_rows
    return {day: Total(*measures) for day, *measures in rows}


def differing_totals(expected: Totals, stored: Totals) -> Iterator[Difference]:
    """By day and measure."""
    for day in sorted(expected.keys() | stored.keys()):
        wanted, held = expected.get(day, _NOTHING), stored.get(day, _NOTHING)
        for measure in Total._fields:
            numbers = getattr(wanted, measure), getattr(held, measure)
            if numbers[0] != numbers[1]:
                yield Difference("instance", day, str(day), measure, *numbers, False)


def differing_counts(
    client: Client, table: str, since: date, until: date, *, limit: int = 20
) -> list[Difference]:
    """Where aggregate `table` is not what the base rows add up to, as far as it is kept."""
    parameters = {"since": since, "until": until, "limit": limit}
    found = client.query(_CLICKHOUSE[table], parameters=parameters).result_rows
    return [
        Difference(table, day, key, measure, expected, held, awaits_rebuild=False)
        for day, key, measure, expected, held in found
    ]
