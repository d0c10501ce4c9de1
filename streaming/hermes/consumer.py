"""The consumer of one topic: a loop that owns the connection, and the slots that do the work.

The loop thread receives, acknowledges, answers heartbeats and decides how many slots there are; it
never waits for a handler. Slot threads have batches handled, publish what failed to a retry or the
parking queue, and only then hand the acknowledgements to the loop. So a message is on a queue or
unacknowledged until its effect is committed: it may come twice, never get lost.
"""

import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, connect_until
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.monitoring.health import Note
from raidhub_dagster.settings import Settings
from streaming.hermes import breaker
from streaming.hermes.breaker import Breaker
from streaming.hermes.gate import Gate
from streaming.hermes.intake import Intake
from streaming.hermes.scaling import Scaler
from streaming.hermes.slot import Held, Slot, Surroundings
from streaming.hermes.slots import Slots
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Topic

log = logging.getLogger(__name__)

_TURN_S = 0.5  # how late the loop may notice that something changed
_STUCK_AFTER_S = 90.0  # a turn that connects waits 30 s and another 15 s for the handshake
_MEASURE_EVERY_S = 15.0
_PARKED_ALERT_EVERY_S = 600.0


class Consumer:
    """Runs `topic` until the process stops; `run` is the loop's thread."""

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        publisher: Publisher,
        threads: Threads,
        *,
        alerts: Alerts,
        gate: Gate,
        is_contest: Callable[[], bool] = lambda: False,
        grace_s: float = 30.0,
        pause_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = topic.name
        self._settings = settings
        self._topic = topic
        self._threads = threads
        self._alerts = alerts
        self._gate = gate
        self._is_contest = is_contest
        self._grace_s = grace_s
        self._pause_s = pause_s
        self._clock = clock
        self._breaker = Breaker()
        self._put_back: queue.SimpleQueue[Held] = queue.SimpleQueue()
        around = Surroundings(
            settings,
            topic,
            publisher,
            gate,
            self._breaker,
            put_back=self._put_back.put,
            wait=threads.wait,
            now=now,
            pause_s=pause_s,
        )
        self._slots = Slots(topic, partial(Slot, around), threads, clock=clock)
        self._scaler = Scaler(topic.limits, topic.scaling, clock())
        self._alive_at = clock()
        self._measured_at: float | None = None
        self._parked_told = 0
        self._grace_ends_at: float | None = None
        self._closed: str | None = None  # why nothing is taken
        self._problem: str | None = "not connected yet"

    def run(self) -> None:
        """Returns when drained, or `grace_s` after the stop; the broker requeues the rest."""
        self._allow()
        try:
            while not self._threads.stopping.is_set():
                self._connect_and_consume()
            self._slots.end()
            self._slots.join(self._grace_left_s)
        finally:
            metrics.QUEUE_WORKER_COUNT.labels(self.name).set(0)

    def hangs(self) -> str | None:
        """For /livez: that the loop does not turn."""
        silent_s = self._clock() - self._alive_at
        return f"loop hangs for {silent_s:.0f} s" if silent_s > _STUCK_AFTER_S else None

    def problem(self) -> str | None:
        """For /healthz: why messages are not being handled; maintenance is only a Note."""
        if (hangs := self.hangs()) is not None:
            return hangs
        if self._breaker.is_open:
            return (
                f"stopped: more than {breaker.SHARE:.0%} of the last messages would be parked;"
                " repair the cause and restart hermes"
            )
        problem = self._problem or self._slots.problem()
        if problem is None and self._closed is not None:
            return Note(f"closed: {self._closed}")
        return problem

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
            self._scaler.rest(self._clock())
            self._wait(self._pause_s)
        finally:
            with suppress(*LOST):
                connection.close()

    def _consume(self, connection: Any) -> None:
        channel = connection.channel()
        declare(channel, self._topic)
        intake = Intake(connection, channel, self.name, self._slots.give)
        self._problem = None
        while not self._threads.stopping.is_set():
            self._open_or_close(intake)
            connection.process_data_events(time_limit=_TURN_S)
            self._alive_at = self._clock()
            intake.check()
            self._look(channel)
        intake.take(0)
        self._slots.end()
        while self._slots.are_alive() and self._grace_left_s():
            connection.process_data_events(time_limit=0.1)
        connection.process_data_events()  # the last acknowledgements

    def _open_or_close(self, intake: Intake) -> None:
        """Takes as much as the slots can hold, or nothing while the topic may not work.

        What we hold is being handled; the rest stays visible as depth, or goes to other replicas.
        Messages go back only after the subscription ended: else the broker would hand them to us
        again, as fast as we return them.
        """
        returned = []
        while not self._put_back.empty():
            returned.append(self._put_back.get())
        # Asked after that: what made a slot return a message is known before it does.
        closed = self._closed_because()
        if closed != self._closed:
            if closed is None:
                log.info("Topic %s is open", self.name, extra={"action": "topic_opened"})
            else:
                log.info(
                    "Topic %s is closed: %s", self.name, closed, extra={"action": "topic_closed"}
                )
            self._closed = closed
        if closed is not None:
            intake.take(0)
            returned += self._slots.take_back()
        for held in returned:
            held.requeue()
        if closed is None:
            intake.take(self._topic.slots(self._scaler.workers) * self._topic.batch)

    def _closed_because(self) -> str | None:
        if self._breaker.is_open:
            if self._closed != _TRIPPED:
                self._tell_stopped()
            return _TRIPPED
        off = self._gate.off(self._topic.systems)
        return f"{', '.join(off)} {'is' if len(off) == 1 else 'are'} off" if off else None

    def _look(self, channel: Any) -> None:
        """Measures now and then, and lets the number of workers follow what it sees."""
        now = self._clock()
        scaler, limits = self._scaler, self._topic.limits
        floor = limits.contest if self._is_contest() else limits.minimum
        change = scaler.raise_to(floor, now)
        if self._closed is not None:
            scaler.rest(now)
        is_due = scaler.is_due(now)
        if is_due or self._measured_at is None or now >= self._measured_at + _MEASURE_EVERY_S:
            self._measured_at = now
            depth = self._measure(channel)
            if is_due:
                change += scaler.check(depth, now, floor=floor)
        if change:
            self._allow()
            direction = "up" if change > 0 else "down"
            metrics.QUEUE_SCALING_DECISIONS.labels(self.name, direction).inc()
            log.info(
                "Topic %s has %d workers now",
                self.name,
                scaler.workers,
                extra={"action": "topic_scaled", "queue": self.name, "change": change},
            )

    def _allow(self) -> None:
        workers = self._scaler.workers
        self._slots.allow(self._topic.slots(workers))
        metrics.QUEUE_WORKER_COUNT.labels(self.name).set(workers)

    def _measure(self, channel: Any) -> int:
        """Messages that nobody works on yet; sets the gauges, and tells of new parked ones."""
        depth = _count(channel, self.name) + self._slots.waiting
        metrics.QUEUE_DEPTH.labels(self.name).set(depth)
        parked = _count(channel, topology.parked_queue(self.name))
        metrics.QUEUE_PARKED_MESSAGES.labels(self.name).set(parked)
        self._tell_parked(parked)
        return depth

    def _tell_parked(self, in_all: int) -> None:
        """Counts what this process parked: with several, each growth is told once."""
        parked = self._breaker.parked
        if parked > self._parked_told and self._alerts.send(
            Alert(
                f"messages_parked_{self.name}",
                "Parked messages",
                Colour.ORANGE,
                {"Queue": self.name, "New": parked - self._parked_told, "Parked": in_all},
                every_s=_PARKED_ALERT_EVERY_S,
            )
        ):
            self._parked_told = parked

    def _tell_stopped(self) -> None:
        self._alerts.send(
            Alert(
                f"topic_stopped_{self.name}",
                "Topic stopped",
                Colour.RED,
                {
                    "Queue": self.name,
                    "Reason": f"more than {breaker.SHARE:.0%} of the last messages would be parked",
                    "To do": "repair the cause, restart hermes, raidhub queues replay",
                },
                mentions=True,
            )
        )

    def _grace_left_s(self) -> float:
        """Seconds that slots may still run; the grace begins with the first question."""
        now = self._clock()
        if self._grace_ends_at is None:
            self._grace_ends_at = now + self._grace_s
        return max(0.0, self._grace_ends_at - now)

    def _wait(self, seconds: float) -> bool:
        self._alive_at = self._clock()
        return self._threads.wait(seconds)


_TRIPPED = "too much would be parked"


def declare(channel: Any, *topics: Topic) -> None:
    """Every main queue, and the retry and parking queues of `topics`."""
    topology.declare(channel)
    for topic in topics:
        topology.declare_failure_queues(channel, topic.name, topic.delays_s)


def _count(channel: Any, name: str) -> int:
    count: int = channel.queue_declare(name, passive=True).method.message_count
    return count
