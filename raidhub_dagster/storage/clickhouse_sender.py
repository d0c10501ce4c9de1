"""Carries stored instances from the outbox to ClickHouse, each counted once by every view.

A batch is fixed in PostgreSQL before it is first sent, and its id is the deduplication token: the
retry is byte-identical and the engine drops what it has, in the table and behind the views. What
must not pass the views (corrections, batches whose token may be forgotten) goes through a staging
table, and its days are marked for a rebuild. Rules: docs/domain/clickhouse.md.

Rebuilding those days is done in `clickhouse_rebuild.py`, while the sender is held off.
"""

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import zstandard
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import TransientError
from raidhub_dagster.storage import clickhouse_rows
from raidhub_dagster.storage.clickhouse_lookups import missing_hashes, refresh_lookups
from raidhub_dagster.storage.queries import load

log = logging.getLogger(__name__)

_POSTGRES = load("postgres", "clickhouse")
_CLICKHOUSE = load("clickhouse", "sender")

# Batches looked at twice in a step, before and after new ones are fixed: a step stays bounded.
_BATCHES = 4
# The engine remembers 10 000 blocks a table, and a batch leaves one for each day: 34 at most, a
# month and the three days before it that a long run may reach.
_REMEMBERED_BATCHES = 290
# Population counts at most three days of a run, so no aggregate of an earlier day changes.
_LONGEST_RUN = timedelta(days=3)
_CHUNK_BYTES = 1 << 18

# All rows in one block, in the order sent, or a retry could be cut differently and not be
# recognised. A block ends at any minimum that is not 0 and at the maximum; the views inherit both.
_MORE_THAN_A_BATCH = 100_000_000
_ONE_BLOCK: dict[str, Any] = {
    "async_insert": 0,  # the token would not reach the views
    "insert_deduplicate": 1,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "max_insert_block_size": _MORE_THAN_A_BATCH,
    "min_insert_block_size_rows": _MORE_THAN_A_BATCH,
    "min_insert_block_size_bytes": 0,
    "input_format_skip_unknown_fields": 0,  # a misspelt column is an error, not a zero
}
_STAGING: dict[str, Any] = {
    "async_insert": 0,
    "max_partitions_per_insert_block": 0,  # corrections may be of any month since 2017
    "input_format_skip_unknown_fields": 0,
}


class Sent(NamedTuple):
    """What one step got confirmed, and how many batches it holds back."""

    batches: int
    rows: int
    corrections: int
    held: int


class _Row(NamedTuple):
    """Sorts as the table does, by date_completed and instance_id; `body` is the outbox's."""

    date_completed: str
    instance_id: int
    date_started: str
    hash: int
    body: bytes


class _Batch(NamedTuple):
    id: str
    is_expired: bool


class _HeldError(Exception):
    """The batch cannot be sent now; the text is the reason."""


class _RefusedError(Exception):
    """ClickHouse answered with an error; the text is its first line."""


def send_pending(
    connection: Connection,
    client: Client,
    *,
    now: datetime,
    rows: int = 10_000,
    age_s: float = 5,
    corrections: int = 1_000,
) -> Sent:
    """One bounded step: unfinished batches again, then the next rows, then corrections.

    Rows leave when `rows` are waiting or the oldest is `age_s` old, corrections when they are
    `age_s` old; `now` is aware. Several senders at once are safe: all but one do nothing. The
    process may be killed anywhere, the next step goes on from what is in PostgreSQL.

    Raises TransientError when ClickHouse does not answer, or refused everything there was: try
    again later. One refused or held batch does not stop the others; the reason is in its
    last_error. Raises psycopg2's errors when PostgreSQL fails.
    """
    with _sole_sender(connection) as is_ours:
        if not is_ours:
            return Sent(0, 0, 0, 0)
        step = _Step(connection, client, now)
        step.send_batches(rows=rows, age_s=age_s)
        step.send_corrections(limit=corrections, age_s=age_s)
        if step.refusals and not (step.batches or step.corrections):
            raise TransientError(f"ClickHouse refused all there was: {step.refusals[0]}")
        return Sent(step.batches, step.rows, step.corrections, step.held)


def prune_batches(connection: Connection, *, now: datetime) -> int:
    """Number of batches dropped: confirmed more than seven days ago."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["prune_batches"], {"now": now})
        return cursor.rowcount


@contextmanager
def held_off(connection: Connection, client: Client, *, now: datetime) -> Iterator[None]:
    """Inside, nobody sends, and ClickHouse has what is marked sent and nothing else.

    Waits up to 10 minutes for the sender to finish its step. Batches that ClickHouse may or may
    not have are made definite first: they go past the views, and their days are marked. What is
    unsent inside was never near ClickHouse, or waits for a person and will not pass the views.

    Raises psycopg2.errors.LockNotAvailable when the sender never pauses, TransientError when
    ClickHouse does not answer.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["limit_wait"])
        cursor.execute(_POSTGRES["lock"], {"name": "sender"})
    try:
        _Step(connection, client, now).settle()
        yield
    finally:
        if not connection.closed:
            connection.rollback()
            with connection, connection.cursor() as cursor:
                cursor.execute(_POSTGRES["unlock"], {"name": "sender"})


def require_held_off(connection: Connection) -> None:
    """Raises TransientError when the lock of `held_off` is gone: the session died meanwhile."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["select_lock"])
        if cursor.fetchall() != [(True,)]:
            raise TransientError("the lock that keeps the sender off was lost")


def stage(client: Client, lines: Iterable[bytes]) -> dict[int, int]:
    """Fills `instance_staging` with these rows (JSON, a line each) alone; month -> rows in it."""
    client.command(_CLICKHOUSE["empty_staging"])
    client.raw_insert(
        "instance_staging", insert_block=_chunks(lines), fmt="JSONEachRow", settings=_STAGING
    )
    found = client.query(_CLICKHOUSE["staged_months"]).result_rows
    return {int(month): int(rows) for month, rows in found}


def empty_staging(client: Client) -> None:
    client.command(_CLICKHOUSE["empty_staging"])


def mark_days(connection: Connection, days: Iterable[date], reason: str, *, now: datetime) -> None:
    """Marks `days` as to be rebuilt, in the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            _POSTGRES["mark_dirty_days"], {"days": sorted(days), "reason": reason, "now": now}
        )


@contextmanager
def _sole_sender(connection: Connection) -> Iterator[bool]:
    name = {"name": "sender"}
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["try_lock"], name)
        ((is_ours,),) = cursor.fetchall()
    try:
        yield is_ours
    finally:
        if is_ours and not connection.closed:
            with connection, connection.cursor() as cursor:
                cursor.execute(_POSTGRES["unlock"], name)


@contextmanager
def _answered() -> Iterator[None]:
    """Tells an error that ClickHouse answered from no answer at all."""
    try:
        yield
    except DatabaseError as error:
        line = str(error).partition("\n")[0]
        if error.code is None:
            raise TransientError(f"ClickHouse does not answer: {line}") from error
        raise _RefusedError(line) from error


@dataclass
class _Step:
    """One call of send_pending: what it works with, and what came of it."""

    connection: Connection
    client: Client
    now: datetime
    batches: int = 0
    rows: int = 0
    corrections: int = 0
    held: int = 0
    lookups_are_fresh: bool = False
    refusals: list[str] = field(default_factory=list)

    def settle(self) -> None:
        """No batch stays that ClickHouse may or may not have: each goes there past the views.

        One that cannot be read or is refused stays `unknown`, which never passes the views.
        """
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(_POSTGRES["select_unconfirmed_batches"])
            unconfirmed = [_Batch(id_, is_expired=True) for (id_,) in cursor]
        for batch in unconfirmed:
            self._execute("give_up_token", batch=batch.id)
        for batch in unconfirmed:
            self._send(batch)

    def send_batches(self, *, rows: int, age_s: float) -> None:
        due = self._due_batches()
        for batch in due:
            self._send(batch)
        if len(due) == _BATCHES:
            return
        before = self.now - timedelta(seconds=age_s)
        self._execute("fix_batches", rows=rows, before=before)
        for batch in self._due_batches():  # what was tried above is not due again
            self._send(batch)

    def send_corrections(self, *, limit: int, age_s: float) -> None:
        """The present row of each open correction, under its revision, past the views."""
        before = self.now - timedelta(seconds=age_s)
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(_POSTGRES["begin_snapshot"])
            cursor.execute(_POSTGRES["select_corrections"], {"before": before, "limit": limit})
            revisions = dict(cursor.fetchall())
            rows = clickhouse_rows.read_rows(self.connection, revisions)
        if not revisions:
            return
        for row in rows:
            row["revision"] = revisions[row["instance_id"]]
        try:
            moved = self._attach(map(line_of, rows), len(rows)) if rows else set()
        except _RefusedError as error:
            self.refusals.append(str(error))
            log.warning(
                "Corrections were refused",
                extra={"action": "clickhouse_corrections_refused", "error": str(error)},
            )
            return
        days = {day for row in rows for day in _days(row["date_started"], row["date_completed"])}
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(
                _POSTGRES["mark_corrections_sent"],
                {"instance_ids": list(revisions), "revisions": list(revisions.values())},
            )
            mark_days(self.connection, days | moved, "correction", now=self.now)
        self.corrections = len(revisions)
        log.info(
            "Sent corrections",
            extra={"action": "clickhouse_corrections_sent", "rows": len(rows), "days": len(days)},
        )

    def _due_batches(self) -> list[_Batch]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(
                _POSTGRES["select_due_batches"],
                {"now": self.now, "remembered": _REMEMBERED_BATCHES, "limit": _BATCHES},
            )
            return [_Batch(*row) for row in cursor]

    def _send(self, batch: _Batch) -> None:
        try:
            rows = self._read(batch)
            self._check_hashes({row.hash for row in rows})
        except (_HeldError, _RefusedError) as error:
            self.held += 1
            self._execute("hold_batch", batch=batch.id, reason=f"held: {error}")
            self._report(batch, "clickhouse_batch_held", str(error))
            return
        self._execute("begin_attempt", batch=batch.id)
        days: set[date] = set()
        try:
            if batch.is_expired:
                days = self._attach_expired(batch, rows)
            else:
                self._insert(batch, rows)
        except _RefusedError as error:
            self.refusals.append(str(error))
            self._execute("record_refusal", batch=batch.id, reason=str(error))
            self._report(batch, "clickhouse_batch_refused", str(error))
            return
        with self.connection, self.connection.cursor() as cursor:
            names = {"batch": batch.id, "now": self.now}
            cursor.execute(_POSTGRES["reopen_corrections"], names)
            cursor.execute(_POSTGRES["mark_rows_sent"], names)
            cursor.execute(_POSTGRES["finish_batch"], names)
            mark_days(self.connection, days, "unconfirmed batch", now=self.now)
        self.batches += 1
        self.rows += len(rows)
        log.info(
            "Sent a batch",
            extra={"action": "clickhouse_batch_sent", "batch": batch.id, "rows": len(rows)},
        )

    def _read(self, batch: _Batch) -> list[_Row]:
        # A named cursor: 10 000 bodies are 20 MB, and twice that on the wire.
        with self.connection, self.connection.cursor(f"batch_{batch.id}") as cursor:
            cursor.itersize = 500
            cursor.execute(_POSTGRES["select_batch_rows"], {"batch": batch.id})
            return sorted(_keyed(id_, bytes(body)) for id_, body in cursor)

    def _check_hashes(self, hashes: set[int]) -> None:
        """Raises _HeldError when the views could not attribute some row even after a refresh."""
        with _answered():
            missing = missing_hashes(self.client, hashes)
            if missing and not self.lookups_are_fresh:
                refresh_lookups(self.connection, self.client)
                self.lookups_are_fresh = True
                missing = missing_hashes(self.client, hashes)
        if missing:
            raise _HeldError(f"no definition of hash {', '.join(map(str, missing))}")

    def _insert(self, batch: _Batch, rows: list[_Row]) -> None:
        settings = {**_ONE_BLOCK, "insert_deduplication_token": batch.id}
        lines = (line_of(clickhouse_rows.decode_row(row.body)) for row in rows)
        with _answered():
            self.client.raw_insert(
                "instance", insert_block=_chunks(lines), fmt="JSONEachRow", settings=settings
            )

    def _attach_expired(self, batch: _Batch, rows: list[_Row]) -> set[date]:
        """The batch past the views, whether or not it arrived before; the days it touches.

        A row that is there already has the same key and revision, so FINAL shows one.
        """
        self._execute("give_up_token", batch=batch.id)
        lines = (line_of(clickhouse_rows.decode_row(row.body)) for row in rows)
        days = {day for row in rows for day in _days(row.date_started, row.date_completed)}
        # A run deleted and stored again may be there twice; the table keeps one row a key.
        return days | self._attach(lines, len({row[:2] for row in rows}))

    def _attach(self, lines: Iterable[bytes], count: int) -> set[date]:
        """Puts rows into `instance` without firing a view; days of rows that had another date."""
        with _answered():
            months = stage(self.client, lines)
            if sum(months.values()) != count:
                # A sender that lost its connection, and with it the lock, emptied the table.
                raise TransientError(f"instance_staging does not hold the {count} rows just sent")
            moved = self.client.query(_CLICKHOUSE["select_moved"]).result_rows
            if moved:
                self.client.command(_CLICKHOUSE["delete_moved"])
            for month in months:
                self.client.command(_CLICKHOUSE["attach_month"], parameters={"month": month})
            empty_staging(self.client)
        return {day for row in moved for day in _days(*map(str, row))}

    def _execute(self, name: str, **parameters: Any) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(_POSTGRES[name], {"now": self.now, **parameters})

    def _report(self, batch: _Batch, action: str, error: str) -> None:
        log.warning(
            "A batch did not get into ClickHouse: %s",
            error,
            extra={"action": action, "batch": batch.id},
        )


def _keyed(outbox_id: int, body: bytes) -> _Row:
    try:
        row = clickhouse_rows.decode_row(body)
        return _Row(
            row["date_completed"], row["instance_id"], row["date_started"], row["hash"], body
        )
    except (zstandard.ZstdError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise _HeldError(f"outbox row {outbox_id} is unreadable: {error!r}") from None


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as ClickHouse reads it."""
    return msgspec.json.encode(row) + b"\n"


def _chunks(lines: Iterable[bytes]) -> Generator[bytes, None, None]:
    """The same bytes in pieces that are worth a system call each."""
    chunk = bytearray()
    for line in lines:
        chunk += line
        if len(chunk) >= _CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _days(started: str, completed: str) -> Iterator[date]:
    """Days whose aggregates count a run: those it lasted, and the game day that it ended in."""
    end = datetime.fromisoformat(completed)
    yield (end - timedelta(hours=17)).date()
    day = max(datetime.fromisoformat(started), end - _LONGEST_RUN).date()
    while day <= end.date():
        yield day
        day += timedelta(days=1)
