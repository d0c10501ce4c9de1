"""A pruned history shows every page as before; only old log lines and observations are gone."""

import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.instance import connected_to_history
from raidhub_dagster.jobs.upkeep import prune_dagster_events
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.dagster_events import DETAILS, STEPS, WATCH, Retention, prune
from tests.dagster.conftest import World
from tests.dagster.home import BIN, dagster_environment
from tests.support.queues import until

LOCATION = """
import dagster as dg

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-06")

@dg.asset(partitions_def=DAYS)
def daily(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("worked")
    if context.partition_key == "2026-01-03":
        raise ValueError("that day is broken")
    return dg.MaterializeResult(metadata={"dagster/row_count": 5})

@dg.asset_check(asset=daily)
def is_good() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, metadata={"rows": 7})

watched = dg.AssetSpec("watched")
by_day = dg.AssetSpec("by_day", partitions_def=DAYS)
defs = dg.Definitions(assets=[daily, watched, by_day], asset_checks=[is_good])
"""

# What the pages of an asset, of its checks and of a run ask for.
PAGES = """
query Pages {
  assetsOrError { ... on AssetConnection { nodes { key { path } assetMaterializations {
    runId partition metadataEntries { label ... on IntMetadataEntry { intValue } } } } } }
  daily: assetNodeOrError(assetKey: {path: ["daily"]}) { ... on AssetNode {
    partitionStats { numMaterialized numFailed numPartitions }
    assetPartitionStatuses { ... on TimePartitionStatuses { ranges { status startKey endKey } } }
    latestMaterializationByPartition(partitions: ["2026-01-01", "2026-01-02"]) { runId timestamp }
    assetChecksOrError { ... on AssetChecks { checks { name
      executionForLatestMaterialization { status runId evaluation { success
        metadataEntries { label } } } } } } } }
  checks: assetCheckExecutions(
    assetKey: {path: ["daily"]}, checkName: "is_good", limit: 10) { id status timestamp }
  watched: assetNodeOrError(assetKey: {path: ["watched"]}) { ... on AssetNode {
    assetObservations(limit: 2) { timestamp metadataEntries { label
      ... on IntMetadataEntry { intValue } } } } }
  byDay: assetNodeOrError(assetKey: {path: ["by_day"]}) { ... on AssetNode {
    assetObservations(partitions: ["2026-01-01"], limit: 1) { partition } } }
  runsOrError { ... on Runs { results { runId status startTime endTime jobName
    stats { ... on RunStatsSnapshot {
      stepsSucceeded stepsFailed materializations startTime endTime } }
    stepStats { stepKey status startTime endTime } } } }
}
"""


@pytest.fixture
def home(
    postgres: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Variables of a Dagster home whose history is the test's database."""
    own = dagster_environment(postgres, tmp_path / "home")
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return own


@pytest.fixture
def history(home: dict[str, str]) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(home["DAGSTER_HOME"]) as instance:
        yield instance


@pytest.fixture
def location(tmp_path: Path, history: dg.DagsterInstance) -> Path:
    """A code location whose assets ran: two days, one of them failed; many observations."""
    path = tmp_path / "location.py"
    path.write_text(LOCATION)
    names: dict[str, Any] = {}
    exec(path.read_text(), names)  # noqa: S102  the text above
    for day in ("2026-01-01", "2026-01-03"):
        dg.materialize(
            [names["daily"], names["is_good"]],
            partition_key=day,
            instance=history,
            raise_on_error=False,
        )
    for n in range(12):
        history.report_runless_asset_event(
            dg.AssetObservation(
                "watched", metadata={"rows": n}, tags={"dagster/data_version": str(n)}
            )
        )
    for day in ("2026-01-01", "2026-01-01", "2026-01-02"):
        history.report_runless_asset_event(dg.AssetObservation("by_day", partition=day))
    return path


def age(world: World, days: int, where: str = "true") -> None:
    """As if it had happened so long ago."""
    world.run(f"UPDATE event_logs SET timestamp = timestamp - interval '{days} days' WHERE {where}")


def kinds(world: World) -> Counter[str]:
    return Counter(
        dict(
            world.rows(
                "SELECT coalesce(dagster_event_type, 'log line'), count(*)::int FROM event_logs"
                " GROUP BY 1"
            )
        )
    )


def pruned(history: dg.DagsterInstance, *, dry_run: bool = False, **retention: int) -> Counter[str]:
    with connected_to_history(history) as connection:
        kept = Retention(**{"kept_observations": 5, **retention})
        return prune(connection, kept, now=datetime.now(UTC), dry_run=dry_run, batch=20).rows


def ask(port: int, *, steps: bool) -> Any:
    answer = requests.post(f"http://{HOST}:{port}/graphql", json={"query": PAGES}, timeout=60)
    told = answer.json()
    assert "errors" not in told, told["errors"]
    for run in told["data"]["runsOrError"]["results"]:
        if not steps:
            del run["stepStats"], run["stats"]["stepsSucceeded"], run["stats"]["stepsFailed"]
    return told["data"]


def test_every_page_shows_what_it_showed(
    history: dg.DagsterInstance, location: Path, world: World, home: dict[str, str], tmp_path: Path
) -> None:
    """A partition that turns missing is computed again; a year of charts would be empty."""
    port = free_port()
    with (tmp_path / "webserver.log").open("wb") as log:
        server = subprocess.Popen(
            [BIN / "dagster-webserver", "-f", location, "-h", HOST, "-p", str(port)],
            env={**home, "PATH": str(BIN)},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
        try:
            until(lambda: answers(port), limit_s=90)
            age(world, 90)
            before = ask(port, steps=True)
            assert pruned(history).total() > 0
            assert ask(port, steps=True) == before
            age(world, 310)
            of_old_runs = ask(port, steps=False)
            assert pruned(history)["STEP_OUTPUT"] > 0
            assert ask(port, steps=False) == of_old_runs
        finally:
            server.terminate()
            server.wait(30)
    daily, stats = before["daily"], before["daily"]["partitionStats"]
    assert (stats["numMaterialized"], stats["numFailed"]) == (1, 1)
    assert daily["latestMaterializationByPartition"][0] is not None
    assert "FAILED" in {check["status"] for check in before["checks"]}
    rows = [o["metadataEntries"][0]["intValue"] for o in before["watched"]["assetObservations"]]
    assert rows == [11, 10]


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://{HOST}:{port}/server_info", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_details_go_before_steps(history: dg.DagsterInstance, location: Path, world: World) -> None:
    """A run of last quarter still tells which step failed and why."""
    assert location.exists()
    age(world, 90)
    before = kinds(world)
    stats = {r.run_id: history.get_run_step_stats(r.run_id) for r in history.get_runs()}
    preview = pruned(history, dry_run=True)
    assert kinds(world) == before
    gone = pruned(history)
    assert preview == gone
    assert before - kinds(world) == gone
    assert set(gone) <= {"log line", *DETAILS, *WATCH}
    assert gone["ASSET_OBSERVATION"] == 12 - 5  # by_day has fewer than are kept
    assert all(kinds(world)[kind] == before[kind] for kind in STEPS)
    for run_id, told in stats.items():
        now = history.get_run_step_stats(run_id)
        assert [(s.step_key, s.status, s.start_time) for s in now] == [
            (s.step_key, s.status, s.start_time) for s in told
        ]
    assert pruned(history).total() == 0


def test_the_newest_observation_of_a_partition_stays(
    history: dg.DagsterInstance, location: Path, world: World
) -> None:
    assert location.exists()
    age(world, 90)
    gone = pruned(history, kept_observations=1)
    assert gone["ASSET_OBSERVATION"] == 11 + 1
    left = world.rows(
        "SELECT partition FROM event_logs WHERE asset_key LIKE '%%by_day%%' ORDER BY 1"
    )
    assert left == [("2026-01-01",), ("2026-01-02",)]
    # Their tags too: nobody would ever delete them.
    tags = "SELECT value FROM asset_event_tags WHERE asset_key LIKE '%%watched%%'"
    assert world.rows(tags) == [("11",)]


def test_what_is_young_or_still_runs_stays(
    history: dg.DagsterInstance, location: Path, world: World
) -> None:
    """The page of a run that has hung for a month is the one that somebody looks at."""
    assert location.exists()
    assert pruned(history).total() == 0
    age(world, 29)
    assert pruned(history).total() == 0
    age(world, 400)
    world.run("UPDATE runs SET status = 'STARTED'")
    assert set(pruned(history)) <= set(WATCH)


@pytest.mark.parametrize(
    ("retention", "told"),
    [
        ({"details_days": 1}, "details_days: at least 2"),
        ({"steps_days": 10}, "steps_days"),
        ({"kept_observations": 0}, "kept_observations"),
    ],
)
def test_a_retention_that_deletes_what_is_in_use_is_refused(
    history: dg.DagsterInstance, retention: dict[str, Any], told: str
) -> None:
    """The daemon's cursors and run retries read the last hours; the newest observation is state."""
    with pytest.raises(PermanentError, match=told):
        pruned(history, **retention)


def test_the_weekly_job_prunes_the_history_it_is_part_of(
    history: dg.DagsterInstance, location: Path, world: World, store: PostgresResource
) -> None:
    assert location.exists()
    age(world, 90)
    job = dg.GraphDefinition("prune", node_defs=[prune_dagster_events]).to_job(
        resource_defs={"postgres": store}
    )
    config = {"ops": {"prune_dagster_events": {"config": {"dry_run": False}}}}
    done = job.execute_in_process(run_config=config, instance=history)
    assert done.success
    (output,) = [e for e in done.all_events if e.event_type_value == "STEP_OUTPUT"]
    assert output.step_output_data.metadata["rows"].value
    old = "SELECT count(*) FROM event_logs WHERE dagster_event_type IS NULL AND timestamp < %s"
    assert world.rows(old, (datetime.now(UTC) - timedelta(days=30),)) == [(0,)]


def test_the_connection_is_closed_at_the_end(history: dg.DagsterInstance) -> None:
    """One left open a week would end at the server's limit."""
    with connected_to_history(history) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("SELECT current_setting('TimeZone')")
        assert cursor.fetchone() == ("UTC",)
    assert connection.closed
