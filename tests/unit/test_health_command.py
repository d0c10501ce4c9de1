"""`raidhub health`: what a container's health check hears."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner, Result

from raidhub_dagster.cli import raidhub
from raidhub_dagster.monitoring import health
from raidhub_dagster.stack.process import free_port

PROCESSES = ("ATLAS_METRICS_PORT", "HERMES_METRICS_PORT", "RELAY_METRICS_PORT", "ZEUS_PORT")


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROCESSES:
        monkeypatch.setenv(variable, str(free_port()))


def ask(*names: str) -> Result:
    return CliRunner().invoke(raidhub, ["health", *names])


@contextmanager
def process(
    monkeypatch: pytest.MonkeyPatch, name: str, checks: dict[str, health.Check]
) -> Iterator[None]:
    variable = f"{name.upper()}_METRICS_PORT"
    with health.serve(0, checks, variable=variable) as server:
        monkeypatch.setenv(variable, str(server.port))
        yield


@pytest.mark.parametrize("names", [(), ("atlas",)])
def test_a_process_that_is_well_is_told(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """By its name, or as whatever runs here: one image holds four of them."""
    note = health.Note("closed: Destiny2 is off")
    with process(monkeypatch, "atlas", {"crawl": lambda: note}):
        answer = ask(*names)
    assert (answer.exit_code, answer.output) == (0, "atlas: ok\n")


def test_a_failing_check_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`docker inspect` shows it: whoever looks there need not look into the log."""
    checks: dict[str, health.Check] = {"postgres": lambda: None, "relay": lambda: "loop hangs"}
    with process(monkeypatch, "relay", checks), process(monkeypatch, "hermes", {}):
        answer = ask()
    assert answer.exit_code == 1
    assert answer.stdout == "hermes: ok\n"
    assert answer.stderr == "relay: 503 relay: loop hangs\n"


def test_a_process_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with process(monkeypatch, "hermes", {}):
        answer = ask("hermes", "atlas")
    assert (answer.exit_code, answer.stderr) == (1, "atlas: nobody listens\n")


def test_nobody_at_all_is_not_well() -> None:
    answer = ask()
    assert (answer.exit_code, answer.output) == (1, "no process of ours listens on this machine\n")


def test_an_unknown_process_is_wrong_usage() -> None:
    assert ask("hades").exit_code == 2


class Proxy(BaseHTTPRequestHandler):
    """Answers the probe as zeus does, and everything else as one whose addresses all pause."""

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["x-betteruptime-probe"] else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the base class
        pass


def test_zeus_is_well_while_bungie_says_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart would forget the pauses, and the addresses would be shut out for longer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        monkeypatch.setenv("ZEUS_PORT", str(server.server_address[1]))
        answer = ask("zeus")
        server.shutdown()
        thread.join()
    assert (answer.exit_code, answer.output) == (0, "zeus: ok\n")


def test_one_that_accepts_and_says_nothing_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that hangs: its port is open all the same."""
    monkeypatch.setattr("raidhub_dagster.commands.health._TIMEOUT_S", 0.2)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:  # never serves
        monkeypatch.setenv("HERMES_METRICS_PORT", str(server.server_address[1]))
        answer = ask()
    assert answer.exit_code == 1
    assert answer.stderr.startswith("hermes: no answer on port")
