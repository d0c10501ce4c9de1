"""The consumer of one topic: a loop that owns the connection, and the slots that do the work.

The loop thread receives, acknowledges and answers heartbeats; it never waits for a handler. Slot
threads have batches handled, publish what failed to a retry or the parking queue, and only then
hand the acknowledgements to the loop. So a message is on a queue or unacknowledged until its
effect is committed: it may come twice, never get lost.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from pika.exceptions import ConsumerCancelled

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, connect_until
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from streaming.hermes.slot import Held, Slot
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery, Topic

log = logging.getLogger(__name__)

_TURN_S = 0.5  # how late the loop may notice that the process stops
_STUCK_AFTER_S = 90.0  # a turn that connects waits 30 s and another 15 s for the handshake
_MEASURE_EVERY_S = 15.0


class Consumer:
    """Runs `topic` until the process stops; `run` is the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        publisher: Publisher,
        threads: Threads,
        *,
        grace_s: float = 30.0,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = topic.name
        self._settings = settings
        self._topic = topic
        self._threads = threads
        self._grace_s = grace_s
        self._pause_s = pause_s
        self._clock = clock
        self._waiting: queue.SimpleQueue[Held | None] = queue.SimpleQueue()
        self._collecting = threading.Lock()
        self._slots = [
            Slot(settings, topic, publisher, threads.wait, now, pause_s=pause_s)
            for _ in range(topic.slots(topic.limits.desired))
        ]
        self._running: list[threading.Thread] = []
        self._alive_at = clock()
        self._measured_at: float | None = None
        self._grace_ends_at: float | None = None
        self._problem: str | None = "not connected yet"

    def run(self) -> None:
        """Returns when drained, or `grace_s` after the stop; the broker requeues the rest."""
        metrics.QUEUE_WORKER_COUNT.labels(self.name).set(len(self._slots))
        for number, slot in enumerate(self._slots):
            self._running.append(
                self._threads.start(f"{self.name}-{number}", partial(self._run_slot, slot))
            )
        try:
            while not self._threads.stopping.is_set():
                self._connect_and_consume()
            self._waiting.put(None)
            for running in self._running:
                running.join(self._grace_left_s())
        finally:
            metrics.QUEUE_WORKER_COUNT.labels(self.name).set(0)

    def problem(self) -> str | None:
        """For /healthz: why messages are not being handled."""
        silent_s = self._clock() - self._alive_at
        if silent_s > _STUCK_AFTER_S:
            return f"loop hangs for {silent_s:.0f} s"
        paused = (slot.problem for slot in self._slots if slot.problem)
        return self._problem or next(paused, None)

    def _connect_and_consume(self) -> None:
        """Returns when drained after the stop, or after a pause when the channel was lost."""
        connection = connect_until(self._settings, f"hermes-{self.name}", self._wait)
        if connection is None:
            return
        try:
            self._consume(connection)
        except LOST as error:
            self._problem = f"channel to RabbitMQ lost: {error!r}"
            log.warning(
                "Consumer of %s: %s",
                self.name,
                self._problem,
                extra={"action": "consumer_lost", "queue": self.name},
            )
            self._wait(self._pause_s)
        finally:
            with suppress(*LOST):
                connection.close()

    def _consume(self, connection: Any) -> None:
        channel = connection.channel()
        declare(channel, self._topic)
        # What we hold is being handled; the rest stays visible as depth, or goes to other replicas.
        channel.basic_qos(prefetch_count=len(self._slots) * self._topic.batch)
        tag = channel.basic_consume(self.name, partial(self._receive, connection))
        self._problem = None
        while not self._threads.stopping.is_set():
            connection.process_data_events(time_limit=_TURN_S)
            self._alive_at = self._clock()
            if not channel.is_open or not channel.consumer_tags:
                raise ConsumerCancelled(f"RabbitMQ ended the consumer of {self.name}")
            self._measure(channel)
        channel.basic_cancel(tag)
        self._waiting.put(None)  # wakes the slot that collects, and its end wakes the next
        while any(slot.is_alive() for slot in self._running) and self._grace_left_s():
            connection.process_data_events(time_limit=0.1)
        connection.process_data_events()  # the last acknowledgements

    def _receive(
        self, connection: Any, channel: Any, method: Any, properties: Any, body: bytes
    ) -> None:
        delivery = Delivery(
            body,
            properties.headers or {},
            properties.message_id,
            properties.content_type,
            properties.content_encoding,
        )
        self._waiting.put(Held(delivery, method.delivery_tag, channel, connection))

    def _run_slot(self, slot: Slot) -> None:
        try:
            for batch in iter(self._collect, []):
                slot.work(batch)
        finally:
            slot.close()

    def _collect(self) -> list[Held]:
        """The next batch, closed by size or age; empty once the process stops.

        One slot collects at a time: few messages make one batch, not one for each slot.
        """
        batch: list[Held] = []
        wait_s: float | None = None  # for the first one: as long as it takes
        closes_at = 0.0
        with self._collecting:
            while len(batch) < self._topic.batch and not self._threads.stopping.is_set():
                try:
                    held = self._waiting.get(timeout=wait_s)
                except queue.Empty:
                    break
                if held is None or held.is_stale:
                    continue
                batch.append(held)
                if wait_s is None:
                    closes_at = self._clock() + self._topic.batch_wait_s
                wait_s = max(0.0, closes_at - self._clock())
        return [] if self._threads.stopping.is_set() else batch

    def _grace_left_s(self) -> float:
        """Seconds that slots may still run; the grace begins with the first question."""
        now = self._clock()
        if self._grace_ends_at is None:
            self._grace_ends_at = now + self._grace_s
        return max(0.0, self._grace_ends_at - now)

    def _wait(self, seconds: float) -> bool:
        self._alive_at = self._clock()
        return self._threads.wait(seconds)

    def _measure(self, channel: Any) -> None:
        now = self._clock()
        if self._measured_at is not None and now < self._measured_at + _MEASURE_EVERY_S:
            return
        self._measured_at = now
        ready = _count(channel, self.name)
        metrics.QUEUE_DEPTH.labels(self.name).set(ready + self._waiting.qsize())
        parked = _count(channel, topology.parked_queue(self.name))
        metrics.QUEUE_PARKED_MESSAGES.labels(self.name).set(parked)


def declare(channel: Any, *topics: Topic) -> None:
    """Every main queue, and the retry and parking queues of `topics`."""
    topology.declare(channel)
    for topic in topics:
        topology.declare_failure_queues(channel, topic.name, topic.delays_s)


def _count(channel: Any, name: str) -> int:
    count: int = channel.queue_declare(name, passive=True).method.message_count
    return count
