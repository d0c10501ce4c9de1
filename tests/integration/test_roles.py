"""The database's roles: each can do its work, and nothing else (docs/domain/schema.md, "Roles")."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import psycopg2
import pytest
from psycopg2 import errors, sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from pydantic import SecretStr

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.leaderboards import VIEWS, refresh_view
from raidhub_dagster.storage.migrations import PUBLIC_SCHEMAS, migrate_postgres, prepare_history
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.queries import SQL_ROOT, load
from raidhub_dagster.storage.retention import prune_ledgers
from raidhub_dagster.storage.seeds import seed
from raidhub_dagster.storage.store import Store
from raidhub_dagster.storage.verify import verify
from tests.conftest import make_settings, own_postgres
from tests.support import worlds
from tests.support.database import store_all

SettingsFor = Callable[..., Settings]
PASSWORD = "s'ecret"  # noqa: S105  of roles that end with the test
SECRET = SecretStr(PASSWORD)
DENIED = errors.InsufficientPrivilege
WORLD = [worlds.clear(n, hours=n, players=[n % 4 + 1, n % 3 + 5]) for n in range(1, 13)]


class Roles(NamedTuple):
    """Settings by who logs in; the names of the roles are the test's own."""

    owner: Settings
    writer: Settings
    reader: Settings
    dagster: Settings
    stranger: Settings
    history: str  # database


@pytest.fixture(scope="module")
def roles(postgres_server: dict[str, Any]) -> Iterator[Roles]:
    """A migrated database whose roles may log in, a history, and a login that nobody knows."""
    with own_postgres(postgres_server) as postgres:
        yield from _roles(postgres)


def _roles(postgres: dict[str, Any]) -> Iterator[Roles]:
    mark = postgres["postgres_db"]
    names = {kind: f"{kind} of {mark}" for kind in ("writer", "readonly", "dagster", "stranger")}
    given = {
        f"postgres_{kind}_{what}": value
        for kind in ("writer", "readonly", "dagster")
        for what, value in (("user", names[kind]), ("password", PASSWORD))
    }
    history = f"history of {mark}"
    owner = make_settings(postgres, given)

    def of(kind: str, **more: str) -> Settings:
        return make_settings(
            postgres, {"postgres_user": names[kind], "postgres_password": PASSWORD}, more
        )

    migrate_postgres(owner)
    prepare_history(owner, name=history)
    stranger = sql.Identifier(names["stranger"])
    with closing(connect(owner, "pytest")) as connection:
        connection.autocommit = True
        run(connection, sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(stranger), PASSWORD)
        yield Roles(
            owner,
            of("writer"),
            of("readonly"),
            of("dagster", postgres_db=history),
            of("stranger"),
            history,
        )
        run(connection, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(history)))
        for name in map(sql.Identifier, names.values()):
            run(connection, sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(name))


def run(connection: Connection, statement: str | sql.Composable, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def owner(roles: Roles) -> Iterator[Connection]:
    with closing(connect(roles.owner, "pytest")) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture
def writer(roles: Roles) -> Iterator[Connection]:
    with closing(connect(roles.writer, "pytest")) as connection:
        yield connection


@pytest.fixture
def reader(roles: Roles) -> Iterator[Connection]:
    with closing(connect(roles.reader, "pytest")) as connection:
        connection.autocommit = True
        yield connection


# --- the writer


class Nothing(dict[str, None]):
    """A NULL for every parameter."""

    def __missing__(self, name: str) -> None:
        return None


def statements() -> Iterator[tuple[str, str]]:
    """Every block of `sql/postgres/queries` that runs in our database after the migrations."""
    for path in sorted((SQL_ROOT / "postgres" / "queries").glob("*.sql")):
        if path.stem in ("migrations", "dagster_events"):
            continue
        for name, text in load("postgres", path.stem).items():
            yield f"{path.stem}.{name}", text


def test_the_writer_may_run_every_statement_of_ours(writer: Connection) -> None:
    """What it may not would be found at night, by the one job that needs it.

    Rights are checked before values are, so NULLs will do.
    """
    denied, tried = [], 0
    with writer.cursor() as cursor:
        for name, text in statements():
            cursor.execute("SET LOCAL statement_timeout = '5s'")
            try:
                cursor.execute(text, Nothing())
                tried += 1
            except DENIED as error:
                denied.append(f"{name}: {error}")
            except psycopg2.Error as error:
                # Of class 42 are also texts with a {name} and NULLs of no type: not looked at.
                tried += not (error.pgcode or "").startswith("42")
            writer.rollback()
    assert denied == []
    assert tried > 200


def test_the_writer_stores_ranks_prunes_and_verifies(
    roles: Roles, writer: Connection, owner: Connection
) -> None:
    """The whole of a night: seeds, the store, every board twice, the chores, the proof."""
    seed(roles.writer)
    store_all(Store(writer), WORLD, 5)
    for _ in range(2):  # filled, then exchanged or refreshed beside its readers
        for view in VIEWS:
            refresh_view(writer, view, timeout_s=60)
    prune_ledgers(writer, dry_run=False)
    assert [f.check for f in verify(writer, None) if not f.is_equal] == []
    assert run(owner, "SELECT count(*) > 0 FROM streaming.outbox") == [(True,)]
    owners = "SELECT DISTINCT matviewowner FROM pg_matviews"
    assert run(owner, owners) == [(roles.owner.postgres_user,)], "a board changed hands"


@pytest.mark.parametrize(
    "statement",
    [
        *(f"CREATE TABLE {schema}.mine (id int)" for schema in (*PUBLIC_SCHEMAS, "streaming")),
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE FUNCTION streaming.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE core.player ADD COLUMN mine int",
        "ALTER TABLE core.player DISABLE TRIGGER ALL",
        "ALTER ROLE CURRENT_USER CREATEDB",
        "DROP TABLE raw.pgcr",
        "DROP MATERIALIZED VIEW leaderboard.clan_leaderboard",
        "DROP SCHEMA streaming CASCADE",
        "TRUNCATE raw.pgcr",
        "CREATE INDEX mine ON core.player (clears)",
        "GRANT pg_read_all_data TO CURRENT_USER",
        "REFRESH MATERIALIZED VIEW leaderboard.clan_leaderboard",
        "DELETE FROM public._yoyo_migration",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY raw.pgcr TO PROGRAM 'true'",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_the_writer_makes_changes_and_drops_nothing(writer: Connection, statement: str) -> None:
    """A statement that somebody smuggled in ends at rows, which can be made again from the raw."""
    with pytest.raises(DENIED):
        run(writer, statement)


@pytest.mark.parametrize("board", ["player", 'x" AS SELECT 1; --', "../raw", ""])
def test_the_functions_of_the_boards_touch_nothing_else(writer: Connection, board: str) -> None:
    """They run with the owner's rights."""
    for function in ("refresh_leaderboard", "build_leaderboard", "exchange_leaderboard"):
        with pytest.raises(psycopg2.ProgrammingError):
            run(writer, f"SELECT streaming.{function}(%s)", board)
        writer.rollback()


def test_the_writer_writes_tables_that_come_later(owner: Connection, writer: Connection) -> None:
    """Otherwise each migration would have to remember the role."""
    run(owner, "CREATE TABLE core.later (id bigserial, name text)")
    run(owner, "CREATE TABLE streaming.later (id bigint GENERATED ALWAYS AS IDENTITY, name text)")
    for table in ("core.later", "streaming.later"):
        run(writer, f"INSERT INTO {table} (name) VALUES ('a')")
        run(writer, f"UPDATE {table} SET name = 'b'")
        assert run(writer, f"DELETE FROM {table} RETURNING name") == [("b",)]


def test_a_later_function_is_for_those_who_have_a_role(
    roles: Roles, owner: Connection, writer: Connection
) -> None:
    run(owner, "CREATE FUNCTION streaming.later() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert run(writer, "SELECT streaming.later()") == [(1,)]
    with closing(connect(roles.reader, "pytest")) as reader, pytest.raises(DENIED):
        run(reader, "SELECT streaming.later()")


# --- readers and everybody else


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT streaming.refresh_leaderboard('clan_leaderboard')",
        "SELECT streaming.drop_leaderboard_copy('clan_leaderboard')",
        "CREATE TEMPORARY TABLE mine (id int)",
        "DELETE FROM public._yoyo_migration",
        "SELECT * FROM streaming.cheat_model",
    ],
)
def test_the_reader_finds_nothing_of_ours(reader: Connection, statement: str) -> None:
    with pytest.raises(DENIED):
        run(reader, statement)


def test_the_reader_asks_for_a_season(reader: Connection) -> None:
    """The site shows the season of a moment by our own function."""
    assert run(reader, "SELECT definitions.get_season('2019-01-01')") != [(None,)]


@pytest.mark.parametrize("database", ["ours", "history"])
def test_a_login_without_a_role_cannot_even_connect(roles: Roles, database: str) -> None:
    """PostgreSQL lets every login of the server in unless told otherwise."""
    name = roles.history if database == "history" else roles.owner.postgres_db
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(roles.stranger, "pytest", database=name)


# --- Dagster's own database


@pytest.mark.parametrize("who", ["writer", "reader"])
def test_the_history_is_closed_to_those_of_the_data(roles: Roles, who: str) -> None:
    """Run configurations and errors are there."""
    settings: Settings = getattr(roles, who)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(settings, "pytest", database=roles.history)


def test_the_data_is_closed_to_the_role_of_the_history(roles: Roles) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        connect(roles.dagster, "pytest", database=roles.owner.postgres_db)


def test_a_history_of_before_changes_hands(roles: Roles) -> None:
    """A password set after a year must neither lose the history nor stop Dagster's upgrades."""
    with closing(connect(roles.owner, "pytest", database=roles.history)) as connection, connection:
        run(connection, "CREATE TABLE event_logs (id bigserial PRIMARY KEY, event text)")
    prepare_history(roles.owner, name=roles.history)
    prepare_history(roles.owner, name=roles.history)
    with closing(connect(roles.dagster, "pytest")) as connection:
        run(connection, "INSERT INTO event_logs (event) VALUES ('old')")
        run(connection, "ALTER TABLE event_logs ADD COLUMN run_id text")
        run(connection, "CREATE TABLE runs (id int)")


def test_history_is_asked_with_its_own_login(settings_for: SettingsFor) -> None:
    both = {"postgres_user": "writer", "postgres_password": "w"}
    assert settings_for(both).of_history.postgres_user == "writer"
    login = {"postgres_dagster_user": "d", "postgres_dagster_password": "h"}
    own = settings_for(both, login).of_history
    assert own.postgres_password is not None
    assert (own.postgres_user, own.postgres_password.get_secret_value()) == ("d", "h")


# --- who migrates


@pytest.fixture
def modest(postgres: dict[str, Any], settings_for: SettingsFor) -> Iterator[Settings]:
    """An owner that is no superuser, for a database that does not exist yet."""
    mark = postgres["postgres_db"]
    name, database = f"owner of {mark}", f"modest {mark}"
    own = {
        "postgres_user": name,
        "postgres_password": PASSWORD,
        "postgres_db": database,
        "postgres_writer_user": f"writer of {database}",
        "postgres_readonly_user": f"reader of {database}",
    }
    with closing(connect(settings_for(postgres), "pytest")) as connection:
        connection.autocommit = True
        role = sql.Identifier(name)
        run(connection, sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s").format(role), PASSWORD)
        run(connection, sql.SQL("ALTER ROLE {} CREATEDB CREATEROLE").format(role))
        yield settings_for(postgres, own)
        for what in (database, f"history of {database}"):
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            run(connection, drop.format(sql.Identifier(what)))
        for kind in ("writer", "reader", "dagster"):
            drop = sql.SQL("DROP ROLE IF EXISTS {}")
            run(connection, drop.format(sql.Identifier(f"{kind} of {database}")))
        run(connection, sql.SQL("DROP ROLE {}").format(role))


def test_the_owner_needs_no_superuser(modest: Settings) -> None:
    """Nobody gets one from a rented PostgreSQL."""
    login = {"postgres_writer_password": SECRET, "postgres_dagster_password": SECRET}
    names = {"postgres_dagster_user": f"dagster of {modest.postgres_db}"}
    settings = modest.model_copy(update=login | names)
    for _ in range(2):
        migrate_postgres(settings)
        prepare_history(settings, name=f"history of {modest.postgres_db}")
    as_writer = {
        "postgres_user": settings.postgres_writer_user,
        "postgres_password": settings.postgres_writer_password,
    }
    with closing(connect(settings.model_copy(update=as_writer), "pytest")) as writer:
        store_all(Store(writer), WORLD, 5)
        refresh_view(writer, "individual_global_leaderboard", timeout_s=60)


def test_an_owner_who_may_make_no_roles_hears_which_is_missing(
    modest: Settings, owner: Connection
) -> None:
    role = sql.Identifier(modest.postgres_user or "")
    run(owner, sql.SQL("ALTER ROLE {} NOCREATEROLE").format(role))
    with pytest.raises(ConfigurationError, match=f"make the role {modest.postgres_readonly_user}"):
        migrate_postgres(modest)


def test_a_history_of_somebody_else_is_named(modest: Settings, owner: Connection) -> None:
    """Made by hand, it is open to every login of the server, and only its owner can close it."""
    history = f"history of {modest.postgres_db}"
    run(owner, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(history)))
    with pytest.raises(ConfigurationError, match=f"does not own database {history}"):
        prepare_history(modest, name=history)
    closing_it = sql.SQL(
        "REVOKE ALL ON DATABASE {0} FROM PUBLIC; GRANT CONNECT ON DATABASE {0} TO {1}"
    )
    names = (sql.Identifier(history), sql.Identifier(modest.postgres_user or ""))
    run(owner, closing_it.format(*names))
    prepare_history(modest, name=history)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"postgres_writer_user": "raidhub"}, "POSTGRES_WRITER_USER is raidhub, the login that"),
        ({"postgres_dagster_user": "raidhub"}, "POSTGRES_DAGSTER_USER is raidhub, the login that"),
        (
            {"postgres_writer_user": "readonly"},
            "POSTGRES_WRITER_USER is readonly, and so is POSTGRES_READONLY_USER",
        ),
    ],
    ids=["writer is owner", "dagster is owner", "writer is reader"],
)
def test_two_roles_of_one_name_are_refused(
    postgres: dict[str, Any], settings_for: SettingsFor, given: dict[str, str], told: str
) -> None:
    """The readers would silently get the writers' rights, or their password the owner's."""
    with pytest.raises(ConfigurationError, match=told):
        migrate_postgres(settings_for(postgres, given))
