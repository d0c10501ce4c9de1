"""Brings both stores back to the moment of a backup, and does again what was on its way then.

Everything that can be refused is refused before anything is written. Rules:
docs/operations/backup.md.
"""

from contextlib import closing
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.backup import manifest as manifests
from raidhub_dagster.backup.making import CLICKHOUSE, DAGSTER, Tell
from raidhub_dagster.backup.manifest import Manifest
from raidhub_dagster.backup.postgres import check_version, restore
from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, clickhouse_lookups, verify
from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.clickhouse_parity import DAY_AGGREGATES, TIMELESS_AGGREGATE
from raidhub_dagster.storage.clickhouse_reports import WEAPON_META_TREND, WEEKLY_RAID_REPORT
from raidhub_dagster.storage.clickhouse_sender import empty_staging
from raidhub_dagster.storage.migrations import make_role, migrate_postgres, prepare_history
from raidhub_dagster.storage.postgres import BusyError, connect, connected
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.reconcile import Reopened, match_clickhouse, reopen

NAME = "raidhub restore"
# Exists on every server unless somebody dropped it; nothing is stored there.
_MAINTENANCE_DATABASE = "postgres"
_TABLES = (
    "instance",
    *DAY_AGGREGATES,
    TIMELESS_AGGREGATE,
    WEEKLY_RAID_REPORT,
    WEAPON_META_TREND,
)

_SQL = load("postgres", "backup")
_DATABASES = load("postgres", "migrations")
_CLICKHOUSE_SQL = load("clickhouse", "backup")
_TRY_LOCK = load("postgres", "locks")["try_lock_work"]
_ATTACH_MONTH = load("clickhouse", "sender")["attach_month"]


def restore_all(
    settings: Settings, folder: Path, *, force: bool, jobs: int, hours: int, tell: Tell
) -> Reopened:
    """Restores the backup in `folder` into the servers of `settings`.

    With `force` what they hold is dropped, which a restore that was killed needs as well. `hours`
    as `reconcile.reopen` has them. Raises ConfigurationError for a target that holds something, is
    in use or is too old, PermanentError for a backup that is damaged, not whole or too new.
    """
    manifest = manifests.read(folder)
    manifests.check_release(manifest)
    tell(f"backup of {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC: checking its files")
    manifests.check_files(folder, manifest)
    own = settings.postgres_db
    databases = {
        dump: name if dump == DAGSTER else own for dump, name in manifest.databases.items()
    }
    with closing(connect(settings, NAME, database=_MAINTENANCE_DATABASE)) as maintenance:
        maintenance.autocommit = True  # databases are made and dropped in no transaction
        _lock(maintenance)
        _check_login(maintenance)
        check_version(settings, manifest.postgres_major, maintenance.server_version // 10_000)
        for database in databases.values():
            _check_database(settings, maintenance, database, force=force)
        _check_clickhouse(settings, force=force)
        _create_roles(maintenance, manifest)
        for dump, database in databases.items():
            tell(f"PostgreSQL {database}")
            _recreate(maintenance, database)
            restore(settings, database, folder / dump, jobs=jobs)
    return _finish(settings, folder, manifest, hours=hours, tell=tell)


def _lock(maintenance: Connection) -> None:
    """Held until the connection ends; one for the whole server."""
    with maintenance.cursor() as cursor:
        cursor.execute(_TRY_LOCK, {"name": "restore"})
        if cursor.fetchall() != [(True,)]:
            raise BusyError("another restore runs on this server")


def _check_login(maintenance: Connection) -> None:
    with maintenance.cursor() as cursor:
        cursor.execute(_SQL["may_make_databases"])
        ((login, may),) = cursor.fetchall()
    if not may:
        raise ConfigurationError(
            f"{login} may make no database: restore with the owner's POSTGRES_USER, who needs"
            " CREATEDB for that time"
        )


def _check_database(
    settings: Settings, maintenance: Connection, database: str, *, force: bool
) -> None:
    with maintenance.cursor() as cursor:
        cursor.execute(_DATABASES["database_exists"], {"name": database})
        if cursor.fetchall() == [(False,)]:
            return
        cursor.execute(_SQL["list_clients"], {"name": database})
        if clients := [f"{name} ({count})" for name, count in cursor]:
            raise ConfigurationError(
                f"the database {database} is in use: stop {', '.join(clients)} first"
            )
    if not force and (found := _what_it_holds(settings, database)):
        raise ConfigurationError(
            f"the database {database} holds {found}; --force drops it, and all that it holds"
        )


def _what_it_holds(settings: Settings, database: str) -> str | None:
    """None when nothing would be missed: no table, or our schema before the first report."""
    with (
        closing(connect(settings, NAME, database=database)) as connection,
        connection.cursor() as cursor,
    ):
        for table, question, what in (
            ("core.instance", "has_raids", "raids"),
            ("runs", "has_runs", "runs of Dagster"),
        ):
            cursor.execute(_SQL["has_table"], {"table": table})
            if cursor.fetchall() == [(True,)]:
                cursor.execute(_SQL[question])
                return what if cursor.fetchall() == [(True,)] else None
        cursor.execute(_SQL["count_tables"])
        ((tables,),) = cursor.fetchall()
    return f"{tables} tables that are not ours" if tables else None


def _check_clickhouse(settings: Settings, *, force: bool) -> None:
    with (
        answered(),
        closing(clickhouse.connect(settings, NAME, database="default")) as client,
    ):
        parameters = {"database": settings.clickhouse_db}
        held = client.query(_CLICKHOUSE_SQL["count_held"], parameters=parameters).result_rows
    if any(rows for (rows,) in held) and not force:
        raise ConfigurationError(
            f"ClickHouse's database {settings.clickhouse_db} holds {held[0][0]} runs;"
            " --force drops them"
        )


def _create_roles(maintenance: Connection, manifest: Manifest) -> None:
    """Those that the dump grants something to; `raidhub migrate` gives them their passwords."""
    with maintenance.cursor() as cursor:
        cursor.execute(_SQL["list_missing_roles"], {"roles": manifest.roles})
        for (role,) in cursor.fetchall():
            make_role(maintenance, role, None)


def _recreate(maintenance: Connection, database: str) -> None:
    with maintenance.cursor() as cursor:
        for statement in (_SQL["drop_database"], _DATABASES["create_database"]):
            cursor.execute(sql.SQL(statement).format(database=sql.Identifier(database)))


def _finish(
    settings: Settings, folder: Path, manifest: Manifest, *, hours: int, tell: Tell
) -> Reopened:
    migrate_postgres(settings)
    if DAGSTER in manifest.databases:
        prepare_history(settings)
    migrate_clickhouse(settings)
    clickhouse_lookups.refresh(settings)
    with (
        answered(),
        connected(settings, NAME) as connection,
        closing(clickhouse.connect(settings, NAME, timeout_s=3600)) as client,
    ):
        found = verify.sizes(connection)
        if found != manifest.sizes:
            raise PermanentError(f"PostgreSQL has {found} after the restore, not {manifest.sizes}")
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["analyze"])
        for table in _TABLES:
            client.command(_CLICKHOUSE_SQL["empty"], parameters={"table": table})
        files = sorted((folder / CLICKHOUSE).glob("*.native.zst"))
        for month, days in groupby(files, key=lambda path: path.name[:7]):
            tell(f"ClickHouse {month}")
            empty_staging(client)
            for path in days:
                with path.open("rb") as file:
                    client.raw_insert(
                        "instance_staging",
                        insert_block=file,
                        fmt="Native",
                        compression="zstd",
                        settings={"async_insert": 0},
                    )
            client.command(_ATTACH_MONTH, parameters={"month": int(month.replace("-", ""))})
        empty_staging(client)
        tell("counting ClickHouse's aggregates")
        reopened = reopen(connection, hours=hours)
        for _ in match_clickhouse(connection, client, now=datetime.now(UTC), everything=True):
            pass
    return reopened
