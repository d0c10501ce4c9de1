"""What the chart repeats of the code, because Helm cannot read it: names, ports, its own README."""

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from raidhub_dagster.settings import Settings
from streaming.hermes.topics.registry import TOPICS

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "raidhub"
HELPERS = (CHART / "templates" / "_helpers.tpl").read_text("utf-8")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = spec_from_file_location("generate", ROOT / "helm" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told_by(helper: str) -> object:
    """The YAML that a named template without logic gives."""
    found = re.search(rf'define "raidhub\.{helper}" -}}}}\n(.*?)\n{{{{- end', HELPERS, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def test_the_readme_and_the_names_of_the_schema_are_todays(generate: ModuleType) -> None:
    """A setting that the schema does not know cannot be set. Cure: `python helm/generate.py`."""
    assert (CHART / "README.md").read_text("utf-8") == generate.readme()
    assert (CHART / "values.schema.json").read_text("utf-8") == generate.schema()


def test_a_value_is_told_with_its_comment_and_default(generate: ModuleType) -> None:
    text = "# File.\n\n# What a is,\n# in two lines.\na:\n  b: 1\n  # Each.\n  c: [x]\n  # Item.\n"
    assert [(v.path, v.text, v.default) for v in generate.documented(text)] == [
        ("a", "What a is, in two lines.", {"b": 1, "c": ["x"]}),
        ("a.c", "Each.", ["x"]),
    ]


def test_no_secret_can_be_a_plain_value(generate: ModuleType) -> None:
    """A password below `settings` would stand in the release, in every pod and in the history."""
    plain, secret = generate.settings_names()
    assert set(secret) == set(Settings.secret_variables())
    assert not set(plain) & set(secret)


def test_ports_are_those_of_the_settings() -> None:
    """The chart gives no port to a process: each listens on its default."""
    ports = told_by("ports")
    assert isinstance(ports, dict)
    settings = {name: field.default for name, field in Settings.model_fields.items()}
    assert ports["zeus"] == settings["zeus_port"]
    for process in ("atlas", "hermes", "relay", "zeus"):
        assert ports[f"{process}-metrics"] == settings[f"{process}_metrics_port"]


def test_every_topic_is_known_to_the_chart() -> None:
    """It refuses groups that leave one out: one that it does not know would wait for ever."""
    assert sorted(told_by("topics")) == sorted(TOPICS)  # type: ignore[call-overload]
