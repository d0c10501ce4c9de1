"""How far the stream is behind: observed, and told once when it is too far."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.resources import DiscordResource, PostgresResource
from raidhub_dagster.storage import api_state
from sensors.stream_health import stream_health_sensor
from tests.dagster.conftest import RELEASE, World
from tests.support.webhook import Hook


class Ticks:
    """Evaluates ticks one after another, with the cursor of the one before."""

    def __init__(self, instance: dg.DagsterInstance, hook: Hook, store: PostgresResource) -> None:
        self.cursor: str | None = None
        self._instance, self._hook, self._store = instance, hook, store

    def __call__(self) -> dict[str, dict[str, Any]]:
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self.cursor,
            resources={
                "postgres": self._store,
                "discord": DiscordResource(settings={"atlas_webhook_url": self._hook.address}),
            },
        )
        began = time.monotonic()
        result = stream_health_sensor.evaluate_tick(context)
        assert time.monotonic() - began < 30, "a tick has 30 s"
        self.cursor = result.cursor
        return {
            "/".join(event.asset_key.path): {k: v.value for k, v in event.metadata.items()}
            for event in result.asset_events
            if isinstance(event, dg.AssetObservation)
        }

    @property
    def told(self) -> list[str]:
        return [message["embeds"][0]["title"] for message in self._hook.got]


@pytest.fixture
def tick(instance: dg.DagsterInstance, hook: Hook, store: PostgresResource) -> Ticks:
    return Ticks(instance, hook, store)


def ended(world: World, ago: timedelta, instance_id: int) -> None:
    """A raid that ended so long ago."""
    world.player(instance_id)
    world.raid(instance_id, [instance_id], completed_after=datetime.now(UTC) - ago - RELEASE)


def test_observes_lag_and_outbox(tick: Ticks, world: World) -> None:
    ended(world, timedelta(minutes=3), 7)
    world.run(
        "INSERT INTO streaming.outbox (kind, destination, key, body, created_at)"
        " VALUES ('message', 'player_crawl', 1, '', now() - interval '2 minutes')"
    )
    observed = tick()
    assert observed["postgres/instance"]["crawl_lag_s"] == pytest.approx(180, abs=60)
    assert observed["postgres/instance"]["newest_id"] == 7
    assert observed["postgres/outbox"]["unsent"] == 1
    assert observed["postgres/outbox"]["oldest_s"] == pytest.approx(120, abs=60)
    assert observed["clickhouse/instance"]["pending"] == 0
    assert tick.told == []


def test_tells_that_the_crawl_is_behind_and_that_it_caught_up(tick: Ticks, world: World) -> None:
    """Hours without new raids, and nobody knows: that is how a weekend was lost once."""
    ended(world, timedelta(hours=2), 7)
    tick()
    tick()
    assert tick.told == ["Crawl is behind"]
    ended(world, timedelta(minutes=40), 8)
    tick()
    assert tick.told == ["Crawl is behind"]  # between the limits
    ended(world, timedelta(minutes=5), 9)
    tick()
    tick()
    assert tick.told == ["Crawl is behind", "Crawl caught up"]


def test_is_silent_during_maintenance(tick: Ticks, world: World) -> None:
    """Every Tuesday there are no reports for an hour or more: no fault of the crawl's."""
    ended(world, timedelta(hours=2), 7)
    api_state.record(world.connection, {"Destiny2": False})
    assert tick()["postgres/instance"]["systems_off"] == "Destiny2"
    assert tick.told == []
    api_state.record(world.connection, {"Destiny2": True})
    tick()
    assert tick.told == ["Crawl is behind"]


def test_tells_of_an_outbox_that_nobody_empties(tick: Ticks, world: World) -> None:
    """The relay has alerts of its own, but not when there is no relay."""
    world.run(
        "INSERT INTO streaming.outbox (kind, destination, key, body, created_at, month) VALUES"
        " ('message', 'player_crawl', 1, '', now() - interval '40 minutes', NULL),"
        " ('clickhouse', 'instance', 1, '', now() - interval '2 hours', '2026-01-01')"
    )
    tick()
    assert sorted(tick.told) == ["ClickHouse is stale", "Outbox is stuck"]
    world.run("UPDATE streaming.outbox SET sent_at = now()")
    tick()
    assert sorted(tick.told[2:]) == ["ClickHouse is current", "Outbox is drained"]


@pytest.mark.parametrize("cursor", ["{old release", "[1, 2]", '{"levels": "all"}'])
def test_starts_over_when_the_cursor_is_unreadable(tick: Ticks, cursor: str) -> None:
    tick.cursor = cursor
    assert tick()["postgres/outbox"]["unsent"] == 0
    assert json.loads(tick.cursor) == {"levels": {}}
