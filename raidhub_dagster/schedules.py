"""When work that has a clock is done, in UTC; times and reasons: docs/dagster.md.

A tick whose job still runs is skipped: a second run would only wait for the first one and then
repeat it.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

import dagster as dg

from assets.reports import WEEKS
from raidhub_dagster.cheat_learning.models import require_installed
from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.jobs import (
    analytics,
    cheat_learning,
    leaderboards,
    manifest,
    quality,
    recovery,
    upkeep,
)
from raidhub_dagster.jobs.cheat_levels import cheats_levels_job
from raidhub_dagster.jobs.cheats import cheat_norms_job
from raidhub_dagster.jobs.clans import clans_job
from raidhub_dagster.jobs.players import activity_history_update, players_upkeep_job, stale_players
from raidhub_dagster.jobs.running import unfinished_run
from raidhub_dagster.recovery import backlog, gaps
from raidhub_dagster.resources import TICK_LIMIT_S, PostgresResource
from raidhub_dagster.storage.definitions import load_activities

CUSTOM_RACE_START = datetime(2026, 6, 13, 17, tzinfo=UTC)
CUSTOM_RACE_LENGTH = timedelta(hours=48)
GAPS_DAILY = time(4, 45)  # few play then, so that the crawl needs the API least

Request = dg.RunRequest | dg.SkipReason


def request_unless_running(
    context: dg.ScheduleEvaluationContext | dg.SensorEvaluationContext,
    job_name: str,
    run_config: Mapping[str, Any] | None = None,
) -> Request:
    """A run of the job, or the reason not to: one that is queued or runs already."""
    running = unfinished_run(context.instance, job_name)
    return dg.SkipReason(running) if running else dg.RunRequest(run_config=run_config)


def schedule_for(
    job_name: str,
    cron: str,
    description: str,
    run_config: Mapping[str, Any] | None = None,
    *,
    hindrance: Callable[[], str] = str,
) -> dg.ScheduleDefinition:
    """A running schedule of job `<area>_job`, or of a repair, called `<area>_schedule`.

    `hindrance` is why a tick should not ask for a run, empty when it should.
    """

    def request(context: dg.ScheduleEvaluationContext) -> Request:
        if reason := hindrance():
            return dg.SkipReason(reason)
        return request_unless_running(context, job_name, run_config)

    return dg.ScheduleDefinition(
        name=job_name.removesuffix("_job") + "_schedule",
        job_name=job_name,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=description,
        execution_fn=request,
    )


def follow_contests(context: dg.ScheduleEvaluationContext, postgres: PostgresResource) -> Request:
    """Refreshes the races while the definitions say that one is on; reads them at every tick."""
    now = context.scheduled_execution_time
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        activities = load_activities(connection)
    contests = [(a.release_date, a.contest_end) for a in activities if a.contest_end]
    if any(begin <= now < end for begin, end in contests):
        return request_unless_running(context, leaderboards.leaderboards_contest_job.name)
    return dg.SkipReason(f"none of {len(contests)} contests is on at {now:%Y-%m-%d %H:%M}")


def follow_custom_race(context: dg.ScheduleEvaluationContext) -> Request:
    """Refreshes the race during its 48 hours; the cron alone would do so again every June."""
    since_start = context.scheduled_execution_time - CUSTOM_RACE_START
    if timedelta(0) <= since_start < CUSTOM_RACE_LENGTH:
        return request_unless_running(context, leaderboards.leaderboards_custom_race_job.name)
    return dg.SkipReason(f"the race was on for 48 hours from {CUSTOM_RACE_START.isoformat()}")


def follow_game_weeks(context: dg.ScheduleEvaluationContext) -> Request:
    """Reports of the game week that ended last."""
    request = request_unless_running(context, analytics.reports_weekly_job.name)
    if isinstance(request, dg.SkipReason):
        return request
    week_ago = context.scheduled_execution_time - timedelta(days=7)
    return dg.RunRequest(partition_key=WEEKS.get_partition_key_for_timestamp(week_ago.timestamp()))


def lacks_learning() -> str:
    """Why nothing can be learned here: an installation without the extra must not fail daily."""
    try:
        require_installed()
    except ConfigurationError as error:
        return str(error)
    return ""


CHEAT_LEARNING_SCHEDULES = [
    schedule_for(
        cheat_learning.cheats_learning_job.name,
        "0 6 * * 1",
        "A new model of the learned scores, Mondays at 06:00, where the extra `ml` is installed.",
        hindrance=lacks_learning,
    ),
    schedule_for(
        cheat_learning.cheats_review_job.name,
        "30 6 * * *",
        "Runs of the last two days scored for the review queue, daily at 06:30, likewise.",
        hindrance=lacks_learning,
    ),
]

ANALYTICS_SCHEDULES = [
    schedule_for(
        analytics.analytics_daily_job.name,
        "0 4 * * *",
        "Marked days of ClickHouse, then both stores compared, daily at 04:00.",
    ),
    schedule_for(
        analytics.analytics_relations_job.name,
        "0 5 * * 1",
        "Who plays with whom, Mondays at 05:00.",
    ),
    dg.schedule(
        name="reports_weekly_schedule",
        job=analytics.reports_weekly_job,
        cron_schedule="0 18 * * 2",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reports of the game week that ended an hour ago, Tuesdays at 18:00.",
    )(follow_game_weeks),
]

MANIFEST_SCHEDULES = [
    schedule_for(
        manifest.manifest_lookups_job.name,
        "50 3 * * *",
        "ClickHouse's copies of the definitions, daily at 03:50, before both stores are compared.",
    ),
]


def follow_backlog(context: dg.ScheduleEvaluationContext, postgres: PostgresResource) -> Request:
    """Recovers missed ids when any are due and the API may be asked."""
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        missed = backlog.look(connection, postgres.open_settings().crawl_ceiling)
    if missed.gate:
        return dg.SkipReason(f"the API is off: {missed.gate}; {missed.due} missed ids are due")
    if not missed.due:
        return dg.SkipReason("no missed id is due")
    return request_unless_running(context, recovery.recovery_missed_job.name)


def follow_gaps(context: dg.ScheduleEvaluationContext, postgres: PostgresResource) -> Request:
    """Sweeps gaps whose round has come while the API may be asked.

    Once a day a run comes without one: it looks around missed ids, and names gaps that are too
    long to be swept unasked.
    """
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        open_ = gaps.look(connection, postgres.open_settings().crawl_ceiling)
    if open_.gate:
        return dg.SkipReason(f"the API is off: {open_.gate}; {open_.due} gaps are due")
    if not open_.due and context.scheduled_execution_time.time() != GAPS_DAILY:
        return dg.SkipReason("no gap is due")
    return request_unless_running(context, recovery.recovery_gaps_job.name)


LEADERBOARD_SCHEDULES = [
    schedule_for(
        leaderboards.leaderboards_raid_job.name, "5 9 * * *", "Raid ranks, daily at 09:05."
    ),
    schedule_for(
        leaderboards.leaderboards_global_job.name, "5 10 * * *", "Global ranks, daily at 10:05."
    ),
    schedule_for(
        leaderboards.leaderboards_world_first_job.name,
        "0 17 * * *",
        "World-first races and the scores from them, daily at the reset, 17:00.",
    ),
    schedule_for(
        leaderboards.leaderboards_version_job.name,
        "0 19 * * *",
        "Boards by activity version and the custom race, daily at 19:00.",
    ),
    dg.schedule(
        name="leaderboards_contest_schedule",
        job=leaderboards.leaderboards_contest_job,
        cron_schedule="*/5 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="World-first races every 5 minutes while a contest is on.",
    )(follow_contests),
    dg.schedule(
        name="leaderboards_custom_race_schedule",
        job=leaderboards.leaderboards_custom_race_job,
        cron_schedule="*/3 * 13-15 6 *",  # only the race's days: else 480 skipped ticks a day
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The custom race every 3 minutes during its 48 hours from 2026-06-13 17:00; "
        "otherwise the schedule of the version boards refreshes it once a day.",
    )(follow_custom_race),
]

QUALITY_SCHEDULES = [
    schedule_for(
        quality.quality_job.name, "0 4 * * *", "Every asset check, daily at 04:00: the quiet hour."
    ),
]

RECOVERY_SCHEDULES = [
    dg.schedule(
        name="recovery_missed_schedule",
        job=recovery.recovery_missed_job,
        cron_schedule="*/15 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Missed ids every 15 minutes, when any are due and the API is on.",
    )(follow_backlog),
    dg.schedule(
        name="recovery_gaps_schedule",
        job=recovery.recovery_gaps_job,
        cron_schedule="*/15 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Gaps every 15 minutes, when any are due and the API is on; the neighbours of "
        "missed ids at least daily, at 04:45.",
    )(follow_gaps),
]
CHEAT_SCHEDULES = [
    schedule_for(
        cheats_levels_job.name,
        "30 5,13,19,23 * * *",
        "Cheat levels, the blacklist and the report, daily at 05:30, 13:30, 19:30 and 23:30.",
    )
]
CLAN_SCHEDULES = [
    schedule_for(
        clans_job.name,
        "0 12 * * 1",
        "Clans of the top players, all their members, then the clans' ranks, Mondays at 12:00.",
    )
]


def _for_real(op: dg.OpDefinition) -> dict[str, Any]:
    """A repair previews unless told otherwise."""
    return {"ops": {op.name: {"config": {"dry_run": False}}}}


PLAYER_SCHEDULES = [
    schedule_for(
        activity_history_update.name,
        "0 3 * * 1",
        "Histories that were not walked for 25 weeks, 2500 of them, Mondays at 03:00.",
        _for_real(activity_history_update),
    ),
    schedule_for(
        stale_players.name,
        "30 3 * * *",
        "Players who were not crawled for 30 days, 5000 of them, daily at 03:30.",
        _for_real(stale_players),
    ),
    schedule_for(
        players_upkeep_job.name,
        "0 5 * * 0",
        "Sums of best times and search scores against what they follow from, Sundays at 05:00.",
    ),
]

CHEAT_CHECK_SCHEDULES = [
    schedule_for(
        cheat_norms_job.name,
        "20 4 * * *",
        "What clears of activities without numbers usually look like, daily at 04:20.",
    ),
]

UPKEEP_SCHEDULES = [
    schedule_for(
        upkeep.prune_ledgers.name,
        "0 4 * * *",
        "Ledgers of the stream past their retention, daily at 04:00.",
        _for_real(upkeep.prune_ledgers),
    ),
    schedule_for(
        upkeep.prune_dagster_events.name,
        "30 4 * * 0",
        "Dagster's own event log, Sundays at 04:30.",
        _for_real(upkeep.prune_dagster_events),
    ),
]
