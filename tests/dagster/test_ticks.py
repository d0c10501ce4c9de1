"""What every tick of a sensor or schedule keeps to, whatever it does."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import psycopg2.errors
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.definitions import build_defs
from raidhub_dagster.resources import (
    ArchiveResource,
    BungieResource,
    ClickHouseResource,
    DiscordResource,
    PostgresResource,
)
from tests.dagster.conftest import World

_EVERY_TABLE = """
SELECT string_agg(quote_ident(schemaname) || '.' || quote_ident(tablename), ', ')
FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""


class Hasty(PostgresResource):
    """With a hundredth of the limit that was asked for."""

    @contextmanager
    def connection(self, *, limit_s: float | None = None) -> Iterator[Connection]:
        assert limit_s is not None, "nothing bounds a statement"
        assert limit_s <= 10, "three statements must fit into 30 s"
        with super().connection(limit_s=limit_s / 100) as connection:
            yield connection


REPOSITORY = build_defs().get_repository_def()
TICKS: list[dg.SensorDefinition | dg.ScheduleDefinition] = [
    *REPOSITORY.sensor_defs,
    *REPOSITORY.schedule_defs,
]
READERS = sorted(tick.name for tick in TICKS if "postgres" in tick.required_resource_keys)


@pytest.fixture
def locked(world: World) -> Iterator[World]:
    """Every table, as a migration might hold it."""
    ((tables,),) = world.rows(_EVERY_TABLE)
    with world.connection, world.connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        yield world


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """One on disk: a schedule gets only a reference to its instance."""
    with dg.instance_for_test() as persistent:
        yield persistent


def evaluate(name: str, **given: Any) -> object:
    """One tick. Raises what its function raises."""
    if REPOSITORY.has_sensor_def(name):
        with dg.build_sensor_context(**given, repository_def=REPOSITORY) as context:
            return REPOSITORY.get_sensor_def(name).evaluate_tick(context)
    at = datetime(2026, 1, 1, tzinfo=UTC)
    with dg.build_schedule_context(
        **given, repository_def=REPOSITORY, scheduled_execution_time=at
    ) as context:
        try:
            return REPOSITORY.get_schedule_def(name).evaluate_tick(context)
        except dg.DagsterUserCodeExecutionError as error:
            raise error.user_exception from None


@pytest.mark.parametrize("name", READERS)
def test_gives_up_on_a_locked_table(
    name: str, postgres: dict[str, Any], locked: World, instance: dg.DagsterInstance
) -> None:
    """A tick that waits for a lock is killed after a minute, and holds a thread of all sensors."""
    assert locked
    resources: dict[str, object] = {
        "postgres": Hasty(settings=postgres),
        "archives": ArchiveResource(),
        "bungie": BungieResource(),
        "clickhouse": ClickHouseResource(),
        "discord": DiscordResource(),
    }
    with pytest.raises(psycopg2.errors.QueryCanceled):
        evaluate(name, instance=instance, resources=resources)
