"""The levels in one run, from flags to the report, and the repair that takes levels back."""

import dagster as dg
from pydantic import Field

from assets.cheats import (
    blacklisted_instances,
    cheat_report,
    player_cheat_levels,
    player_flag_stats,
)
from assets.tables import RETRY
from raidhub_dagster.cheat_detection import clearing
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import (
    ALONE_TAG,
    RepairConfig,
    Report,
    read_time,
    repair_job,
    tell,
)
from raidhub_dagster.resources import PostgresResource

cheats_levels_job = dg.define_asset_job(
    "cheats_levels_job",
    description='Counts flags, raises cheat levels, blacklists raids, reports; "nemesis".',
    selection=dg.AssetSelection.assets(
        player_flag_stats, player_cheat_levels, blacklisted_instances, cheat_report
    ),
    tags={ALONE_TAG: "cheats_levels_job", "dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,  # one step follows the other
)


class RevertConfig(RepairConfig):
    changes: list[int] = Field(
        default=[],
        description="Ids of changes to take back (rows of streaming.cheat_level_change).",
    )
    run: str = Field(
        default="", description="Or: all changes that this run of the levels made (its run id)."
    )
    since: str = Field(
        default="",
        description="Or: all changes by the rules from this time on, ISO 8601, UTC without a zone.",
    )
    until: str = Field(default="", description="With or without `since`: those before this time.")
    lift_blacklists: bool = Field(
        default=True,
        description="Also lift what the cascade excluded because of these players alone, when "
        "they leave level 4.",
    )
    actor: str = Field(default="admin", description="Who decided it; kept with the change.")
    reason: str = Field(default="", description="Why; kept with the change.")


@dg.op(
    description="Takes recorded changes of cheat levels back, by id, by run or by time. The next "
    "run judges by the same flags again: clear wrong ones first.",
    retry_policy=RETRY,
)
def revert_cheat_levels(
    context: dg.OpExecutionContext, config: RevertConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("revert_cheat_levels") as connection:
        done = clearing.revert_changes(
            connection,
            changes=config.changes,
            run=config.run,
            since=read_time("since", config.since) if config.since else None,
            until=read_time("until", config.until) if config.until else None,
            lift_blacklists=config.lift_blacklists,
            actor=config.actor,
            reason=config.reason,
            dry_run=config.dry_run,
        )
    undone = [change for change in done if not change.problem]
    tell(
        context,
        Report(
            "Levels taken back",
            {
                "changes": len(done),
                "taken_back": len(undone),
                "players": len({change.membership_id for change in undone}),
                "blacklists_lifted": sum(c.rows.get("blacklists", 0) for c in undone),
            },
            {
                "Taken back": [
                    {
                        "change": change.change,
                        "player": change.membership_id,
                        "name": change.name,
                        "level_before": change.old_level,
                        "level": change.new_level,
                        "blacklists": change.rows.get("blacklists", 0),
                        "own_change": "" if config.dry_run else change.own_change or "",
                    }
                    for change in undone
                ],
                "Left alone": [
                    {
                        "change": change.change,
                        "player": change.membership_id,
                        "name": change.name,
                        "why": change.problem,
                    }
                    for change in done
                    if change.problem
                ],
            },
            is_preview=config.dry_run,
        ),
    )


CHEAT_LEVEL_JOBS = [cheats_levels_job, repair_job(revert_cheat_levels)]
