"""Names that readers outside know, the health port, and the form of log lines."""

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.monitoring import health, logs, metrics

LIST = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def serve(checks: Mapping[str, health.Check]) -> health.HealthServer:
    """On a free port."""
    return health.serve(0, checks, variable="TEST_METRICS_PORT")


def described(metric: object) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(exported name, type, labels) of a metric of ours."""
    match metric:
        case metrics.PlainCounter():
            for name in metric._names:
                yield name, "counter", metric._labels
        case Counter():
            yield f"{metric._name}_total", "counter", tuple(metric._labelnames)
        case Histogram():
            yield metric._name, "histogram", tuple(metric._labelnames)
        case Gauge():
            yield metric._name, "gauge", tuple(metric._labelnames)


def test_the_list_of_frozen_names_is_what_the_code_defines() -> None:
    """Dashboards, alerts and the public status page read exactly these names and labels."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", LIST.read_text("utf-8"), re.MULTILINE)
    listed = {(name, kind, tuple(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    defined = {row for value in vars(metrics).values() for row in described(value)}
    assert listed == defined


def test_plain_counters_are_exported_under_all_their_names() -> None:
    """The client library would append `_total`, and the readers would see nothing."""
    before = metrics.PGCR_CRAWL_SUMMARY_STATUS.value("9", "3")
    metrics.PGCR_CRAWL_SUMMARY_STATUS.inc("9", "3", by=2)
    with serve({}) as server:
        text = requests.get(f"http://127.0.0.1:{server.port}/metrics", timeout=5).text
    for name in ("pgcr_crawl_summary_status", "pgcr_crawl_summary_status_count"):
        assert f'{name}{{attempts="3",status="9"}} {before + 2}' in text
    assert "pgcr_crawl_summary_status_total" not in text
    assert "_created" not in text


def test_a_gauge_is_exported_once_it_was_set() -> None:
    """Hermes would tell the head of the crawl as 0, and an alert would believe it."""
    registry = CollectorRegistry()
    gauge = metrics.MeasuredGauge("head", "Test.", registry=registry)
    assert registry.get_sample_value("head") is None
    gauge.set(0)
    assert registry.get_sample_value("head") == 0


@pytest.mark.parametrize("name", ["atlas_active_workers", "outbox_unsent"])
def test_no_process_exports_what_only_another_one_measures(name: str) -> None:
    """A process that only loads the definitions, as hermes and ingest do."""
    program = "from raidhub_dagster.monitoring import metrics; import prometheus_client as p; "
    program += "print(p.generate_latest().decode())"
    text = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert not re.search(rf"^{name} ", text, re.MULTILINE)


def broken() -> str | None:
    raise RuntimeError("cannot look")


@pytest.mark.parametrize(
    ("second", "status", "says"),
    [
        (lambda: None, 200, "ok"),
        (lambda: "RabbitMQ is away", 503, "RabbitMQ is away"),
        (lambda: health.Note("closed: Destiny2 is off"), 200, "closed: Destiny2 is off"),
        (broken, 503, "check failed: RuntimeError('cannot look')"),
    ],
)
def test_health_tells_each_check(second: health.Check, status: int, says: str) -> None:
    with serve({"first": lambda: None, "second": second}) as server:
        answer = requests.get(f"http://127.0.0.1:{server.port}/healthz", timeout=5)
    assert answer.status_code == status
    assert answer.json()["checks"] == {"first": "ok", "second": says}
    assert answer.json()["status"] == ("ok" if status == 200 else "failing")


def test_a_store_that_is_away_is_no_reason_for_a_restart() -> None:
    """Restarting every pod because PostgreSQL restarts makes one outage two."""
    with health.serve(
        0,
        {"postgres": lambda: "away"},
        loops={"crawl": lambda: None},
        variable="TEST_METRICS_PORT",
    ) as server:
        address = f"http://127.0.0.1:{server.port}"
        assert requests.get(f"{address}/healthz", timeout=5).status_code == 503
        alive = requests.get(f"{address}/livez", timeout=5)
    assert (alive.status_code, alive.json()["checks"]) == (200, {"crawl": "ok"})


def test_an_event_loop_that_hangs_is_told_to_whoever_restarts_it() -> None:
    """Its port still answers, from another thread: a probe of the port would see nothing."""
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        free.wait(10)

    try:
        assert health.turns(loop)() is None
        loop.call_soon_threadsafe(hold)
        assert held.wait(5)
        assert health.turns(loop, within_s=0.05)() == "the event loop hangs for 0.05 s"
    finally:
        free.set()
        loop.call_soon_threadsafe(loop.stop)
        runner.join()
        loop.close()


def test_other_paths_are_not_found() -> None:
    with serve({}) as server:
        assert requests.get(f"http://127.0.0.1:{server.port}/", timeout=5).status_code == 404


@pytest.mark.parametrize(("host", "heard"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_health_is_served_on_one_address(host: str, heard: str) -> None:
    """It asks nobody for a key: on a rented machine everybody could read how the crawl does."""
    with health.serve(0, {}, variable="TEST_METRICS_PORT", host=host) as server:
        (listening,) = (
            c.laddr.ip
            for c in psutil.Process().net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.laddr.port == server.port
        )
        assert listening == host
        assert requests.get(f"http://{heard}:{server.port}/healthz", timeout=5).ok


def test_an_address_that_is_not_ours_names_its_variable() -> None:
    with pytest.raises(ConfigurationError, match=r"set another METRICS_HOST$"):
        health.serve(0, {}, variable="ATLAS_METRICS_PORT", host="192.0.2.1")


def test_a_taken_port_is_told_in_one_line() -> None:
    with (
        serve({}) as server,
        pytest.raises(
            ConfigurationError, match=rf"port {server.port}: .*; set another ATLAS_METRICS_PORT$"
        ),
    ):
        health.serve(server.port, {}, variable="ATLAS_METRICS_PORT")


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    libraries = [logging.getLogger(name) for name in ("pika", "clickhouse_connect", "urllib3")]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for library in libraries:
        library.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_root_logger")
def test_a_log_line_is_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure("Info", "atlas")
    logging.getLogger("part").info("Stored %d", 5, extra={"action": "pgcr_batch_stored", "rows": 5})
    logging.getLogger("part").debug("not at this level")
    logging.getLogger("pika.connection").error("told by whoever owns the connection")
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("time")
    assert fields == {
        "level": "INFO",
        "logger": "part",
        "message": "Stored 5",
        "process": "atlas",
        "action": "pgcr_batch_stored",
        "rows": 5,
    }


def test_an_unknown_level_names_the_variable() -> None:
    with pytest.raises(ConfigurationError, match="LOG_LEVEL"):
        logs.configure("loud", "atlas")
