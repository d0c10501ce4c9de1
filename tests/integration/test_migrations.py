"""`migrate_postgres` from nothing, twice, at once, killed and broken."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2 import sql

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from raidhub_dagster.storage.migrations import MIGRATIONS, migrate_postgres
from raidhub_dagster.storage.postgres import connect

SettingsFor = Callable[..., Settings]

NAMES = sorted(path.stem for path in MIGRATIONS.glob("*.sql"))


@pytest.fixture
def fresh(postgres: dict[str, Any], settings_for: SettingsFor) -> Iterator[Settings]:
    """Settings for a database that does not exist yet; its name needs quoting."""
    settings = settings_for(postgres, postgres_db=f'{postgres["postgres_db"]} of "Ghost"')
    yield settings
    with closing(connect(settings_for(postgres), "test")) as connection:
        connection.autocommit = True
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with connection.cursor() as cursor:
            cursor.execute(statement.format(sql.Identifier(settings.postgres_db)))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder whose only migration fails in its second statement."""
    statements = "CREATE SCHEMA half; CREATE TABLE half.t (id inte);"
    (tmp_path / "0001_pre_create_half.sql").write_text(statements, "utf-8")
    return tmp_path


def eventually(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"


def fetch(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    with closing(connect(settings, "test")) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def test_creates_the_database_and_applies_everything_in_order(fresh: Settings) -> None:
    assert migrate_postgres(fresh) == NAMES
    assert fetch(fresh, "SHOW server_encoding") == [("UTF8",)]


def test_second_run_finds_nothing_to_do(fresh: Settings) -> None:
    migrate_postgres(fresh)
    assert migrate_postgres(fresh) == []


def test_names_tell_their_order_and_phase() -> None:
    """They are applied by name; two of one number would be applied in an order nobody chose."""
    numbers = [name.split("_")[0] for name in NAMES]
    assert numbers == [f"{number:04}" for number in range(1, len(NAMES) + 1)]
    assert {name.split("_")[1] for name in NAMES} <= {"pre", "post"}


def test_four_at_once_apply_each_migration_once(fresh: Settings) -> None:
    """Pods of one release start together, on a server without the database."""
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(migrate_postgres, [fresh] * 4))
    assert sorted(name for names in done for name in names) == NAMES
    assert fetch(fresh, "SELECT count(*) FROM _yoyo_migration") == [(len(NAMES),)]


def test_two_databases_of_one_server_at_once(
    fresh: Settings, postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """The readers' role belongs to the server: both would change it."""
    login = {"postgres_readonly_password": "secret"}
    both = [fresh, settings_for(postgres, login)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(migrate_postgres, both)) == [NAMES, []]


def test_lock_of_a_killed_yoyo_is_broken(fresh: Settings, broken: Path) -> None:
    """Its first run on a database takes a row as its lock; after kill -9 nobody deletes it."""
    with pytest.raises(PermanentError):
        migrate_postgres(fresh, folder=broken)
    with closing(connect(fresh, "test")) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE _yoyo_version, _yoyo_log, _yoyo_migration")
        cursor.execute("INSERT INTO yoyo_lock (locked, pid) VALUES (1, 4711)")
    assert migrate_postgres(fresh) == NAMES


def _migrate(settings: Settings, folder: Path) -> None:
    migrate_postgres(settings, folder=folder)


def test_killed_run_leaves_nothing_that_stops_the_next(fresh: Settings, tmp_path: Path) -> None:
    """A pod is killed in the middle of a long migration; its statement still runs on the server."""
    for path in MIGRATIONS.glob("*.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    slow = tmp_path / f"{NAMES[2]}.sql"
    slow.write_text(slow.read_text("utf-8") + "SELECT pg_sleep(600);\n", "utf-8")
    process = multiprocessing.get_context("spawn").Process(target=_migrate, args=(fresh, tmp_path))
    process.start()
    maintenance = fresh.model_copy(update={"postgres_db": "postgres"})
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    eventually(lambda: fetch(maintenance, sleeping) != [])
    process.kill()
    process.join()

    assert migrate_postgres(fresh) == NAMES[2:]


def test_broken_migration_is_named_and_leaves_nothing_half_done(
    fresh: Settings, broken: Path
) -> None:
    """The next release repairs the file; what stood before the error must not be there twice."""
    with pytest.raises(PermanentError, match='0001_pre_create_half failed: type "inte"'):
        migrate_postgres(fresh, folder=broken)
    assert fetch(fresh, "SELECT 1 FROM pg_namespace WHERE nspname = 'half'") == []


def test_server_that_is_away_is_not_a_permanent_error(fresh: Settings) -> None:
    """The command waits for it instead of giving up."""
    with pytest.raises(psycopg2.OperationalError):
        migrate_postgres(fresh.model_copy(update={"postgres_port": free_port()}))


def test_role_without_password_cannot_log_in(fresh: Settings) -> None:
    name = "nobody reads"
    migrate_postgres(fresh.model_copy(update={"postgres_readonly_user": name}))
    query = "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'nobody reads'"
    assert fetch(fresh, query) == [(False,)]
    with closing(connect(fresh, "test")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))
