"""The code location: the only place where Dagster objects are put together."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import analytics, archives, core, crawl, definitions, leaderboards, manifest
from raidhub_dagster.checks.archives import ARCHIVE_CHECKS
from raidhub_dagster.checks.derived_state import DERIVED_STATE_CHECKS
from raidhub_dagster.checks.leaderboards import LEADERBOARD_CHECKS
from raidhub_dagster.checks.manifest import MANIFEST_CHECKS
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.jobs.archives import ARCHIVE_JOBS
from raidhub_dagster.jobs.cheats import CHEAT_JOBS
from raidhub_dagster.jobs.derived_state import DERIVED_STATE_JOBS
from raidhub_dagster.jobs.leaderboards import LEADERBOARD_JOBS
from raidhub_dagster.jobs.manifest import MANIFEST_JOBS
from raidhub_dagster.jobs.queues import QUEUE_JOBS
from raidhub_dagster.jobs.upkeep import UPKEEP_JOBS
from raidhub_dagster.resources import (
    ArchiveResource,
    BrokerResource,
    BungieResource,
    ClickHouseResource,
    DiscordResource,
    PostgresResource,
)
from raidhub_dagster.schedules import LEADERBOARD_SCHEDULES, MANIFEST_SCHEDULES, UPKEEP_SCHEDULES
from sensors.archive_partitions import archive_partitions_sensor
from sensors.manifest_version import manifest_version_sensor
from sensors.stream_progress import stream_progress_sensor

ASSET_MODULES = [
    analytics,
    archives,
    core,
    crawl,
    definitions,
    leaderboards,
    manifest,
]
CHECKS = [
    *DERIVED_STATE_CHECKS,
    *LEADERBOARD_CHECKS,
    *MANIFEST_CHECKS,
    *ARCHIVE_CHECKS,
]
JOBS: list[Any] = [  # asset jobs and repairs: the class of the former is not exported
    *LEADERBOARD_JOBS,
    *MANIFEST_JOBS,
    *ARCHIVE_JOBS,
    *CHEAT_JOBS,
    *DERIVED_STATE_JOBS,
    *QUEUE_JOBS,
    *UPKEEP_JOBS,
]
SCHEDULES = [
    *LEADERBOARD_SCHEDULES,
    *MANIFEST_SCHEDULES,
    *UPKEEP_SCHEDULES,
]
SENSORS = [
    manifest_version_sensor,
    stream_progress_sensor,
    archive_partitions_sensor,
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
    loaded = dg.load_assets_from_modules(ASSET_MODULES, include_specs=True)
    hooked = [
        # On the assets, not the jobs: job hooks do not fire for runs that automation starts.
        asset.with_hooks({stop_run_retries}) if isinstance(asset, dg.AssetsDefinition) else asset
        for asset in loaded
    ]
    return dg.Definitions(
        assets=hooked,
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={**RESOURCES, **(resources or {})},
    )


defs = build_defs()
