"""Topic pgcr_blocked_retry: reports that Bungie withholds, until the floodgates open.

During a contest thousands of ids wait here; a few of them are tried every minute, and when these
come out, all are. Rules: docs/domain/queues.md, "Withheld reports".
"""

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie import systems
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.discord.alerts import Alert, Colour
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.connection import connect
from raidhub_dagster.messaging.messages import read_id
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import withheld
from raidhub_dagster.storage.missed import Missed, State, record
from raidhub_dagster.storage.postgres import connected
from streaming.hermes.failures import retries_of
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery, Limits, PostponedError, Topic
from streaming.hermes.topics.reports import Fetched, ReportHandler

log = logging.getLogger(__name__)

_SWEEP_EVERY_S = 60.0


class BlockedRetry(ReportHandler):
    source = topology.PGCR_BLOCKED_RETRY

    def work(self, delivery: Delivery) -> None:
        instance_id = read_id(delivery.body, "instanceId")
        decision = self.shared.pool.run(
            lambda connection: withheld.admit(connection, instance_id, topology.PGCR_BLOCKED_WAIT_S)
        )
        if decision is withheld.Decision.SURPLUS:
            return
        if decision is withheld.Decision.WAIT:
            raise PostponedError("the floodgates are closed", topology.PGCR_BLOCKED)
        fetched = self.fetch(instance_id)
        match fetched.kind:
            case ResultKind.SUCCESS:
                self._came_out(instance_id, fetched)
            case ResultKind.NON_RAID:
                self.shared.pool.run(lambda connection: self._is_no_raid(connection, instance_id))
            case ResultKind.NOT_FOUND:
                self.shared.pool.run(
                    lambda connection: self._is_missing(connection, instance_id, fetched.result)
                )
            case ResultKind.RATE_LIMITED:
                self._postpone(instance_id, "throttled")
            case ResultKind.INSUFFICIENT_PRIVILEGES if not self._is_open():
                self._postpone(instance_id, "still withheld")
            case _:
                self._failed(delivery, instance_id, fetched.result)

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """What is parked goes round no more; the ledger of missed ids has it, if anything does."""
        try:
            instance_id = read_id(delivery.body, "instanceId")
        except PermanentError:
            return
        row = Missed(
            instance_id,
            State.BLOCKED,
            "retry_failed",
            error=repr(error),
            retry_in_s=self.backoff.delay_s(State.BLOCKED, 1),
        )

        def record_row(connection: Connection) -> None:
            withheld.close(connection, instance_id)
            with connection.cursor() as cursor:
                record(cursor, [row], source=self.source)

        self.shared.pool.run(record_row)

    def _came_out(self, instance_id: int, fetched: Fetched) -> None:
        """Published before it counts: a crash in between fetches the report once more."""
        self.publish_raid(instance_id, fetched)
        self.shared.pool.run(lambda connection: withheld.succeed(connection, instance_id))
        metrics.FLOODGATES_RECENT_PGCR.set(instance_id)

    def _is_no_raid(self, connection: Connection, instance_id: int) -> None:
        withheld.succeed(connection, instance_id)
        self.close_missed(connection, instance_id)

    def _is_missing(self, connection: Connection, instance_id: int, result: PgcrResult) -> None:
        withheld.close(connection, instance_id)
        retry_in_s = self.backoff.delay_s(State.WAITING, 1)
        self.record_missed(connection, instance_id, State.WAITING, result, retry_in_s)

    def _is_open(self) -> bool:
        with self.shared.pool.connection() as connection, connection:
            return withheld.is_open(connection)

    def _postpone(self, instance_id: int, reason: str) -> None:
        rest_s = topology.PGCR_BLOCKED_WAIT_S
        self.shared.pool.run(lambda connection: withheld.expect(connection, instance_id, rest_s))
        raise PostponedError(reason, topology.PGCR_BLOCKED)

    def _failed(self, delivery: Delivery, instance_id: int, result: PgcrResult) -> None:
        """A counted failure: with the gates open the report should be there."""
        before = retries_of(delivery)
        if before >= TOPIC.retries:
            self._give_up_id(instance_id, result)
            return
        rest_s = TOPIC.delays_s[before]
        self.shared.pool.run(lambda connection: withheld.expect(connection, instance_id, rest_s))
        raise TransientError(f"report {instance_id}: {result.status} {result.detail}".strip())

    def _give_up_id(self, instance_id: int, result: PgcrResult) -> None:
        """Into the ledger of missed ids, whence the crawl asks for it now and then."""

        def record_row(connection: Connection) -> int:
            withheld.close(connection, instance_id)
            if result.kind is ResultKind.BAD_FORMAT:  # it is out, and broken
                self.record_malformed(connection, instance_id, result)
            else:
                rest_s = withheld.rest_s(connection, instance_id, random)
                self.record_missed(connection, instance_id, State.BLOCKED, result, rest_s)
            return withheld.count_given_up(connection)

        count = self.shared.pool.run(record_row)
        self.shared.alerts.send(
            Alert(
                "withheld_given_up",
                "Withheld Instances Given Up",
                Colour.ORANGE,
                {"Instance Id": instance_id, "Answer": result.status, "Given up by now": count},
                every_s=300.0,
            )
        )


def _sweep(settings: Settings, threads: Threads) -> Loop:
    """Sends ids again whose message was lost on the way, and forgets what is over."""

    @contextmanager
    def open_step() -> Iterator[Step]:
        with connected(settings, f"hermes-{topology.PGCR_BLOCKED_RETRY}-sweep") as database:

            def step() -> bool:
                with database:
                    withheld.prune(database)
                    lost = withheld.count_lost(database)
                if not lost or _are_waiting(settings):
                    return False
                with database:
                    sent = withheld.send_lost(database)
                log.warning(
                    "Sent %d withheld ids again whose messages were lost",
                    sent,
                    extra={"action": "withheld_sent_again", "rows": sent},
                )
                return False

            yield step

    return Loop("withheld_sweep", open_step, threads, idle_s=_SWEEP_EVERY_S)


def _are_waiting(settings: Settings) -> bool:
    """True while messages wait for a slot: those that seem lost may be among them."""
    connection = connect(settings, f"hermes-{topology.PGCR_BLOCKED_RETRY}-sweep")
    try:
        declared = connection.channel().queue_declare(topology.PGCR_BLOCKED_RETRY, durable=True)
        return bool(declared.method.message_count)
    finally:
        connection.close()


TOPIC = Topic(
    topology.PGCR_BLOCKED_RETRY,
    BlockedRetry,
    Limits(minimum=1, maximum=10, desired=2, contest=5),
    # 8, 16 and 32 s: within the law of pauses between tries of a withheld report, 6.7 s plus up
    # to 10, 20 and 30 s.
    retries=3,
    base_delay_s=8,
    systems=systems.REPORTS,
    chores=(_sweep,),
)
