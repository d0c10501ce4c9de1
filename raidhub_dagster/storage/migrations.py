"""Brings the PostgreSQL database to this release's schema: database, migrations, readers' role.

The migrations themselves are plain SQL in `sql/postgres/migrations`, run by yoyo; rows of
definitions are `seeds.py`. ClickHouse has a module of its own.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import encrypt_password
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random
from yoyo import read_migrations
from yoyo.backends import PostgresqlBackend
from yoyo.connections import DatabaseURI
from yoyo.migrations import Migration, default_migration_table

from raidhub_dagster.errors import ConfigurationError, PermanentError, TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect, is_connection_lost
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.schema import MIGRATIONS, Phase, due

log = logging.getLogger(__name__)

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

# A refresh of a leaderboard may hold what a migration needs for 900 s (its own time limit).
_PATIENCE_S = 1000.0


def migrate_postgres(
    settings: Settings,
    phase: Phase | None = None,
    *,
    folder: Path = MIGRATIONS,
    patience_s: float = _PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Names of the migrations applied now, in order; empty when the schema was up to date.

    `phase` is the step of a rollout (`schema.due`), None both. A migration that waits for a lock
    gives up after 2 s, so that what queues behind it goes on, and is tried again for `patience_s`.

    Creates the database and the readers' role when absent. Several at once, also for different
    databases of one server, wait for each other. A process killed at any moment leaves nothing
    that stops the next one: locks belong to connections, and each migration commits together with
    its mark.

    Raises PermanentError naming the migration that failed or is out of turn, TransientError when
    somebody held a lock for all that time, ConfigurationError when the readers' role would be the
    owner, psycopg2.OperationalError when the server is away.
    """
    patient = Retrying(
        retry=retry_if_exception_type(errors.LockNotAvailable),
        stop=stop_after_delay(patience_s),
        wait=wait_random(5, 10),
        sleep=sleep,
        reraise=True,
    )
    with _alone(settings) as maintenance:
        _create_database(maintenance, settings.postgres_db)
        applied = _apply(settings, folder, phase, patient)
        _grant_read(settings)
    return applied


@contextmanager
def _alone(settings: Settings) -> Iterator[Connection]:
    maintenance = connect(settings, _APPLICATION_NAME, database=_MAINTENANCE_DATABASE)
    with closing(maintenance):
        maintenance.autocommit = True  # CREATE DATABASE runs in no transaction
        with maintenance.cursor() as cursor:
            cursor.execute(_SQL["lock_migrations"])
        yield maintenance


def _create_database(maintenance: Connection, name: str) -> None:
    with maintenance.cursor() as cursor:
        cursor.execute(_SQL["database_exists"], {"name": name})
        ((exists,),) = cursor.fetchall()
        if not exists:
            statement = sql.SQL(_SQL["create_database"]).format(database=sql.Identifier(name))
            cursor.execute(statement)
            log.info("Created database %s", name, extra={"action": "database_created"})


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
        migration.load()
        if migration.use_transactions:
            with self.transaction():
                self.execute(_SQL["limit_lock_waits"])
                migration.process_steps(self, "apply")
                self.mark_one(migration, log=False)
            return
        # CREATE INDEX CONCURRENTLY waits for every old transaction and blocks nobody meanwhile.
        # Killed before its mark, the migration runs again: its file begins with the DROP.
        migration.process_steps(self, "apply")
        with self.transaction():
            self.mark_one(migration, log=False)


def _apply(settings: Settings, folder: Path, phase: Phase | None, patient: Retrying) -> list[str]:
    applied: list[str] = []
    with _Backend(settings) as backend:
        backend.init_database()
        backend.break_lock()  # ours excludes every live run, so a row there is of a killed one
        pending = {m.id: m for m in backend.to_apply(read_migrations(str(folder)))}
        is_empty = not backend.get_applied_migration_hashes()
        for name in due(list(pending), phase, is_empty=is_empty):
            try:
                patient(backend.apply_one, pending[name])
            except errors.LockNotAvailable as error:
                raise TransientError(
                    f"migration {name} got no lock it needs; {_oldest_transaction(backend)}"
                ) from error
            except psycopg2.Error as error:
                if is_connection_lost(error):
                    raise
                reason = str(error).splitlines()[0]
                raise PermanentError(f"migration {name} failed: {reason}") from error
            log.info("Applied %s", name, extra={"action": "migration_applied"})
            applied.append(name)
    return applied


def _oldest_transaction(backend: _Backend) -> str:
    with backend.connection.cursor() as cursor:
        cursor.execute(_SQL["select_oldest_transaction"])
        found = cursor.fetchone()
    if found is None:
        return "nobody holds one any more"
    pid, application, age_s = found
    return f"the oldest transaction is that of {application or 'no name'}, pid {pid}, {age_s} s old"


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
