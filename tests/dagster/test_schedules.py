from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import PostgresResource
from tests.dagster.conftest import LAST_WISH_ID, World

Evaluate = Callable[[str, datetime], tuple[int, str]]

CONTEST = "leaderboards_contest_schedule"
CUSTOM_RACE = "leaderboards_custom_race_schedule"
MORNING = datetime(2026, 1, 5, 9, 5, tzinfo=UTC)
RACE_START = datetime(2026, 6, 13, 17, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One on disk: a schedule gets only a reference to its instance."""
    with dg.instance_for_test() as persistent:
        yield persistent


@pytest.fixture
def evaluate(instance: dg.DagsterInstance, store: PostgresResource) -> Evaluate:
    """One tick of the named schedule at that time -> (runs requested, why it skipped)."""
    defs = build_defs({"postgres": store})

    def tick(name: str, at: datetime) -> tuple[int, str]:
        # Left open, it keeps its instance as that of every test that comes after.
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=at,
            resources={"postgres": store},
            repository_def=defs.get_repository_def(),
        ) as context:
            result = defs.resolve_schedule_def(name).evaluate_tick(context)
        return len(result.run_requests or ()), result.skip_message or ""

    return tick


@pytest.mark.parametrize(
    ("name", "cron", "job"),
    [
        ("raid", "5 9 * * *", "raid"),
        ("global", "5 10 * * *", "global"),
        ("world_first", "0 17 * * *", "world_first"),
        ("version", "0 19 * * *", "version"),
        ("contest", "*/5 * * * *", "contest"),
        ("custom_race", "*/3 * 13-15 6 *", "custom_race"),
    ],
)
def test_runs_at_the_time_that_readers_know(name: str, cron: str, job: str) -> None:
    """The site announces these times; a change of one is a change for people."""
    schedule = build_defs().resolve_schedule_def(f"leaderboards_{name}_schedule")
    assert (schedule.cron_schedule, schedule.execution_timezone, schedule.job_name) == (
        cron,
        "UTC",
        f"leaderboards_{job}_job",
    )
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


@pytest.mark.parametrize(
    ("name", "cron", "job"),
    [
        ("prune_ledgers", "0 4 * * *", "prune_ledgers"),
        ("prune_dagster_events", "30 4 * * 0", "prune_dagster_events"),
    ],
)
def test_upkeep_works_at_night(name: str, cron: str, job: str) -> None:
    schedule = build_defs().resolve_schedule_def(f"{name}_schedule")
    assert (schedule.cron_schedule, schedule.job_name) == (cron, job)
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING


@pytest.mark.parametrize("name", ["prune_ledgers", "prune_dagster_events"])
def test_a_schedule_prunes_where_a_person_previews(
    instance: dg.DagsterInstance, store: PostgresResource, name: str
) -> None:
    """A night that only says what it would delete deletes nothing, for years."""
    defs = build_defs({"postgres": store})
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=MORNING,
        repository_def=defs.get_repository_def(),
    ) as context:
        result = defs.resolve_schedule_def(f"{name}_schedule").evaluate_tick(context)
    (request,) = result.run_requests or ()
    assert request.run_config["ops"][name]["config"]["dry_run"] is False


def test_requests_one_run_when_nothing_runs(evaluate: Evaluate) -> None:
    assert evaluate("leaderboards_raid_schedule", MORNING) == (1, "")


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTED", "CANCELING"])
def test_skips_while_the_job_still_runs(
    evaluate: Evaluate, instance: dg.DagsterInstance, status: str
) -> None:
    """Two refreshes of one view only wait for each other; every five minutes they would pile up."""
    run = dg.DagsterRun(job_name="leaderboards_raid_job", status=dg.DagsterRunStatus[status])
    instance.add_run(run)
    runs, why = evaluate("leaderboards_raid_schedule", MORNING)
    assert runs == 0
    assert run.run_id in why


def test_runs_again_after_the_job_ended(evaluate: Evaluate, instance: dg.DagsterInstance) -> None:
    instance.add_run(
        dg.DagsterRun(job_name="leaderboards_raid_job", status=dg.DagsterRunStatus.FAILURE)
    )
    assert evaluate("leaderboards_raid_schedule", MORNING) == (1, "")


@pytest.mark.parametrize(
    ("at", "runs"),
    [
        (RACE_START - timedelta(minutes=3), 0),
        (RACE_START, 1),
        (RACE_START + timedelta(hours=47, minutes=57), 1),
        (RACE_START + timedelta(hours=48), 0),
        (RACE_START.replace(year=2027), 0),
    ],
)
def test_follows_the_custom_race_for_48_hours(evaluate: Evaluate, at: datetime, runs: int) -> None:
    """The cron matches every June; a year later nobody wants 960 refreshes."""
    requested, why = evaluate(CUSTOM_RACE, at)
    assert (requested, bool(why)) == (runs, not runs)


@pytest.mark.parametrize(
    ("after_release", "runs"),
    [(timedelta(minutes=-5), 0), (timedelta(0), 1), (timedelta(hours=24), 0)],
)
def test_follows_a_contest_while_it_is_on(
    evaluate: Evaluate, world: World, after_release: timedelta, runs: int
) -> None:
    """On the night of a new raid the board is what everybody looks at; on others it is noise."""
    release = datetime(2030, 3, 1, 17, tzinfo=UTC)
    world.run(
        "UPDATE definitions.activity_definition SET release_date = %s, contest_end = %s"
        " WHERE id = %s",
        (release, release + timedelta(hours=24), LAST_WISH_ID),
    )
    requested, why = evaluate(CONTEST, release + after_release)
    assert (requested, bool(why)) == (runs, not runs)


def test_says_how_many_contests_it_knows_when_none_is_on(evaluate: Evaluate) -> None:
    """`none of 0` means that nobody seeded the definitions."""
    _, why = evaluate(CONTEST, datetime(2019, 1, 1, tzinfo=UTC))
    assert why.startswith("none of 11 contests is on")
