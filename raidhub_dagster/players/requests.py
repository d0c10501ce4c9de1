"""Batches of players put to a queue: histories to walk again, accounts to look at again.

The workers of hermes do the asking; here is only who is due. Rules: docs/domain/players.md.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging.topology import ACTIVITY_HISTORY_CRAWL, PLAYER_CRAWL
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "player_requests")

_A_TRANSACTION = 500
_SHOWN = 10
# A batch that is repeated, or follows while the queue is long, leaves out whom an earlier one asked
# for so short a time ago.
ASKED_LATELY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Batch:
    """`picked` of the `due` players are asked for; `shown` are the first of them."""

    due: int
    picked: int
    shown: Sequence[Mapping[str, object]]


def request_histories(
    connection: Connection,
    *,
    count: int,
    range_: int,
    older_than: timedelta,
    dry_run: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Batch:
    """Queues random `count` of the `range_` players with most clears whose history is due.

    Due is a history that was never walked or last walked `older_than` ago. In transactions of 500:
    one that was killed leaves a part asked for, and the next call picks others. Raises
    PermanentError for a negative number.
    """
    return _request(
        connection,
        "pick_histories",
        ACTIVITY_HISTORY_CRAWL,
        count=count,
        range_=range_,
        older_than=older_than,
        dry_run=dry_run,
        now=now(),
    )


def request_stale(
    connection: Connection,
    *,
    count: int,
    range_: int,
    older_than: timedelta,
    dry_run: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Batch:
    """Queues the first `count` of the players who matter and were last crawled `older_than` ago.

    Those are the `range_` players with most clears, and whoever lacks a name or a platform. As
    `request_histories` otherwise.
    """
    return _request(
        connection,
        "pick_stale",
        PLAYER_CRAWL,
        count=count,
        range_=range_,
        older_than=older_than,
        dry_run=dry_run,
        now=now(),
    )


def _request(
    connection: Connection,
    query: str,
    queue: str,
    *,
    count: int,
    range_: int,
    older_than: timedelta,
    dry_run: bool,
    now: datetime,
) -> Batch:
    if count < 0 or range_ < 0 or older_than < timedelta(0):
        raise PermanentError(f"a negative number: {count=}, {range_=}, {older_than=}")
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(
            _SQL[query],
            {
                "queue": queue,
                "count": count,
                "range": range_,
                "before": now - older_than,
                "asked_before": now - ASKED_LATELY,
            },
        )
        rows = cursor.fetchall()
    players = [row["membership_id"] for row in rows]
    if not dry_run:
        for start in range(0, len(players), _A_TRANSACTION):
            _ask(connection, queue, players[start : start + _A_TRANSACTION], now)
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["prune"], {"now": now})
    shown = [
        {
            "player": row["bungie_name"] or str(row["membership_id"]),
            "clears": row["clears"],
            "last": f"{row['last']:%Y-%m-%d}" if row["last"] else "never",
        }
        for row in rows[:_SHOWN]
    ]
    return Batch(rows[0]["due"] if rows else 0, len(players), shown)


def _ask(connection: Connection, queue: str, players: Sequence[int], now: datetime) -> None:
    values = {"queue": queue, "players": array(players), "now": now}

    def work(connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_SQL["remember"], values)
            cursor.execute(_SQL["ask"], values)

    in_transaction(connection, work, sleep=time.sleep, rng=random)
