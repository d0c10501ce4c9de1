"""The pool that many waiting slots share."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg2
import pytest

from raidhub_dagster.errors import UnavailableError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import Pool
from tests.support.topics import execute, rows

OPEN = (
    "SELECT count(*) FROM pg_stat_activity"
    " WHERE application_name = 'pool' AND datname = current_database()"
)
KILL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = 'pool' AND datname = current_database()"
)


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


@pytest.fixture
def pool(settings: Settings) -> Iterator[Pool]:
    pool = Pool(settings, "pool", size=3, longest_wait_s=0.1)
    yield pool
    pool.close()


def use(pool: Pool, statement: str = "SELECT 1") -> Any:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def test_opens_no_more_than_are_used_at_once(settings: Settings, pool: Pool) -> None:
    """A hundred slots must not take a hundred of the server's connections."""
    assert rows(settings, OPEN) == [(0,)]
    for _ in range(5):
        use(pool)
    assert rows(settings, OPEN) == [(1,)]
    together = threading.Barrier(3)

    def work() -> None:
        with pool.connection():
            together.wait(10)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(settings, OPEN) == [(3,)]


def test_waits_for_a_free_one_and_says_when_it_waited_too_long(pool: Pool) -> None:
    with (
        pool.connection(),
        pool.connection(),
        pool.connection(),
        pytest.raises(UnavailableError, match="no connection"),
    ):
        use(pool)
    assert use(pool) == (1,)


def test_what_was_not_committed_is_gone(settings: Settings, pool: Pool) -> None:
    """The next user must not find somebody's half of a transaction, nor its locks."""
    use(pool, "CREATE TABLE half (x int); SELECT pg_advisory_xact_lock(1), 1")
    assert use(pool, "SELECT to_regclass('half')") == (None,)
    assert rows(settings, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_a_failed_statement_spoils_nothing(pool: Pool) -> None:
    with pytest.raises(psycopg2.errors.UndefinedTable):
        use(pool, "SELECT * FROM nowhere")
    assert use(pool) == (1,)


def test_a_restarted_server_costs_one_failure_not_one_a_connection(
    settings: Settings, pool: Pool
) -> None:
    """All idle connections died together; each would otherwise fail another message."""
    with pool.connection(), pool.connection(), pool.connection():
        pass
    execute(settings, KILL)
    with pytest.raises(psycopg2.OperationalError):
        use(pool)
    assert [use(pool) for _ in range(3)] == [(1,)] * 3


def test_a_conflict_is_tried_again(settings: Settings, pool: Pool) -> None:
    execute(
        settings,
        "CREATE TABLE pair (id int PRIMARY KEY, n int); INSERT INTO pair VALUES (1, 0), (2, 0)",
    )
    meet = threading.Barrier(2)

    def cross(first: int, second: int) -> None:
        def work(connection: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("UPDATE pair SET n = n + 1 WHERE id = %s", (first,))
                with suppress(threading.BrokenBarrierError):
                    meet.wait(2)
                cursor.execute("UPDATE pair SET n = n + 1 WHERE id = %s", (second,))

        pool.run(work)

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert rows(settings, "SELECT n FROM pair") == [(2,), (2,)]


def test_a_closed_pool_leaves_nothing_open(settings: Settings, pool: Pool) -> None:
    with pool.connection():
        use(pool)
        pool.close()
    assert rows(settings, OPEN) == [(0,)]
