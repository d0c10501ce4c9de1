"""The relay: loops that take effects out of the outbox, each with connections of its own.

Messages and ClickHouse rows leave in separate loops, so that neither waits when the other's
server is away.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError

from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, outbox
from raidhub_dagster.storage.clickhouse_sender import prune_batches, send_pending
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads

_NAME = "hermes-relay"
_BATCH = 500  # past it the rate no longer grows, and a repeat after a crash stays small
_PRUNE_BATCH = 1000


def loops(settings: Settings, publisher: Publisher, threads: Threads) -> list[Loop]:
    """The relay's loops, not started."""

    @contextmanager
    def messages() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-messages") as connection:
            yield (
                lambda: outbox.relay_messages(connection, publisher.publish, limit=_BATCH) == _BATCH
            )

    @contextmanager
    def rows() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-clickhouse") as connection:
            client = _clickhouse(settings)
            try:
                yield lambda: send_pending(connection, client, now=datetime.now(UTC)).batches > 0
            finally:
                client.close()

    @contextmanager
    def upkeep() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-upkeep") as connection:

            def measure_and_prune() -> bool:
                backlog = outbox.backlog(connection)
                metrics.OUTBOX_UNSENT.set(backlog.unsent)
                metrics.OUTBOX_OLDEST_SECONDS.set(backlog.oldest_s)
                metrics.CLICKHOUSE_OLDEST_SECONDS.set(backlog.clickhouse_oldest_s)
                metrics.CLICKHOUSE_DIRTY_DAYS.set(backlog.dirty_days)
                prune_batches(connection, now=datetime.now(UTC))
                return outbox.prune(connection, limit=_PRUNE_BATCH) == _PRUNE_BATCH

            yield measure_and_prune

    return [
        Loop("relay_messages", messages, threads, idle_s=0.2),
        Loop("relay_clickhouse", rows, threads, idle_s=1.0),
        Loop("relay_upkeep", upkeep, threads, idle_s=15.0),
    ]


def _clickhouse(settings: Settings) -> Client:
    try:
        return clickhouse.connect(settings, _NAME)
    except OperationalError as error:
        where = f"{settings.clickhouse_host}:{settings.clickhouse_http_port}"
        raise TransientError(f"ClickHouse at {where} does not answer") from error
