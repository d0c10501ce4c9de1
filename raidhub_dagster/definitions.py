"""The code location: the only place where Dagster objects are put together."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import (
    analytics,
    archives,
    cheat_checks,
    cheat_learning,
    cheats,
    clans,
    core,
    crawl,
    definitions,
    leaderboards,
    manifest,
    players,
    queues,
    recovery,
    reports,
)
from raidhub_dagster.checks.analytics import ANALYTICS_CHECKS
from raidhub_dagster.checks.archives import ARCHIVE_CHECKS
from raidhub_dagster.checks.cheat_checks import CHEAT_CHECK_CHECKS
from raidhub_dagster.checks.cheat_learning import CHEAT_LEARNING_CHECKS
from raidhub_dagster.checks.cheats import CHEAT_CHECKS
from raidhub_dagster.checks.clans import CLAN_CHECKS
from raidhub_dagster.checks.derived_state import DERIVED_STATE_CHECKS
from raidhub_dagster.checks.freshness import FRESHNESS_CHECKS
from raidhub_dagster.checks.leaderboards import LEADERBOARD_CHECKS
from raidhub_dagster.checks.manifest import MANIFEST_CHECKS
from raidhub_dagster.checks.players import PLAYER_CHECKS
from raidhub_dagster.checks.quality import QUALITY_CHECKS
from raidhub_dagster.checks.queues import QUEUE_CHECKS
from raidhub_dagster.checks.recovery import RECOVERY_CHECKS
from raidhub_dagster.descriptions import with_code_links, with_columns
from raidhub_dagster.execution import pods_or_processes
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.jobs.analytics import ANALYTICS_JOBS
from raidhub_dagster.jobs.archives import ARCHIVE_JOBS
from raidhub_dagster.jobs.cheat_learning import CHEAT_LEARNING_JOBS
from raidhub_dagster.jobs.cheat_levels import CHEAT_LEVEL_JOBS
from raidhub_dagster.jobs.cheats import CHEAT_JOBS
from raidhub_dagster.jobs.clans import CLAN_JOBS
from raidhub_dagster.jobs.derived_state import DERIVED_STATE_JOBS
from raidhub_dagster.jobs.leaderboards import LEADERBOARD_JOBS
from raidhub_dagster.jobs.manifest import MANIFEST_JOBS
from raidhub_dagster.jobs.players import PLAYER_JOBS
from raidhub_dagster.jobs.quality import QUALITY_JOBS
from raidhub_dagster.jobs.queues import QUEUE_JOBS
from raidhub_dagster.jobs.recovery import RECOVERY_JOBS
from raidhub_dagster.jobs.upkeep import UPKEEP_JOBS
from raidhub_dagster.resources import (
    ArchiveResource,
    BrokerResource,
    BungieResource,
    ClickHouseResource,
    DiscordResource,
    PostgresResource,
)
from raidhub_dagster.schedules import (
    ANALYTICS_SCHEDULES,
    CHEAT_CHECK_SCHEDULES,
    CHEAT_LEARNING_SCHEDULES,
    CHEAT_SCHEDULES,
    CLAN_SCHEDULES,
    LEADERBOARD_SCHEDULES,
    MANIFEST_SCHEDULES,
    PLAYER_SCHEDULES,
    QUALITY_SCHEDULES,
    RECOVERY_SCHEDULES,
    UPKEEP_SCHEDULES,
)
from raidhub_dagster.settings import Settings
from sensors.archive_partitions import archive_partitions_sensor
from sensors.automation import scores_automation_sensor
from sensors.cheat_levels import cheat_levels_sensor
from sensors.cheat_rules import cheat_rules_sensor
from sensors.contest_weekend import contest_weekend_sensor
from sensors.definitions_changed import definitions_changed_sensor
from sensors.manifest_version import manifest_version_sensor
from sensors.missed_backlog import missed_backlog_sensor
from sensors.queue_depths import queue_depths_sensor
from sensors.run_outcomes import failed_checks_sensor, run_failure_sensor
from sensors.stream_health import stream_health_sensor
from sensors.stream_progress import stream_progress_sensor

ASSET_MODULES = [
    analytics,
    archives,
    cheat_checks,
    cheats,
    cheat_learning,
    clans,
    core,
    crawl,
    definitions,
    leaderboards,
    queues,
    manifest,
    recovery,
    players,
    reports,
]
CHECKS = [
    *ANALYTICS_CHECKS,
    *CHEAT_CHECKS,
    *FRESHNESS_CHECKS,
    *CHEAT_LEARNING_CHECKS,
    *CLAN_CHECKS,
    *DERIVED_STATE_CHECKS,
    *LEADERBOARD_CHECKS,
    *QUALITY_CHECKS,
    *QUEUE_CHECKS,
    *MANIFEST_CHECKS,
    *PLAYER_CHECKS,
    *ARCHIVE_CHECKS,
    *RECOVERY_CHECKS,
    *CHEAT_CHECK_CHECKS,
]
JOBS: list[Any] = [  # asset jobs and repairs: the class of the former is not exported
    *ANALYTICS_JOBS,
    *CLAN_JOBS,
    *LEADERBOARD_JOBS,
    *QUALITY_JOBS,
    *MANIFEST_JOBS,
    *PLAYER_JOBS,
    *ARCHIVE_JOBS,
    *RECOVERY_JOBS,
    *CHEAT_JOBS,
    *CHEAT_LEVEL_JOBS,
    *CHEAT_LEARNING_JOBS,
    *DERIVED_STATE_JOBS,
    *QUEUE_JOBS,
    *UPKEEP_JOBS,
]
SCHEDULES = [
    *ANALYTICS_SCHEDULES,
    *CHEAT_CHECK_SCHEDULES,
    *CHEAT_SCHEDULES,
    *CHEAT_LEARNING_SCHEDULES,
    *CLAN_SCHEDULES,
    *LEADERBOARD_SCHEDULES,
    *MANIFEST_SCHEDULES,
    *QUALITY_SCHEDULES,
    *RECOVERY_SCHEDULES,
    *PLAYER_SCHEDULES,
    *UPKEEP_SCHEDULES,
]
SENSORS = [
    contest_weekend_sensor,
    failed_checks_sensor,
    manifest_version_sensor,
    queue_depths_sensor,
    run_failure_sensor,
    scores_automation_sensor,
    stream_health_sensor,
    definitions_changed_sensor,
    stream_progress_sensor,
    archive_partitions_sensor,
    missed_backlog_sensor,
    cheat_levels_sensor,
    cheat_rules_sensor,
]
RESOURCES = {
    "postgres": PostgresResource(),
    "clickhouse": ClickHouseResource(),
    "archives": ArchiveResource(),
    "bungie": BungieResource(),
    "broker": BrokerResource(),
    "discord": DiscordResource(),
}


def build_defs(resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """A fresh Definitions; `resources` replace the usual ones, by name."""
    settings = Settings.load()
    loaded = dg.load_assets_from_modules(ASSET_MODULES, include_specs=True)
    hooked = [
        # On the assets, not the jobs: job hooks do not fire for runs that automation starts.
        asset.with_hooks({stop_run_retries}) if isinstance(asset, dg.AssetsDefinition) else asset
        for asset in loaded
        if isinstance(asset, dg.AssetsDefinition | dg.AssetSpec)  # no other kind exists any more
    ]
    return dg.Definitions(
        assets=with_code_links(with_columns(hooked), settings),
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        executor=pods_or_processes,  # of runs that no job of ours defines
        resources={**RESOURCES, **(resources or {})},
    )


defs = build_defs()
