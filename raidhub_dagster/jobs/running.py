"""Whether a job is at work already, for whoever would start it: schedules and sensors."""

import dagster as dg

_UNFINISHED = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def unfinished_run(instance: dg.DagsterInstance, job_name: str) -> str:
    """The reason not to start the job now: a run that is queued or runs; "" for none."""
    unfinished = dg.RunsFilter(job_name=job_name, statuses=_UNFINISHED)
    for run in instance.get_runs(unfinished, limit=1):
        return f"{job_name} runs already: {run.run_id} is {run.status.value}"
    return ""
