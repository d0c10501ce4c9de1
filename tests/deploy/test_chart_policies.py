"""What a cluster's admission rules and a night on call ask of every pod, whatever the values.

Each test runs over all sets of values: a switch that is rarely used must not open what the others
close.
"""

import re

import pytest
import requests

from raidhub_dagster.monitoring import health
from streaming.atlas.crawler import Options as AtlasOptions
from streaming.hermes import process as hermes
from streaming.zeus import proxy
from streaming.zeus.process import DRAIN_S
from tests.support.chart import Pod, Render, rendered_set, strings
from tests.support.pods import (
    amount,
    unbounded,
    unlocked,
    unversioned,
    unwritable,
    written_secrets,
)

_STREAM = ("atlas", "hermes", "relay", "zeus")
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def test_every_container_is_locked_in(rendered: Render) -> None:
    """Clusters that enforce the `restricted` standard would refuse the pod.

    Elsewhere a hole in a library would be one in the node.
    """
    assert unlocked(rendered.pods()) == []


def test_no_pod_shares_the_node(rendered: Render) -> None:
    """But zeus, whose source addresses are the node's."""
    sharing = {
        pod.component
        for pod in rendered.pods()
        if any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        or any("hostPath" in volume for volume in pod.spec.get("volumes", []))
    }
    assert sharing <= {"zeus"}


def test_every_container_says_what_it_needs_and_may_take(rendered: Render) -> None:
    """Without requests a node is filled until everybody starves.

    Without a limit of memory one leak takes the neighbours with it.
    """
    assert unbounded(rendered.pods()) == []


def test_every_volume_has_a_size_that_is_one(rendered: Render) -> None:
    """`1Gii` passes every schema and is refused when somebody installs."""
    sizes = [
        volume["emptyDir"]["sizeLimit"]
        for pod in rendered.pods()
        for volume in pod.spec.get("volumes", [])
        if "emptyDir" in volume
    ]
    claims = rendered.of("PersistentVolumeClaim")
    for stateful in rendered.of("StatefulSet"):
        claims += stateful["spec"]["volumeClaimTemplates"]
    sizes += [claim["spec"]["resources"]["requests"]["storage"] for claim in claims]
    assert all(amount(size) > 0 for size in sizes)


def test_every_image_is_one_release(rendered: Render) -> None:
    """`latest` is another program after each restart, and nobody can go back to the last one."""
    assert unversioned(rendered.pods()) == []


def test_everything_that_stays_is_probed(rendered: Render) -> None:
    """A process that hangs is alive for Kubernetes until somebody asks it something."""
    wrong = []
    for pod in rendered.pods():
        for container in pod.main if pod.is_long_running else []:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for kind in ("livenessProbe", "readinessProbe"):
                probe = container.get(kind, {})
                asked = {
                    how["port"] for how in probe.values() if isinstance(how, dict) and "port" in how
                }
                if not probe or not asked <= {*ports, *ports.values()}:
                    wrong.append((str(pod), container["name"], kind, probe))
    assert wrong == []


def test_the_stream_is_asked_what_it_answers(rendered: Render) -> None:
    """A path that nobody serves is 404 for ever: Kubernetes kills what is healthy, again and again.

    Liveness does not look at the stores: their outage must not restart those who wait for them.
    """
    probes = {
        (pod.component, kind, probe["path"], *(h["name"] for h in probe.get("httpHeaders", [])))
        for pod in rendered.pods()
        for container in pod.main
        for kind in _PROBES
        if pod.component in _STREAM and kind in container
        for probe in [container[kind]["httpGet"]]
    }
    assert probes
    with health.serve(0, {"store": lambda: "away"}, variable="ATLAS_METRICS_PORT") as server:
        for component, kind, path, *headers in sorted(probes):
            if component == "zeus":
                assert (path, headers) == ("/", [proxy._PROBE])
                continue
            answer = requests.get(f"http://127.0.0.1:{server.port}{path}", timeout=10)
            assert answer.status_code == (503 if kind == "readinessProbe" else 200), (kind, path)


def test_every_pod_outlives_its_drain(rendered: Render) -> None:
    """Killed before it has drained, hermes does the work twice.

    Atlas leaves its leases to run out.
    """
    drains = {
        "hermes": hermes._GRACE_S,
        "relay": hermes._GRACE_S,
        "atlas": AtlasOptions().grace_s,
        "zeus": DRAIN_S,
    }
    short = []
    for pod in rendered.pods():
        if pod.component in drains:
            grace = pod.spec["terminationGracePeriodSeconds"] - _pause(pod)
            if grace < drains[pod.component] + 10:
                short.append((str(pod), grace))
    assert short == []


def test_the_last_step_of_a_migration_waits_for_old_pods() -> None:
    """Helm calls a roll-out done while they drain: the columns that they still write would go.

    Unasked it is not done at all: `helm rollback` would bring back code that needs what is gone.
    """
    asked = rendered_set("everything")
    graces = [
        pod.spec.get("terminationGracePeriodSeconds", 30)  # Kubernetes' default
        for pod in asked.pods()
        if pod.is_long_running
    ]
    job = asked.one("Job", "raidhub-migrate-post")
    ((sleep, seconds),) = (c["command"] for c in job["spec"]["template"]["spec"]["initContainers"])
    assert sleep == "sleep"
    assert max(graces) < int(seconds) < job["spec"]["activeDeadlineSeconds"]
    usual = rendered_set("production")
    assert usual.names("Job") == {"raidhub-migrate-pre"}
    assert "--set migrations.post=true" in usual.notes  # or nobody would ask


def _pause(pod: Pod) -> int:
    """Seconds of the grace that pass before the process is told."""
    pauses: list[int] = [
        container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        for container in pod.main
    ]
    return max(pauses)


def test_only_those_who_ask_the_cluster_hold_a_token(rendered: Render) -> None:
    """A token in a pod is what an intruder looks for first; the stream never asks the cluster."""
    holders = {
        pod.component
        for pod in rendered.pods()
        if pod.spec.get("automountServiceAccountToken") is not False
    }
    assert holders <= {"webserver", "readonly", "daemon"}


def test_no_secret_is_written_into_a_manifest(rendered: Render) -> None:
    """A manifest is kept in Helm's history, in git and in everybody's terminal."""
    assert rendered.of("Secret") == []
    assert written_secrets(rendered.pods()) == []
    logins = [
        text for text in strings(list(rendered.manifests)) if re.search(r"://[^/\s@]+@", text)
    ]
    assert logins == []


def test_what_must_be_written_is_on_a_volume(rendered: Render) -> None:
    """The root file system is read-only: a folder that is not mounted fails at the first report."""
    assert unwritable(rendered.pods()) == []


@pytest.mark.parametrize("bad", ["1Gii", "1 Gi", "", "-1", "1g"])
def test_a_bad_quantity_is_seen(bad: str) -> None:
    with pytest.raises(AssertionError):
        amount(bad)
