"""Jobs that delete what nobody needs any more: Dagster's own history, and ledgers of the stream."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.tables import RETRY
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.instance import connected_to_history
from raidhub_dagster.jobs.repair import RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage import dagster_events, retention
from raidhub_dagster.storage.dagster_events import Pruned, Retention

_TOLD_EVERY = 200  # batches


class PruneDagsterEventsConfig(RepairConfig):
    details_days: int = Field(
        default=Retention.details_days,
        description="Days that log lines, markers of processes and observations stay; at least 2.",
    )
    steps_days: int = Field(
        default=Retention.steps_days,
        description="Days that events of steps stay, with the reports of repairs. Events of runs "
        "themselves, materializations and checks stay for ever.",
    )
    kept_observations: int = Field(
        default=Retention.kept_observations,
        description="So many observations of each asset stay, however old they are.",
    )


@dg.op(
    description="Deletes old log lines, markers, events of steps and observations from Dagster's "
    "own event log. Pages of assets, partitions, checks and runs keep what they show.",
    retry_policy=RETRY,
)
def prune_dagster_events(
    context: dg.OpExecutionContext, config: PruneDagsterEventsConfig, postgres: PostgresResource
) -> None:
    batches = 0

    def progress(done: Pruned) -> None:
        nonlocal batches
        batches += 1
        if batches % _TOLD_EVERY == 0:
            context.log.info(
                "%d rows so far, up to event %d",
                done.rows.total(),
                done.looked_at,
                extra={"action": "dagster_events_pruned"},
            )

    kept = Retention(config.details_days, config.steps_days, config.kept_observations)
    with (
        dagster_failures(),
        postgres.alone("prune_dagster_events"),
        connected_to_history(context.instance) as history,
    ):
        done = dagster_events.prune(
            history, kept, now=datetime.now(UTC), dry_run=config.dry_run, tell=progress
        )
    tell(
        context,
        Report(
            "Dagster's event log",
            {"rows": done.rows.total(), "megabytes": round(done.size_bytes / 1e6, 1)},
            {
                "By type of event": [
                    {"type": kind, "rows": rows} for kind, rows in done.rows.most_common()
                ]
            },
            is_preview=config.dry_run,
        ),
    )


@dg.op(
    description="Deletes rows of the stream's ledgers past their retention that the stream does "
    "not delete itself, and names tables whose own chore stands still.",
    retry_policy=RETRY,
)
def prune_ledgers(
    context: dg.OpExecutionContext, config: RepairConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("prune_ledgers") as connection:
        done = retention.prune_ledgers(connection, dry_run=config.dry_run)
    tell(
        context,
        Report(
            "Ledgers",
            {
                "rows": sum(done.rows.values()),
                "kept_versions": ", ".join(done.kept_versions) or "none",
                "tables_overdue": len(done.overdue),
            },
            {
                "Deleted": [{"table": table, "rows": rows} for table, rows in done.rows.items()],
                "Past the retention, left to the stream": done.overdue,
            },
            is_preview=config.dry_run,
        ),
    )


UPKEEP_JOBS = [repair_job(prune_dagster_events), repair_job(prune_ledgers)]
