"""What is done in ClickHouse together: ranges of days, marked days, relations, weekly reports."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from assets.analytics import (
    DIRTY_DAYS,
    POOL,
    TIMEOUT_S,
    clear_time_by_day,
    clickhouse_instance,
    lines_of,
    player_population_by_hour,
    player_relation_weights_bidirectional,
    weapon_meta_by_hour,
)
from assets.reports import weapon_meta_trend, weekly_raid_report
from assets.tables import RETRY
from raidhub_dagster.execution import WAITING_RUN, pods_or_in_process
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.storage.clickhouse_rebuild import (
    parse_days,
    preview,
    rebuild_days,
    rebuild_relations,
)


def _steps(name: str) -> dict[str, Any]:
    return {
        "tags": {"dagster/max_runtime": "7200", ALONE_TAG: name, **WAITING_RUN},
        "executor_def": pods_or_in_process,
    }


analytics_rebuild_job = dg.define_asset_job(
    "analytics_rebuild_job",
    description="Rebuilds days of ClickHouse's runs, population and weapons; clear times have game "
    "days and a job of their own.",
    selection=dg.AssetSelection.assets(
        clickhouse_instance, player_population_by_hour, weapon_meta_by_hour
    ),
    **_steps("analytics_rebuild_job"),
)
analytics_clear_time_job = dg.define_asset_job(
    "analytics_clear_time_job",
    description="Rebuilds game days of the clear times.",
    selection=dg.AssetSelection.assets(clear_time_by_day),
    **_steps("analytics_clear_time_job"),
)
analytics_daily_job = dg.define_asset_job(
    "analytics_daily_job",
    description="Rebuilds the marked days, then compares both stores.",
    selection=dg.AssetSelection.assets(DIRTY_DAYS),
    **_steps("analytics_daily_job"),
)
analytics_relations_job = dg.define_asset_job(
    "analytics_relations_job",
    description="Rebuilds who plays with whom.",
    selection=dg.AssetSelection.assets(player_relation_weights_bidirectional),
    **_steps("analytics_relations_job"),
)
reports_weekly_job = dg.define_asset_job(
    "reports_weekly_job",
    description="The raid report and the weapon trend of game weeks.",
    selection=dg.AssetSelection.assets(weekly_raid_report, weapon_meta_trend),
    **_steps("reports_weekly_job"),
)


class RebuildDaysConfig(RepairConfig):
    days: list[str] = Field(
        description="Days in UTC, each `2026-01-31` or a range `2026-01-01..2026-01-31`.",
    )
    relations: bool = Field(
        default=False,
        description="Rebuild all relations of players as well; they have no day, and it takes "
        "minutes.",
    )


@dg.op(
    pool=POOL,
    retry_policy=RETRY,
    description="Makes days of ClickHouse what PostgreSQL holds: the runs, and the aggregates of "
    "all days that they touch. The preview tells which runs differ.",
)
def rebuild_clickhouse_day(
    context: dg.OpExecutionContext,
    config: RebuildDaysConfig,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> None:
    now = datetime.now(UTC)
    with (
        dagster_failures(),
        postgres.work("rebuild_clickhouse_day") as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        days = parse_days(config.days)
        if config.dry_run:
            done = list(preview(connection, client, days, now=now))
        else:
            done = list(rebuild_days(connection, client, days, now=now))
            if config.relations:
                done.append(rebuild_relations(connection, client, now=now))
    tell(
        context,
        Report(
            "Rebuilt ClickHouse",
            {
                "days": len(days),
                "runs_added": sum(d.added for d in done),
                "runs_removed": sum(d.removed for d in done),
                "runs_changed": sum(d.changed for d in done),
                "differing_measures": sum(len(d.differences) for d in done),
                "seconds": round(sum(d.seconds for d in done), 2),
            },
            {"Tables and days": lines_of(done)},
            is_preview=config.dry_run,
        ),
    )


ANALYTICS_JOBS = [
    analytics_rebuild_job,
    analytics_clear_time_job,
    analytics_daily_job,
    analytics_relations_job,
    reports_weekly_job,
    repair_job(rebuild_clickhouse_day),
]
