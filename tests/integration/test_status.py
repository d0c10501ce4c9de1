"""The summary of `raidhub status`: figures of real servers, and an end when they are away."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import start_http_server

from raidhub_dagster.commands.overview import stream_lines
from raidhub_dagster.commands.stack import status
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.overview import QueueState
from raidhub_dagster.monitoring import scrape as scraping
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.overview import Crawl, Overview, Proxy, look
from raidhub_dagster.stack.process import HOST, ask_all, free_port
from raidhub_dagster.storage.missed import State
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.progress import Stream, measure_stream

SettingsFor = Callable[..., Settings]

_ROWS = """
INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until, done_at) VALUES
    (1, 1000, 'done', 'a', now(), now() - interval '2 minutes'),
    (1001, 2000, 'done', 'a', now(), now() - interval '50 seconds'),
    (2001, 2500, 'done', 'a', now(), now()),
    (2501, 3500, 'leased', 'a', now(), NULL);
INSERT INTO raw.pgcr (instance_id, data, date_crawled) VALUES
    (7, 'x', now()), (8, 'x', now() - interval '30 seconds'),
    (9, 'x', now() - interval '61 seconds');
INSERT INTO streaming.gap (first_id, last_id, reason, state) VALUES
    (5001, 5100, 'test', 'open'), (6001, 6050, 'test', 'sweeping'), (7001, 7999, 'test', 'done');
INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source) VALUES
    (11, 'waiting', 'not_found', 'atlas'), (12, 'waiting', 'not_found', 'atlas'),
    (13, 'unknown_hash', 'unknown_hash', 'hermes'), (14, 'resolved', 'not_found', 'atlas');
INSERT INTO streaming.outbox (kind, destination, key, body, created_at, sent_at) VALUES
    ('message', 'player_crawl', 1, '1', now() - interval '10 minutes', NULL),
    ('message', 'player_crawl', 2, '2', now() - interval '20 minutes', now()),
    ('clickhouse', 'instance', 3, 'x', now() - interval '2 minutes', NULL);
INSERT INTO streaming.clickhouse_correction VALUES (4, 2, 1, now() - interval '5 minutes');
INSERT INTO streaming.clickhouse_dirty_day (day, reason) VALUES ('2026-01-01', 'test');
"""


def test_the_stream_is_measured_in_the_database(
    postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """What is done, closed or sent must not show as work that waits."""
    with connected(settings_for(postgres), "test") as connection:
        empty = measure_stream(connection)
        with connection, connection.cursor() as cursor:
            cursor.execute(_ROWS)
        found = measure_stream(connection)
    assert empty == Stream(
        0, 0, None, None, None, 0, 0, 0, 0.0, 0, 0.0, 0, dict.fromkeys(empty.missed, 0)
    )
    assert (found.ids_last_minute, found.raids_last_minute) == (1500, 2)
    assert (found.newest_id, found.newest_age_s) == (None, None), "there is no instance yet"
    assert (found.open_gaps, found.open_gap_ids) == (2, 150)
    assert found.missed == {
        State.WAITING: 2,
        State.MALFORMED: 0,
        State.BLOCKED: 0,
        State.UNKNOWN_HASH: 1,
    }
    assert (found.unsent, found.clickhouse_pending, found.dirty_days) == (2, 2, 1)
    assert found.unsent_oldest_s == pytest.approx(600, abs=30)
    assert found.clickhouse_oldest_s == pytest.approx(300, abs=30)


@contextmanager
def process_with(**gauges: float | dict[tuple[str, str], float]) -> Iterator[int]:
    """The port of a process that tells these metrics; a dict has values by (label, its value)."""
    registry = CollectorRegistry()
    for name, value in gauges.items():
        if isinstance(value, float):
            Gauge(name, "Test.", registry=registry).set(value)
            continue
        ((label, _), *_) = value
        gauge = Gauge(name, "Test.", (label,), registry=registry)
        for (_, label_value), one in value.items():
            gauge.labels(label_value).set(one)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_everything_is_seen_at_once(
    postgres: dict[str, Any], rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> None:
    with (
        process_with(
            atlas_head_id=16_790_000_123.0,
            atlas_active_workers=24.0,
            atlas_lag_p20_seconds=31.5,
            atlas_mode={("mode", "probe"): 0, ("mode", "catch-up"): 1},
            api_system_enabled={("system", "Destiny2"): 1, ("system", "Clans"): 0},
        ) as atlas,
        process_with(
            zeus_address_paused={("address", "0"): 0, ("address", "1"): 1},
            zeus_key_quarantined={("key_index", "0"): 1},
        ) as zeus,
    ):
        settings = settings_for(
            postgres, rabbitmq, atlas_metrics_port=atlas, zeus_metrics_port=zeus
        )
        found = look(settings, {"atlas", "zeus", "hermes"})
    assert found.problems == {}
    assert found.crawl == Crawl(16_790_000_123, "catch-up", 24, 31.5, ["Clans"])
    assert found.zeus == Proxy(2, ["1"], 1, ["0"])
    assert found.stream is not None
    assert found.queues is not None
    assert json.loads(json.dumps(found.as_json()["queues"]))["player_crawl"]["ready"] == 0


def test_what_is_away_costs_its_own_part_only_and_no_time(
    postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """On the night when it is needed half of the platform is down, some of it without a word."""
    with socket.create_server((HOST, 0)) as mute:  # takes connections and never answers
        port = mute.getsockname()[1]
        settings = settings_for(
            postgres,
            rabbitmq_host=HOST,
            rabbitmq_port=port,
            atlas_metrics_port=port,
            zeus_metrics_port=free_port(),
        )
        begun = time.monotonic()
        found = look(settings, {"atlas", "zeus"})
        took_s = time.monotonic() - begun
    assert took_s < 4
    assert found.stream is not None
    assert (found.crawl, found.queues, found.zeus) == (None, None, None)
    assert found.problems.keys() == {"rabbitmq", "atlas", "zeus"}
    assert "refused" in found.problems["zeus"]
    lines = list(stream_lines(found))
    assert [line.split()[0] for line in lines] == [
        *("crawl", "rates", "newest", "missed", "outbox", "clickhouse", "queues", "zeus")
    ]
    assert sum(" - (" in line for line in lines) == 3


def test_a_lost_database_leaves_a_dash_in_each_of_its_lines(settings_for: SettingsFor) -> None:
    settings = settings_for(
        postgres_host=HOST, postgres_port=free_port(), rabbitmq_host=HOST, rabbitmq_port=free_port()
    )
    lines = list(stream_lines(look(settings, ())))
    assert len(lines) == 6
    assert all(" - (" in line and "refused" in line.lower() for line in lines), lines


def test_a_process_that_is_none_of_ours_is_no_crash() -> None:
    with socket.create_server((HOST, 0)) as stranger:

        def answer() -> None:
            connection, _ = stranger.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<p>hi</p>")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransientError, match="/metrics on"):
            scraping.scrape(HOST, stranger.getsockname()[1])
        thread.join()


def test_a_question_that_does_not_end_is_left_to_itself() -> None:
    """And what others answered meanwhile is not lost."""
    release = threading.Event()
    answers = ask_all(
        {"slow": lambda: release.wait(20), "quick": lambda: True, "odd": lambda: [][0]}, limit_s=0.2
    )
    release.set()
    assert answers["quick"] is True
    assert str(answers["slow"]) == "no answer within 0.2 s"
    assert str(answers["odd"]) == "list index out of range"


def test_lines_say_what_waits_and_leave_out_what_does_not() -> None:
    stream = Stream(
        6000,
        300,
        77,
        125.4,
        8.0,
        1,
        15_680,
        100_001,
        90.0,
        0,
        0.0,
        2,
        {State.WAITING: 3, State.BLOCKED: 0},
    )
    queues = [
        QueueState("instance_store", 5, None, None, 1, None, waiting=2, parked=1),
        QueueState("player_crawl", 0, 3, 1.0, 1, 20, waiting=0, parked=0),
        QueueState("clan_crawl", 9, None, None, 0, None, waiting=0, parked=0),
    ]
    crawl = Crawl(None, None, None, None, [])
    lines = list(stream_lines(Overview(crawl, stream, queues, Proxy(16, [], 2, ["1"]), {})))
    assert lines == [
        "crawl       head - | no regime yet, - workers | lag P20 -",
        "rates       100.0 ids/s, 5.0 raids/s in the last minute",
        "newest      raid 77 ended 0:02:05 ago, stored 8 s ago",
        "missed      waiting 3; 1 open gaps (15680 ids)",
        "outbox      more than 100000 unsent, the oldest for 90 s",
        "clickhouse  0 rows pending; 2 days to rebuild",
        "queues      instance_store 5 (+ 2 waiting, 1 parked), clan_crawl 9",
        "zeus        0 of 16 addresses paused | 1 of 2 keys quarantined (number 1)",
    ]


def test_without_a_stack_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever listens on the default ports of this machine is somebody else's."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(status)
    assert isinstance(done.exception, TransientError)
    assert "raidhub up" in str(done.exception)
