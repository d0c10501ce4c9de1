"""What happens to a message whose handling failed: classes, headers, retry and parking queues.

Counted in our own header, because the broker's x-death differs between its versions. Source:
docs/domain/queues.md, "Failures".
"""

from datetime import datetime
from enum import Enum
from importlib.metadata import version
from typing import Any

import psycopg2

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.messaging.messages import PERSISTENT, Message, is_count
from raidhub_dagster.storage.postgres import is_connection_lost
from streaming.hermes.topic import Delivery, Topic

RETRY_COUNT = "x-retry-count"
FIRST_FAILURE = "x-first-failure"
LAST_ERROR = "x-last-error"
ORIGIN = "x-origin"
_ERROR_LENGTH = 500
_BROKERS_OWN = ("x-death", "x-first-death", "x-last-death")

# Read-only after a failover, no such schema or table yet, conflicts, disk or memory full, locks and
# time-outs, the server's own troubles. A unique violation is not here: it can be for ever.
_SQLSTATES = ("08", "25006", "3F", "40", "42", "53", "55P03", "57", "58")


class Treatment(Enum):
    PAUSE = "infrastructure"  # not the message's fault: the slot waits and tries it again
    RETRY = "retry"
    POISON = "poison"
    EXHAUSTED = "exhausted"


def treatment_of(error: Exception, topic: Topic, delivery: Delivery) -> Treatment:
    if is_infrastructure(error):
        return Treatment.PAUSE
    if isinstance(error, PermanentError):
        return Treatment.POISON
    return Treatment.RETRY if retries_of(delivery) < topic.retries else Treatment.EXHAUSTED


def is_infrastructure(error: Exception) -> bool:
    """True when no message is to blame: broker or database away, full, locked or not migrated."""
    if isinstance(error, BrokerError) or is_connection_lost(error):
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
        "reason": treatment.value,
        "error": _text(error),
        "attempts": retries_of(delivery) + 1,
        "parked_at": now.isoformat(),
        "version": version("raidhub-dagster"),
    }
    return _again(topology.parked_queue(topic.name), topic, delivery, error, now, headers)


def _again(
    queue: str,
    topic: Topic,
    delivery: Delivery,
    error: Exception,
    now: datetime,
    headers: dict[str, Any],
) -> Message:
    """Body and own headers unchanged; the broker's notes about the last round are left out."""
    own = {k: v for k, v in delivery.headers.items() if not k.startswith(_BROKERS_OWN)}
    first_failure = own.get(FIRST_FAILURE, now.isoformat())
    kept = {
        "message_id": delivery.message_id,
        "content_type": delivery.content_type,
        "content_encoding": delivery.content_encoding,
    }
    return Message(
        queue,
        delivery.body,
        {
            "delivery_mode": PERSISTENT,
            **{name: value for name, value in kept.items() if value is not None},
            "headers": {
                **own,
                FIRST_FAILURE: first_failure,
                LAST_ERROR: _text(error),
                ORIGIN: topic.name,
                **headers,
            },
        },
    )


def _text(error: Exception) -> str:
    """Class and message; a bare KeyError('x') would read as 'x'."""
    return f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]
