"""Reports the queues: what waits, who works it off, what was parked; tells people of backlogs."""

import json
from collections.abc import Iterator
from functools import partial

import dagster as dg

from assets.queues import QUEUES
from raidhub_dagster.discord.messages import Fields
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.overview import QueueState, overview
from raidhub_dagster.monitoring.episodes import Limit, Reading
from raidhub_dagster.resources import BrokerResource, DiscordResource
from raidhub_dagster.stack.process import ask_all
from sensors.episodes import bad, good, numbers, read_cursor, tell

# Atlas itself slows down at 50 000; other queues are told where Prometheus' rule QueueGrowing is.
STORE_DEPTH = Limit((50_000, 500_000), over_at=5_000)
DEPTH = Limit((10_000, 100_000, 1_000_000), over_at=1_000)
# Hermes tells of each parked message while it runs; this tells that they are still there.
PARKED = Limit((1, 100, 10_000), over_at=0)
# For all questions of a tick: a broker that hangs accepts connections and holds pika for 30 s.
ANSWER_LIMIT_S = 10.0
# Ticks without an answer; a broker that restarts is away for one.
AWAY = Limit((3,), over_at=0)


def report_queues(
    context: dg.SensorEvaluationContext, broker: BrokerResource, discord: DiscordResource
) -> dg.SensorResult:
    """One observation a queue whose figures differ from the last ones told.

    The cursor is JSON: `seen` queue -> its figures, `levels` of the running episodes, `away` ticks
    without an answer. RabbitMQ away ends no episode: nobody could look.
    """
    before = read_cursor(context.cursor)
    levels = numbers(before.get("levels"))
    known = before.get("seen")
    seen = dict(known) if isinstance(known, dict) else {}
    question = partial(overview, broker.open_settings())
    states = ask_all({"broker": question}, limit_s=ANSWER_LIMIT_S)["broker"]
    if isinstance(states, TransientError):
        ticks = numbers(before).get("away", 0) + 1
        levels = tell(discord, levels, [_away(ticks, str(states))])
        context.log.warning("%s", states, extra={"action": "queues_not_seen"})
        after = {"seen": seen, "levels": levels, "away": ticks}
        return dg.SensorResult(skip_reason=str(states), cursor=json.dumps(after))
    levels = tell(discord, levels, [_away(0, ""), *_readings(states)])
    moved = []
    for state in states:
        figures = _figures(state)
        if seen.get(state.name) != figures:
            seen[state.name] = figures
            moved.append(dg.AssetObservation(QUEUES[state.name].key, metadata=figures))
    after = {"seen": seen, "levels": levels, "away": 0}
    if not moved:
        why = f"no figure of {len(states)} queues moved"
        return dg.SensorResult(skip_reason=why, cursor=json.dumps(after))
    return dg.SensorResult(asset_events=moved, cursor=json.dumps(after))


def _figures(state: QueueState) -> dict[str, int | float]:
    """What is known; the rate to a tenth, so that a trickle is no news every minute."""
    figures: dict[str, int | float] = {
        "depth": state.ready,
        "waiting_for_retry": state.waiting,
        "parked": state.parked,
        "consumers": state.consumers,
    }
    if state.unacknowledged is not None:
        figures["unacknowledged"] = state.unacknowledged
    if state.handled_per_s is not None:
        figures["handled_per_s"] = round(state.handled_per_s, 1)
    return figures


def _readings(states: list[QueueState]) -> Iterator[Reading]:
    for state in states:
        deep: Fields = {
            "Queue": state.name,
            "Depth": state.ready,
            "Handled a second": "unknown"
            if state.handled_per_s is None
            else round(state.handled_per_s, 1),
            "Consumers": state.consumers,
        }
        parked: Fields = {"Queue": state.name, "Parked": state.parked}
        yield Reading(
            f"depth {state.name}",
            state.ready,
            STORE_DEPTH if state.name == topology.INSTANCE_STORE else DEPTH,
            bad("queue_filled_up", "Queue fills up", deep),
            good("queue_worked_off", "Queue is worked off", deep),
        )
        yield Reading(
            f"parked {state.name}",
            state.parked,
            PARKED,
            bad("dead_letters_wait", "Dead letters wait", parked),
            good("dead_letters_gone", "Dead letters are gone", parked),
        )


def _away(ticks: int, reason: str) -> Reading:
    return Reading(
        "broker",
        ticks,
        AWAY,
        bad("broker_is_away", "RabbitMQ is away", {"Reason": reason}, mentions=True),
        good("broker_is_back", "RabbitMQ is back", {}),
    )


queue_depths_sensor = dg.sensor(
    name="queue_depths_sensor",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes every queue whose figures moved: depth, rate, consumers, dead letters. "
    "Tells Discord when one fills up, and when it is worked off.",
)(report_queues)
