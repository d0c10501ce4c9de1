"""Makes both stores, the ledger and the outbox fit each other after one of them lost its data.

Nothing here is wrong twice: ids are asked for again, messages sent again, days counted again.
Rules: docs/operations/backup.md, "What a restore does again".
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_parity import (
    DAY_AGGREGATES,
    day_totals,
    differing_totals,
    stored_totals,
)
from raidhub_dagster.storage.clickhouse_rebuild import (
    Rebuilt,
    rebuild,
    rebuild_awaiting,
    rebuild_days,
    rebuild_relations,
)
from raidhub_dagster.storage.clickhouse_reports import (
    WEAPON_META_TREND,
    WEEKLY_RAID_REPORT,
    rebuild_weeks,
    week_of,
)
from raidhub_dagster.storage.clickhouse_sender import held_off
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "reconcile")
_SNAPSHOT = load("postgres", "clickhouse")["begin_snapshot"]

_FIRST_DAY, _LAST_DAY = date(1970, 1, 1), date(2106, 1, 1)
# Longer than any aggregate by day is kept; what is older is passed over.
_KEPT_DAYS = 367


class Reopened(NamedTuple):
    """What is done again; all of it is harmless where it was not lost."""

    blocks: int
    missed: int
    parked: int
    messages: int


def reopen(connection: Connection, *, hours: int) -> Reopened:
    """Asks again for what the broker carried: blocks, missed ids, messages; commits.

    Blocks by count: those of whose raids some never arrived. Missed ids and messages by time:
    `hours` before the oldest such block, or else before the last block.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["release_unstored_blocks"], {"hours": hours})
        ((blocks, since),) = cursor.fetchall()
        changed = []
        for name in ("reopen_missed", "retry_parked", "resend_messages"):
            cursor.execute(_SQL[name], {"since": since})
            changed.append(cursor.rowcount)
    return Reopened(blocks, *changed)


def match_clickhouse(
    connection: Connection, client: Client, *, now: datetime, everything: bool = False
) -> Iterator[Rebuilt]:
    """Makes ClickHouse what PostgreSQL holds, on the days where they differ; then marked days.

    `everything` counts every aggregate and report anew, also where `instance` is right. Rows that
    are still to be sent are left out, and the views count them when they come, whatever batch
    they were in before. Raises as `clickhouse_rebuild.rebuild`.
    """
    with answered(), held_off(connection, client, now=now):
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["unfix_batches"])
        with connection, connection.cursor() as cursor:
            cursor.execute(_SNAPSHOT)
            expected = day_totals(cursor, _FIRST_DAY, _LAST_DAY, sent_only=True)
        stored = stored_totals(client, _FIRST_DAY, _LAST_DAY)
    differing = {d.day for d in differing_totals(expected, stored) if d.day is not None}
    yield from rebuild_days(connection, client, differing, now=now)
    if everything:
        yield from _rebuild_all(connection, client, expected.keys() | stored.keys(), now)
    yield from rebuild_awaiting(connection, client, now=now)
    if everything or differing:
        yield rebuild_relations(connection, client, now=now)


def _rebuild_all(
    connection: Connection, client: Client, days: set[date], now: datetime
) -> Iterator[Rebuilt]:
    recent = {day for day in days if day > now.date() - timedelta(days=_KEPT_DAYS)}
    # A run counts as population on the days before, and in clear times on its game day.
    touched = {day - timedelta(days=n) for day in recent for n in range(4)}
    for table in DAY_AGGREGATES:
        yield from rebuild(connection, client, table, touched, now=now)
    weeks = sorted({week_of(day - timedelta(days=n)) for day in days for n in (0, 1)})
    for table in (WEEKLY_RAID_REPORT, WEAPON_META_TREND):
        yield from rebuild_weeks(client, table, weeks)
