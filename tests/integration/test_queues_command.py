"""`raidhub queues`: the table, and parked messages on their way back or out."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result

from raidhub_dagster import cli
from raidhub_dagster.commands.queues import queues
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.messaging import parking
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import health, metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from streaming.hermes.consumer import declare
from streaming.hermes.failures import Treatment, parked_message
from streaming.hermes.topic import Delivery, Topic
from tests.support.broker import kick, manage
from tests.support.queues import Trial, channel_of, ready, until
from tests.support.typed import variables

SettingsFor = Callable[..., Settings]
QUEUE = "clan_crawl"
PARKED = "clan_crawl.parked"
NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)


def clan_crawl() -> Topic:
    return Topic(QUEUE, Trial()._open, Trial().topic().limits, retries=2, base_delay_s=60)


@pytest.fixture
def settings(
    rabbitmq: dict[str, Any], settings_for: SettingsFor, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Of a broker with the queues; the command line finds it in the environment."""
    given = settings_for(rabbitmq, hermes_metrics_port=free_port())
    for name, value in variables(given).items():
        monkeypatch.setenv(name, value)
    with channel_of(given) as channel:
        declare(channel, clan_crawl())
    return given


def park(settings: Settings, *messages: tuple[bytes, Treatment]) -> None:
    """Parks them as hermes does: after two retries, each with a header of its own."""
    with Publisher(settings, "test") as publisher:
        publisher.publish(
            [
                parked_message(
                    clan_crawl(),
                    Delivery(
                        body,
                        {"source": "public api", "x-retry-count": 2, "x-death": [{"count": 1}]},
                        f"clan_crawl:{body.decode()}",
                        "text/plain",
                    ),
                    PermanentError("no id") if treatment is Treatment.POISON else KeyError("k"),
                    treatment,
                    NOW,
                )
                for body, treatment in messages
            ]
        )


def some(count: int, treatment: Treatment = Treatment.POISON) -> Iterator[tuple[bytes, Treatment]]:
    return ((b"%d" % n, treatment) for n in range(1, count + 1))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(queues, arguments)


def bodies_of(settings: Settings, queue: str) -> list[bytes]:
    """All messages, in order; they are taken."""
    found = []
    with channel_of(settings) as channel:
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(got[2])
    return found


def test_replayed_messages_are_as_they_first_came(settings: Settings) -> None:
    """With the old count of retries a message would be parked again at its first failure."""
    park(settings, (b"1", Treatment.EXHAUSTED))
    result = run("replay", QUEUE)
    assert (result.exit_code, result.output) == (
        0,
        "1 went back to clan_crawl, 0 stay parked\n",
    )
    with channel_of(settings) as channel:
        _, properties, body = channel.basic_get(QUEUE, auto_ack=True)
    assert body == b"1"
    assert properties.headers == {"source": "public api"}
    assert (properties.message_id, properties.content_type) == ("clan_crawl:1", "text/plain")
    assert properties.delivery_mode == 2
    assert ready(settings, PARKED) == 0


@pytest.mark.parametrize(
    ("arguments", "moved", "left", "says"),
    [
        ((), [1, 2, 3, 4, 5, 6], [], "6 went back to clan_crawl, 0 stay parked"),
        (("--limit", "2"), [1, 2], [3, 4, 5, 6], "2 went back to clan_crawl, 4 stay parked"),
        (("--reason", "poison"), [1, 3, 5], [2, 4, 6], "3 went back to clan_crawl, 3 stay parked"),
        (
            ("--reason", "exhausted", "--limit", "2", "--rate", "1000"),
            [2, 4],
            [1, 3, 5, 6],
            "2 went back to clan_crawl, 4 stay parked",
        ),
        (("--dry-run",), [], [1, 2, 3, 4, 5, 6], "6 would go back to clan_crawl, 0 stay parked"),
    ],
)
def test_replay_moves_what_it_is_asked_for_and_keeps_the_rest_in_order(
    settings: Settings, arguments: tuple[str, ...], moved: list[int], left: list[int], says: str
) -> None:
    kinds = [Treatment.POISON, Treatment.EXHAUSTED] * 3
    park(settings, *((b"%d" % n, kind) for n, kind in enumerate(kinds, 1)))
    result = run("replay", QUEUE, *arguments)
    assert (result.exit_code, result.output.strip()) == (0, says)
    assert bodies_of(settings, QUEUE) == [b"%d" % n for n in moved]
    assert bodies_of(settings, PARKED) == [b"%d" % n for n in left]


def test_replay_ends_although_everything_is_parked_again(settings: Settings) -> None:
    """Nobody repaired the cause: each message comes back, and the command may not go round."""
    park(settings, *some(150))
    stopping = threading.Event()

    def park_again() -> None:
        with channel_of(settings) as channel, Publisher(settings, "again") as publisher:
            while not stopping.is_set():
                method, _, body = channel.basic_get(QUEUE)
                if method is not None:
                    publisher.publish([Message(PARKED, body, {"delivery_mode": 2})])
                    channel.basic_ack(method.delivery_tag)

    thread = threading.Thread(target=park_again)
    thread.start()
    try:
        done = parking.replay(settings, QUEUE, rate_per_s=2000)
        until(lambda: ready(settings, QUEUE) == 0)
    finally:
        stopping.set()
        thread.join()
    assert done == parking.Replay(moved=150, kept=0, left=0)
    assert ready(settings, PARKED) == 150


def test_replay_goes_no_faster_than_it_is_told(settings: Settings) -> None:
    """A thousand crawls at once would take the API from everything else."""
    park(settings, *some(12))
    now, waited = [0.0], []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    parking.replay(settings, QUEUE, rate_per_s=0.5, limit=4, clock=lambda: now[0], sleep=sleep)
    assert sum(waited) == 6.0  # four of them, two seconds apart
    waited.clear()
    parking.replay(settings, QUEUE, rate_per_s=4, clock=lambda: now[0], sleep=sleep)
    assert sum(waited) == 1.0  # eight left, four at a time
    assert ready(settings, QUEUE) == 12


def test_a_replay_whose_connection_is_lost_loses_nothing(settings: Settings) -> None:
    park(settings, *some(300))

    def sleep(_seconds: float) -> None:
        until(lambda: kick(settings, "raidhub-parking"))

    with pytest.raises((BrokerError, TransientError)):
        parking.replay(settings, QUEUE, rate_per_s=100, sleep=sleep)
    until(lambda: ready(settings, QUEUE) + ready(settings, PARKED) >= 300)
    everything = {*bodies_of(settings, QUEUE), *bodies_of(settings, PARKED)}
    assert everything == {b"%d" % n for n in range(1, 301)}


def test_show_tells_why_and_takes_nothing(settings: Settings) -> None:
    park(settings, *some(3))
    shown = run("show", QUEUE, "--limit", "2").output
    assert "clan_crawl:1: poison PermanentError: no id" in shown
    assert "x-retry-count: 2" in shown
    assert "body (1 bytes): 2" in shown
    assert shown.endswith("3 parked, 2 shown\n")
    lines = run("show", QUEUE, "--json").output.splitlines()
    first = json.loads(lines[0])
    assert (len(lines), first["body"], first["headers"]["attempts"]) == (3, "1", 3)
    assert ready(settings, PARKED) == 3


def test_purge_shows_first_and_deletes_only_when_told(settings: Settings) -> None:
    park(settings, *some(7))
    result = run("purge", PARKED)
    assert result.output.startswith("7 messages in clan_crawl.parked; --yes deletes them\n")
    assert result.output.count("poison PermanentError: no id") == 5
    assert run("purge", PARKED, "--dry-run", "--yes").exit_code == 2
    assert ready(settings, PARKED) == 7
    assert run("purge", PARKED, "--yes").output == "7 messages of clan_crawl.parked deleted\n"
    assert ready(settings, PARKED) == 0
    assert run("purge", "player_crawl.parked", "--yes").output == (
        "0 messages of player_crawl.parked deleted\n"
    )


def test_the_table_tells_every_main_queue(settings: Settings) -> None:
    park(settings, *some(2))
    with channel_of(settings) as channel, Publisher(settings, "test") as publisher:
        for queue, count in ((QUEUE, 5), ("clan_crawl.retry.60", 3), ("pgcr_blocked", 4)):
            publisher.publish([Message(queue, b"1", {"delivery_mode": 2})] * count)
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume(QUEUE, lambda *_: None)
        channel.connection.process_data_events(1)

        def is_seen() -> bool:
            """The management API counts some seconds later."""
            there = {
                q["name"]: q.get("messages_unacknowledged") for q in manage(settings, "queues")
            }
            return there.get(QUEUE) == 2 and "clan_crawl.retry.60" in there

        metrics.QUEUE_WORKER_COUNT.labels(QUEUE).set(3)
        with health.serve(settings.hermes_metrics_port, {}, variable="HERMES_METRICS_PORT"):
            until(is_seen)
            listed = json.loads(run("--json").output)
            table = run().output
    found = {state["name"]: state for state in listed}
    assert len(found) == 11
    assert found[QUEUE] | {"handled_per_s": 0.0} == {
        "name": QUEUE,
        "ready": 3,
        "unacknowledged": 2,
        "handled_per_s": 0.0,
        "consumers": 1,
        "workers": 3,
        "waiting": 3,
        "parked": 2,
    }
    assert found["pgcr_blocked_retry"]["waiting"] == 4
    heads = ["queue", "ready", "unacked", "per", "s", "consumers", "workers", "waiting", "parked"]
    assert table.splitlines()[0].split() == heads
    (line,) = (line for line in table.splitlines() if line.startswith(QUEUE))
    cells = line.split()
    assert [*cells[:3], *cells[4:]] == [QUEUE, "3", "2", "1", "3", "3", "2"]


def test_without_management_and_hermes_the_broker_alone_tells(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin may be off: depth and parked messages are what one looks for at night."""
    park(settings, *some(2))
    monkeypatch.setenv("RABBITMQ_UI_PORT", str(free_port()))
    (line,) = (line for line in run().output.splitlines() if line.startswith(QUEUE))
    assert line.split() == [QUEUE, "0", "-", "-", "0", "-", "0", "2"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("replay", "clan_crwal"),
        ("show", "clan_crawl.parked"),
        ("purge", "pgcr_blocked"),
        ("replay", QUEUE, "--reason", "bad"),
        ("replay", QUEUE, "--rate", "0"),
        ("replay", QUEUE, "--limit", "0"),
        ("--json", "show", QUEUE),
    ],
)
def test_wrong_usage_says_what_there_is(wrong: tuple[str, ...]) -> None:
    result = run(*wrong)
    assert result.exit_code == 2
    assert "Error" in result.output


@pytest.mark.parametrize(
    "command", [[], ["show", QUEUE], ["replay", QUEUE], ["purge", PARKED, "--yes"]]
)
def test_a_broker_that_is_away_is_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("RABBITMQ_HOST", HOST)
    monkeypatch.setenv("RABBITMQ_PORT", str(port))
    with pytest.raises(SystemExit) as exit_:
        cli.main(["queues", *command])
    assert exit_.value.code == 1
    told = capsys.readouterr().err
    assert told.startswith(f"raidhub: RabbitMQ at {HOST}:{port} does not answer")
    assert told.count("\n") == 1
