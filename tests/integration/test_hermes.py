"""Hermes as it runs: a process of its own, real broker, real database."""

import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raidhub_dagster.messaging.messages import Message, instance_store_properties
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.messaging.topology import INSTANCE_STORE
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import stamped
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.seeds import seed
from streaming.cli import hermes
from streaming.hermes.contest import Contest
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery
from streaming.hermes.topics.instance_store import TOPIC, InstanceStore
from tests.support.queues import consuming, ready, take, until
from tests.support.reports import encode, envelope, make_entry, make_report
from tests.support.typed import variables

SettingsFor = Callable[..., Settings]
NOW = datetime.now(UTC)
# Nobody listens on the discard port: topics that ask the API stay closed.
NO_API = {"bungie_api_key": "key", "bungie_url_base": f"http://{HOST}:9"}


@pytest.fixture
def settings(
    postgres: dict[str, Any], rabbitmq: dict[str, Any], settings_for: SettingsFor
) -> Settings:
    return settings_for(
        postgres,
        rabbitmq,
        clickhouse_http_port=free_port(),
        hermes_metrics_port=free_port(),
        **NO_API,
    )


def report_message(instance_id: int, **report: Any) -> Message:
    """As atlas publishes it."""
    body = gzip.compress(encode(make_report(instance_id=instance_id, **report)))
    properties = instance_store_properties(instance_id, NOW, "atlas", settled=False)
    return Message(INSTANCE_STORE, body, properties)


def send(settings: Settings, *messages: Message) -> None:
    with Publisher(settings, "test") as publisher:
        publisher.publish(messages)


def rows(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    with connected(settings, "test") as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def stored(settings: Settings) -> int:
    return int(rows(settings, "SELECT count(*) FROM core.instance")[0][0])


def checked(settings: Settings) -> int:
    return int(rows(settings, "SELECT count(*) FROM streaming.cheat_check")[0][0])


@contextmanager
def process(settings: Settings, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`raidhub hermes` as a supervisor would start it; killed at the end if it still runs."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-c", "from streaming.cli import hermes; hermes()", *arguments],
            env={**os.environ, **variables(settings)},
            stderr=output,
        )
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def healthz(settings: Settings) -> tuple[int, dict[str, Any]]:
    url = f"http://127.0.0.1:{settings.hermes_metrics_port}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


def test_every_generation_of_messages_is_stored(settings: Settings) -> None:
    """Programs outside still send the shapes of the predecessors."""
    plain = [make_report(instance_id=16_000_000_000 + n) for n in range(5)]
    bodies = [
        gzip.compress(encode(plain[0])),
        encode({"instance": {"instanceId": 1}, "pgcr": plain[1]}),
        encode({"activity": {"instanceId": 1}, "raw": plain[2]}),
        encode(plain[3]),
        encode(envelope(plain[4])),
    ]
    send(settings, *(Message(INSTANCE_STORE, body, {}) for body in bodies))
    with consuming(settings, TOPIC):
        until(lambda: stored(settings) == 5)
    kept = rows(settings, "SELECT data FROM raw.pgcr ORDER BY instance_id")
    assert [json.loads(gzip.decompress(bytes(data))) for (data,) in kept] == plain
    assert ready(settings, INSTANCE_STORE) == ready(settings, "instance_store.parked") == 0


def test_the_body_is_kept_as_atlas_compressed_it(settings: Settings) -> None:
    message = report_message(16_000_000_001)
    send(settings, message)
    with consuming(settings, TOPIC):
        until(lambda: stored(settings) == 1)
    ((data,),) = rows(settings, "SELECT data FROM raw.pgcr")
    assert bytes(data) == stamped(message.body, NOW)


@pytest.mark.parametrize(
    ("message", "reason", "missed"),
    [
        (Message(INSTANCE_STORE, b"\x1f\x8bnot gzip", {}), "PermanentError", []),
        (Message(INSTANCE_STORE, b"", {}), "PermanentError", []),
        (
            Message(INSTANCE_STORE, b"{", {"headers": {"instance_id": 16_000_000_009}}),
            "PermanentError",
            [(16_000_000_009, "malformed", "unreadable_body", 6, "hermes", True)],
        ),
        (
            report_message(16_000_000_009, period="yesterday"),
            "MalformedError",
            [(16_000_000_009, "malformed", "period", 6, "hermes", True)],
        ),
    ],
)
def test_what_cannot_be_parsed_is_parked_and_fetched_again_later(
    settings: Settings, message: Message, reason: str, missed: list[tuple[Any, ...]]
) -> None:
    good = report_message(16_000_000_001)
    send(settings, message, good)
    with consuming(settings, TOPIC):
        until(lambda: ready(settings, "instance_store.parked") and stored(settings) == 1)
    parked = take(settings, "instance_store.parked")
    assert parked is not None
    headers, body = parked
    assert body == message.body
    assert headers["reason"] == "poison"
    assert headers["error"].startswith(reason)
    found = rows(
        settings,
        "SELECT instance_id, state, reason, last_result, source, next_attempt_at > now()"
        " FROM streaming.missed_pgcr",
    )
    assert found == missed


def test_a_report_the_database_refuses_spares_the_rest_of_its_batch(settings: Settings) -> None:
    """It is retried alone, then parked with a row in the ledger; nothing of the others waits."""
    with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE core.instance ADD CHECK (instance_id <> 16000000003)")
    send(settings, *(report_message(16_000_000_000 + n) for n in range(6)))
    with consuming(settings, TOPIC):
        until(lambda: stored(settings) == 5)
        until(lambda: ready(settings, "instance_store.parked"), limit_s=60)
    parked = take(settings, "instance_store.parked")
    assert parked is not None
    assert (parked[0]["reason"], parked[0]["attempts"]) == ("exhausted", 4)
    assert "CheckViolation" in parked[0]["error"]
    assert rows(
        settings,
        "SELECT instance_id, state, reason, next_attempt_at FROM streaming.missed_pgcr",
    ) == [(16_000_000_003, "waiting", "store_failed", None)]


def test_a_message_that_the_broker_loses_between_two_tries_is_fetched_again(
    settings: Settings,
) -> None:
    """It held the only body, and the block of its id is done: nobody else would miss it."""
    with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE core.instance ADD CHECK (instance_id <> 16000000003)")
    send(settings, report_message(16_000_000_003))
    with consuming(settings, replace(TOPIC, base_delay_s=1800)):
        until(lambda: ready(settings, "instance_store.retry.1800") == 1)
    assert take(settings, "instance_store.retry.1800") is not None
    assert rows(
        settings,
        "SELECT instance_id, state, reason,"
        " next_attempt_at BETWEEN now() AND now() + interval '1 hour' FROM streaming.missed_pgcr",
    ) == [(16_000_000_003, "waiting", "store_failed", True)]


def test_recent_raids_are_counted_by_name_after_the_commit(settings: Settings) -> None:
    labels = ("King's Fall", "Standard", "true")
    before = metrics.PGCR_INSTANCE_TYPE.value(*labels)
    recent = (NOW - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    store = InstanceStore(settings)
    new = report_message(16_000_000_001, period=recent)
    old = report_message(16_000_000_002)
    deliveries = [Delivery(m.body, m.properties["headers"]) for m in (new, old, new)]
    try:
        assert list(store.handle(deliveries)) == [None] * 3
    finally:
        store.close()
    assert metrics.PGCR_INSTANCE_TYPE.value(*labels) - before == 1


def test_an_unknown_activity_is_stored_once_its_definition_is_there(
    settings: Settings, tmp_path: Path
) -> None:
    """On a release day nobody has the new hash yet; no report of that day may be lost."""
    send(settings, report_message(16_000_000_001, hash=4_000_000_001))
    with process(settings, tmp_path / "log", "--topic", "instance_store"):
        until(lambda: rows(settings, "SELECT state FROM streaming.missed_pgcr"), limit_s=60)
        with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO definitions.activity_version (hash, activity_id, version_id)"
                " VALUES (4000000001, 11, 1)"
            )
        until(lambda: stored(settings) == 1, limit_s=60)
    assert rows(settings, "SELECT state FROM streaming.missed_pgcr") == [("resolved",)]
    assert ready(settings, "instance_store.parked") == 0


def delivery(message: Message) -> Delivery:
    return Delivery(message.body, message.properties["headers"])


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


def test_a_report_that_contradicts_the_stored_one_is_told_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a person can judge which is right; a redelivery is nothing new."""
    first = delivery(report_message(16_000_000_001))
    other = delivery(report_message(16_000_000_001, hash=2381413764))
    store = InstanceStore(settings)
    try:
        assert [store.handle([one]) for one in (first, other, other)] == [[None]] * 3
    finally:
        store.close()
    assert actions(caplog).count("pgcr_conflict") == 1
    assert rows(settings, "SELECT state FROM streaming.pgcr_revision") == [("conflict",)]


def test_a_flagged_player_who_vanishes_is_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A judgement hangs in the air: its subject is in no report any more."""
    store = InstanceStore(settings)
    team = [make_entry(1), make_entry(2)]
    swapped = [make_entry(1), make_entry(3)]
    first = report_message(16_000_000_001, players=team)
    later = report_message(16_000_000_001, players=swapped)
    later.properties["headers"]["fetched_at"] = (NOW + timedelta(minutes=15)).isoformat()
    try:
        store.handle([delivery(first)])
        with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO flagging.flag_instance_player"
                " SELECT instance_id, membership_id, 'v1', 1, now(), 0.9"
                " FROM core.instance_player ORDER BY membership_id DESC LIMIT 1"
            )
        assert store.handle([delivery(later)]) == [None]
    finally:
        store.close()
    assert "flagged_player_vanished" in actions(caplog)
    assert rows(settings, "SELECT count(*) FROM core.instance_player") == [(3,)]


def test_a_malformed_report_that_heals_is_stored(settings: Settings) -> None:
    """Bungie publishes some reports broken and mends them; the second fetch must close the row."""
    broken = make_report(instance_id=16_000_000_001)
    del broken["entries"][0]["extended"]
    properties = instance_store_properties(16_000_000_001, NOW, "atlas", settled=False)
    send(settings, Message(INSTANCE_STORE, gzip.compress(encode(broken)), properties))
    with consuming(settings, TOPIC):
        until(lambda: rows(settings, "SELECT state FROM streaming.missed_pgcr"))
        send(settings, report_message(16_000_000_001))
        until(lambda: stored(settings) == 1)
        # A late copy of the broken one opens nothing again.
        send(settings, Message(INSTANCE_STORE, gzip.compress(encode(broken)), properties))
        until(lambda: ready(settings, "instance_store.parked") == 2)
    assert rows(settings, "SELECT state FROM streaming.missed_pgcr") == [("resolved",)]


def test_a_young_report_is_asked_for_again(settings: Settings, tmp_path: Path) -> None:
    """Through store, chore, outbox and relay: none of them may forget it."""
    soon = settings.model_copy(
        update={"young_first_recheck_s": 0.5, "young_last_recheck_s": 1.0, "young_report_s": 7200.0}
    )
    period = (NOW - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    send(settings, report_message(16_000_000_001, period=period))
    with process(soon, tmp_path / "log", "--topic", "instance_store", "--topic", "relay"):
        until(lambda: ready(settings, "pgcr_crawl") > 0, limit_s=60)
    message = take(settings, "pgcr_crawl")
    assert message is not None
    assert json.loads(message[1]) == {"instanceId": "16000000001", "refetch": True}
    assert rows(settings, "SELECT * FROM streaming.young_pgcr") == []


def has_grown(settings: Settings, to: int) -> bool:
    return stored(settings) >= to


def test_a_killed_process_loses_nothing_and_doubles_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    """Kill -9 in the middle of batches; the next process gets what was not acknowledged."""
    send(settings, *(report_message(16_000_000_000 + n) for n in range(400)))
    arguments = ("--topic", "instance_store", "--batch", "7")
    for _ in range(2):
        with process(settings, tmp_path / "log", *arguments) as victim:
            before = stored(settings)
            until(partial(has_grown, settings, before + 60), limit_s=60)
            victim.send_signal(signal.SIGKILL)
            victim.wait(10)
    with process(settings, tmp_path / "log", *arguments):
        until(lambda: stored(settings) == 400, limit_s=60)
        until(lambda: ready(settings, INSTANCE_STORE) == 0)
    clears = rows(settings, "SELECT sum(clears), count(*) FROM core.player_stats")
    assert clears == [(800, 2)]  # two players in each report
    assert ready(settings, "instance_store.parked") == 0


def test_a_database_that_comes_late_and_restarts_costs_nothing(
    rabbitmq: dict[str, Any], settings_for: SettingsFor, server_folder: Path, tmp_path: Path
) -> None:
    """The process is there before the server and its schema, and outlives a restart under load."""
    settings = settings_for(
        rabbitmq,
        postgres_host=HOST,
        postgres_port=free_port(),
        postgres_user="raidhub",
        postgres_password=secrets.token_hex(16),
        clickhouse_http_port=free_port(),
        hermes_metrics_port=free_port(),
        **NO_API,
    )
    server = PostgresServer(settings, server_folder / "restarted", durable=False)
    send(settings, *(report_message(16_000_000_000 + n) for n in range(400)))
    with process(settings, tmp_path / "log", "--batch", "7"):
        until(lambda: "refused" in healthz(settings)[1].get("checks", {}).get("postgres", ""))
        with running(server, tmp_path / "postgres.log"):
            migrate_postgres(settings)
            seed(settings)
            until(lambda: stored(settings) >= 60, limit_s=90)
        until(lambda: healthz(settings)[1]["checks"]["postgres"] != "ok")
        with running(server, tmp_path / "postgres.log"):
            until(lambda: stored(settings) == 400, limit_s=90)
            until(lambda: ready(settings, INSTANCE_STORE) == 0)
            until(lambda: checked(settings) == 400, limit_s=90)
            clears = rows(settings, "SELECT sum(clears), count(*) FROM core.player_stats")
    assert clears == [(800, 2)]
    assert (
        ready(settings, "instance_store.parked") == ready(settings, "instance_store.retry.1") == 0
    )


def test_a_connection_lost_in_the_middle_of_a_store_costs_nothing(settings: Settings) -> None:
    """The transaction is gone and the message is not: it is tried again, and no retry counted."""
    waits = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'hermes-instance_store' AND wait_event_type = 'Lock'"
    )
    with connected(settings, "test") as blocker, blocker, blocker.cursor() as cursor:
        cursor.execute("LOCK TABLE core.instance_player IN ACCESS EXCLUSIVE MODE")
        send(settings, report_message(16_000_000_001))
        with consuming(settings, TOPIC) as consumer:
            until(lambda: rows(settings, waits))
            rows(settings, f"SELECT pg_terminate_backend(pid) FROM ({waits}) AS w")
            until(lambda: "connection already closed" in (consumer.problem() or ""))
            blocker.rollback()
            until(lambda: stored(settings) == 1 and consumer.problem() is None)
    assert rows(settings, "SELECT sum(clears) FROM core.player_stats") == [(2,)]
    failed = ("instance_store.retry.1", "instance_store.parked", INSTANCE_STORE)
    assert [ready(settings, queue) for queue in failed] == [0, 0, 0]


def test_a_terminated_process_drains_and_relays(settings: Settings, tmp_path: Path) -> None:
    send(settings, *(report_message(16_000_000_000 + n) for n in range(300)))
    send(settings, Message("subscription_match", b"{}", {"delivery_mode": 2}))  # nobody's topic
    with process(settings, tmp_path / "log") as started:  # all topics and the relay
        until(lambda: stored(settings) >= 100, limit_s=60)
        status, health = healthz(settings)
        assert health["checks"]["instance_store"] == health["checks"]["postgres"] == "ok"
        assert (status, health["checks"]["relay_clickhouse"] != "ok") == (503, True)
        until(lambda: checked(settings) > 0)  # so the relay sent what the store asked for
        started.send_signal(signal.SIGTERM)
        assert started.wait(40) == 0
    assert stored(settings) + ready(settings, INSTANCE_STORE) == 300
    assert ready(settings, "subscription_match") == 1
    lines = [json.loads(line) for line in (tmp_path / "log").read_text("utf-8").splitlines()]
    assert lines[-1]["action"] == "hermes_stopped"


def sample(settings: Settings, line: str) -> float | None:
    """A value of the process's metrics; None before it has it."""
    url = f"http://127.0.0.1:{settings.hermes_metrics_port}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=15) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def test_a_contest_of_the_definitions_raises_the_workers_within_ten_seconds(
    settings: Settings, tmp_path: Path
) -> None:
    """Nobody has to be awake when it begins, nor to restart anything when it is over."""
    count = 'queue_worker_count{queue_name="instance_store"}'
    change = "UPDATE definitions.activity_definition SET release_date = now() - interval '1 day',"
    change += " contest_end = now() + interval '{}' WHERE id = 11"

    def define(until_end: str) -> None:
        with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
            cursor.execute(change.format(until_end))
            assert cursor.rowcount == 1

    with process(settings, tmp_path / "log", "--topic", "instance_store"):
        until(lambda: healthz(settings)[1].get("checks", {}).get("contest") == "ok", limit_s=60)
        until(lambda: sample(settings, count) == 15)
        define("1 day")
        until(lambda: sample(settings, count) == 30, limit_s=10)
    with process(settings, tmp_path / "log", "--topic", "instance_store", "--slots", "2"):
        until(lambda: healthz(settings)[1].get("checks", {}).get("contest") == "ok", limit_s=60)
        assert sample(settings, count) == 20  # what an operator fixed stays, ten to a thread
    define("-1 hour")
    contest = Contest(settings)
    threads = Threads()
    loop = threads.start("contest", contest.loop(threads).run)
    try:
        until(lambda: contest._windows)
        assert not contest.is_on()
        define("1 hour")
        until(contest.is_on, limit_s=10)
    finally:
        threads.stopping.set()
        loop.join(30)


def test_an_operator_may_declare_a_contest(settings_for: SettingsFor) -> None:
    """Bungie announces some too late for the definitions."""
    assert Contest(settings_for(is_contest_weekend=True)).is_on()
    assert not Contest(settings_for()).is_on()


def test_a_wrong_topic_is_a_usage_error_that_lists_the_right_ones() -> None:
    result = CliRunner().invoke(hermes, ["--topic", "instance_stroe"])
    assert result.exit_code == 2
    assert "instance_stroe; there are: instance_store, player_crawl," in result.output


@pytest.mark.parametrize("wrong", [["--slots", "0"], ["--batch", "x"], ["--batch", "-1"]])
def test_wrong_numbers_are_usage_errors(wrong: list[str]) -> None:
    assert CliRunner().invoke(hermes, wrong).exit_code == 2
