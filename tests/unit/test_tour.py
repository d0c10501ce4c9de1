"""What the demo runs: partitions that Dagster knows, of jobs that exist."""

from datetime import UTC, datetime

import pytest

from assets.analytics import DAYS, GAME_DAYS
from assets.reports import WEEKS
from raidhub_dagster.commands.tour import waves
from raidhub_dagster.definitions import defs

PARTITIONS = {
    "analytics_rebuild_job": DAYS,
    "cheat_recheck_job": DAYS,
    "analytics_clear_time_job": GAME_DAYS,
    "reports_weekly_job": WEEKS,
}


@pytest.mark.parametrize("hour", [0, 16, 17, 23])
@pytest.mark.parametrize("day", range(1, 8))
def test_ranges_hold_the_first_and_the_last_raid(day: int, hour: int) -> None:
    """A key that is no partition fails the run, and with it a newcomer's first impression."""
    first = datetime(2026, 9, day, hour, 30, tzinfo=UTC)
    last = first.replace(day=day + 13)
    jobs = {job.name: job for wave in waves("1-9", ["0-9"], first, last) for job in wave}
    for name, partitions in PARTITIONS.items():
        keys = partitions.get_partition_keys()
        assert {jobs[name].partition, jobs[name].until} <= set(keys), name
        begin = partitions.time_window_for_partition_key(jobs[name].partition)
        end = partitions.time_window_for_partition_key(jobs[name].until)
        assert begin.start <= first < begin.end, name
        assert end.start <= last < end.end, name


def test_the_demo_runs_jobs_of_every_group_that_dagster_writes() -> None:
    """All groups materialized: what the demo promises."""
    now = datetime(2026, 9, 1, tzinfo=UTC)
    written = {
        asset
        for wave in waves("1-9", ["0-9"], now, now)
        for job in wave
        for asset in defs.resolve_job_def(job.name).asset_layer.executable_asset_keys
    }
    graph = defs.resolve_asset_graph()
    missing = {key for key in graph.materializable_asset_keys if key not in written}
    assert not missing
