"""Deletes rows of schema streaming past their retention that no process of the stream deletes.

Outbox, batches, missed and withheld ids, young reports and old blocks are the stream's own chores;
here they are only looked at, so that a chore which stands still is seen. The list with all periods:
docs/domain/schema.md, "Retention".
"""

from dataclasses import dataclass

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "retention")
_BATCH = 20_000


@dataclass(frozen=True)
class PrunedLedgers:
    """Rows that went, or would, by table; `overdue` are tables whose chore stands still."""

    rows: dict[str, int]
    kept_versions: list[str]
    overdue: list[dict[str, object]]


def prune_ledgers(connection: Connection, *, dry_run: bool, batch: int = _BATCH) -> PrunedLedgers:
    """Deletes rebuilt days after 30 days, account facts after one, checks by older rules.

    The ledger of cheat checks keeps the versions that judged last: the one in use and the one
    before. Each batch is a transaction; a second call finds nothing.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["kept_versions"])
        kept = [version for (version,) in cursor]
    values = {"kept": kept, "limit": batch}
    rows = {}
    for table, what in (
        ("streaming.clickhouse_dirty_day", "dirty_days"),
        ("streaming.account_factor_cache", "factors"),
        ("streaming.cheat_check", "checks"),
    ):
        rows[table] = _rows(connection, f"count_{what}", values)
        if not dry_run:
            while _changed(connection, f"delete_{what}", values) == batch:
                pass
    with connection, connection.cursor(cursor_factory=RealDictCursor) as dicts:
        dicts.execute(_SQL["count_overdue"])
        overdue = [dict(row) for row in dicts if row["overdue"]]
    return PrunedLedgers(rows, kept, overdue)


def _rows(connection: Connection, query: str, values: dict[str, object]) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL[query], values)
        ((count,),) = cursor.fetchall()
    return int(count)


def _changed(connection: Connection, query: str, values: dict[str, object]) -> int:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL[query], values)
        return cursor.rowcount
