"""Batches of players for the queues, and the upkeep of columns that follow from others."""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from assets.leaderboards import sum_of_best
from assets.players import search_score
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, RepairConfig, Report, repair_job, tell
from raidhub_dagster.players.requests import Batch, request_histories, request_stale
from raidhub_dagster.resources import PostgresResource


class HistoriesConfig(RepairConfig):
    count: int = Field(default=2500, description="Players to ask for, drawn at random.")
    range: int = Field(
        default=200_000, description="Only among so many players with the most clears."
    )
    weeks: float = Field(
        default=25, description="Only histories that were never walked, or not for so many weeks."
    )


class StaleConfig(RepairConfig):
    count: int = Field(default=5000, description="Players to ask for, the oldest crawls first.")
    range: int = Field(
        default=200_000,
        description="Among so many players with the most clears, and those without name or "
        "platform.",
    )
    days: float = Field(default=30, description="Only those not crawled for so many days.")


@dg.op(
    description="Queues players whose history was not walked for long (activity_history_crawl), "
    "to find raids that the crawl missed. Whom a batch asked for within 7 days is left out."
)
def activity_history_update(
    context: dg.OpExecutionContext, config: HistoriesConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("activity_history_update") as connection:
        batch = request_histories(
            connection,
            count=config.count,
            range_=config.range,
            older_than=timedelta(weeks=config.weeks),
            dry_run=config.dry_run,
        )
    tell(context, _report("Histories to walk", batch, is_preview=config.dry_run))


@dg.op(
    description="Queues players who matter and were not crawled for long (player_crawl): names, "
    "platforms and privacy change without a raid. Whom a batch asked for within 7 days is left out."
)
def stale_players(
    context: dg.OpExecutionContext, config: StaleConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("stale_players") as connection:
        batch = request_stale(
            connection,
            count=config.count,
            range_=config.range,
            older_than=timedelta(days=config.days),
            dry_run=config.dry_run,
        )
    tell(context, _report("Players to look at again", batch, is_preview=config.dry_run))


def _report(title: str, batch: Batch, *, is_preview: bool) -> Report:
    return Report(
        title,
        {"due": batch.due, "asked for": batch.picked},
        {"Some of them": batch.shown},
        is_preview=is_preview,
    )


players_upkeep_job = dg.define_asset_job(
    "players_upkeep_job",
    description="Corrects sums of best times and search scores that differ from what they follow.",
    selection=dg.AssetSelection.assets(sum_of_best, search_score),
    tags={ALONE_TAG: "players_upkeep_job", "dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,
)

PLAYER_JOBS = [
    repair_job(activity_history_update),
    repair_job(stale_players),
    players_upkeep_job,
]
