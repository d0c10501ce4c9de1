import dagster as dg
import psycopg2
import pytest

from raidhub_dagster.errors import ConfigurationError, TransientError
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.stack.process import HOST, free_port


def test_a_connection_names_its_run(store: PostgresResource, instance: dg.DagsterInstance) -> None:
    """A slow query in pg_stat_activity must lead to the run that sent it."""
    seen: list[str] = []

    @dg.asset
    def names_itself(postgres: PostgresResource) -> None:
        with postgres.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('application_name')")
            seen.extend(cursor.fetchone() or ())

    result = dg.materialize([names_itself], instance=instance, resources={"postgres": store})
    assert seen == [f"dagster {result.run_id}"]


def test_a_connection_is_closed_when_its_user_fails(store: PostgresResource) -> None:
    """One leaked connection a failed run would end at max_connections."""
    with pytest.raises(RuntimeError), store.connection() as connection:
        raise RuntimeError
    assert connection.closed


def test_settings_are_read_at_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code server lives for weeks: what counts is the environment of the run, not of the load."""
    resource = PostgresResource()
    monkeypatch.setenv("POSTGRES_HOST", HOST)
    monkeypatch.setenv("POSTGRES_PORT", str(port := free_port()))
    with pytest.raises(psycopg2.OperationalError, match=str(port)), resource.connection():
        pass


def test_an_unusable_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PORT", "many")
    with pytest.raises(ConfigurationError, match="POSTGRES_PORT"), PostgresResource().connection():
        pass


def test_clickhouse_away_names_its_address() -> None:
    """Every caller can tell an outage, which passes, from a wrong statement, which does not."""
    port = free_port()
    away = ClickHouseResource(settings={"clickhouse_host": HOST, "clickhouse_http_port": port})
    with pytest.raises(TransientError, match=f"{HOST}:{port} is away"), away.client():
        pass
