"""Recounts everything derived and compares it with what is stored: the proof of the promises.

Used by `raidhub verify`; a difference is never corrected here, only shown.
"""

import time
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage import clickhouse_parity
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.kept import compare_kept
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import is_better

_SQL = load("postgres", "verify")
_RECOUNTS = (
    "standings",
    "player_stats",
    "players",
    "sightings",
    "raw_reports",
    "missed_but_stored",
    "ledger",
    "current_revisions",
    "young",
)
_SHOWN = 5


class Finding(msgspec.Struct, frozen=True):
    """The outcome of one comparison; `examples` are up to 5 differing rows as text."""

    check: str
    differing: int
    examples: list[str] = []

    @property
    def is_equal(self) -> bool:
        return self.differing == 0


class Sizes(msgspec.Struct, frozen=True):
    instances: int
    players: int
    missed: int  # unresolved ids


def sizes(connection: Connection) -> Sizes:
    """How much was compared."""
    with connection, connection.cursor() as cursor:
        return read_sizes(cursor)


def read_sizes(cursor: Cursor) -> Sizes:
    """The same, in the caller's snapshot."""
    cursor.execute(_SQL["sizes"])
    return Sizes(*_one(cursor))


def played(connection: Connection) -> tuple[datetime, datetime]:
    """When the first and the last stored raid began. Raises PermanentError without any."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["played"])
        first, last = _one(cursor)
    if first is None:
        raise PermanentError("no raid is stored")
    return first, last


def wait_for_effects(
    connection: Connection,
    limit_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Effects still under way to ClickHouse after at most `limit_s`; 0 as soon as all are sent."""
    deadline = clock() + limit_s
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["pending_effects"])
            (pending,) = _one(cursor)
        if not pending or clock() >= deadline:
            return int(pending)
        sleep(0.5)


def verify(
    connection: Connection, client: Client | None, *, sample: int = 200, wait_s: float = 60
) -> Iterator[Finding]:
    """Every comparison, one after another; without `client` those of PostgreSQL alone.

    `sample` stored reports are parsed again, all other comparisons look at every row. Effects on
    their way to ClickHouse get `wait_s` to arrive.
    """
    for check in _RECOUNTS:
        with connection, connection.cursor() as cursor:
            rows = differing_rows(cursor, check, limit=_SHOWN)
        yield Finding(check, rows[0][-1] if rows else 0, [str(row[:-1]) for row in rows])
    yield reparsed(connection, sample)
    yield _superseded(connection, sample)
    if client is not None:
        pending = wait_for_effects(connection, wait_s)
        yield Finding("effects", pending, ["not sent to ClickHouse yet"] if pending else [])
        differences = clickhouse_parity.compare(connection, client)
        yield Finding("clickhouse", len(differences), [str(d) for d in differences[:_SHOWN]])


def differing_rows(
    cursor: Cursor, check: str, players: Collection[int] | None = None, *, limit: int | None = None
) -> list[tuple[Any, ...]]:
    """Rows of one recount that are not as they should be; the last column counts all of them.

    `standings`, `player_stats` and `players` recount `players` alone when they are given.
    """
    cursor.execute(
        _SQL[check], {"players": None if players is None else array(players), "limit": limit}
    )
    return cursor.fetchall()


def reparsed(connection: Connection, size: int) -> Finding:
    """Stored rows against what today's parser makes of the kept report."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["sample_stored"], {"size": size})
        kept = {instance_id: bytes(data) for instance_id, data in cursor}
    wrong = [str(c) for c in compare_kept(connection, kept, now=datetime.now(UTC)) if c.is_wrong]
    return Finding("reports", len(wrong), wrong[:_SHOWN])


def _superseded(connection: Connection, size: int) -> Finding:
    """Versions that gave way although they say more than what took their place."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["sample_superseded"], {"size": size})
        wrong = [
            f"{instance_id}: a superseded report is the better one"
            for instance_id, older, kept in cursor
            if is_better(bytes(older), bytes(kept))
        ]
    return Finding("superseded", len(wrong), wrong[:_SHOWN])


def _one(cursor: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] = cursor.fetchone()
    return row
