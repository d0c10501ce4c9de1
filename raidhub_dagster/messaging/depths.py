"""How many messages wait in the queues, asked of the broker itself.

Nothing is declared: a queue that does not exist yet holds nothing.
"""

from contextlib import closing, suppress
from typing import Any, NamedTuple

from pika.exceptions import ChannelClosedByBroker

from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, BrokerError, connect
from raidhub_dagster.settings import Settings

_NO_SUCH_QUEUE = 404


class Depth(NamedTuple):
    """Messages of one topic; those that a consumer holds unacknowledged are not among them."""

    ready: int
    retrying: int  # in the queues where they wait for their next try
    parked: int


def depths(settings: Settings, name: str) -> dict[str, Depth]:
    """Of every main queue, in the order of the topology; `name` shows at the broker.

    Takes about 0.2 s: retry queues are tried one by one. Raises BrokerError when the broker is
    away, or goes meanwhile.
    """
    with closing(_Counter(settings, name)) as counter:
        return {queue: _depth(counter, queue) for queue in topology.MAIN_QUEUES}


def _depth(counter: "_Counter", queue: str) -> Depth:
    ready = counter.count(queue) or 0
    parked = counter.count(topology.parked_queue(queue))
    waiting = [topology.PGCR_BLOCKED] if queue == topology.PGCR_BLOCKED_RETRY else []
    if parked is not None:  # it is consumed here, so that there may be retries
        waiting += [topology.retry_queue(queue, delay_s) for delay_s in topology.RETRY_DELAYS_S]
    return Depth(ready, sum(counter.count(name) or 0 for name in waiting), parked or 0)


class _Counter:
    """A connection that opens a new channel after each question for a queue that is not there."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._connection = connect(settings, name)
        self._channel: Any = None

    def count(self, queue: str) -> int | None:
        """Ready messages; None when there is no such queue."""
        try:
            if self._channel is None:
                self._channel = self._connection.channel()
            counted: int = self._channel.queue_declare(queue, passive=True).method.message_count
        except ChannelClosedByBroker as error:
            self._channel = None
            if error.reply_code != _NO_SUCH_QUEUE:
                raise BrokerError(f"RabbitMQ does not tell the depth of {queue}: {error}") from None
            return None
        except LOST as error:
            raise BrokerError(f"RabbitMQ went away: {error!r}") from error
        return counted

    def close(self) -> None:
        with suppress(*LOST):
            self._connection.close()
