"""Runs that failed, and runs whose checks failed: told with a link, at most once an hour a job."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg

from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.discord.messages import Fields
from raidhub_dagster.resources import DiscordResource

# The state is in Dagster's own database, as tags of the runs: it survives restarts, shows in the
# UI, and is there while PostgreSQL's other databases are why a run failed.
ALERT_TAG = "raidhub/alert"  # told or held, kind, job
RUN_TAG = "raidhub/alert_run"  # a run that repeats another one inherits its tags
QUIET = timedelta(hours=1)
_COUNTED = 100  # of those held back
_REASON_LENGTH = 400
# What Dagster puts around the error of a step.
_FRAMES = {"DagsterExecutionStepExecutionError", "RetryRequested", "RetryRequestedFromPolicy"}


def tell_failure(context: dg.RunFailureSensorContext, discord: DiscordResource) -> dg.SkipReason:
    """One message for the first failure of a job within the hour; the next one counts the rest."""
    failed = [event.step_key for event in context.get_step_failure_events()]
    fields = {"Reason": _reason(context), "Steps": ", ".join(s for s in failed if s)}
    return tell_once_an_hour(
        context, discord, Alert("run_failed", "Run failed", Colour.RED, fields, mentions=True)
    )


def tell_checks(context: dg.RunStatusSensorContext, discord: DiscordResource) -> dg.SkipReason:
    """One message for the first run of a job within the hour with a check that did not pass.

    A failed check that blocks fails its run; the rest would only be seen by who opens the asset.
    """
    found = context.instance.all_logs(
        context.dagster_run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    )
    evaluations = [e.asset_check_evaluation for e in found]
    failed = [e for e in evaluations if e is not None and not e.passed]
    if not failed:
        return dg.SkipReason(f"{len(evaluations)} checks, none of them failed")
    told = [f"{e.check_name}: {e.description or e.severity.value}" for e in failed]
    fields: Fields = {"Checks": "\n".join(told), "Of": len(evaluations)}
    return tell_once_an_hour(
        context, discord, Alert("checks_failed", "Checks failed", Colour.ORANGE, fields)
    )


def tell_once_an_hour(
    context: dg.RunStatusSensorContext,
    discord: DiscordResource,
    alert: Alert,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SkipReason:
    """Sends `alert`, of this kind once an hour and job; marks the run either way.

    Job, link and the number of those held back before come on top of its fields.
    """
    instance, run = context.instance, context.dagster_run
    name = job_of(run)
    told_tag, held_tag = f"told {alert.kind} {name}", f"held {alert.kind} {name}"
    if run.tags.get(RUN_TAG) == run.run_id:
        return dg.SkipReason(f"{run.run_id} was counted already")
    last = _marked(instance, told_tag)[:1]
    if last and last[0].update_timestamp > now() - QUIET:
        instance.add_run_tags(run.run_id, {ALERT_TAG: held_tag, RUN_TAG: run.run_id})
        return dg.SkipReason(f"{name}: told with run {last[0].dagster_run.run_id} within the hour")
    held = _marked(instance, held_tag, last[0].update_timestamp if last else None)
    told: dict[str, str | int] = {"Job": name, "Run": discord.run_link(run.run_id)}
    if held:
        told["Held back before"] = len(held)
    with discord.alerts() as alerts:
        alerts.send(replace(alert, fields={**told, **alert.fields}))
    instance.add_run_tags(run.run_id, {ALERT_TAG: told_tag, RUN_TAG: run.run_id})
    return dg.SkipReason(f"{name}: told, {len(held)} were held back before")


def job_of(run: dg.DagsterRun) -> str:
    """The job, or for a run of assets chosen by hand or by automation, which these are."""
    if not run.job_name.startswith("__"):
        return run.job_name
    keys = sorted(key.to_user_string() for key in run.asset_selection or ())
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more if keys else run.job_name


def _marked(
    instance: dg.DagsterInstance, tag: str, after: datetime | None = None
) -> list[dg.RunRecord]:
    """Runs with that mark of their own, given `after`; newest first, up to a hundred."""
    marked = dg.RunsFilter(tags={ALERT_TAG: tag}, updated_after=after)
    found = instance.get_run_records(marked, limit=_COUNTED)
    own = [r for r in found if r.dagster_run.tags[RUN_TAG] == r.dagster_run.run_id]
    return sorted(own, key=lambda record: record.update_timestamp, reverse=True)


def _reason(context: dg.RunFailureSensorContext) -> str:
    """What the first failed step raised; else what failed the run."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None and error.cause is not None and error.cls_name in _FRAMES:
            error = error.cause
        if error is not None:
            return " ".join(error.message.split())[:_REASON_LENGTH]
    return " ".join((context.failure_event.message or "unknown").split())[:_REASON_LENGTH]


run_failure_sensor = dg.run_failure_sensor(
    name="run_failure_sensor",
    monitor_all_code_locations=True,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells Discord of a failed run with a link; further failures of the job within the "
    "hour are counted and told with the next message.",
)(tell_failure)

failed_checks_sensor = dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="failed_checks_sensor",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells Discord of checks that failed in a run that did not: freshness, recounts, "
    "backlogs. At most once an hour a job.",
)(tell_checks)
