import os
import subprocess
import time

import dagster as dg
import pytest

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.messaging.topology import MAIN_QUEUES
from raidhub_dagster.stack.process import HOST, free_port
from tests.dagster.home import BIN, ROOT

LEADERBOARDS = [
    "clan_leaderboard",
    "individual_global_leaderboard",
    "individual_pantheon_version_leaderboard",
    "individual_raid_leaderboard",
    "sum_of_best",
    "team_activity_version_leaderboard",
    "team_pantheon_custom_race_leaderboard",
    "wfr_score",
    "world_first_contest_leaderboard",
]


def test_the_location_loads_in_a_fresh_process_with_nothing_running() -> None:
    """A code server must come up while the databases are down, or one outage becomes two."""
    environment = os.environ | {
        "POSTGRES_HOST": HOST,
        "POSTGRES_PORT": str(free_port()),
        "CLICKHOUSE_HOST": HOST,
        "CLICKHOUSE_HTTP_PORT": str(free_port()),
    }
    environment.pop("DAGSTER_HOME", None)  # as typed in a fresh clone
    began = time.monotonic()
    done = subprocess.run(
        [BIN / "dagster", "definitions", "validate"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"dagster definitions validate: {time.monotonic() - began:.1f} s (goal: under 10)")
    assert done.returncode == 0, done.stderr
    assert "Validation successful for code location raidhub" in done.stderr + done.stdout


def test_definitions_are_the_ones_that_people_know() -> None:
    """Keys, jobs, schedules and sensors stand in docs, configs and bookmarks: renames show here."""
    repository = build_defs().get_repository_def()
    graph = repository.asset_graph
    groups: dict[str, list[str]] = {}
    for key in graph.get_all_asset_keys():
        groups.setdefault(str(graph.get(key).group_name), []).append("/".join(key.path))
    assert {group: sorted(keys) for group, keys in groups.items()} == {
        "definitions": [
            "postgres/activity_definition",
            "postgres/activity_version",
            "postgres/season",
            "postgres/version_definition",
        ],
        "crawl": ["postgres/crawl_block", "postgres/missed_pgcr", "postgres/pgcr"],
        "core": [
            "postgres/instance",
            "postgres/instance_character",
            "postgres/instance_character_weapon",
            "postgres/instance_player",
            "postgres/player",
            "postgres/player_stats",
        ],
        "analytics": [
            "clickhouse/clear_time_by_day",
            "clickhouse/instance",
            "clickhouse/player_population_by_hour",
            "clickhouse/player_relation_weights_bidirectional",
            "clickhouse/weapon_meta_by_hour",
            "postgres/clickhouse_dirty_day",
            "postgres/outbox",
        ],
        "reports": ["clickhouse/weapon_meta_trend", "clickhouse/weekly_raid_report"],
        "cheats": [
            "clickhouse/cheat_features",
            "postgres/blacklisted_instances",
            "postgres/cheat_model",
            "postgres/cheat_report",
            "postgres/player_cheat_levels",
            "postgres/player_flag_stats",
            "postgres/review_queue",
        ],
        "clans": ["postgres/clan_members", "postgres/clans", "postgres/top_players"],
        "players": ["postgres/search_score"],
        "cheat_checks": ["postgres/activity_norm", "postgres/cheat_recheck"],
        "archives": ["archive/pgcr_archive", "postgres/reprocessed_pgcr"],
        "leaderboards": [f"postgres/{name}" for name in LEADERBOARDS],
        "manifest": [
            "bungie/manifest_database",
            "bungie/manifest_version",
            "bungie/unknown_raid_hashes",
            "clickhouse/activity",
            "clickhouse/activity_version",
            "clickhouse/version",
            "clickhouse/weapon_definition",
            "postgres/activity_feat_definitions",
            "postgres/class_definitions",
            "postgres/weapon_definitions",
        ],
        "queues": sorted(f"rabbitmq/{name}" for name in MAIN_QUEUES),
        "recovery": ["postgres/missed_pgcrs", "postgres/pgcr_gaps"],
    }
    areas = ["contest", "custom_race", "global", "raid", "version", "world_first"]
    jobs = {job for job in repository.job_names if not job.startswith("__")}
    assert jobs == {
        "activity_history_update",
        "analytics_clear_time_job",
        "analytics_daily_job",
        "analytics_rebuild_job",
        "analytics_relations_job",
        "rebuild_clickhouse_day",
        "reports_weekly_job",
        "archives_job",
        "cheat_norms_job",
        "cheat_recheck_job",
        "recheck_instance",
        "recheck_player",
        "recheck_raised",
        "cheats_levels_job",
        "cheats_learning_job",
        "cheats_review_job",
        "decide_review",
        "clear_flags",
        "clear_player",
        "fix_sherpa_clears",
        "prune_dagster_events",
        "prune_ledgers",
        "recompute_player_stats",
        "refresh_view",
        "revert_cheat_levels",
        "replay_dead_letters",
        "clans_job",
        "leaderboards_job",
        "players_upkeep_job",
        "reprocessing_job",
        "stale_players",
        "update_skull_hashes",
        *(f"leaderboards_{area}_job" for area in areas),
        "manifest_job",
        "manifest_lookups_job",
        "quality_job",
        "recovery_missed_job",
        "recovery_gaps_job",
        "process_single_pgcr",
        "fix_malformed_pgcrs",
        "flag_restricted_pgcrs",
    }
    assert {schedule.name for schedule in repository.schedule_defs} == {
        "activity_history_update_schedule",
        "analytics_daily_schedule",
        "analytics_relations_schedule",
        "reports_weekly_schedule",
        "cheat_norms_schedule",
        "cheats_levels_schedule",
        "cheats_learning_schedule",
        "cheats_review_schedule",
        "clans_schedule",
        "players_upkeep_schedule",
        "stale_players_schedule",
        *(f"leaderboards_{area}_schedule" for area in areas),
        "manifest_lookups_schedule",
        "prune_dagster_events_schedule",
        "prune_ledgers_schedule",
        "quality_schedule",
        "recovery_missed_schedule",
        "recovery_gaps_schedule",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        "archive_partitions_sensor",
        "contest_weekend_sensor",
        "failed_checks_sensor",
        "manifest_version_sensor",
        "queue_depths_sensor",
        "run_failure_sensor",
        "scores_automation_sensor",
        "stream_health_sensor",
        "definitions_changed_sensor",
        "stream_progress_sensor",
        "missed_backlog_sensor",
        "cheat_levels_sensor",
        "cheat_rules_sensor",
    }


@pytest.mark.parametrize("name", LEADERBOARDS)
def test_a_leaderboard_is_checked_pooled_and_hooked(name: str) -> None:
    """Each of these once failed silently: no check, two refreshes at once, a retried typo."""
    defs = build_defs()
    key = dg.AssetKey(["postgres", name])
    asset = defs.resolve_assets_def(key)
    node = defs.resolve_asset_graph().get(key)
    assert asset.op.pool == "postgres_refresh"
    assert stop_run_retries in asset.hook_defs
    blocking = [k for k in node.check_keys if defs.resolve_asset_graph().get(k).blocking]
    assert {check.asset_key for check in blocking} == {key}


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        ("wfr_score", {"world_first_contest_leaderboard", "player"}),
        ("individual_global_leaderboard", {"wfr_score", "sum_of_best", "player"}),
        ("clan_leaderboard", {"wfr_score", "clan_members", "player"}),
    ],
)
def test_a_score_is_there_before_it_is_ranked(name: str, parents: set[str]) -> None:
    """Otherwise the ranks are those of yesterday's scores, a day late for ever."""
    graph = build_defs().resolve_asset_graph()
    keys = graph.get(dg.AssetKey(["postgres", name])).parent_keys
    assert {key.path[-1] for key in keys} == parents
