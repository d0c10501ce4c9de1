"""What Dagster would ask of the cluster with the chart's instance: Jobs of runs and of their steps.

The API server is emulated; everything between a run and its requests is real. The history is in
SQLite, as for a command typed without a DAGSTER_HOME.
"""

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator
from dagster._core.launcher import LaunchRunContext

from raidhub_dagster.definitions import defs
from raidhub_dagster.execution import HEAVY_STEP, WAITING_RUN
from raidhub_dagster.stack.process import free_port
from tests.support.chart import (
    NAMESPACE,
    VERSIONS,
    Pod,
    Render,
    instance_config,
    kubernetes_errors,
    rendered_set,
)
from tests.support.cluster import Cluster, emulated_cluster
from tests.support.pods import unbounded, unlocked, unversioned, unwritable, written_secrets

HEAVY = "archives_job"  # one step a partition, each in a pod of its own
CODE = ReconstructableRepository.for_module("raidhub_dagster.definitions", "defs")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with emulated_cluster(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def everything() -> Render:
    return rendered_set("everything")


@pytest.fixture
def instance(
    everything: Render, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """The rendered instance. It differs in two lines: here no token of a pod lies on the disk."""
    config = instance_config(everything)
    config["run_launcher"]["config"] |= {
        "load_incluster_config": False,
        "kubeconfig_file": str(cluster.kubeconfig),
    }
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config), "utf-8")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def run_of(instance: dg.DagsterInstance, job: str, **tags: str) -> dg.DagsterRun:
    """A run as the queue hands it to the launcher."""
    definition = defs.resolve_job_def(job)
    return instance.create_run_for_job(
        definition,
        tags={**definition.run_tags, **tags},
        job_code_origin=CODE.get_reconstructable_job(job).get_python_origin(),
    )


def launch(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))


def _settings(container: dict[str, Any]) -> dict[str, Any]:
    return {v["name"]: v.get("value") or v["valueFrom"]["secretKeyRef"] for v in container["env"]}


def _resources(tags: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = tags["dagster-k8s/config"]["container_config"]["resources"]
    return found


def assert_may_run(job: dict[str, Any], rendered: Render) -> Pod:
    """All that holds for pods of the chart holds for this one; returns it."""
    pod = Pod(job, job["spec"]["template"])
    assert [e for version in VERSIONS for e in kubernetes_errors(job, version)] == []
    for rule in (unlocked, unbounded, unversioned, written_secrets, unwritable):
        assert rule([pod]) == []
    assert pod.spec["serviceAccountName"] in rendered.names("ServiceAccount")
    for volume in pod.spec["volumes"]:
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert claim in rendered.names("PersistentVolumeClaim")
    return pod


def test_a_run_is_a_job_as_the_values_say(
    instance: dg.DagsterInstance, cluster: Cluster, everything: Render
) -> None:
    """Otherwise runs start with another image, without their secrets, or not at all."""
    run = run_of(instance, HEAVY)
    launch(instance, run)
    (job,) = cluster.objects("jobs", NAMESPACE)
    pod = assert_may_run(job, everything)
    (container,) = pod.main
    (code,) = (pod for pod in everything.pods() if pod.component == "code")
    assert container["image"] == code.main[0]["image"]
    assert container["resources"] == _resources(WAITING_RUN)
    assert container["args"][:3] == ["dagster", "api", "execute_run"]
    assert pod.component == "run"
    assert pod.labels["dagster/run-id"] == run.run_id
    assert pod.spec["imagePullSecrets"] == [{"name": "registry"}]
    # All that the code server knows; the folders are its own.
    given, known = _settings(container), _settings(code.main[0])
    assert {name: given.get(name) for name in known} == known


def test_a_step_of_a_heavy_job_is_a_job_of_its_own(
    instance: dg.DagsterInstance, cluster: Cluster, everything: Render
) -> None:
    """Otherwise a hundred partitions of an archive are read by one pod, one after another."""
    run = run_of(instance, HEAVY, **{"dagster/partition": "0-9"})
    events = iter(execute_run_iterator(CODE.get_reconstructable_job(HEAVY), run, instance))
    with closing(cast("Generator[dg.DagsterEvent]", events)):  # the pod would never end
        started = next(e for e in events if e.event_type_value == "STEP_WORKER_STARTING")
    (job,) = cluster.objects("jobs", NAMESPACE)
    pod = assert_may_run(job, everything)
    (container,) = pod.main
    assert container["resources"] == _resources(HEAVY_STEP)
    assert container["args"][:3] == ["dagster", "api", "execute_step"]
    assert pod.labels["dagster/op"] == started.step_key
