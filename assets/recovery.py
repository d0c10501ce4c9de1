"""What the crawl could not get: missed ids asked again, and ranges that were jumped over.

Dagster owns these two, hades of old. The tables behind them are the crawl's as well: atlas tries a
few due ids all the time, and a claim keeps either from what the other has. Rules:
docs/domain/crawl.md, "Recovery".
"""

import time
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from assets.crawl import CRAWL_BLOCK, MISSED_PGCR
from assets.tables import DAILY, OWNERS, RETRY
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.recovery.backlog import open_rows, recover_missed
from raidhub_dagster.recovery.gaps import refuse_too_long, sweep_gaps
from raidhub_dagster.recovery.outcomes import Tally
from raidhub_dagster.recovery.summary import facts, summary, told_ranges
from raidhub_dagster.recovery.visits import RETRIES, WORKERS, Manner, Visitors
from raidhub_dagster.resources import (
    BrokerResource,
    BungieResource,
    DiscordResource,
    PostgresResource,
)
from raidhub_dagster.storage.gaps import count_open

MISSED_PGCRS_KEY = dg.AssetKey(["postgres", "missed_pgcrs"])
PGCR_GAPS_KEY = dg.AssetKey(["postgres", "pgcr_gaps"])


class RecoveryConfig(dg.Config):
    workers: int = Field(default=WORKERS, description="Requests at the same time, 1 to 64.")
    retries: int = Field(default=RETRIES, description="Tries an id, 5 s apart, while it errs.")
    force: bool = Field(default=False, description="Also ids within 5000 of the newest stored one.")
    limit_s: float = Field(
        default=3000.0,
        description="Then the run ends in order and a later one goes on; below the 2 h after "
        "which a run is ended.",
    )

    def manner(self) -> Manner:
        """Raises PermanentError for what makes no sense."""
        return Manner(self.workers, self.retries)


class GapsConfig(RecoveryConfig):
    force: bool = Field(
        default=False,
        description="Also gaps longer than 200 000 ids, and those near the newest stored id.",
    )
    around_missed: bool = Field(
        default=True,
        description="Also the 1000 ids on both sides of each missed one, where neither a block "
        "nor a gap covers them.",
    )


@dg.asset(
    key=MISSED_PGCRS_KEY,
    group_name="recovery",
    kinds={"postgres"},
    owners=OWNERS,
    description="Missed ids whose time has come, asked for once more (hades). The ids are the rows "
    "of missed_pgcr, which the crawl writes; this is what recovery made of them: reports go to the "
    "store, ids that never were published end as missing. Rows are those still open.",
    deps=[MISSED_PGCR],
    metadata={"dagster/table_name": "streaming.missed_pgcr"},
    pool="bungie",
    retry_policy=RETRY,
)
def missed_pgcrs(
    context: dg.AssetExecutionContext,
    config: RecoveryConfig,
    postgres: PostgresResource,
    broker: BrokerResource,
    bungie: BungieResource,
    discord: DiscordResource,
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with (
        dagster_failures(),
        postgres.work("missed_pgcrs") as connection,
        broker.publisher() as publisher,
        Visitors.of(connection, bungie.client, config.manner()) as visitors,
        discord.alerts("hades") as alerts,
    ):
        done = recover_missed(
            connection,
            publisher,
            visitors,
            ceiling=postgres.open_settings().crawl_ceiling,
            force=config.force,
            limit_s=config.limit_s,
            tell=_teller(context, MISSED_PGCRS_KEY),
        )
        if message := summary("Missed Reports Recovered", done.tally, done.stopped):
            alerts.send(message)
        rows = open_rows(connection)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows,
            **_told(done.tally, done.stopped, started),
            "due_left": done.due_left,
        }
    )


@dg.asset(
    key=PGCR_GAPS_KEY,
    group_name="recovery",
    kinds={"postgres"},
    owners=OWNERS,
    description="Ranges that the crawl jumped over, and ids near missed ones that nobody asked "
    "for: sampled, swept where samples are there, done after a week. Rows are those still open.",
    deps=[CRAWL_BLOCK, missed_pgcrs],
    metadata={"dagster/table_name": "streaming.gap"},
    pool="bungie",
    retry_policy=RETRY,
    freshness_policy=DAILY,
)
def pgcr_gaps(
    context: dg.AssetExecutionContext,
    config: GapsConfig,
    postgres: PostgresResource,
    broker: BrokerResource,
    bungie: BungieResource,
    discord: DiscordResource,
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with (
        dagster_failures(),
        postgres.work("pgcr_gaps") as connection,
        broker.publisher() as publisher,
        Visitors.of(connection, bungie.client, config.manner()) as visitors,
        discord.alerts("hades") as alerts,
    ):
        swept = sweep_gaps(
            connection,
            publisher,
            visitors,
            ceiling=postgres.open_settings().crawl_ceiling,
            force=config.force,
            around_missed=config.around_missed,
            limit_s=config.limit_s,
            tell=_teller(context, PGCR_GAPS_KEY),
        )
        if message := summary("Gaps Swept", swept.tally, swept.stopped):
            alerts.send(message)
        refuse_too_long(swept)
        gaps, ids = count_open(connection)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": gaps,
            **_told(swept.tally, swept.stopped, started),
            "open_ids": ids,
            "sampled": swept.sampled,
            "rounds": swept.rounds,
            "gaps_done": swept.done,
            "ranges_around_missed": len(swept.around),
        }
    )


def _teller(context: dg.AssetExecutionContext, key: dg.AssetKey) -> Callable[[Tally], None]:
    """Progress, about once a minute: a line of the run's log and an observation of the asset."""

    def tell(tally: Tally) -> None:
        context.log.info(
            "%d ids so far, %d reports found",
            tally.processed,
            len(tally.found),
            extra={"action": "recovery_progress"},
        )
        context.log_event(dg.AssetObservation(key, metadata=facts(tally)))

    return tell


def _told(tally: Tally, stopped: str, started: float) -> dict[str, int | float | str]:
    return {
        **facts(tally),
        "ranges": told_ranges(tally.ids) or "none",
        "found_ids": ", ".join(map(str, tally.found[:5])) or "none",
        "ended_early": stopped or "no",
        "seconds": round(time.monotonic() - started, 3),
    }
