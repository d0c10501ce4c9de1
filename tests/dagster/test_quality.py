"""Checks of what the stream wrote: green on true tables, and each of them can turn red."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.checks.freshness import fresh
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.resources import BrokerResource, ClickHouseResource, PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.claims import Problem
from raidhub_dagster.storage.clickhouse import connect
from raidhub_dagster.storage.quality import (
    CLICKHOUSE,
    POSTGRES,
    check_clickhouse,
    check_table,
)
from tests.dagster.conftest import World

GUARDIAN = 7


@pytest.fixture
def played(world: World) -> World:
    """Two raids of one player, with everything that a store derives from them."""
    world.player(
        GUARDIAN, clears=2, fresh_clears=2, total_time_played_seconds=14400, first_seen="2017-09-01"
    )
    world.raid(100, [GUARDIAN])
    world.raid(200, [GUARDIAN], completed_after=timedelta(hours=30))
    world.run("UPDATE core.instance_player SET is_first_clear = instance_id = 100")
    world.run("UPDATE core.player_stats SET fastest_instance_id = 100")
    world.run(
        "INSERT INTO extended.instance_character (instance_id, membership_id, character_id,"
        " class_hash, completed, time_played_seconds, start_seconds)"
        " SELECT instance_id, membership_id, 1, (SELECT min(hash) FROM"
        " definitions.class_definition), true, 7200, 0 FROM core.instance_player"
    )
    world.run(
        "INSERT INTO extended.instance_character_weapon (instance_id, membership_id,"
        " character_id, weapon_hash, kills) SELECT instance_id, membership_id, 1, 3,"
        " 9 FROM core.instance_player"
    )
    world.run("INSERT INTO streaming.crawl_cursor VALUES ('main', 1, 101, 1000)")
    world.run(
        "INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)"
        " VALUES (1, 50, 'done', 'a', now()), (51, 100, 'leased', 'a', now())"
    )
    return world


def broken(connection: Connection) -> dict[str, list[Problem]]:
    """What each table breaks, without those that break nothing."""
    found = {table: check_table(connection, table) for table in POSTGRES}
    return {table: problems for table, problems in found.items() if problems}


def test_true_tables_break_nothing(played: World) -> None:
    """A check that is red without a fault is switched off within a week."""
    assert broken(played.connection) == {}


def test_empty_tables_break_nothing(world: World) -> None:
    """On the first evening nothing may be red."""
    assert broken(world.connection) == {}


@pytest.mark.parametrize(
    ("table", "query", "damage"),
    [
        ("definitions.season", "no_season", "DELETE FROM definitions.season"),
        (
            "definitions.season",
            "seasons_out_of_order",
            "UPDATE definitions.season SET start_date = '2001-01-01' WHERE id = 5",
        ),
        (
            "definitions.activity_definition",
            "activities_with_odd_times",
            "UPDATE definitions.activity_definition SET week_one_end = '2001-01-01' WHERE id = 4",
        ),
        (
            "definitions.activity_definition",
            "activities_without_hash",
            "INSERT INTO definitions.activity_definition (id, name, path, release_date,"
            " splash_path) VALUES (99, 'New', 'new', now(), 'new')",
        ),
        (
            "definitions.version_definition",
            "versions_without_name",
            "UPDATE definitions.version_definition SET name = ' ' WHERE id = 1",
        ),
        (
            "definitions.activity_version",
            "hashes_out_of_range",
            "INSERT INTO definitions.activity_version VALUES (-5, 4, 1)",
        ),
        (
            "raw.pgcr",
            "reports_without_instance",
            "INSERT INTO raw.pgcr (instance_id, data) VALUES (300, '')",
        ),
        (
            "streaming.crawl_block",
            "ids_outside_the_ledger",
            "DELETE FROM streaming.crawl_block WHERE first_id = 1",
        ),
        (
            "streaming.missed_pgcr",
            "missed_but_stored",
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
            " VALUES (100, 'waiting', 'r', 'atlas')",
        ),
        (
            "streaming.missed_pgcr",
            "missed_and_forgotten",
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source,"
            " next_attempt_at) VALUES (9, 'waiting', 'r', 'atlas', now() - interval '2 days')",
        ),
        (
            "core.instance",
            "instances_without_report",
            "DELETE FROM raw.pgcr WHERE instance_id = 100",
        ),
        (
            "core.instance",
            "instances_that_readers_refuse",
            "UPDATE core.instance SET duration = 0 WHERE instance_id = 100",
        ),
        (
            "core.instance_player",
            "instances_without_players",
            "INSERT INTO core.instance (instance_id, hash, completed, player_count, date_started,"
            " date_completed, duration, platform_type) SELECT 300, hash, true, 1, date_started,"
            " date_completed, 1, 3 FROM core.instance WHERE instance_id = 100",
        ),
        (
            "extended.instance_character",
            "players_without_character",
            "DELETE FROM extended.instance_character_weapon;"
            " DELETE FROM extended.instance_character WHERE instance_id = 100",
        ),
        (
            "extended.instance_character",
            "characters_of_unknown_class",
            "UPDATE extended.instance_character SET class_hash = 5",
        ),
        (
            "extended.instance_character_weapon",
            "weapons_out_of_range",
            "UPDATE extended.instance_character_weapon SET kills = -1",
        ),
        (
            "clan.clan",
            "clans_without_name",
            "INSERT INTO clan.clan (group_id, name, motto, call_sign, clan_banner_data)"
            " VALUES (5, ' ', '', '', '{\"decalId\": 1, \"decalColorId\": 1,"
            ' "decalBackgroundColorId": 1, "gonfalonId": 1, "gonfalonColorId": 1,'
            ' "gonfalonDetailId": 1, "gonfalonDetailColorId": 1}\')',
        ),
        (
            "streaming.top_player",
            "top_players_unknown",
            "INSERT INTO streaming.top_player (membership_id, membership_type, best_rank)"
            " VALUES (99, 3, 1)",
        ),
        (
            "streaming.outbox",
            "effects_that_stay",
            "INSERT INTO streaming.outbox (kind, destination, key, body, created_at)"
            " VALUES ('message', 'q', 1, '', now() - interval '2 hours')",
        ),
        (
            "streaming.outbox",
            "rows_without_month",
            "INSERT INTO streaming.outbox (kind, destination, key, body)"
            " VALUES ('clickhouse', 'instance', 1, '')",
        ),
    ],
)
def test_a_damaged_table_breaks_its_claim(
    played: World, table: str, query: str, damage: str
) -> None:
    """Each claim can fail, and says which one it was."""
    played.run(damage)
    (problem,) = check_table(played.connection, table)
    assert problem.claim == POSTGRES[table].broken_by[query]
    assert problem.rows >= 1
    assert problem.examples


def test_the_tables_without_definitions_are_told(played: World) -> None:
    """Nobody seeded: nothing can be stored, and one word says why."""
    played.run(
        "TRUNCATE definitions.activity_definition, definitions.version_definition,"
        " definitions.activity_version, core.instance, core.player_stats CASCADE"
    )
    for table in ("activity_definition", "version_definition", "activity_version"):
        (problem,) = check_table(played.connection, f"definitions.{table}")
        assert problem.claim.startswith("there is no")


@pytest.fixture
def client(clickhouse: dict[str, Any], settings_for: Callable[..., Settings]) -> Any:
    found = connect(settings_for(clickhouse), "pytest")
    now = datetime.now(UTC)
    found.command("INSERT INTO activity_version VALUES (5, 4, 1)")
    found.insert(
        "instance",
        [[1, 5, 1, now - timedelta(hours=2), now - timedelta(hours=1), 3600]],
        column_names=[
            "instance_id",
            "hash",
            "player_count",
            "date_started",
            "date_completed",
            "duration",
        ],
    )
    yield found
    found.close()


def test_true_analytics_tables_break_nothing(client: Any) -> None:
    found = {table: check_clickhouse(client, table) for table in CLICKHOUSE}
    assert found == {table: [] for table in CLICKHOUSE}


@pytest.mark.parametrize(
    ("table", "query", "damage"),
    [
        (
            "instance",
            "instances_without_keys",
            "INSERT INTO instance (instance_id, hash, player_count, date_started, date_completed)"
            " VALUES (0, 5, 1, now(), now())",
        ),
        (
            "instance",
            "instances_of_unknown_activity",
            "INSERT INTO instance (instance_id, hash, player_count, date_started, date_completed)"
            " VALUES (2, 6, 1, now(), now())",
        ),
        (
            "player_population_by_hour",
            "hours_of_unknown_activity",
            "INSERT INTO player_population_by_hour VALUES (toStartOfHour(now()), 9, 1)",
        ),
        (
            "player_population_by_hour",
            "hours_in_the_future",
            "INSERT INTO player_population_by_hour VALUES (now() + INTERVAL 3 DAY, 4, 1)",
        ),
        (
            "clear_time_by_day",
            "days_of_unknown_version",
            "INSERT INTO clear_time_by_day SELECT today(), 4, 2,"
            " quantilesState(0.05, 0.1, 0.5, 0.9)(toUInt32(5))",
        ),
        (
            "weapon_meta_by_hour",
            "weapons_without_keys",
            "INSERT INTO weapon_meta_by_hour VALUES (toStartOfHour(now()), 4, 0, 1, 1, 1)",
        ),
        (
            "player_relation_weights_bidirectional",
            "pairs_without_keys",
            "INSERT INTO player_relation_weights_bidirectional VALUES (3, 3, 1)",
        ),
    ],
)
def test_a_damaged_analytics_table_breaks_its_claim(
    client: Any, table: str, query: str, damage: str
) -> None:
    client.command(damage)
    (problem,) = check_clickhouse(client, table)
    assert (problem.claim, problem.rows) == (CLICKHOUSE[table].broken_by[query], 1)


@pytest.fixture
def defs(
    store: PostgresResource, clickhouse: dict[str, Any], rabbitmq: dict[str, Any]
) -> dg.Definitions:
    quiet = {"hermes_metrics_port": free_port()}
    return build_defs(
        {
            "postgres": store,
            "clickhouse": ClickHouseResource(settings=clickhouse),
            "broker": BrokerResource(settings={**rabbitmq, **quiet}),
        }
    )


def test_one_job_runs_every_check(
    defs: dg.Definitions, instance: dg.DagsterInstance, world: World
) -> None:
    """At four in the morning everything is looked at, and nothing is changed."""
    graph = defs.resolve_asset_graph()
    result = defs.resolve_job_def("leaderboards_job").execute_in_process(instance=instance)
    assert result.success
    before = world.rows("SELECT count(*) FROM core.player")
    result = defs.resolve_job_def("quality_job").execute_in_process(
        instance=instance, raise_on_error=False
    )
    evaluated = {e.check_name: e for e in result.get_asset_check_evaluations()}
    # Some are made by the step of their asset, of what it just did.
    assets = defs.get_repository_def().assets_defs_by_key.values()
    of_steps = {key.name for asset in assets for key in asset.check_keys}
    assert set(evaluated) == {key.name for key in graph.asset_check_keys} - of_steps
    red = {
        e.check_name
        for e in evaluated.values()
        if not e.passed and graph.get(e.asset_key).group_name != "manifest"  # none was loaded
    }
    never = {n for n in evaluated if n.endswith("_is_fresh")}  # nothing was crawled or scheduled
    groups = {n: graph.get(e.asset_key).group_name for n, e in evaluated.items()}
    assert red == {n for n in never if groups[n] not in ("leaderboards", "manifest")}
    assert not result.get_asset_materialization_events()
    assert world.rows("SELECT count(*) FROM core.player") == before


def test_a_check_that_cannot_look_is_no_verdict(
    instance: dg.DagsterInstance, store: PostgresResource
) -> None:
    """ClickHouse away is a failed run, not a red table."""
    away = ClickHouseResource(
        settings={"clickhouse_host": HOST, "clickhouse_http_port": free_port()}
    )
    defs = build_defs({"postgres": store, "clickhouse": away})
    key = dg.AssetCheckKey(dg.AssetKey(["clickhouse", "instance"]), "instance_has_keys")
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={key}
    )
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    assert not result.success
    assert result.get_asset_check_evaluations() == []


def test_reports_are_parsed_again(played: World, store: PostgresResource) -> None:
    """Core against raw: a report that says something else than the rows."""
    played.run("UPDATE raw.pgcr SET data = %s", (pack(b"{}"),))
    defs = build_defs({"postgres": store})
    key = dg.AssetCheckKey(dg.AssetKey(["postgres", "instance"]), "instance_follows_its_report")
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(), asset_check_selection={key}
    )
    with dg.DagsterInstance.ephemeral() as own:
        (found,) = job.execute_in_process(instance=own).get_asset_check_evaluations()
    assert not found.passed
    assert found.metadata["broken_rows"].value in (1, 2)  # a hundred draws may all meet the second


@pytest.mark.parametrize(("hours", "passed"), [(None, False), (1.0, True), (3.0, False)])
def test_freshness_is_the_age_of_the_last_write(
    instance: dg.DagsterInstance, hours: float | None, passed: bool
) -> None:
    """Dagster shows the policy; the check is what reaches people."""
    key = dg.AssetKey(["postgres", "some_board"])
    window = timedelta(hours=2)
    if hours is not None:
        instance.report_runless_asset_event(dg.AssetMaterialization(key))
        window = timedelta(hours=2) if hours < 2 else timedelta(seconds=-1)
    defs = dg.Definitions(assets=[dg.AssetSpec(key)], asset_checks=[fresh(key, window)])
    job = defs.resolve_implicit_global_asset_job_def()
    (found,) = job.execute_in_process(instance=instance).get_asset_check_evaluations()
    assert found.passed is passed
    assert found.severity is dg.AssetCheckSeverity.WARN
