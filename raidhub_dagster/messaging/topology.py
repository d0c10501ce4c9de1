"""The queues: their names, the delays a retry may wait, and their declaration.

Everything goes through the default exchange of vhost `/`, the routing key is the queue's name.
Source: docs/domain/queues.md.
"""

from collections.abc import Iterable
from typing import Any, Protocol

INSTANCE_STORE = "instance_store"
PGCR_BLOCKED_RETRY = "pgcr_blocked_retry"
PGCR_CRAWL = "pgcr_crawl"
PLAYER_CRAWL = "player_crawl"
ACTIVITY_HISTORY_CRAWL = "activity_history_crawl"
CHARACTER_FILL = "character_fill"
CLAN_CRAWL = "clan_crawl"
INSTANCE_CHEAT_CHECK = "instance_cheat_check"
INSTANCE_PARTICIPANT_REFRESH = "instance_participant_refresh"
SUBSCRIPTION_MATCH = "subscription_match"
SUBSCRIPTION_DELIVERY = "subscription_delivery"

# Frozen: programs outside publish to and consume from these. Durable classic queues without any
# argument, because one argument would make those programs' own declarations fail.
MAIN_QUEUES = (
    INSTANCE_STORE,
    PGCR_BLOCKED_RETRY,
    PGCR_CRAWL,
    PLAYER_CRAWL,
    ACTIVITY_HISTORY_CRAWL,
    CHARACTER_FILL,
    CLAN_CRAWL,
    INSTANCE_CHEAT_CHECK,
    INSTANCE_PARTICIPANT_REFRESH,
    SUBSCRIPTION_MATCH,
    SUBSCRIPTION_DELIVERY,
)

# Where withheld reports wait for their next try. The status page outside reads the number of its
# messages by exactly this name.
PGCR_BLOCKED = "pgcr_blocked"
PGCR_BLOCKED_WAIT_S = 60

# Seconds a retry may wait. A closed set keeps the number of retry queues small.
RETRY_DELAYS_S = (1, 2, 4, 8, 16, 32, 60, 120, 300, 600, 1200, 1800)


class Channel(Protocol):
    """The part of pika's channels that declares; both the blocking and the asynchronous have it."""

    def queue_declare(
        self, queue: str, *, durable: bool, arguments: dict[str, Any] | None = None
    ) -> Any: ...


def retry_delay_s(base_s: int, retry: int) -> int:
    """Seconds before retry number `retry` (1 is the first): base * 2^(n-1), down to a known delay.

    Never more than 30 minutes.
    """
    wanted = base_s * 2 ** (retry - 1)
    return max(delay for delay in RETRY_DELAYS_S if delay <= max(wanted, RETRY_DELAYS_S[0]))


def retry_queue(topic: str, delay_s: int) -> str:
    return f"{topic}.retry.{delay_s}"


def parked_queue(topic: str) -> str:
    return f"{topic}.parked"


def declare(channel: Channel) -> None:
    """Declares every main queue: publishers outside send without declaring, so all must exist."""
    for queue in MAIN_QUEUES:
        channel.queue_declare(queue, durable=True)
    _declare_wait(channel, PGCR_BLOCKED, PGCR_BLOCKED_WAIT_S, PGCR_BLOCKED_RETRY)


def declare_failure_queues(channel: Channel, topic: str, delays_s: Iterable[int]) -> None:
    """Declares the parking queue of `topic` and one retry queue for each of `delays_s`.

    One time to live per queue: with a time per message the first one would hold up shorter ones.
    No x-expires: it would delete a quiet retry queue together with the messages that wait in it.
    """
    channel.queue_declare(parked_queue(topic), durable=True)
    for delay_s in sorted(set(delays_s)):
        _declare_wait(channel, retry_queue(topic, delay_s), delay_s, topic)


def _declare_wait(channel: Channel, queue: str, delay_s: int, then: str) -> None:
    """A queue nobody consumes: after `delay_s` its messages go on to the queue `then`."""
    channel.queue_declare(
        queue,
        durable=True,
        arguments={
            "x-message-ttl": delay_s * 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": then,
        },
    )
