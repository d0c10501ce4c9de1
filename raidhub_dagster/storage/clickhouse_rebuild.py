"""Rebuilds ClickHouse from PostgreSQL: days of `instance`, days of its aggregates, the relations.

Each piece is prepared in a twin and takes its place at once, past the views, while the sender is
held off for that piece alone. A kill anywhere leaves the old content or the new one; what is left
in a twin is emptied by the next rebuild. Rules: docs/domain/clickhouse.md, "Rebuilds".
"""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_lookups import refresh_lookups
from raidhub_dagster.storage.clickhouse_parity import (
    DAY_AGGREGATES,
    TIMELESS_AGGREGATE,
    Difference,
    day_totals,
    differing_counts,
    differing_totals,
    marked_days,
    stored_totals,
)
from raidhub_dagster.storage.clickhouse_rows import read_rows
from raidhub_dagster.storage.clickhouse_sender import (
    empty_staging,
    held_off,
    line_of,
    mark_days,
    require_held_off,
    stage,
)
from raidhub_dagster.storage.queries import load

log = logging.getLogger(__name__)

_POSTGRES = load("postgres", "clickhouse_rebuild")
_SNAPSHOT = load("postgres", "clickhouse")["begin_snapshot"]
_CLICKHOUSE = load("clickhouse", "rebuild")

INSTANCE = "instance"
# A run counts in the population of at most three days before the one it ended on.
_LONGEST_RUN_DAYS = 3
# Rows held in memory on their way: a raid is 6 kB of JSON.
_CHUNK = 1_000
# Runs that wait for the views although their correction is there. Their ids travel in the address.
_MOST_EXCLUDED = 2_000
# Of an aggregate at once: seconds even on busy days, and the sender waits for it.
_CHUNK_DAYS = 7
# Of one repair: a year, with the weeks around it.
_MOST_DAYS = 400


class Rebuilt(NamedTuple):
    """One rebuilt piece of a table, and whether it then was what its source adds up to."""

    table: str
    day: date | None  # None: the whole table
    rows: int  # of `instance` runs; else as stored, before merges
    seconds: float
    added: int = 0  # runs that ClickHouse lacked, had too much, had otherwise; of `instance` only
    removed: int = 0
    changed: int = 0
    is_expired: bool = False  # older than the table keeps: nothing was done
    differences: tuple[Difference, ...] = ()


class Awaiting(NamedTuple):
    """A day whose aggregates must be rebuilt."""

    day: date
    reason: str
    marked_at: datetime


def awaiting_days(connection: Connection) -> list[Awaiting]:
    """Ascending."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["select_awaiting"])
        return [Awaiting(*row) for row in cursor]


def prune_marks(connection: Connection, *, now: datetime) -> int:
    """Number of marks dropped: of days rebuilt more than 30 days ago."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["prune_marks"], {"now": now})
        return cursor.rowcount


def parse_days(texts: Iterable[str]) -> list[date]:
    """Days of `2026-01-31` and `2026-01-01..2026-01-31`, ascending, each once.

    Raises PermanentError naming the text that is none, and for more than 400 days.
    """
    days: set[date] = set()
    for text in texts:
        first, _, last = text.partition("..")
        try:
            since, until = (date.fromisoformat(part.strip()) for part in (first, last or first))
        except ValueError as error:
            raise PermanentError(f"days: {text!r} is no day and no range: {error}") from error
        if until < since:
            raise PermanentError(f"days: {text!r} ends before it begins")
        if (until - since).days >= _MOST_DAYS:
            raise PermanentError(f"days: {text!r} is more than {_MOST_DAYS} days")
        days |= {since + timedelta(days=n) for n in range((until - since).days + 1)}
    if not days:
        raise PermanentError("days: none is given")
    if len(days) > _MOST_DAYS:
        raise PermanentError(f"days: {len(days)} are more than {_MOST_DAYS}")
    return sorted(days)


def rebuild(
    connection: Connection, client: Client, table: str, days: Iterable[date], *, now: datetime
) -> Iterator[Rebuilt]:
    """Rebuilds `days` of `table`: `instance` (UTC), or an aggregate of it (clear times: game days).

    Day by day: what was yielded stands, whatever happens next. Of `instance` each day becomes what
    PostgreSQL holds, except runs that are still to be sent; the aggregates that those rows touch
    are marked. Aggregates become what `instance` adds up to; nothing beyond their time to live.
    `now` is aware.

    Raises TransientError when a later try may succeed and PermanentError when ClickHouse refuses,
    with the day as it was before, and psycopg2's errors.
    """
    if table == INSTANCE:
        for day in days:
            yield _rebuild_instance(connection, client, day, now, dry_run=False)
        return
    kept_since = _kept_since(client, table)
    wanted = sorted(set(days))
    for day in wanted:
        if day < kept_since:
            _note(connection, table, _among([day], marked_days(connection, table)), now)
            yield Rebuilt(table, day, 0, 0.0, is_expired=True)
    for chunk in _neighbours([day for day in wanted if day >= kept_since]):
        yield from _rebuild_aggregate(connection, client, table, chunk, now)


def rebuild_awaiting(connection: Connection, client: Client, *, now: datetime) -> Iterator[Rebuilt]:
    """Every aggregate on every marked day that still awaits it; then old marks are dropped."""
    for table in DAY_AGGREGATES:
        yield from rebuild(
            connection, client, table, sorted(marked_days(connection, table)), now=now
        )
    prune_marks(connection, now=now)


def rebuild_days(
    connection: Connection, client: Client, days: Collection[date], *, now: datetime
) -> Iterator[Rebuilt]:
    """`days` of `instance`, then every aggregate on them and on the days that their runs touch."""
    if not days:
        return
    yield from rebuild(connection, client, INSTANCE, sorted(days), now=now)
    earliest = min(days) - timedelta(days=_LONGEST_RUN_DAYS)
    for table in DAY_AGGREGATES:
        touched = {d for d in marked_days(connection, table) if earliest <= d <= max(days)}
        yield from rebuild(connection, client, table, sorted({*days, *touched}), now=now)


def preview(
    connection: Connection, client: Client, days: Iterable[date], *, now: datetime
) -> Iterator[Rebuilt]:
    """What `rebuild` would change in `instance`; the rows travel, but stay in the staging table."""
    for day in days:
        yield _rebuild_instance(connection, client, day, now, dry_run=True)


def rebuild_relations(connection: Connection, client: Client, *, now: datetime) -> Rebuilt:
    """All relations of players anew. The sender waits meanwhile; readers see the old ones.

    Raises as `rebuild`.
    """
    started = time.monotonic()
    table, twin = TIMELESS_AGGREGATE, f"{TIMELESS_AGGREGATE}_twin"
    with _piece(connection, client, now):
        marks = marked_days(connection, table)
        excluded = _select_overtaken(connection)
        client.command(_CLICKHOUSE["empty"], parameters={"twin": twin})
        for (month,) in client.query(_CLICKHOUSE["select_months"]).result_rows:
            parameters = {"month": month, "excluded": excluded}
            client.command(_CLICKHOUSE[f"fill_{table}"], parameters=parameters)
        ((rows,),) = client.query(_CLICKHOUSE["count_relations"]).result_rows
        require_held_off(connection)
        client.command(_CLICKHOUSE[f"replace_{table}" if rows else "drop_relations"])
        client.command(_CLICKHOUSE["empty"], parameters={"twin": twin})
        ((expected, stored),) = client.query(
            _CLICKHOUSE["sum_relations"], parameters={"excluded": excluded}
        ).result_rows
        found: tuple[Difference, ...] = ()
        if expected == stored:
            _note(connection, table, marks, now)
        else:
            found = (Difference(table, None, "all", "weight", expected, stored, False),)
    done = Rebuilt(table, None, rows, time.monotonic() - started, differences=found)
    _tell(done)
    return done


def _rebuild_instance(
    connection: Connection, client: Client, day: date, now: datetime, *, dry_run: bool
) -> Rebuilt:
    started = time.monotonic()
    names = {"day": day, "month": day.year * 100 + day.month}
    next_day = day + timedelta(days=1)
    with _piece(connection, client, now):
        with connection, connection.cursor() as cursor:
            cursor.execute(_SNAPSHOT)
            cursor.execute(_POSTGRES["select_day"], {"day": day})
            revisions = dict(cursor.fetchall())
            expected = day_totals(cursor, day, next_day, sent_only=True)
            _stage(connection, client, revisions)
        ((rows, added, removed, changed, since),) = client.query(
            _CLICKHOUSE["count_changes"], parameters={"day": day}
        ).result_rows
        if rows != len(revisions):
            raise TransientError(f"instance_staging does not hold the {len(revisions)} rows sent")
        if (added or removed or changed) and not dry_run:
            # Marked before, so that a kill right after the exchange leaves no aggregate behind.
            with connection:
                mark_days(connection, _touched(day, since), "rebuild of instance", now=now)
            _exchange_day(connection, client, names)
        empty_staging(client)
        stored = stored_totals(client, day, next_day)
    done = Rebuilt(
        INSTANCE,
        day,
        rows,
        time.monotonic() - started,
        added,
        removed,
        changed,
        differences=tuple(differing_totals(expected, stored)),
    )
    _tell(done)
    return done


def _stage(connection: Connection, client: Client, revisions: dict[int, int]) -> None:
    """The present rows of these runs into the staging table, in the caller's snapshot."""

    def lines() -> Iterator[bytes]:
        ids = list(revisions)
        for start in range(0, len(ids), _CHUNK):
            for row in read_rows(connection, ids[start : start + _CHUNK]):
                row["revision"] = revisions[row["instance_id"]]
                yield line_of(row)

    if revisions:
        stage(client, lines())
    else:
        empty_staging(client)


def _exchange_day(connection: Connection, client: Client, names: dict[str, object]) -> None:
    """Puts the staged rows in the place of the day's: the month as it is, but for the day."""
    client.command(_CLICKHOUSE["empty"], parameters={"twin": "instance_twin"})
    client.command(_CLICKHOUSE["attach_present"], parameters=names)
    client.command(_CLICKHOUSE["delete_day"], parameters=names)
    client.command(_CLICKHOUSE["attach_staged"], parameters=names)
    ((others, staged, prepared),) = client.query(
        _CLICKHOUSE["is_twin_whole"], parameters=names
    ).result_rows
    if prepared != others + staged:
        # A rebuild that lost its connection, and with it the lock, works on the same tables.
        raise TransientError(f"instance_twin has {prepared} rows instead of {others} + {staged}")
    require_held_off(connection)
    client.command(_CLICKHOUSE["replace_month" if prepared else "drop_month"], parameters=names)
    client.command(_CLICKHOUSE["empty"], parameters={"twin": "instance_twin"})


def _rebuild_aggregate(
    connection: Connection, client: Client, table: str, days: Sequence[date], now: datetime
) -> list[Rebuilt]:
    """Days without a gap between them."""
    started = time.monotonic()
    since, until = days[0], days[-1] + timedelta(days=1)
    with _piece(connection, client, now):
        marks = _among(days, marked_days(connection, table))
        excluded = _select_overtaken(connection)
        _require_definitions(connection, client, since, until)
        rows = replace_dates(
            client,
            table,
            days,
            {"since": since, "until": until, "excluded": excluded},
            check=lambda: require_held_off(connection),
        )
        # What the views have still to count, the recount would miss.
        found = [] if excluded else differing_counts(client, table, since, until)
        wrong = {difference.day for difference in found}
        _note(connection, table, {d: at for d, at in marks.items() if d not in wrong}, now)
    seconds = (time.monotonic() - started) / len(days)
    rebuilt = [
        Rebuilt(
            table,
            day,
            rows.get(day, 0),
            seconds,
            differences=tuple(d for d in found if d.day == day),
        )
        for day in days
    ]
    for done in rebuilt:
        _tell(done)
    return rebuilt


def replace_dates(
    client: Client,
    table: str,
    partitions: Sequence[date],
    parameters: Mapping[str, object],
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[date, int]:
    """Fills the twin of `table` by `parameters` and exchanges `partitions`, each at once.

    Returns the rows of each, as stored; those without any are left out. `check` is called between
    the two and may raise. Raises the driver's errors.
    """
    twin = f"{table}_twin"
    client.command(_CLICKHOUSE["empty"], parameters={"twin": twin})
    client.command(_CLICKHOUSE[f"fill_{table}"], parameters=dict(parameters))
    rows = _count(client, twin, partitions)
    held = _count(client, table, partitions)
    check()
    for day in partitions:
        if day in rows:
            client.command(_CLICKHOUSE[f"replace_{table}"], parameters={"day": day})
        elif day in held:
            client.command(_CLICKHOUSE["drop_date"], parameters={"table": table, "day": day})
    client.command(_CLICKHOUSE["empty"], parameters={"twin": twin})
    return rows


@contextmanager
def _piece(connection: Connection, client: Client, now: datetime) -> Iterator[None]:
    with answered(), held_off(connection, client, now=now):
        yield


def _kept_since(client: Client, table: str) -> date:
    """First day that lies wholly within the time to live of `table`."""
    with answered():
        ((month, year),) = client.query(_CLICKHOUSE["select_kept_since"]).result_rows
    kept_since: date = year if table == "clear_time_by_day" else month
    return kept_since


def _touched(day: date, since: date) -> list[date]:
    """Days whose aggregates count a run that ended on `day` and began on `since` or later.

    The day before is the game day of a run that ended before 17:00.
    """
    begin = max(since, day - timedelta(days=_LONGEST_RUN_DAYS))
    first = min(begin, day - timedelta(days=1))
    return [first + timedelta(days=n) for n in range((day - first).days + 1)]


def _neighbours(days: Sequence[date]) -> Iterator[list[date]]:
    """Ascending `days` in runs without a gap, of a week at most: the sender waits for each."""
    chunk: list[date] = []
    for day in days:
        if chunk and (day - chunk[-1] > timedelta(days=1) or len(chunk) == _CHUNK_DAYS):
            yield chunk
            chunk = []
        chunk.append(day)
    if chunk:
        yield chunk


def _among(days: Iterable[date], marks: Mapping[date, datetime]) -> dict[date, datetime]:
    return {day: marks[day] for day in days if day in marks}


def _note(
    connection: Connection, table: str, marks: Mapping[date, datetime], now: datetime
) -> None:
    """`table` was rebuilt on these days as they were marked; who was marked since stays so."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _POSTGRES["note_rebuilt"],
            {
                "table": table,
                "tables": list(DAY_AGGREGATES),
                "days": list(marks),
                "marks": list(marks.values()),
                "now": now,
            },
        )


def _select_overtaken(connection: Connection) -> list[int]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["select_overtaken"], {"limit": _MOST_EXCLUDED + 1})
        overtaken = [instance_id for (instance_id,) in cursor]
    if len(overtaken) > _MOST_EXCLUDED:
        raise TransientError(
            f"more than {_MOST_EXCLUDED} runs wait to be sent whose corrections are there already"
        )
    return overtaken


def _require_definitions(connection: Connection, client: Client, since: date, until: date) -> None:
    """Raises PermanentError when a run of the days would fall out of the join, which is silent."""
    statement, names = _CLICKHOUSE["undefined_hashes"], {"since": since, "until": until}
    if client.query(statement, parameters=names).result_rows:
        refresh_lookups(connection, client)
        if missing := client.query(statement, parameters=names).result_rows:
            hashes = ", ".join(str(hash_) for (hash_,) in missing)
            raise PermanentError(f"runs about {since} have hashes without a definition: {hashes}")


def _count(client: Client, table: str, partitions: Sequence[date]) -> dict[date, int]:
    """Rows of each partition that has some."""
    names = {
        "table": table,
        "first": min(partitions).isoformat(),
        "last": max(partitions).isoformat(),
    }
    found = client.query(_CLICKHOUSE["count_partitions"], parameters=names).result_rows
    return {date.fromisoformat(partition): rows for partition, rows in found}


def _tell(done: Rebuilt) -> None:
    log.info(
        "Rebuilt %s of %s",
        done.day or "all",
        done.table,
        extra={"action": "clickhouse_rebuilt", "rows": done.rows, "seconds": done.seconds},
    )
