"""Every board over a small world whose ranks can be counted by hand; rules: leaderboards.md."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest
from psycopg2 import errors
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.claims import Problem
from raidhub_dagster.storage.leaderboards import (
    POSITIONS,
    VIEWS,
    WFR_SCORE,
    check_positions,
    check_wfr_score,
    refresh_order,
    refresh_view,
    refresh_wfr_score,
    top,
)
from raidhub_dagster.storage.postgres import connect

GLOBAL = "individual_global_leaderboard"
RAID = "individual_raid_leaderboard"
PANTHEON = "individual_pantheon_version_leaderboard"
TEAM = "team_activity_version_leaderboard"
WORLD_FIRST = "world_first_contest_leaderboard"
CUSTOM_RACE = "team_pantheon_custom_race_leaderboard"
CLAN = "clan_leaderboard"

KINGS_FALL = 1374392663
KINGS_FALL_RELEASE = datetime(2022, 8, 26, 17, tzinfo=UTC)
LEVIATHAN = 2693136601  # is_world_first, without a contest
LEVIATHAN_RELEASE = datetime(2017, 9, 13, 17, tzinfo=UTC)
RACE_START = datetime(2026, 6, 13, 17, tzinfo=UTC)
HOUR = timedelta(hours=1)


class World:
    """Plain inserts with the values that a test does not care about filled in."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def run(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def player(self, membership_id: int, **row: Any) -> None:
        row = {
            "membership_id": membership_id,
            "last_seen": KINGS_FALL_RELEASE,
            "bungie_global_display_name": f"Guardian{membership_id}",
            "bungie_global_display_name_code": "0001",
        } | row
        marks = ", ".join(["%s"] * len(row))
        self.run(f"INSERT INTO core.player ({', '.join(row)}) VALUES ({marks})", *row.values())

    def instance(
        self,
        instance_id: int,
        hash_: int,
        completed_at: datetime,
        members: Sequence[int],
        *,
        quitters: Sequence[int] = (),
        completed: bool = True,
        fresh: bool | None = True,
        score: int = 0,
        started_at: datetime | None = None,
        skulls: Sequence[int] = (),
    ) -> None:
        self.run(
            """
            INSERT INTO core.instance (instance_id, hash, score, completed, fresh, player_count,
                date_started, date_completed, duration, platform_type, skull_hashes)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 3600, 3, %s::bigint[])""",
            instance_id,
            hash_,
            score,
            completed,
            fresh,
            max(1, len(members) + len(quitters)),
            started_at or completed_at - HOUR,
            completed_at,
            list(skulls),
        )
        for membership_id in (*members, *quitters):
            self.run(
                "INSERT INTO core.instance_player (instance_id, membership_id, completed) "
                "VALUES (%s, %s, %s)",
                instance_id,
                membership_id,
                membership_id in members,
            )

    def blacklist(self, instance_id: int) -> None:
        self.run(
            "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason) "
            "VALUES (%s, 'Manual', 'test')",
            instance_id,
        )

    def whitelist(self, instance_id: int) -> None:
        self.run(
            "UPDATE core.instance SET is_whitelisted = true WHERE instance_id = %s", instance_id
        )

    def board(self, view: str, *columns: str, order: str) -> list[tuple[Any, ...]]:
        refresh_view(self.connection, view, timeout_s=60)
        assert check_positions(self.connection, view) == []
        return self.run(f"SELECT {', '.join(columns)} FROM leaderboard.{view} ORDER BY {order}")


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with closing(connect(settings, "test")) as connection:
        yield connection


@pytest.fixture
def world(connection: Connection) -> World:
    return World(connection)


def four(value: str) -> tuple[str, str, str, str]:
    return value, f"{value}_position", f"{value}_rank", f"{value}_percentile"


# --- individual boards


def test_players_share_a_rank_but_not_a_position(world: World) -> None:
    """Readers page by position and show ranks."""
    for membership_id, clears in {3: 7, 1: 9, 2: 9, 4: 7, 5: 1}.items():
        world.player(membership_id, clears=clears)
    assert world.board(GLOBAL, "membership_id", *four("clears"), order="clears_position") == [
        (1, 9, 1, 1, Decimal(1)),
        (2, 9, 2, 1, Decimal(1)),
        (3, 7, 3, 3, Decimal("0.5")),
        (4, 7, 4, 3, Decimal("0.5")),
        (5, 1, 5, 5, Decimal(0)),
    ]


@pytest.mark.parametrize(
    ("value", "column"),
    [
        ("fresh_clears", "fresh_clears"),
        ("sherpas", "sherpas"),
        ("total_time_played", "total_time_played_seconds"),
        ("wfr_score", "wfr_score"),
    ],
)
def test_every_value_has_its_own_order(world: World, value: str, column: str) -> None:
    world.player(1, clears=3, **{column: 1})
    world.player(2, clears=2, **{column: 5})
    world.player(3, clears=1, **{column: 5})
    rows = world.board(GLOBAL, "membership_id", *four(value), order=f"{value}_position")
    assert rows == [(2, 5, 1, 1, 1), (3, 5, 2, 1, 1), (1, 1, 3, 3, 0)]


def test_players_without_a_sum_have_no_speed(world: World) -> None:
    """Ranked last, they once filled deep pages with values that readers refuse."""
    for membership_id, best in {1: None, 2: 500, 3: 400, 4: None, 5: 500}.items():
        world.player(membership_id, clears=1, sum_of_best=best)
    rows = world.board(
        GLOBAL, "membership_id", *four("speed"), order="speed_position, membership_id"
    )
    assert rows == [
        (3, 400, 1, 1, 1),
        (2, 500, 2, 2, Decimal("0.5")),
        (5, 500, 3, 2, Decimal("0.5")),
        (1, None, None, None, None),
        (4, None, None, None, None),
    ]


def test_single_eligible_player_is_at_the_top(world: World) -> None:
    """N - 1 is zero then; the board once failed altogether."""
    world.player(1, clears=1)
    (row,) = world.board(GLOBAL, *four("clears"), *four("speed"), order="1")
    assert row == (1, 1, 1, 1, None, None, None, None)


def test_single_sum_of_best_is_at_the_top(world: World) -> None:
    world.player(1, clears=1)
    world.player(2, clears=1, sum_of_best=500)
    rows = world.board(GLOBAL, "membership_id", *four("speed"), order="1")
    assert rows == [(1, None, None, None, None), (2, 500, 1, 1, 1)]


def test_empty_world_gives_empty_boards(connection: Connection) -> None:
    """A fresh installation refreshes everything before anything is stored."""
    for view in VIEWS:
        assert refresh_view(connection, view, timeout_s=60).rows == 0
        assert refresh_view(connection, view, timeout_s=60).rows == 0
        assert top(connection, view) == []
        assert check_positions(connection, view) == []


@pytest.fixture
def mixed_world(world: World) -> World:
    """Players 1 and 5 may be ranked; 2 is private, 3 and 4 cheat, 6 has no clear."""
    others: dict[int, dict[str, Any]] = {
        1: {},
        2: {"is_private": True},
        3: {"cheat_level": 2},
        4: {"cheat_level": 4},
        5: {"cheat_level": 1},
    }
    for membership_id, row in others.items():
        world.player(membership_id, clears=10 - membership_id, **row)
    world.player(6)
    return world


def test_private_players_and_cheaters_are_not_ranked(mixed_world: World) -> None:
    rows = mixed_world.board(GLOBAL, "membership_id", "clears_position", order="2")
    assert rows == [(1, 1), (5, 2)]


def test_raids_are_ranked_apart(mixed_world: World) -> None:
    """Pantheon has a board of its own, and a row without clears is no clear."""
    for membership_id in range(1, 7):
        for activity_id, clears in {4: 10 - membership_id, 11: membership_id, 101: 3}.items():
            mixed_world.run(
                "INSERT INTO core.player_stats (membership_id, activity_id, clears) "
                "VALUES (%s, %s, %s)",
                membership_id,
                activity_id,
                0 if membership_id == 6 else clears,
            )
    columns = ("activity_id", "membership_id", *four("clears"))
    assert mixed_world.board(RAID, *columns, order="1, clears_position") == [
        (4, 1, 9, 1, 1, 1),
        (4, 5, 5, 2, 2, 0),
        (11, 5, 5, 1, 1, 1),
        (11, 1, 1, 2, 2, 0),
    ]


def pantheon_hashes(world: World) -> dict[int, int]:
    rows = world.run(
        "SELECT version_id, hash FROM definitions.activity_version WHERE version_id > 127"
    )
    return dict(rows)


def test_pantheon_is_ranked_by_version(mixed_world: World) -> None:
    """Only finished runs of finishers count, whatever the team's cheaters do to team boards."""
    hashes = pantheon_hashes(mixed_world)
    at = RACE_START
    mixed_world.instance(1, hashes[128], at, [1, 2, 3], score=100)
    mixed_world.instance(2, hashes[128], at, [1, 5], score=50, fresh=None)
    mixed_world.instance(3, hashes[128], at, [5], quitters=[1], score=100)
    mixed_world.instance(4, hashes[128], at, [5], completed=False, score=100)
    mixed_world.instance(5, hashes[134], at, [5], score=7)
    mixed_world.instance(6, KINGS_FALL, at, [5], score=7)
    mixed_world.blacklist(1)
    columns = ("version_id", "membership_id", "clears", "clears_position", "clears_rank")
    fresh = ("fresh_clears", "fresh_clears_position", "fresh_clears_rank")
    score = ("score", "score_position", "score_rank")
    assert mixed_world.board(PANTHEON, *columns, *fresh, *score, order="1, 2") == [
        (128, 1, 2, 1, 1, 1, 1, 1, 150, 1, 1),
        (128, 5, 2, 2, 1, 1, 2, 1, 150, 2, 1),
        (134, 5, 1, 1, 1, 1, 1, 1, 7, 1, 1),
    ]


# --- team boards

TEAM_COLUMNS = ("instance_id", "position", "rank", "value", "membership_ids")


@pytest.fixture
def team_world(world: World) -> World:
    for membership_id in range(1, 5):
        world.player(membership_id, cheat_level=membership_id % 3)
    return world


def test_first_teams_are_ordered_by_time_then_id(team_world: World) -> None:
    """Only completed instances count, blacklisted ones if whitelisted; members are who finished."""
    at = KINGS_FALL_RELEASE + HOUR
    team_world.instance(12, KINGS_FALL, at, [3, 1], quitters=[2])
    team_world.instance(11, KINGS_FALL, at, [4])
    team_world.instance(13, KINGS_FALL, at + HOUR, [1, 2])
    team_world.instance(14, KINGS_FALL, at, [1])
    team_world.instance(15, KINGS_FALL, at, [1], completed=False)
    team_world.instance(16, KINGS_FALL, at, [], quitters=[1])
    team_world.blacklist(14)
    team_world.blacklist(13)
    team_world.whitelist(13)
    assert team_world.board(TEAM, *TEAM_COLUMNS, order="position") == [
        (11, 1, 1, 3600, [4]),
        (12, 2, 1, 3600, [1, 3]),
        (13, 3, 3, 7200, [1, 2]),
    ]


def test_versions_have_their_own_release_and_order(team_world: World) -> None:
    """Guided Games were never ranked; a version that came later counts from its own release."""
    ((guided,),) = team_world.run(
        "SELECT min(hash) FROM definitions.activity_version WHERE version_id = 2"
    )
    ((master, released),) = team_world.run(
        "SELECT hash, release_date_override FROM definitions.activity_version "
        "WHERE activity_id = 11 AND version_id = 4 LIMIT 1"
    )
    team_world.instance(1, guided, released + HOUR, [1])
    team_world.instance(2, master, released + HOUR, [1])
    team_world.instance(3, KINGS_FALL, released + HOUR, [1])
    rows = team_world.board(TEAM, "version_id", "instance_id", "position", "value", order="1")
    since_release = (released + HOUR - KINGS_FALL_RELEASE).total_seconds()
    assert rows == [(1, 3, 1, since_release), (4, 2, 1, 3600)]


def test_thousand_teams_of_an_activity_and_version_are_kept(team_world: World) -> None:
    """Two hashes of one version fill one board; the limit inside must not cut the outer one."""
    team_world.run(
        """
        INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,
            date_completed, duration, platform_type)
        SELECT i, CASE WHEN i %% 3 = 0 THEN 2693136600 ELSE 2693136602 END, true, 1,
            '2017-10-01Z', timestamptz '2017-10-01Z' + i * interval '1 second', 1, 3
        FROM generate_series(1, 1600) AS i"""
    )
    team_world.run(
        "INSERT INTO core.instance_player (instance_id, membership_id, completed) "
        "SELECT instance_id, 1, true FROM core.instance"
    )
    rows = team_world.board(TEAM, "instance_id", "position", "rank", order="position")
    assert rows == [(i, i, i) for i in range(1, 1001)]


def test_world_first_race_ends_with_contest_and_week(team_world: World) -> None:
    """King's Fall: contest for a day, on the challenge version, and the week ends on Tuesday."""
    contest_end = KINGS_FALL_RELEASE + timedelta(days=1)
    week_end = datetime(2022, 8, 30, 17, tzinfo=UTC)
    ((challenge, hash_),) = team_world.run(
        "SELECT version_id, hash FROM definitions.activity_version "
        "WHERE activity_id = 11 AND is_world_first"
    )
    just_in = contest_end - timedelta(seconds=1)
    team_world.instance(1, hash_, week_end - timedelta(seconds=1), [2, 1], started_at=just_in)
    team_world.instance(2, hash_, week_end, [1], started_at=just_in)
    team_world.instance(3, hash_, contest_end + HOUR, [1], started_at=contest_end)
    team_world.instance(4, hash_, KINGS_FALL_RELEASE + HOUR, [3], quitters=[4])
    team_world.instance(5, hash_, KINGS_FALL_RELEASE + HOUR, [4])
    team_world.instance(6, hash_, KINGS_FALL_RELEASE + HOUR, [1])
    team_world.instance(7, KINGS_FALL, KINGS_FALL_RELEASE + HOUR, [1])
    team_world.blacklist(6)
    team_world.blacklist(5)
    team_world.whitelist(5)
    assert challenge == 65
    columns = ("activity_id", "position", "rank", "instance_id", "time_after_launch")
    assert team_world.board(
        WORLD_FIRST, *columns, "is_challenge_mode", "membership_ids", order="position"
    ) == [
        (11, 1, 1, 4, 3600, True, [3]),
        (11, 2, 1, 5, 3600, True, [4]),
        (11, 3, 3, 1, (week_end - KINGS_FALL_RELEASE).total_seconds() - 1, True, [1, 2]),
    ]


def test_raid_without_contest_races_for_the_week(team_world: World) -> None:
    """Raids 1 to 5 had no contest mode."""
    team_world.instance(1, LEVIATHAN, LEVIATHAN_RELEASE + 48 * HOUR, [1])
    rows = team_world.board(WORLD_FIRST, "activity_id", "instance_id", order="1")
    assert rows == [(1, 1)]


def test_custom_race_counts_five_known_feats_in_48_hours(team_world: World) -> None:
    """All players belong to the team, those who left included."""
    hash_ = pantheon_hashes(team_world)[134]
    other = pantheon_hashes(team_world)[133]
    for key, skull in enumerate([101, 102, 103, 104, 105, 106, 790421403, 101]):
        team_world.run(
            "INSERT INTO definitions.activity_feat_definition (hash, skull_hash, name, "
            "description, icon_path, description_short, modifier_power_contribution) "
            "VALUES (%s, %s, '', '', '', '', 0)",
            key,
            skull,
        )
    five = [101, 102, 103, 104, 105]
    end = RACE_START + 48 * HOUR
    second = timedelta(seconds=1)
    taken = {
        1: (hash_, end - second, five),
        2: (hash_, RACE_START, [*five, 790421403, 999]),  # the empty feat, and no feat at all
        3: (hash_, RACE_START, [*five, 105]),
    }
    refused = {
        4: (hash_, RACE_START - second, five),
        5: (hash_, end, five),
        6: (hash_, RACE_START, five[:4]),
        7: (hash_, RACE_START, [*five, 106]),
        8: (hash_, RACE_START, [*five[:4], 790421403]),
        9: (other, RACE_START, five),
        10: (hash_, RACE_START, five),
    }
    for instance_id, (run, at, skulls) in (taken | refused).items():
        team_world.instance(instance_id, run, at, [2], quitters=[1], skulls=skulls)
    team_world.blacklist(10)
    team_world.blacklist(3)
    team_world.whitelist(3)
    assert team_world.board(CUSTOM_RACE, *TEAM_COLUMNS, order="position") == [
        (2, 1, 1, 0, [1, 2]),
        (3, 2, 1, 0, [1, 2]),
        (1, 3, 3, 48 * 3600 - 1, [1, 2]),
    ]


# --- the score of the races, and clans


def score(world: World) -> dict[int, float]:
    return dict(world.run("SELECT membership_id, wfr_score FROM core.player ORDER BY 1"))


@pytest.fixture
def raced_world(team_world: World) -> World:
    """Leviathan: 1 and 2 first, 3 third. King's Fall (weight 1.25^10): 2 second; 1 first, twice."""
    world = team_world
    ((hash_,),) = world.run(
        "SELECT hash FROM definitions.activity_version WHERE activity_id = 11 AND is_world_first"
    )
    world.instance(1, LEVIATHAN, LEVIATHAN_RELEASE + HOUR, [1])
    world.instance(2, LEVIATHAN, LEVIATHAN_RELEASE + HOUR, [2])
    world.instance(3, LEVIATHAN, LEVIATHAN_RELEASE + 2 * HOUR, [3])
    world.instance(4, hash_, KINGS_FALL_RELEASE + HOUR, [1])
    world.instance(5, hash_, KINGS_FALL_RELEASE + 2 * HOUR, [2, 1])
    refresh_view(world.connection, WORLD_FIRST, timeout_s=60)
    return world


def test_score_adds_the_best_rank_of_each_race(raced_world: World) -> None:
    assert refresh_wfr_score(raced_world.connection) == 3
    assert score(raced_world) == {
        1: pytest.approx(1 + 1.25**10),
        2: pytest.approx(1 + 1.25**10 / 2**0.5),
        3: pytest.approx(1 / 3**0.5),
        4: 0,
    }
    assert check_wfr_score(raced_world.connection) == []


def test_second_score_run_writes_nothing(raced_world: World) -> None:
    """A sum of floats in another order would differ in its last bit, every day, for everybody."""
    refresh_wfr_score(raced_world.connection)
    assert refresh_wfr_score(raced_world.connection) == 0


def test_player_who_lost_the_entry_gets_zero(raced_world: World) -> None:
    refresh_wfr_score(raced_world.connection)
    raced_world.blacklist(3)
    refresh_view(raced_world.connection, WORLD_FIRST, timeout_s=60)
    assert check_wfr_score(raced_world.connection) == [
        Problem("a score differs from the races", 1, (3,))
    ]
    assert refresh_wfr_score(raced_world.connection) == 1
    assert score(raced_world)[3] == 0


def test_score_waits_for_the_stores_lock_on_a_player(
    raced_world: World, settings: Settings
) -> None:
    """The store changes the same rows; each must see what the other wrote."""
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with closing(connect(settings, "store")) as store, ThreadPoolExecutor(1) as pool:
        with store.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(2)")
        done = pool.submit(refresh_wfr_score, raced_world.connection)
        with closing(connect(settings, "test")) as observer:
            while World(observer).run(waiting) == [(0,)]:
                assert not done.done()
        store.commit()
        assert done.result(timeout=60) == 3


def test_score_needs_the_races(connection: Connection) -> None:
    """Reading an unfilled view as empty would set every player to zero."""
    with pytest.raises(PermanentError, match=f"{WORLD_FIRST} was never refreshed"):
        refresh_wfr_score(connection)


def clan(world: World, group_id: int, members: Sequence[int]) -> None:
    fields = ["decalId", "decalColorId", "decalBackgroundColorId"]
    fields += ["gonfalonId", "gonfalonColorId", "gonfalonDetailId", "gonfalonDetailColorId"]
    world.run(
        "INSERT INTO clan.clan (group_id, name, motto, call_sign, clan_banner_data) "
        "VALUES (%s, 'Vanguard', '', '', %s)",
        group_id,
        Json(dict.fromkeys(fields, 0)),
    )
    for membership_id in members:
        world.run("INSERT INTO clan.clan_members VALUES (%s, %s)", group_id, membership_id)


def test_clans_sum_their_members(world: World) -> None:
    """Private players and cheaters are members too; a clan without members is no row."""
    world.player(1, clears=1, fresh_clears=4, sherpas=7, total_time_played_seconds=100, wfr_score=2)
    world.player(2, clears=2, fresh_clears=5, sherpas=8, total_time_played_seconds=2**31 - 1)
    world.player(3, clears=2, is_private=True, cheat_level=4, wfr_score=8)
    clan(world, 10, [1, 2, 3])
    clan(world, 11, [])
    world.player(4)
    clan(world, 12, [4])
    rows = world.board(
        CLAN,
        "group_id, known_member_count, clears, average_clears, fresh_clears, average_fresh_clears",
        "sherpas, average_sherpas, time_played_seconds, average_time_played_seconds",
        "total_contest_score, weighted_contest_score",
        order="group_id",
    )
    weighted = 3 * (8 * 0.9**-5 + 2 * 0.9**-4) / 4 ** (1 / 3)
    time = 2**31 + 99
    assert rows == [
        (10, 3, 5, 2, 9, 3, 15, 5, time, round(time / 3), 10, pytest.approx(weighted)),
        (12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    ]


# --- refreshing


def test_views_come_after_what_they_read() -> None:
    """A full refresh walks through them in this order, the score after the races."""
    assert next(iter(VIEWS)) == WORLD_FIRST
    assert set(VIEWS.values()) == {(), (WFR_SCORE,)}


def test_refresh_tells_rows_and_size(mixed_world: World) -> None:
    refreshed = refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    assert (refreshed.rows, refreshed.seconds > 0, refreshed.size_bytes > 0) == (2, True, True)


@pytest.mark.parametrize("view", [GLOBAL, CUSTOM_RACE])
def test_readers_neither_wait_for_a_refresh_nor_stop_it(
    mixed_world: World, settings: Settings, view: str
) -> None:
    """A reader's transaction may be open for minutes; a plain refresh would wait for its end.

    Boards that are exchanged are refreshed row by row then, after half a minute of attempts.
    """
    read = f"SELECT count(*) FROM leaderboard.{view}"
    rows = refresh_view(mixed_world.connection, view, timeout_s=60).rows
    mixed_world.player(7, clears=1)
    pauses: list[float] = []
    clock = (10.0 * n for n in count())
    with closing(connect(settings, "reader")) as reader, reader.cursor() as cursor:
        cursor.execute(read)
        assert cursor.fetchall() == [(rows,)]
        refresh_view(
            mixed_world.connection,
            view,
            timeout_s=10,
            clock=lambda: next(clock),
            sleep=pauses.append,
        )
        cursor.execute(read)
        assert cursor.fetchall() == [(rows + (view == GLOBAL),)]
    assert bool(pauses) == (view == GLOBAL)
    assert left_behind(mixed_world) == []


def left_behind(world: World) -> list[tuple[Any, ...]]:
    return world.run("SELECT matviewname FROM pg_matviews WHERE schemaname <> 'leaderboard'")


def catalogue(world: World, view: str) -> list[tuple[Any, ...]]:
    """Everything that readers and tools can know of a view but its number and its rows."""
    return world.run(
        "SELECT pg_get_viewdef(c.oid), relispopulated, relowner,"
        " ARRAY(SELECT acl::text FROM aclexplode(relacl) AS acl ORDER BY 1),"
        " ARRAY(SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = c.oid"
        "       ORDER BY 1)"
        " FROM pg_class AS c WHERE oid = %s::regclass",
        f"leaderboard.{view}",
    )


@pytest.mark.parametrize("view", [GLOBAL, RAID])
def test_an_exchanged_board_is_the_same_but_for_its_rows(mixed_world: World, view: str) -> None:
    """An index or a grant that is lost in a night makes the site slow, or empty, next morning."""
    refresh_view(mixed_world.connection, view, timeout_s=60)
    mixed_world.run(
        f"GRANT SELECT ON leaderboard.{view} TO PUBLIC;"
        f"GRANT SELECT ON leaderboard.{view} TO pg_monitor WITH GRANT OPTION"
    )
    before = catalogue(mixed_world, view)
    number = mixed_world.run("SELECT %s::regclass::oid", f"leaderboard.{view}")
    refresh_view(mixed_world.connection, view, timeout_s=60)
    assert mixed_world.run("SELECT %s::regclass::oid", f"leaderboard.{view}") != number
    assert catalogue(mixed_world, view) == before
    assert left_behind(mixed_world) == []


def test_an_old_snapshot_sees_an_exchanged_board(mixed_world: World, settings: Settings) -> None:
    """A reader that has begun before must not find a board without rows."""
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    with closing(connect(settings, "reader")) as reader, reader.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM core.player")
        refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
        cursor.execute(f"SELECT count(*) FROM leaderboard.{GLOBAL}")
        assert cursor.fetchall() == [(2,)]


def test_a_prepared_statement_survives_an_exchange(mixed_world: World, settings: Settings) -> None:
    """Pools of the site keep their statements for days."""
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    with closing(connect(settings, "reader")) as reader, reader.cursor() as cursor:
        reader.autocommit = True
        cursor.execute(f"PREPARE page AS SELECT count(*) FROM leaderboard.{GLOBAL}")
        cursor.execute("EXECUTE page")
        mixed_world.player(7, clears=1)
        refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
        cursor.execute("EXECUTE page")
        assert cursor.fetchall() == [(3,)]


def test_a_view_upon_a_board_keeps_it_from_being_exchanged(mixed_world: World) -> None:
    """Somebody's own view must not stop the ranks, nor may the ranks drop it."""
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    mixed_world.run(f"CREATE VIEW public.mine AS SELECT * FROM leaderboard.{GLOBAL}")
    mixed_world.player(7, clears=1)
    assert refresh_view(mixed_world.connection, GLOBAL, timeout_s=60).rows == 3
    assert mixed_world.run("SELECT count(*) FROM public.mine") == [(3,)]
    assert left_behind(mixed_world) == []


def test_a_refresh_that_dies_leaves_the_board_as_it_was(
    mixed_world: World, settings: Settings
) -> None:
    """A deploy in the middle must leave neither a hole nor half a copy."""
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    mixed_world.player(7, clears=1)

    def die(_seconds: float) -> None:
        raise KeyboardInterrupt

    with closing(connect(settings, "reader")) as reader, reader.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM leaderboard.{GLOBAL}")
        with pytest.raises(KeyboardInterrupt):
            refresh_view(mixed_world.connection, GLOBAL, timeout_s=60, sleep=die)
    assert mixed_world.run(f"SELECT count(*) FROM leaderboard.{GLOBAL}") == [(2,)]
    assert left_behind(mixed_world) == []
    assert refresh_view(mixed_world.connection, GLOBAL, timeout_s=60).rows == 3


def test_two_refreshes_of_a_board_come_one_after_the_other(
    mixed_world: World, settings: Settings
) -> None:
    """A repair by hand meets the schedule's run: both would build the same copy."""
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    with closing(connect(settings, "other")) as other, ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(refresh_view, connection, GLOBAL, timeout_s=60)
            for connection in (mixed_world.connection, other)
        ]
        assert [run.result(timeout=60).rows for run in runs] == [2, 2]


def test_what_a_view_needs_comes_first() -> None:
    """The boards that rank the score are a day late otherwise."""
    assert refresh_order(GLOBAL) == [WORLD_FIRST, WFR_SCORE, GLOBAL]
    assert refresh_order(RAID) == [RAID]
    everything = refresh_order("all")
    assert everything[:4] == [WORLD_FIRST, WFR_SCORE, GLOBAL, CLAN]
    assert sorted(everything) == sorted([*VIEWS, WFR_SCORE])
    with pytest.raises(PermanentError, match="speed is no leaderboard"):
        refresh_order("speed")


def test_refresh_ends_at_its_limit(world: World, settings: Settings) -> None:
    """The limit ends with the refresh: the connection's next statement has none."""
    with closing(connect(settings, "other")) as other, other.cursor() as cursor:
        cursor.execute(f"REFRESH MATERIALIZED VIEW leaderboard.{CLAN}")
        with pytest.raises(errors.QueryCanceled):
            refresh_view(world.connection, CLAN, timeout_s=1)
    assert world.run("SHOW statement_timeout") == [("0",)]
    assert refresh_view(world.connection, CLAN, timeout_s=60).rows == 0


def test_a_player_who_went_private_behind_the_refresh_breaks_nothing(world: World) -> None:
    """Profiles are crawled all the time: without this every second refresh would fail its check."""
    world.player(1, clears=1)
    refresh_view(world.connection, GLOBAL, timeout_s=60)
    began = datetime.now(UTC)
    world.run("UPDATE core.player SET is_private = true, updated_at = now() + interval '1 s'")
    assert check_positions(world.connection, GLOBAL, began) == []
    assert [p.rows for p in check_positions(world.connection, GLOBAL)] == [1]


@pytest.mark.parametrize("work", [top, check_positions])
def test_board_that_was_never_refreshed_is_named(
    connection: Connection, work: Callable[[Connection, str], object]
) -> None:
    """An unfilled view is not an empty board."""
    with pytest.raises(PermanentError, match=f"leaderboard.{CLAN} was never refreshed"):
        work(connection, CLAN)


def test_unknown_name_is_refused(connection: Connection) -> None:
    """Names become identifiers, so the set is closed."""
    with pytest.raises(ValueError, match="pg_class is no leaderboard"):
        refresh_view(connection, "pg_class", timeout_s=1)


# --- heads


def test_heads_show_names_and_stop_at_n(raced_world: World) -> None:
    """They are read by people, in the metadata of each refresh."""
    assert top(raced_world.connection, WORLD_FIRST, n=2) == [
        {
            "activity": "King's Fall",
            "position": 1,
            "rank": 1,
            "seconds": 3600,
            "instance_id": 4,
            "team": "Guardian1#0001",
        },
        {
            "activity": "Leviathan",
            "position": 1,
            "rank": 1,
            "seconds": 3600,
            "instance_id": 1,
            "team": "Guardian1#0001",
        },
    ]


def test_every_board_has_a_head(raced_world: World) -> None:
    world = raced_world
    world.run("UPDATE core.player SET clears = 1, cheat_level = 0")
    world.run("INSERT INTO core.player_stats (membership_id, activity_id, clears) VALUES (1, 1, 1)")
    world.instance(20, pantheon_hashes(world)[128], RACE_START, [1, 2])
    clan(world, 10, [1, 2])
    heads = {}
    for view in VIEWS:
        refresh_view(world.connection, view, timeout_s=60)
        heads[view] = top(world.connection, view, n=1)
    assert heads.pop(CUSTOM_RACE) == []
    assert {view: rows[0]["position"] for view, rows in heads.items()} == dict.fromkeys(heads, 1)
    assert heads[CLAN][0]["clan"] == "Vanguard"


# --- checks


@pytest.mark.parametrize("view", [GLOBAL, RAID, PANTHEON])
def test_check_finds_players_who_may_not_be_ranked(mixed_world: World, view: str) -> None:
    world = mixed_world
    world.run("INSERT INTO core.player_stats (membership_id, activity_id, clears) VALUES (1, 4, 1)")
    world.instance(1, pantheon_hashes(world)[128], RACE_START, [1, 5])
    refresh_view(world.connection, view, timeout_s=60)
    world.run("UPDATE core.player SET is_private = true WHERE membership_id = 1")
    assert check_positions(world.connection, view) == [
        Problem("a player is private, cheats or is gone", 1, (1,))
    ]


def test_check_finds_instances_that_may_not_be_ranked(raced_world: World) -> None:
    for view in (WORLD_FIRST, TEAM):
        refresh_view(raced_world.connection, view, timeout_s=60)
    raced_world.blacklist(5)
    raced_world.run("UPDATE core.instance SET completed = false WHERE instance_id = 2")
    for view in (WORLD_FIRST, TEAM):
        assert check_positions(raced_world.connection, view) == [
            Problem("an instance is blacklisted, not completed or gone", 2, (2, 5))
        ]


def replace_view(world: World, view: str, select: str) -> None:
    """Puts `select`, over what was there as `whole`, in the view's place."""
    world.run("SET search_path TO leaderboard")
    world.run(f"ALTER MATERIALIZED VIEW {view} RENAME TO whole")
    world.run(f"CREATE VIEW {view} AS {select}")


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("value", ["clears", "sherpas", "wfr_score"])
def test_check_finds_positions_with_gaps(mixed_world: World, value: str, missing: int) -> None:
    """A page would be short, or empty, in the middle of the board."""
    mixed_world.player(7, clears=1)
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    gap = f"SELECT * FROM whole WHERE {value}_position <> {missing}"
    replace_view(mixed_world, GLOBAL, gap)
    claims = [problem.claim for problem in check_positions(mixed_world.connection, GLOBAL)]
    assert f"{value}_position is not 1..N" in claims


@pytest.mark.parametrize(
    ("view", "partition"), [(RAID, "activity_id"), (TEAM, "activity_id"), (PANTHEON, "version_id")]
)
def test_check_names_the_partition_with_a_gap(
    raced_world: World, view: str, partition: str
) -> None:
    world = raced_world
    world.run("UPDATE core.player SET clears = 1, cheat_level = 0")
    world.run(
        "INSERT INTO core.player_stats (membership_id, activity_id, clears) "
        "VALUES (1, 1, 2), (2, 1, 1), (1, 11, 2)"
    )
    hashes = pantheon_hashes(world)
    world.instance(20, hashes[128], RACE_START, [1, 2])
    world.instance(21, hashes[129], RACE_START, [1])
    refresh_view(world.connection, view, timeout_s=60)
    column = "position" if view == TEAM else "clears_position"
    first = "128" if view == PANTHEON else "1"
    gap = f"SELECT * FROM whole WHERE {partition} <> {first} OR {column} <> 1"
    replace_view(world, view, gap)
    problems = check_positions(world.connection, view)
    assert Problem(f"{column} is not 1..N", 1, (int(first),)) in problems


@pytest.mark.parametrize("view", VIEWS)
def test_every_position_of_a_view_is_checked(connection: Connection, view: str) -> None:
    """A new column would be paged through unchecked."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass"
            " AND attname LIKE '%%position' ORDER BY attname",
            (f"leaderboard.{view}",),
        )
        assert [name for (name,) in cursor] == sorted(POSITIONS[view][1])


def test_check_finds_a_speed_position_given_twice(mixed_world: World) -> None:
    """Its index cannot be unique, because players without a sum have none."""
    mixed_world.run("UPDATE core.player SET sum_of_best = membership_id")
    mixed_world.player(7, clears=1, sum_of_best=1000)
    refresh_view(mixed_world.connection, GLOBAL, timeout_s=60)
    ((columns,),) = mixed_world.run(
        "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute "
        f"WHERE attrelid = 'leaderboard.{GLOBAL}'::regclass AND attnum > 0"
    )
    twice = "CASE speed_position WHEN 2 THEN 3 ELSE speed_position END AS speed_position"
    select = columns.replace("speed_position", twice)
    replace_view(mixed_world, GLOBAL, f"SELECT {select} FROM whole")
    assert check_positions(mixed_world.connection, GLOBAL) == [
        Problem("speed_position is not 1..N", 1, (0,))
    ]
