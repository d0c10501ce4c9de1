"""The relay: loops that take effects out of the outbox, each with connections of its own.

Messages, ClickHouse rows and webhooks leave in separate loops, so that none waits when another's
server is away. A fourth one measures what is left, tidies up and tells people what takes too long.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import OperationalError
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import current_parameters
from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.discord.webhooks import Poster
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import attention, clickhouse, outbox, webhooks
from raidhub_dagster.storage.clickhouse_sender import prune_batches, send_pending
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads

_NAME = "hermes-relay"
_BATCH = 500  # past it the rate no longer grows, and a repeat after a crash stays small
_PRUNE_BATCH = 1000
_LATE_S = 600.0  # an effect that waits so long does not wait for the next try only
_LATE_ALERT_EVERY_S = 1800.0


def loops(settings: Settings, publisher: Publisher, threads: Threads, alerts: Alerts) -> list[Loop]:
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

    known, rate = webhooks.addresses(settings), current_parameters(settings).webhooks

    @contextmanager
    def posts() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-webhooks") as connection, Poster() as poster:
            yield lambda: webhooks.relay_webhook(
                connection,
                poster.post,
                known,
                seconds_between=rate.seconds_between,
                burst=rate.burst,
            )

    @contextmanager
    def upkeep() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-upkeep") as connection:

            def measure_and_prune() -> bool:
                watch(connection, alerts)
                prune_batches(connection, now=datetime.now(UTC))
                return outbox.prune(connection, limit=_PRUNE_BATCH) == _PRUNE_BATCH

            yield measure_and_prune

    return [
        Loop("relay_messages", messages, threads, idle_s=0.2),
        Loop("relay_clickhouse", rows, threads, idle_s=1.0),
        Loop("relay_webhooks", posts, threads, idle_s=1.0),
        Loop("relay_upkeep", upkeep, threads, idle_s=15.0),
    ]


def watch(connection: Connection, alerts: Alerts) -> None:
    """Measures what is left to be sent, and tells what waits too long or for a person."""
    backlog = outbox.backlog(connection)
    metrics.OUTBOX_UNSENT.set(backlog.unsent)
    metrics.OUTBOX_OLDEST_SECONDS.set(backlog.oldest_s)
    metrics.CLICKHOUSE_OLDEST_SECONDS.set(backlog.clickhouse_oldest_s)
    metrics.CLICKHOUSE_DIRTY_DAYS.set(backlog.dirty_days)
    for kind, title, oldest_s in (
        ("outbox_behind", "Outbox is behind", backlog.oldest_message_s),
        ("clickhouse_behind", "ClickHouse is behind", backlog.clickhouse_oldest_s),
    ):
        if oldest_s > _LATE_S:
            fields = {"Oldest, minutes": int(oldest_s // 60), "Unsent in all": backlog.unsent}
            alerts.send(Alert(kind, title, Colour.RED, fields, every_s=_LATE_ALERT_EVERY_S))
    attention.tell_unknown_hashes(connection, lambda unknown: _tell_unknown(alerts, unknown))


def _tell_unknown(alerts: Alerts, unknown: attention.UnknownHash) -> None:
    alerts.send(
        Alert(
            f"unknown_hash_{unknown.hash}",
            "Unknown activity",
            Colour.ORANGE,
            {"Hash": unknown.hash, "First id": unknown.first_id, "Reports": unknown.reports},
            mentions=True,
        )
    )


def _clickhouse(settings: Settings) -> Client:
    try:
        return clickhouse.connect_checked(settings, _NAME)
    except OperationalError as error:
        where = f"{settings.clickhouse_host}:{settings.clickhouse_http_port}"
        raise TransientError(f"ClickHouse at {where} does not answer") from error
