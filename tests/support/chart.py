"""The chart as a cluster is given it: rendered with a set of values, parsed, taken apart.

`kubernetes_errors` holds a manifest against the schemas of Kubernetes, and of the operators' kinds.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml
from jsonschema import Draft202012Validator
from kubernetes_validate.utils import all_versions, schema_contents
from referencing import Registry, Resource

from raidhub_dagster.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "raidhub"
RELEASE = "raidhub"
NAMESPACE = "games"
# What the chart promises to run on, of what there are schemas for.
VERSIONS = tuple(
    version
    for version in dict.fromkeys(all_versions())
    if (1, 30) <= tuple(map(int, version.split(".")[:2])) <= (1, 37)
)

Manifest = dict[str, Any]
Values = Mapping[str, Any]

_SCHEMAS = ROOT / "tests" / "deploy" / "schemas"
_LONG_RUNNING = ("Deployment", "StatefulSet")


class _StrictLoader(yaml.CSafeLoader):  # type: ignore[misc]  # no types upstream
    """As Kubernetes reads: a key given twice is an error, not the last one's value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} twice", node.start_mark
                )
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


@dataclass(frozen=True)
class Pod:
    """The pods of one workload, as its template describes them."""

    workload: Manifest
    template: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.workload['kind']}/{self.workload['metadata']['name']}"

    @property
    def is_long_running(self) -> bool:
        return self.workload["kind"] in _LONG_RUNNING

    @property
    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.template["metadata"].get("labels", {})
        return found

    @property
    def component(self) -> str:
        """atlas, hermes, webserver, ...: what its labels call it."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def spec(self) -> dict[str, Any]:
        found: dict[str, Any] = self.template["spec"]
        return found

    @property
    def main(self) -> list[dict[str, Any]]:
        """Its containers but for those that only prepare."""
        found: list[dict[str, Any]] = self.spec["containers"]
        return found

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.main]

    def is_selected_by(self, selector: Mapping[str, Any]) -> bool:
        """True when `selector` (`matchLabels`, `matchExpressions`; empty: everything) is met."""
        return selects(selector, self.labels)


@dataclass(frozen=True)
class Render:
    """All manifests of one set of values."""

    manifests: tuple[Manifest, ...]
    notes: str

    def of(self, *kinds: str) -> list[Manifest]:
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def names(self, kind: str) -> set[str]:
        return {manifest["metadata"]["name"] for manifest in self.of(kind)}

    def one(self, kind: str, name: str) -> Manifest:
        (found,) = (m for m in self.of(kind) if m["metadata"]["name"] == name)
        return found

    def pods(self) -> list[Pod]:
        kept = [Pod(m, m["spec"]["template"]) for m in self.of(*_LONG_RUNNING, "Job")]
        timed = self.of("CronJob")
        return kept + [Pod(m, m["spec"]["jobTemplate"]["spec"]["template"]) for m in timed]


def values_file(name: str) -> Values:
    """One of the files beside the chart's own values."""
    found: Values = yaml.safe_load((CHART / name).read_text("utf-8"))
    return found


_MONITORING = {
    part: {"enabled": True} for part in ("serviceMonitor", "prometheusRule", "dashboards")
}
_LOGIN = {
    "ingress": {"enabled": True, "host": "raidhub.example.org", "tlsSecret": "raidhub-tls"},
    "oauth2Proxy": {
        "enabled": True,
        "issuerUrl": "https://login.example.org",
        "emailDomains": ["example.org"],
    },
}
_READONLY = {
    "dagster": {"readonly": {"enabled": True, "replicas": 2}},
    "ingress": {
        "enabled": True,
        "host": "raidhub.example.org",
        "readonlyHost": "show.example.org",
        "unauthenticated": True,
    },
}
# Sets of values by name. Whatever a person can switch is on in one of them at least.
SETS: Mapping[str, Values] = {
    "defaults": {},
    "dev": values_file("values-dev.yaml"),
    "production": values_file("values-production.yaml"),
    "trial": {
        "trial": {store: {"enabled": True} for store in ("postgresql", "clickhouse", "rabbitmq")}
    },
    "keda": {"autoscaling": {"kind": "keda"}, "monitoring": _MONITORING},
    "hpa": {"autoscaling": {"kind": "hpa"}},
    "host network": {
        **_LOGIN,
        "listen": "::",
        "zeus": {"hostNetwork": True, "ipv6": "2001:db8::1000", "addresses": 64},
    },
    "several zeus": {
        "zeus": {
            "hostNetwork": True,
            "nodes": {
                "one": {"ipv6": "2001:db8:1::1000", "nodeSelector": {"zeus": "one"}},
                "two": {"ipv6": "2001:db8:2::1000", "nodeSelector": {"zeus": "two"}},
            },
        }
    },
    "login": _LOGIN,
    "readonly": _READONLY,
    "elsewhere": {
        "zeus": {"enabled": False},
        "settings": {"ZEUS_HOST": "zeus.example.org"},
        "migrations": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "topologyKeys": [],
        "dagster": {"shared": {"existingClaim": "raidhub-files"}},
    },
    "everything": {
        **_LOGIN,
        "image": {"pullSecrets": [{"name": "registry"}]},
        "secrets": {name: {} for name in Settings.secret_variables()}
        | {"ZEUS_API_KEYS": {"existingSecret": "keys", "key": "all"}},
        "autoscaling": {"kind": "keda"},
        "monitoring": _MONITORING,
        "migrations": {
            "post": True,
            "settings": {"POSTGRES_USER": "owner"},
            "secrets": {"POSTGRES_PASSWORD": {"existingSecret": "owner"}},
        },
        "networkPolicy": {"archives": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]},
        "dagster": {
            "readonly": {"enabled": True},
            "pools": {"bungie": 5},
            "instance": {"concurrency": {"runs": {"max_concurrent_runs": 25}}},
        },
        "zeus": {
            "tolerations": [{"key": "zeus", "operator": "Exists"}],
            "priorityClassName": "high",
        },
    },
}


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def render(
    values: Values | None = None, *, name: str = RELEASE, namespace: str = NAMESPACE
) -> Render:
    """What `helm install NAME` would send. Raises HelmError, or YAMLError for a broken document."""
    texts = chart().render(dict(values or {}), name=name, namespace=namespace)
    notes = "".join(text for path, text in texts.items() if path.endswith("NOTES.txt"))
    manifests = [
        document
        for path, text in texts.items()
        if not path.endswith("NOTES.txt")
        for document in yaml.load_all(text, _StrictLoader)
        if document is not None
    ]
    return Render(tuple(manifests), notes)


@cache
def rendered_set(name: str) -> Render:
    """`SETS[name]`, rendered once a process; nobody changes what is in it."""
    return render(SETS[name])


def instance_config(rendered: Render) -> dict[str, Any]:
    """dagster.yaml as all Dagster processes read it."""
    (text,) = (
        config_map["data"]["dagster.yaml"]
        for config_map in rendered.of("ConfigMap")
        if "workspace.yaml" in config_map["data"]
    )
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Kubernetes' rule for label selectors; an empty one selects everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions", []):
        has, values = term["key"] in labels, term.get("values", [])
        holds = {
            "In": labels.get(term["key"]) in values,
            "NotIn": labels.get(term["key"]) not in values,
            "Exists": has,
            "DoesNotExist": not has,
        }[term["operator"]]
        if not holds:
            return False
    return True


def kubernetes_errors(manifest: Manifest, version: str) -> list[str]:
    """What Kubernetes `version` would not take of it, each with its path; unknown fields count."""
    validator = _validator(manifest["kind"], manifest["apiVersion"], version)
    name = f"{manifest['kind']}/{manifest['metadata']['name']}"
    return [f"{name} {e.json_path}: {e.message}" for e in validator.iter_errors(manifest)]


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    """Raises FileNotFoundError for a kind that nobody has a schema of."""
    group, _, number = api_version.rpartition("/")
    own = _SCHEMAS / f"{kind.lower()}.json"
    if own.is_file():
        return Draft202012Validator(json.loads(own.read_text("utf-8")))
    # The library's own `validate` reads the definitions anew for each manifest: 65 ms instead of 2.
    prefix = f"{group.partition('.')[0]}-" if group else ""
    folder = f"kubernetes-json-schema/v{version}-local-strict"
    schema = schema_contents(f"{folder}/{kind.lower()}-{prefix}{number}.json", version)
    return Draft202012Validator(schema, registry=_definitions(folder, version))


@cache
def _definitions(folder: str, version: str) -> Registry[Any]:
    contents = schema_contents(f"{folder}/_definitions.json", version)
    definitions: Resource[Any] = Resource.from_contents(contents)
    return definitions @ Registry()


def strings(value: Any) -> Iterator[str]:
    """Every text in a manifest, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
