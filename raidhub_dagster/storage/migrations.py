"""Brings the PostgreSQL database to this release's schema: database, migrations, roles.

The migrations themselves are plain SQL in `sql/postgres/migrations`, run by yoyo; rows of
definitions are `seeds.py`. ClickHouse has a module of its own.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import encrypt_password
from pydantic import SecretStr
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

# Where dagster.yaml has Dagster keep its history.
HISTORY_DATABASE = "dagster"

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

_SCHEMAS = (*PUBLIC_SCHEMAS, "streaming")
# Boards are refreshed, never written.
_WRITTEN_SCHEMAS = tuple(name for name in _SCHEMAS if name != "leaderboard")

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

    Creates the database and the roles of readers and writers when absent, and grants to them, each
    time. Several at once, also for different databases of one server, wait for each other. A
    process killed at any moment leaves nothing that stops the next one: locks belong to
    connections, and each migration commits together with its mark.

    Raises PermanentError naming the migration that failed or is out of turn, TransientError when
    somebody held a lock for all that time, ConfigurationError when a role would be the login that
    migrates or may not be made by it, psycopg2.OperationalError when the server is away.
    """
    patient = Retrying(
        retry=retry_if_exception_type(errors.LockNotAvailable),
        stop=stop_after_delay(patience_s),
        wait=wait_random(5, 10),
        sleep=sleep,
        reraise=True,
    )
    with _alone(settings) as maintenance:
        _check_roles(maintenance, settings)
        make_role(maintenance, settings.postgres_readonly_user, settings.postgres_readonly_password)
        make_role(maintenance, settings.postgres_writer_user, settings.postgres_writer_password)
        _create_database(maintenance, settings.postgres_db)
        applied = _apply(settings, folder, phase, patient)
        with _transaction(settings) as connection:
            _grant(connection, settings)
    return applied


def prepare_history(settings: Settings, *, name: str = HISTORY_DATABASE) -> None:
    """Creates Dagster's database when absent and closes it to everybody else; repeatable.

    With POSTGRES_DAGSTER_PASSWORD it belongs to POSTGRES_DAGSTER_USER from then on, with all that
    is in it. Raises ConfigurationError when the database is another login's, else as
    `migrate_postgres`.
    """
    with _alone(settings) as maintenance:
        _check_roles(maintenance, settings)
        _create_database(maintenance, name)
        if settings.postgres_dagster_password is not None:
            make_role(
                maintenance, settings.postgres_dagster_user, settings.postgres_dagster_password
            )
        try:
            with _transaction(settings, name) as connection:
                _close_history(connection, name)
                if settings.postgres_dagster_password is not None:
                    _own_history(connection, name, settings.postgres_dagster_user)
        except psycopg2.errors.InsufficientPrivilege as error:
            raise _not_the_owner(name, str(error).strip()) from None


def _not_the_owner(name: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the login that migrates does not own database {name}: {reason}")


def _close_history(connection: Connection, name: str) -> None:
    database = sql.Identifier(name)
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(_SQL["close_history"]).format(database=database))
        cursor.execute(_SQL["is_history_open"], {"name": name})
        if cursor.fetchall() == [(True,)]:  # whoever is not the owner gets a warning, no error
            raise _not_the_owner(name, f"have its owner REVOKE ALL ON DATABASE {name} FROM PUBLIC")


def _own_history(connection: Connection, name: str, user: str) -> None:
    names = {"database": sql.Identifier(name), "role": sql.Identifier(user)}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(_SQL["own_history"]).format(**names))
        cursor.execute(_SQL["select_history_tables"], {"role": user})
        for (table,) in cursor.fetchall():
            statement = sql.SQL(_SQL["own_table"])
            cursor.execute(statement.format(table=sql.Identifier(table), role=names["role"]))


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


@contextmanager
def _transaction(settings: Settings, database: str | None = None) -> Iterator[Connection]:
    with (
        closing(connect(settings, _APPLICATION_NAME, database=database)) as connection,
        connection,
    ):
        yield connection


def _check_roles(maintenance: Connection, settings: Settings) -> None:
    """Two roles with one name would be one with the rights of both, the owner's included."""
    taken: dict[str, str] = {}
    for setting, role in settings.roles.items():
        with maintenance.cursor() as cursor:
            cursor.execute(_SQL["select_role"], {"role": role})
            ((is_ours, _),) = cursor.fetchall()
        if is_ours:
            raise ConfigurationError(
                f"{setting} is {role}, the login that migrates: it needs a role of its own"
            )
        if other := taken.get(role):
            raise ConfigurationError(f"{setting} is {role}, and so is {other}: name two roles")
        taken[role] = setting


def make_role(connection: Connection, role: str, password: SecretStr | None) -> None:
    """The role, without login until it has a password.

    Raises ConfigurationError when the login of `connection` may make none.
    """
    name = sql.Identifier(role)
    with connection.cursor() as cursor:
        cursor.execute(_SQL["select_role"], {"role": role})
        ((_, exists),) = cursor.fetchall()
        try:
            if not exists:
                cursor.execute(sql.SQL(_SQL["create_role"]).format(role=name))
            if password is not None:
                # The server keeps only this verifier, and so do its logs.
                verifier = encrypt_password(
                    password.get_secret_value(), role, scope=connection, algorithm="scram-sha-256"
                )
                statement = sql.SQL(_SQL["allow_login"])
                cursor.execute(statement.format(role=name, password=sql.Literal(verifier)))
        except psycopg2.errors.InsufficientPrivilege:
            raise ConfigurationError(
                f"the login that migrates may not make the role {role}: give it CREATEROLE, or"
                f" have an administrator run CREATE ROLE and leave its password out of the settings"
            ) from None


def _grant(connection: Connection, settings: Settings) -> None:
    def names(role: str, schemas: Collection[str]) -> dict[str, sql.Composable]:
        return {
            "role": sql.Identifier(role),
            "database": sql.Identifier(settings.postgres_db),
            "schemas": sql.SQL(", ").join(map(sql.Identifier, schemas)),
        }

    reader, writer = settings.postgres_readonly_user, settings.postgres_writer_user
    with connection.cursor() as cursor:
        for statement, role, schemas in (
            ("close_to_everybody", reader, _SCHEMAS),
            ("grant_read", reader, PUBLIC_SCHEMAS),
            ("grant_read", writer, _SCHEMAS),
            ("grant_write", writer, _WRITTEN_SCHEMAS),
        ):
            cursor.execute(sql.SQL(_SQL[statement]).format(**names(role, schemas)))
