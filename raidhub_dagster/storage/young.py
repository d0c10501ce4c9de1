"""Raids whose report may still grow: noted when they are stored, fetched again twice.

Bungie publishes some reports before they are whole. Rules: docs/domain/storage.md, "Young
reports". Fetching is the business of the topic pgcr_crawl, to which messages go through the outbox.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple, Self

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.messaging import topology
from raidhub_dagster.pgcr.envelope import fetched_at
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import Report

_SQL = load("postgres", "young")


class Rechecks(NamedTuple):
    """Until when after its end a raid counts as young, and when such a one is fetched again."""

    young: timedelta
    first: timedelta
    last: timedelta

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(
            timedelta(seconds=settings.young_report_s),
            timedelta(seconds=settings.young_first_recheck_s),
            timedelta(seconds=settings.young_last_recheck_s),
        )


def note(cursor: Cursor, reports: Iterable[Report], rechecks: Rechecks) -> None:
    """Puts those of `reports` down that were fetched too soon after their end.

    A report that does not say when it was fetched comes from a file: it is as old as it gets.
    """
    young = [
        (r.instance.instance_id, r.instance.date_completed)
        for r in reports
        if (at := fetched_at(r.body)) and at - r.instance.date_completed < rechecks.young
    ]
    if young:
        cursor.execute(
            _SQL["note"],
            {
                "instances": array(instance_id for instance_id, _ in young),
                "date_completed": array(ended for _, ended in young),
                "due_at": array(ended + rechecks.first for _, ended in young),
            },
        )


def ask_again(
    connection: Connection, rechecks: Rechecks, *, now: datetime, limit: int = 500
) -> int:
    """Asks for the reports whose time has come, at most `limit`; commits. How many.

    The message and the step to the next date are one transaction, and no two callers take the same
    row: a raid is asked for twice at most, once when its second date has passed meanwhile. With the
    last one goes the request for a cheat check that found the report unsettled.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["ask_again"],
            {
                "now": now,
                "last": rechecks.last,
                "limit": limit,
                "queue": topology.PGCR_CRAWL,
                "checks": topology.INSTANCE_CHEAT_CHECK,
            },
        )
        ((asked,),) = cursor.fetchall()
    return int(asked)
