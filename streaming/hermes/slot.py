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

from raidhub_dagster.errors import RaidHubError
from raidhub_dagster.messaging.connection import delays
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from streaming.hermes.failures import Treatment, parked_message, retry_message, treatment_of
from streaming.hermes.topic import Delivery, Handler, Topic

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
        with suppress(AMQPError):
            self.connection.add_callback_threadsafe(partial(_acknowledge, self.channel, self.tag))


def _acknowledge(channel: Any, tag: int) -> None:
    if channel.is_open:
        channel.basic_ack(tag)


class Slot:
    """Used by one thread; owns that thread's handler."""

    def __init__(
        self,
        settings: Settings,
        topic: Topic,
        publisher: Publisher,
        wait: Callable[[float], bool],
        now: Callable[[], datetime],
        *,
        pause_s: float,
    ) -> None:
        self._settings = settings
        self._topic = topic
        self._publisher = publisher
        self._wait = wait
        self._now = now
        self._pause_s = pause_s
        self._handler: Handler | None = None
        self.problem: str | None = None  # why the slot pauses

    def work(self, batch: Sequence[Held]) -> None:
        """Returns when nothing of the batch is left to do here.

        What a lost database or broker kept from being settled is tried again after a pause, as
        long as the channel lives; when the process stops, the broker requeues it.
        """
        for pause_s in delays(self._pause_s):
            batch = self._attempt([held for held in batch if not held.is_stale])
            if not batch or self._wait(pause_s):
                break
        self.problem = None

    def close(self) -> None:
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.close()

    def _attempt(self, batch: Sequence[Held]) -> list[Held]:
        """Handles and settles; those that an infrastructure failure left over."""
        if not batch:
            return []
        started = time.perf_counter()
        outcomes = self._handle([held.delivery for held in batch])
        again: list[Held] = []
        obstacle: Exception | None = None
        for held, error in zip(batch, outcomes, strict=True):
            if error is not None:
                # One obstacle is enough: behind it the others would only wait for it too.
                obstacle = obstacle or self._settle(held.delivery, error)
                if obstacle is not None:
                    again.append(held)
                    continue
            held.acknowledge()
            status = "success" if error is None else "error"
            metrics.QUEUE_MESSAGES_PROCESSED.labels(self._topic.name, status).inc()
        if obstacle is not None:
            self._pause(obstacle)
        each_s = (time.perf_counter() - started) / len(batch)
        duration = metrics.QUEUE_MESSAGE_PROCESSING_DURATION_SECONDS.labels(self._topic.name)
        for _ in range(len(batch) - len(again)):
            duration.observe(each_s)
        return again

    def _handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        try:
            return self._opened().handle(deliveries)
        except Exception as error:  # noqa: BLE001  each message's failure is logged when settled
            self._reopen_later()
            return [error] * len(deliveries)

    def _opened(self) -> Handler:
        if self._handler is None:
            self._handler = self._topic.open(self._settings)
        return self._handler

    def _settle(self, delivery: Delivery, error: Exception) -> Exception | None:
        """None once the message is on its retry or parking queue, else what keeps it from there."""
        treatment = treatment_of(error, self._topic, delivery)
        if treatment is Treatment.PAUSE:
            return error
        try:
            if treatment is Treatment.RETRY:
                moved = retry_message(self._topic, delivery, error, self._now())
            else:
                moved = parked_message(self._topic, delivery, error, treatment, self._now())
                self._opened().give_up(delivery, error)
            self._publisher.publish([moved])
        except Exception as obstacle:  # noqa: BLE001  whatever it is, the message stays unacked
            return obstacle
        if treatment is Treatment.RETRY:
            metrics.QUEUE_RETRIES.labels(self._topic.name).inc()
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
                "message_id": delivery.message_id,
            },
        )
        return None

    def _pause(self, error: Exception) -> None:
        self.problem = f"{type(error).__name__}: {error}".strip()
        log.warning(
            "A slot of %s pauses: %s",
            self._topic.name,
            self.problem,
            extra={"action": "slot_paused", "queue": self._topic.name},
        )
        self._reopen_later()

    def _reopen_later(self) -> None:
        """The handler's connection may be broken or inside a failed transaction."""
        try:
            self.close()
        except Exception:
            log.exception(
                "A handler of %s did not close",
                self._topic.name,
                extra={"action": "handler_not_closed", "queue": self._topic.name},
            )
