"""What must hold of the queues: no dead letter waits for a person, and work is worked off."""

from collections.abc import Iterator

import dagster as dg

from assets.queues import QUEUES
from raidhub_dagster.messaging.overview import overview
from raidhub_dagster.resources import BrokerResource

# Where Prometheus' rule QueueGrowing begins; five times that is where atlas slows down.
DEPTH_AT_MOST = 50_000
PARKED_AT_MOST = 0


@dg.multi_asset_check(
    name="queues_are_worked_off",
    specs=[
        dg.AssetCheckSpec(
            f"{name}_is_worked_off",
            asset=spec.key,
            description=f"No dead letter waits for a person, and at most {DEPTH_AT_MOST} messages.",
        )
        for name, spec in QUEUES.items()
    ],
    description="One question to the broker for all queues.",
)
def queues_are_worked_off(broker: BrokerResource) -> Iterator[dg.AssetCheckResult]:
    for state in overview(broker.open_settings()):
        yield dg.AssetCheckResult(
            check_name=f"{state.name}_is_worked_off",
            asset_key=QUEUES[state.name].key,
            passed=state.parked <= PARKED_AT_MOST and state.ready <= DEPTH_AT_MOST,
            description=f"{state.parked} dead letters, {state.ready} messages",
            metadata={
                "parked": state.parked,
                "parked_at_most": PARKED_AT_MOST,
                "depth": state.ready,
                "depth_at_most": DEPTH_AT_MOST,
            },
        )


QUEUE_CHECKS = [queues_are_worked_off]
