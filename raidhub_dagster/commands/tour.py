"""Materializes every group of assets by runs in the running Dagster, for `raidhub demo`.

Jobs of one wave run beside each other, a wave waits for the one before. Archives and blocks are
dynamic partitions, which a sensor adds every ten minutes: here they are added at once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from dagster import DagsterInstance, DagsterRunStatus
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError

from raidhub_dagster.archives.sample import write_sample
from raidhub_dagster.archives.source import Span
from raidhub_dagster.errors import TransientError
from raidhub_dagster.stack.lifecycle import Stack
from raidhub_dagster.stack.process import UnhealthyError, wait_until
from raidhub_dagster.storage.clickhouse_reports import week_of
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.reprocess import find_blocks
from raidhub_dagster.storage.verify import played

_ENDED = frozenset({DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED})
_LIMIT_S = 600
_RESET = timedelta(hours=17)  # game days and weeks begin at 17:00, weeks on Tuesday
_ARCHIVED = 100  # reports of the sample archive
_DAYS = timedelta(days=13)  # rebuilt before the newest one; some raids are years old


@dataclass(frozen=True)
class Job:
    """One run: of job `name`, with `config` for its steps, of a partition or a range of them."""

    name: str
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    partition: str = ""
    until: str = ""  # the last partition of a range that begins with `partition`

    @property
    def run_config(self) -> dict[str, Any]:
        steps = {step: {"config": dict(config)} for step, config in self.config.items()}
        return {"ops": steps} if steps else {}

    @property
    def tags(self) -> dict[str, str]:
        if self.until:
            return {
                "dagster/asset_partition_range_start": self.partition,
                "dagster/asset_partition_range_end": self.until,
            }
        return {"dagster/partition": self.partition} if self.partition else {}


def waves(archive: str, blocks: Sequence[str], first: datetime, last: datetime) -> list[list[Job]]:
    """What runs, in order, when raids were played from `first` to `last`."""
    days = str(first.date()), str(last.date())
    begun = (first - _RESET).date(), (last - _RESET).date()
    week = [week_of(day) for day in begun]
    short = {"limit_s": 15.0}  # what is left then is for the schedules
    return [
        [
            Job("manifest_job"),
            Job("leaderboards_job"),
            Job("recovery_missed_job", {"postgres__missed_pgcrs": short}),
            Job("archives_job", partition=archive),
            Job("analytics_rebuild_job", partition=days[0], until=days[1]),
            Job("cheat_norms_job"),
        ],
        [
            Job("clans_job", {"postgres__top_players": {"top": 3}}),
            Job("analytics_clear_time_job", partition=str(begun[0]), until=str(begun[1])),
            Job("analytics_relations_job"),
            Job("cheats_levels_job"),
            Job("cheat_recheck_job", partition=days[0], until=days[1]),
            *(Job("reprocessing_job", partition=block) for block in blocks),
        ],
        [
            Job("recovery_gaps_job", {"postgres__pgcr_gaps": {**short, "around_missed": False}}),
            Job("players_upkeep_job"),
            Job("reports_weekly_job", partition=str(week[0]), until=str(week[1])),
            Job("analytics_daily_job"),
            Job("cheats_learning_job"),
            Job("leaderboards_job"),  # again: clans, sums of best, cheaters
        ],
        [Job("quality_job"), Job("cheats_review_job")],
    ]


def materialize(stack: Stack, tell: Callable[[str], None]) -> None:
    """Runs all waves and tells a line for each run.

    Raises TransientError with the address of a run that failed.
    """
    settings = stack.environment.settings
    with connected(settings, "raidhub demo") as connection:
        folder = stack.environment.archives
        archive = write_sample(connection, folder, most=_ARCHIVED)
        blocks = [Span(*block).name for block in find_blocks(connection)]
        first, last = played(connection)
        first = max(first, last - _DAYS)
    with DagsterInstance.from_config(str(stack.environment.home / "dagster")) as instance:
        instance.add_dynamic_partitions("archive_file", [archive])
        instance.add_dynamic_partitions("pgcr_block", blocks)
    try:
        client = DagsterGraphQLClient(
            "127.0.0.1", port_number=stack.environment.port("dagster-webserver")
        )
        for wave in waves(archive, blocks, first, last):
            run(client, f"{stack.address}/runs", wave, tell)
    except DagsterGraphQLClientError as error:
        raise TransientError(f"Dagster does not run the jobs: {error}") from error


def run(
    client: DagsterGraphQLClient, runs: str, jobs: Iterable[Job], tell: Callable[[str], None]
) -> None:
    """Launches `jobs` and waits for all; `runs` is the address before a run's id."""
    launched = {
        client.submit_job_execution(job.name, run_config=job.run_config, tags=job.tags): job.name
        for job in jobs
    }
    for run_id, name in launched.items():
        tell(f"{name:26} {runs}/{run_id}")

    def all_done() -> None:
        going = []
        for run_id, name in launched.items():
            status = client.get_run_status(run_id)
            if status in _ENDED:
                raise TransientError(f"{name} failed: {runs}/{run_id}")
            if status != DagsterRunStatus.SUCCESS:
                going.append(f"{name} is still {status.value.lower()}: {runs}/{run_id}")
        if going:
            raise UnhealthyError("; ".join(going))

    wait_until(all_done, limit_s=_LIMIT_S, pause_s=1)
