"""The weekly crawl of clans as a job, against the simulator and a real database."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.leaderboards import CLAN_MEMBERS_KEY, leaderboard_key
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import BungieResource, PostgresResource
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.leaderboards import refresh_view
from raidhub_dagster.storage.postgres import alone
from simulator.world import Clan
from tests.conftest import make_settings
from tests.dagster.conftest import World
from tests.dagster.home import ROOT
from tests.support.bungie import Bungie, simulated

BOARD_KEY = leaderboard_key("clan_leaderboard")
MEMBERS = "SELECT group_id, membership_id FROM clan.clan_members ORDER BY 1, 2"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("bungie")) as bungie:
        yield bungie


@pytest.fixture
def bungie(simulator: Bungie) -> Iterator[Bungie]:
    """The module's simulator, calm again at the end."""
    yield simulator
    simulator.calm()


@pytest.fixture
def api(bungie: Bungie) -> BungieResource:
    return BungieResource(
        settings={
            "bungie_api_key": "key",
            "bungie_url_base": bungie.address,
            "pgcr_url_base": bungie.address,
        }
    )


@pytest.fixture
def defs(store: PostgresResource, api: BungieResource) -> dg.Definitions:
    return build_defs({"postgres": store, "bungie": api})


@pytest.fixture
def clans(bungie: Bungie, world: World) -> list[Clan]:
    """Three clans; five members of each are players with ranks, and the boards are filled."""
    found = (bungie.world.clan(number) for number in range(bungie.world.clans))
    clans = [clan for clan in found if clan is not None and not clan.is_gone][:3]
    for clan in clans:
        for number in clan.members[:5]:
            player = bungie.world.player(number)
            world.player(
                player.membership_id, membership_type=player.membership_type, clears=number + 1
            )
    fill_boards(world)
    return clans


def fill_boards(world: World) -> None:
    for view in ("individual_global_leaderboard", "individual_raid_leaderboard"):
        refresh_view(world.connection, view, timeout_s=60)


def crawl(
    defs: dg.Definitions, instance: dg.DagsterInstance, **config: object
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("clans_job").execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"ops": {"crawl_clans": {"config": {"reqs": 4, **config}}}},
    )


def metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = [
        e
        for e in result.get_asset_materialization_events()
        if e.asset_key and e.asset_key.path[-1] == name
    ]
    return {key: value.value for key, value in event.materialization.metadata.items()}


def failed_steps(result: dg.ExecuteInProcessResult) -> set[str | None]:
    return {event.step_key for event in result.all_events if event.is_step_failure}


def known(bungie: Bungie, clans: list[Clan]) -> list[tuple[int, int]]:
    return sorted(
        (clan.group_id, bungie.world.player(number).membership_id)
        for clan in clans
        for number in clan.members[:5]
    )


def test_one_job_goes_from_ranks_to_the_board(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    world: World,
    bungie: Bungie,
    clans: list[Clan],
) -> None:
    result = crawl(defs, instance, progress_every=2)
    assert result.success
    assert world.rows(MEMBERS) == known(bungie, clans)
    everyone = sum(len(clan.members) for clan in clans)
    told = metadata(result, "clan_members")
    assert (told["dagster/row_count"], told["players"], told["players_asked"]) == (15, 15, 15)
    assert told["members_waiting_to_be_known"] == everyone - 15
    assert metadata(result, "top_players")["dagster/row_count"] == 15
    told = metadata(result, "clans")
    assert (told["dagster/row_count"], told["clans_crawled"], told["clans_failed"]) == (3, 3, 0)
    assert world.rows(
        "SELECT group_id, known_member_count FROM leaderboard.clan_leaderboard ORDER BY 1"
    ) == [(clan.group_id, 5) for clan in clans]
    (asked,) = world.rows("SELECT count(*) FROM streaming.outbox WHERE destination='player_crawl'")
    assert asked == (everyone - 15,)
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert set(checks) >= {
        "clan_members_are_known",
        "clan_members_leave_no_clan_empty",
        "clan_leaderboard_matches_a_recount",
        "clan_leaderboard_is_dense_and_eligible",
    }
    assert all(check.passed for check in checks.values())


@pytest.mark.usefixtures("clans")
def test_progress_is_seen_while_it_runs(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    """A crawl takes minutes; whoever opens the asset must see that it moves."""
    crawl(defs, instance, progress_every=5)
    records = instance.fetch_observations(CLAN_MEMBERS_KEY, limit=50).records
    seen = [
        {k: v.value for k, v in r.asset_observation.metadata.items()}
        for r in records
        if r.asset_observation is not None
    ]
    assert [(s["stage"], s["done"], s["total"]) for s in reversed(seen)] == [
        ("players", 5, 15),
        ("players", 10, 15),
        ("players", 15, 15),
        ("clans", 3, 3),
    ]


def test_a_run_soon_after_another_asks_nobody(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    world: World,
    bungie: Bungie,
    clans: list[Clan],
) -> None:
    """The rerun of a failed crawl completes it instead of beginning anew."""
    crawl(defs, instance)
    before = bungie.requests_so_far()
    again = crawl(defs, instance)
    assert again.success
    assert bungie.requests_so_far() == before
    assert metadata(again, "clans")["clans_fresh"] == 3
    assert world.rows(MEMBERS) == known(bungie, clans)


def test_maintenance_fails_clearly_and_leaves_members_and_board(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    world: World,
    bungie: Bungie,
    clans: list[Clan],
) -> None:
    """On a Monday of maintenance last week's clans are shown, not none."""
    crawl(defs, instance)
    bungie.ask("/sim/maintenance", on=True, systems=["Groups"])
    failed = crawl(defs, instance, fresh_h=0)
    assert not failed.success
    assert failed_steps(failed) == {"crawl_clans"}
    assert world.rows(MEMBERS) == known(bungie, clans)
    assert world.rows("SELECT count(*) FROM leaderboard.clan_leaderboard") == [(3,)]


def test_two_crawls_at_once_are_refused(
    defs: dg.Definitions, instance: dg.DagsterInstance, postgres: dict[str, Any], clans: list[Clan]
) -> None:
    """They would ask for everybody twice; `dagster job execute` has no queue that prevents it."""
    assert clans
    with alone(make_settings(postgres), "pytest", "clans"):
        result = crawl(defs, instance)
    assert not result.success
    errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert "clans runs already" in str(errors)


def test_a_missing_key_is_named_at_once(
    store: PostgresResource, instance: dg.DagsterInstance, clans: list[Clan]
) -> None:
    assert clans
    nowhere = BungieResource(settings={"bungie_url_base": f"http://{HOST}:{free_port()}"})
    result = crawl(build_defs({"postgres": store, "bungie": nowhere}), instance)
    errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert "BUNGIE_API_KEY" in str(errors)


def test_an_empty_system_has_no_clans_and_nothing_is_red(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    """On the first Monday there may be no raids yet."""
    assert world.rows(MEMBERS) == []
    fill_boards(world)
    assert crawl(defs, instance).success


def test_boards_that_were_never_filled_are_named(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    result = crawl(defs, instance)
    errors = [e.step_failure_data.error for e in result.all_events if e.is_step_failure]
    assert "was never refreshed" in str(errors)


@pytest.mark.usefixtures("clans")
def test_a_board_that_lies_is_found(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    crawl(defs, instance)
    world.run("UPDATE core.player SET clears = clears + 1")
    ((now,),) = world.rows("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    pretended = dg.AssetMaterialization(BOARD_KEY, metadata={"unseen_from": int(now)})
    instance.report_runless_asset_event(pretended)
    checks = dg.AssetSelection.checks_for_assets(BOARD_KEY)
    job = dg.define_asset_job("check_board", selection=checks)
    checked = dg.Definitions.merge(defs, dg.Definitions(jobs=[job]))
    result = checked.resolve_job_def("check_board").execute_in_process(
        instance=instance, raise_on_error=False
    )
    evaluations = {c.check_name: c for c in result.get_asset_check_evaluations()}
    recount = evaluations["clan_leaderboard_matches_a_recount"]
    assert not recount.passed
    assert recount.metadata["recounted_clans"].value == 3


def test_the_example_file_is_a_config_of_the_job(
    defs: dg.Definitions, instance: dg.DagsterInstance, clans: list[Clan]
) -> None:
    assert clans
    config = yaml.safe_load((ROOT / "docs/repairs/clans_job.yaml").read_text("utf-8"))
    job = defs.resolve_job_def("clans_job")
    assert job.execute_in_process(instance=instance, run_config=config).success


def test_the_clock_starts_the_crawl_with_the_board() -> None:
    """Mondays at 12:00; a board refreshed beside the crawl would be half old."""
    defs = build_defs()
    schedule = defs.resolve_schedule_def("clans_schedule")
    assert (schedule.cron_schedule, schedule.job_name) == ("0 12 * * 1", "clans_job")
    keys = defs.resolve_job_def("clans_job").asset_layer.selected_asset_keys
    assert {key.path[-1] for key in keys} == {
        "top_players",
        "clans",
        "clan_members",
        "clan_leaderboard",
    }
