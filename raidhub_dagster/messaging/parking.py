"""Parking queues: what lies in them, and its way back or out. Used by people and by jobs.

A parked message has the headers below on top of its own; who parks it is the consumer's business.
Everything here works on what was there when it began: messages parked meanwhile stay, so that a
replay of something still broken ends. Source: docs/domain/queues.md, "Failures".
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, BrokerError, connect
from raidhub_dagster.messaging.messages import PERSISTENT, Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings

RETRY_COUNT = "x-retry-count"
FIRST_FAILURE = "x-first-failure"
LAST_ERROR = "x-last-error"
ORIGIN = "x-origin"
REASON = "reason"
ERROR = "error"
ATTEMPTS = "attempts"
PARKED_AT = "parked_at"
VERSION = "version"

REASONS = ("poison", "exhausted")
_OURS = frozenset(
    {RETRY_COUNT, FIRST_FAILURE, LAST_ERROR, ORIGIN, REASON, ERROR, ATTEMPTS, PARKED_AT, VERSION}
)
_BROKERS_OWN = ("x-death", "x-first-death", "x-last-death")
_BATCH = 100  # messages published before their confirms are awaited
_NAME = "raidhub-parking"


@dataclass(frozen=True)
class Parked:
    """One parked message; it stays where it is."""

    body: bytes
    headers: Mapping[str, Any]
    message_id: str | None

    @property
    def reason(self) -> str:
        return str(self.headers.get(REASON, "-"))


@dataclass(frozen=True)
class Replay:
    """How a replay ended."""

    moved: int  # or would be moved
    kept: int  # looked at and parked for another reason
    left: int  # not looked at, since the limit was reached


def without_brokers_notes(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers as they were published: what the broker noted about the way is left out."""
    return {name: value for name, value in headers.items() if not name.startswith(_BROKERS_OWN)}


def look(settings: Settings, queue: str, *, limit: int) -> tuple[int, list[Parked]]:
    """How many messages `queue` holds, and its first `limit`; they stay, marked as redelivered.

    `queue` may be any queue; one that does not exist is empty. Raises BrokerError.
    """
    with _channel(settings) as channel:
        count = _count(channel, queue)
        return count, [message for _, message, _ in _each(channel, queue, min(limit, count))]


def replay(
    settings: Settings,
    topic: str,
    *,
    reason: str | None = None,
    limit: int | None = None,
    rate_per_s: float | None = None,
    dry_run: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replay:
    """Moves parked messages back to the queue `topic`, the oldest first: published, then removed.

    Only those parked for `reason`, `limit` of them and `rate_per_s` when given. They go as they
    first came, with their retries before them. Raises BrokerError; then a message may be in both
    queues, which handlers bear, and the rest is parked as before.
    """
    parked = topology.parked_queue(topic)
    pace = _Pace(rate_per_s, clock, sleep)
    # Small batches at a small rate, or the first second would bring a hundred at once.
    batch_size = _BATCH if rate_per_s is None else max(1, min(_BATCH, int(rate_per_s)))
    moved = kept = 0
    with _channel(settings) as channel, Publisher(settings, _NAME) as publisher:
        count = _count(channel, parked)
        batch: list[tuple[int, Message]] = []

        def flush() -> None:
            pace.wait_for(len(batch), channel.connection)
            publisher.publish([message for _, message in batch])
            for tag, _ in batch:
                channel.basic_ack(tag)
            batch.clear()

        for tag, message, properties in _each(channel, parked, count):
            if reason is not None and message.reason != reason:
                kept += 1
                continue
            moved += 1
            if not dry_run:
                batch.append((tag, _as_it_came(topic, message, properties)))
                if len(batch) >= batch_size:
                    flush()
            if moved == limit:
                break
        if batch:
            flush()
        # What was looked at and stays returns to its place when the channel closes.
    return Replay(moved, kept, count - moved - kept)


def purge(settings: Settings, queue: str) -> int:
    """Deletes every message of `queue` that is in nobody's hands; how many.

    A queue that does not exist is empty. Raises BrokerError.
    """
    with _channel(settings) as channel:
        if not _count(channel, queue):
            return 0
        purged: int = channel.queue_purge(queue).method.message_count
        return purged


class _Pace:
    """At most so many messages a second."""

    def __init__(
        self,
        per_s: float | None,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._per_s = per_s
        self._clock = clock
        self._sleep = sleep
        self._next_at = clock()

    def wait_for(self, messages: int, connection: Any) -> None:
        if self._per_s is None:
            return
        while (wait_s := self._next_at - self._clock()) > 0:
            # Heartbeats are answered meanwhile, or the broker would take the messages back.
            self._sleep(min(wait_s, 5.0))
            connection.process_data_events()
        self._next_at = max(self._next_at, self._clock()) + messages / self._per_s


def _as_it_came(topic: str, message: Parked, properties: Any) -> Message:
    own = {k: v for k, v in without_brokers_notes(message.headers).items() if k not in _OURS}
    kept = {
        "message_id": properties.message_id,
        "content_type": properties.content_type,
        "content_encoding": properties.content_encoding,
    }
    return Message(
        topic,
        message.body,
        {
            "delivery_mode": PERSISTENT,
            **{name: value for name, value in kept.items() if value is not None},
            "headers": own,
        },
    )


@contextmanager
def _channel(settings: Settings) -> Iterator[Any]:
    """A channel of a connection of its own; what was taken and not acknowledged goes back."""
    connection = connect(settings, _NAME)
    try:
        yield connection.channel()
    except LOST as error:
        raise BrokerError(f"connection to RabbitMQ lost: {error!r}") from error
    finally:
        with suppress(*LOST):
            connection.close()


def _count(channel: Any, queue: str) -> int:
    """Messages ready in `queue`, 0 when it does not exist."""
    # A question about a missing queue costs the channel that asks.
    asking = channel.connection.channel()
    try:
        count: int = asking.queue_declare(queue, passive=True).method.message_count
    except ChannelClosedByBroker as error:
        if error.reply_code != 404:
            raise
        return 0
    asking.close()
    return count


def _each(
    channel: Any, queue: str, count: int
) -> Iterator[tuple[int, Parked, pika.BasicProperties]]:
    """Up to `count` messages from the head of `queue`, taken and not acknowledged."""
    for _ in range(count):
        method, properties, body = channel.basic_get(queue)
        if method is None:  # somebody else works on the queue too
            return
        message = Parked(body, properties.headers or {}, properties.message_id)
        yield method.delivery_tag, message, properties
