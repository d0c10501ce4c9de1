"""Topic instance_store: reports off the queue into PostgreSQL, many in one transaction.

Beside it run two chores: kept reports whose definition came, and young ones that may have grown.
What must be stored is the store's business (`raidhub_dagster.storage.store`); here bodies are
opened and parsed, and what cannot be stored leaves a row in the ledger of missed ids.
"""

import logging
import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.discord.alerts import Alert, Alerts, Colour
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import read_origin
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import GZIP_MAGIC, open_body, pack, stamped
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import missed, young
from raidhub_dagster.storage.definitions import load_hash_names
from raidhub_dagster.storage.postgres import connect_checked, connected
from raidhub_dagster.storage.store import Outcome, Report, Store
from streaming.hermes.failures import is_infrastructure
from streaming.hermes.loop import Loop, Step
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Delivery, Limits, Scaling, Topic

log = logging.getLogger(__name__)

_SOURCE = "hermes"
_NAME = f"hermes-{topology.INSTANCE_STORE}"
_RECENT = timedelta(hours=5)
_FETCH_AGAIN_S = 3600.0  # what waits for a retry, whose last one is due after 7 s
_NAMES_FOR_S = 600.0  # a corrected name of an activity shows after this long


class MalformedError(PermanentError):
    """The report cannot be parsed; `rejection` says where."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.reason} at {rejection.field}: {rejection.detail}")
        self.rejection = rejection


def read(delivery: Delivery, now: datetime) -> Report:
    """The report in a message of any generation. Raises PermanentError.

    Its body is stamped with the time of the fetch: that of the headers, else now.
    """
    origin = read_origin(delivery.headers)
    plain = open_body(delivery.body)
    parsed = parse(plain, now=now, expected_id=origin.instance_id, settled=origin.settled)
    if isinstance(parsed, Rejection):
        raise MalformedError(parsed)
    body = _packed(plain, delivery.body)
    return Report(parsed, stamped(body, origin.fetched_at or now))


def _packed(plain: bytes, body: bytes) -> bytes:
    """`plain` compressed: `body` itself when its gzip trailer (CRC, length) says it is just that.

    That is what our own crawl publishes, and compressing again costs as much as parsing.
    """
    trailer = struct.pack("<II", zlib.crc32(plain), len(plain))
    if body.startswith(GZIP_MAGIC) and body.endswith(trailer):
        return body
    return pack(plain)


class InstanceStore:
    """The handler of one slot, with a connection of its own."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._clock = clock
        self._connection = connect_checked(settings, _NAME)
        self._store = Store(self._connection, rechecks=young.Rechecks.of(settings), now=now)
        self._alerts = Alerts(
            settings.atlas_webhook_url, footer=_NAME, role_id=settings.alerts_role_id
        )
        self._backoff = missed.Backoff(random)
        self._names: dict[int, tuple[str, str]] = {}
        self._names_until = clock()

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(deliveries)
        reports: dict[int, Report] = {}  # by position in the batch
        for position, delivery in enumerate(deliveries):
            try:
                reports[position] = read(delivery, self._now())
            except PermanentError as error:
                outcomes[position] = error
        for position, failure in self._store_batch(reports):
            outcomes[position] = failure
        for position in reports:
            if outcomes[position] is None:
                _measure_way(deliveries[position], self._now())
        return outcomes

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        """The message holds the only body, and its block is done: a lost one is fetched again.

        Storing the report closes the row.
        """
        self._record_failed(delivery, error, _FETCH_AGAIN_S)

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Leaves a row in the ledger of missed ids, if anything tells the id.

        A malformed report is fetched again later, it may have been published too early. Whatever
        else failed is due to us: the parked message holds all there is, so nobody has to fetch.
        """
        if not isinstance(error, PermanentError):
            self._record_failed(delivery, error, None)
            return
        instance_id = _id_of(delivery, self._now())
        if instance_id is None:
            return
        rejection = error.rejection if isinstance(error, MalformedError) else None
        self._record(
            missed.Missed(
                instance_id,
                missed.State.MALFORMED,
                rejection.reason if rejection else "unreadable_body",
                last_result=ResultKind.BAD_FORMAT,
                error=str(error),
                retry_in_s=self._backoff.delay_s(missed.State.MALFORMED, 1),
            )
        )

    def close(self) -> None:
        self._alerts.close()
        self._connection.close()

    def _record_failed(
        self, delivery: Delivery, error: Exception, retry_in_s: float | None
    ) -> None:
        instance_id = _id_of(delivery, self._now())
        if instance_id is not None:
            self._record(
                missed.Missed(
                    instance_id,
                    missed.State.WAITING,
                    "store_failed",
                    error=repr(error),
                    retry_in_s=retry_in_s,
                )
            )

    def _record(self, row: missed.Missed) -> None:
        with self._connection, self._connection.cursor() as cursor:
            missed.record(cursor, [row], source=_SOURCE)

    def _store_batch(self, reports: dict[int, Report]) -> Iterator[tuple[int, Exception]]:
        """Stores them; those that failed, each with its reason.

        A batch that fails is stored one by one, so that a bad report does not spoil the others.
        Raises when the database is away or in conflict: that is nobody's fault.
        """
        if not reports:
            return
        started = time.perf_counter()
        try:
            stored = self._store.store(list(reports.values()), source=_SOURCE)
        except Exception as error:
            _measure("error", time.perf_counter() - started)
            if is_infrastructure(error):
                raise
            if len(reports) == 1:
                yield next(iter(reports)), error
                return
        else:
            _measure("success", time.perf_counter() - started)
            for report, outcome in zip(reports.values(), stored, strict=True):
                self._count(report.instance, outcome)
                self._tell(report.instance, outcome)
            return
        for position, report in reports.items():
            yield from self._store_batch({position: report})

    def _count(self, instance: Instance, outcome: Outcome) -> None:
        """After the commit: what kinds of raids were played in the last hours."""
        if outcome is Outcome.STORED and instance.date_completed >= self._now() - _RECENT:
            activity, version = self._names_of(instance.hash)
            completed = str(instance.completed).lower()
            metrics.PGCR_INSTANCE_TYPE.inc(activity, version, completed)

    def _tell(self, instance: Instance, outcome: Outcome) -> None:
        """What only a person can judge. The rest of changed reports is a line in the log."""
        match outcome:
            case Outcome.CONFLICT:
                self._alerts.send(
                    Alert(
                        "pgcr_conflict",
                        "Report Contradicts a Stored One",
                        Colour.ORANGE,
                        {"Instance": instance.instance_id, "Hash": instance.hash},
                    )
                )
            case Outcome.PARTLY_REPLACED:
                self._alerts.send(
                    Alert(
                        "flagged_player_vanished",
                        "Flagged Player Left a Report",
                        Colour.ORANGE,
                        {"Instance": instance.instance_id, "Players now": instance.player_count},
                    )
                )
            case Outcome.REPLACED | Outcome.SUPERSEDED:
                log.info(
                    "A report came in another version",
                    extra={
                        "action": "pgcr_versioned",
                        "outcome": outcome.value,
                        "instance_id": instance.instance_id,
                    },
                )

    def _names_of(self, activity_hash: int) -> tuple[str, str]:
        if activity_hash not in self._names or self._clock() >= self._names_until:
            with self._connection:
                self._names = load_hash_names(self._connection)
            self._names_until = self._clock() + _NAMES_FOR_S
        return self._names[activity_hash]


def _id_of(delivery: Delivery, now: datetime) -> int | None:
    try:
        return read_origin(delivery.headers).instance_id or read(delivery, now).instance.instance_id
    except PermanentError:
        return None


def _measure(status: str, seconds: float) -> None:
    metrics.INSTANCE_STORAGE_OPERATIONS.labels("store_batch", status).inc()
    metrics.INSTANCE_STORAGE_OPERATION_DURATION_SECONDS.labels("store_batch", status).observe(
        seconds
    )


def _measure_way(delivery: Delivery, committed_at: datetime) -> None:
    fetched_at = read_origin(delivery.headers).fetched_at
    if fetched_at is not None:
        seconds = (committed_at - fetched_at).total_seconds()
        metrics.INSTANCE_FETCH_TO_COMMIT_SECONDS.observe(max(seconds, 0.0))


def _known_hashes(settings: Settings, threads: Threads) -> Loop:
    """Stores the kept reports of unknown activities as soon as their definition is there."""

    @contextmanager
    def open_step() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-known-hashes") as connection:
            store = Store(connection)
            yield lambda: store.store_known_hashes() > 0

    return Loop("known_hashes", open_step, threads, idle_s=10.0)


def _young_reports(settings: Settings, threads: Threads) -> Loop:
    """Asks pgcr_crawl for the reports that were fetched too soon after the end of their raids."""
    rechecks = young.Rechecks.of(settings)

    @contextmanager
    def open_step() -> Iterator[Step]:
        with connected(settings, f"{_NAME}-young") as connection:
            yield lambda: young.ask_again(connection, rechecks, now=datetime.now(UTC)) > 0

    # A minute is little against the pauses; short ones, of simulations, need a closer look.
    pause_s = rechecks.first.total_seconds() / 2
    return Loop("young_reports", open_step, threads, idle_s=min(max(pause_s, 0.2), 60.0))


TOPIC = Topic(
    topology.INSTANCE_STORE,
    InstanceStore,
    Limits(minimum=5, maximum=50, desired=15, contest=30),
    retries=3,
    base_delay_s=1,
    scaling=Scaling(up_depth=1000, down_depth=100),
    # 15 workers are two threads: one waits for PostgreSQL while the other parses; more of them
    # need more cores.
    workers_per_slot=10,
    batch=50,  # a bigger transaction is no faster, and holds its players' locks for longer
    batch_wait_s=0.1,
    chores=(_known_hashes, _young_reports),
)
