"""Loads the game's definitions from CSV into schema `definitions`, by key, and reports changes.

The files in `sql/postgres/seeds` have a few columns more than the tables, for people; weapons and
feats come from the manifest instead. What each column means: docs/domain/definitions.md.
"""

import csv
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class
from psycopg2.extras import execute_values

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.definitions import recompute_sum_of_best
from raidhub_dagster.storage.postgres import Rng, connected, in_transaction
from raidhub_dagster.storage.queries import SQL_ROOT, load

log = logging.getLogger(__name__)

SEEDS = SQL_ROOT / "postgres" / "seeds"

_SQL = load("postgres", "seeds")

Value = str | int | bool | datetime | None
Rows = dict[int, tuple[Value, ...]]  # key -> the whole row, key first


@dataclass(frozen=True, slots=True)
class SeedReport:
    """What the load did to one table; `changed` are the keys inserted or updated, in file order.

    Tables that follow from definitions (core.instance, core.player) are listed without keys and
    only when rows of theirs changed.
    """

    table: str
    inserted: int
    updated: int
    unchanged: int
    changed: tuple[int, ...]


def _integer(highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= highest):
            raise ValueError(f"not a whole number from 1 to {highest}")
        return int(text)

    return read


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text == "true"


def _time(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None or instant.microsecond:
        raise ValueError("not a time like 2017-09-06T09:00:00Z")
    return instant.astimezone(UTC)


_id = _integer(2**31 - 1)
_hash = _integer(2**32 - 1)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    read: Callable[[str], Value]
    nullable: bool = False
    references: str | None = None


# In load order; the first column is the key.
_TABLES: Mapping[str, tuple[_Column, ...]] = {
    "activity_definition": (
        _Column("id", _id),
        _Column("name", str),
        _Column("path", str),
        _Column("is_sunset", _boolean),
        _Column("is_raid", _boolean),
        _Column("release_date", _time),
        _Column("contest_end", _time, nullable=True),
        _Column("week_one_end", _time, nullable=True),
        _Column("milestone_hash", _hash, nullable=True),
        _Column("splash_path", str),
    ),
    "version_definition": (
        _Column("id", _id),
        _Column("name", str),
        _Column("path", str),
        _Column("associated_activity_id", _id, nullable=True, references="activity_definition"),
        _Column("is_challenge_mode", _boolean),
    ),
    "activity_version": (
        _Column("hash", _hash),
        _Column("activity_id", _id, references="activity_definition"),
        _Column("version_id", _id, references="version_definition"),
        _Column("is_world_first", _boolean),
        _Column("release_date_override", _time, nullable=True),
    ),
    "season": (
        _Column("id", _id),
        _Column("short_name", str),
        _Column("long_name", str),
        _Column("dlc", str),
        _Column("start_date", _time),
    ),
    "class_definition": (_Column("hash", _hash), _Column("name", str)),
}


def seed(
    settings: Settings,
    *,
    folder: Path = SEEDS,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> list[SeedReport]:
    """Loads every file of `folder` in one transaction; rows that are only in a table stay.

    Seasons of stored instances and players' sums of best times follow in the same transaction,
    which waits for the store's and makes it wait. Raises PermanentError naming file, line and
    column, or the hash that cannot move any more, and then nothing was written.
    """
    with connected(settings, "raidhub-seed") as connection:
        work = partial(_load, folder=folder)
        reports = in_transaction(connection, work, sleep=sleep, rng=rng)
    for report in reports:
        log.info(
            "Loaded %s",
            report.table,
            extra={
                "action": "definitions_loaded",
                "table": report.table,
                "inserted": report.inserted,
                "updated": report.updated,
            },
        )
    return reports


def _load(connection: Connection, *, folder: Path) -> list[SeedReport]:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_definitions"])
        before = {table: _stored(cursor, table) for table in _TABLES}
        after = dict(before)
        for table in _TABLES:
            after[table] = before[table] | _read(folder / f"{table}.csv", table, after)
        reports = [_report(table, before[table], after[table]) for table in _TABLES]
        if after == before:
            return reports
        cursor.execute(_SQL["lock_stored"])
        _refuse_moves(cursor, before["activity_version"], after["activity_version"])
        for table, report in zip(_TABLES, reports, strict=True):
            if report.changed:
                rows = [after[table][key] for key in report.changed]
                execute_values(cursor, _SQL[f"upsert_{table}"], rows, page_size=len(rows))
        for table, updated in (
            ("core.instance", _rewrite_seasons(cursor, before["season"], after["season"])),
            ("core.player", _follow_raids(cursor, before, after)),
        ):
            if updated:
                reports.append(SeedReport(table, 0, updated, 0, ()))
        return reports


def _stored(cursor: Cursor, table: str) -> Rows:
    cursor.execute(_SQL[f"select_{table}"])
    return {row[0]: row for row in cursor}


def _read(path: Path, table: str, known: Mapping[str, Rows]) -> Rows:
    """The rows of a file; `known` are the tables that it may refer to."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return _rows(file, path.name, table, known)
    except FileNotFoundError:
        raise PermanentError(f"{path} is missing") from None
    except UnicodeDecodeError as error:
        raise PermanentError(f"{path.name}: not UTF-8 at byte {error.start}") from error


def _rows(text: TextIO, file: str, table: str, known: Mapping[str, Rows]) -> Rows:
    columns = _TABLES[table]
    rows: Rows = {}
    lines = csv.reader(text, strict=True)
    try:
        header: list[str] = next(lines, [])
        for column in columns:
            if header.count(column.name) != 1:
                raise PermanentError(f"{file}: line 1, column {column.name}: missing or repeated")
        for fields in lines:
            if len(fields) != len(header):
                count = f"{len(fields)} instead of {len(header)}"
                raise PermanentError(f"{file}: line {lines.line_num}: {count} columns")
            texts = dict(zip(header, fields, strict=True))
            row = tuple(_value(c, texts[c.name], file, lines.line_num, known) for c in columns)
            key = int(texts[columns[0].name])
            if key in rows:
                where = f"{file}: line {lines.line_num}, column {columns[0].name}"
                raise PermanentError(f"{where}: {key} stands in an earlier line too")
            rows[key] = row
    except csv.Error as error:
        raise PermanentError(f"{file}: line {lines.line_num}: {error}") from error
    return rows


def _value(column: _Column, text: str, file: str, line: int, known: Mapping[str, Rows]) -> Value:
    where = f"{file}: line {line}, column {column.name}"
    if not text:
        if not column.nullable:
            raise PermanentError(f"{where}: empty")
        return None
    try:
        value = column.read(text)
    except ValueError as error:
        raise PermanentError(f"{where}: {text!r} is {error}") from error
    if column.references is not None and value not in known[column.references]:
        raise PermanentError(f"{where}: {value} is not in {column.references}")
    return value


def _report(table: str, before: Rows, after: Rows) -> SeedReport:
    inserted = sum(key not in before for key in after)
    changed = tuple(key for key, row in after.items() if before.get(key) != row)
    return SeedReport(
        table=f"definitions.{table}",
        inserted=inserted,
        updated=len(changed) - inserted,
        unchanged=len(after) - len(changed),
        changed=changed,
    )


def _refuse_moves(cursor: Cursor, before: Rows, after: Rows) -> None:
    """Raises PermanentError when a hash changes its activity under stored instances.

    Their first clears, counters and fastest runs belong to the old one and would stay there.
    """
    moved = [hash_ for hash_, row in before.items() if after[hash_][1] != row[1]]
    if not moved:
        return
    cursor.execute(_SQL["select_stored_hashes"], {"hashes": moved})
    if (found := cursor.fetchone()) is not None:
        hash_, stored = found
        raise PermanentError(
            f"activity_version.csv: hash {hash_} moves from activity {before[hash_][1]} to "
            f"{after[hash_][1]}, but {stored} stored instances were counted for the old one"
        )


def _rewrite_seasons(cursor: Cursor, before: Rows, after: Rows) -> int:
    """Computes season_id anew for the instances that moved starts concern; returns how many."""
    old = {key: row[-1] for key, row in before.items()}
    new = {key: row[-1] for key, row in after.items()}
    moved = [start for key in new if new[key] != old.get(key) for start in (old.get(key), new[key])]
    starts = [start for start in moved if isinstance(start, datetime)]
    if not starts:
        return 0
    # Whatever is older than all seasons belongs to the earliest one, which then may be another.
    every = [start for start in (*old.values(), *new.values()) if isinstance(start, datetime)]
    after_date = "-infinity" if min(starts) == min(every) else min(starts)
    cursor.execute(_SQL["rewrite_seasons"], {"after": after_date})
    return cursor.rowcount


def _follow_raids(cursor: Cursor, before: Mapping[str, Rows], after: Mapping[str, Rows]) -> int:
    """Recomputes the sums of best times when other raids count; returns how many changed."""

    def counted(tables: Mapping[str, Rows]) -> set[int]:
        names = [column.name for column in _TABLES["activity_definition"]]
        sunset, raid = names.index("is_sunset"), names.index("is_raid")
        rows = tables["activity_definition"]
        return {key for key, row in rows.items() if row[raid] and not row[sunset]}

    return recompute_sum_of_best(cursor) if counted(before) != counted(after) else 0
