"""The services of a stack: in which order they start, on which ports, and how each is asked."""

import http.client
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from raidhub_dagster.monitoring.health import reason
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.environment import Environment
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import HOST, Launch, Server, UnhealthyError, reach
from raidhub_dagster.stack.rabbitmq import EpmdServer, RabbitmqServer

_PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Service:
    """One line of `raidhub status`.

    Services of a lower `phase` are ready before those of a higher one start. `is_local` is False
    for a server that somebody else runs: it is asked, never started. `ports` names each port and
    the variable that moves it.
    """

    server: Server
    phase: int
    ports: dict[int, str]
    is_local: bool = True

    @property
    def name(self) -> str:
        return self.server.name


@dataclass(frozen=True)
class Program:
    """A process of our own code, or of Dagster's: a command and the question it answers."""

    name: str
    command: tuple[str, ...]
    ask: Callable[[], object]  # raises UnhealthyError
    stop_wait_s: int = 15
    is_ours: bool = True

    def prepare(self) -> None:
        """Nothing: its files are the project's."""

    def launch(self) -> Launch:
        folder = Path.cwd()
        return Launch(self.command, folder, stop_wait_s=self.stop_wait_s, is_ours=self.is_ours)

    def probe(self) -> None:
        self.ask()


@dataclass(frozen=True)
class DagsterProgram(Program):
    """A process of Dagster's, which needs the instance's folder."""

    home: Path = Path()
    code_port: int = 0

    def prepare(self) -> None:
        """Writes DAGSTER_HOME: the project's instance, and the code server as the only location."""
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_PROJECT / "dagster.yaml", self.home / "dagster.yaml")
        location = {"host": HOST, "port": self.code_port, "location_name": "raidhub"}
        workspace = json.dumps({"load_from": [{"grpc_server": location}]}, indent=2)
        (self.home / "workspace.yaml").write_text(workspace + "\n", "utf-8")  # JSON is YAML


def services(environment: Environment) -> list[Service]:
    """All services of the stack, in the order of their start; `environment` is written."""
    settings, home = environment.settings, environment.home
    base = "RAIDHUB_PORT_BASE"
    rabbitmq = RabbitmqServer(
        settings,
        home / "rabbitmq",
        epmd_port=environment.port("epmd"),
        distribution_port=environment.port("rabbitmq-distribution"),
    )
    found = [
        Service(
            PostgresServer(settings, home / "postgres"),
            1,
            {settings.postgres_port: "POSTGRES_PORT"},
            environment.has_postgres,
        ),
        Service(
            ClickhouseServer(settings, home / "clickhouse"),
            1,
            {settings.clickhouse_http_port: "CLICKHOUSE_HTTP_PORT"},
            environment.has_clickhouse,
        ),
    ]
    if environment.has_rabbitmq:
        epmd = EpmdServer(home / "rabbitmq", rabbitmq.epmd_port)
        found.insert(0, Service(epmd, 0, {epmd.port: base}))
    ports = {
        settings.rabbitmq_port: "RABBITMQ_PORT",
        settings.rabbitmq_ui_port: "RABBITMQ_UI_PORT",
        rabbitmq.distribution_port: base,
    }
    found.append(Service(rabbitmq, 1, ports, environment.has_rabbitmq))
    if environment.has_simulator:
        found.append(_simulator(environment))
    if environment.has_zeus or settings.was_set("zeus_host"):
        found.append(_zeus(environment))
    metrics = {
        "hermes": (settings.hermes_metrics_port, ("hermes", "--without", "relay")),
        "relay": (settings.relay_metrics_port, ("hermes", "--topic", "relay")),
        "atlas": (
            settings.atlas_metrics_port,
            ("atlas", *shlex.split(settings.raidhub_atlas_args)),
        ),
    }
    for name, (port, arguments) in metrics.items():
        # A batch under way is finished and acknowledged: hermes takes up to 30 s for that.
        ask = _health(port, settings.metrics_local)
        program = Program(name, _raidhub(*arguments), ask, stop_wait_s=45)
        found.append(Service(program, 3, {port: f"{name.upper()}_METRICS_PORT"}))
    return found + _dagster(environment)


def _simulator(environment: Environment) -> Service:
    port = environment.port("simulator")
    own = shlex.split(environment.settings.raidhub_simulator_args)
    # The state keeps the world over a restart: stored reports stay true.
    state = environment.home / "simulator" / "world.json"
    # With cheaters, or levels and blacklist had nothing to show; a later flag of one's own wins.
    flags = ("--port", str(port), "--state", str(state), "--cheaters", "0.15")
    command = _raidhub("simulate", *flags, *own)
    # It plays Bungie, who is not told our passwords either.
    program = Program("simulator", command, _health(port), is_ours=False)
    return Service(program, 2, {port: "RAIDHUB_PORT_BASE"})


def _zeus(environment: Environment) -> Service:
    settings = environment.settings
    command = _raidhub("zeus", *shlex.split(settings.raidhub_zeus_args))
    is_local = environment.has_zeus
    host = settings.zeus_local if is_local else settings.zeus_host
    ports = {
        settings.zeus_port: "ZEUS_PORT",
        settings.zeus_metrics_port: "ZEUS_METRICS_PORT",
    }
    # Answers to callers end before it does: 15 s at most.
    program = Program("zeus", command, _health(settings.zeus_port, host), stop_wait_s=30)
    return Service(program, 2, ports, is_local)


def _dagster(environment: Environment) -> list[Service]:
    home = environment.home / "dagster"
    code, ui = environment.port("dagster-code"), environment.port("dagster-webserver")
    scripts = Path(sys.executable).parent
    workspace = str(home / "workspace.yaml")

    def program(name: str, ask: Callable[[], object], *command: str) -> DagsterProgram:
        script = str(scripts / command[0])
        return DagsterProgram(
            name, (script, *command[1:]), ask, home=home, code_port=code, stop_wait_s=30
        )

    code_server = program(
        "dagster-code",
        lambda: reach(HOST, code),
        *("dagster", "code-server", "start", "-h", HOST, "-p", str(code)),
        *("-m", "raidhub_dagster.definitions", "-d", str(_PROJECT)),
    )
    webserver = program(
        "dagster-webserver",
        lambda: _ask(ui, "/server_info"),
        *("dagster-webserver", "-h", HOST, "-p", str(ui), "-w", workspace),
    )
    daemon = DagsterProgram(
        "dagster-daemon",
        (sys.executable, "-m", "raidhub_dagster.daemon", "run", "-w", workspace),
        lambda: _ask_daemon(ui),
        home=home,
        code_port=code,
        stop_wait_s=30,
    )
    base = "RAIDHUB_PORT_BASE"
    return [
        Service(code_server, 3, {code: base}),
        Service(webserver, 4, {ui: base}),
        Service(daemon, 4, {}),
    ]


def _raidhub(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "raidhub_dagster", *arguments)


def _health(port: int, host: str = HOST) -> Callable[[], object]:
    return lambda: _ask(port, "/healthz", host=host)


def _ask(port: int, path: str, body: str | None = None, *, host: str = HOST) -> str:
    """The answer to a GET, or a POST of JSON. Raises UnhealthyError unless it is a success."""
    reach(host, port)
    connection = http.client.HTTPConnection(host, port, timeout=10)
    try:
        method = "GET" if body is None else "POST"
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise UnhealthyError(f"{path} on {host}:{port}: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise UnhealthyError(f"{path} on {host}:{port}: {answer.status} {reason(text)}")
    return text


_DAEMONS = """{"query": "{ instance { daemonHealth { allDaemonStatuses
 { daemonType required healthy lastHeartbeatErrors { message } } } } }"}""".replace("\n", "")


def _ask_daemon(ui: int) -> None:
    """The daemon has no port; the webserver knows the age of its heartbeats."""
    instance = json.loads(_ask(ui, "/graphql", _DAEMONS))["data"]["instance"]
    for daemon in instance["daemonHealth"]["allDaemonStatuses"]:
        if daemon["required"] and not daemon["healthy"]:
            errors = "; ".join(error["message"] for error in daemon["lastHeartbeatErrors"])
            reason = " ".join(errors.split())[:200] or "no heartbeat"
            raise UnhealthyError(f"{daemon['daemonType']}: {reason}")
