"""Images and compose.yaml, without an engine: whatever they name exists, here and in our code."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import grimp
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import create_dagster_webserver_cli

from raidhub_dagster import cli, daemon
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack import postgres, rabbitmq
from raidhub_dagster.stack.environment import Environment
from raidhub_dagster.stack.services import services as embedded
from raidhub_dagster.storage.migrations import HISTORY_DATABASE
from streaming.atlas.start import is_simulated
from tests.conftest import make_settings
from tests.support import images
from tests.support.images import ROOT, TARGETS, VARIABLES, filled, of_target, services

BIN = Path(sys.executable).parent
OWN = ("raidhub_dagster", "assets", "sensors", "streaming", "simulator")

# What the image `stream` starts; the others of the command line belong to a checkout.
STREAM_COMMANDS = (
    *("zeus", "atlas", "hermes", "simulate", "migrate", "seed", "ingest", "verify"),
    *("queues", "health", "reconcile"),
)
STREAM_MODULES = ("streaming.zeus.process", "streaming.atlas.process", "streaming.hermes.process")
DAGSTER_MODULES = ("raidhub_dagster.definitions", "raidhub_dagster.daemon")

# Variables of programs that are not ours.
FOREIGN = {
    *("POSTGRES_INITDB_ARGS", "CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT", "TZ"),
    *("RABBITMQ_DEFAULT_USER", "RABBITMQ_DEFAULT_PASS"),
    *("GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED"),
    "GF_ANALYTICS_CHECK_FOR_UPDATES",
    *("DAGSTER_HOME", "DAGSTER_CODE_HOST"),  # Dagster's own, and workspace.yaml's
    *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "PIP_ROOT_USER_ACTION"),
}
# Variables that compose.yaml asks for and that are no setting of ours.
ASKED = {"RAIDHUB_VERSION", "GRAFANA_ADMIN_PASSWORD"}


def tool(*command: str) -> None:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- Dockerfile -----------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    tool("hadolint", "deploy/docker/Dockerfile")


def test_everything_copied_exists_and_reaches_the_builder() -> None:
    """A path that .dockerignore holds back is missing at the build, which nobody runs here."""
    copied = [i.text for i in images.instructions() if i.name == "COPY" and "--from" not in i.text]
    sources = [source for text in copied for source in text.split()[:-1]]
    assert {"sql", "dagster.yaml", "deploy/docker/stream.lock"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert images.is_sent(source), source


@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".git/config", ".raidhub/stack.env", ".venv/bin/python", "uv.lock"),
        *("streaming/.env", "raidhub_dagster/__pycache__/cli.cpython-311.pyc", "tests/conftest.py"),
        *("docs/stack.md", "deploy/docker/Dockerfile", "helm/raidhub/values.yaml"),
    ],
)
def test_secrets_and_history_stay_out_of_an_image(path: str) -> None:
    """Whoever may pull the image would read them, in every layer for ever."""
    assert not images.is_sent(path)


def test_bases_are_pinned() -> None:
    """The same tree must give the same image next year."""
    stages = {i.stage for i in images.instructions()}
    bases = {i.text.split()[0] for i in images.instructions() if i.name == "FROM"} - stages
    assert bases
    for base in bases:
        assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base), base


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_and_gets_its_signals(target: str) -> None:
    """A shell as first process keeps SIGTERM to itself: what runs is killed in mid-batch."""
    assert of_target(target, "USER")[-1].text == "10001:10001"
    for name in ("ENTRYPOINT", "CMD"):
        for instruction in of_target(target, name):
            assert instruction.words
    _, command = of_target(target, "HEALTHCHECK")[-1].text.split("CMD ", 1)
    check(json.loads(command))


def test_what_starts_in_an_image_exists() -> None:
    (entry,) = of_target("stream", "ENTRYPOINT")
    assert entry.words == ["raidhub"]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert "raidhub" in scripts
    assert of_target("dagster", "ENTRYPOINT") == []
    check(of_target("dagster", "CMD")[-1].words)


def test_variables_of_an_image_are_known() -> None:
    given = {
        name
        for i in images.instructions()
        if i.name == "ENV"
        for name in re.findall(r"(\w+)=", i.text)
    }
    assert {"RAIDHUB_HOME", "METRICS_HOST", "ZEUS_BIND"} <= given
    assert given - FOREIGN <= VARIABLES


# --- packages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["stream", "dagster", "build"])
def test_a_lock_is_a_part_of_the_whole_one(lock: str) -> None:
    """An image must run what the tests ran, to the byte: the same versions, the same hashes."""
    whole = images.pins(ROOT / "requirements.lock")
    part = images.pins(ROOT / "deploy" / "docker" / f"{lock}.lock")
    assert part
    for pin, hashes in part.items():
        package, _, marker = pin.partition(" ; ")
        assert hashes, pin
        # Asked for by fewer, a package may have a narrower marker.
        assert hashes in [h for p, h in whole.items() if p.partition(" ; ")[0] == package], pin
        assert "://" not in pin + marker


def test_locks_hold_what_the_project_asks_for() -> None:
    """After an edit of pyproject.toml without `make lock` the next build would lack a package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = {
        "stream": project["project"]["dependencies"],
        "dagster": [*project["project"]["dependencies"], *extras["dagster"], *extras["ml"]],
        "build": project["dependency-groups"]["build"],
    }
    for lock, requirements in asked.items():
        names = {images.normal(re.split(r"[\[<>=~! ;]", r, maxsplit=1)[0]) for r in requirements}
        assert names <= images.packages(lock), lock


def test_the_stream_has_no_dagster() -> None:
    assert not {n for n in images.packages("stream") if n.startswith("dagster")}
    assert not images.packages("stream") & {"pandas", "numpy", "scikit-learn", "grpcio", "chdb"}


@pytest.mark.parametrize(
    ("lock", "entries"),
    [
        (
            "stream",
            ("raidhub_dagster.cli", *STREAM_MODULES, *{cli.COMMANDS[c] for c in STREAM_COMMANDS}),
        ),
        ("dagster", ("raidhub_dagster.cli", *DAGSTER_MODULES)),
    ],
    ids=["stream", "dagster"],
)
def test_nothing_an_image_starts_imports_what_it_lacks(
    lock: str, entries: tuple[str, ...], tmp_path: Path
) -> None:
    """Imports inside functions included: those fail at night, not at the start."""
    graph = grimp.build_graph(*OWN, include_external_packages=True, cache_dir=str(tmp_path))
    reached = set(entries).union(*map(graph.find_upstream_modules, entries))
    outside = {m.partition(".")[0] for m in reached} - set(OWN) - sys.stdlib_module_names
    assert {"psycopg2", "pydantic_settings"} <= outside
    known = images.packages(lock)
    lacking = {m for m in outside if not known & set(images.distributions()[m])}
    assert lacking == set()


# Refuses the modules of other distributions than a lock's; ours and Python's own pass.
_REFUSAL = """
import importlib, json, sys
refused, modules, commands = json.loads(sys.argv[1])
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refusal())
for name in modules:
    importlib.import_module(name)
from raidhub_dagster import cli
for arguments in commands:
    try:
        cli.main(arguments)
    except SystemExit as ended:
        print("exit", ended.code, *arguments, flush=True)
print(sorted({"dagster", "numpy", "supervisor"} & set(sys.modules)))
"""


def with_packages_of(
    lock: str, modules: tuple[str, ...], commands: list[list[str]]
) -> subprocess.CompletedProcess[str]:
    known = images.packages(lock) | {"raidhub-dagster"}
    refused = [m for m, owners in images.distributions().items() if not known & set(owners)]
    assert {"pytest", "supervisor"} <= set(refused)
    told = json.dumps([refused, modules, commands])
    return subprocess.run(
        [sys.executable, "-c", _REFUSAL, told],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_stream_runs_where_dagster_is_not_installed() -> None:
    """All its commands load; those of a checkout say in one line that they do not belong here."""
    commands = [["--help"], *([c, "--help"] for c in STREAM_COMMANDS), ["up"], ["demo"]]
    done = with_packages_of("stream", STREAM_MODULES, commands)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    ends = re.findall(r"^exit (\d+) (\w+)", done.stdout, re.MULTILINE)
    assert ends == [*(("0", c) for c in STREAM_COMMANDS), ("1", "up"), ("1", "demo")]
    assert done.stderr.count("supervisor, which is not installed here") == 2
    listed = re.findall(r"^  (\w+)  ", done.stdout.partition("exit 0 --help")[0], re.MULTILINE)
    assert set(STREAM_COMMANDS) <= set(listed)
    assert "demo" not in listed


def test_the_code_location_loads_with_the_packages_of_its_image() -> None:
    """Dagster's own imports and ours; the embedded stack and the tools of development are away."""
    done = with_packages_of("dagster", DAGSTER_MODULES, [])
    assert done.returncode == 0, done.stderr


# --- compose: the file itself ---------------------------------------------------------------------


def test_compose_accepts_the_file() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


@pytest.mark.parametrize("name", services())
def test_a_service_is_pinned_bounded_and_watched(name: str) -> None:
    """`latest` differs from machine to machine; without a limit one service takes all memory."""
    service = services()[name]
    assert re.search(r":v?\d+\.\d+\.\d+|:\d+\.\d+-", filled(service["image"])), service["image"]
    assert set(service["profiles"]) <= {"core", "full", "simulator"}
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert "no-new-privileges:true" in service["security_opt"]
    if name in images.once():
        assert service["healthcheck"] == {"disable": True}
        return
    question = service["healthcheck"]["test"]
    assert question[0] in {"CMD", "CMD-SHELL"}
    if name in images.ours():
        check(question[1:])


@pytest.mark.parametrize("name", images.ours())
def test_our_services_may_write_in_volumes_only(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["init"] is True
    target = service["build"]["target"]
    assert service["image"].startswith(f"raidhub-{target}:")
    assert ROOT / service["build"]["dockerfile"] == images.DOCKERFILE
    writable = {v.split(":")[1] for v in service.get("volumes", []) if not v.endswith(":ro")}
    assert writable <= {"/var/lib/raidhub", "/var/lib/dagster/storage"}


def test_the_version_of_our_images_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    given = {rest for name, _, rest in images.variables() if name == "RAIDHUB_VERSION"}
    chart = yaml.safe_load((ROOT / "helm" / "raidhub" / "Chart.yaml").read_text("utf-8"))
    assert given | {chart["appVersion"]} == {project["version"]}


def test_whatever_is_mounted_exists() -> None:
    """Docker makes an empty folder of a path that is not there, and says nothing."""
    declared = set(yaml.safe_load(images.COMPOSE.read_text("utf-8"))["volumes"])
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in declared, name


def test_every_secret_is_a_reference_without_a_default() -> None:
    """A default that works is a password that everybody knows."""
    secret = re.compile(r"PASS|KEY|SECRET|TOKEN|WEBHOOK|AUTH")
    for name, service in services().items():
        for variable, value in environment(service).items():
            if secret.search(variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    asked = {name for name, operator, _ in images.variables() if operator == "?"}
    assert asked == {
        *("POSTGRES_PASSWORD", "RABBITMQ_PASSWORD", "CLICKHOUSE_PASSWORD"),
        "GRAFANA_ADMIN_PASSWORD",
    }


def test_every_variable_is_known() -> None:
    """A misspelt one is ignored by whoever should read it."""
    given = {v for service in services().values() for v in environment(service)}
    assert given - FOREIGN <= VARIABLES
    assert {name for name, _, _ in images.variables()} <= VARIABLES | ASKED


def environment(service: Mapping[str, Any]) -> Mapping[str, str]:
    given: Mapping[str, str] = service.get("environment", {})
    return given


# --- compose: against our own settings and the stack of one machine -------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> dict[str, Any]:
    """Servers of `raidhub up` by name, none of them started."""
    surroundings = Environment(make_settings(raidhub_home=tmp_path))
    surroundings.write()
    return {service.name: service.server for service in embedded(surroundings)}


def test_compose_starts_what_the_stack_of_one_machine_starts(stack: dict[str, Any]) -> None:
    """And monitoring, and what happens once; epmd comes with the broker's image."""
    more = {"prometheus", "grafana"} | images.once()
    assert set(services()) - more == set(stack) - {"epmd"}
    assert images.once() == {"migrate", "seed", "dagster-prepare"}


@pytest.mark.parametrize("name", images.ours())
def test_a_command_exists_with_its_flags(name: str) -> None:
    """With the flags of .env, too; a wrong one is a container that restarts for ever."""
    given = {
        "RAIDHUB_ATLAS_ARGS": "--target 16787546313 --workers 50",
        "RAIDHUB_ZEUS_ARGS": "--v6_n 4",
        "RAIDHUB_SIMULATOR_ARGS": "--rate 100",
    }
    service = services()[name]
    entry = ["raidhub"] if service["build"]["target"] == "stream" else []
    for more in ({}, given):
        check([*entry, *shlex.split(filled(service["command"], **more))])


def test_atlas_asks_the_simulator_where_to_begin() -> None:
    """Elsewhere it ends until a person names an id: the world of ours would never be crawled."""
    given = environment(services()["atlas"])
    for name in ("ZEUS_STATS_URL", "ZEUS_WWW_URL"):
        address = filled(given[name])
        assert is_simulated(address)
        assert urlsplit(address).hostname in services()


def test_a_flag_that_does_not_exist_is_noticed() -> None:
    """The test above would pass on anything if nothing were parsed."""
    for command in (
        ["raidhub", "hermes", "--witout", "relay"],
        ["dagster", "code-server", "begin"],
    ):
        with pytest.raises(click.UsageError):
            check(command)


def programs() -> dict[str, click.Command]:
    daemons = create_dagster_daemon_cli()
    return {
        "raidhub": cli.raidhub,
        "dagster": create_dagster_cli(),  # type: ignore[no-untyped-call]  # Dagster's
        "dagster-webserver": create_dagster_webserver_cli(),  # type: ignore[no-untyped-call]
        "dagster-daemon": daemons,
        # Ours takes all that Dagster's does, and one more.
        "daemon": click.Group("daemon", commands={**daemons.commands, "prepare": daemon.prepare}),
    }


def check(command: list[str]) -> None:
    """Parses `command` as the program that it names would; runs nothing."""
    program, *arguments = command
    if program == "python":
        if arguments[0] == "-c":
            compile(arguments[1], "<health check>", "exec")
            return
        assert arguments[:2] == ["-m", "raidhub_dagster.daemon"]
        program, arguments = "daemon", arguments[2:]
    if "-w" in arguments:  # where the image has it
        place = arguments.index("-w") + 1
        assert arguments[place] == "/var/lib/dagster/workspace.yaml"
        arguments = [*arguments[:place], str(ROOT / "deploy/docker/workspace.yaml")]
    found = programs()[program]
    context: click.Context | None = None
    while isinstance(found, click.Group) and arguments:
        context = click.Context(found, parent=context, info_name=found.name)
        _, inner, arguments = found.resolve_command(context, arguments)
        assert inner is not None
        found = inner
    found.make_context(found.name, list(arguments), parent=context)


def test_ports_are_those_of_the_settings() -> None:
    """What .env says of ports is for the stack of one machine; inside they are the defaults."""
    defaults = {n.upper(): f.default for n, f in Settings.model_fields.items()}
    for service in services().values():
        for name, value in environment(service).items():
            if name.endswith("_PORT"):
                assert value == str(defaults[name]), name


# Ports inside a container that no setting of ours names.
_PORTS_OF_OTHERS = {"grafana": 3000, "dagster-webserver": 3000}


@pytest.mark.parametrize("name", [n for n, s in services().items() if "ports" in s])
def test_ports_are_open_to_this_machine_only(name: str) -> None:
    """None of these services asks the world for a password that it could not guess."""
    defaults = {f.default for n, f in Settings.model_fields.items() if n.endswith("_port")}
    for port in services()[name]["ports"]:
        host, outside, inside = port.split(":")
        assert host == "127.0.0.1"
        assert int(inside) == _PORTS_OF_OTHERS.get(name, int(inside))
        if name not in _PORTS_OF_OTHERS:
            assert (int(inside) in defaults, outside) == (True, inside)
    taken = [p.split(":")[1] for s in services().values() for p in s.get("ports", [])]
    assert len(set(taken)) == len(taken)


def test_a_service_is_given_the_time_that_its_end_takes(stack: dict[str, Any]) -> None:
    """Killed before, hermes leaves a batch to be done again, PostgreSQL a log to be replayed."""
    for name, server in stack.items():
        if name == "epmd":
            continue
        given = services()[name].get("stop_grace_period", "10s")
        needed = getattr(server, "stop_wait_s", None) or server.launch().stop_wait_s
        if name == "simulator":
            continue  # what it answers is nobody's loss
        assert int(given.removesuffix("s")) >= needed, name


def test_postgresql_has_the_options_of_the_stack() -> None:
    """Written twice because an image takes flags and no file; the sizes are the container's."""
    text = postgres._options(5432, durable=True)
    options = dict(re.findall(r"^(\w+) = '?([^'#\n]*?)'?\s*(?:#.*)?$", text, re.MULTILINE))
    given = dict(
        flag.removeprefix("-c").split("=") for flag in services()["postgres"]["command"][1:]
    )
    sizes = {"shared_buffers", "effective_cache_size"}
    left = {  # the image's own, or its default
        *("listen_addresses", "port", "unix_socket_directories", "log_timezone"),
        *("fsync", "synchronous_commit", "full_page_writes", "log_line_prefix"),
        "max_locks_per_transaction",  # for the many databases of tests
    }
    assert set(options) - set(given) == left
    assert {n: v for n, v in given.items() if n not in sizes} == {
        n: v for n, v in options.items() if n in given and n not in sizes
    }


def test_the_broker_has_the_options_of_the_stack() -> None:
    folder = ROOT / "deploy" / "rabbitmq"
    written = (folder / "raidhub.conf").read_text("utf-8").splitlines()
    lines = {line for line in written if line and not line.startswith("#")}
    assert lines
    assert lines <= set(rabbitmq._configuration(make_settings()).splitlines())
    plugins = (folder / "enabled_plugins").read_text("utf-8")
    assert plugins == "[rabbitmq_management,rabbitmq_prometheus].\n"


# --- compose: Prometheus, Grafana, Dagster --------------------------------------------------------


def test_prometheus_has_the_jobs_that_rules_and_boards_read() -> None:
    """The same names and ports as on one machine; only how targets are found differs."""
    folder = ROOT / "deploy" / "prometheus"
    program = shutil.which("promtool")
    assert program is not None, "promtool is not installed: run ./bootstrap.sh (package prometheus)"
    done = subprocess.run(
        [program, "check", "config", "compose.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    usual, here = (
        yaml.safe_load((folder / name).read_text("utf-8"))
        for name in ("prometheus.yml", "compose.yml")
    )
    assert (usual["global"], usual["rule_files"]) == (here["global"], here["rule_files"])
    ports = {
        job["job_name"]: int(job["static_configs"][0]["targets"][0].rpartition(":")[2])
        for job in usual["scrape_configs"]
    }
    for job in here["scrape_configs"]:
        name = job["job_name"]
        if "dns_sd_configs" in job:
            (discovery,) = job["dns_sd_configs"]
            assert discovery["names"] == [name]
            assert discovery["port"] == ports.pop(name)
            assert name in services()
        else:
            ports.pop(name)
    assert ports == {}
    file = Path(services()["prometheus"]["command"][0].partition("=")[2])
    assert f"./deploy/prometheus:{file.parent}:ro" in services()["prometheus"]["volumes"]
    assert (folder / file.name).exists()


def test_grafana_finds_its_boards() -> None:
    provider = ROOT / "deploy/grafana/provisioning/dashboards/raidhub.yml"
    (told,) = yaml.safe_load(provider.read_text("utf-8"))["providers"]
    mounts = dict(v.split(":")[:2] for v in services()["grafana"]["volumes"])
    assert mounts["./deploy/grafana/boards"] == told["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"


def test_dagster_finds_the_code_location(
    stack: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the stack's name: schedules and sensors are known by it in the database."""
    command = services()["dagster-code"]["command"]
    host = environment(services()["dagster-webserver"])["DAGSTER_CODE_HOST"]
    monkeypatch.setenv("DAGSTER_CODE_HOST", host)
    (origin,) = location_origins_from_yaml_paths([str(ROOT / "deploy/docker/workspace.yaml")])
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    stack["dagster-code"].prepare()
    usual = yaml.safe_load((stack["dagster-code"].home / "workspace.yaml").read_text("utf-8"))
    assert origin.location_name == usual["load_from"][0]["grpc_server"]["location_name"]
    assert (origin.host, f"-p {origin.port} " in command) == ("dagster-code", True)


def test_dagster_has_the_projects_instance() -> None:
    """One dagster.yaml for every deployment; its database is the one that is made beforehand."""
    copied = [i.text for i in of_target("dagster", "COPY") if "--from" not in i.text]
    assert copied == ["dagster.yaml deploy/docker/workspace.yaml /var/lib/dagster/"]
    assert "DAGSTER_HOME=/var/lib/dagster" in [i.text for i in of_target("dagster", "ENV")]
    instance = yaml.safe_load((ROOT / "dagster.yaml").read_text("utf-8"))
    assert instance["storage"]["custom"]["config"]["database"] == HISTORY_DATABASE
