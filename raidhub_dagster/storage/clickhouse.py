"""Connections to ClickHouse over HTTP: a server, or the embedded engine behind one protocol."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import clickhouse_connect
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import schema
from raidhub_dagster.storage.queries import SQL_ROOT, load

# Errors of a server that is busy, not of the statement: timeouts, too many queries, no memory, a
# lost connection, too many parts.
_BUSY = frozenset({159, 202, 209, 210, 241, 252})
_NO_SCHEMA = frozenset({60, 81})  # unknown table, unknown database

MIGRATIONS = SQL_ROOT / "clickhouse" / "migrations"
_NEEDED = schema.needed(MIGRATIONS, ".up.sql")
_SQL = load("clickhouse", "migrations")


def connect(
    settings: Settings, application_name: str, *, database: str | None = None, timeout_s: int = 300
) -> Client:
    """A client in UTC that keeps nested columns whole; the caller closes it.

    `flatten_nested=0` must hold for CREATE and INSERT alike, or the nested players become arrays
    of their own. Raises clickhouse_connect's OperationalError when nobody answers.
    """
    return clickhouse_connect.get_client(
        host=settings.clickhouse_host,
        port=settings.clickhouse_http_port,
        username=settings.clickhouse_user,
        password=settings.clickhouse_password.get_secret_value(),
        database=database or settings.clickhouse_db,
        client_name=application_name,
        settings={"flatten_nested": 0},
        autogenerate_session_id=False,  # sessions would serialise statements that need no order
        connect_timeout=10,
        send_receive_timeout=timeout_s,
    )


def connect_checked(settings: Settings, application_name: str, *, timeout_s: int = 300) -> Client:
    """`connect`, to a database that has what this code needs; what newer code added is no matter.

    Raises ConfigurationError when its schema is older, naming what lacks.
    """
    with ExitStack() as unless_ready:
        try:
            client = connect(settings, application_name, timeout_s=timeout_s)
            unless_ready.callback(client.close)
            applied = {version for (version,) in client.query(_SQL["select_applied"]).result_rows}
        except DatabaseError as error:
            if error.code not in _NO_SCHEMA:
                raise
            applied = set()
        missing = [name for name in _NEEDED if int(name.split("_")[0]) not in applied]
        schema.refuse_older("ClickHouse", missing)
        unless_ready.pop_all()
    return client


@contextmanager
def answered() -> Iterator[None]:
    """Inside, ClickHouse's errors are ours: TransientError when it is away or busy.

    What it refuses otherwise it refuses again: PermanentError with the first line of its answer.
    """
    try:
        yield
    except DatabaseError as error:
        line = str(error).strip().partition("\n")[0]
        if error.code is None or error.code in _BUSY:
            raise TransientError(f"ClickHouse does not answer: {line}") from error
        raise PermanentError(f"ClickHouse refused: {line}", {"code": error.code}) from error
