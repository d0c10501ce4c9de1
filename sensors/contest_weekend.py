"""A contest weekend begins and ends: people are told once, and the last refresh is asked for."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg

from assets.definitions import ACTIVITY_DEFINITION
from assets.leaderboards import leaderboard_key
from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.discord.messages import Fields
from raidhub_dagster.monitoring.episodes import Limit, Reading
from raidhub_dagster.resources import TICK_LIMIT_S, DiscordResource, PostgresResource
from raidhub_dagster.storage.definitions import Activity, load_activities
from sensors.episodes import bad, good, numbers, read_cursor, tell

# Refreshes the races and then the scores; leaderboards_contest_schedule follows the races alone.
LAST_REFRESH_JOB = "leaderboards_world_first_job"
# Who began before the end still counts, and Bungie verifies and releases withheld reports late.
LAST_REFRESH_AFTER = timedelta(hours=6)
# Of the board, which the schedule refreshes every 5 minutes while a contest is on.
BOARD_AGE_S = Limit((1_200,), over_at=600)
_RACES = leaderboard_key("world_first_contest_leaderboard")


def follow_contests(
    context: dg.SensorEvaluationContext,
    postgres: PostgresResource,
    discord: DiscordResource,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorResult:
    """Tells begin and end of each contest, and asks for one refresh after it.

    The cursor is JSON: `on` activity -> end of its contest (ISO 8601) of those told as begun,
    `closing` the same of those that wait for their last refresh, `levels` of the running episodes.
    An unreadable one starts over: what is on is told again, what ended is not.
    """
    before = read_cursor(context.cursor)
    told, closing = _ends(before.get("on")), _ends(before.get("closing"))
    at = now()
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        known = {str(a.id): a for a in load_activities(connection)}
    on = {
        name: a.contest_end
        for name, a in known.items()
        if a.contest_end is not None and a.release_date <= at < a.contest_end
    }
    begun, ended = on.keys() - told.keys(), told.keys() - on.keys()
    with discord.alerts() as alerts:
        for name in sorted(begun):
            alerts.send(_begins(known[name], on[name]))
        for name in sorted(ended):
            alerts.send(_ends_alert(known.get(name), told[name]))
    levels = tell(discord, numbers(before.get("levels")), _board(context.instance, at, bool(on)))
    closing = {n: end for n, end in closing.items() if n not in on} | {n: told[n] for n in ended}
    due = {name: end for name, end in closing.items() if at >= end + LAST_REFRESH_AFTER}
    after = {
        "on": {name: end.isoformat() for name, end in on.items()},
        "closing": {n: end.isoformat() for n, end in closing.items() if n not in due},
        "levels": levels,
    }
    changed = dg.AssetObservation(ACTIVITY_DEFINITION.key, metadata={"contests_on": len(on)})
    events = [changed] if begun or ended else []
    requests = [
        dg.RunRequest(f"contest:{name}:{end.isoformat()}", job_name=LAST_REFRESH_JOB)
        for name, end in sorted(due.items())
    ]
    skip = f"{len(on)} contests are on, {len(closing)} wait for their last refresh"
    if not events and not requests:
        return dg.SensorResult(skip_reason=skip, cursor=json.dumps(after))
    return dg.SensorResult(asset_events=events, run_requests=requests, cursor=json.dumps(after))


def _ends(told: object) -> dict[str, datetime]:
    """Activity -> end, of what a cursor says; what is no time is left out."""
    found = {}
    for name, end in told.items() if isinstance(told, dict) else ():
        try:
            found[str(name)] = datetime.fromisoformat(end)
        except (TypeError, ValueError):
            continue
    return {name: end for name, end in found.items() if end.tzinfo is not None}


def _begins(activity: Activity, end: datetime) -> Alert:
    fields = {
        "Activity": activity.name,
        "Ends": f"{end:%Y-%m-%d %H:%M} UTC",
        "Now": "queues have their contest workers, the races are ranked every 5 minutes",
    }
    return Alert("contest_begun", "Contest begins", Colour.BLUE, fields, every_s=0)


def _ends_alert(activity: Activity | None, end: datetime) -> Alert:
    last = end + LAST_REFRESH_AFTER
    fields = {
        "Activity": activity.name if activity else "gone from the definitions",
        "Ended": f"{end:%Y-%m-%d %H:%M} UTC",
        "Next": f"races and scores once more at {last:%Y-%m-%d %H:%M} UTC",
    }
    return Alert("contest_ended", "Contest is over", Colour.BLUE, fields, every_s=0)


def _board(instance: dg.DagsterInstance, at: datetime, is_on: bool) -> Iterator[Reading]:
    """Its age while a contest is on; after it the board is as old as it should be."""
    age_s = 0.0
    if is_on:
        event = instance.get_latest_materialization_event(_RACES)
        if event is None:
            return  # a first evening: nothing was ever ranked, which other checks say
        age_s = at.timestamp() - event.timestamp
    fields: Fields = {"Board": _RACES.path[-1], "Minutes old": round(age_s / 60)}
    yield Reading(
        "board",
        age_s,
        BOARD_AGE_S,
        bad("contest_board_stale", "Contest board is stale", fields, mentions=True),
        good("contest_board_fresh", "Contest board is fresh", fields),
    )


def tick(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, discord: DiscordResource
) -> dg.SensorResult:
    """`follow_contests` by the clock."""
    return follow_contests(context, postgres, discord)


contest_weekend_sensor = dg.sensor(
    name="contest_weekend_sensor",
    job_name=LAST_REFRESH_JOB,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells Discord when a contest begins and ends, and when its board is stale; asks "
    "for races and scores once more, 6 hours after the end.",
)(tick)
