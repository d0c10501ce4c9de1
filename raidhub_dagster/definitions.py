"""The code location: the only place where Dagster objects are put together."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import analytics, core, crawl, definitions, leaderboards, reports
from raidhub_dagster.checks.analytics import ANALYTICS_CHECKS
from raidhub_dagster.checks.leaderboards import LEADERBOARD_CHECKS
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.jobs.analytics import ANALYTICS_JOBS
from raidhub_dagster.jobs.leaderboards import LEADERBOARD_JOBS
from raidhub_dagster.resources import (
    BrokerResource,
    BungieResource,
    ClickHouseResource,
    DiscordResource,
    PostgresResource,
)
from raidhub_dagster.schedules import ANALYTICS_SCHEDULES, LEADERBOARD_SCHEDULES
from sensors.stream_progress import stream_progress_sensor

ASSET_MODULES = [
    analytics,
    core,
    crawl,
    definitions,
    leaderboards,
    reports,
]
CHECKS = [
    *ANALYTICS_CHECKS,
    *LEADERBOARD_CHECKS,
]
JOBS: list[Any] = [  # asset jobs and repairs: the class of the former is not exported
    *ANALYTICS_JOBS,
    *LEADERBOARD_JOBS,
]
SCHEDULES = [
    *ANALYTICS_SCHEDULES,
    *LEADERBOARD_SCHEDULES,
]
SENSORS = [
    stream_progress_sensor,
]
RESOURCES = {
    "postgres": PostgresResource(),
    "clickhouse": ClickHouseResource(),
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
