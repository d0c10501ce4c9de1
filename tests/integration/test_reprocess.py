"""Kept reports read again: what is wrong is told field by field, and put right when asked to."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.storage.ingest import read_report
from raidhub_dagster.storage.kept import State
from raidhub_dagster.storage.reprocess import (
    Reprocessed,
    find_blocks,
    reprocess,
    update_skull_hashes,
)
from raidhub_dagster.storage.revisions import Report
from raidhub_dagster.storage.store import Store
from raidhub_dagster.storage.verify import verify
from tests.support import worlds
from tests.support.database import Database
from tests.support.reports import KINGS_FALL, encode, make_entry, make_report

FIRST = 16_000_000_000
OTHER_RAID = 2381413764
SKULLED = 1044919065
ALL = (0, 2**63 - 1)


@pytest.fixture(autouse=True)
def _stored(database: Database) -> None:
    """Six raids of five players in turn, so that standings hang together."""
    reports = [
        make_report(
            instance_id=FIRST + n,
            period=f"2025-01-{n + 1:02}T20:00:00Z",
            players=[make_entry(1 + (n + m) % 5) for m in range(3)],
            skulls=[100 + n],
        )
        for n in range(6)
    ]
    put(database, *reports)


def put(database: Database, *reports: dict[str, Any]) -> None:
    for report in reports:
        read = read_report(encode(report), (), now=datetime.now(UTC))
        assert isinstance(read, Report)
        Store(database.connection).store([read], source="test")


def run(database: Database, first: int = 0, last: int = ALL[1], **options: Any) -> Reprocessed:
    return reprocess(database.connection, first, last, **{"dry_run": False, **options})


def damaged(database: Database) -> list[str]:
    return [f.check for f in verify(database.connection, None, sample=50) if not f.is_equal]


def test_right_rows_stay_untouched(database: Database) -> None:
    """It runs over forty million reports: it must write nothing where nothing is wrong."""
    before = database.rows("SELECT xmin::text, * FROM core.instance ORDER BY instance_id")
    found = run(database)
    assert (found.states, found.outcomes, found.fields()) == ({State.EQUAL: 6}, {}, [])
    assert database.rows("SELECT xmin::text, * FROM core.instance ORDER BY instance_id") == before
    assert database.rows("SELECT * FROM streaming.clickhouse_correction") == []


DAMAGE: list[tuple[str, str]] = [
    ("instance.score", "UPDATE core.instance SET score = 5 WHERE instance_id = %s"),
    ("instance.duration", "UPDATE core.instance SET duration = 5 WHERE instance_id = %s"),
    ("instance.fresh", "UPDATE core.instance SET fresh = NULL WHERE instance_id = %s"),
    (
        "instance.skull_hashes",
        "UPDATE core.instance SET skull_hashes = '{}' WHERE instance_id = %s",
    ),
    (
        "instance.platform_type",
        "UPDATE core.instance SET platform_type = -1 WHERE instance_id = %s",
    ),
    (
        "instance.date_started",
        "UPDATE core.instance SET date_started = date_started - interval '1 year'"
        " WHERE instance_id = %s",
    ),
    (
        "instance.date_completed",
        "UPDATE core.instance SET date_completed = date_completed + interval '9 days'"
        " WHERE instance_id = %s",
    ),
    ("instance.hash", f"UPDATE core.instance SET hash = {OTHER_RAID} WHERE instance_id = %s"),
    (
        "player.time_played_seconds",
        "UPDATE core.instance_player SET time_played_seconds = 1 WHERE instance_id = %s",
    ),
    (
        "player.completed",
        "UPDATE core.instance_player SET completed = false WHERE instance_id = %s",
    ),
    (
        "character.kills",
        "UPDATE extended.instance_character SET kills = 99 WHERE instance_id = %s",
    ),
    ("character.weapons", "DELETE FROM extended.instance_character_weapon WHERE instance_id = %s"),
    (
        "character.weapons",
        "UPDATE extended.instance_character_weapon SET kills = 99 WHERE instance_id = %s",
    ),
    (
        "player.identity",
        "UPDATE core.player SET display_name = 'x' FROM streaming.player_identity AS d"
        " WHERE d.membership_id = player.membership_id AND d.display_name_instance_id = %s",
    ),
]


@pytest.mark.parametrize(("name", "statement"), DAMAGE)
def test_a_wrong_field_is_told_and_repaired(database: Database, name: str, statement: str) -> None:
    """A preview changes nothing; a repair leaves what storing it today would have left."""
    right = worlds.found(database.connection)
    database.rows(statement, FIRST + 5)
    wrong = worlds.found(database.connection)
    preview = run(database, dry_run=True)
    assert preview.states[State.DIFFERENT] == 1
    assert {(row["field"], row["id"]) for row in preview.fields()} == {(name, FIRST + 5)}
    assert worlds.found(database.connection) == wrong
    assert run(database).outcomes == {"replaced": 1}
    assert worlds.found(database.connection) == right
    assert damaged(database) == []
    assert run(database).wrong == 0  # idempotent


def test_standings_of_others_follow_a_repair(database: Database) -> None:
    """First clears come back, and with them the sherpas of people in other raids."""
    right = worlds.found(database.connection)
    read = read_report(
        encode(
            make_report(
                instance_id=FIRST,
                period="2025-01-01T20:00:00Z",
                players=[make_entry(1, completed=False)],
            )
        ),
        (),
        now=datetime.now(UTC),
    )
    assert isinstance(read, Report)
    # As if an older parser had read the first raid so: another version, then its body as it is.
    ((body,),) = database.rows("SELECT data FROM raw.pgcr WHERE instance_id = %s", FIRST)
    database.rows("UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", read.body, FIRST)
    run(database)
    assert worlds.found(database.connection) != right
    database.rows("UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", bytes(body), FIRST)
    found = run(database)
    assert {"player", "player.completed"} <= set(found.differences)
    after = worlds.found(database.connection)
    assert after == right
    assert damaged(database) == []


def test_a_report_without_rows_is_told_and_stored(database: Database) -> None:
    """Somebody deleted an instance, or its store failed half-way in an older system."""
    right = worlds.found(database.connection)
    for table in (
        "extended.instance_character_weapon",
        "extended.instance_character",
        "core.instance_player",
    ):
        database.rows(f"DELETE FROM {table} WHERE instance_id = %s", FIRST + 2)
    database.rows("DELETE FROM core.instance WHERE instance_id = %s", FIRST + 2)
    preview = run(database, dry_run=True)
    assert preview.problems() == [
        {"problem": "kept, but not stored", "reports": 1, "ids": str(FIRST + 2)}
    ]
    assert run(database).outcomes == {"stored": 1}
    assert worlds.found(database.connection).instance_players == right.instance_players


def test_what_nobody_can_read_is_told_and_left(database: Database) -> None:
    """A parser that has become stricter must not delete raids."""
    before = worlds.found(database.connection)
    broken = make_report(instance_id=FIRST + 1, players=[])
    database.rows(
        "UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", pack(encode(broken)), FIRST + 1
    )
    database.rows("UPDATE raw.pgcr SET data = 'rubbish' WHERE instance_id = %s", FIRST + 2)
    found = run(database)
    assert found.states == {State.EQUAL: 4, State.UNREADABLE: 2}
    assert [row["problem"] for row in found.problems()] == [
        "unreadable: entries_empty at entries",
        "unreadable: not_json_object at $",
    ]
    assert worlds.found(database.connection) == before


def test_plain_json_of_older_tools_is_read_too(database: Database) -> None:
    plain = json.dumps(make_report(instance_id=FIRST + 1)).encode()
    database.rows("UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", plain, FIRST + 1)
    assert run(database).outcomes == {"replaced": 1}
    assert run(database).states == {State.EQUAL: 6}


def test_a_hash_that_is_not_defined_is_told_and_left(database: Database) -> None:
    body = pack(encode(make_report(instance_id=FIRST + 1, hash=777)))
    database.rows("UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", body, FIRST + 1)
    found = run(database)
    assert {key: value for key, value in found.problems()[0].items() if key != "ids"} == {
        "problem": "not repaired: its hash is not defined",
        "reports": 1,
    }
    assert database.rows("SELECT count(*) FROM streaming.pgcr_revision") == [(0,)]
    assert database.rows("SELECT hash FROM core.instance WHERE instance_id = %s", FIRST + 1) == [
        (KINGS_FALL,)
    ]


def test_reports_that_wait_for_a_definition_are_no_difference(database: Database) -> None:
    put(database, make_report(instance_id=FIRST + 9, hash=777))
    assert run(database).states == {State.EQUAL: 6, State.WAITING: 1}


def test_only_the_ids_asked_for_are_touched(database: Database) -> None:
    database.rows("UPDATE core.instance SET score = 5")
    found = run(database, FIRST + 2, FIRST + 3)
    assert found.states == {State.DIFFERENT: 2}
    assert database.rows("SELECT count(*) FROM core.instance WHERE score = 5") == [(4,)]


def test_one_that_cannot_be_repaired_stops_nothing(database: Database) -> None:
    """A name that no index takes, in a body that somebody else kept."""
    entry = make_entry(1)
    entry["player"]["destinyUserInfo"]["displayName"] = "".join(
        f"{n * 7919 % 1_000_003:x}" for n in range(4500)
    )
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = pack(encode(make_report(instance_id=FIRST + 1, period=later, players=[entry])))
    database.rows("UPDATE raw.pgcr SET data = %s WHERE instance_id = %s", body, FIRST + 1)
    database.rows("UPDATE core.instance SET score = 5 WHERE instance_id = %s", FIRST + 3)
    found = run(database)
    assert found.outcomes == {"replaced": 1}
    (problem,) = found.problems()
    assert str(problem["problem"]).startswith("not repaired: index row")


def test_blocks_are_those_that_hold_reports(database: Database) -> None:
    """1 700 partitions, not one for each ten million ids that never were raids."""
    put(database, make_report(instance_id=7), make_report(instance_id=16_510_000_000))
    assert find_blocks(database.connection) == [
        (0, 9_999_999),
        (16_000_000_000, 16_009_999_999),
        (16_510_000_000, 16_519_999_999),
    ]


@pytest.fixture
def skulls(database: Database) -> Callable[[], dict[int, list[int]]]:
    """Raids of the hash whose skulls were not stored, one that was, one of another hash."""
    put(
        database,
        *(
            make_report(instance_id=FIRST + n, hash=SKULLED, skulls=[n, 0, n + 1, n])
            for n in (20, 21, 22)
        ),
    )
    database.rows(
        "UPDATE core.instance SET skull_hashes = NULL WHERE instance_id IN (%s, %s, %s)",
        FIRST + 20,
        FIRST + 22,
        FIRST + 5,
    )
    return lambda: dict(
        database.rows(
            "SELECT instance_id - %s, skull_hashes FROM core.instance WHERE hash = %s",
            FIRST,
            SKULLED,
        )
    )


def test_skulls_are_read_out_of_the_reports_again(
    database: Database, skulls: Callable[[], dict[int, list[int]]]
) -> None:
    """The race board of a Pantheon filters by feats; without them a team is not on it."""
    span = (SKULLED, FIRST, FIRST + 21)
    preview = update_skull_hashes(database.connection, *span, dry_run=True)
    assert (preview.read, preview.changed, preview.unreadable) == (2, 1, 0)
    assert skulls() == {20: None, 21: [21, 22], 22: None}
    done = update_skull_hashes(database.connection, *span, dry_run=False)
    assert done.examples == [{"id": FIRST + 20, "old": None, "new": [20, 21]}]
    assert skulls() == {20: [20, 21], 21: [21, 22], 22: None}
    assert update_skull_hashes(database.connection, *span, dry_run=False).changed == 0


def test_skulls_without_a_readable_report_stay(
    database: Database, skulls: Callable[[], dict[int, list[int]]]
) -> None:
    database.rows("UPDATE raw.pgcr SET data = 'rubbish' WHERE instance_id = %s", FIRST + 21)
    database.rows("DELETE FROM raw.pgcr WHERE instance_id = %s", FIRST + 20)
    done = update_skull_hashes(database.connection, SKULLED, 0, ALL[1], dry_run=False)
    assert (done.read, done.changed, done.unreadable) == (3, 1, 2)
    assert skulls() == {20: None, 21: [21, 22], 22: [22, 23]}
