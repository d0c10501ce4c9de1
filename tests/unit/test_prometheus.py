"""Prometheus' own tool over everything of deploy/: configuration, alerts, and dashboards."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
BOARDS = sorted((GRAFANA / "boards").glob("*.json"))

# Series that are not ours to define: Prometheus' own, the client library's, the broker's, the
# simulator's. One of them that is misspelt shows as an empty panel only, so they are few.
FOREIGN = {
    "up",
    "process_start_time_seconds",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
    "python_gc_collections_total",
    "rabbitmq_queue_messages_ready",
    "rabbitmq_queue_messages_unacked",
    "rabbitmq_connections",
    "rabbitmq_process_resident_memory_bytes",
    "rabbitmq_disk_space_available_bytes",
    "simulator_requests_total",
    "simulator_head_id",
    "ALERTS",
}


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> str:
    """What it said; fails when it is missing or finds something."""
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed: run ./bootstrap.sh (package prometheus)"
    done = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_the_configuration_is_one_that_prometheus_takes() -> None:
    """With the rules it names: a server that is given a bad file does not start."""
    said = promtool("check", "config", "prometheus.yml")
    assert f"{len(rules())} rules found" in said


def test_alerts_fire_when_they_should_and_not_on_a_normal_day() -> None:
    promtool("test", "rules", "alerts.test.yml")


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    """One that can never fire is worse than none: people rely on it."""
    cases = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text("utf-8"))["tests"]
    told = " ".join(
        sample["labels"]
        for case in cases
        for test in case["promql_expr_test"]
        for sample in test["exp_samples"]
    )
    assert set(re.findall(r'alertname="(\w+)"', told)) == set(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_alert_tells_how_bad_it_is_and_what_to_do(name: str) -> None:
    """At night nobody knows the expression by heart: the runbook's entry has the first steps."""
    rule = alerts()[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert "for" in rule
    annotations = rule["annotations"]
    assert len(annotations["summary"]) < 120
    assert annotations["description"].endswith(".")
    assert annotations["runbook"] == f"docs/operations/runbook.md#{name.lower()}"


def runbook() -> dict[str, str]:
    """Text of each entry, by the alert's name."""
    text = (ROOT / "docs" / "operations" / "runbook.md").read_text("utf-8")
    _, *parts = re.split(r"^### (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_runbook_has_an_entry_for_every_alert_and_no_other() -> None:
    assert list(runbook()) == list(alerts())


@pytest.mark.parametrize("name", alerts())
def test_an_entry_says_what_it_means_where_to_look_what_to_do_and_when_it_is_over(
    name: str,
) -> None:
    """Whoever was woken reads four paragraphs, always in this order."""
    text = runbook()[name]
    assert re.findall(r"^\*\*(\w+):\*\*", text, re.MULTILINE) == ["Means", "Look", "Do", "Over"]
    boards = {path.stem: json.loads(path.read_text("utf-8")) for path in BOARDS}
    for board, told in re.findall(
        r'[Bb]oard\s+([\w-]+),((?:\s*(?:and)?\s*"[^"]+"(?:,(?=\s*"))?)+)', text
    ):
        titles = {panel["title"] for panel in boards[board]["panels"]}
        named = {" ".join(title.split()) for title in re.findall(r'"([^"]+)"', told)}
        assert named <= titles, (board, named - titles)
    # Zeus and Bungie refuse whoever shows no key, which looks like the fault that is looked for.
    asked = re.findall(r"`curl ([^`]*(?:\$ZEUS_HOST|www\.bungie)[^`]*)`", text)
    assert all(request.startswith('-H "X-API-Key: KEY" ') for request in asked)


# --- names of metrics -----------------------------------------------------------------------------

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\{[^}]*\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b")
_OPERATORS = {"and", "or", "unless", "bool", "offset", "by", "on", "without", "inf"}
_SUFFIXES = ("_bucket", "_count", "_sum")


def known_metrics() -> set[str]:
    """Names of docs/metrics.md as they are stored, a histogram's three series included."""
    listed = re.findall(
        r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text("utf-8"), re.MULTILINE
    )
    names = {name for name, kind in listed if kind != "histogram"}
    return names | {n + suffix for n, kind in listed if kind == "histogram" for suffix in _SUFFIXES}


def metrics_in(expression: str) -> set[str]:
    """Names of series in a PromQL expression: every word that is no function, label or operator."""
    text = _STRINGS.sub("", expression)
    text = _LABELS.sub(" ", text)
    text = re.sub(r"\[[^]]*\]", " ", text)
    text = _GROUPING.sub(" ", text)
    text = re.sub(r"\b\d[\w.]*", " ", text)
    return set(_WORDS.findall(re.sub(r"\b\w+\s*\(", "(", text))) - _OPERATORS


def test_the_reader_of_expressions_finds_names_and_nothing_else() -> None:
    """The tests below would pass on anything if it found nothing."""
    found = metrics_in(
        'histogram_quantile(0.5, sum by (le, queue_name) (rate(a_bucket{x="b c"}[5m])))'
        " / on (job) group_left (z) b unless on () ns:c offset 1h > bool 1e3"
    )
    assert found == {"a_bucket", "b", "ns:c"}


def test_rules_read_only_metrics_that_exist() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = {name for rule in rules() for name in metrics_in(rule["expr"])}
    assert used - known_metrics() - FOREIGN - recorded == set()


# --- dashboards -----------------------------------------------------------------------------------

_VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "1h"}


def panels(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in board["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions(board: dict[str, Any]) -> Iterator[str]:
    """Every query, with the dashboard's variables replaced by what Grafana might put there."""
    for panel in panels(board):
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in _VARIABLES.items():
                text = text.replace(name, value)
            yield re.sub(r"\$\w+", ".*", text)


def read(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return board


def test_there_are_the_six_boards() -> None:
    assert {path.stem for path in BOARDS} == {
        *("atlas", "zeus", "queues", "storage", "cheat-detection", "system")
    }


def test_the_boards_are_what_their_script_makes() -> None:
    """Somebody who edits the JSON by hand would lose it with the next change of the script."""
    spec = importlib.util.spec_from_file_location("boards", GRAFANA / "boards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {path.stem: path.read_text("utf-8") for path in BOARDS} == module.render()


def test_every_query_of_the_boards_is_promql(tmp_path: Path) -> None:
    """A typing error shows as an empty panel, on the night when somebody needs it."""
    found = [text for path in BOARDS for text in expressions(read(path))]
    assert len(found) > 60
    group = {
        "name": "panels",
        "rules": [{"record": f"panel:{n}", "expr": text} for n, text in enumerate(found)],
    }
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [group]}), "utf-8")
    said = promtool("check", "rules", "panels.yml", folder=tmp_path)
    assert f"{len(found)} rules found" in said


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_reads_only_metrics_that_exist(path: Path) -> None:
    """A renamed or invented metric is an empty panel that looks like a quiet system."""
    used = {name for text in expressions(read(path)) for name in metrics_in(text)}
    assert used
    assert used - known_metrics() - FOREIGN == set()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_can_be_read_by_who_did_not_make_it(path: Path) -> None:
    """Units, descriptions and a data source to choose; nothing overlaps; names are unique."""
    board = read(path)
    assert board["uid"] == f"raidhub-{path.stem}"
    assert [v["name"] for v in board["templating"]["list"] if v["type"] == "datasource"] == [
        "datasource"
    ]
    found = list(panels(board))
    titles = [panel["title"] for panel in found]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in found:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "$datasource"
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_metric_has_its_reader() -> None:
    """The page says who depends on a name; what it says of dashboards and alerts must be so."""
    rows = re.findall(
        r"^\| `(\w+)` \|(?:[^|]*\|){3} ([^|]*) \|$",
        (ROOT / "docs/metrics.md").read_text("utf-8"),
        re.MULTILINE,
    )
    drawn = {
        path.stem: {
            re.sub(r"_(bucket|count|sum)$", "", name) if name not in dict(rows) else name
            for text in expressions(read(path))
            for name in metrics_in(text)
        }
        for path in BOARDS
    }
    alerted = {
        re.sub(r"_(bucket|count|sum)$", "", name) if name not in dict(rows) else name
        for rule in rules()
        for name in metrics_in(rule["expr"])
    }
    for name, readers in rows:
        boards = [board for board, names in drawn.items() if name in names]
        for board in re.findall(r"dashboard ([\w-]+)", readers):
            assert board in boards, f"{name}: dashboard {board} does not read it"
        assert ("alert" in readers) == (name in alerted), f"{name}: {readers}"


def test_grafana_finds_boards_and_prometheus() -> None:
    """Paths and names of the provisioning files are those of this folder."""
    provisioning = GRAFANA / "provisioning"
    sources = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text("utf-8"))
    assert [s["type"] for s in sources["datasources"]] == ["prometheus"]
    providers = yaml.safe_load((provisioning / "dashboards/raidhub.yml").read_text("utf-8"))
    (provider,) = providers["providers"]
    assert provider["options"]["path"].endswith("/boards")
