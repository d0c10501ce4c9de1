"""What the chart makes of values: valid ones become manifests that Kubernetes takes, others are
refused with the path of what is wrong."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import helm_python
import pytest
from helm_python.errors import HelmValuesError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.chart import (
    CHART,
    SETS,
    VERSIONS,
    Render,
    chart,
    kubernetes_errors,
    render,
)

Schema = dict[str, Any]
Path = tuple[str, ...]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(rendered: Render, version: str) -> None:
    """Of each release that the chart names, unknown fields included: the API server drops them
    silently, and what they should have protected is open."""
    errors = [e for manifest in rendered.manifests for e in kubernetes_errors(manifest, version)]
    assert errors == []


@pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
def test_helm_finds_nothing_to_complain_about(values: Mapping[str, Any]) -> None:
    report = helm_python.lint(CHART, dict(values), strict=True, namespace="games")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []



# --- Values that the schema takes -----------------------------------------------------------------


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
    """Whatever `schema` takes, within what JSON schemas the chart uses."""
    schema = _resolved(schema)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return st.one_of(*(values_of({**schema, **way, key: None}) for way in schema[key]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if isinstance(schema.get("type"), list):
        return st.one_of(*(values_of({**schema, "type": kind}) for kind in schema["type"]))
    return _BY_TYPE[schema["type"]](schema)


def _texts(schema: Schema) -> SearchStrategy[str]:
    if "pattern" in schema:
        exact = schema["pattern"].removesuffix("$").removeprefix("^")
        return st.from_regex(rf"\A(?:{exact})\Z", alphabet=st.characters(codec="ascii"))
    least = schema.get("minLength", 0)
    return st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=least, max_size=12)


def _objects(schema: Schema) -> SearchStrategy[dict[str, Any]]:
    known = {name: values_of(inner) for name, inner in schema.get("properties", {}).items()}
    required = {name: known.pop(name) for name in schema.get("required", ())}
    named = st.fixed_dictionaries(required, optional=known)
    more = schema.get("additionalProperties")
    if not isinstance(more, dict):
        return named
    names = values_of({"type": "string", **schema.get("propertyNames", {"pattern": "^[a-z]{1,8}$"})})
    others = st.dictionaries(names, values_of(more), max_size=2)
    return st.tuples(named, others).map(lambda both: both[1] | both[0])


_BY_TYPE: Mapping[str, Callable[[Schema], SearchStrategy[Any]]] = {
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
    "integer": lambda s: st.integers(s.get("minimum", -5), s.get("maximum", 100_000)),
    "number": lambda s: st.integers(s.get("minimum", 0), s.get("maximum", 1000)),
    "string": _texts,
    "array": lambda s: st.lists(values_of(s["items"]), min_size=s.get("minItems", 0), max_size=2),
    "object": _objects,
}
