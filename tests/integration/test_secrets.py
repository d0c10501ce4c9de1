"""Commands and processes with a wrong secret everywhere: what they say is not the secret."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from tests.support.queues import until
from tests.support.secrets import CANARIES, leaked
from tests.support.typed import command, typed, variables

Environment = dict[str, str]


def test_the_look_finds_a_secret_in_every_form() -> None:
    """The tests below would pass if it found nothing."""
    given: dict[str, Any] = {name.lower(): value for name, value in CANARIES.items()}
    values = Settings(_env_file=None, **given)
    for name in CANARIES:
        secret = getattr(values, name.lower()).get_secret_value()
        for told in (secret, repr(secret), f"{secret!r}: refused", f"(url: {secret})"):
            assert leaked(told) == [name]
    login = "Basic " + "Z3Vlc3Q6Y2FuYXJ5QFJBQkJJVE1RX1BBU1NXT1JELyciJXM="
    assert leaked(login) == ["RABBITMQ_PASSWORD"]
    assert leaked("postgresql://a:canary%40POSTGRES_PASSWORD%2F%27%22%25s@host/db") != []


def test_settings_tell_no_secret() -> None:
    """They are in local variables of every traceback, and in whatever prints an object."""
    given: dict[str, Any] = {name.lower(): value for name, value in CANARIES.items()}
    settings = Settings(_env_file=None, **given)
    assert leaked(f"{settings!r} {settings} {settings.of_history!r} {settings.model_dump()}") == []
    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None, **given, postgres_port=CANARIES["POSTGRES_PASSWORD"])
    assert leaked(f"{caught.value} {caught.value!r}") == []


@pytest.fixture
def environment(postgres: dict[str, Any], rabbitmq: dict[str, Any], tmp_path: Path) -> Environment:
    """Real servers that refuse every login, and nobody behind all other addresses."""
    servers = variables(postgres | rabbitmq)
    ports = [f"{name.upper()}" for name in Settings.model_fields if name.endswith("_metrics_port")]
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),  # this tree, whatever is installed
        "RAIDHUB_HOME": str(tmp_path),
        "LOG_LEVEL": "debug",
        "CLICKHOUSE_HOST": HOST,
        "CLICKHOUSE_HTTP_PORT": str(free_port()),
        "ZEUS_HOST": HOST,
        "ZEUS_STATS_URL": "http://127.0.0.1:9",
        "ZEUS_WWW_URL": "http://127.0.0.1:9",
        **{name: str(free_port()) for name in (*ports, "ZEUS_PORT")},
        **servers,
        **CANARIES,
    }


WRONG_LOGIN = "password authentication failed"


@pytest.mark.parametrize(
    ("arguments", "right", "told"),
    [
        (("migrate", "--wait", "0"), (), WRONG_LOGIN),
        (("migrate", "--wait", "0"), ("POSTGRES",), "CLICKHOUSE"),
        (("seed", "--wait", "0"), (), WRONG_LOGIN),
        (("verify",), (), WRONG_LOGIN),
        (("ingest", "."), (), WRONG_LOGIN),
        (("backup", "out"), (), WRONG_LOGIN),
        (("reconcile",), (), WRONG_LOGIN),
        (("reconcile",), ("POSTGRES",), "ClickHouse does not answer"),
        (("queues",), (), "ACCESS_REFUSED"),
    ],
    ids=[
        *("migrate", "migrate clickhouse", "seed", "verify", "ingest", "backup", "reconcile"),
        *("reconcile clickhouse", "queues"),
    ],
)
def test_a_command_that_is_refused_tells_no_secret(
    environment: Environment,
    postgres: dict[str, Any],
    tmp_path: Path,
    arguments: tuple[str, ...],
    right: tuple[str, ...],
    told: str,
) -> None:
    """People copy the line into a chat and ask what it means."""
    if right:
        environment["POSTGRES_PASSWORD"] = postgres["postgres_password"]
        del environment["POSTGRES_DAGSTER_PASSWORD"]
    done = typed(*arguments, folder=tmp_path, environment=environment)
    assert done.returncode == 1, done.stderr
    assert told.lower() in done.stderr.lower()
    assert leaked(done.stdout + done.stderr) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hermes", "--without", "relay"), "ACCESS_REFUSED"),
        (("hermes", "--topic", "relay"), WRONG_LOGIN),
        (("atlas",), WRONG_LOGIN),
        (("zeus", "--dev"), "zeus_started"),
    ],
    ids=["hermes", "relay", "atlas", "zeus"],
)
def test_a_process_that_is_refused_tells_no_secret(
    environment: Environment,
    rabbitmq: dict[str, Any],
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    """It tries for hours, and its log goes to wherever logs are collected, at level debug."""
    if arguments == ("hermes", "--topic", "relay"):
        environment["RABBITMQ_PASSWORD"] = rabbitmq["rabbitmq_password"]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(*arguments), cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
    try:
        until(lambda: said in log.read_text("utf-8") or process.poll() is not None, limit_s=60)
        listed = [] if process.poll() is not None else psutil.Process(process.pid).cmdline()
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    text = log.read_text("utf-8")
    assert said in text
    assert leaked(text + " ".join(listed)) == []
