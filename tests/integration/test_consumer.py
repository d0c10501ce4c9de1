"""The consumer framework with a topic of the tests: retries, parking, pauses, batches, ends."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.stack.rabbitmq import EpmdServer, RabbitmqServer
from raidhub_dagster.storage.postgres import connect
from streaming.hermes.topic import Delivery, PostponedError
from tests.support.queues import TRIAL, Trial, channel_of, consuming, publish, ready, take, until

SettingsFor = Callable[..., Settings]


@pytest.fixture
def settings(rabbitmq: dict[str, Any], settings_for: SettingsFor) -> Settings:
    return settings_for(rabbitmq)


def failing(*errors: Exception) -> Callable[[Delivery], None]:
    """Raises each of `errors` once, then accepts everything."""
    left = list(errors)

    def act(_delivery: Delivery) -> None:
        if left:
            raise left.pop(0)

    return act


def test_a_failed_message_waits_in_its_retry_queue_and_comes_back(settings: Settings) -> None:
    trial = Trial(failing(TransientError("504")))
    publish(settings, trial.topic(), b"body", message_id="trial:1", headers={"source": "test"})
    with consuming(settings, trial.topic()):
        until(lambda: len(trial.bodies) == 2)
    first, second = (delivery for batch in trial.batches for delivery in batch)
    assert "x-retry-count" not in first.headers
    assert (second.body, second.message_id) == (b"body", "trial:1")
    assert second.headers["source"] == "test"
    assert second.headers["x-retry-count"] == 1
    assert second.headers["x-last-error"] == "TransientError: 504"
    assert second.headers["x-death"][0]["queue"] == "trial.retry.1"  # the delay was the broker's
    assert [ready(settings, q) for q in (TRIAL, "trial.retry.1", "trial.parked")] == [0, 0, 0]


def test_a_message_that_keeps_failing_is_parked_after_its_retries(settings: Settings) -> None:
    before = metrics.QUEUE_MESSAGES_PROCESSED.labels(TRIAL, "error")._value.get()
    trial = Trial(failing(*(KeyError(n) for n in range(9))))
    publish(settings, trial.topic(), b"body")
    with consuming(settings, trial.topic()):
        until(lambda: ready(settings, "trial.parked"))
    assert len(trial.bodies) == 2
    assert [delivery.body for delivery in trial.given_up] == [b"body"]
    parked = take(settings, "trial.parked")
    assert parked is not None
    assert (parked[0]["reason"], parked[0]["error"]) == ("exhausted", "KeyError: 1")
    assert parked[0]["attempts"] == 2
    after = metrics.QUEUE_MESSAGES_PROCESSED.labels(TRIAL, "error")._value.get()
    assert after - before == 2


def test_poison_is_parked_at_once_and_unchanged(settings: Settings) -> None:
    """A person must be able to look at it, and to replay it after a fix."""
    trial = Trial(failing(PermanentError("not JSON")))
    body = bytes(range(256))
    publish(settings, trial.topic(), body, headers={"source": "outside"}, content_type="a/b")
    with consuming(settings, trial.topic()):
        until(lambda: ready(settings, "trial.parked"))
    parked = take(settings, "trial.parked")
    assert parked is not None
    assert parked[1] == body
    assert parked[0]["source"] == "outside"
    assert parked[0]["reason"] == "poison"
    assert parked[0]["error"] == "PermanentError: not JSON"
    assert parked[0]["x-origin"] == TRIAL


def test_a_postponed_message_waits_where_its_handler_says(settings: Settings) -> None:
    """It failed at nothing: as often as it waits, no retry is counted and nothing is parked."""
    errors = [PostponedError("withheld", "wait") for _ in range(3)]
    trial = Trial(failing(*errors))
    topic = trial.topic(retries=0)
    counted = metrics.QUEUE_MESSAGES_PROCESSED
    before = [counted.labels(TRIAL, status)._value.get() for status in ("success", "error")]
    publish(settings, topic, b"1", message_id="trial:1", headers={"source": "test"})
    with channel_of(settings) as channel:
        arguments = {
            "x-message-ttl": 100,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": TRIAL,
        }
        channel.queue_declare("wait", durable=True, arguments=arguments)
    with consuming(settings, topic):
        until(lambda: len(trial.bodies) == 4 and ready(settings, TRIAL) == 0)
    for batch in trial.batches:
        (delivery,) = batch
        assert (delivery.body, delivery.message_id) == (b"1", "trial:1")
        own = {k: v for k, v in delivery.headers.items() if not k.startswith("x-")}
        assert own == {"source": "test"}
        assert "x-retry-count" not in delivery.headers
    assert [ready(settings, q) for q in (TRIAL, "wait", "trial.parked")] == [0, 0, 0]
    after = [counted.labels(TRIAL, status)._value.get() for status in ("success", "error")]
    assert [a - b for a, b in zip(after, before, strict=True)] == [4, 0]


def test_a_wait_queue_that_is_missing_costs_no_message(settings: Settings) -> None:
    trial = Trial(failing(*(PostponedError("withheld", "nowhere") for _ in range(3))))
    topic = trial.topic(retries=0)
    publish(settings, topic, b"1")
    with consuming(settings, topic):
        until(lambda: len(trial.bodies) == 4)
        until(lambda: ready(settings, TRIAL) == 0)
    assert ready(settings, "trial.parked") == 0


def test_a_handler_that_does_not_close_spares_the_process(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A crashed slot would end all topics, for a connection that was broken anyway."""

    class Stubborn(Trial):
        def close(self) -> None:
            super().close()
            raise OSError("broken pipe")

    trial = Stubborn()
    publish(settings, trial.topic(), b"1")
    with consuming(settings, trial.topic()):
        until(lambda: trial.bodies)
    assert trial.closed == 1
    assert "did not close" in caplog.text


def test_one_bad_message_does_not_spoil_its_batch(settings: Settings) -> None:
    def act(delivery: Delivery) -> None:
        if delivery.body == b"3":
            raise PermanentError("bad")

    trial = Trial(act)
    topic = trial.topic(batch=10, batch_wait_s=5)
    publish(settings, topic, *(b"%d" % n for n in range(10)))
    with consuming(settings, topic):
        until(lambda: ready(settings, "trial.parked"))
    assert [len(batch) for batch in trial.batches] == [10]
    assert ready(settings, TRIAL) == 0


def test_a_batch_closes_by_age_when_nothing_more_comes(settings: Settings) -> None:
    """Otherwise the last reports of a burst would wait for the next one."""
    trial = Trial()
    topic = trial.topic(slots=3, batch=100, batch_wait_s=0.3)
    with consuming(settings, topic):
        publish(settings, topic, b"1", b"2")
        until(lambda: len(trial.bodies) == 2)
    assert len(trial.batches) == 1  # and in one slot, not spread over three


def test_no_more_messages_are_held_than_slots_can_take(settings: Settings) -> None:
    """What a consumer hoards is invisible as depth, and idle replicas get nothing."""
    release = threading.Event()
    trial = Trial(lambda _delivery: none(release.wait(60)))
    topic = trial.topic(slots=2, batch=3, batch_wait_s=5)
    publish(settings, topic, *[b"x"] * 10)
    with consuming(settings, topic):
        until(lambda: len(trial.batches) == 2)
        assert ready(settings, TRIAL) == 4
        release.set()
        until(lambda: len(trial.bodies) == 10)


def none(_value: object) -> None:
    """Makes a call that returns something fit where nothing may be returned."""


@pytest.mark.parametrize("where", ["open", "handle"])
def test_a_lost_database_pauses_and_costs_no_retry(
    settings: Settings, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a restart of PostgreSQL would park everything that was on its way."""
    lost = [psycopg2.OperationalError("connection refused") for _ in range(4)]
    trial = Trial(failing(*lost)) if where == "handle" else Trial(open_error=list(lost))
    topic = trial.topic(retries=1)
    publish(settings, topic, b"body")
    with consuming(settings, topic) as consumer:
        until(lambda: trial.bodies and ready(settings, TRIAL) == 0 and consumer.problem() is None)
    assert "x-retry-count" not in trial.batches[-1][0].headers
    assert "connection refused" in caplog.text
    assert not trial.given_up
    assert [ready(settings, q) for q in (TRIAL, "trial.retry.1", "trial.parked")] == [0, 0, 0]


def test_health_tells_why_a_slot_pauses(settings: Settings) -> None:
    trial = Trial(failing(*(psycopg2.OperationalError("database is away") for _ in range(10_000))))
    publish(settings, trial.topic(), b"body")
    with consuming(settings, trial.topic()) as consumer:
        until(lambda: "database is away" in (consumer.problem() or ""))
    assert ready(settings, TRIAL) == 1


def test_a_database_without_schema_pauses_too(
    settings: Settings, postgres: dict[str, Any], settings_for: SettingsFor
) -> None:
    """Hermes may start before the migrations: no message is to blame for that."""
    database = settings_for(postgres)
    statements = ["SELECT 1 FROM not_there", "SELECT nothing", "SELECT 1"]

    def act(_delivery: Delivery) -> None:
        connection = connect(database, "test")
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statements.pop(0))
        finally:
            connection.close()

    trial = Trial(act)
    publish(settings, trial.topic(), b"body")
    with consuming(settings, trial.topic()):
        until(lambda: not statements)
    assert "x-retry-count" not in trial.batches[-1][0].headers
    assert ready(settings, "trial.parked") == 0


def test_a_stop_waits_for_what_runs_and_requeues_the_rest(settings: Settings) -> None:
    started, release = threading.Event(), threading.Event()

    def act(_delivery: Delivery) -> None:
        started.set()
        assert release.wait(60)

    trial = Trial(act)
    topic = trial.topic(slots=1, batch=2, batch_wait_s=5)
    publish(settings, topic, *[b"x"] * 7)
    with consuming(settings, topic), ExitStack() as stack:
        assert started.wait(30)
        # The timer starts before the consumer is told to stop, and ends while it drains.
        stack.callback(threading.Timer(0.5, release.set).start)
    assert len(trial.bodies) == 2
    assert ready(settings, TRIAL) == 5


def test_a_handler_that_never_ends_does_not_hold_the_process(settings: Settings) -> None:
    release = threading.Event()
    trial = Trial(lambda _delivery: none(release.wait(60)))
    publish(settings, trial.topic(), b"x")
    ticks = count(0, 100)  # seconds; a grace that began anew at each step would last for minutes
    with consuming(settings, trial.topic(), grace_s=1000, clock=lambda: float(next(ticks))):
        until(lambda: trial.bodies)
    assert ready(settings, TRIAL) == 1
    release.set()


def test_a_deleted_queue_is_declared_and_consumed_again(settings: Settings) -> None:
    """The broker then cancels the consumer; a worker that keeps waiting looks alive for ever."""
    trial = Trial()
    topic = trial.topic()
    publish(settings, topic, b"1")
    with consuming(settings, topic):
        until(lambda: trial.bodies == [b"1"])
        with channel_of(settings) as channel:
            channel.queue_delete(TRIAL)
        publish(settings, topic, b"2")
        until(lambda: trial.bodies == [b"1", b"2"])


def test_a_deleted_retry_queue_costs_no_message(settings: Settings) -> None:
    trial = Trial(failing(TransientError("once")))
    topic = trial.topic()
    publish(settings, topic)
    with consuming(settings, topic) as consumer:
        until(lambda: consumer.problem() is None)
        with channel_of(settings) as channel:
            channel.queue_delete("trial.retry.1")
        publish(settings, trial.topic(retries=0), b"1")
        until(lambda: ready(settings, TRIAL) == 0 and trial.bodies[-2:] == [b"1", b"1"])


def test_a_hanging_loop_is_unhealthy(settings: Settings) -> None:
    """Such a process looks alive and does nothing; the probe has it restarted."""
    now = [0.0]
    trial = Trial()
    publish(settings, trial.topic())
    with consuming(settings, trial.topic(), clock=lambda: now[0]) as consumer:
        until(lambda: consumer.problem() is None)
        now[0] = 1000.0
        assert consumer.problem() == "loop hangs for 1000 s"
        until(lambda: consumer.problem() is None)  # it turned again


@pytest.fixture
def private_node(tmp_path: Path, settings_for: SettingsFor) -> Iterator[RabbitmqServer]:
    """A node that the test may stop and start again."""
    settings = settings_for(
        rabbitmq_host=HOST, rabbitmq_port=free_port(), rabbitmq_ui_port=free_port()
    )
    folder = tmp_path / "rabbitmq"
    epmd = EpmdServer(folder, free_port())
    with running(epmd, tmp_path / "epmd.log"):
        yield RabbitmqServer(settings, folder, epmd.port, free_port())


def test_a_restarted_broker_loses_nothing(private_node: RabbitmqServer, tmp_path: Path) -> None:
    """Publisher and consumer carry on by themselves; every message is handled."""
    settings = private_node.settings
    trial = Trial()
    topic = trial.topic(slots=2, batch=5, batch_wait_s=0.01)
    bodies = [b"%d" % n for n in range(3000)]
    left = list(bodies)

    def produce() -> None:
        with Publisher(settings, "producer") as publisher:
            while left:
                chunk = [Message(TRIAL, body, {"delivery_mode": 2}) for body in left[:20]]
                try:
                    publisher.publish(chunk)
                except TransientError:
                    pause.wait(0.2)
                else:
                    del left[:20]

    pause = threading.Event()
    log = tmp_path / "rabbitmq.log"
    producer = threading.Thread(target=produce, daemon=True)
    with ExitStack() as stack:
        with running(private_node, log) as process:
            publish(settings, topic)
            first = stack.enter_context(ExitStack())
            consumer = first.enter_context(consuming(settings, topic))
            producer.start()
            until(lambda: len(trial.bodies) > 500)
            process.kill()
        until(lambda: consumer.problem() is not None)
        with running(private_node, log):
            until(lambda: set(trial.bodies) == set(bodies) and not left, limit_s=60)
            until(lambda: ready(settings, TRIAL) == 0)
            assert ready(settings, "trial.parked") == 0
            first.close()
    repeated = sum(Counter(trial.bodies).values()) - len(bodies)
    assert repeated <= 40 + 2 * 5 * 2  # unconfirmed and unacknowledged ones only
