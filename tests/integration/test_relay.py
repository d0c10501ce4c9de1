"""The outbox on its way to the broker: in order, at least once, shared by relays."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import execute_values

from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import free_port
from raidhub_dagster.storage import missed, outbox
from raidhub_dagster.storage.postgres import connected
from streaming.hermes import relay
from streaming.hermes.threads import Threads
from tests.support.queues import channel_of, ready, until

SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings(
    postgres: dict[str, Any], rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> Settings:
    # Nobody listens for ClickHouse: messages must not care.
    return settings_for(postgres, rabbitmq, clickhouse_http_port=free_port())


def fill(connection: Connection, rows: Sequence[tuple[str, int]], *, kind: str = "message") -> None:
    """Outbox rows (destination, key), the body as the store writes it for an id queue."""
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            "INSERT INTO streaming.outbox (kind, destination, key, body) VALUES %s",
            [(kind, destination, key, b"%d" % key) for destination, key in rows],
        )


def bodies_of(settings: Settings, queue: str) -> list[bytes]:
    with channel_of(settings) as channel:
        return [
            channel.basic_get(queue, auto_ack=True)[2]
            for _ in range(channel.queue_declare(queue, passive=True).method.message_count)
        ]


def test_messages_leave_in_order_and_once(settings: Settings) -> None:
    with connected(settings, "test") as connection, Publisher(settings, "test") as publisher:
        fill(connection, [("player_crawl", n) for n in range(1, 8)])
        fill(connection, [("instance", 9)], kind="clickhouse")  # not ours to send
        counts = [outbox.relay_messages(connection, publisher.publish, limit=5) for _ in range(3)]
        backlog = outbox.backlog(connection)
    assert counts == [5, 2, 0]
    assert bodies_of(settings, "player_crawl") == [b"%d" % n for n in range(1, 8)]
    assert backlog.unsent == 1
    assert 0 <= backlog.oldest_s < 60


def test_the_backlog_tells_apart_what_waits_for_whom(settings: Settings) -> None:
    """The alert must name ClickHouse when ClickHouse is away, and not when the broker is."""
    with connected(settings, "test") as connection:
        assert outbox.backlog(connection) == outbox.Backlog(0, 0.0, 0.0, 0.0, 0)
        fill(connection, [("player_crawl", 1)])
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE streaming.outbox SET created_at = now() - interval '1 hour'")
        only_messages = outbox.backlog(connection)
        fill(connection, [("instance", 9)], kind="clickhouse")
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE streaming.outbox SET created_at = now() - interval '10 minutes'"
                " WHERE kind = 'clickhouse'"
            )
        both = outbox.backlog(connection)
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO streaming.clickhouse_correction VALUES"
                " (9, 2, 1, now() - interval '20 minutes'), (8, 2, 2, now() - interval '1 day')"
            )
            cursor.execute(
                "INSERT INTO streaming.clickhouse_dirty_day (day, reason, rebuilt_at)"
                " VALUES ('2026-01-01', 'test', NULL), ('2026-01-02', 'test', now())"
            )
        corrected = outbox.backlog(connection)
    assert 3600 <= only_messages.oldest_s < 3700
    assert 3600 <= only_messages.oldest_message_s < 3700
    assert only_messages.clickhouse_oldest_s == 0
    assert 600 <= both.clickhouse_oldest_s < 700
    assert 1200 <= corrected.clickhouse_oldest_s < 1300
    assert (corrected.unsent, corrected.dirty_days) == (2, 1)


def test_nothing_is_marked_when_the_broker_is_away(settings: Settings) -> None:
    def away(_messages: Sequence[Message]) -> None:
        raise BrokerError("gone")

    with connected(settings, "test") as connection:
        fill(connection, [("player_crawl", 1)])
        with pytest.raises(BrokerError):
            outbox.relay_messages(connection, away, limit=5)
        assert outbox.backlog(connection).unsent == 1


def test_a_relay_killed_between_publish_and_mark_repeats_and_loses_nothing(
    settings: Settings,
) -> None:
    """At least once: the next relay sends the batch again, consumers are idempotent."""
    with connected(settings, "test") as connection:
        fill(connection, [("player_crawl", n) for n in range(1, 4)])
        child = os.fork()
        if child == 0:  # a process of its own, so that nothing is rolled back in an orderly way
            with connected(settings, "victim") as own, Publisher(settings, "victim") as publisher:

                def publish_and_die(messages: Sequence[Message]) -> None:
                    publisher.publish(messages)
                    os.kill(os.getpid(), signal.SIGKILL)

                outbox.relay_messages(own, publish_and_die, limit=5)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        assert outbox.backlog(connection).unsent == 3
        with Publisher(settings, "test") as publisher:
            until(lambda: outbox.relay_messages(connection, publisher.publish, limit=5) == 3)
    assert bodies_of(settings, "player_crawl") == [b"1", b"2", b"3"] * 2


def test_a_queue_that_does_not_exist_holds_up_only_its_own_rows(settings: Settings) -> None:
    with connected(settings, "test") as connection, Publisher(settings, "test") as publisher:
        fill(connection, [("nowhere", 1), ("player_crawl", 2), ("nowhere", 3)])
        counts = [outbox.relay_messages(connection, publisher.publish, limit=5) for _ in range(7)]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT destination, attempts, last_error, sent_at IS NOT NULL"
                " FROM streaming.outbox ORDER BY id"
            )
            rows = cursor.fetchall()
    assert counts == [3, 2, 2, 2, 2, 0, 0]  # five tries, then they wait for a person
    assert rows == [
        ("nowhere", 5, "no such queue: nowhere", False),
        ("player_crawl", 0, None, True),
        ("nowhere", 5, "no such queue: nowhere", False),
    ]
    assert bodies_of(settings, "player_crawl") == [b"2"]


def test_two_relays_share_the_work_and_send_nothing_twice(settings: Settings) -> None:
    with connected(settings, "test") as connection:
        fill(connection, [("player_crawl", n) for n in range(1, 2001)])
        shares: list[int] = []

        def work() -> None:
            with connected(settings, "relay") as own, Publisher(settings, "relay") as publisher:
                share = 0
                while outbox.backlog(own).unsent:
                    share += outbox.relay_messages(own, publisher.publish, limit=50)
                shares.append(share)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(shares) == 2000
    assert min(shares) > 0
    assert sorted(map(int, bodies_of(settings, "player_crawl"))) == list(range(1, 2001))


def test_only_what_was_sent_long_ago_is_pruned(settings: Settings) -> None:
    with connected(settings, "test") as connection:
        fill(connection, [("player_crawl", n) for n in range(1, 6)])
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "UPDATE streaming.outbox SET created_at = now() - interval '9 days',"
                " sent_at = CASE WHEN key <= 3 THEN now() - interval '8 days'"
                " WHEN key = 4 THEN now() - interval '6 days' END"
            )
        assert [outbox.prune(connection, limit=2) for _ in range(3)] == [2, 1, 0]
        with connection.cursor() as cursor:
            cursor.execute("SELECT key FROM streaming.outbox ORDER BY key")
            assert cursor.fetchall() == [(4,), (5,)]


def test_claims_use_the_index_however_much_was_sent(settings: Settings) -> None:
    """A week of sent rows lies beside the few that wait; a scan would grow with them."""
    with connected(settings, "test") as connection:
        fill(connection, [("player_crawl", n) for n in range(1, 5001)])
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE streaming.outbox SET sent_at = now() WHERE key < 4990")
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE streaming.outbox")
            claim = outbox._SQL["claim_messages"]
            cursor.execute(f"EXPLAIN {claim}", {"limit": 500})
            plan = "\n".join(line for (line,) in cursor.fetchall())
    assert "outbox_unsent_idx" in plan
    assert "Seq Scan" not in plan


def test_the_loops_carry_on_when_servers_come_and_go(settings: Settings) -> None:
    """ClickHouse is away all the time here; a lost database connection is opened again."""
    threads = Threads()
    with connected(settings, "test") as connection, Publisher(settings, "relay") as publisher:
        fill(connection, [("player_crawl", 1)])
        loops = relay.loops(settings, publisher, threads, Alerts(None, footer="test"))
        running = [threads.start(loop.name, loop.run) for loop in loops]
        problems = {loop.name: loop.problem for loop in loops}
        try:
            until(lambda: ready(settings, "player_crawl") == 1)
            until(lambda: "does not answer" in (problems["relay_clickhouse"]() or ""))
            until(lambda: problems["relay_messages"]() is None)
            with connection, connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'hermes-relay-messages'"
                )
            fill(connection, [("player_crawl", 2)])
            until(lambda: ready(settings, "player_crawl") == 2)
            until(lambda: REGISTRY.get_sample_value("outbox_unsent") is not None)
        finally:
            threads.stopping.set()
            for thread in running:
                thread.join(30)
        assert not any(thread.is_alive() for thread in running)
    assert not threads.crashed


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == "raidhub_dagster.discord.alerts"]


@pytest.mark.parametrize(
    ("kind", "age", "says"),
    [
        ("message", "9 minutes", []),
        ("message", "11 minutes", ["Outbox is behind: Oldest, minutes: 11; Unsent in all: 1"]),
        ("clickhouse", "9 minutes", []),
        ("clickhouse", "2 hours", ["ClickHouse is behind: Oldest, minutes: 120; Unsent in all: 1"]),
    ],
)
def test_an_effect_that_waits_for_ten_minutes_is_told(
    settings: Settings, kind: str, age: str, says: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody must look: what is stored is not yet what readers see."""
    alerts = Alerts(None, footer="test")
    with connected(settings, "test") as connection, caplog.at_level(logging.INFO):
        fill(connection, [("instance", 1)], kind=kind)
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE streaming.outbox SET created_at = now() - %s::interval", (age,))
        for _ in range(3):
            relay.watch(connection, alerts)
    assert told(caplog) == says
    assert REGISTRY.get_sample_value("outbox_unsent") == 1


def test_an_unknown_activity_is_told_once_whoever_looks(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A release day has thousands of its reports; one message is enough, over every restart."""
    with connected(settings, "test") as connection, caplog.at_level(logging.INFO):

        def miss(*rows: tuple[int, int]) -> None:
            with connection, connection.cursor() as cursor:
                missed.record(
                    cursor,
                    [
                        missed.Missed(i, missed.State.UNKNOWN_HASH, "unknown_hash", hash=hash_)
                        for i, hash_ in rows
                    ],
                    source="test",
                )

        miss((16_000_000_003, 77), (16_000_000_001, 77), (16_000_000_002, 88))
        for _ in range(2):
            relay.watch(connection, Alerts(None, footer="another process"))
        miss((16_000_000_004, 77), (16_000_000_005, 99))
        relay.watch(connection, Alerts(None, footer="test"))
    assert told(caplog) == [
        "Unknown activity: Hash: 77; First id: 16000000001; Reports: 2",
        "Unknown activity: Hash: 88; First id: 16000000002; Reports: 1",
        "Unknown activity: Hash: 99; First id: 16000000005; Reports: 1",
    ]


def test_days_to_rebuild_are_counted_and_none_is_zero(settings: Settings) -> None:
    """An alert that never saw a 0 would not know a rebuild from a missing relay."""
    alerts = Alerts(None, footer="test")
    with connected(settings, "test") as connection:
        relay.watch(connection, alerts)
        assert REGISTRY.get_sample_value("clickhouse_dirty_days") == 0
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO streaming.clickhouse_dirty_day (day, reason, rebuilt_at) VALUES"
                " ('2025-01-01', 'r', NULL), ('2025-01-02', 'r', now() - interval '1 hour'),"
                " ('2025-01-03', 'r', now() + interval '1 hour')"
            )
        relay.watch(connection, alerts)
        assert REGISTRY.get_sample_value("clickhouse_dirty_days") == 2
