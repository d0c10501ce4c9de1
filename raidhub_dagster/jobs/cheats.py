"""Repairs of cheat verdicts: a rule that was wrong, a player who is innocent."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from assets.tables import RETRY
from raidhub_dagster.cheat_detection import clearing
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource


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
        description="Version of the rules whose flags stay; empty: that of this release, or of the "
        "newest flag. Flags of version `manual` stay in any case.",
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
            _time(config.since),
            kept_version=config.kept_version or None,
            dry_run=config.dry_run,
        )
    tell(
        context,
        Report(
            "Flags cleared",
            {
                "kept_version": done.kept_version or "none",
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


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise PermanentError(f"since: {text!r} is no time like 2026-03-01T17:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


CHEAT_JOBS = [repair_job(clear_flags), repair_job(clear_player)]
