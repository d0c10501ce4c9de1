"""The daily comparison of both stores; what a rebuild checks of its own days stands with it."""

from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from assets.analytics import DIRTY_DAYS, TIMEOUT_S
from assets.tables import shown
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.storage.clickhouse_parity import compare_sent


class ParityConfig(dg.Config):
    days: int = Field(
        default=35,
        gt=0,
        description="How many days back to compare; 35 cover all that the hourly tables keep.",
    )


# On the marked days, not on `instance`: there it would run beside the rebuild of any single day.
@dg.asset_check(
    asset=DIRTY_DAYS,
    name="clickhouse_dirty_day_leaves_stores_equal",
    description="Each day has the same runs, players, kills and time in both stores, and each "
    "aggregate is what the runs add up to. Days that await a correction or a rebuild pass.",
)
def clickhouse_dirty_day_leaves_stores_equal(
    config: ParityConfig, postgres: PostgresResource, clickhouse: ClickHouseResource
) -> dg.AssetCheckResult:
    now = datetime.now(UTC)
    until = now.date() + timedelta(days=1)
    with (
        dagster_failures(),
        postgres.connection() as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        days, differences = compare_sent(
            connection, client, until - timedelta(days=config.days), until, now=now
        )
    wrong = [d for d in differences if not d.awaits_rebuild]
    return dg.AssetCheckResult(
        passed=not wrong,
        metadata={
            "compared_days": len(days),
            "differing": len(wrong),
            "at_most": 0,
            "awaiting": len(differences) - len(wrong),
            "days": shown(days),
            "differences": shown([d._asdict() for d in (wrong or differences)[:20]]),
        },
    )


ANALYTICS_CHECKS = [clickhouse_dirty_day_leaves_stores_equal]
