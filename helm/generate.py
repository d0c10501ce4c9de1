"""Writes what the chart says twice: `python helm/generate.py`.

README.md's table from the comments of values.yaml, and in values.schema.json the names of settings,
secret settings and topics from the code. A test compares all of it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raidhub_dagster.settings import Settings
from streaming.hermes.topics.registry import TOPICS

CHART = Path(__file__).resolve().parent / "raidhub"
_LONGEST_DEFAULT = 60  # characters; what is longer is read in values.yaml

# Given by the chart itself, or of one machine only.
_OWN = frozenset(
    {
        "IPV6",
        "METRICS_HOST",
        "ZEUS_BIND",
        "ATLAS_METRICS_PORT",
        "HERMES_METRICS_PORT",
        "ZEUS_METRICS_PORT",
        "RELAY_METRICS_PORT",
        "MANIFEST_DIR",
        "CHEAT_MODEL_DIR",
        "MISSED_PGCR_LOG_FILE_PATH",
        "PROMETHEUS_HOST",
        "PROMETHEUS_PORT",
        "RAIDHUB_HOME",
        "RAIDHUB_PORT_BASE",
        "RAIDHUB_SIMULATOR_ARGS",
        "RAIDHUB_ATLAS_ARGS",
        "RAIDHUB_ZEUS_ARGS",
        "RAIDHUB_POSTGRES_BIN",
        "RAIDHUB_RABBITMQ_SBIN",
    }
)


def settings_names() -> tuple[list[str], list[str]]:
    """Variables that may stand below `settings`, and those below `secrets`."""
    plain, secret = [], []
    for field in Settings.model_fields:
        name = Settings.names(field)[0]
        if name not in _OWN:
            (secret if name in Settings.secret_variables() else plain).append(name)
    return sorted(plain), sorted(secret)


def schema() -> str:
    """values.schema.json with today's names."""
    found: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    plain, secret = settings_names()
    definitions = found["$defs"]
    for kind, names in (("setting", plain), ("secret", secret)):
        # One property each: a wrong name is told with its place.
        definitions[f"{kind}s"]["properties"] = {
            # Policies open the ports of the stores, so those are numbers.
            n: {"$ref": f"#/$defs/{'port' if n.endswith('_PORT') else kind}"}
            for n in names
        }
    definitions["topic"]["enum"] = sorted(TOPICS)
    return json.dumps(found, indent=2) + "\n"


@dataclass(frozen=True)
class Documented:
    """A value with a comment above it; `path` is of keys, dotted."""

    path: str
    text: str
    default: object


def documented(text: str) -> Iterator[Documented]:
    """The commented values of a values file, in its order."""
    values = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# "))
            continue
        key, colon, _ = stripped.partition(":")
        if not colon or stripped.startswith("-"):
            comment = []  # of the file, or of an item of a list
            continue
        indent = len(line) - len(line.lstrip())
        while path and path[-1][0] >= indent:
            path.pop()
        path.append((indent, key))
        if comment:
            keys = [name for _, name in path]
            default = values
            for name in keys:
                default = default[name]
            yield Documented(".".join(keys), " ".join(comment), default)
        comment = []


def readme() -> str:
    """README.md of the chart."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    rows = [
        f"| `{value.path}` | {_cell(value.text)} | {_default(value.default)} |"
        for value in documented((CHART / "values.yaml").read_text("utf-8"))
    ]
    return "\n".join(
        [
            f"# {chart['name']} {chart['version']}",
            "",
            f"{chart['description']} How to install, scale and upgrade it:"
            " [docs/deployment/kubernetes.md](../../docs/deployment/kubernetes.md).",
            "",
            "Written by `python helm/generate.py` from the comments of values.yaml.",
            "",
            "| value | says | default |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(value: object) -> str:
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "see values.yaml"


if __name__ == "__main__":
    (CHART / "values.schema.json").write_text(schema(), "utf-8")
    (CHART / "README.md").write_text(readme(), "utf-8")
