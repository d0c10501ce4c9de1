"""What a game week was like: raids played, and weapons used.

Weeks begin on Tuesday at 17:00 UTC, when the game resets; each is computed from `instance` anew
and takes its place at once. The tables are ClickHouse's and nobody but these assets writes them.
"""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import dagster as dg
from pydantic import Field

from assets.analytics import (
    INSTANCE_BY_TIME,
    POOL,
    TIMEOUT_S,
    check_of,
    key_of,
    result_of,
    told,
)
from assets.charts import Bar, bar_chart
from assets.definitions import ACTIVITY_DEFINITION, ACTIVITY_VERSION, VERSION_DEFINITION
from assets.tables import OWNERS, RETRY, WEEKLY, Checked, shown
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.storage.clickhouse_reports import (
    WEAPON_META_TREND,
    WEEKLY_RAID_REPORT,
    read_weapon_meta_trend,
    read_weekly_raid_report,
    rebuild_weeks,
)

# A Tuesday; the last partition is the week that goes on.
WEEKS = dg.WeeklyPartitionsDefinition(
    start_date="2017-09-12", day_offset=2, hour_offset=17, end_offset=1
)

_CHARTED = 12


class WeeklyRaidReportConfig(dg.Config):
    bars: int = Field(default=_CHARTED, description="Raids and versions in the picture.")


class WeaponTrendConfig(dg.Config):
    weapons: int = Field(default=25, description="How many of the most used weapons to show.")


def _weeks(context: dg.AssetExecutionContext) -> list[date]:
    window = context.partition_time_window
    days = range(0, (window.end - window.start).days, 7)
    return [window.start.date() + timedelta(days=n) for n in days]


Body = Callable[..., dg.MaterializeResult[None]]


def _by_week(
    name: str, *, description: str, deps: Sequence[dg.AssetSpec | dg.AssetDep]
) -> Callable[[Body], dg.AssetsDefinition]:
    """Makes a body the asset of report `name`, of which a run computes a range of weeks."""
    return dg.asset(
        key=key_of(name),
        group_name="reports",
        kinds={"clickhouse"},
        owners=OWNERS,
        description=description,
        deps=deps,
        metadata={"dagster/table_name": name},
        partitions_def=WEEKS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[check_of(name)],
        pool=POOL,
        retry_policy=RETRY,
        freshness_policy=WEEKLY,
    )


@_by_week(
    WEEKLY_RAID_REPORT,
    description="Runs, clears, completion rate and median times of each raid and version in a game "
    "week.",
    deps=[INSTANCE_BY_TIME, ACTIVITY_VERSION, ACTIVITY_DEFINITION, VERSION_DEFINITION],
)
def weekly_raid_report(
    context: dg.AssetExecutionContext,
    config: WeeklyRaidReportConfig,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> Checked:  # type: ignore[type-arg]
    weeks = _weeks(context)
    with (
        dagster_failures(),
        postgres.alone(WEEKLY_RAID_REPORT),
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        done = told(context, rebuild_weeks(client, WEEKLY_RAID_REPORT, weeks))
        lines = read_weekly_raid_report(client, weeks[-1], weeks[-1] + timedelta(days=7))
    bars = [
        Bar(
            f"{line['raid']}, {line['version']}",
            line["runs"],
            f"{line['runs']}, {line['completion_rate']:.0%} cleared",
        )
        for line in lines[: config.bars]
    ]
    return result_of(
        WEEKLY_RAID_REPORT,
        done,
        report=shown(lines),
        runs_by_raid=bar_chart(f"Runs in the week of {weeks[-1]}", bars),
    )


@_by_week(
    WEAPON_META_TREND,
    description="Use of each weapon in a game week beside the week before. Shares are of all uses.",
    deps=[INSTANCE_BY_TIME, ACTIVITY_VERSION],
)
def weapon_meta_trend(
    context: dg.AssetExecutionContext,
    config: WeaponTrendConfig,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> Checked:  # type: ignore[type-arg]
    weeks = _weeks(context)
    with (
        dagster_failures(),
        postgres.alone(WEAPON_META_TREND),
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        done = told(context, rebuild_weeks(client, WEAPON_META_TREND, weeks))
        lines = read_weapon_meta_trend(client, weeks[-1], limit=config.weapons)
    bars = [
        Bar(line["weapon"], line["usage_count"], f"{line['percent_points']:+.2f} points")
        for line in lines[:_CHARTED]
    ]
    return result_of(
        WEAPON_META_TREND,
        done,
        trend=shown(lines),
        uses_by_weapon=bar_chart(f"Most used weapons in the week of {weeks[-1]}", bars),
    )
