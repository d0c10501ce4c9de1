"""The code location: the only place where Dagster objects are put together."""

from collections.abc import Mapping

import dagster as dg

from assets import analytics, core, crawl, definitions, leaderboards
from raidhub_dagster.checks.leaderboards import LEADERBOARD_CHECKS
from raidhub_dagster.failures import stop_run_retries
from raidhub_dagster.jobs.leaderboards import LEADERBOARD_JOBS
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.schedules import LEADERBOARD_SCHEDULES
from sensors.stream_progress import stream_progress_sensor


def build_defs(resources: Mapping[str, object] | None = None) -> dg.Definitions:
    """A fresh Definitions; `resources` replace the usual ones, by name."""
    loaded = dg.load_assets_from_modules(
        [analytics, core, crawl, definitions, leaderboards], include_specs=True
    )
    hooked = [
        # On the assets, not the jobs: job hooks do not fire for runs that automation starts.
        asset.with_hooks({stop_run_retries}) if isinstance(asset, dg.AssetsDefinition) else asset
        for asset in loaded
    ]
    return dg.Definitions(
        assets=hooked,
        asset_checks=LEADERBOARD_CHECKS,
        jobs=LEADERBOARD_JOBS,
        schedules=LEADERBOARD_SCHEDULES,
        sensors=[stream_progress_sensor],
        resources={
            "postgres": PostgresResource(),
            "clickhouse": ClickHouseResource(),
            **(resources or {}),
        },
    )


defs = build_defs()
