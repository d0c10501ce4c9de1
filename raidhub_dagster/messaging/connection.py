"""Connections to RabbitMQ, and the pace at which a lost one is tried again."""

import logging
from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pika
from pika.exceptions import AMQPError

from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings

log = logging.getLogger(__name__)

# What pika lets out when the broker or the way to it is gone.
LOST = (AMQPError, OSError)


class BrokerError(TransientError):
    """RabbitMQ is away, or did not take over a message: never the fault of the message."""


def delays(first_s: float = 1.0, longest_s: float = 30.0) -> Iterator[float]:
    """Seconds between tries, doubling from `first_s` and then `longest_s` for ever."""
    doubling = []
    delay_s = first_s
    while delay_s < longest_s:
        doubling.append(delay_s)
        delay_s *= 2
    return chain(doubling, repeat(longest_s))


def parameters(settings: Settings, name: str) -> pika.ConnectionParameters:
    """How to reach the broker; `name` shows in its list of connections."""
    return pika.ConnectionParameters(
        host=settings.rabbitmq_host,
        port=settings.rabbitmq_port,
        virtual_host="/",
        credentials=pika.PlainCredentials(
            settings.rabbitmq_user, settings.rabbitmq_password.get_secret_value()
        ),
        heartbeat=30,  # a peer that vanished without a word is noticed within a minute
        socket_timeout=10,
        stack_timeout=15,
        client_properties={"connection_name": name},
    )


def connect(settings: Settings, name: str) -> pika.BlockingConnection:
    """One try; the caller closes it. Raises BrokerError that names the address."""
    try:
        return pika.BlockingConnection(parameters(settings, name))
    except LOST as error:
        where = f"{settings.rabbitmq_host}:{settings.rabbitmq_port}"
        raise BrokerError(f"RabbitMQ at {where} does not answer: {error!r}") from error


def connect_until(
    settings: Settings, name: str, wait: Callable[[float], bool]
) -> pika.BlockingConnection | None:
    """Tries until the broker answers; None once `wait(seconds)` says that the process stops."""
    for delay_s in delays():
        try:
            return connect(settings, name)
        except BrokerError as error:
            log.warning(
                "%s; next try in %.0f s",
                error,
                delay_s,
                extra={"action": "broker_unreachable", "retry_s": delay_s},
            )
        if wait(delay_s):
            return None
    raise AssertionError("unreachable")
