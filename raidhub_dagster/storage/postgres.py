"""Connections to PostgreSQL and the decision which of its errors a later try can cure.

Statements live in `sql/postgres/queries`, what they mean in the modules beside this one.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol, TypeVar

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError, UnavailableError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import schema
from raidhub_dagster.storage.queries import load

log = logging.getLogger(__name__)

_SQL = load("postgres", "locks")

Result = TypeVar("Result")

# Serialization failure, deadlock, lock and statement timeouts, and the key of a row that a writer
# outside our locks inserted first: the same transaction, run again, sees the other one's result.
_RETRIED_SQLSTATES = frozenset({"40001", "40P01", "55P03", "57014", "23505"})


class Rng(Protocol):
    def uniform(self, a: float, b: float, /) -> float: ...


def connect(
    settings: Settings,
    application_name: str,
    *,
    database: str | None = None,
    limit_s: float | None = None,
) -> Connection:
    """A connection outside any transaction, UTC; the caller closes it.

    Raises psycopg2.OperationalError when the server does not answer within 10 s. With `limit_s` a
    statement that takes longer, waiting for a lock included, raises
    psycopg2.errors.QueryCanceled.
    """
    password = settings.postgres_password
    limit = "" if limit_s is None else f" -c statement_timeout={int(limit_s * 1000)}"
    return psycopg2.connect(
        host=settings.postgres_host,
        port=settings.postgres_port,
        user=settings.postgres_user,
        password=password.get_secret_value() if password else None,
        dbname=database or settings.postgres_db,
        application_name=application_name,
        connect_timeout=10,
        # A peer that vanished without a word is noticed within a minute, not within two hours.
        keepalives_idle=30,
        keepalives_interval=10,
        keepalives_count=3,
        options=f"-c timezone=UTC{limit}",
    )


def connect_checked(
    settings: Settings, application_name: str, *, limit_s: float | None = None
) -> Connection:
    """`connect`, to a database that has what this code needs.

    Raises ConfigurationError when its schema is older, naming what lacks.
    """
    connection = connect(settings, application_name, limit_s=limit_s)
    try:
        schema.require(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def libpq_variables(settings: Settings) -> dict[str, str]:
    """The same address and login for psql, pg_dump and their kin; no command line shows them."""
    password = settings.postgres_password
    variables = {
        "PGHOST": settings.postgres_host,
        "PGPORT": str(settings.postgres_port),
        "PGDATABASE": settings.postgres_db,
        "PGUSER": settings.postgres_user,
        "PGPASSWORD": password.get_secret_value() if password else None,
    }
    return {name: value for name, value in variables.items() if value}


@contextmanager
def connected(
    settings: Settings, application_name: str, *, limit_s: float | None = None
) -> Iterator[Connection]:
    """`connect_checked`, closed at the end."""
    connection = connect_checked(settings, application_name, limit_s=limit_s)
    try:
        yield connection
    finally:
        connection.close()


class BusyError(PermanentError):
    """Somebody else does the same piece of work; waiting for them would only repeat it."""


@contextmanager
def alone(settings: Settings, application_name: str, work: str) -> Iterator[None]:
    """Inside, nobody else does `work`, on whatever machine; its end, or a crash, frees it.

    The lock has a connection of its own, so that what the block does on others, rolling back
    included, cannot lose it. Raises BusyError at once when it is taken.
    """
    with closing(connect(settings, application_name)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_SQL["try_lock_work"], {"name": work})
            (taken,) = cursor.fetchone() or (False,)
            if not taken:
                raise BusyError(f"{work} runs already", {"work": work})
            yield
            cursor.execute(_SQL["unlock_work"], {"name": work})


class Pool:
    """At most `size` connections for any number of threads, each opened when it is first needed.

    For threads that mostly wait for somebody else: a hundred of them use a connection for moments
    only. psycopg2's own pool opens all it keeps at once and raises where this one waits.
    """

    def __init__(
        self, settings: Settings, name: str, *, size: int = 16, longest_wait_s: float = 60.0
    ) -> None:
        self._settings = settings
        self._name = name
        self._longest_wait_s = longest_wait_s
        self._free = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()  # of the next two
        self._idle: list[Connection] = []
        self._is_closed = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for this block; what it leaves uncommitted is rolled back.

        Never keep the block open while something else than the database is waited for. Raises
        UnavailableError when none was free for `longest_wait_s`.
        """
        if not self._free.acquire(timeout=self._longest_wait_s):
            raise UnavailableError(
                f"no connection to PostgreSQL was free for {self._longest_wait_s:.0f} s"
            )
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """`work` in one transaction, committed; conflicts are tried again (`in_transaction`)."""
        with self.connection() as connection:
            return in_transaction(connection, work, sleep=time.sleep, rng=random)

    def close(self) -> None:
        """Ends idle connections; those in use end when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return connect_checked(self._settings, self._name)

    def _give_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except psycopg2.Error:
            # The server went away: whatever idles here was opened to the same one.
            with self._lock:
                dead, self._idle = [connection, *self._idle], []
        else:
            with self._lock:
                dead = [connection] if self._is_closed else []
                if not self._is_closed:
                    self._idle.append(connection)
        for broken in dead:
            broken.close()


def is_connection_lost(error: BaseException) -> bool:
    """True when the server or the way to it is gone: not the fault of any statement."""
    if isinstance(error, psycopg2.InterfaceError):
        return True
    if not isinstance(error, psycopg2.OperationalError):
        return False
    state = error.pgcode
    return state is None or state.startswith(("08", "57P"))


def is_retried(error: BaseException) -> bool:
    """True for conflicts with other transactions, which the same transaction run again survives."""
    return isinstance(error, psycopg2.Error) and error.pgcode in _RETRIED_SQLSTATES


def in_transaction(
    connection: Connection,
    work: Callable[[Connection], Result],
    *,
    sleep: Callable[[float], None],
    rng: Rng,
    tries: int = 5,
) -> Result:
    """Runs `work` in one transaction and commits; conflicts are tried again with jitter.

    `work` may run several times, so it has no effect but in the database. Raises the last error.
    """
    for attempt in range(1, tries + 1):
        try:
            with connection:
                return work(connection)
        except psycopg2.Error as error:
            if attempt == tries or not is_retried(error):
                raise
            log.info(
                "Transaction runs again",
                extra={"action": "transaction_retried", "sqlstate": error.pgcode, "try": attempt},
            )
            sleep(rng.uniform(0.01, 0.05) * attempt)
    raise AssertionError("unreachable")
