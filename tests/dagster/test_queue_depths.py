"""What people see of the queues, and when they are told."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import connect
from raidhub_dagster.resources import BrokerResource, DiscordResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from sensors.queue_depths import ANSWER_LIMIT_S, queue_depths_sensor
from tests.support.webhook import Hook

PARKED = topology.parked_queue(topology.PLAYER_CRAWL)


class Ticks:
    """Evaluates ticks one after another, with the cursor of the one before."""

    def __init__(self, instance: dg.DagsterInstance, hook: Hook, settings: Settings) -> None:
        self.cursor: str | None = None
        self.hook = hook
        self.settings = settings
        self._instance = instance

    def __call__(self, **broker: Any) -> tuple[dict[str, dict[str, Any]], str | None]:
        """Queue -> what was observed, and why the tick skipped."""
        used = broker or {
            name: getattr(self.settings, name) for name in ("rabbitmq_port", "rabbitmq_ui_port")
        }
        used = {"hermes_metrics_port": free_port(), "rabbitmq_host": HOST} | used
        context = dg.build_sensor_context(
            instance=self._instance,
            cursor=self.cursor,
            resources={
                "broker": BrokerResource(settings=used),
                "discord": DiscordResource(settings={"atlas_webhook_url": self.hook.address}),
            },
        )
        began = time.monotonic()
        result = queue_depths_sensor.evaluate_tick(context)
        assert time.monotonic() - began < 30, "a tick has 30 s"
        self.cursor = result.cursor
        observed = {
            event.asset_key.path[-1]: {k: v.value for k, v in event.metadata.items()}
            for event in result.asset_events
            if isinstance(event, dg.AssetObservation)
        }
        return observed, result.skip_message

    @property
    def told(self) -> list[str]:
        return [message["embeds"][0]["title"] for message in self.hook.got]


@pytest.fixture
def tick(
    instance: dg.DagsterInstance,
    hook: Hook,
    rabbitmq: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> Ticks:
    settings = settings_for(rabbitmq)
    connection = connect(settings, "test")
    channel = connection.channel()
    topology.declare(channel)
    topology.declare_failure_queues(channel, topology.PLAYER_CRAWL, [1])
    connection.close()
    return Ticks(instance, hook, settings)


def put(settings: Settings, queue: str, messages: int) -> None:
    connection = connect(settings, "test")
    channel = connection.channel()
    channel.confirm_delivery()
    for number in range(messages):
        channel.basic_publish("", queue, str(number).encode())
    connection.close()


def purge(settings: Settings, queue: str) -> None:
    connection = connect(settings, "test")
    connection.channel().queue_purge(queue)
    connection.close()


def test_observes_every_queue_once_and_then_what_moved(tick: Ticks) -> None:
    """A quiet night must not fill the event log; a queue that nobody watches is one that fills."""
    observed, _ = tick()
    assert set(observed) == set(topology.MAIN_QUEUES)
    assert observed[topology.CLAN_CRAWL]["depth"] == 0
    put(tick.settings, topology.CLAN_CRAWL, 3)
    again, _ = tick()
    assert again[topology.CLAN_CRAWL]["depth"] == 3
    assert again[topology.CLAN_CRAWL]["consumers"] == 0


def test_tells_dead_letters_once_and_when_they_are_gone(tick: Ticks) -> None:
    """Hermes tells while it parks; somebody must also hear of what lies there since last week."""
    tick()
    put(tick.settings, PARKED, 2)
    observed, _ = tick()
    assert observed[topology.PLAYER_CRAWL]["parked"] == 2
    tick()
    assert tick.told == ["Dead letters wait"]
    purge(tick.settings, PARKED)
    tick()
    tick()
    assert tick.told == ["Dead letters wait", "Dead letters are gone"]


def test_tells_that_the_broker_is_away_and_back(tick: Ticks) -> None:
    """A restart of the broker is no message, an outage is one; backlogs before it stay known."""
    put(tick.settings, PARKED, 1)
    tick()
    for _ in range(4):
        observed, why = tick(rabbitmq_port=free_port(), rabbitmq_ui_port=free_port())
        assert observed == {}
        assert why is not None
        assert "does not answer" in why
    assert tick.told == ["Dead letters wait", "RabbitMQ is away"]
    tick()
    assert tick.told == ["Dead letters wait", "RabbitMQ is away", "RabbitMQ is back"]


def test_counts_a_broker_that_hangs_as_away(tick: Ticks) -> None:
    """It accepts connections and says nothing: a tick that is killed tells nobody."""
    tick()
    with socket.create_server((HOST, 0)) as mute:
        began = time.monotonic()
        _, why = tick(rabbitmq_port=mute.getsockname()[1], rabbitmq_ui_port=free_port())
        assert time.monotonic() - began < ANSWER_LIMIT_S + 5
    assert why == "no answer within 10 s"
    assert json.loads(tick.cursor or "")["away"] == 1


@pytest.mark.parametrize(
    "cursor", ["{old release", "[1, 2]", '{"seen": 1, "levels": [], "away": "x"}']
)
def test_starts_over_when_the_cursor_is_unreadable(tick: Ticks, cursor: str) -> None:
    """One bad deploy would else stop the sensor until somebody resets it by hand."""
    tick.cursor = cursor
    observed, _ = tick()
    assert set(observed) == set(topology.MAIN_QUEUES)
    assert set(json.loads(tick.cursor or "")) == {"seen", "levels", "away"}
