"""Queues as the broker sees them, and a publisher that outlives it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import BrokerError, connect_until
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher, UnroutableError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from streaming.hermes.consumer import declare
from streaming.hermes.topics.registry import TOPICS
from tests.support.broker import kick, manage
from tests.support.queues import Trial, channel_of, ready, take, until

SettingsFor = Callable[..., Settings]


def test_the_queues_are_those_of_the_contract(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    """Programs outside declare the main queues themselves: one argument more and they fail."""
    settings = settings_for(rabbitmq)
    with channel_of(settings) as channel:
        declare(channel, *TOPICS.values())
    declared = {queue["name"]: queue for queue in manage(settings, "queues/%2F")}
    for queue in declared.values():
        assert queue["durable"], queue["name"]
        assert not queue["auto_delete"], queue["name"]
        assert queue["type"] == "classic", queue["name"]
    main = {
        *("instance_store", "pgcr_blocked_retry", "pgcr_crawl", "player_crawl"),
        *("activity_history_crawl", "character_fill", "clan_crawl", "instance_cheat_check"),
        *("instance_participant_refresh", "subscription_match", "subscription_delivery"),
    }
    assert {name for name in declared if "." not in name} == main | {"pgcr_blocked"}
    for name, queue in declared.items():
        topic, _, kind = name.partition(".")
        wait_s = int(kind.removeprefix("retry.")) if kind.startswith("retry.") else None
        if name == "pgcr_blocked":
            topic, wait_s = "pgcr_blocked_retry", 60
        assert queue["arguments"] == (
            {}
            if wait_s is None
            else {
                "x-message-ttl": wait_s * 1000,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": topic,
            }
        ), name
    beside = {name for name in declared if name.startswith("instance_store.")}
    assert beside == {
        f"instance_store.{kind}" for kind in ("parked", "retry.1", "retry.2", "retry.4")
    }


def test_a_batch_arrives_whole_persistent_and_in_order(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    settings = settings_for(rabbitmq)
    bodies = [b"%d" % n for n in range(700)]
    with Publisher(settings, "test") as publisher:
        publisher.publish([])
        publisher.publish([Message(topology.PLAYER_CRAWL, b, {"delivery_mode": 2}) for b in bodies])
        with channel_of(settings) as channel:
            got = [channel.basic_get(topology.PLAYER_CRAWL, auto_ack=True) for _ in bodies]
    assert [body for _, _, body in got] == bodies
    assert {properties.delivery_mode for _, properties, _ in got} == {2}


def test_an_unroutable_message_is_an_error_that_names_the_queue(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    """Without it the default exchange drops the message and confirms it."""
    settings = settings_for(rabbitmq)
    with Publisher(settings, "test") as publisher:
        with pytest.raises(UnroutableError, match=r"no such queue: nowhere$") as caught:
            publisher.publish(
                [Message(queue, b"1", {}) for queue in ("clan_crawl", "nowhere", "clan_crawl")]
            )
        assert caught.value.queues == {"nowhere"}
        assert ready(settings, "clan_crawl") == 2


def test_a_deleted_queue_comes_back_with_the_next_try(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    settings = settings_for(rabbitmq)
    message = Message("clan_crawl", b"1", {"delivery_mode": 2})
    with Publisher(settings, "test") as publisher:
        publisher.publish([message])
        with channel_of(settings) as channel:
            channel.queue_delete("clan_crawl")
        with pytest.raises(UnroutableError):
            publisher.publish([message])
        publisher.publish([message])
    assert take(settings, "clan_crawl") == ({}, b"1")


def test_many_threads_share_one_publisher(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    settings = settings_for(rabbitmq)
    failed: list[UnroutableError] = []
    with Publisher(settings, "test") as publisher:

        def work(queue: str) -> None:
            try:
                for _ in range(20):
                    publisher.publish([Message(queue, b"1", {})] * 5)
            except UnroutableError as error:
                failed.append(error)

        queues = ["clan_crawl", "player_crawl", "nowhere", "clan_crawl"]
        threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [error.queues for error in failed] == [{"nowhere"}]


def publishes(publisher: Publisher, message: Message) -> bool:
    try:
        publisher.publish([message])
    except BrokerError:
        return False
    return True


def test_a_closed_connection_is_opened_anew(
    rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    """An operator closes connections, a proxy times out: the publisher may not need a restart."""
    settings = settings_for(rabbitmq)
    message = Message("clan_crawl", b"1", {"delivery_mode": 2})
    with Publisher(settings, "kicked") as publisher:
        publisher.publish([message])
        until(lambda: kick(settings, "kicked"))
        until(lambda: publishes(publisher, message))
    assert ready(settings, "clan_crawl") >= 2


def test_a_refused_message_is_an_error(rabbitmq: dict[str, Any], settings_for: SettingsFor) -> None:
    """A broker that nacks has not taken the message: who goes on has lost it."""
    settings = settings_for(rabbitmq)

    def declare_full(channel: Any) -> None:
        channel.queue_declare(
            "full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
        )

    with Publisher(settings, "test", declare=declare_full) as publisher:
        with pytest.raises(BrokerError, match="refused"):
            publisher.publish([Message("full", b"1", {})] * 3)
        with channel_of(settings) as channel:
            channel.queue_purge("full")
        publisher.publish([Message("full", b"1", {})])


def test_a_broker_that_is_away_is_named(settings_for: SettingsFor) -> None:
    port = free_port()
    settings = settings_for(rabbitmq_host="127.0.0.1", rabbitmq_port=port)
    with (
        Publisher(settings, "test") as publisher,
        pytest.raises(BrokerError, match=f"RabbitMQ at 127.0.0.1:{port} does not answer"),
    ):
        publisher.publish([Message("clan_crawl", b"1", {})])


def test_connecting_waits_ever_longer_until_it_is_told_to_stop(
    settings_for: SettingsFor, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(rabbitmq_host="127.0.0.1", rabbitmq_port=free_port())
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        return len(waited) == 7

    assert connect_until(settings, "test", wait) is None
    assert waited == [1, 2, 4, 8, 16, 30, 30]
    assert str(settings.rabbitmq_port) in caplog.text


def test_a_topic_declares_only_the_delays_it_uses() -> None:
    assert Trial().topic(retries=4, base_delay_s=300).delays_s == (300, 600, 1200, 1800)
