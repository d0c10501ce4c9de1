"""Every main queue in one table: what waits, what is held, who works, what was parked."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pika
from pika.exceptions import ChannelClosedByBroker

from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import LOST, BrokerError, connect
from raidhub_dagster.messaging.management import traffic
from raidhub_dagster.monitoring.scrape import scrape
from raidhub_dagster.settings import Settings


@dataclass(frozen=True)
class QueueState:
    """One main queue. None: not known, because the one who knows does not answer."""

    name: str
    ready: int
    unacknowledged: int | None
    handled_per_s: float | None
    consumers: int
    workers: int | None  # of the hermes on this machine
    waiting: int  # in its retry and wait queues
    parked: int


@dataclass(frozen=True)
class _Counted:
    messages: int = 0
    consumers: int = 0


def overview(settings: Settings) -> list[QueueState]:
    """All main queues, those that nobody declared yet as empty. Raises BrokerError.

    Counts of messages are the broker's of this moment; what is held and the rate come from its
    management API and are some seconds old.
    """
    seen = traffic(settings)
    workers = _workers(settings)
    aside = {name: _set_aside(name) for name in topology.MAIN_QUEUES}
    parked = map(topology.parked_queue, topology.MAIN_QUEUES)
    # A question about a queue that does not exist costs a channel, and most of these do not.
    waits = [q for queues in aside.values() for q in queues if seen is None or q in seen]
    counted = _count(settings, [*topology.MAIN_QUEUES, *parked, *waits])
    nothing = _Counted()
    states = []
    for name in topology.MAIN_QUEUES:
        there = seen.get(name) if seen is not None else None
        states.append(
            QueueState(
                name,
                ready=counted.get(name, nothing).messages,
                unacknowledged=there.unacknowledged if there else None,
                handled_per_s=there.handled_per_s if there else None,
                consumers=counted.get(name, nothing).consumers,
                workers=int(workers[name]) if name in workers else None,
                waiting=sum(counted.get(queue, nothing).messages for queue in aside[name]),
                parked=counted.get(topology.parked_queue(name), nothing).messages,
            )
        )
    return states


def _set_aside(topic: str) -> list[str]:
    """Queues whose messages come back to `topic` by themselves."""
    queues = [topology.retry_queue(topic, delay_s) for delay_s in topology.RETRY_DELAYS_S]
    return [*queues, topology.PGCR_BLOCKED] if topic == topology.PGCR_BLOCKED_RETRY else queues


def _count(settings: Settings, names: Iterable[str]) -> dict[str, _Counted]:
    """Those of `names` that exist."""
    found: dict[str, _Counted] = {}
    connection = connect(settings, "raidhub-queues")
    try:
        channel = connection.channel()
        for name in names:
            try:
                method: pika.spec.Queue.DeclareOk = channel.queue_declare(name, passive=True).method
            except ChannelClosedByBroker as error:
                if error.reply_code != 404:
                    raise
                channel = connection.channel()  # the question cost the old one
                continue
            found[name] = _Counted(method.message_count, method.consumer_count)
    except LOST as error:
        raise BrokerError(f"connection to RabbitMQ lost: {error!r}") from error
    finally:
        with suppress(*LOST):
            connection.close()
    return found


def _workers(settings: Settings) -> Mapping[str, float]:
    """Workers by topic, from the metrics of the hermes of this machine; empty without one."""
    try:
        return scrape(settings.metrics_local, settings.hermes_metrics_port).by(
            "queue_name", "queue_worker_count"
        )
    except TransientError:
        return {}
