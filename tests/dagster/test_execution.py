"""Where steps are executed: processes on one machine, pods where the instance launches pods."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.executor.in_process import InProcessExecutor
from dagster._core.executor.multiprocess import MultiprocessExecutor
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster_k8s.executor import K8sStepHandler

from raidhub_dagster.daemon import POOLS, prepare
from raidhub_dagster.definitions import build_defs
from raidhub_dagster.execution import pods_or_in_process
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.migrations import prepare_history
from raidhub_dagster.storage.postgres import connect
from tests.dagster.home import ROOT, dagster_environment

# Jobs whose steps take minutes to hours. A pod for each step of the others would cost more than it.
HEAVY_JOBS = [
    "analytics_clear_time_job",
    "analytics_daily_job",
    "analytics_rebuild_job",
    "analytics_relations_job",
    "archives_job",
    "cheat_recheck_job",
    "reports_weekly_job",
    "reprocessing_job",
]
HEAVY_STEPS = [
    "archive__pgcr_archive",
    "clickhouse__clear_time_by_day",
    "clickhouse__instance",
    "clickhouse__player_population_by_hour",
    "clickhouse__player_relation_weights_bidirectional",
    "clickhouse__weapon_meta_by_hour",
    "postgres__cheat_recheck",
    "postgres__clickhouse_dirty_day",
    "postgres__reprocessed_pgcr",
]
REPOSITORY = build_defs().get_repository_def()
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "here",
    "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
    "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "me", "user": {}}],
}


def cluster(folder: Path) -> dict[str, Any]:
    """The part of dagster.yaml that makes an instance one of a cluster."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(KUBECONFIG), "utf-8")
    config = {
        "instance_config_map": "instance",
        "service_account_name": "run",
        "job_image": "raidhub/dagster:1",
        "load_incluster_config": False,
        "kubeconfig_file": str(kubeconfig),
    }
    return {
        "run_launcher": {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config},
    }


def executor(
    job_name: str, folder: Path, overrides: Mapping[str, Any], most: int | None = None
) -> dg.Executor:
    """What executes the steps of a run of that job, as the run's process makes it."""
    job = REPOSITORY.get_job(job_name)
    create = job.executor_def.executor_creation_fn
    assert create is not None
    with dg.DagsterInstance.local_temp(str(folder), dict(overrides)) as instance:
        return create(
            dg.InitExecutorContext(
                job=InMemoryJob(job),
                executor_def=job.executor_def,
                executor_config={"max_concurrent": most},
                instance=instance,
            )
        )


def test_one_machine_needs_no_cluster(tmp_path: Path) -> None:
    """The same code location runs in `make demo`, where nobody launches pods."""
    heavy = executor("archives_job", tmp_path, {})
    assert isinstance(heavy, InProcessExecutor)
    chosen = executor("__ASSET_JOB", tmp_path, {}, most=3)
    assert isinstance(chosen, MultiprocessExecutor)
    assert chosen._max_concurrent == 3


@pytest.mark.parametrize("job_name", ["archives_job", "__ASSET_JOB"])
@pytest.mark.parametrize(("most", "pods"), [(None, 8), (20, 20)])
def test_on_a_cluster_each_step_gets_a_pod(
    tmp_path: Path, job_name: str, most: int | None, pods: int
) -> None:
    """A backfill from the catalog runs in `__ASSET_JOB`: it must spread like the job of its own."""
    found = executor(job_name, tmp_path, cluster(tmp_path), most)
    assert isinstance(found, StepDelegatingExecutor)
    assert isinstance(found._step_handler, K8sStepHandler)
    assert found._max_concurrent == pods


def test_heavy_jobs_spread_and_their_steps_say_how_large_they_are() -> None:
    """Without a size a step gets the pod of a small run, and is killed where its memory ends."""
    spreading, sized = [], set()
    for name in REPOSITORY.job_names:
        job = REPOSITORY.get_job(name)
        if job.executor_def is pods_or_in_process:
            spreading.append(name)
            assert resources(job.tags)["requests"] == {"cpu": "250m", "memory": "512Mi"}
            for node in job.graph.node_defs:
                if node.tags:  # checks and reports are small
                    sized.add(node.name)
                    assert resources(node.tags)["limits"] == {"cpu": "1", "memory": "2Gi"}
    assert sorted(spreading) == HEAVY_JOBS
    assert sorted(sized) == HEAVY_STEPS


def resources(tags: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tags["dagster-k8s/config"])["container_config"]["resources"]
    return found


def test_dagsters_database_is_prepared_before_anything_of_it_starts(
    postgres: dict[str, Any],
    settings_for: Callable[..., Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster has no `raidhub up`: without it every process of Dagster fails at its start."""
    name = f"{postgres['postgres_db']}_history"
    prepare_history(settings_for(postgres), name=name)
    environment = dagster_environment({**postgres, "postgres_db": name}, tmp_path)
    command = [sys.executable, "-m", "raidhub_dagster.daemon", "prepare", "--pool", "archives", "8"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    try:
        assert done.returncode == 0, done.stderr
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        again = CliRunner().invoke(prepare, ["--pool", "bungie", "5"])
        assert again.exit_code == 0, again.output
        with dg.DagsterInstance.get() as instance:
            limits = {
                limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()
            }
        assert limits == {**POOLS, "archives": 8, "bungie": 5}
    finally:
        with closing(connect(settings_for(postgres), "pytest")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def test_the_chart_knows_the_pools() -> None:
    """Or a limit in its values is refused, or fails in a hook."""
    schema = json.loads((ROOT / "helm" / "raidhub" / "values.schema.json").read_text("utf-8"))
    pools = schema["properties"]["dagster"]["properties"]["pools"]
    assert sorted(pools["properties"]) == sorted(POOLS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--pool", "archive", "8"], "'archive' is not one of"),
        (["--pool", "archives", "0"], "0 is not in the range x>=1"),
        ([], "DAGSTER_HOME is not set"),
    ],
    ids=["unknown pool", "no limit", "no home"],
)
def test_a_wrong_preparation_is_refused(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool with a typing error would leave the real one at its limit, and nobody would know."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    done = CliRunner().invoke(prepare, arguments)
    assert (done.exit_code, told in done.output) == (2, True), done.output
