import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.clickhouse import connect
from sensors.stream_progress import WATCHED, stream_progress_sensor
from tests.dagster.conftest import World

Tick = Callable[..., tuple[dict[str, dict[str, Any]], str | None, str | None]]


@pytest.fixture
def tick(instance: dg.DagsterInstance, store: PostgresResource, clickhouse: dict[str, Any]) -> Tick:
    """Evaluates one tick -> (table -> metadata of its observation, cursor, why it skipped)."""

    def evaluate(
        cursor: str | None = None, analytics: ClickHouseResource | None = None
    ) -> tuple[dict[str, dict[str, Any]], str | None, str | None]:
        resources = {
            "postgres": store,
            "clickhouse": analytics or ClickHouseResource(settings=clickhouse),
        }
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=resources)
        result = stream_progress_sensor.evaluate_tick(context)
        names = {spec.key: name for name, spec in WATCHED.items()}
        observed = {}
        for event in result.asset_events:
            assert isinstance(event, dg.AssetObservation | dg.AssetMaterialization)
            observed[names[event.asset_key]] = {k: v.value for k, v in event.metadata.items()}
        return observed, result.cursor, result.skip_message

    return evaluate


@pytest.fixture
def away() -> ClickHouseResource:
    return ClickHouseResource(
        settings={"clickhouse_host": HOST, "clickhouse_http_port": free_port()}
    )


def test_observes_every_watched_table_at_the_first_tick(tick: Tick) -> None:
    """A table that the query forgets, or names otherwise than its asset, would never be seen."""
    observed, cursor, _ = tick()
    assert set(observed) == set(WATCHED)
    assert {metadata["dagster/row_count"] for metadata in observed.values()} == {0}
    assert set(json.loads(cursor or "")) == set(WATCHED)


def test_tells_rows_newest_id_and_lag(tick: Tick, world: World) -> None:
    world.player(7)
    world.raid(100, [7])
    world.raid(90, [7])
    observed, _, _ = tick()
    raids = observed["core.instance"]
    assert (raids["dagster/row_count"], raids["newest_id"], raids["rows_are_estimated"]) == (
        2,
        100,
        False,
    )
    assert raids["lag_s"] > timedelta(days=365).total_seconds()
    assert observed["raw.pgcr"]["lag_s"] < 60
    assert observed["core.player"]["newest_id"] == 7


def test_tells_what_still_waits(tick: Tick, world: World) -> None:
    """These three are the backlogs that grow when a worker dies."""
    world.run(
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source, next_attempt_at)"
        " VALUES (1, 'waiting', 'r', 'atlas', now() - interval '1 hour'),"
        " (2, 'resolved', 'r', 'atlas', NULL), (3, 'unknown_hash', 'r', 'hermes', NULL)"
    )
    world.run(
        "INSERT INTO streaming.outbox (kind, destination, key, body, created_at, sent_at) VALUES"
        " ('message', 'player_crawl', 1, '', now() - interval '2 hours', now()),"
        " ('clickhouse', 'instance', 1, '', now() - interval '1 hour', NULL)"
    )
    world.run(
        "INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)"
        " VALUES (1, 9, 'done', 'a', now()), (10, 19, 'leased', 'a', now())"
    )
    observed, _, _ = tick()
    waiting = {name: m["waiting"] for name, m in observed.items() if "waiting" in m}
    assert waiting == {
        "streaming.missed_pgcr": 2,
        "streaming.outbox": 1,
        "streaming.crawl_block": 1,
    }
    assert observed["streaming.crawl_block"]["newest_id"] == 19
    assert observed["streaming.missed_pgcr"]["lag_s"] == pytest.approx(3600, abs=60)
    assert observed["streaming.outbox"]["lag_s"] == pytest.approx(3600, abs=60)


def test_tells_what_clickhouse_holds(
    tick: Tick, clickhouse: dict[str, Any], settings_for: Callable[..., Settings]
) -> None:
    client = connect(settings_for(clickhouse), "pytest")
    ended = datetime.now(UTC) - timedelta(hours=3)
    client.insert(
        "instance",
        [[5, ended, ended], [4, ended + timedelta(hours=1), ended]],
        column_names=["instance_id", "date_completed", "date_started"],
    )
    client.close()
    observed, _, _ = tick()
    newest = observed["instance"]
    assert (newest["dagster/row_count"], newest["newest_id"]) == (2, 4)
    assert newest["lag_s"] == pytest.approx(2 * 3600, abs=120)


def test_skips_with_the_numbers_when_nothing_moved(tick: Tick, world: World) -> None:
    """A silent night must not fill the event log, and must not look like a dead sensor."""
    world.player(7)
    _, cursor, _ = tick()
    observed, kept, why = tick(cursor)
    assert (observed, kept) == ({}, cursor)
    assert why is not None
    assert "core.player 1" in why


def test_observes_again_when_one_row_came(tick: Tick, world: World) -> None:
    _, cursor, _ = tick()
    world.player(7)
    observed, _, _ = tick(cursor)
    assert observed["core.player"]["dagster/row_count"] == 1


@pytest.mark.parametrize("cursor", ["{old release", "[1, 2]", '"text"'])
def test_starts_over_when_the_cursor_is_unreadable(tick: Tick, cursor: str) -> None:
    """Otherwise one bad deploy stops the sensor until somebody resets it by hand."""
    observed, written, _ = tick(cursor)
    assert set(observed) == set(WATCHED)
    assert tick(written)[2] is not None


def test_goes_on_without_clickhouse(tick: Tick, away: ClickHouseResource) -> None:
    """The crawl does not need ClickHouse, so neither does the view of the crawl."""
    observed, _, _ = tick(analytics=away)
    assert observed["core.instance"]["dagster/row_count"] == 0
    assert "is away" in observed["instance"]["unreachable"]
    assert set(observed) == set(WATCHED)


def test_names_clickhouse_when_it_skips_without_it(tick: Tick, away: ClickHouseResource) -> None:
    _, cursor, _ = tick(analytics=away)
    _, _, why = tick(cursor, away)
    assert why is not None
    assert "is away" in why


def test_estimates_a_big_table(tick: Tick, world: World) -> None:
    """Counting a billion rows once a minute would be the database's main work."""
    world.run(
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
        " SELECT id, 'resolved', 'r', 'atlas' FROM generate_series(1, 100002) AS id"
    )
    world.run("ANALYZE streaming.missed_pgcr")
    observed, _, _ = tick()
    missed = observed["streaming.missed_pgcr"]
    assert (missed["dagster/row_count"], missed["rows_are_estimated"]) == (100_002, True)
    assert (missed["newest_id"], missed["waiting"]) == (100_002, 0)


def test_fails_when_postgres_is_away(
    instance: dg.DagsterInstance, away: ClickHouseResource
) -> None:
    """Without its first store it knows nothing: a red tick, not a quiet one."""
    lost = PostgresResource(settings={"postgres_host": HOST, "postgres_port": free_port()})
    context = dg.build_sensor_context(
        instance=instance, resources={"postgres": lost, "clickhouse": away}
    )
    with pytest.raises(Exception, match="onnection refused"):
        stream_progress_sensor.evaluate_tick(context)


def test_growth_counts_for_freshness(
    instance: dg.DagsterInstance, store: PostgresResource, away: ClickHouseResource, world: World
) -> None:
    """Dagster measures freshness by materializations: a crawl that stopped must look stale."""
    world.player(7)
    world.raid(100, [7])

    def grown(cursor: str | None) -> tuple[set[str], str | None]:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"postgres": store, "clickhouse": away}
        )
        result = stream_progress_sensor.evaluate_tick(context)
        events = [e for e in result.asset_events if isinstance(e, dg.AssetMaterialization)]
        return {event.asset_key.path[-1] for event in events}, result.cursor

    written, cursor = grown(None)
    assert written == {"pgcr"}
    world.player(8)
    written, cursor = grown(cursor)
    assert written == set()  # others moved
    world.raid(101, [7])
    assert grown(cursor)[0] == {"pgcr"}
