"""Work on cheat verdicts: checks again, and repairs of what a rule or a person got wrong."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from assets.cheat_checks import activity_norm, cheat_recheck
from assets.tables import RETRY
from raidhub_dagster.cheat_detection import clearing, recheck
from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.execution import WAITING_RUN, pods_or_in_process
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

cheat_norms_job = dg.define_asset_job(
    "cheat_norms_job",
    description="What clears of activities without numbers of their own usually look like.",
    selection=dg.AssetSelection.assets(activity_norm),
    tags={ALONE_TAG: "cheat_norms_job", "dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,
)
cheat_recheck_job = dg.define_asset_job(
    "cheat_recheck_job",
    description="Checks days of stored raids again and tells what that changes; writes only with "
    "dry_run false.",
    selection=dg.AssetSelection.assets(cheat_recheck),
    tags={ALONE_TAG: "cheat_recheck_job", "dagster/max_runtime": "43200", **WAITING_RUN},
    executor_def=pods_or_in_process,
)


class RecheckPlayerConfig(RepairConfig):
    players: list[int] = Field(description="Membership ids whose raids are checked again.")
    days: int = Field(
        default=60, ge=0, description="Only raids of the last so many days; 0: all of them."
    )


class RecheckInstanceConfig(RepairConfig):
    instances: list[int] = Field(description="Ids of the raids that are checked again.")


class RecheckRaisedConfig(RepairConfig):
    players: list[int] = Field(
        description="Membership ids whose level rose; those below the level that asks for it, "
        "whitelisted or long unseen are left out."
    )


@dg.op(
    description="Checks the raids of players again, and tells which flags that sets or takes away.",
    retry_policy=RETRY,
)
def recheck_player(
    context: dg.OpExecutionContext, config: RecheckPlayerConfig, postgres: PostgresResource
) -> None:
    since = datetime.now(UTC) - timedelta(days=config.days) if config.days else None
    with dagster_failures(), postgres.work("recheck_player") as connection:
        parameters = current_parameters(postgres.open_settings())
        ids = recheck.instances_of_players(connection, config.players, since)
        done = recheck.recheck(connection, parameters, ids, dry_run=config.dry_run)
        _tell_difference(context, f"Raids of {len(config.players)} players", done, config)


@dg.op(
    description="Checks raids again, and tells which flags that sets or takes away.",
    retry_policy=RETRY,
)
def recheck_instance(
    context: dg.OpExecutionContext, config: RecheckInstanceConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("recheck_instance") as connection:
        parameters = current_parameters(postgres.open_settings())
        done = recheck.recheck(connection, parameters, config.instances, dry_run=config.dry_run)
        _tell_difference(context, "Raids", done, config)


@dg.op(
    description="Asks the queue for checks of recent raids of players whose level rose; raids that "
    "these rules have judged are left out.",
    retry_policy=RETRY,
)
def recheck_raised(
    context: dg.OpExecutionContext, config: RecheckRaisedConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("recheck_raised") as connection:
        parameters = current_parameters(postgres.open_settings())
        queued = recheck.queue_recent(
            connection, parameters, config.players, now=datetime.now(UTC), dry_run=config.dry_run
        )
    tell(
        context,
        Report(
            "Recent raids of players whose level rose",
            {"version": parameters.version, "players": len(config.players), "queued": queued},
            is_preview=config.dry_run,
        ),
    )


def _tell_difference(
    context: dg.OpExecutionContext, title: str, done: recheck.Difference, config: RepairConfig
) -> None:
    tell(
        context,
        Report(
            f"{title}, checked again",
            done.facts(),
            {
                "By raid and reason": done.by_raid_and_reason(),
                "Flags that come or go": done.examples(),
                "Not stored": [{"instance": i} for i in done.missing[:50]],
            },
            is_preview=config.dry_run,
        ),
    )
    done.refuse_failures()


class ClearFlagsConfig(RepairConfig):
    bits: list[int] = Field(
        description="Reasons to clear, as indexes of the bitmap (60: too fast); a flag with any of "
        "them goes.",
    )
    since: str = Field(
        description="Only flags set at this time or later, ISO 8601, UTC when it has no zone.",
    )
    kept_version: str = Field(
        default="",
        description="Version of the rules whose flags stay; empty: the one in use. Flags of "
        "version `manual` stay in any case.",
    )


class ClearPlayerConfig(RepairConfig):
    players: list[int] = Field(default=[], description="Membership ids of who is to be cleared.")
    actor: str = Field(default="admin", description="Who decided it; kept with the change.")
    reason: str = Field(default="cleared by hand", description="Why; kept with the change.")
    whitelist: bool = Field(
        default=True, description="Also: no rule gives these players a level again."
    )
    undo_changes: list[int] = Field(
        default=[],
        description="Instead of clearing: ids of earlier clearings (rows of "
        "streaming.cheat_level_change, in their reports) to take back.",
    )


@dg.op(
    description="Deletes flags with given reasons, set since a date by other rules than today's, "
    "and the blacklists that only they gave.",
    retry_policy=RETRY,
)
def clear_flags(
    context: dg.OpExecutionContext, config: ClearFlagsConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("clear_flags") as connection:
        done = clearing.clear_flags(
            connection,
            config.bits,
            read_time("since", config.since),
            kept_version=config.kept_version
            or current_parameters(postgres.open_settings()).version,
            dry_run=config.dry_run,
        )
    tell(
        context,
        Report(
            "Flags cleared",
            {
                "kept_version": done.kept_version,
                "verdicts": done.verdicts.total(),
                "instance_flags": done.instance_flags,
                "player_flags": done.player_flags,
                "checks_forgotten": done.checks,
                "blacklists_lifted": done.blacklists,
            },
            {
                "Verdicts by version": [
                    {"version": version, "verdicts": number}
                    for version, number in sorted(done.verdicts.items())
                ],
                "Players who keep a level (look at them, then clear_player)": done.players[:50],
            },
            is_preview=config.dry_run,
        ),
    )


@dg.op(
    description="Takes players' cheat levels, flags and automatic blacklists away, and whitelists "
    "them; or takes such a clearing back.",
    retry_policy=RETRY,
)
def clear_player(
    context: dg.OpExecutionContext, config: ClearPlayerConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("clear_player") as connection:
        if bool(config.players) == bool(config.undo_changes):
            raise PermanentError("either players or undo_changes must be given")
        done = [
            clearing.clear_player(
                connection,
                player,
                actor=config.actor,
                reason=config.reason,
                whitelist=config.whitelist,
                dry_run=config.dry_run,
            )
            for player in sorted(set(config.players))
        ] + [
            clearing.restore_player(connection, change, actor=config.actor, dry_run=config.dry_run)
            for change in sorted(set(config.undo_changes), reverse=True)
        ]
    tell(
        context,
        Report(
            "Clearings taken back" if config.undo_changes else "Players cleared",
            {
                "players": len(done),
                "changed": sum(player.change is not None for player in done),
            },
            {
                "Players": [
                    {
                        "player": player.membership_id,
                        "name": player.name,
                        "level_before": player.old_level,
                        **player.rows,
                        "change": "" if config.dry_run else player.change or "",
                    }
                    for player in done
                ]
            },
            is_preview=config.dry_run,
        ),
    )


CHEAT_JOBS: list[Any] = [
    cheat_norms_job,
    cheat_recheck_job,
    *map(repair_job, (clear_flags, clear_player, recheck_instance, recheck_player, recheck_raised)),
]
