"""Brings the ClickHouse database to this release's schema.

The migrations are plain SQL in `sql/clickhouse/migrations`, run by clickhouse-migrations. What is
put into the lookup tables is `clickhouse_lookups.py`.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_migrations.clickhouse_cluster import ClickhouseCluster
from clickhouse_migrations.exceptions import MigrationException
from clickhouse_migrations.migration import MigrationStorage
from clickhouse_migrations.migrator import STATUS_PENDING, STATUS_UNKNOWN

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, postgres
from raidhub_dagster.storage.clickhouse import MIGRATIONS
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.schema import Phase, due

log = logging.getLogger(__name__)

_APPLICATION_NAME = "raidhub-migrate"
_POSTGRES = load("postgres", "clickhouse")
_CLICKHOUSE = load("clickhouse", "migrations")


def migrate_clickhouse(
    settings: Settings, phase: Phase | None = None, *, folder: Path = MIGRATIONS
) -> list[str]:
    """Names of the migrations applied now, in order; empty when the schema was up to date.

    `phase` is the step of a rollout (`schema.due`), None both. A schema that newer code made is
    left alone. Creates the database when absent. Several at once wait for each other on a lock in
    PostgreSQL, because the library's own lock needs a Keeper. DDL of ClickHouse is not
    transactional: each statement of a migration can be repeated, so a killed run is finished by
    the next one.

    Raises ConfigurationError for a server whose time zone is not UTC (days, hours and months of
    all tables are UTC), PermanentError naming the migration that failed or is out of turn, and
    the drivers' OperationalError when a store is away.
    """
    cluster = ClickhouseCluster(
        db_host=settings.clickhouse_host,
        db_port=str(settings.clickhouse_http_port),
        db_user=settings.clickhouse_user,
        db_password=settings.clickhouse_password.get_secret_value(),
        driver="clickhouse-connect",
        settings={"flatten_nested": 0},
    )
    database = settings.clickhouse_db
    names = {
        version: name.removesuffix(".up.sql")
        for version, name in MigrationStorage(folder).migration_filenames().items()
    }
    with _alone(settings):
        _check_time_zone(settings)
        try:
            status = cluster.status(database, folder)
            pending = [names[row.version] for row in status if row.state == STATUS_PENDING]
            is_empty = len(pending) == len(status)
            chosen = due(pending, phase, is_empty=is_empty)
            is_newer = any(row.state == STATUS_UNKNOWN for row in status)
            if (is_newer and not pending) or (pending and not chosen):
                return []
            last = int(chosen[-1].split("_")[0]) if chosen else None
            applied = cluster.migrate(database, folder, to_version=last)
        except MigrationException as error:
            raise PermanentError(f"ClickHouse migrations do not fit: {error}") from error
        except DatabaseError as error:
            if error.code is None:
                raise  # nobody answered
            failed = [
                names[row.version]
                for row in cluster.status(database, folder)
                if row.state == STATUS_PENDING
            ]
            raise PermanentError(f"migration {failed[0]} failed: {error}") from error
    for migration in applied:
        log.info("Applied %s", names[migration.version], extra={"action": "migration_applied"})
    return [names[migration.version] for migration in applied]


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    # The maintenance database exists on every server, also before ours was migrated.
    connection = postgres.connect(settings, _APPLICATION_NAME, database="postgres")
    with closing(connection):
        connection.autocommit = True  # nothing but the lock: no transaction stays open behind it
        with connection.cursor() as cursor:
            cursor.execute(_POSTGRES["lock"], {"name": f"migrate {settings.clickhouse_db}"})
        yield


def _check_time_zone(settings: Settings) -> None:
    client = clickhouse.connect(settings, _APPLICATION_NAME, database="default")
    with closing(client):
        zone = client.query(_CLICKHOUSE["select_time_zone"]).result_rows[0][0]
    if zone not in ("UTC", "Etc/UTC"):
        raise ConfigurationError(
            f"the ClickHouse server at CLICKHOUSE_HOST has the time zone {zone}; set it to UTC"
        )
