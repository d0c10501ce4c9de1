"""Recounts find and correct whatever differs from the definitions, beside a working store."""

import random
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage import recount as recounts
from raidhub_dagster.storage.claims import Problem
from raidhub_dagster.storage.recount import PARTS, Recount, check_players, check_reports, recount
from raidhub_dagster.storage.store import Store
from raidhub_dagster.storage.verify import verify
from tests.support import worlds
from tests.support.database import NEEDED, Database, store_all
from tests.support.worlds import clear

ONE, TWO, THREE, FOUR = (worlds.FIRST_PLAYER + n for n in range(4))

# What an outside tool may leave; each leaves the other tables as they are.
DAMAGE = {
    "first clears lost": "UPDATE core.instance_player SET is_first_clear = false"
    " WHERE instance_id %% 2 = 0",
    "first clears given": "UPDATE core.instance_player SET is_first_clear = true WHERE completed",
    "sherpas": "UPDATE core.instance_player SET sherpas = sherpas + 3 WHERE membership_id %% 2 = 0",
    "counters": "UPDATE core.player_stats SET clears = clears + 1, sherpas = 0",
    "fastest": "UPDATE core.player_stats SET fastest_instance_id = NULL",
    "lost stats": "DELETE FROM core.player_stats WHERE membership_id %% 3 = 0",
    "surplus stats": "INSERT INTO core.player_stats (membership_id, activity_id, clears)"
    " SELECT membership_id, 5, 7 FROM core.player",
    "totals": "UPDATE core.player SET fresh_clears = 99, total_time_played_seconds = 1",
    "sums": "UPDATE core.player SET sum_of_best = 12",
}


def fix(database: Database, *, size: int = 2, **options: Any) -> Recount:
    usual = {"standings": True, "dry_run": False}
    batches = recounts.everybody(database.connection, size=size)
    return recount(database.connection, batches, **(usual | options))


def wrong(database: Database) -> dict[str, int]:
    return {f.check: f.differing for f in verify(database.connection, None) if not f.is_equal}


@settings(
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    world=worlds.worlds(most=10),
    damage=st.sets(st.sampled_from(sorted(DAMAGE)), min_size=1),
    size=st.integers(1, 4),
)
def test_any_damage_is_corrected_once(
    database: Database, world: Sequence[Any], damage: set[str], size: int
) -> None:
    """Whatever a tool or an older rule left, one run brings the tables to the definitions."""
    worlds.wipe(database.connection)
    store_all(Store(database.connection), world, 4)
    for kind in sorted(damage):
        database.rows(DAMAGE[kind])
    before = worlds.found(database.connection)
    preview = fix(database, size=size, dry_run=True)
    assert worlds.found(database.connection) == before
    done = fix(database, size=size)
    assert worlds.found(database.connection) == worlds.expected(world, NEEDED)
    assert (
        bool(preview.differing)
        == bool(done.differing)
        == (before != worlds.expected(world, NEEDED))
    )
    assert fix(database, size=size).differing == 0


def test_a_report_names_what_differed(database: Database) -> None:
    """Whoever decides about the real run must see rows, not only numbers."""
    store_all(Store(database.connection), [clear(1, hours=1, players=[ONE, TWO])], 1)
    database.rows("UPDATE core.player_stats SET clears = 9 WHERE membership_id = %s", TWO)
    done = fix(database, dry_run=True)
    assert (done.players, done.standings, done.player_stats, done.totals) == (2, 0, 1, 1)
    assert done.last_player == TWO
    assert done.examples[0] == {
        "table": "player_stats",
        "player": TWO,
        "activity": 11,
        "instance": "",
        "stored": "9, 1, 0, 1000001, 3600",
        "recounted": "1, 1, 0, 1000001, 3600",
    }


def test_everybody_of_a_corrected_raid_follows(database: Database) -> None:
    """A first clear that moves changes the sherpas of players outside the range as well."""
    world = [
        clear(1, hours=1, players=[ONE]),
        clear(2, hours=2, players=[ONE, TWO, THREE]),
        clear(3, hours=3, players=[TWO, FOUR]),
    ]
    store_all(Store(database.connection), world, 3)
    # As if the second raid had been the first clear of nobody: its first player lost the sherpas.
    database.rows(
        "UPDATE core.instance_player SET is_first_clear = false, sherpas = 0"
        " WHERE instance_id = 1000002"
    )
    database.rows("UPDATE core.player_stats SET sherpas = 0; UPDATE core.player SET sherpas = 0")
    batches = recounts.listed(database.connection, [TWO], size=10)
    done = recount(database.connection, batches, standings=True, dry_run=False)
    assert done.instances == {1000002}
    sherpas = database.rows("SELECT sherpas FROM core.player WHERE membership_id = %s", ONE)
    assert sherpas == [(1,)]  # THREE is not corrected yet
    fix(database)
    assert worlds.found(database.connection) == worlds.expected(world, NEEDED)
    assert database.rows("SELECT instance_id FROM streaming.clickhouse_correction") == [(1000002,)]


def test_counters_alone_leave_standings_as_they_are(database: Database) -> None:
    store_all(Store(database.connection), [clear(1, hours=1, players=[ONE, TWO])], 1)
    database.rows("UPDATE core.instance_player SET sherpas = 4 WHERE membership_id = %s", ONE)
    done = fix(database, standings=False)
    assert (done.standings, done.player_stats, done.totals) == (0, 1, 0)
    assert database.rows("SELECT sherpas FROM core.player ORDER BY membership_id") == [(4,), (0,)]
    assert database.rows("SELECT * FROM streaming.clickhouse_correction") == []


def test_a_range_of_instances_concerns_its_players_only(database: Database) -> None:
    world = [clear(n, hours=n, players=[worlds.FIRST_PLAYER + n]) for n in range(1, 5)]
    store_all(Store(database.connection), world, 4)
    first, last = world[1].instance_id, world[2].instance_id
    connection = database.connection
    assert list(recounts.players_of_range(connection, first, last, size=1)) == [
        [TWO + 1],
        [TWO + 2],
    ]
    assert list(recounts.players_of_range(connection, first, None, size=9)) == [
        [TWO + 1, TWO + 2, TWO + 3]
    ]
    assert list(recounts.players_of_range(connection, 0, None, size=9, after=TWO + 2)) == [
        [TWO + 3]
    ]


def test_a_killed_run_goes_on_where_it_was(database: Database) -> None:
    """Millions of players take hours; a deploy in between must not cost the hours."""
    world = [clear(n, hours=n, players=[worlds.FIRST_PLAYER + n]) for n in range(1, 5)]
    store_all(Store(database.connection), world, 4)
    database.rows("UPDATE core.player_stats SET clears = 9")
    heard: list[int] = []

    def die(so_far: Recount) -> None:
        heard.append(so_far.last_player)
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fix(database, size=1, tell=die)
    assert wrong(database)["player_stats"] == 2
    rest = recounts.everybody(database.connection, size=1, after=heard[-1])
    done = recount(database.connection, rest, standings=True, dry_run=False)
    assert (done.players, done.player_stats) == (2, 2)
    assert wrong(database) == {}


def test_the_store_works_on_meanwhile(database: Database) -> None:
    """A repair of hours must not stop the crawl, nor count one of its raids twice or not at all."""
    rng = random.Random(5)
    players = [worlds.FIRST_PLAYER + n for n in range(12)]
    world = [
        clear(n, hours=rng.randrange(40), players=sorted(rng.sample(players, 4)))
        for n in range(1, 121)
    ]
    store_all(Store(database.connection), world[:60], 10)
    failures: list[BaseException] = []

    def go_on() -> None:
        try:
            connection = database.connect()
            store_all(Store(connection), world[60:], 3)
            connection.close()
        except BaseException as error:  # noqa: BLE001  told to the test
            failures.append(error)

    thread = threading.Thread(target=go_on)
    database.rows(DAMAGE["first clears given"])
    database.rows(DAMAGE["counters"])
    thread.start()
    while thread.is_alive():
        fix(database, size=3)
    thread.join()
    assert failures == []
    fix(database, size=5)
    assert worlds.found(database.connection) == worlds.expected(world, NEEDED)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nobody_is_refused(database: Database, size: int) -> None:
    """It would look at nobody and say that all is well."""
    with pytest.raises(PermanentError, match="batch_players"):
        fix(database, size=size)


def test_an_unknown_player_is_named(database: Database) -> None:
    with pytest.raises(PermanentError, match="no such players: 5, 6"):
        list(recounts.listed(database.connection, [6, 5], size=9))


def samples(database: Database) -> list[Problem]:
    """What all samples together find."""
    connection = database.connection
    return [
        *(problem for part in PARTS for problem in check_players(connection, part, players=10)),
        *check_reports(connection, reports=10),
    ]


@pytest.mark.parametrize(
    ("damage", "claim"),
    [
        ("UPDATE core.instance_player SET is_first_clear = false", "first clear"),
        (
            "UPDATE core.instance_player SET is_first_clear = NOT is_first_clear",
            "first clear",
        ),
        ("UPDATE core.player_stats SET clears = 9", "counters of an activity"),
        ("UPDATE core.player_stats SET sherpas = 3", "counters of an activity"),
        ("DELETE FROM core.player_stats", "counters of an activity"),
        ("UPDATE core.player SET sum_of_best = 1", "totals"),
        ("UPDATE core.player SET clears = 3", "totals"),
        ("UPDATE core.instance SET score = 7", "the report"),
        ("UPDATE core.player SET display_name = 'Eve'", "the report"),
    ],
)
def test_a_sample_names_who_is_wrong(database: Database, damage: str, claim: str) -> None:
    """The daily check is the first to see a wrong rule: it must say whose rows to look at."""
    store_all(Store(database.connection), [clear(1, hours=1, players=[ONE, TWO])], 1)
    assert samples(database) == []
    database.rows("ANALYZE core.player")
    assert samples(database) == []
    database.rows(damage)
    problems = samples(database)
    (told,) = [problem for problem in problems if claim in problem.claim]
    assert any(str(who) in str(told.examples) for who in (ONE, TWO, 1_000_001))
