"""The broker's management API: only for what AMQP does not tell, and never needed to work."""

from typing import NamedTuple

import msgspec
import requests

from raidhub_dagster.settings import Settings

_TIMEOUT_S = 5.0


class Traffic(NamedTuple):
    """A queue as the management plugin saw it within the last seconds."""

    ready: int
    unacknowledged: int
    handled_per_s: float


class _Rate(msgspec.Struct):
    rate: float = 0.0


class _Stats(msgspec.Struct):
    ack_details: _Rate = msgspec.field(default_factory=_Rate)


class _Queue(msgspec.Struct):
    name: str
    # A queue that was just declared has none of these yet.
    messages_ready: int = 0
    messages_unacknowledged: int = 0
    message_stats: _Stats = msgspec.field(default_factory=_Stats)


_QUEUES = msgspec.json.Decoder(list[_Queue])  # made once, here: players/profile.py says why


def traffic(settings: Settings) -> dict[str, Traffic] | None:
    """Every queue of vhost `/` by name; None when the management API cannot be used."""
    url = f"http://{settings.rabbitmq_host}:{settings.rabbitmq_ui_port}/api/queues/%2F"
    login = (settings.rabbitmq_user, settings.rabbitmq_password.get_secret_value())
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the machine must not see the password
            answer = session.get(url, auth=login, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            queues = _QUEUES.decode(answer.content)
    except (requests.RequestException, msgspec.DecodeError):
        return None
    return {
        queue.name: Traffic(
            queue.messages_ready,
            queue.messages_unacknowledged,
            queue.message_stats.ack_details.rate,
        )
        for queue in queues
    }
