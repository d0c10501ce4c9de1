"""Messages on their way out of PostgreSQL: at least once, by any number of relays.

A message is published with confirms while its row is locked and marked sent before the commit. A
crash in between publishes it again; every consumer is idempotent. Rows of kind `clickhouse` are
sent elsewhere (`clickhouse_sender`); counting and pruning here cover both.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.messaging.messages import Message, effect_properties
from raidhub_dagster.messaging.publisher import UnroutableError
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "outbox")


class Backlog(NamedTuple):
    unsent: int
    oldest_s: float  # 0 when nothing waits, here and below
    oldest_message_s: float
    clickhouse_oldest_s: float  # of the rows and corrections that ClickHouse lacks
    dirty_days: int  # whose aggregates in ClickHouse must be rebuilt


def relay_messages(
    connection: Connection, publish: Callable[[Sequence[Message]], None], *, limit: int
) -> int:
    """Publishes up to `limit` messages in one transaction; how many it claimed.

    Rows whose queue does not exist keep the error and are tried five times, the others go out.
    Raises what `publish` raises when the broker is away; then nothing is marked.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["claim_messages"], {"limit": limit})
        claimed = {
            row_id: Message(queue, bytes(body), effect_properties(queue, key, bytes(body)))
            for row_id, queue, key, body in cursor
        }
        sent = list(claimed)
        try:
            publish(list(claimed.values()))
        except UnroutableError as error:
            sent = [i for i, message in claimed.items() if message.queue not in error.queues]
            failed = [i for i, message in claimed.items() if message.queue in error.queues]
            cursor.execute(_SQL["mark_failed"], {"ids": failed, "error": str(error)})
        if sent:
            cursor.execute(_SQL["mark_sent"], {"ids": sent})
    return len(claimed)


def backlog(connection: Connection) -> Backlog:
    """What is still to be sent, of both kinds."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_unsent"])
        (row,) = cursor.fetchall()
    return Backlog(*row)


def prune(connection: Connection, *, limit: int) -> int:
    """Deletes up to `limit` rows sent more than 7 days ago; how many."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["prune_sent"], {"limit": limit})
        return cursor.rowcount
