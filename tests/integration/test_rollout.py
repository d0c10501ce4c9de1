"""Two releases on one database: new code refuses an older schema, old code works on a newer one."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.errors import ConfigurationError
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage import clickhouse_lookups
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.leaderboards import ALL, VIEWS, refresh_order, refresh_view
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import Pool, connected
from raidhub_dagster.storage.schema import MIGRATIONS, Phase
from raidhub_dagster.storage.seeds import seed
from raidhub_dagster.storage.verify import verify
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.instance_store import InstanceStore
from tests.conftest import make_settings, own_postgres
from tests.support.analytics import Analytics, run, send_until_quiet
from tests.support.typed import typed, variables
from tests.support.worlds import report_of

NEWEST = sorted(path.stem for path in MIGRATIONS.glob("*_pre_*.sql"))[-1]


@pytest.fixture(scope="module")
def older_template(
    postgres_server: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A database as the code before the newest migration made it."""
    folder = tmp_path_factory.mktemp("older")
    for path in MIGRATIONS.glob("*.sql"):
        if path.stem < NEWEST:
            (folder / path.name).write_bytes(path.read_bytes())
    settings = make_settings(postgres_server, postgres_db="older_template")
    migrate_postgres(settings, folder=folder)
    return settings.postgres_db


@pytest.fixture
def older(postgres_server: dict[str, Any], older_template: str) -> Iterator[Settings]:
    with own_postgres(postgres_server, older_template) as own:
        yield make_settings(own)


TOLD = (
    f"PostgreSQL has an older schema than this release needs: {NEWEST} is not applied;"
    " run `raidhub migrate --pre`"
)


@pytest.mark.parametrize(
    "command",
    ["hermes --topic instance_store", "hermes --topic relay", "atlas --target 1", "verify"],
)
def test_a_process_refuses_a_schema_older_than_it_needs(
    older: Settings, rabbitmq_server: dict[str, Any], tmp_path: Path, command: str
) -> None:
    """Half of its statements would work, and the rest would fail hours later."""
    given = older.model_dump(exclude_unset=True) | rabbitmq_server
    given |= {"bungie_api_key": "key", "bungie_url_base": "http://127.0.0.1:9"}
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": root, **variables(given)}
    done = typed(*command.split(), folder=tmp_path, environment=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"raidhub: {TOLD}"
    assert "Traceback" not in done.stderr


def test_steps_and_threads_refuse_a_schema_older_than_they_need(older: Settings) -> None:
    """A step that is tried again three times would hide it; a message must not be parked for it."""
    given = older.model_dump(exclude_unset=True)
    resource = PostgresResource(settings=given)
    with pytest.raises(ConfigurationError, match=NEWEST), resource.connection():
        pass
    pool = Pool(older, "test")
    with pytest.raises(ConfigurationError, match=NEWEST), pool.connection():
        pass
    with pytest.raises(ConfigurationError, match=NEWEST):
        InstanceStore(older)
    migrate_postgres(older, Phase.PRE)
    with resource.connection(), pool.connection():
        InstanceStore(older).close()
    pool.close()


def widen_postgres(settings: Settings, folder: Path) -> None:
    """A release to come: every table has columns that this code never heard of, and new company."""
    (folder / "9001_pre_add_future.sql").write_text(
        """
        CREATE TABLE streaming.future (id bigint PRIMARY KEY);
        DO $$
        DECLARE
            wide regclass;
        BEGIN
            FOR wide IN
                SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                WHERE n.nspname IN ('definitions', 'core', 'extended', 'clan', 'raw', 'flagging',
                    'subscriptions', 'streaming') AND c.relkind = 'r'
            LOOP
                EXECUTE format('ALTER TABLE %s ADD COLUMN future_note text,'
                    ' ADD COLUMN future_count integer NOT NULL DEFAULT 7', wide);
            END LOOP;
        END
        $$;
        """,
        "utf-8",
    )
    (folder / "9002_pre_create_future_idx.sql").write_text(
        "-- transactional: false\n"
        "DROP INDEX CONCURRENTLY IF EXISTS core.future_idx;\n"
        "CREATE INDEX CONCURRENTLY future_idx ON core.instance_player (future_count);\n",
        "utf-8",
    )
    migrate_postgres(settings, Phase.PRE, folder=folder)


def widen_clickhouse(analytics: Analytics, folder: Path) -> None:
    tables = analytics.select(
        "SELECT name FROM system.tables WHERE database = currentDatabase()"
        " AND engine LIKE '%MergeTree' AND name <> 'schema_versions'"
    )
    for path in ch.MIGRATIONS.glob("*.up.sql"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "9001_add_future.up.sql").write_text(
        "".join(f"ALTER TABLE {name} ADD COLUMN future_note String;\n" for (name,) in tables),
        "utf-8",
    )
    migrate_clickhouse(analytics.settings, Phase.PRE, folder=folder)


def test_code_works_on_a_schema_newer_than_its_own(analytics: Analytics, tmp_path: Path) -> None:
    """So it does from `migrate --pre` to the end of a rollout, and after a rollback for as long."""
    settings = analytics.settings
    for engine in ("postgres", "clickhouse"):
        (tmp_path / engine).mkdir()
    runs = [run(16_000_000_000 + n, players=(n + 1, n + 2)) for n in range(30)]
    deliveries = [Delivery(report_of(one).body) for one in runs]
    store = InstanceStore(settings)
    assert store.handle(deliveries[:10]) == [None] * 10
    widen_postgres(settings, tmp_path / "postgres")
    widen_clickhouse(analytics, tmp_path / "clickhouse")
    assert migrate_postgres(settings) == migrate_clickhouse(settings) == []
    assert store.handle(deliveries[10:20]) == [None] * 10  # on the connection from before
    store.close()

    analytics.rows("DELETE FROM definitions.season WHERE id > 20")
    analytics.rows("UPDATE definitions.activity_definition SET name = 'Kings Fall' WHERE id = 11")
    assert sum(report.inserted + report.updated for report in seed(settings)) > 1
    clickhouse_lookups.refresh(settings)
    store = InstanceStore(settings)
    assert store.handle(deliveries[15:]) == [None] * 15
    store.close()
    send_until_quiet(analytics)
    for view in refresh_order(ALL):
        if view in VIEWS:
            refresh_view(analytics.postgres, view, timeout_s=60)
    with (
        connected(settings, "test") as connection,
        closing(ch.connect_checked(settings, "test")) as client,
    ):
        findings = list(verify(connection, client))
    assert [finding for finding in findings if not finding.is_equal] == []
    assert len(analytics.instances()) == 30
