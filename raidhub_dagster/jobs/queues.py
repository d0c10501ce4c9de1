"""Repairs of queues: parked messages go back to where they came from."""

import dagster as dg
from pydantic import Field

from assets.tables import RETRY
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import RepairConfig, Report, repair_job, tell
from raidhub_dagster.messaging import parking, topology
from raidhub_dagster.resources import BrokerResource

_SHOWN = 10


class ReplayDeadLettersConfig(RepairConfig):
    queue: str = Field(description="Topic whose parked messages go back, e.g. instance_store.")
    limit: int = Field(default=1000, description="At most so many, the oldest first; 0: all.")
    reason: str = Field(
        default="", description="Only those parked as `poison` or `exhausted`; empty: both."
    )
    rate_per_s: float = Field(default=0.0, description="At most so many a second; 0: no limit.")


@dg.op(
    description="Moves parked messages of a queue back to it, as `raidhub queues replay` does.",
    retry_policy=RETRY,
)
def replay_dead_letters(
    context: dg.OpExecutionContext, config: ReplayDeadLettersConfig, broker: BrokerResource
) -> None:
    with dagster_failures():
        _check(config)
        settings = broker.open_settings()
        parked = topology.parked_queue(config.queue)
        _, first = parking.look(settings, parked, limit=_SHOWN)
        done = parking.replay(
            settings,
            config.queue,
            reason=config.reason or None,
            limit=config.limit or None,
            rate_per_s=config.rate_per_s or None,
            dry_run=config.dry_run,
        )
    tell(
        context,
        Report(
            f"Parked messages of {config.queue}",
            {"moved": done.moved, "stay_parked": done.kept + done.left},
            {
                "The oldest before": [
                    {
                        "message": message.message_id or "",
                        "reason": message.reason,
                        "error": " ".join(str(message.headers.get(parking.ERROR, "")).split()),
                    }
                    for message in first
                ]
            },
            is_preview=config.dry_run,
        ),
    )


def _check(config: ReplayDeadLettersConfig) -> None:
    if config.queue not in topology.MAIN_QUEUES:
        known = ", ".join(topology.MAIN_QUEUES)
        raise PermanentError(f"queue: {config.queue!r} is none of {known}")
    if config.reason not in ("", *parking.REASONS):
        raise PermanentError(f"reason: {config.reason!r} is none of {', '.join(parking.REASONS)}")
    if config.limit < 0 or config.rate_per_s < 0:
        raise PermanentError("limit and rate_per_s cannot be negative")


QUEUE_JOBS = [repair_job(replay_dead_letters)]
