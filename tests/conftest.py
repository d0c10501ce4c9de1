"""Real servers for every test: started when first asked for, once a session, gone with pytest.

Each fixture returns overrides for Settings, so that a test combines what it needs:
`settings_for(postgres, rabbitmq)`.
"""

import http.client
import os
import re
import secrets
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from psycopg2 import sql

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.stack.rabbitmq import EpmdServer, RabbitmqServer
from raidhub_dagster.storage import clickhouse as clickhouse_client
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.seeds import seed

Overrides = dict[str, Any]

# An example that waits for a busy machine has not failed.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def make_settings(*overrides: Overrides, **more: Any) -> Settings:
    """Settings of the defaults and these overrides: nothing of the machine's environment."""
    merged: Overrides = {}
    for part in (*overrides, more):
        merged |= part
    return Settings(_env_file=None, **merged)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, server_folder: Path) -> None:
    """A developer's own variables, or the demo's stack in this folder, must not reach a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("RAIDHUB_HOME", str(server_folder / "home"))


_MEMORY = Path("/dev/shm")  # noqa: S108  each session makes its own folder there
_MEMORY_FREE = 8 << 30  # bytes; a whole run leaves 2 GiB of databases and logs at most


def _memory_folder() -> Path | None:
    """Where files are memory, when it has room; None means the usual place."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _MEMORY_FREE:
        return _MEMORY
    return None


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """Data of the session's servers; short and open to walkers, for PostgreSQL's other user.

    In memory where there is room: a clone of the template is 600 files, 0.03 s there and 0.5 s on a
    disk that is slow to make them.
    """
    folder = Path(tempfile.mkdtemp(prefix="raidhub-test-", dir=_memory_folder()))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings_for() -> Callable[..., Settings]:
    """`settings_for(postgres, rabbitmq, field=value)` -> Settings."""
    return make_settings


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[Overrides]:
    """A server with the database `template`, migrated and seeded."""
    address: Overrides = {
        "postgres_host": HOST,
        "postgres_port": free_port(),
        "postgres_user": "raidhub",
        "postgres_password": secrets.token_hex(16),
        "postgres_db": "template",
    }
    settings = make_settings(address)
    server = PostgresServer(settings, server_folder / "postgres", durable=False)
    with running(server, server_folder / "postgres.log"):
        _make_template(settings)
        yield address


def _make_template(settings: Settings) -> None:
    migrate_postgres(settings)
    seed(settings)


_databases = count(1)


@pytest.fixture
def postgres(postgres_server: Overrides) -> Iterator[Overrides]:
    """A database of the test's own, cloned from the migrated and seeded template."""
    with own_postgres(postgres_server) as own:
        yield own


@contextmanager
def own_postgres(postgres_server: Overrides, template: str = "template") -> Iterator[Overrides]:
    """A clone of the template, for whatever shares it."""
    name = sql.Identifier(f"test_{next(_databases)}")
    connection = connect(make_settings(postgres_server), "pytest", database="postgres")
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
            cursor.execute(statement.format(name, sql.Identifier(template)))
            yield {**postgres_server, "postgres_db": name.string}
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
    finally:
        connection.close()


@pytest.fixture(scope="session")
def rabbitmq_server(server_folder: Path) -> Iterator[Overrides]:
    """A node with its own epmd."""
    address: Overrides = {
        "rabbitmq_host": HOST,
        "rabbitmq_port": free_port(),
        "rabbitmq_ui_port": free_port(),
        "rabbitmq_user": "guest",
        "rabbitmq_password": "guest",
    }
    folder = server_folder / "rabbitmq"
    epmd = EpmdServer(folder, free_port())
    node = RabbitmqServer(make_settings(address), folder, epmd.port, free_port())
    with (
        running(epmd, server_folder / "epmd.log"),
        running(node, server_folder / "rabbitmq.log") as process,
    ):
        yield address
        process.kill()  # an orderly end takes 6 s, and nobody reads what it would keep


@pytest.fixture
def rabbitmq(rabbitmq_server: Overrides) -> Overrides:
    """The session's broker without any queue: its virtual host was made anew."""
    login = b64encode(b"guest:guest").decode()
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
    everything = '{"configure": ".*", "write": ".*", "read": ".*"}'
    connection = http.client.HTTPConnection(HOST, rabbitmq_server["rabbitmq_ui_port"], timeout=30)
    for method, path, body in (
        ("DELETE", "/api/vhosts/%2F", None),
        ("PUT", "/api/vhosts/%2F", "{}"),
        ("PUT", "/api/permissions/%2F/guest", everything),
    ):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        assert answer.status < 300, f"{method} {path}: {answer.status} {text}"
    connection.close()
    return rabbitmq_server


@pytest.fixture(scope="session")
def clickhouse_server(server_folder: Path) -> Iterator[Overrides]:
    """The embedded engine behind its HTTP process."""
    address: Overrides = {"clickhouse_host": HOST, "clickhouse_http_port": free_port()}
    server = ClickhouseServer(make_settings(address), server_folder / "clickhouse")
    with running(server, server_folder / "clickhouse.log"):
        yield address


@pytest.fixture
def clickhouse(clickhouse_server: Overrides, postgres_server: Overrides) -> Iterator[Overrides]:
    """A database of the test's own with all migrations applied."""
    with own_clickhouse(clickhouse_server, postgres_server) as own:
        yield own


@contextmanager
def own_clickhouse(clickhouse_server: Overrides, postgres_server: Overrides) -> Iterator[Overrides]:
    """A migrated database, for whatever shares it: the template's statements, run once more.

    0.6 s for each test; the migrations themselves, which ask the engine more, take 1.0 s.
    """
    name = f"test_{next(_databases)}"
    own: Overrides = {**clickhouse_server, "clickhouse_db": name}
    with closing(
        clickhouse_client.connect(make_settings(own), "pytest", database="default")
    ) as client:
        if not client.command("EXISTS DATABASE template"):
            migrate_clickhouse(
                make_settings(postgres_server, clickhouse_server, clickhouse_db="template")
            )
        made = client.query(
            "SELECT create_table_query FROM system.tables WHERE database = 'template'"
            " ORDER BY engine = 'MaterializedView'"
        )
        client.command(f"CREATE DATABASE {name}")
        for (statement,) in made.result_rows:
            client.command(re.sub(r"\btemplate\.", f"{name}.", statement))
        client.command(f"INSERT INTO {name}.schema_versions SELECT * FROM template.schema_versions")
        yield own
        client.command(f"DROP DATABASE {name}")
