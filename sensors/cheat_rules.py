"""Notices other cheat rules, or other definitions under them, and previews what they change."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg

from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.cheat_detection.recheck import digest_of_inputs
from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.jobs.cheats import cheat_recheck_job
from raidhub_dagster.jobs.running import unfinished_run
from raidhub_dagster.resources import TICK_LIMIT_S, DiscordResource, PostgresResource
from sensors.episodes import read_cursor

_PREVIEWED_DAYS = 7
_RANGE = "dagster/asset_partition_range_"
_TOLD = {
    "version": "Version of the rules",
    "parameters": "Parameters of the rules",
    "definitions": "Activities, versions, hashes or heavy weapons",
}


def follow_rules(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, discord: DiscordResource
) -> dg.SensorResult | dg.SkipReason:
    """A preview of the last whole days, and a message, when what verdicts depend on changed.

    Nothing is written: whether the days are checked again for real, and how far back, is for a
    person who read the preview. The cursor is JSON; the first tick, and one with a cursor that
    cannot be read, only remember.
    """
    if running := unfinished_run(context.instance, cheat_recheck_job.name):
        return dg.SkipReason(running)
    parameters = current_parameters(postgres.open_settings())
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        definitions = digest_of_inputs(connection)
    now = {
        "version": parameters.version,
        "parameters": parameters.digest,
        "definitions": definitions,
    }
    before = read_cursor(context.cursor)
    cursor = json.dumps(now)
    changed = [name for name in now if before.get(name) != now[name]]
    if not changed:
        return dg.SkipReason(f"{parameters.version} and its definitions are as they were")
    if not before.keys() >= now.keys():
        return dg.SensorResult(skip_reason=f"the first look at {parameters.version}", cursor=cursor)
    last = datetime.now(UTC).date() - timedelta(days=1)
    first = last - timedelta(days=_PREVIEWED_DAYS - 1)
    with discord.alerts() as alerts:
        alerts.send(
            Alert(
                "cheat_rules_changed",
                "Cheat Rules Changed",
                Colour.BLUE,
                {
                    "Changed": ", ".join(_TOLD[name] for name in changed),
                    "Version": parameters.version,
                    "Preview": f"{first} to {last}: the run of {cheat_recheck_job.name}",
                },
            )
        )
    digest = ":".join(str(now[name])[:12] for name in now)
    request = dg.RunRequest(
        run_key=f"{digest}:{last}",
        run_config={"ops": {"postgres__cheat_recheck": {"config": {"dry_run": True}}}},
        tags={f"{_RANGE}start": first.isoformat(), f"{_RANGE}end": last.isoformat()},
    )
    return dg.SensorResult(run_requests=[request], cursor=cursor)


cheat_rules_sensor = dg.sensor(
    name="cheat_rules_sensor",
    job=cheat_recheck_job,
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells when the version or the parameters of the cheat rules, or definitions under "
    "them, are others, and starts a preview of what that changes in the last 7 days.",
)(follow_rules)
