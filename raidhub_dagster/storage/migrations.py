"""Brings the PostgreSQL database to this release's schema: database, migrations, readers' role.

The migrations themselves are plain SQL in `sql/postgres/migrations`, run by yoyo; rows of
definitions are `seeds.py`. ClickHouse has a module of its own.
"""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import encrypt_password
from yoyo import read_migrations
from yoyo.backends import PostgresqlBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect, is_connection_lost
from raidhub_dagster.storage.queries import SQL_ROOT, load

log = logging.getLogger(__name__)

MIGRATIONS = SQL_ROOT / "postgres" / "migrations"

# What public readers may select from (docs/domain/schema.md, "Roles"); `streaming` is ours alone.
PUBLIC_SCHEMAS = (
    "definitions",
    "core",
    "extended",
    "clan",
    "raw",
    "flagging",
    "subscriptions",
    "leaderboard",
)

# Exists on every server unless somebody dropped it; held for the locks, nothing is stored there.
_MAINTENANCE_DATABASE = "postgres"
_APPLICATION_NAME = "raidhub-migrate"
_SQL = load("postgres", "migrations")


def migrate_postgres(settings: Settings, *, folder: Path = MIGRATIONS) -> list[str]:
    """Names of the migrations applied now, in order; empty when the schema was up to date.

    Creates the database and the readers' role when absent. Several at once, also for different
    databases of one server, wait for each other. A process killed at any moment leaves nothing
    that stops the next one: locks belong to connections, and each migration commits together with
    its mark.

    Raises PermanentError naming the migration that failed, ConfigurationError when the readers'
    role would be the owner, psycopg2.OperationalError when the server is away.
    """
    with _alone(settings) as maintenance:
        _create_database(maintenance, settings.postgres_db)
        applied = _apply(settings, folder)
        _grant_read(settings)
    return applied


def create_database(settings: Settings, name: str) -> bool:
    """Creates database `name` on the server, empty; False when it was there. As `migrate_postgres`.

    Dagster's own is made so: its tables are Dagster's matter.
    """
    with _alone(settings) as maintenance:
        return _create_database(maintenance, name)


@contextmanager
def _alone(settings: Settings) -> Iterator[Connection]:
    maintenance = connect(settings, _APPLICATION_NAME, database=_MAINTENANCE_DATABASE)
    with closing(maintenance):
        maintenance.autocommit = True  # CREATE DATABASE runs in no transaction
        with maintenance.cursor() as cursor:
            cursor.execute(_SQL["lock_migrations"])
        yield maintenance


def _create_database(maintenance: Connection, name: str) -> bool:
    with maintenance.cursor() as cursor:
        cursor.execute(_SQL["database_exists"], {"name": name})
        ((exists,),) = cursor.fetchall()
        if not exists:
            statement = sql.SQL(_SQL["create_database"]).format(database=sql.Identifier(name))
            cursor.execute(statement)
            log.info("Created database %s", name, extra={"action": "database_created"})
    return not exists


class _Backend(PostgresqlBackend):  # type: ignore[misc]  # yoyo has no types
    """yoyo's PostgreSQL over our connection, with a migration and its mark in one transaction.

    yoyo's own commits the mark afterwards: killed in between, it would run the migration again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        uri = DatabaseURI("postgresql", None, None, None, None, settings.postgres_db, {})
        super().__init__(uri, default_migration_table)

    def connect(self, dburi: DatabaseURI) -> Connection:  # noqa: ARG002  settings know the address
        connection = connect(self._settings, _APPLICATION_NAME)
        connection.autocommit = True  # yoyo sends its own BEGIN
        with connection.cursor() as cursor:
            cursor.execute(_SQL["end_with_client"])
            cursor.execute(_SQL["lock_migrations"])
        return connection

    def apply_one(self, migration: Migration, **_: Any) -> None:
        with self.transaction():
            migration.process_steps(self, "apply")
            self.mark_one(migration, log=False)


def _apply(settings: Settings, folder: Path) -> list[str]:
    applied: list[str] = []
    with _Backend(settings) as backend:
        backend.init_database()
        backend.break_lock()  # ours excludes every live run, so a row there is of a killed one
        for migration in backend.to_apply(read_migrations(str(folder))):
            try:
                backend.apply_one(migration)
            except psycopg2.Error as error:
                if is_connection_lost(error):
                    raise
                reason = str(error).splitlines()[0]
                raise PermanentError(f"migration {migration.id} failed: {reason}") from error
            log.info("Applied %s", migration.id, extra={"action": "migration_applied"})
            applied.append(migration.id)
    return applied


def _grant_read(settings: Settings) -> None:
    role = settings.postgres_readonly_user
    password = settings.postgres_readonly_password
    with (
        closing(connect(settings, _APPLICATION_NAME)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(_SQL["select_role"], {"role": role})
        ((is_owner, exists),) = cursor.fetchall()
        if is_owner:
            raise ConfigurationError(
                f"POSTGRES_READONLY_USER is {role}, the owner: readers need a role of their own"
            )
        names = {
            "role": sql.Identifier(role),
            "database": sql.Identifier(settings.postgres_db),
            "schemas": sql.SQL(", ").join(map(sql.Identifier, PUBLIC_SCHEMAS)),
        }
        if not exists:
            cursor.execute(sql.SQL(_SQL["create_role"]).format(**names))
        if password is not None:
            # The server keeps only this verifier, and so do its logs.
            verifier = encrypt_password(
                password.get_secret_value(), role, scope=connection, algorithm="scram-sha-256"
            )
            statement = sql.SQL(_SQL["allow_login"])
            cursor.execute(statement.format(password=sql.Literal(verifier), **names))
        cursor.execute(sql.SQL(_SQL["grant_read"]).format(**names))
