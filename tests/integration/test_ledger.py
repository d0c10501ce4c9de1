"""The range ledger against PostgreSQL: who gets which ids, and what a death leaves behind."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import ledger, missed
from raidhub_dagster.storage.ledger import Block, Done
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.queries import load

CEILING = 10**11
NOBODY_WAITS_S = 60.0
EXPIRED_S = -1.0


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


@pytest.fixture
def db(settings: Settings) -> Iterator[Connection]:
    with connected(settings, "pytest") as connection:
        ledger.create_cursor(connection, 1000, CEILING)
        yield connection


def rows(db: Connection, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with db, db.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall()


def lease(db: Connection, owner: str, lease_s: float = NOBODY_WAITS_S, **more: Any) -> Block | None:
    return ledger.lease_block(db, owner, 10, lease_s, **more)


def test_the_first_start_decides_where_the_ledger_begins(db: Connection) -> None:
    ledger.create_cursor(db, 5, CEILING)
    assert ledger.read_cursor(db) == 1000


def test_leases_follow_each_other(db: Connection) -> None:
    assert [lease(db, "a"), lease(db, "b")] == [Block(1000, 1009), Block(1010, 1019)]
    assert ledger.read_cursor(db) == 1020


def test_leases_of_many_processes_never_share_an_id(settings: Settings, db: Connection) -> None:
    """Two that read the same cursor would crawl the same ids and skip others."""

    def take(owner: int) -> list[Block | None]:
        with connected(settings, "pytest") as connection:
            return [lease(connection, str(owner)) for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        blocks = [block for taken in pool.map(take, range(6)) for block in taken if block]
    assert sorted(blocks) == [Block(i, i + 9) for i in range(1000, 2200, 10)]
    assert ledger.read_cursor(db) == 2200


def test_the_table_refuses_overlapping_blocks(db: Connection) -> None:
    lease(db, "a")
    with pytest.raises(psycopg2.errors.ExclusionViolation):
        rows(
            db,
            "INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)"
            " VALUES (1005, 1015, 'leased', 'b', now())",
        )


@pytest.mark.parametrize("how", ["expired", "released"])
def test_a_block_given_up_is_leased_before_new_ids(db: Connection, how: str) -> None:
    """Its reports are the oldest that wait."""
    lease(db, "dead", EXPIRED_S if how == "expired" else NOBODY_WAITS_S)
    if how == "released":
        ledger.release(db, "dead", [1000])
    assert lease(db, "b", advance=False) == Block(1000, 1009)
    assert lease(db, "b", advance=False) is None
    assert rows(db, "SELECT owner, attempts FROM streaming.crawl_block") == [("b", 2)]


def test_an_extended_lease_is_not_taken_over(db: Connection) -> None:
    lease(db, "a", EXPIRED_S)
    assert ledger.extend(db, "a", [1000], NOBODY_WAITS_S) == set()
    assert lease(db, "b", advance=False) is None


def test_new_ids_stop_at_the_limit_and_at_the_ceiling(db: Connection) -> None:
    assert lease(db, "a", until=1004) == Block(1000, 1004)
    assert lease(db, "a", until=1004) is None
    rows(db, "UPDATE streaming.crawl_cursor SET ceiling = 1007 RETURNING 1")
    assert lease(db, "a") == Block(1005, 1006)
    assert lease(db, "a") is None


def test_a_block_is_done_with_its_counts(db: Connection) -> None:
    lease(db, "a")
    assert ledger.complete(db, "a", [Done(1000, 2, 7, 1)]) == set()
    assert rows(db, "SELECT state, raids, non_raids, missed FROM streaming.crawl_block") == [
        ("done", 2, 7, 1)
    ]
    assert ledger.open_blocks(db, 1009) == 0
    again = ledger.complete(db, "a", [Done(1000, 2, 7, 1)])
    assert again == set()  # the answer to the first try may have been lost


def test_a_block_that_others_took_over_is_reported(db: Connection) -> None:
    lease(db, "slow", EXPIRED_S)
    lease(db, "b")
    assert ledger.extend(db, "slow", [1000], NOBODY_WAITS_S) == {1000}
    assert ledger.complete(db, "slow", [Done(1000, 0, 10, 0)]) == {1000}
    assert rows(db, "SELECT state, owner FROM streaming.crawl_block") == [("leased", "b")]


def test_the_highest_published_id_comes_from_blocks_with_answers(db: Connection) -> None:
    for _ in range(3):
        lease(db, "a")
    assert ledger.highest_resolved(db) == 0
    done = [Done(1000, 0, 10, 0), Done(1010, 1, 9, 0), Done(1020, 0, 0, 0)]
    ledger.complete(db, "a", done)
    assert ledger.highest_resolved(db) == 1010


def test_a_stored_raid_above_the_cursor_does_not_move_the_head(db: Connection) -> None:
    """Somebody ingested it: every id up to it would count as a hole after four 404s."""
    lease(db, "a")
    for instance_id in (1003, 5000):
        store_raid(db, instance_id)
    assert ledger.highest_resolved(db) == 1003


def test_a_jump_leaves_one_gap_and_goes_on_behind_it(db: Connection) -> None:
    lease(db, "a")
    assert ledger.jump(db, 1010, 501_010, "probes found nothing") == Block(1010, 501_009)
    assert lease(db, "a") == Block(501_010, 501_019)
    assert rows(db, "SELECT first_id, last_id, reason, state FROM streaming.gap") == [
        (1010, 501_009, "probes found nothing", "open")
    ]
    with db, db.cursor() as cursor:
        assert ledger.open_gaps(cursor) == 500_000
        cursor.execute("SAVEPOINT swept")
        cursor.execute("UPDATE streaming.gap SET rounds = 1")
        assert ledger.open_gaps(cursor) == 0  # open for more rounds: nobody is to be woken for it
        cursor.execute("ROLLBACK TO swept")
    assert rows(db, load("postgres", "verify")["ledger"], limit=5) == []
    # What the gap ends at was found: others learn it before any block behind it is done.
    assert ledger.highest_resolved(db) == 501_010


def test_nobody_jumps_over_what_was_leased_since_the_search_began(db: Connection) -> None:
    """The range was searched as nobody's; a block in it would be left out of every count."""
    lease(db, "a")
    lease(db, "b")
    assert ledger.jump(db, 1010, 501_010, "stale") is None
    assert ledger.jump(db, 1020, CEILING, "beyond all ids") is None
    assert ledger.jump(db, 1020, 1020, "nowhere") is None
    assert ledger.read_cursor(db) == 1020
    assert rows(db, "SELECT 1 FROM streaming.gap") == []


def test_of_many_that_jump_at_once_one_does(settings: Settings, db: Connection) -> None:
    def jump(number: int) -> Block | None:
        with connected(settings, "pytest") as connection:
            return ledger.jump(connection, 1000, 60_000 + number, "race")

    with ThreadPoolExecutor(6) as pool:
        jumped = [gap for gap in pool.map(jump, range(6)) if gap is not None]
    assert rows(db, "SELECT first_id, last_id FROM streaming.gap") == [tuple(gap) for gap in jumped]
    assert len(jumped) == 1


def store_raid(db: Connection, instance_id: int) -> None:
    rows(
        db,
        "INSERT INTO core.instance (instance_id, hash, score, completed, fresh, player_count,"
        " date_started, date_completed, platform_type, duration, skull_hashes)"
        f" SELECT {instance_id}, min(hash), 0, true, true, 1, now(), now(), 3, 1, '{{}}'"
        " FROM definitions.activity_version RETURNING 1",
    )


def test_a_ledger_that_began_beyond_the_head_begins_anew(db: Connection) -> None:
    """A mistyped target: every id would be asked for years before it exists."""
    lease(db, "a")
    store_raid(db, 500)
    assert ledger.restart(db, 100) == 401
    assert lease(db, "b") == Block(401, 410)
    assert rows(db, load("postgres", "verify")["ledger"], limit=5) == []
    assert ledger.extend(db, "a", [1000], NOBODY_WAITS_S) == {1000}
    assert ledger.complete(db, "a", [Done(1000, 0, 0, 10)]) == {1000}


def test_a_sound_ledger_never_begins_anew(db: Connection) -> None:
    lease(db, "a")
    assert ledger.restart(db, 100) is None  # nothing tells where the head is
    store_raid(db, 1003)
    assert ledger.restart(db, 100) is None
    rows(db, "DELETE FROM core.instance RETURNING 1")
    store_raid(db, 500)
    ledger.complete(db, "a", [Done(1000, 0, 1, 9)])
    assert ledger.restart(db, 100) is None
    assert ledger.read_cursor(db) == 1010


def test_old_neighbours_are_merged(db: Connection) -> None:
    """Three thousand blocks a day for ever would be a table of millions nobody needs."""
    for _ in range(6):
        lease(db, "a")
    done = [Done(first, 1, 9, 0) for first in (1000, 1010, 1020, 1040, 1050)]
    ledger.complete(db, "a", done)
    for _ in range(2):  # the second time there is nothing left to merge
        with db, db.cursor() as cursor:
            ledger.merge(cursor, older_than_s=-1)
        assert rows(
            db,
            "SELECT first_id, last_id, state, raids, non_raids FROM streaming.crawl_block"
            " ORDER BY first_id",
        ) == [
            (1000, 1029, "done", 3, 27),
            (1030, 1039, "leased", 0, 0),
            (1040, 1059, "done", 2, 18),
        ]


def test_a_block_younger_than_90_days_is_not_merged(db: Connection) -> None:
    for _ in range(2):
        lease(db, "a")
    ledger.complete(db, "a", [Done(1000, 1, 9, 0), Done(1010, 1, 9, 0)])
    with db, db.cursor() as cursor:
        ledger.merge(cursor)
    assert len(rows(db, "SELECT first_id FROM streaming.crawl_block")) == 2


def test_a_hole_has_resolved_ids_on_both_sides(db: Connection) -> None:
    """At the head a 404 means not yet, whatever its age."""
    for _ in range(3):
        lease(db, "a")
    done = [Done(1000, 0, 10, 0), Done(1010, 0, 5, 0), Done(1020, 0, 1, 0)]
    ledger.complete(db, "a", done)
    with db, db.cursor() as cursor:
        assert missed.holes(cursor, [1005, 1015, 1025, 999]) == {1005, 1015}
