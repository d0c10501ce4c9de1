"""What a manifest names is there: objects, ports, labels, variables, commands, topics."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli

from raidhub_dagster.cli import raidhub
from raidhub_dagster.daemon import prepare
from raidhub_dagster.monitoring import metrics
from streaming.hermes.process import NAMES
from tests.support.chart import ROOT, SETS, Pod, Render, chart, selects
from tests.support.images import VARIABLES

DEPLOY = ROOT / "deploy"

Reference = tuple[str, str, str]  # who, kind, name


def _references(pod: Pod) -> Iterator[Reference]:
    """The objects without which the pod would not start."""
    who = str(pod)
    if "serviceAccountName" in pod.spec:
        yield who, "ServiceAccount", pod.spec["serviceAccountName"]
    for pull in pod.spec.get("imagePullSecrets", []):
        yield who, "Secret", pull["name"]
    for volume in pod.spec.get("volumes", []):
        yield from _of_volume(who, volume)
    for container in pod.containers:
        for source in container.get("envFrom", []):
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    yield who, kind, source[key]["name"]
        for variable in container.get("env", []):
            given = variable.get("valueFrom", {})
            for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                if key in given:
                    yield who, kind, given[key]["name"]


def _of_volume(who: str, volume: Mapping[str, Any]) -> Iterator[Reference]:
    for source in (volume, *volume.get("projected", {}).get("sources", [])):
        if "configMap" in source:
            yield who, "ConfigMap", source["configMap"]["name"]
        if "secret" in source:
            yield who, "Secret", source["secret"].get("secretName") or source["secret"]["name"]
    if "persistentVolumeClaim" in volume:
        yield who, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def _from_outside(name: str) -> set[str]:
    """Objects that a person makes before the installation: their names stand in the values."""
    values = chart().merge_values(dict(SETS[name]))
    return set(_named(values)) | {pull["name"] for pull in values["image"]["pullSecrets"]}


def _named(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif value and key in ("existingSecret", "existingClaim", "tlsSecret"):
            yield value


def test_every_object_that_a_pod_names_exists(rendered: Render, chosen: str) -> None:
    """A pod whose ConfigMap is missing waits for ever and says so only in its events.

    Secrets come from outside.
    """
    outside = _from_outside(chosen)
    missing = [
        (who, kind, name)
        for pod in rendered.pods()
        for who, kind, name in _references(pod)
        if name not in rendered.names(kind) | outside
    ]
    assert missing == []


def test_every_key_that_a_pod_names_is_in_its_config_map(rendered: Render) -> None:
    """A mount of a key that is not there makes an empty folder where a file should be."""
    missing = []
    for pod in rendered.pods():
        for volume in pod.spec.get("volumes", []):
            source = volume.get("configMap")
            if source is None:
                continue
            data = rendered.one("ConfigMap", source["name"]).get("data", {})
            items = {item["key"]: item["path"] for item in source.get("items", [])}
            files = set(items.values()) if items else set(data)
            missing += [(str(pod), volume["name"], key) for key in items if key not in data]
            missing += [
                (str(pod), container["name"], mount["subPath"])
                for container in pod.containers
                for mount in container.get("volumeMounts", [])
                if mount["name"] == volume["name"]
                and mount.get("subPath", *list(files)[:1]) not in files
            ]
    assert missing == []


def test_every_mount_has_its_volume_and_every_volume_a_mount(rendered: Render) -> None:
    """The API server refuses the first; the second is what a renamed mount leaves behind."""
    for pod in rendered.pods():
        mounted = {m["name"] for c in pod.containers for m in c.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        claims = {
            claim["metadata"]["name"]
            for claim in pod.workload["spec"].get("volumeClaimTemplates", [])
        }
        assert mounted == volumes | claims, str(pod)
        for container in pod.containers:
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(set(paths)) == len(paths), (str(pod), paths)


def test_every_workload_owns_its_pods_alone(rendered: Render) -> None:
    """Two selectors over the same pods: each controller deletes what the other started."""
    owners = rendered.of("Deployment", "StatefulSet")
    for pod in rendered.pods():
        if not pod.is_long_running:
            continue
        selecting = [
            owner["metadata"]["name"]
            for owner in owners
            if selects(owner["spec"]["selector"], pod.labels)
        ]
        assert selecting == [pod.workload["metadata"]["name"]]


def test_every_service_has_pods_that_listen(rendered: Render) -> None:
    """A selector or a port name that fits nothing answers `connection refused` and says no more."""
    for service in rendered.of("Service"):
        selector = service["spec"]["selector"]
        pods = [
            p
            for p in rendered.pods()
            if p.is_long_running and selects({"matchLabels": selector}, p.labels)
        ]
        assert pods, service["metadata"]["name"]
        for pod in pods:
            ports = _ports(pod)
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                assert target in ports or target in ports.values(), (str(pod), target, ports)


def _ports(pod: Pod) -> dict[str, int]:
    return {
        port.get("name", str(port["containerPort"])): port["containerPort"]
        for container in pod.main
        for port in container.get("ports", [])
    }


def test_every_monitor_finds_its_services(rendered: Render) -> None:
    """One that selects nothing is silent, and so is every alert over what it should have read."""
    for monitor in rendered.of("ServiceMonitor"):
        services = [
            service
            for service in rendered.of("Service")
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        ]
        assert services, monitor["metadata"]["name"]
        for service in services:
            names = {port["name"] for port in service["spec"]["ports"]}
            for endpoint in monitor["spec"]["endpoints"]:
                assert endpoint["port"] in names, (service["metadata"]["name"], names)


def test_every_scaler_has_its_target(rendered: Render) -> None:
    workloads = {
        (w["kind"], w["metadata"]["name"]): w for w in rendered.of("Deployment", "StatefulSet")
    }
    scaled = []
    for scaler in rendered.of("ScaledObject", "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        target = spec["scaleTargetRef"]
        scaled.append((target.get("kind", "Deployment"), target["name"]))
        least = spec.get("minReplicaCount", spec.get("minReplicas"))
        most = spec.get("maxReplicaCount", spec.get("maxReplicas"))
        assert 0 < least <= most, scaler["metadata"]["name"]
        # A number in the manifest is a second opinion: each upgrade would scale back to it.
        assert "replicas" not in workloads[scaled[-1]]["spec"], scaled[-1]
    assert len(set(scaled)) == len(scaled), "two scalers pull at one workload"


def test_every_budget_lets_a_node_be_drained(rendered: Render) -> None:
    """One that selects nothing protects nothing; one that lets no pod go stops all upgrades."""
    for budget in rendered.of("PodDisruptionBudget"):
        spec = budget["spec"]
        covered = [
            p for p in rendered.pods() if p.is_long_running and selects(spec["selector"], p.labels)
        ]
        assert covered, budget["metadata"]["name"]
        assert spec.get("maxUnavailable", 1) != 0
        for pod in covered:
            least = spec.get("minAvailable")
            assert least is None or int(least) < _least_replicas(rendered, pod), str(pod)


def _least_replicas(rendered: Render, pod: Pod) -> int:
    name = pod.workload["metadata"]["name"]
    for scaler in rendered.of("ScaledObject", "HorizontalPodAutoscaler"):
        spec = scaler["spec"]
        if spec["scaleTargetRef"]["name"] == name:
            return int(spec.get("minReplicaCount", spec.get("minReplicas", 1)))
    return int(pod.workload["spec"].get("replicas", 1))


def test_every_ingress_leads_to_a_service(rendered: Render) -> None:
    for ingress in rendered.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = rendered.one("Service", backend["name"])
                known = {port["name"] for port in service["spec"]["ports"]}
                numbers = {port["port"] for port in service["spec"]["ports"]}
                port = backend["port"]
                assert port.get("name") in known or port.get("number") in numbers


def test_every_role_binding_joins_what_exists(rendered: Render) -> None:
    for binding in rendered.of("RoleBinding"):
        assert binding["roleRef"]["name"] in rendered.names(binding["roleRef"]["kind"])
        for subject in binding["subjects"]:
            assert subject["name"] in rendered.names("ServiceAccount")
    assert rendered.of("ClusterRole", "ClusterRoleBinding") == []


def test_nobody_may_do_more_than_the_launcher_needs(rendered: Render) -> None:
    """Reading secrets or running into pods would make a run as powerful as the cluster's owner."""
    allowed = {
        ("batch", "jobs"): {"create", "delete", "get", "list", "watch"},
        ("batch", "jobs/status"): {"get"},
        # Deletion: Dagster takes the pods of a cancelled Job itself.
        ("", "pods"): {"delete", "get", "list", "watch"},
        ("", "pods/log"): {"get"},
        ("", "events"): {"list"},
    }
    for role in rendered.of("Role"):
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    more = set(rule["verbs"]) - allowed.get((group, resource), set())
                    assert not more, (role["metadata"]["name"], group, resource, more)


# --- What the processes are told ------------------------------------------------------------------


# What images of others read, by component.
FOREIGN = {
    "oauth2-proxy": {
        "OAUTH2_PROXY_CLIENT_ID",
        "OAUTH2_PROXY_CLIENT_SECRET",
        "OAUTH2_PROXY_COOKIE_SECRET",
    },
    "postgresql": {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "PGDATA"},
    "rabbitmq": {"RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"},
    "clickhouse": {
        "CLICKHOUSE_USER",
        "CLICKHOUSE_PASSWORD",
        "CLICKHOUSE_DB",
        "CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT",
    },
}
DAGSTER = {"DAGSTER_HOME"}


def test_every_variable_has_a_reader(rendered: Render) -> None:
    """A misspelt one is no error anywhere: the default rules on."""
    ours = VARIABLES | DAGSTER
    unknown = {
        (pod.component, variable["name"])
        for pod in rendered.pods()
        for container in pod.containers
        for variable in container.get("env", [])
        if variable["name"] not in FOREIGN.get(pod.component, ours)
    }
    assert unknown == set()


def test_no_variable_is_given_twice(rendered: Render) -> None:
    """The last one wins, and nobody sees which that is."""
    for pod in rendered.pods():
        for container in pod.containers:
            names = [variable["name"] for variable in container.get("env", [])]
            assert sorted(set(names)) == sorted(names), str(pod)


PROGRAMS: dict[str, click.Command] = {
    "raidhub": raidhub,
    "dagster": create_dagster_cli(),  # type: ignore[no-untyped-call]
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": create_dagster_webserver_cli(),  # type: ignore[no-untyped-call]
    "prepare": prepare,  # python -m raidhub_dagster.daemon prepare
    "sleep": click.Command("sleep", params=[click.Argument(["seconds"], type=click.IntRange(0))]),
}


def understood(command: click.Command, words: list[str]) -> None:
    """Raises click.UsageError when `command` would not take `words`; nothing is run."""
    if isinstance(command, click.Group):
        context = command.make_context(command.name, words)
        _, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert inner is not None
        understood(inner, rest)
    else:
        command.make_context(command.name, words)


def _lines(rendered: Render, chosen: str) -> Iterator[tuple[str, list[str]]]:
    """Each command line of our own images, that of probes included."""
    images = chart().merge_values(dict(SETS[chosen]))["image"]
    for pod in rendered.pods():
        if pod.component in FOREIGN:
            continue
        for container in pod.containers:
            who = f"{pod}/{container['name']}"
            command, arguments = container.get("command", []), container.get("args", [])
            name, _, _ = container["image"].rpartition(":")
            if name == images["stream"]["repository"]:
                yield who, [*(command or ["raidhub"]), *arguments]  # its entry point
            else:
                assert name == images["dagster"]["repository"]
                assert command, f"{who}: the image has no entry point"
                yield who, [*command, *arguments]
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                if "exec" in container.get(kind, {}):
                    yield f"{who} {kind}", container[kind]["exec"]["command"]


def test_every_command_is_one_that_its_program_takes(rendered: Render, chosen: str) -> None:
    """A flag that was renamed shows as a pod that restarts for ever."""
    for who, line in _lines(rendered, chosen):
        program, *words = line
        if line[:3] == ["python", "-m", "raidhub_dagster.daemon"]:
            program, *words = line[3:] if line[3] == "prepare" else ["dagster-daemon", *line[3:]]
        here = str(ROOT / "workspace.yaml")  # a path that exists is asked for
        words = [here if word == "/opt/dagster/home/workspace.yaml" else word for word in words]
        try:
            understood(PROGRAMS[program], words)
        except click.UsageError as error:
            pytest.fail(f"{who}: {' '.join(line)}: {error.format_message()}")


@pytest.mark.parametrize(
    "line",
    [
        ["raidhub", "atlas", "--max-wrokers", "5"],
        ["raidhub", "hermes", "--slots", "0"],
        ["raidhub"],
    ],
    ids=["unknown flag", "value out of range", "no command"],
)
def test_a_wrong_command_is_seen(line: list[str]) -> None:
    with pytest.raises(click.UsageError):
        understood(PROGRAMS[line[0]], line[1:])


@pytest.mark.parametrize("chosen", ["host network", "everything"], indirect=True)
def test_who_appends_the_port_can_tell_it_from_the_address(rendered: Render) -> None:
    """`:::4000` is no address: with IPv6 neither the code server nor the login would start."""
    found = {}
    for pod in rendered.pods():
        words = [word for c in pod.main for word in (*c.get("command", []), *c.get("args", []))]
        if pod.component == "code":  # Dagster's own `host + ":" + port`
            host, port = (words[words.index(flag) + 1] for flag in ("--host", "--port"))
            found["code"] = f"{host}:{port}"
        if pod.component == "oauth2-proxy":
            found["login"] = words[0].removeprefix("--http-address=")
    assert {name: urlsplit(f"//{address}").port for name, address in found.items()} == {
        "code": 4000,
        "login": 4180,
    }


def _hermes(rendered: Render) -> dict[str, list[str]]:
    """Deployment -> the topics that its flags name."""
    found = {}
    for pod in rendered.pods():
        for container in pod.main:
            arguments = container.get("args", [])
            if arguments[:1] == ["hermes"]:
                context = raidhub.get_command(None, "hermes").make_context("hermes", arguments[1:])  # type: ignore[union-attr, arg-type]
                topics = context.params["topics"] or NAMES
                found[pod.workload["metadata"]["name"]] = [
                    topic for topic in topics if topic not in context.params["without"]
                ]
    return found


def test_every_topic_is_consumed_by_one_group(rendered: Render) -> None:
    """One that nobody consumes fills the broker's disk; relay twice is two who send the outbox."""
    consumed = [topic for topics in _hermes(rendered).values() for topic in topics]
    assert sorted(consumed) == sorted(NAMES)


def test_every_scaler_watches_the_queues_of_its_own_consumers(rendered: Render) -> None:
    """Else the backlog of one topic starts workers of another."""
    groups = _hermes(rendered)
    for scaler in rendered.of("ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]["name"]
        for trigger in scaler["spec"]["triggers"]:
            assert trigger["metadata"]["queueName"] in groups[target]
            if "authenticationRef" in trigger:
                assert trigger["authenticationRef"]["name"] in rendered.names(
                    "TriggerAuthentication"
                )
    exported = {metric.name for metric in metrics.QUEUE_DEPTH.collect()}
    for scaler in rendered.of("HorizontalPodAutoscaler"):
        depths = [m["external"]["metric"] for m in scaler["spec"]["metrics"] if "external" in m]
        assert {depth["name"] for depth in depths} == exported
        watched = [depth["selector"]["matchLabels"]["queue_name"] for depth in depths]
        assert sorted(watched) == sorted(groups[scaler["spec"]["scaleTargetRef"]["name"]])


# --- Monitoring -----------------------------------------------------------------------------------


def test_the_alerts_are_those_of_one_machine(rendered: Render) -> None:
    """Two copies would drift, and the runbook describes one of them."""
    for rule in rendered.of("PrometheusRule"):
        source = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
        assert rule["spec"] == source


def test_the_dashboards_are_those_of_one_machine(rendered: Render) -> None:
    source = {
        path.name: path.read_text("utf-8")
        for path in (DEPLOY / "grafana" / "boards").glob("*.json")
    }
    found = {
        name.removeprefix("raidhub-"): text
        for config_map in rendered.of("ConfigMap")
        for name, text in config_map["data"].items()
        if name.endswith(".json")
    }
    if rendered.of("PrometheusRule"):  # the sets of values switch all of monitoring or nothing
        assert found.keys() == source.keys()
    for name, text in found.items():
        assert json.loads(text) == json.loads(source[name]), name


def test_every_job_that_an_alert_names_is_scraped(rendered: Render) -> None:
    """`up{job="atlas"}` of a job that is called otherwise never fires, or always."""
    if not rendered.of("ServiceMonitor"):
        return
    written = (DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8")
    named = {job for match in re.findall(r'job=~?"([^"]+)"', written) for job in match.split("|")}
    scraped = set()
    for monitor in rendered.of("ServiceMonitor"):
        for service in rendered.of("Service"):
            labels = service["metadata"]["labels"]
            if selects(monitor["spec"]["selector"], labels):
                scraped.add(
                    labels.get(monitor["spec"].get("jobLabel", ""), service["metadata"]["name"])
                )
    assert named <= scraped
