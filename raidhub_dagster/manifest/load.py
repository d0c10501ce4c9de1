"""Brings the tables of definitions to the current manifest, each in one transaction, by upsert.

Rows that left the manifest stay: stored reports refer to them. A table that was loaded from this
very manifest is left alone. Rules: docs/domain/definitions.md, "The manifest".
"""

import hashlib
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import execute_values

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.manifest import files, records, state
from raidhub_dagster.manifest.database import Database, UnfitError, opened
from raidhub_dagster.manifest.records import Bad, Found, Row
from raidhub_dagster.storage.clickhouse_lookups import LookupRefreshed, refresh_lookups
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "manifest")

COPIES = "clickhouse"  # what `state` calls the copies in ClickHouse


@dataclass(frozen=True)
class Target:
    """A table of definitions, and how its rows are read from a manifest."""

    table: str
    read: Callable[[Database, Collection[int]], Found]
    # What rows depend on beside the manifest and the hashes of activities, if on those.
    code: str = ""
    follows_activities: bool = False

    def basis(self, tracked: Collection[int]) -> str:
        """Another text when the same manifest would give other rows."""
        parts = (self.code, sorted(tracked) if self.follows_activities else "")
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


WEAPONS = Target(
    "weapon_definition",
    lambda database, _: records.read_weapons(database),
    code=repr(records.MAPPINGS),  # a value that was unknown so far is named after an upgrade
)
CLASSES = Target("class_definition", lambda database, _: records.read_classes(database))
FEATS = Target("activity_feat_definition", records.read_feats, follows_activities=True)
TARGETS = (WEAPONS, CLASSES, FEATS)


@dataclass(frozen=True)
class Loaded:
    """What a load did; `rows` are those of the table afterwards."""

    version: str
    rows: int
    seconds: float
    is_unchanged: bool = False  # nothing was read, because it was loaded before
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    vanished: int = 0  # in the table, not in the manifest
    found: Found = field(default_factory=Found)


@dataclass(frozen=True)
class UnknownRaids:
    """Raids of the game that activity_version does not know, with reports that wait for them."""

    version: str
    rows: list[dict[str, str | int]]  # hash, name, parked_reports
    parked_reports: int  # of all of them
    known: int  # hashes of activity_version that the manifest has
    not_in_manifest: list[int]  # the others: of raids that left the game
    bad: list[Bad]


def load_target(
    connection: Connection,
    folder: Path,
    target: Target,
    *,
    force: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> Loaded:
    """The current manifest into the table; `force` even when it was loaded before.

    Raises PermanentError without a manifest, UnfitError for one of which no record is usable;
    nothing was written then.
    """
    started = time.monotonic()
    path = _current(folder)
    with connection:
        tracked = load_tracked_hashes(connection)
    done = state.Done(path.name, target.basis(tracked))
    if not force and is_done(connection, target, path.name, tracked):
        with connection:
            rows = len(_stored(connection, target))
        return Loaded(path.name, rows, time.monotonic() - started, is_unchanged=True)
    with opened(path) as database:
        found = target.read(database, tracked)
        done = state.Done(done.version, done.basis, database.count_rows())

    def write(connection: Connection) -> Loaded:
        stored = _stored(connection, target)
        if not found.rows and (stored or found.bad):
            raise UnfitError(f"{path.name}: no record for {target.table} is usable", _facts(found))
        changed = [
            (hash_, *row)
            for hash_, row in sorted(found.rows.items())  # parallel loads wait for each other
            if stored.get(hash_) != row and not (hash_ in found.redacted and hash_ in stored)
        ]
        with connection.cursor() as cursor:
            if changed:
                statement = _SQL[f"upsert_{target.table}"]
                execute_values(cursor, statement, changed, page_size=len(changed))
            state.write_done(cursor, target.table, done)
        inserted = len(found.rows.keys() - stored.keys())
        return Loaded(
            version=path.name,
            rows=len(stored) + inserted,
            seconds=time.monotonic() - started,
            inserted=inserted,
            updated=len(changed) - inserted,
            unchanged=len(found.rows) - len(changed),
            vanished=len(stored.keys() - found.rows.keys()),
            found=found,
        )

    return in_transaction(connection, write, sleep=sleep, rng=rng)


def is_done(connection: Connection, target: Target, version: str, tracked: Collection[int]) -> bool:
    """True when the table has what this version gives."""
    done = state.read_done(connection, target.table)
    return done is not None and (done.version, done.basis) == (version, target.basis(tracked))


def copy_definitions(connection: Connection, client: Client) -> list[LookupRefreshed]:
    """ClickHouse's copies of all definitions, anew; `late_loads` names them until that is done."""
    weapons = state.read_done(connection, WEAPONS.table)  # before: a load may end meanwhile
    refreshed = refresh_lookups(connection, client)
    if weapons is not None:
        with connection, connection.cursor() as cursor:
            state.write_done(cursor, COPIES, weapons)
    return refreshed


def late_loads(connection: Connection, version: str) -> list[str]:
    """Tables, and `COPIES`, that do not have yet what this version gives."""
    with connection:
        tracked = load_tracked_hashes(connection)
    late = [t.table for t in TARGETS if not is_done(connection, t, version, tracked)]
    if state.read_done(connection, COPIES) != state.read_done(connection, WEAPONS.table):
        late.append(COPIES)
    return late


def find_unknown_raids(connection: Connection, folder: Path) -> UnknownRaids:
    """Compares the current manifest with activity_version. Raises PermanentError without one."""
    path = _current(folder)
    with connection:
        tracked = load_tracked_hashes(connection)
    with opened(path) as database:
        activities = records.read_activities(database)
    unknown = [raid for raid in activities.raids if raid.hash not in tracked]
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_parked_reports"], {"hashes": [raid.hash for raid in unknown]})
        parked: dict[int, int] = dict(cursor.fetchall())
    return UnknownRaids(
        version=path.name,
        parked_reports=sum(parked.values()),
        rows=[{**raid._asdict(), "parked_reports": parked.get(raid.hash, 0)} for raid in unknown],
        known=len(tracked.keys() & activities.hashes),
        not_in_manifest=sorted(tracked.keys() - activities.hashes),
        bad=activities.bad,
    )


def _current(folder: Path) -> Path:
    path = files.current(folder)
    if path is None:
        raise PermanentError(f"no manifest in {folder.absolute()} passed its checks yet")
    return path


def _stored(connection: Connection, target: Target) -> dict[int, Row]:
    with connection.cursor() as cursor:
        cursor.execute(_SQL[f"select_{target.table}"])
        return {hash_: tuple(row) for hash_, *row in cursor}


def _facts(found: Found) -> dict[str, str | int | float | bool]:
    return {"bad_records": len(found.bad), "first": str(found.bad[0]) if found.bad else ""}
