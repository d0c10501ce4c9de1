"""Makes a backup while everything runs: both stores as they are at one moment.

The sender to ClickHouse is held off for that moment only: what PostgreSQL calls sent is in the copy
of `instance`, and nothing else is. Rules: docs/operations/backup.md.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import zstandard
from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.backup import manifest as manifests
from raidhub_dagster.backup.manifest import Manifest
from raidhub_dagster.backup.postgres import dump
from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, verify
from raidhub_dagster.storage.clickhouse import MIGRATIONS as CLICKHOUSE_MIGRATIONS
from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_sender import held_off
from raidhub_dagster.storage.migrations import HISTORY_DATABASE
from raidhub_dagster.storage.postgres import alone, connected
from raidhub_dagster.storage.queries import load

Tell = Callable[[str], None]

NAME = "raidhub backup"
POSTGRES, DAGSTER, CLICKHOUSE = "postgres", "dagster", "clickhouse"  # folders of a backup

_SQL = load("postgres", "backup")
_DATABASES = load("postgres", "migrations")
_CLICKHOUSE_SQL = load("clickhouse", "backup")
_MONTHS = load("clickhouse", "rebuild")["select_months"]


def make(settings: Settings, folder: Path, *, jobs: int, tell: Tell) -> Manifest:
    """A backup of both stores and Dagster's history in `folder`, which is empty or absent.

    Raises ConfigurationError for a folder that holds something, BusyError when another backup
    runs, PermanentError with the reason of the tool that failed.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty: a backup needs a folder of its own")
    with alone(settings, NAME, "backup"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (
            connected(settings, NAME) as frozen,
            closing(clickhouse.connect(settings, NAME, timeout_s=3600)) as client,
            _moment(settings, frozen, client) as (made_at, snapshot),
        ):
            facts = _read_facts(frozen)
            dump(settings, settings.postgres_db, folder / POSTGRES, jobs=jobs, snapshot=snapshot)
            tell(f"PostgreSQL {settings.postgres_db}: {facts['sizes'].instances} instances")
            rows = _export_instance(client, folder / CLICKHOUSE)
            tell(f"ClickHouse instance: {rows} rows")
        databases = {POSTGRES: settings.postgres_db}
        if _has_dagster(settings):
            dump(settings, HISTORY_DATABASE, folder / DAGSTER, jobs=jobs)
            databases[DAGSTER] = HISTORY_DATABASE
            tell("Dagster's history")
        made = Manifest(
            format=manifests.FORMAT,
            made_at=made_at,
            clickhouse_migrations=manifests.migrations_of(CLICKHOUSE_MIGRATIONS),
            databases=databases,
            clickhouse_rows=rows,
            files=manifests.list_files(folder),
            **facts,
        )
        manifests.write(folder, made)
    return made


@contextmanager
def _moment(
    settings: Settings, frozen: Connection, client: Client
) -> Iterator[tuple[datetime, str]]:
    """Inside, `frozen` and the copy of `instance` show one moment; its time and snapshot."""
    now = datetime.now(UTC)
    with (
        answered(),
        connected(settings, NAME) as connection,
        held_off(connection, client, now=now),
        frozen.cursor() as cursor,
    ):
        cursor.execute(_SQL["begin_snapshot"])
        cursor.execute(_SQL["export_snapshot"])
        ((snapshot,),) = cursor.fetchall()
        client.command(_CLICKHOUSE_SQL["drop_copy"])  # a killed backup's
        client.command(_CLICKHOUSE_SQL["create_copy"])
        for (month,) in client.query(_MONTHS).result_rows:
            client.command(_CLICKHOUSE_SQL["attach_month"], parameters={"month": month})
    try:
        yield now, snapshot
    finally:
        frozen.rollback()
        with answered():
            client.command(_CLICKHOUSE_SQL["drop_copy"])


def _read_facts(frozen: Connection) -> dict[str, Any]:
    with frozen.cursor() as cursor:
        cursor.execute(_SQL["list_migrations"])
        migrations = [name for (name,) in cursor]
        cursor.execute(_SQL["list_roles"])
        roles = [name for (name,) in cursor]
        return {
            "postgres_version": frozen.server_version,
            "postgres_migrations": migrations,
            "roles": roles,
            "sizes": verify.read_sizes(cursor),
        }


def _export_instance(client: Client, folder: Path) -> int:
    """A file of Native rows a day, each no larger than a day of raids; how many rows."""
    folder.mkdir()
    with answered():
        days = client.query(_CLICKHOUSE_SQL["count_days"]).result_rows
        for day, _ in days:
            stream = client.raw_stream(_CLICKHOUSE_SQL["select_day"], parameters={"day": day})
            compressor = zstandard.ZstdCompressor(level=3)
            with stream, (folder / f"{day}.native.zst").open("wb") as file:
                compressor.copy_stream(cast(IO[bytes], stream), file)
        if client.query(_CLICKHOUSE_SQL["count_days"]).result_rows != days:
            raise PermanentError("instance_backup changed meanwhile: somebody else writes to it")
    return sum(rows for _, rows in days)


def _has_dagster(settings: Settings) -> bool:
    """False where Dagster keeps its history on another server."""
    with connected(settings, NAME) as connection, connection.cursor() as cursor:
        cursor.execute(_DATABASES["database_exists"], {"name": HISTORY_DATABASE})
        ((exists,),) = cursor.fetchall()
    return bool(exists)
