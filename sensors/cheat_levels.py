"""Has the recent raids of players checked whose cheat level rose."""

import re
from datetime import UTC, datetime
from hashlib import sha256

import dagster as dg

from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_detection.recheck import level_changes
from raidhub_dagster.jobs.cheats import recheck_raised
from raidhub_dagster.resources import TICK_LIMIT_S, PostgresResource

_ID = re.compile(r"[0-9]{1,18}")
_LIMIT = 500  # changes a tick; the rest waits for the next


def follow_levels(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """One run for all players who rose to the level that asks for it since the last tick.

    The cursor is the id of the last change seen; an unreadable one, and one above every id, start
    over, which asks again for what the ledger does not have, and for nothing else. The run's key
    names players and levels: the same rise is followed once.
    """
    told = _ID.fullmatch(context.cursor or "")
    after = int(told.group()) if told else 0
    parameters = current_parameters(postgres.open_settings())
    least = parameters.blacklist.recheck.min_level
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        changes = level_changes(connection, after, now=datetime.now(UTC), limit=_LIMIT)
    if not changes:
        return dg.SkipReason(f"no level changed since change {after}")
    cursor = str(changes[-1].change_id)
    risen = sorted(
        {(c.membership_id, c.level) for c in changes if c.level >= least and c.level > c.before}
    )
    if not risen:
        reason = f"of {len(changes)} changes none rose to level {least}"
        return dg.SensorResult(skip_reason=reason, cursor=cursor)
    names = ",".join(f"{player}:{level}" for player, level in risen)
    # Run keys are indexed: a thousand names are too long for one.
    key = names if len(names) <= 200 else sha256(names.encode()).hexdigest()
    players = sorted({player for player, _ in risen})
    config = {"ops": {recheck_raised.name: {"config": {"dry_run": False, "players": players}}}}
    request = dg.RunRequest(run_key=f"{parameters.version}:{key}", run_config=config)
    return dg.SensorResult(run_requests=[request], cursor=cursor)


cheat_levels_sensor = dg.sensor(
    name="cheat_levels_sensor",
    job_name=recheck_raised.name,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Has recent raids checked of players whose cheat level rose to 3 or 4, as far as "
    "the rules in use have not judged them: one run for all, every minute at most.",
)(follow_levels)
