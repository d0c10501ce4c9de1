from datetime import timedelta
from typing import Any

import dagster as dg
import psycopg2.errors
import pytest

from assets.leaderboards import (
    WFR_SCORE_KEY,
    RefreshConfig,
    individual_global_leaderboard,
    leaderboard_key,
)
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.failures import RETRY_RUN_TAG
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.leaderboards import RECOUNTED, VIEWS
from tests.dagster.conftest import LAST_WISH, World

GLOBAL = "individual_global_leaderboard"
PANTHEON = 4169648179
RACES = "world_first_contest_leaderboard"
EXPECTED_ROWS = {
    "world_first_contest_leaderboard": 2,
    "individual_global_leaderboard": 3,
    "clan_leaderboard": 0,
    "individual_raid_leaderboard": 3,
    "individual_pantheon_version_leaderboard": 0,
    "team_activity_version_leaderboard": 2,
    "team_pantheon_custom_race_leaderboard": 0,
}


@pytest.fixture
def defs(store: PostgresResource) -> dg.Definitions:
    return build_defs({"postgres": store})


@pytest.fixture
def raced(world: World) -> World:
    """Three players, of whom 1 and 2 won the race of Last Wish and 1 and 3 came second."""
    for membership_id, clears in ((1, 30), (2, 20), (3, 10)):
        world.player(membership_id, clears=clears)
    world.raid(100, [1, 2], completed_after=timedelta(hours=19))
    world.raid(101, [1, 3], completed_after=timedelta(hours=20))
    return world


def refresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, job: str = "leaderboards_job"
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def(job).execute_in_process(instance=instance, raise_on_error=False)


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    """Those that block. The counters of these worlds are not those of their raids."""
    found = result.get_asset_check_evaluations()
    return {check.check_name: check for check in found if check.blocking}


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    """Last parts of the keys, in the order of their refresh."""
    events = result.get_asset_materialization_events()
    return [event.asset_key.path[-1] for event in events if event.asset_key]


def metadata(result: dg.ExecuteInProcessResult, key: dg.AssetKey) -> dict[str, Any]:
    (event,) = [e for e in result.get_asset_materialization_events() if e.asset_key == key]
    return dict(event.materialization.metadata)


@pytest.mark.usefixtures("raced")
def test_one_job_refreshes_and_checks_everything(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    result = refresh(defs, instance)
    assert result.success
    told = {view: metadata(result, leaderboard_key(view)) for view in VIEWS}
    assert {view: m["dagster/row_count"].value for view, m in told.items()} == EXPECTED_ROWS
    assert all(m["size_bytes"].value > 0 and m["seconds"].value > 0 for m in told.values())
    scores = metadata(result, WFR_SCORE_KEY)
    assert (scores["dagster/row_count"].value, scores["changed_players"].value) == (3, 3)
    assert [r.data["player"] for r in scores["top_10"].records] == [
        "Guardian 1",
        "Guardian 2",
        "Guardian 3",
    ]
    # One of each, two of the clans' board.
    assert len(checks(result)) == len(VIEWS) + 3
    assert all(check.passed for check in checks(result).values())


def test_refreshes_what_others_read_first(
    defs: dg.Definitions, instance: dg.DagsterInstance, raced: World
) -> None:
    """A global board refreshed before the scores would show yesterday's for a day."""
    order = materialized(refresh(defs, instance))
    assert order.index(RACES) < order.index("wfr_score")
    assert order.index("wfr_score") < order.index(GLOBAL)
    assert order.index("wfr_score") < order.index("clan_leaderboard")
    best = raced.rows(
        "SELECT membership_id FROM leaderboard.individual_global_leaderboard"
        " ORDER BY wfr_score_position"
    )
    assert best == [(1,), (2,), (3,)]


@pytest.mark.usefixtures("raced")
def test_shows_the_top_as_a_typed_table(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """People open the asset for this table."""
    top = metadata(refresh(defs, instance), leaderboard_key(GLOBAL))["top_10"]
    assert isinstance(top, dg.TableMetadataValue)
    assert [(r.data["player"], r.data["clears"]) for r in top.records] == [
        ("Guardian 1", 30),
        ("Guardian 2", 20),
        ("Guardian 3", 10),
    ]
    types = {column.name: column.type for column in top.schema.columns}
    assert (types["player"], types["clears"], types["wfr_score"]) == ("string", "int", "float")


def test_every_asset_succeeds_on_an_empty_database(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    """On the first evening there are no raids and no clans; nothing may be red."""
    result = refresh(defs, instance)
    assert result.success
    assert sorted(materialized(result)) == sorted([*VIEWS, "sum_of_best", "wfr_score"])
    assert world.rows("SELECT count(*) FROM leaderboard.clan_leaderboard") == [(0,)]


@pytest.mark.usefixtures("raced")
def test_a_second_refresh_changes_no_score(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    refresh(defs, instance)
    again = refresh(defs, instance)
    assert metadata(again, WFR_SCORE_KEY)["changed_players"].value == 0


@pytest.mark.parametrize(
    ("change", "check", "rows"),
    [
        ("UPDATE core.player SET is_private = true WHERE membership_id = 1", GLOBAL, 1),
        (
            "UPDATE core.player SET cheat_level = 2 WHERE membership_id < 3",
            "individual_raid_leaderboard",
            2,
        ),
        (
            "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason,"
            " created_at) VALUES (100, 'Manual', 'test', '2020-01-01')",
            RACES,
            1,
        ),
    ],
    ids=["private", "cheater", "blacklisted"],
)
def test_a_check_fails_when_an_ineligible_one_is_on_the_board(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    raced: World,
    change: str,
    check: str,
    rows: int,
) -> None:
    """Checked alone, on a board as a broken refresh would leave it."""
    refresh(defs, instance)
    raced.run(change)
    result = check_alone(defs, instance, check)
    found = checks(result)[f"{check}_is_dense_and_eligible"]
    assert not found.passed
    assert (found.metadata["broken_rows"].value, found.metadata["at_most"].value) == (rows, 0)
    problems = found.metadata["problems"]
    assert isinstance(problems, dg.TableMetadataValue)
    assert problems.records[0].data["rows"] == rows


def check_alone(
    defs: dg.Definitions, instance: dg.DagsterInstance, view: str
) -> dg.ExecuteInProcessResult:
    selection = dg.AssetSelection.checks_for_assets(leaderboard_key(view))
    alone = dg.define_asset_job("check_alone", selection=selection)
    own = dg.Definitions.merge(defs, dg.Definitions(jobs=[alone]))
    return refresh(own, instance, "check_alone")


def test_a_broken_board_stops_those_that_read_it(
    defs: dg.Definitions, instance: dg.DagsterInstance, raced: World
) -> None:
    """Scores from a broken race would reach every player's profile before anybody looks."""
    raced.run("DROP MATERIALIZED VIEW leaderboard.world_first_contest_leaderboard")
    raced.run(
        "CREATE MATERIALIZED VIEW leaderboard.world_first_contest_leaderboard AS"
        " SELECT 4 AS activity_id, 7::bigint AS position, 7::bigint AS rank,"
        " 100::bigint AS instance_id, now() AS date_completed, 1::numeric AS time_after_launch,"
        " false AS is_challenge_mode, '[1]'::jsonb AS membership_ids"
    )
    raced.run("CREATE UNIQUE INDEX ON leaderboard.world_first_contest_leaderboard (instance_id)")
    result = refresh(defs, instance)
    assert not result.success
    assert not checks(result)[f"{RACES}_is_dense_and_eligible"].passed
    done = materialized(result)
    assert RACES in done
    assert "wfr_score" not in done
    assert GLOBAL not in done
    assert "individual_raid_leaderboard" in done  # what does not read it goes on
    assert raced.rows("SELECT count(*) FROM core.player WHERE wfr_score > 0") == [(0,)]


def test_a_missing_view_fails_at_once(
    defs: dg.Definitions, instance: dg.DagsterInstance, raced: World
) -> None:
    """`raidhub migrate` was forgotten: three tries with minutes between would hide that."""
    raced.run("DROP MATERIALIZED VIEW leaderboard.individual_raid_leaderboard")
    result = refresh(defs, instance, "leaderboards_raid_job")
    assert not result.success
    events = {event.event_type for event in result.all_events}
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY not in events
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.tags[RETRY_RUN_TAG] == "false"


def test_a_private_player_leaves_the_board_with_the_next_refresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, raced: World
) -> None:
    refresh(defs, instance)
    raced.run("UPDATE core.player SET is_private = true WHERE membership_id = 1")
    result = refresh(defs, instance)
    assert result.success
    assert metadata(result, leaderboard_key(GLOBAL))["dagster/row_count"].value == 2


@pytest.mark.usefixtures("raced")
@pytest.mark.parametrize(
    ("job", "views"),
    [
        ("leaderboards_raid_job", ["individual_raid_leaderboard"]),
        ("leaderboards_global_job", [GLOBAL]),
        ("leaderboards_world_first_job", [RACES, "wfr_score"]),
        ("leaderboards_contest_job", [RACES]),
        ("leaderboards_custom_race_job", ["team_pantheon_custom_race_leaderboard"]),
        (
            "leaderboards_version_job",
            [
                "individual_pantheon_version_leaderboard",
                "team_activity_version_leaderboard",
                "team_pantheon_custom_race_leaderboard",
            ],
        ),
    ],
)
def test_a_job_refreshes_what_its_time_of_day_promises(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    views: list[str],
) -> None:
    result = refresh(defs, instance, job)
    assert result.success
    assert sorted(materialized(result)) == sorted(views)
    assert len(checks(result)) == len(views)


@pytest.mark.usefixtures("raced")
def test_a_timeout_ends_the_refresh(store: PostgresResource) -> None:
    """Blocked by another transaction it would keep the pool's only place for ever."""
    with store.connection() as blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE core.player IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg2.errors.QueryCanceled):
            individual_global_leaderboard(config=RefreshConfig(timeout_s=1), postgres=store)


def test_the_hash_of_these_tests_counts_for_the_race(world: World) -> None:
    rows = world.rows(
        "SELECT is_world_first FROM definitions.activity_version WHERE hash = %s", (LAST_WISH,)
    )
    assert rows == [(True,)]


def recounted(
    defs: dg.Definitions, instance: dg.DagsterInstance, view: str
) -> dg.AssetCheckEvaluation:
    """The recount of the board, on its own, after a refresh."""
    (found,) = [
        e
        for e in check_alone(defs, instance, view).get_asset_check_evaluations()
        if e.check_name == f"{view}_equals_a_recount"
    ]
    return found


@pytest.fixture
def counted(world: World) -> World:
    """Three players whose counters are those of their raids, stored long before the refresh.

    Two of them were in a Pantheon once, which counts in the totals and on a board of its own.
    """
    for membership_id, clears in ((1, 3), (2, 2), (3, 2)):
        world.player(
            membership_id,
            clears=clears,
            fresh_clears=clears,
            total_time_played_seconds=7200 * clears,
            sum_of_best=8000 - membership_id,
        )
    for instance_id, members in ((100, [1, 2, 3]), (101, [1, 2, 3]), (102, [1])):
        world.raid(instance_id, members)
    world.raid(110, [1, 2], hash_=PANTHEON)
    world.run(
        "UPDATE core.player SET clears = clears + 1, fresh_clears = fresh_clears + 1,"
        " total_time_played_seconds = total_time_played_seconds + 7200 WHERE membership_id < 3"
    )
    world.run("UPDATE raw.pgcr SET date_crawled = now() - interval '1 day'")
    return world


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("view", RECOUNTED)
def test_a_true_board_equals_a_recount(
    defs: dg.Definitions, instance: dg.DagsterInstance, view: str
) -> None:
    """Ties, a board of parts, and a column of which less is better."""
    refresh(defs, instance)
    assert recounted(defs, instance, view).passed


@pytest.mark.parametrize("view", [GLOBAL, "individual_raid_leaderboard"])
def test_a_recount_finds_counters_that_no_raid_explains(
    defs: dg.Definitions, instance: dg.DagsterInstance, counted: World, view: str
) -> None:
    """A fault of the store shows on the boards first, and nobody recounts a board by eye."""
    counted.run("DELETE FROM core.instance_player WHERE instance_id = 102")
    refresh(defs, instance)
    found = recounted(defs, instance, view)
    assert not found.passed
    assert not found.blocking
    assert found.metadata["broken_rows"].value == 1


def test_a_recount_leaves_out_who_played_since_the_refresh(
    defs: dg.Definitions, instance: dg.DagsterInstance, counted: World
) -> None:
    """The stream goes on: what came since is no fault of the board's."""
    refresh(defs, instance)
    counted.raid(103, [1, 2, 3])
    assert recounted(defs, instance, GLOBAL).passed


@pytest.mark.parametrize(
    ("column", "value"), [("clears_rank", 2), ("clears_position", 2), ("speed_position", 1)]
)
def test_a_recount_finds_wrong_ranks(
    defs: dg.Definitions, instance: dg.DagsterInstance, counted: World, column: str, value: int
) -> None:
    """Right counters in the wrong order, as a mistake in the view would leave them."""
    refresh(defs, instance)
    board = "leaderboard.individual_global_leaderboard"
    counted.run(f"CREATE TABLE public.wrong AS SELECT * FROM {board}")
    counted.run(f"UPDATE public.wrong SET {column} = {value} WHERE membership_id = 1")
    counted.run(f"DROP MATERIALIZED VIEW {board}")
    counted.run(f"CREATE MATERIALIZED VIEW {board} AS SELECT * FROM public.wrong")
    found = recounted(defs, instance, GLOBAL)
    assert not found.passed
    assert found.metadata["broken_rows"].value == 1
