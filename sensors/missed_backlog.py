"""Recovery at once when the backlog of missed ids passes a threshold; else it has a schedule."""

import dagster as dg

from raidhub_dagster.jobs.recovery import recovery_missed_job
from raidhub_dagster.jobs.running import unfinished_run
from raidhub_dagster.recovery.backlog import look
from raidhub_dagster.resources import TICK_LIMIT_S, PostgresResource

ABOVE, BELOW = "above", "below"


def follow_backlog(
    context: dg.SensorEvaluationContext, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """A run when the number of due ids passes the setting, once until it was below again.

    The cursor says on which side it was; an unreadable one counts as below. While the API is off
    or a run is at work it stays as it is, so that the run comes as soon as that is over.
    """
    settings = postgres.open_settings()
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        backlog = look(connection, settings.crawl_ceiling)
    limit = settings.missed_backlog_rows
    said = f"{backlog.due} missed ids are due, a run starts beyond {limit}"
    if backlog.due <= limit:
        return dg.SensorResult(skip_reason=said, cursor=BELOW)
    if context.cursor == ABOVE:
        return dg.SkipReason(f"{said}: it did, the rest is the schedule's")
    if backlog.gate:
        return dg.SkipReason(f"{said}, but the API is off: {backlog.gate}")
    if running := unfinished_run(context.instance, recovery_missed_job.name):
        return dg.SkipReason(f"{said}, but {running}")
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=ABOVE)


missed_backlog_sensor = dg.sensor(
    name="missed_backlog_sensor",
    job=recovery_missed_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts a recovery of missed ids at once when more than MISSED_BACKLOG_ROWS are "
    "due.",
)(follow_backlog)
