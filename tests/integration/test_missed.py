"""The ledger of missed ids against PostgreSQL."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import ANY

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import missed
from raidhub_dagster.storage.missed import RETRIED, Missed, State
from raidhub_dagster.storage.postgres import connected


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


@pytest.fixture
def db(settings: Settings) -> Iterator[Connection]:
    with connected(settings, "pytest") as connection:
        yield connection


def record(db: Connection, *rows: Missed, reopen: bool = True) -> None:
    with db, db.cursor() as cursor:
        missed.record(cursor, rows, source="pytest", reopen=reopen)


def close(db: Connection, *ids: int, **more: Any) -> None:
    with db, db.cursor() as cursor:
        missed.close(cursor, ids, **more)


def stored(db: Connection) -> dict[int, tuple[str, str, int]]:
    with db, db.cursor() as cursor:
        cursor.execute("SELECT instance_id, state, reason, attempts FROM streaming.missed_pgcr")
        return {row[0]: row[1:] for row in cursor}


WAITING = Missed(1, State.WAITING, "not_found", 3, error="x" * 900, retry_in_s=-1)
UNKNOWN = Missed(1, State.UNKNOWN_HASH, "unknown_hash", 1, hash=77)


def test_an_id_has_one_row_however_often_it_is_recorded(db: Connection) -> None:
    """The predecessor's log held the same id two and three times."""
    record(db, WAITING, WAITING)
    record(db, WAITING._replace(reason="external_error"))
    assert stored(db) == {1: ("waiting", "external_error", 2)}
    record(db, WAITING._replace(state=State.MALFORMED))
    assert stored(db) == {1: ("malformed", "not_found", 1)}  # its pauses begin anew


def test_a_report_that_waits_for_its_definition_is_not_given_up(db: Connection) -> None:
    """A second fetch may be broken; the first one is kept and as good as ever."""
    record(db, UNKNOWN)
    record(db, WAITING._replace(state=State.MALFORMED))
    assert stored(db) == {1: ("unknown_hash", "unknown_hash", 1)}


def test_an_id_whose_report_is_stored_is_missed_by_nobody(db: Connection) -> None:
    """A block crawled again after a death meets errors where the first crawl met none."""
    with db, db.cursor() as cursor:
        cursor.execute(
            "INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,"
            " date_completed, duration, platform_type)"
            " VALUES (1, 1374392663, true, 1, now(), now(), 9, 3)"
        )
    record(db, WAITING, WAITING._replace(instance_id=2))
    assert stored(db).keys() == {2}


def test_a_due_row_is_claimed_by_one(settings: Settings, db: Connection) -> None:
    """Two processes that fetch the same id waste the budget of the API."""
    record(db, *(WAITING._replace(instance_id=i) for i in range(1, 11)))
    with connected(settings, "pytest") as other:
        first = missed.due(db, limit=6, claim_s=300)
        second = missed.due(other, limit=100, claim_s=300)
    assert sorted(row.instance_id for row in (*first, *second)) == list(range(1, 11))
    assert len(first) == 6
    assert {(row.state, row.attempts) for row in first} == {(State.WAITING, 1)}


def test_a_withheld_row_is_handed_on_again_when_nobody_touches_it(db: Connection) -> None:
    """Whoever purges the queue of withheld reports would else lose a contest weekend."""
    record(db, WAITING, WAITING._replace(instance_id=2, state=State.BLOCKED, retry_in_s=None))
    assert missed.due(db, limit=9, claim_s=300) == [missed.Due(1, State.WAITING, 1, ANY)]
    assert missed.forgotten(db, limit=9, after_s=3600) == []
    assert missed.forgotten(db, limit=9, after_s=-1) == [2]
    assert missed.forgotten(db, limit=9, after_s=3600) == []  # it counts as touched


def test_a_record_counts_the_visits_it_stands_for(db: Connection) -> None:
    """Six tries from memory are six: the pause that follows them is not the one after one."""
    record(db, WAITING)
    record(db, WAITING._replace(visits=6))
    record(db, WAITING._replace(visits=0))
    assert stored(db)[1][2] == 7


def test_a_claim_that_ends_is_due_again(db: Connection) -> None:
    """Its process died with it."""
    record(db, WAITING)
    assert len(missed.due(db, limit=1, claim_s=-1)) == 1
    assert len(missed.due(db, limit=1, claim_s=300)) == 1
    assert missed.due(db, limit=1, claim_s=300) == []


@pytest.mark.parametrize(
    "row", [WAITING._replace(retry_in_s=60), WAITING._replace(retry_in_s=None), UNKNOWN]
)
def test_a_row_whose_time_has_not_come_is_not_due(db: Connection, row: Missed) -> None:
    record(db, row)
    assert missed.due(db, limit=10, claim_s=1) == []


def test_a_closed_row_opens_again_as_a_new_one(db: Connection) -> None:
    """A consumer could not store what the crawl had resolved."""
    record(db, WAITING)
    record(db, WAITING)
    close(db, 1)
    assert stored(db)[1][0] == "resolved"
    record(db, UNKNOWN)
    assert stored(db) == {1: ("unknown_hash", "unknown_hash", 1)}


@pytest.mark.parametrize("state", [State.UNKNOWN_HASH, State.RESOLVED, State.MISSING])
def test_the_crawl_leaves_alone_what_is_closed_or_held(db: Connection, state: State) -> None:
    """A late 404 says nothing about an id whose report was seen."""
    record(db, UNKNOWN)
    if state is not State.UNKNOWN_HASH:
        close(db, 1, state=state)
    record(db, WAITING, reopen=False)
    close(db, 1, state=State.REJECTED, among=RETRIED)
    assert stored(db)[1][0] == state


def test_closing_an_id_without_a_row_is_fine(db: Connection) -> None:
    close(db, 5)
    assert stored(db) == {}


def test_counts_every_state(db: Connection) -> None:
    record(db, WAITING, UNKNOWN._replace(instance_id=2))
    with db, db.cursor() as cursor:
        counts = missed.count_by_state(cursor)
    assert (counts[State.WAITING], counts[State.UNKNOWN_HASH], counts[State.MISSING]) == (1, 1, 0)
    assert set(counts) == set(State)


def test_rows_closed_for_30_days_go(db: Connection) -> None:
    record(db, *(WAITING._replace(instance_id=i) for i in (1, 2, 3)))
    close(db, 1, 2)
    with db, db.cursor() as cursor:
        cursor.execute(
            "UPDATE streaming.missed_pgcr SET closed_at = now() - interval '31 days'"
            " WHERE instance_id = 1"
        )
        assert missed.prune(cursor) == 1
    assert set(stored(db)) == {2, 3}
