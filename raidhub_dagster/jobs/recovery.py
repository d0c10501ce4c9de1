"""Recovery of what the crawl missed, and the repairs that ask the API for reports again.

The work is raidhub_dagster/recovery's. Example configurations of the repairs: docs/repairs/.
"""

import random
from typing import Any

import dagster as dg
from pydantic import Field

from assets.recovery import missed_pgcrs, pgcr_gaps
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, RepairConfig, Report, repair_job, tell
from raidhub_dagster.recovery import malformed, restricted, single
from raidhub_dagster.recovery.visits import WORKERS, Manner, Visitors
from raidhub_dagster.resources import BungieResource, PostgresResource
from raidhub_dagster.storage.young import Rechecks

_MOST_ROWS = 200  # of a table in a report: a longer one nobody reads


def _recovery(name: str, description: str, asset: dg.AssetsDefinition) -> Any:
    return dg.define_asset_job(
        name,
        description=description,
        selection=dg.AssetSelection.assets(asset),
        tags={"dagster/max_runtime": "7200", ALONE_TAG: name},
        executor_def=dg.in_process_executor,  # one step: a process for it would add 2.6 s
    )


recovery_missed_job = _recovery(
    "recovery_missed_job", "Asks for missed ids whose time has come.", missed_pgcrs
)
recovery_gaps_job = _recovery(
    "recovery_gaps_job", "Sweeps gaps, and the neighbours of missed ids.", pgcr_gaps
)


class SinglePgcrConfig(RepairConfig):
    id: int = Field(description="The report's instance id.")
    force: bool = Field(
        default=False,
        description="Read it as a report that never grows any more, so that some defects are "
        "accepted before it is 48 h old.",
    )


@dg.op(
    pool="bungie",
    description="Fetches one report and explains it: what the parser derives and what storing it "
    "would change. With dry_run: false it stores it.",
)
def process_single_pgcr(
    context: dg.OpExecutionContext,
    config: SinglePgcrConfig,
    postgres: PostgresResource,
    bungie: BungieResource,
) -> None:
    with (
        dagster_failures(),
        postgres.work("process_single_pgcr") as connection,
        bungie.client() as client,
    ):
        explained = single.explain(connection, client, config.id, force=config.force)
        outcome = explained.outcome
        if not config.dry_run:
            outcome = single.store_explained(
                connection,
                explained,
                source="process_single_pgcr",
                rechecks=Rechecks.of(postgres.open_settings()),
            )
    fetched = explained.fetched
    facts = {
        "id": config.id,
        "answer": fetched.said,
        "kind": fetched.kind.name.lower(),
        "means": single.MEANING[fetched.kind],
        "outcome": str(outcome) if outcome else "nothing to store",
        "differences": len(explained.changes),
    }
    tables = {
        "Derived by the parser": explained.derived,
        "Players": explained.players[:_MOST_ROWS],
        "Differences to the kept report": explained.changes,
    }
    tell(context, Report(f"Report {config.id}", facts, tables, is_preview=config.dry_run))


class MalformedConfig(RepairConfig):
    ids: list[int] = Field(
        default=[], description="These ids, stored ones included; empty: all malformed rows."
    )
    most: int = Field(default=malformed.MOST, description="At most so many malformed rows.")


@dg.op(
    pool="bungie",
    description="Fetches malformed reports again past all caches and stores those that are whole "
    "by now; a stored one is replaced where the new one says more.",
)
def fix_malformed_pgcrs(
    context: dg.OpExecutionContext,
    config: MalformedConfig,
    postgres: PostgresResource,
    bungie: BungieResource,
) -> None:
    def progress(done: int) -> None:
        context.log.info("%d reports so far", done, extra={"action": "malformed_progress"})

    with (
        dagster_failures(),
        postgres.work("fix_malformed_pgcrs") as connection,
        bungie.client() as client,
    ):
        mended = malformed.mend(
            connection,
            client,
            config.ids,
            rechecks=Rechecks.of(postgres.open_settings()),
            most=config.most,
            dry_run=config.dry_run,
            tell=progress,
        )
    facts = {
        "reports": len(mended.rows),
        **dict(sorted(mended.outcomes.items())),
        "ended_early": mended.stopped or "no",
    }
    tables = {"Reports": mended.rows[:_MOST_ROWS]}
    tell(context, Report("Malformed reports", facts, tables, is_preview=config.dry_run))


class RestrictedConfig(RepairConfig):
    hash: int = Field(
        default=restricted.HASH,
        description="Activity hash whose clears are asked for; The Desert Perpetual, contest.",
    )
    workers: int = Field(default=WORKERS, description="Requests at the same time, 1 to 64.")


@dg.op(
    pool="bungie",
    description="Flags and blacklists completed instances of a hash whose report Bungie withholds "
    "by now (code 12): bits 46 and the activity's, probability 1, version manual.",
)
def flag_restricted_pgcrs(
    context: dg.OpExecutionContext,
    config: RestrictedConfig,
    postgres: PostgresResource,
    bungie: BungieResource,
) -> None:
    def progress(asked: int) -> None:
        context.log.info("%d instances so far", asked, extra={"action": "restricted_progress"})

    with (
        dagster_failures(),
        postgres.work("flag_restricted_pgcrs") as connection,
        Visitors.of(connection, bungie.client, Manner(config.workers)) as visitors,
    ):
        done = restricted.flag_restricted(
            connection,
            visitors,
            config.hash,
            dry_run=config.dry_run,
            tell=progress,
            rng=random,
        )
    facts = {
        "hash": config.hash,
        "bitmask": done.bitmask,
        "completed": done.candidates,
        "flagged_before": done.already,
        "whitelisted": done.whitelisted,
        "asked": done.asked,
        "flagged": len(done.flagged),
        "failed": len(done.failed),
        "ended_early": done.stopped or "no",
    }
    tables = {
        "Flagged": [{"id": i} for i in done.flagged[:_MOST_ROWS]],
        "Gave nothing but errors": [{"id": i} for i in done.failed[:_MOST_ROWS]],
    }
    tell(context, Report("Restricted reports", facts, tables, is_preview=config.dry_run))


RECOVERY_JOBS = [
    recovery_missed_job,
    recovery_gaps_job,
    repair_job(process_single_pgcr),
    repair_job(fix_malformed_pgcrs),
    repair_job(flag_restricted_pgcrs),
]
