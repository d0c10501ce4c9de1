"""One slot of a topic: has batches handled and settles every message of them."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pika.exceptions import AMQPError

from raidhub_dagster.errors import MaintenanceError, RaidHubError
from raidhub_dagster.messaging.connection import delays
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from streaming.hermes.breaker import Breaker
from streaming.hermes.failures import (
    PARKING,
    Treatment,
    parked_message,
    postponed_message,
    retry_message,
    treatment_of,
)
from streaming.hermes.gate import Gate
from streaming.hermes.topic import Delivery, Handler, PostponedError, Topic

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """A delivery this process holds, and the channel that alone may acknowledge it."""

    delivery: Delivery
    tag: int
    channel: Any
    connection: Any

    @property
    def is_stale(self) -> bool:
        """True once the channel is gone: the broker then gives the message to somebody again."""
        return not self.channel.is_open

    def acknowledge(self) -> None:
        """From any thread. A lost channel is no error: the message comes again, harmlessly."""
        self._later(_acknowledge)

    def requeue(self) -> None:
        """From any thread: the broker gives the message to somebody again, also to us."""
        self._later(_requeue)

    def _later(self, act: Callable[[Any, int], None]) -> None:
        with suppress(AMQPError):
            self.connection.add_callback_threadsafe(partial(act, self.channel, self.tag))


def _acknowledge(channel: Any, tag: int) -> None:
    if channel.is_open:
        channel.basic_ack(tag)


def _requeue(channel: Any, tag: int) -> None:
    if channel.is_open:
        channel.basic_nack(tag, requeue=True)


@dataclass(frozen=True)
class Surroundings:
    """What the slots of one topic share."""

    settings: Settings
    topic: Topic
    publisher: Publisher
    gate: Gate
    breaker: Breaker
    put_back: Callable[[Held], None]  # for a message that may not be handled now
    wait: Callable[[float], bool]  # True once the process stops
    now: Callable[[], datetime]
    pause_s: float  # the first of those while a server is away


class Slot:
    """Used by one thread; owns that thread's handler."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._topic = around.topic
        self._handler: Handler | None = None
        self.problem: str | None = None  # why the slot pauses

    def work(self, batch: Sequence[Held]) -> None:
        """Returns when nothing of the batch is left to do here.

        What a lost database or broker kept from being settled is tried again after a pause, as
        long as the channel lives; when the process stops, the broker requeues it.
        """
        for pause_s in delays(self._around.pause_s):
            batch = self._attempt([held for held in batch if not held.is_stale])
            if not batch or self._around.wait(pause_s):
                break
        self.problem = None

    def close(self) -> None:
        """Ends the handler; the next batch opens another one."""
        handler, self._handler = self._handler, None
        try:
            if handler is not None:
                handler.close()
        except Exception:
            log.exception(
                "A handler of %s did not close",
                self._topic.name,
                extra={"action": "handler_not_closed", "queue": self._topic.name},
            )

    def _attempt(self, batch: Sequence[Held]) -> list[Held]:
        """Handles and settles; those that an infrastructure failure left over."""
        if self._must_stop():
            for held in batch:
                self._around.put_back(held)
            return []
        if not batch:
            return []
        started = time.perf_counter()
        outcomes = self._handle([held.delivery for held in batch])
        again: list[Held] = []
        obstacle: Exception | None = None
        for held, error in zip(batch, outcomes, strict=True):
            # One obstacle is enough: behind it the others would only wait for it too.
            if error is not None and obstacle is not None:
                again.append(held)
                continue
            try:
                self._settle(held, error)
            except _ObstacleError as found:
                obstacle = found.cause
                again.append(held)
        if obstacle is not None:
            self._pause(obstacle)
        each_s = (time.perf_counter() - started) / len(batch)
        duration = metrics.QUEUE_MESSAGE_PROCESSING_DURATION_SECONDS.labels(self._topic.name)
        for _ in range(len(batch) - len(again)):
            duration.observe(each_s)
        return again

    def _must_stop(self) -> bool:
        """True when nothing of this topic may be handled now."""
        return self._around.breaker.is_open or bool(self._around.gate.off(self._topic.systems))

    def _handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        try:
            return self._opened().handle(deliveries)
        except MaintenanceError as error:
            return [error] * len(deliveries)
        except Exception as error:  # noqa: BLE001  each message's failure is logged when settled
            self.close()  # its connection may be broken or inside a failed transaction
            return [error] * len(deliveries)

    def _opened(self) -> Handler:
        if self._handler is None:
            self._handler = self._topic.open(self._around.settings)
        return self._handler

    def _settle(self, held: Held, error: Exception | None) -> None:
        """Brings one message to where it belongs. Raises _ObstacleError when that has to wait."""
        if error is None:
            self._end(held, "success")
            self._around.breaker.count(parked=False)
            return
        treatment = treatment_of(error, self._topic, held.delivery)
        if treatment is Treatment.PAUSE:
            raise _ObstacleError(error)
        if treatment is Treatment.MAINTENANCE:
            self._around.gate.close(self._topic.systems)
            self._around.put_back(held)
        elif treatment in PARKING and not self._around.breaker.may_park():
            self._around.put_back(held)
        else:
            self._move(held, error, treatment)

    def _move(self, held: Held, error: Exception, treatment: Treatment) -> None:
        """To the queue where the message waits now; acknowledged once it is there."""
        moved = self._message_for(held.delivery, error, treatment)
        try:
            if treatment in PARKING:
                self._opened().give_up(held.delivery, error)
            elif treatment is Treatment.RETRY:
                self._opened().put_off(held.delivery, error)
            self._around.publisher.publish([moved])
        except Exception as obstacle:  # noqa: BLE001  whatever it is, the message stays unacked
            raise _ObstacleError(obstacle) from None
        if treatment is Treatment.POSTPONE:
            self._end(held, "success")
            return
        self._end(held, "error")
        if treatment is Treatment.RETRY:
            metrics.QUEUE_RETRIES.labels(self._topic.name).inc()
        else:
            self._around.breaker.count(parked=True)
        log.warning(
            "Message of %s goes to %s: %s",
            self._topic.name,
            moved.queue,
            error,
            exc_info=None if isinstance(error, RaidHubError) else error,
            extra={
                "action": "message_failed",
                "queue": self._topic.name,
                "treatment": treatment.value,
                "message_id": held.delivery.message_id,
            },
        )

    def _message_for(self, delivery: Delivery, error: Exception, treatment: Treatment) -> Message:
        if isinstance(error, PostponedError):
            return postponed_message(delivery, error)
        now = self._around.now()
        if treatment is Treatment.RETRY:
            return retry_message(self._topic, delivery, error, now)
        return parked_message(self._topic, delivery, error, treatment, now)

    def _end(self, held: Held, status: str) -> None:
        held.acknowledge()
        metrics.QUEUE_MESSAGES_PROCESSED.labels(self._topic.name, status).inc()

    def _pause(self, error: Exception) -> None:
        self.problem = f"{type(error).__name__}: {error}".strip()
        log.warning(
            "A slot of %s pauses: %s",
            self._topic.name,
            self.problem,
            extra={"action": "slot_paused", "queue": self._topic.name},
        )
        self.close()


class _ObstacleError(Exception):
    """`cause` keeps a message from being settled, and is not the message's fault."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause
