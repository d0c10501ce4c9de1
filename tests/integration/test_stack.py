"""The stack of a folder, run as a person runs it: `raidhub up`, `status`, `down`."""

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import pytest

from raidhub_dagster.settings import STACK_ENV, Settings
from raidhub_dagster.stack.environment import Environment
from raidhub_dagster.stack.lifecycle import Stack
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import (
    HOST,
    UnhealthyError,
    free_port,
    running,
    wait_until,
)
from raidhub_dagster.stack.services import services
from raidhub_dagster.storage import postgres
from tests.support.secrets import CANARIES, leaked
from tests.support.system import DAGSTER, free_base
from tests.support.typed import typed

Overrides = dict[str, Any]
CRAWL = ("simulator", "atlas")


class Folder:
    """A folder with a stack of its own."""

    def __init__(self, path: Path, **variables: str) -> None:
        self.path = path
        self.variables = {"RAIDHUB_PORT_BASE": str(free_base()), **variables}

    def run(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RAIDHUB_HOME": str(self.home), **self.variables}
        return typed(*arguments, folder=self.path, environment=environment, timeout_s=timeout_s)

    @property
    def home(self) -> Path:
        return self.path / ".raidhub"

    def processes(self) -> list[psutil.Process]:
        """Whatever has to do with the folder: by command line, working directory or environment."""
        found = []
        for process in psutil.process_iter():
            try:
                told = [*process.cmdline(), process.cwd(), *process.environ().values()]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if process.status() != psutil.STATUS_ZOMBIE and any(str(self.home) in x for x in told):
                found.append(process)
        return found

    def secrets(self) -> dict[str, str]:
        """Of the settings of this folder, those that somebody chose."""
        settings = Settings(_env_file=self.home / STACK_ENV)
        values = {name: getattr(settings, name.lower()) for name in Settings.secret_variables()}
        given = {n: v.get_secret_value() for n, v in values.items() if v is not None}
        return {n: v for n, v in given.items() if len(v) > 8} | {
            n: v for n, v in self.variables.items() if n in values
        }

    def assert_closed(self) -> None:
        """Nobody gets in from another machine, and nobody reads a secret off the process list."""
        secrets = self.secrets()
        assert {"POSTGRES_PASSWORD", "BUNGIE_API_KEY", "ATLAS_WEBHOOK_URL"} <= set(secrets)
        listening, argv, inherited = [], [], []
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):  # workers of schedules come and go
                listening += [
                    c.laddr.ip
                    for c in process.net_connections("tcp")
                    if c.status == psutil.CONN_LISTEN
                    # Erlang's name server tells its IPv4 address as one of IPv6.
                    and not ip_address(c.laddr.ip.removeprefix("::ffff:")).is_loopback
                ]
                command = process.cmdline()
                argv += leaked(" ".join(command), secrets)
                if not any("python" in part for part in command[:1]) or "simulate" in command:
                    inherited += leaked(str(process.environ()), secrets)
        assert (listening, argv, inherited) == ([], [], [])

    def assert_gone(self) -> None:
        def question() -> None:
            if left := self.processes():
                raise UnhealthyError(f"still there: {left}")

        wait_until(question, limit_s=20)


@pytest.fixture
def folder(server_folder: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Folder]]:
    """Makes folders that PostgreSQL's user can walk to; their stacks end with the test."""
    made: list[Folder] = []

    def make(**variables: str) -> Folder:
        path = server_folder / f"{request.node.name[:30]}-{len(made)}"
        path.mkdir()
        made.append(Folder(path, **variables))
        return made[-1]

    yield make
    for one in made:
        done = one.run("down")
        assert done.returncode == 0, done.stderr
        one.assert_gone()


def test_a_stack_starts_answers_and_ends_without_a_trace(folder: Callable[..., Folder]) -> None:
    """What a newcomer types first; all is asked of one stack, because it takes 40 s to start."""
    one = folder(**{n: v for n, v in CANARIES.items() if n.endswith(("_URL", "_AUTH"))})
    up = one.run("up")
    assert up.returncode == 0, up.stderr
    base = int(one.variables["RAIDHUB_PORT_BASE"])
    assert up.stdout.endswith(f"Dagster: http://127.0.0.1:{base}\n")

    one.assert_closed()
    again = one.run("up")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "already running")

    del one.variables["RAIDHUB_PORT_BASE"]  # typed once; the folder remembers it
    exported = one.run("env").stdout
    shell = subprocess.run(
        ["sh", "-c", 'eval "$1"; env', "sh", exported], capture_output=True, text=True, check=True
    )
    assert f"POSTGRES_PORT={base + 1}\n" in shell.stdout
    assert f"PGPORT={base + 1}\n" in shell.stdout  # psql and pg_dump find it too
    assert f"DAGSTER_HOME={one.home}/dagster\n" in shell.stdout
    assert (one.home / "stack.env").stat().st_mode & 0o077 == 0, "it holds secrets"

    assert "atlas" in one.run("logs", "atlas").stdout
    unknown = one.run("logs", "nothing")
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("raidhub: no log of nothing; there are: atlas,")

    states, _, summary = one.run("status").stdout.partition("\n\n")
    unwell = [line for line in states.splitlines() if "UNHEALTHY" in line]
    assert [line for line in unwell if not line.startswith("atlas")] == []
    subjects = [line.split()[0] for line in summary.splitlines()]
    expected = ["crawl", "rates", "newest", "missed", "outbox", "clickhouse", "queues"]
    assert [subject for subject in subjects if subject != "zeus"] == expected

    def everything_answers() -> None:
        """Within its two seconds, which a machine that is busy with other tests may miss once."""
        told = json.loads(one.run("status", "--json").stdout)
        if problems := told["stream"]["problems"]:
            raise UnhealthyError(str(problems))
        assert {service["name"] for service in told["services"]} >= {"postgres", "atlas", "relay"}
        assert told["stream"]["crawl"]["workers"] > 0
        assert told["stream"]["stream"]["open_gaps"] == 0

    wait_until(everything_answers, limit_s=60)

    secrets = one.secrets()
    down = one.run("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    written = {path: path.read_text("utf-8", "replace") for path in one.home.glob("logs/*")}
    assert len(written) > 10
    assert {
        str(path): found for path, text in written.items() if (found := leaked(text, secrets))
    } == {}
    one.assert_gone()
    assert one.run("down").stdout == "not running\n"
    assert one.run("status").returncode == 1


def test_two_stacks_run_at_once_one_names_what_is_unhealthy_and_a_kill_leaves_nothing(
    folder: Callable[..., Folder],
) -> None:
    one = folder()
    assert (done := one.run("up", *without(*CRAWL))).returncode == 0, done.stderr
    two = folder()  # without Dagster, which takes half of the time of a start
    assert (done := two.run("up", *without(*CRAWL, *DAGSTER))).returncode == 0, done.stderr
    for each in (one, two):
        states, _, _ = each.run("status").stdout.partition("\n\n")
        lines = {line.split()[0]: line for line in states.splitlines()}
        assert "running" in lines["postgres"]
        assert " healthy" in lines["postgres"]
        assert "atlas" not in lines, "left out on purpose is not unhealthy"

    # What was left out can join later; what runs is not touched.
    before = Stack(Environment(settings_of(two))).supervisor.states()["hermes"].pid
    assert (done := two.run("up", *without(*DAGSTER))).returncode == 0, done.stderr
    assert "simulator" in done.stdout
    assert Stack(Environment(settings_of(two))).supervisor.states()["hermes"].pid == before

    # A stopped process keeps its port open, answers nobody and is running for supervisord.
    state = Stack(Environment(settings_of(two))).supervisor.states()["hermes"]
    os.kill(state.pid, signal.SIGSTOP)
    status = two.run("status")
    assert status.returncode == 1
    (line,) = (text for text in status.stdout.splitlines() if text.startswith("hermes"))
    assert "UNHEALTHY" in line
    assert "/healthz" in line
    os.kill(state.pid, signal.SIGCONT)

    # supervisord is killed: the kernel ends its children, `down` the children of those.
    supervisor = Stack(Environment(settings_of(one))).supervisor
    pid = supervisor.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    done = one.run("down")
    assert done.returncode == 0, done.stderr
    one.assert_gone()
    assert " healthy" in two.run("status").stdout, "the other stack is not concerned"


def without(*names: str) -> list[str]:
    """The options of `raidhub up` that leave these services out."""
    return [f"--without={name}" for name in names]


def settings_of(folder: Folder) -> Settings:
    base = int(folder.variables["RAIDHUB_PORT_BASE"])
    return Settings(_env_file=None, raidhub_home=folder.home, raidhub_port_base=base)


def test_a_taken_port_is_named_with_the_service_and_the_variable(
    folder: Callable[..., Folder],
) -> None:
    """Nothing is started then: a half-started stack would hide the reason."""
    one = folder()
    port = int(one.variables["RAIDHUB_PORT_BASE"]) + 2
    with socket.create_server((HOST, port)):
        done = one.run("up")
    assert done.returncode == 1
    assert done.stderr == (
        f"raidhub: port {port} for rabbitmq is taken; set RABBITMQ_PORT to another,"
        " or RAIDHUB_PORT_BASE for all\n"
    )
    assert one.processes() == []


def test_services_with_an_address_are_used_instead_of_started(
    tmp_path: Path, postgres: Overrides, clickhouse: Overrides, rabbitmq: Overrides
) -> None:
    """A person's own servers must never get a second one beside them."""
    given = Settings(
        _env_file=None,
        **postgres,
        **rabbitmq,
        **clickhouse,
        bungie_url_base="http://127.0.0.1:1",
        raidhub_home=tmp_path / ".raidhub",
        raidhub_port_base=free_base(),
    )
    environment = Environment(given)
    environment.write()
    assert "POSTGRES" not in (tmp_path / ".raidhub" / "stack.env").read_text("utf-8")
    found = {service.name: service for service in services(environment)}
    assert {"simulator", "zeus", "epmd"}.isdisjoint(found)
    assert not any(found[name].is_local for name in ("postgres", "rabbitmq", "clickhouse"))


@pytest.mark.parametrize(
    ("given", "without", "local", "asked"),
    [
        ({}, (), {"simulator", "zeus"}, "zeus"),
        ({}, ("zeus",), {"simulator", "zeus"}, "simulator"),
        ({"zeus_www_url": "http://a"}, (), {"zeus"}, "zeus"),
        ({"zeus_host": "proxy"}, (), set(), "http://proxy:7777"),
        ({"pgcr_url_base": "http://b"}, (), set(), "http://b"),
    ],
)
def test_whom_the_crawl_asks_follows_from_what_a_person_set(
    tmp_path: Path, given: Overrides, without: tuple[str, ...], local: set[str], asked: str
) -> None:
    """A stack that crawled Bungie because somebody forgot a variable would spend our budget."""
    base = free_base()
    home = tmp_path / ".raidhub"
    environment = Environment(
        Settings(_env_file=None, **given, raidhub_home=home, raidhub_port_base=base)
    )
    environment.write(without)
    found = {s.name for s in services(environment) if s.is_local}
    assert found & {"simulator", "zeus"} == local
    settings = Settings(_env_file=home / "stack.env", **given)
    ports = {"simulator": environment.port("simulator"), "zeus": environment.port("zeus")}
    expected = f"http://{HOST}:{ports[asked]}" if asked in ports else asked
    assert settings.pgcr_base == expected


def test_the_world_of_a_stack_has_cheaters_unless_somebody_wants_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the demo's levels, blacklist and report are empty; the later flag wins."""
    monkeypatch.setenv("RAIDHUB_SIMULATOR_ARGS", "--cheaters 0 --rate 100")
    environment = Environment(
        Settings(
            _env_file=None,
            raidhub_home=tmp_path / ".raidhub",
            raidhub_port_base=free_base(),
        )
    )
    environment.write()
    (found,) = (s.server for s in services(environment) if s.name == "simulator")
    command = found.launch().command
    shares = [command[n + 1] for n, word in enumerate(command) if word == "--cheaters"]
    assert shares == ["0.15", "0"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"POSTGRES_PORT": "no number"}, "POSTGRES_PORT"),
        ({"RAIDHUB_PORT_BASE": "70000"}, "RAIDHUB_PORT_BASE"),
        ({"RAIDHUB_POSTGRES_BIN": "/nowhere"}, "RAIDHUB_POSTGRES_BIN"),
        ({"RAIDHUB_RABBITMQ_SBIN": "/nowhere"}, "RAIDHUB_RABBITMQ_SBIN"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    server_folder: Path, variables: dict[str, str], expected: str
) -> None:
    path = server_folder / f"wrong-{expected.lower()}"
    path.mkdir()
    done = Folder(path, **variables).run("up")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr


def address(settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(
        postgres_host=HOST,
        postgres_port=free_port(),
        postgres_user="raidhub",
        postgres_password="it's \\ odd",  # noqa: S106  of this server only
        postgres_db="postgres",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's PostgreSQL runs as another user")
def test_postgres_of_root_has_its_files_elsewhere_when_the_folder_is_closed(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    """A checkout below /root is the first thing root tries; the other user cannot walk there."""
    tmp_path.chmod(0o700)
    server = PostgresServer(address(settings_for), tmp_path / "data", durable=False)
    try:
        with running(server, tmp_path / "log"):
            assert (tmp_path / "data").is_symlink()
        assert (tmp_path / "data" / "PG_VERSION").exists()
    finally:
        shutil.rmtree((tmp_path / "data").resolve().parent)


def test_postgres_of_root_runs_as_somebody_else_and_survives_a_kill(
    server_folder: Path, settings_for: Callable[..., Settings]
) -> None:
    settings = address(settings_for)
    server = PostgresServer(settings, server_folder / "durable")
    log = server_folder / "durable.log"
    with running(server, log) as process:
        with (
            closing(postgres.connect(settings, "test")) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchone() == ("on",)
            cursor.execute("CREATE TABLE kept AS SELECT 1 AS a")
            connection.commit()
        if os.geteuid() == 0:
            assert psutil.Process(process.pid).uids().effective != 0
        process.kill()
    with (
        running(server, log),
        closing(postgres.connect(settings, "test")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT a FROM kept")
        assert cursor.fetchone() == (1,)
