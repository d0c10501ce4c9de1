"""What tests of queues share: a topic to try the framework with, and waiting for an outcome."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from raidhub_dagster.bungie import systems
from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.messaging.connection import connect
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings
from streaming.hermes.consumer import Consumer, declare
from streaming.hermes.gate import Gate
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery, Limits, Topic

TRIAL = "trial"  # no queue of the product


def until(question: Callable[[], object], *, limit_s: float = 30) -> None:
    """Returns once `question` is true; fails after `limit_s`."""
    ends_at = time.monotonic() + limit_s
    pause = threading.Event()
    while not question():
        assert time.monotonic() < ends_at, "not within the limit"
        pause.wait(0.02)


@dataclass
class Trial:
    """A handler that notes what it gets; `act` decides about each message by raising.

    One value stands for all slots, so that a test sees everything in one place.
    """

    act: Callable[[Delivery], None] = lambda _delivery: None
    open_error: list[Exception] = field(default_factory=list)  # raised by the next openings
    batches: list[list[Delivery]] = field(default_factory=list)
    given_up: list[Delivery] = field(default_factory=list)
    opened: int = 0
    closed: int = 0

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.body for batch in self.batches for delivery in batch]

    def topic(self, **changes: Any) -> Topic:
        slots = changes.pop("slots", 1)
        usual: dict[str, Any] = {"retries": 1, "base_delay_s": 1}
        usual["limits"] = Limits(slots, slots, slots, slots)
        return Topic(TRIAL, self._open, **(usual | changes))

    def _open(self, _settings: Settings) -> "Trial":
        if self.open_error:
            raise self.open_error.pop()
        self.opened += 1
        return self

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        self.batches.append(list(deliveries))
        return [self._outcome(delivery) for delivery in deliveries]

    def _outcome(self, delivery: Delivery) -> Exception | None:
        try:
            self.act(delivery)
        except Exception as error:  # noqa: BLE001  the outcome is the test's
            return error
        return None

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        pass

    def give_up(self, delivery: Delivery, error: Exception) -> None:  # noqa: ARG002
        self.given_up.append(delivery)

    def close(self) -> None:
        self.closed += 1


@contextmanager
def consuming(settings: Settings, topic: Topic, **changes: Any) -> Iterator[Consumer]:
    """A consumer at work in this process; drained at the end, however the test ends.

    Bungie's systems are on and nobody is alerted, unless `changes` say otherwise.
    """
    threads = Threads()
    usual: dict[str, Any] = {
        "gate": all_on(),
        "alerts": Alerts(None, footer="test"),
        "pause_s": 0.05,
    }
    with Publisher(settings, "test-publisher", declare=lambda c: declare(c, topic)) as publisher:
        consumer = Consumer(settings, topic, publisher, threads, **(usual | changes))
        loop = threads.start("loop", consumer.run)
        try:
            yield consumer
        finally:
            threads.stopping.set()
            loop.join(60)
            assert not loop.is_alive()
            assert not threads.crashed


def all_on() -> Gate:
    gate = Gate()
    gate.observe(dict.fromkeys(systems.KNOWN, True), 0.0)
    return gate


@contextmanager
def channel_of(settings: Settings) -> Iterator[Any]:
    connection = connect(settings, "test")
    try:
        yield connection.channel()
    finally:
        connection.close()


def publish(settings: Settings, topic: Topic, *bodies: bytes, **properties: Any) -> None:
    """Declares the topic's queues and puts `bodies` on it, as a publisher outside would."""
    with channel_of(settings) as channel:
        declare(channel, topic)
        channel.queue_declare(topic.name, durable=True)
    with Publisher(settings, "test") as publisher:
        publisher.publish(
            [Message(topic.name, body, {"delivery_mode": 2, **properties}) for body in bodies]
        )


def take(settings: Settings, queue: str) -> tuple[dict[str, Any], bytes] | None:
    """Headers and body of the first message of `queue`, None when it is empty."""
    with channel_of(settings) as channel:
        method, properties, body = channel.basic_get(queue, auto_ack=True)
    return (properties.headers or {}, body) if method else None


def ready(settings: Settings, queue: str) -> int:
    """How many messages `queue` holds for anybody; unacknowledged ones not counted.

    0 for a queue that nobody declared yet.
    """
    with channel_of(settings) as channel:
        try:
            count: int = channel.queue_declare(queue, passive=True).method.message_count
        except ChannelClosedByBroker:
            return 0
    return count
