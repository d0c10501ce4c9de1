"""A failed run reaches a person, with a link; a job that fails all night does so once an hour."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.resources import DiscordResource
from sensors.run_outcomes import (
    ALERT_TAG,
    QUIET,
    failed_checks_sensor,
    job_of,
    run_failure_sensor,
    tell_checks,
    tell_failure,
    tell_once_an_hour,
)
from tests.support.webhook import Hook


@dg.op
def breaks() -> None:
    raise PermanentError("the 3rd column is missing") from KeyError("column")


@dg.job
def broken_job() -> None:
    breaks()


@dg.job
def other_job() -> None:
    breaks()


@dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
def stays_away() -> None:
    raise TransientError("the API is away")


@dg.job
def stubborn_job() -> None:
    stays_away()


@dg.asset(key=["postgres", "some_table"])
def some_table() -> None:
    """Nothing."""


@dg.asset_check(asset=some_table, description="Never.")
def some_table_is_perfect() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="3 rows are not")


@pytest.fixture
def discord(hook: Hook) -> DiscordResource:
    address = "https://dagster.example/ui/"
    return DiscordResource(settings={"atlas_webhook_url": hook.address, "dagster_ui_url": address})


def run(instance: dg.DagsterInstance, job: dg.JobDefinition) -> dg.DagsterRun:
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    found = instance.get_run_by_id(result.run_id)
    assert found is not None
    return found


def context_of(instance: dg.DagsterInstance, failed: dg.DagsterRun) -> dg.RunFailureSensorContext:
    (event,) = [
        e.dagster_event
        for e in instance.all_logs(failed.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    ]
    assert event is not None
    return dg.build_run_status_sensor_context(
        "run_failure_sensor", event, instance, failed
    ).for_run_failure()


def fail(
    instance: dg.DagsterInstance, discord: DiscordResource, job: dg.JobDefinition = broken_job
) -> dg.DagsterRun:
    """One failure of the job, as the sensor meets it."""
    failed = run(instance, job)
    tell_failure(context_of(instance, failed), discord)
    after = instance.get_run_by_id(failed.run_id)
    assert after is not None
    return after


def fields(hook: Hook, message: int = -1) -> dict[str, str]:
    (embed,) = hook.got[message]["embeds"]
    return {field["name"]: field["value"] for field in embed["fields"]}


def test_tells_job_reason_and_link(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """Who is woken at night wants to know what broke, and to be one click from its log."""
    failed = fail(instance, discord)
    told = fields(hook)
    assert hook.got[0]["embeds"][0]["title"] == "Run failed"
    assert told["Job"] == "broken_job"
    assert told["Run"] == f"https://dagster.example/ui/runs/{failed.run_id}"
    assert told["Steps"] == "breaks"
    assert told["Reason"].endswith("the 3rd column is missing")
    assert failed.tags[ALERT_TAG] == "told run_failed broken_job"


def test_names_the_cause_of_what_was_tried_in_vain(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """`Exceeded max_retries` is no reason that anybody can act on."""
    fail(instance, discord, stubborn_job)
    assert fields(hook)["Reason"].endswith("the API is away")


def test_counts_further_failures_of_the_job_instead_of_telling(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """A schedule every 5 minutes must not write twelve times an hour; other jobs still do."""
    fail(instance, discord)
    held = [fail(instance, discord) for _ in range(2)]
    assert [h.tags[ALERT_TAG].split()[0] for h in held] == ["held", "held"]
    fail(instance, discord, other_job)
    assert [m["embeds"][0]["fields"][0]["value"] for m in hook.got] == ["broken_job", "other_job"]


def test_tells_again_after_an_hour_how_many_were_held_back(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    fail(instance, discord)
    fail(instance, discord)
    fail(instance, discord)
    last = run(instance, broken_job)
    later = datetime.now(UTC) + QUIET + timedelta(minutes=1)
    tell_once_an_hour(
        context_of(instance, last),
        discord,
        Alert("run_failed", "Run failed", Colour.RED),
        now=lambda: later,
    )
    assert len(hook.got) == 2
    assert fields(hook)["Held back before"] == "2"


def test_the_state_outlives_the_daemon(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """The same run met again after a restart is neither told nor counted twice."""
    failed = fail(instance, discord)
    skipped = tell_failure(context_of(instance, failed), discord)
    assert "already" in (skipped.skip_message or "")
    assert len(hook.got) == 1


def test_a_repeated_run_is_a_failure_of_its_own(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """It inherits the tags of the run that it repeats, and with them whether that one was told."""
    first = fail(instance, discord)
    result = broken_job.execute_in_process(
        instance=instance, raise_on_error=False, tags=dict(first.tags)
    )
    repeated = instance.get_run_by_id(result.run_id)
    assert repeated is not None
    tell_failure(context_of(instance, repeated), discord)
    after = instance.get_run_by_id(result.run_id)
    assert after is not None
    assert after.tags[ALERT_TAG] == "held run_failed broken_job"
    assert len(hook.got) == 1


def test_tells_checks_that_failed_in_a_run_that_did_not(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    """A red check on a page that nobody opens helps nobody."""
    defs = dg.Definitions(assets=[some_table], asset_checks=[some_table_is_perfect])
    job = defs.resolve_implicit_global_asset_job_def()
    for _ in range(2):
        done = run(instance, job)
        assert done.is_success
        (event,) = [
            e.dagster_event
            for e in instance.all_logs(done.run_id, of_type=dg.DagsterEventType.RUN_SUCCESS)
        ]
        assert event is not None
        context = dg.build_run_status_sensor_context("failed_checks_sensor", event, instance, done)
        tell_checks(context, discord)
    assert len(hook.got) == 1
    assert hook.got[0]["embeds"][0]["title"] == "Checks failed"
    assert fields(hook)["Checks"] == "some_table_is_perfect: 3 rows are not"


def test_a_run_of_chosen_assets_is_told_by_their_names() -> None:
    """All of them have the same job; a failure of one must not silence the others for an hour."""
    keys = [dg.AssetKey(["postgres", name]) for name in ("c", "a", "d", "b")]

    def chosen(*of: dg.AssetKey) -> str:
        return job_of(dg.DagsterRun(job_name="__ASSET_JOB", asset_selection=frozenset(of)))

    assert chosen(keys[0]) == "postgres/c"
    assert chosen(*keys) == "postgres/a, postgres/b, postgres/c and 1 more"
    assert job_of(dg.DagsterRun(job_name="x_job", asset_selection=frozenset(keys))) == "x_job"


@pytest.mark.parametrize("cursor", [None, "{old release"])
def test_ticks_meet_failures_once(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook, cursor: str | None
) -> None:
    """The wiring: a first tick, or one with a cursor nobody can read, begins at now; no flood."""
    repository = build_defs().get_repository_def()
    run(instance, broken_job)

    def tick(cursor: str | None) -> str | None:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=repository,
            resources={"discord": discord},
            sensor_name="run_failure_sensor",
        )
        return run_failure_sensor.evaluate_tick(context).cursor

    begun = tick(cursor)
    assert hook.got == []
    run(instance, broken_job)
    after = tick(begun)
    assert len(hook.got) == 1
    tick(after)
    assert len(hook.got) == 1


def test_a_tick_passes_over_runs_without_failed_checks(
    instance: dg.DagsterInstance, discord: DiscordResource, hook: Hook
) -> None:
    repository = build_defs().get_repository_def()

    def tick(cursor: str | None) -> str | None:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=repository,
            resources={"discord": discord},
            sensor_name="failed_checks_sensor",
        )
        return failed_checks_sensor.evaluate_tick(context).cursor

    begun = tick(None)
    run(instance, dg.Definitions(assets=[some_table]).resolve_implicit_global_asset_job_def())
    tick(begun)
    assert hook.got == []
