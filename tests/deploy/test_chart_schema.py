"""What the chart makes of values.

Valid ones become manifests that Kubernetes takes, others are refused with the path of what is
wrong.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import helm_python
import pytest
from helm_python.errors import HelmRenderError, HelmValuesError
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.chart import (
    CHART,
    NAMESPACE,
    SETS,
    VERSIONS,
    Manifest,
    Values,
    chart,
    kubernetes_errors,
    render,
    rendered_set,
)

Schema = dict[str, Any]
Path = tuple[str, ...]


@cache
def _distinct() -> list[Manifest]:
    """Each manifest of all sets of values once."""
    found = {
        json.dumps(manifest, sort_keys=True): manifest
        for name in SETS
        for manifest in rendered_set(name).manifests
    }
    return list(found.values())


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(version: str) -> None:
    """Of each release that the chart names, unknown fields included.

    The API server drops those silently, and what they should have protected is open.
    """
    errors = [e for manifest in _distinct() for e in kubernetes_errors(manifest, version)]
    assert errors == []


def _broken(manifest: Manifest, path: str, value: object) -> Manifest:
    copy: Manifest = json.loads(json.dumps(manifest))
    *way, last = path.split(".")
    inner: Any = copy
    for key in way:
        inner = inner[int(key) if key.isdigit() else key]
    inner[last] = value
    return copy


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.template.spec.runAsNonRoot", True),
        ("Deployment", "spec.replicas", "2"),
        ("Service", "spec.ports.0.port", None),
        ("NetworkPolicy", "spec.egres", []),
        ("ScaledObject", "spec.maxReplicas", 3),
        ("TriggerAuthentication", "spec.secretTargetRef.0.secret", "raidhub"),
        ("ServiceMonitor", "spec.endpoints.0.port", 8080),
        ("PrometheusRule", "spec.groups.0.rules.0.fro", "5m"),
    ],
)
def test_a_manifest_that_kubernetes_would_not_take_is_seen(
    kind: str, path: str, value: object
) -> None:
    manifest = rendered_set("everything").of(kind)[0]
    assert kubernetes_errors(manifest, VERSIONS[-1]) == []
    assert kubernetes_errors(_broken(manifest, path, value), VERSIONS[-1]) != []


@pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
def test_helm_finds_nothing_to_complain_about(values: Values) -> None:
    report = helm_python.lint(CHART, dict(values), strict=True, namespace=NAMESPACE)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_names_fit_whatever_the_release_is_called() -> None:
    """Helm allows 53 characters, Kubernetes 63 for most names and all values of labels."""
    rendered = render(SETS["everything"], name="r" * 53, namespace="n" * 63)
    for manifest in rendered.manifests:
        assert len(manifest["metadata"]["name"]) <= 63
    labels = [value for pod in rendered.pods() for value in pod.labels.values()]
    assert max(map(len, labels)) <= 63


# --- Values that are refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("settings.RABBITMQ_PORT", 1.5),
        ("settings.POSTGRES_PORT", "65536"),
        ("settings.POSTGRES_PASSWORD", "hunter2"),
        ("settings.LOG_LEVLE", "info"),
        ("secrets.POSTGRES_PASSWORD", "hunter2"),
        ("hermes.terminationGracePeriodSeconds", 30),
        ("image.stream.tag", "latest"),
        ("dagster.pools.bungies", 3),
    ],
)
def test_a_wrong_value_is_told_with_its_place(path: str, value: object) -> None:
    """Else it shows as pods that do not start, or as a password in everybody's history."""
    *way, last = path.split(".")
    values: dict[str, Any] = {last: value}
    for key in reversed(way):
        values = {key: values}
    with pytest.raises(HelmValuesError, match=last) as refused:
        chart().validate_schema(values)
    assert "/".join(way) in str(refused.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"hermes": {"groups": {"clans": {"topics": ["clan_crawl", "pgcr_crawl"]}}}},
            "pgcr_crawl is in another group",
        ),
        ({"hermes": {"groups": {"clans": None}}}, "no group has clan_crawl"),
        ({"ingress": {"enabled": True}}, "Dagster's UI has no login"),
        (
            {
                "ingress": {
                    "enabled": True,
                    "unauthenticated": True,
                    "readonlyHost": "a.example.org",
                }
            },
            "ingress.readonlyHost needs dagster.readonly.enabled",
        ),
        (
            {"autoscaling": {"kind": "keda"}, "secrets": {"RABBITMQ_PASSWORD": None}},
            "autoscaling.kind keda needs secrets.RABBITMQ_PASSWORD",
        ),
    ],
    ids=["topic twice", "topic nowhere", "no login", "no readonly", "no password"],
)
def test_values_that_contradict_each_other_are_refused(values: Values, told: str) -> None:
    with pytest.raises(HelmRenderError, match=told):
        render(values)


# --- Values that the schema takes -----------------------------------------------------------------


@cache
def _schema() -> Schema:
    found: Schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    return found


def _resolved(schema: Schema) -> Schema:
    """Without `$ref`."""
    while "$ref" in schema:
        own = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**_schema()["$defs"][schema["$ref"].rpartition("/")[2]], **own}
    return schema


def values_of(schema: Schema) -> SearchStrategy[Any]:
    """Whatever `schema` takes, within what the chart's schema uses of JSON schema."""
    schema = _resolved(schema)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(schema["type"], list):
        return st.one_of(*(values_of({**schema, "type": kind}) for kind in schema["type"]))
    return _BY_TYPE[schema["type"]](schema)


def _texts(schema: Schema) -> SearchStrategy[str]:
    ascii_only = st.characters(codec="ascii")
    if "pattern" in schema:
        # Python's `$` also stands before a last line feed, Go's does not.
        pattern = schema["pattern"].replace("$", r"\Z")
        texts = st.from_regex(pattern, alphabet=ascii_only)
    else:
        printed = st.characters(codec="ascii", exclude_categories=["C"])
        texts = st.text(printed, min_size=schema.get("minLength", 0), max_size=12)
    refused = schema.get("not", {}).get("const")
    return texts.filter(lambda text: text != refused)


def _objects(schema: Schema) -> SearchStrategy[dict[str, Any]]:
    known = {name: values_of(inner) for name, inner in schema.get("properties", {}).items()}
    required = {name: known.pop(name) for name in schema.get("required", ())}
    named = st.fixed_dictionaries(required, optional=known)
    if schema.get("minProperties"):
        named = named.filter(bool)
    more = schema.get("additionalProperties")
    if not isinstance(more, dict):
        return named
    others = st.dictionaries(values_of(schema["propertyNames"]), values_of(more), max_size=2)
    return st.tuples(named, others).map(lambda both: both[1] | both[0])


def _lists(schema: Schema) -> SearchStrategy[list[Any]]:
    return st.lists(values_of(schema["items"]), min_size=schema.get("minItems", 0), max_size=2)


_BY_TYPE: Mapping[str, Callable[[Schema], SearchStrategy[Any]]] = {
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "integer": lambda s: st.integers(s.get("minimum", -5), s.get("maximum", 100_000)),
    "number": lambda _: st.floats(-1e6, 1e6),
    "string": _texts,
    "array": _lists,
    "object": _objects,
}


@st.composite
def _groups(draw: st.DrawFn) -> dict[str, Any]:
    """The topics of hermes in other groups; those of the chart are taken away."""
    group = _schema()["$defs"]["group"]
    topics = draw(st.permutations(_schema()["$defs"]["topic"]["enum"]))
    cuts = draw(st.sets(st.integers(1, len(topics) - 1), max_size=3))
    edges = [0, *sorted(cuts), len(topics)]
    names = draw(
        st.lists(
            values_of(_schema()["$defs"]["part"]),
            min_size=len(edges) - 1,
            max_size=len(edges) - 1,
            unique=True,
        )
    )
    found: dict[str, Any] = dict.fromkeys(chart().values["hermes"]["groups"])
    for name, start, end in zip(names, edges[:-1], edges[1:], strict=True):
        found[name] = {**draw(values_of({**group, "type": "object"})), "topics": topics[start:end]}
    return found


def _leaves(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Each value that a person sets by itself: fields that need each other count as one."""
    schema = _resolved(schema)
    if "properties" in schema and "required" not in schema and path != ("hermes", "groups"):
        for name, inner in schema["properties"].items():
            yield from _leaves(inner, (*path, name))
    else:
        yield path, schema


@st.composite
def _some_values(draw: st.DrawFn) -> dict[str, Any]:
    """Some values of the chart changed, within its schema."""
    leaves = dict(_leaves(_schema()))
    found: dict[str, Any] = {}
    for path in draw(st.lists(st.sampled_from(sorted(leaves)), max_size=8, unique=True)):
        is_groups = path == ("hermes", "groups")
        _set(found, path, draw(_groups() if is_groups else values_of(leaves[path])))
    return found


def _set(values: dict[str, Any], path: Path, value: object) -> None:
    *way, last = path
    for key in way:
        values = values.setdefault(key, {})
    values[last] = value


# What one value cannot know of another: the chart refuses it with these words.
_REFUSALS = re.compile(r"(?:" + "|".join(_schema()["properties"]) + r")\.[a-zA-Z.]+")


@given(values=_some_values())
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_schema_takes_kubernetes_takes(values: Values) -> None:
    """Or the chart refuses it in a sentence that names the value.

    A template that breaks in its middle tells people about `nil pointer` and a line of a file that
    they never saw.
    """
    chart().validate_schema(dict(values))
    try:
        rendered = render(values)
    except HelmRenderError as error:
        told = str(error)
        event("refused")
        assert "error calling fail" in told or "error calling required" in told, told
        assert _REFUSALS.search(told.rpartition("error calling")[2]), told
        return
    for manifest in rendered.manifests:
        assert kubernetes_errors(manifest, VERSIONS[-1]) == []
