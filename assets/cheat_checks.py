"""Cheat checks as far as they are batch work: what is usual, and checks of whole days again.

Hermes checks each raid once (topic instance_cheat_check); docs/domain/queues.md, "Cheat checks".
"""

from datetime import date, timedelta

import dagster as dg
from pydantic import Field

from assets.analytics import DAYS
from assets.core import INSTANCE, INSTANCE_CHARACTER, INSTANCE_CHARACTER_WEAPON, INSTANCE_PLAYER
from assets.definitions import ACTIVITY_VERSION
from assets.manifest import weapon_definitions
from assets.tables import DAILY, OWNERS, RETRY, shown
from raidhub_dagster.cheat_detection.norms import refresh_norms
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_detection.recheck import Difference, instances_of_day, recheck
from raidhub_dagster.execution import HEAVY_STEP
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.monitoring.markdown import Report
from raidhub_dagster.resources import PostgresResource

ACTIVITY_NORM_KEY = dg.AssetKey(["postgres", "activity_norm"])
CHEAT_RECHECK_KEY = dg.AssetKey(["postgres", "cheat_recheck"])


@dg.asset(
    key=ACTIVITY_NORM_KEY,
    group_name="cheat_checks",
    kinds={"postgres"},
    owners=OWNERS,
    description="Kills that nearly every clear reaches and times that hardly any undercuts, of "
    "activities that the cheat rules have no numbers for.",
    deps=[INSTANCE, INSTANCE_CHARACTER, ACTIVITY_VERSION],
    metadata={"dagster/table_name": "streaming.activity_norm"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=DAILY,
)
def activity_norm(postgres: PostgresResource) -> dg.MaterializeResult[None]:
    with dagster_failures(), postgres.connection() as connection:
        done = refresh_norms(connection, current_parameters(postgres.open_settings()))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(done.rows),
            "activities": done.activities,
            "norms": shown(done.rows),
        }
    )


class CheatRecheckConfig(dg.Config):
    dry_run: bool = Field(
        default=True,
        description="True: only report which flags would come or go. False: set and delete them.",
    )


@dg.asset(
    key=CHEAT_RECHECK_KEY,
    group_name="cheat_checks",
    kinds={"postgres"},
    owners=OWNERS,
    description="Raids that ended on the days of the partition, checked again by the rules in use: "
    "which flags come, which go, by raid and reason. With dry_run false they are written.",
    deps=[
        INSTANCE_PLAYER,
        INSTANCE_CHARACTER_WEAPON,
        weapon_definitions,
        ACTIVITY_VERSION,
        activity_norm,
    ],
    metadata={"dagster/table_name": "streaming.cheat_check"},
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    pool="archives",
    op_tags=HEAVY_STEP,
    retry_policy=RETRY,
)
def cheat_recheck(
    context: dg.AssetExecutionContext, config: CheatRecheckConfig, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    window = context.partition_time_window
    first: date = window.start.date()
    days = [first + timedelta(days=n) for n in range((window.end - window.start).days)]
    by_day: list[dict[str, object]] = []
    with dagster_failures(), postgres.work("cheat_recheck") as connection:
        parameters = current_parameters(postgres.open_settings())
        done = Difference(parameters.version)
        for day in days:
            before = (done.checked, done.new_flags, done.gone_flags)
            ids = instances_of_day(connection, day)
            recheck(connection, parameters, ids, dry_run=config.dry_run, into=done)
            told = zip(
                ("checked", "newly_flagged", "no_longer_flagged"),
                (done.checked, done.new_flags, done.gone_flags),
                before,
                strict=True,
            )
            by_day.append({"day": day, **{name: now - then for name, now, then in told}})
            context.log.info("%s", by_day[-1], extra={"action": "cheat_day_rechecked"})
        report = Report(
            f"Raids of {days[0]} to {days[-1]}, checked again",
            done.facts(),
            {
                "By raid and reason": done.by_raid_and_reason(),
                "Flags that come or go, the heaviest": done.examples(),
            },
            is_preview=config.dry_run,
        )
        context.log.info("%s", report.markdown(), extra={"action": "cheat_recheck_reported"})
        done.refuse_failures()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.checked,
            **done.facts(),
            "dry_run": config.dry_run,
            "report": dg.MetadataValue.md(report.markdown()),
            "changes_by_raid_and_reason": shown(done.by_raid_and_reason()),
            "days": shown(by_day[-100:]),
        }
    )
