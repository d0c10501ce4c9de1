"""What happens to a message whose handling failed: classes, headers, retry and parking queues.

Counted in our own header, because the broker's x-death differs between its versions. Source:
docs/domain/queues.md, "Failures".
"""

from datetime import datetime
from enum import Enum
from importlib.metadata import version
from typing import Any

import psycopg2

from raidhub_dagster.errors import (
    ConfigurationError,
    MaintenanceError,
    PermanentError,
    UnavailableError,
)
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.messaging.messages import PERSISTENT, Message, is_count
from raidhub_dagster.messaging.parking import (
    ATTEMPTS,
    ERROR,
    FIRST_FAILURE,
    LAST_ERROR,
    ORIGIN,
    PARKED_AT,
    REASON,
    RETRY_COUNT,
    VERSION,
    without_brokers_notes,
)
from raidhub_dagster.storage.postgres import is_connection_lost
from streaming.hermes.topic import Delivery, PostponedError, Topic

_ERROR_LENGTH = 500

# Read-only after a failover, no such schema or table yet, conflicts, disk or memory full, locks and
# time-outs, the server's own troubles. A unique violation is not here: it can be for ever.
_SQLSTATES = ("08", "25006", "3F", "40", "42", "53", "55P03", "57", "58")


class Treatment(Enum):
    PAUSE = "infrastructure"  # not the message's fault: the slot waits and tries it again
    MAINTENANCE = "maintenance"  # nor is this: it goes back until Bungie is there again
    POSTPONE = "postponed"  # nor this: it waits where its handler said
    RETRY = "retry"
    POISON = "poison"
    EXHAUSTED = "exhausted"


PARKING = frozenset({Treatment.POISON, Treatment.EXHAUSTED})


def treatment_of(error: Exception, topic: Topic, delivery: Delivery) -> Treatment:
    if isinstance(error, PostponedError):
        return Treatment.POSTPONE
    if isinstance(error, MaintenanceError):
        # A topic that names no system has nothing to wait for: its slot looks again after a pause.
        return Treatment.MAINTENANCE if topic.systems else Treatment.PAUSE
    if is_infrastructure(error):
        return Treatment.PAUSE
    if isinstance(error, PermanentError):
        return Treatment.POISON
    return Treatment.RETRY if retries_of(delivery) < topic.retries else Treatment.EXHAUSTED


def is_infrastructure(error: Exception) -> bool:
    """True when no message is to blame: broker or database away, full, locked or not migrated.

    Nor is one to blame for a setting that a handler misses, or for an API that is out of reach or
    refuses our key.
    """
    ours = BrokerError | ConfigurationError | UnavailableError
    if isinstance(error, ours) or is_connection_lost(error):
        return True
    return isinstance(error, psycopg2.Error) and (error.pgcode or "").startswith(_SQLSTATES)


def retries_of(delivery: Delivery) -> int:
    """Retries so far; a header that somebody else filled with anything but a count is 0."""
    count = delivery.headers.get(RETRY_COUNT)
    return count if is_count(count) and count > 0 else 0


def retry_message(topic: Topic, delivery: Delivery, error: Exception, now: datetime) -> Message:
    """The same message for the retry queue of its next delay."""
    retry = retries_of(delivery) + 1
    queue = topology.retry_queue(topic.name, topic.delays_s[retry - 1])
    return _again(queue, topic, delivery, error, now, {RETRY_COUNT: retry})


def parked_message(
    topic: Topic, delivery: Delivery, error: Exception, treatment: Treatment, now: datetime
) -> Message:
    """The same message for the parking queue, with what a person needs to decide about it."""
    headers = {
        REASON: treatment.value,
        ERROR: _text(error),
        ATTEMPTS: retries_of(delivery) + 1,
        PARKED_AT: now.isoformat(),
        VERSION: version("raidhub-dagster"),
    }
    return _again(topology.parked_queue(topic.name), topic, delivery, error, now, headers)


def postponed_message(delivery: Delivery, error: PostponedError) -> Message:
    """The same message for its wait queue; nothing is noted on it, since nothing went wrong."""
    return _copy(error.queue, delivery, without_brokers_notes(delivery.headers))


def _again(
    queue: str,
    topic: Topic,
    delivery: Delivery,
    error: Exception,
    now: datetime,
    headers: dict[str, Any],
) -> Message:
    """Body and own headers unchanged, and ours on top."""
    own = without_brokers_notes(delivery.headers)
    notes = {
        FIRST_FAILURE: own.get(FIRST_FAILURE, now.isoformat()),
        LAST_ERROR: _text(error),
        ORIGIN: topic.name,
    }
    return _copy(queue, delivery, own | notes | headers)


def _copy(queue: str, delivery: Delivery, headers: dict[str, Any]) -> Message:
    kept = {
        "message_id": delivery.message_id,
        "content_type": delivery.content_type,
        "content_encoding": delivery.content_encoding,
    }
    properties = {name: value for name, value in kept.items() if value is not None}
    return Message(
        queue,
        delivery.body,
        {"delivery_mode": PERSISTENT, **properties, "headers": headers},
    )


def _text(error: Exception) -> str:
    """Class and message; a bare KeyError('x') would read as 'x'."""
    return f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]
