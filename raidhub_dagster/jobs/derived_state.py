"""Repairs of what is derived from runs: first clears, sherpas, counters."""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from assets.tables import RETRY
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage import recount
from raidhub_dagster.storage.recount import Recount
from raidhub_dagster.storage.reprocess import check_order

_TOLD_EVERY = 100  # batches


class RecountConfig(RepairConfig):
    """Of both recounts."""

    batch_players: int = Field(
        default=500,
        description="Players compared by one statement and, where they differ, corrected in one "
        "transaction, which the store waits for.",
    )
    after_player: int = Field(
        default=0,
        description="Begin behind this membership id: where a stopped run says that it was.",
    )


class FixSherpaClearsConfig(RecountConfig):
    first_instance_id: int | None = Field(
        default=None,
        description="Only players who took part in an instance from this id on; all their runs "
        "are recounted.",
    )
    last_instance_id: int | None = Field(
        default=None, description="The end of that range, included; none: no end."
    )


class RecomputePlayerStatsConfig(RecountConfig):
    players: list[int] = Field(
        default=[], description="Membership ids; an empty list means every player."
    )


@dg.op(
    description="Recounts first clears, sherpas, counters and fastest runs of players from their "
    "runs, as `raidhub verify` does, and corrects what differs.",
    pool="postgres_refresh",
    retry_policy=RETRY,
)
def fix_sherpa_clears(
    context: dg.OpExecutionContext, config: FixSherpaClearsConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("fix_sherpa_clears") as connection:
        size, after = config.batch_players, config.after_player
        if config.first_instance_id is None and config.last_instance_id is None:
            batches = recount.everybody(connection, size=size, after=after)
        else:
            first, last = config.first_instance_id or 0, config.last_instance_id
            if last is not None:
                check_order(first, last, "first_instance_id", "last_instance_id")
            batches = recount.players_of_range(
                connection,
                first,
                last,
                size=size,
                after=after,
            )
        done = recount.recount(
            connection,
            batches,
            standings=True,
            dry_run=config.dry_run,
            tell=_progress(context),
        )
        _tell(context, "First clears, sherpas and counters", done, config)


@dg.op(
    description="Recounts counters, fastest runs and sums of best of players from their runs; "
    "first clears and sherpas are taken as they are.",
    pool="postgres_refresh",
    retry_policy=RETRY,
)
def recompute_player_stats(
    context: dg.OpExecutionContext, config: RecomputePlayerStatsConfig, postgres: PostgresResource
) -> None:
    # one lock: both write the same rows
    with dagster_failures(), postgres.work("fix_sherpa_clears") as connection:
        size, after = config.batch_players, config.after_player
        batches = (
            recount.listed(connection, config.players, size=size)
            if config.players
            else recount.everybody(connection, size=size, after=after)
        )
        done = recount.recount(
            connection,
            batches,
            standings=False,
            dry_run=config.dry_run,
            tell=_progress(context),
        )
        _tell(context, "Counters of players", done, config)


def _progress(context: dg.OpExecutionContext) -> Callable[[Recount], None]:
    batches = 0

    def told(done: Recount) -> None:
        nonlocal batches
        batches += 1
        if batches % _TOLD_EVERY == 0:
            context.log.info(
                "%d players recounted, up to %d; %d rows differed",
                done.players,
                done.last_player,
                done.differing,
                extra={"action": "players_recounted"},
            )

    return told


def _tell(context: dg.OpExecutionContext, title: str, done: Recount, config: RecountConfig) -> None:
    tell(
        context,
        Report(
            title,
            {
                "players": done.players,
                "runs_differing": done.standings,
                "player_stats_differing": done.player_stats,
                "totals_differing": done.totals,
                "instances_changed": len(done.instances),
                "last_player": done.last_player,
            },
            {"Differences (the first 20)": done.examples},
            is_preview=config.dry_run,
        ),
    )


DERIVED_STATE_JOBS = [
    repair_job(fix_sherpa_clears),
    repair_job(recompute_player_stats),
]
