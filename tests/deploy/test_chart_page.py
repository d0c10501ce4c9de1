"""docs/deployment/kubernetes.md, from which people install who never read a line of code."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from raidhub_dagster.cli import raidhub
from tests.support.chart import ROOT, Render, Values, chart, instance_config, render, rendered_set

PAGE = (ROOT / "docs" / "deployment" / "kubernetes.md").read_text("utf-8")
_SNIPPETS = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
# One is the metrics adapter's; all others are values of the chart.
VALUES: list[Values] = [v for text in _SNIPPETS if "rules" not in (v := yaml.safe_load(text))]


def test_its_commands_exist() -> None:
    named = set(re.findall(r"(?:`|-- )raidhub ([a-z]+)", PAGE))
    assert {"migrate", "seed", "queues", "verify"} <= named
    assert named <= set(raidhub.commands) | set(raidhub.list_commands(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("values", VALUES, ids=lambda values: "-".join(values))
def test_its_values_are_taken(values: Values) -> None:
    """Copied from the page, a wrong one ends the first installation with an error of a schema."""
    chart().validate_schema(dict(values))
    assert render(values).manifests


def test_every_value_that_it_names_exists() -> None:
    """Helm takes no unknown value, and nobody guesses what a renamed one is called now."""
    known = chart().values
    paths = re.findall(r"`((?:%s)(?:\.[\w*]+)+)" % "|".join(known), PAGE)  # noqa: UP031
    assert len(paths) > 20
    for path in set(paths) - {"dagster.yaml"}:
        found: Any = known
        for part in path.split("."):
            if part.isupper() or part == "*":  # NAME, or the name of a setting
                break
            assert part in found, path
            found = found[part]


def _wanted(rendered: Render) -> dict[str, set[str]]:
    """Secret -> the keys of it that pods, runs and scalers read."""
    found: dict[str, set[str]] = {}
    for place in _places([*rendered.manifests, instance_config(rendered)]):
        found.setdefault(place["name"], set()).add(place["key"])
    for ingress in rendered.of("Ingress"):
        for tls in ingress["spec"].get("tls", []):
            found.setdefault(tls["secretName"], set())
    return found


def _places(value: Any) -> Iterator[Mapping[str, str]]:
    if isinstance(value, Mapping):
        if "secretKeyRef" in value:
            yield value["secretKeyRef"]
        yield from value.get("secretTargetRef", [])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _places(item)


def test_it_makes_the_secrets_that_pods_read() -> None:
    """With one key less the pods wait for ever in CreateContainerConfigError."""
    told: list[tuple[str, set[str]]] = [
        (name, set(re.findall(r"--from-literal=([\w-]+)=", rest)))
        for name, rest in re.findall(r"create secret (?:generic|tls) (\S+)((?:.*\\\n)*.*)", PAGE)
    ]
    (first, *production) = told
    assert dict([first]) == _wanted(rendered_set("defaults"))
    assert dict(production) == _wanted(rendered_set("production"))


def test_it_makes_the_login_that_the_migrations_use() -> None:
    (role, key) = re.findall(r"CREATE ROLE (\w+) LOGIN CREATEDB CREATEROLE .*-- (\w+)", PAGE)[0]
    job = rendered_set("production").one("Job", "raidhub-migrate-pre")
    schema = job["spec"]["template"]["spec"]["initContainers"][0]
    given = {v["name"]: v.get("value") or v["valueFrom"]["secretKeyRef"] for v in schema["env"]}
    assert given["POSTGRES_USER"] == role
    assert given["POSTGRES_PASSWORD"] == {"name": "raidhub", "key": key}
