"""What the topics that fetch reports have in common: the request, and what its answer leads to.

What an answer means is docs/domain/pgcr.md, "Answers"; the request itself is recovery/fetch.py's.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.protocol import PgcrResult
from raidhub_dagster.recovery.fetch import Fetched as Fetched
from raidhub_dagster.recovery.fetch import fetch_report, missed_row, report_message
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import missed
from streaming.hermes.topics.shared import ApiHandler


class ReportHandler(ApiHandler):
    """Fetches reports; `source` names the topic in headers and in the ledger."""

    source: str

    def __init__(
        self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(settings, now=now)
        self.backoff = missed.Backoff(random)

    def fetch(self, instance_id: int, *, past_caches: bool = False) -> Fetched:
        """`fetch_report` with this slot's client."""
        return fetch_report(
            self.client,
            instance_id,
            self.shared.tracked_hashes(),
            now=self.now,
            past_caches=past_caches,
        )

    def publish_raid(self, instance_id: int, fetched: Fetched) -> None:
        """Hands the report to the store; returns once the broker has it."""
        self.shared.publisher.publish(
            [report_message(instance_id, fetched, fetched_at=self.now(), source=self.source)]
        )

    def record_missed(
        self,
        connection: Connection,
        instance_id: int,
        state: missed.State,
        result: PgcrResult,
        retry_in_s: float | None,
    ) -> None:
        """Leaves the id in the ledger of missed ids, in the caller's transaction."""
        row = missed_row(instance_id, state, result, retry_in_s)
        with connection.cursor() as cursor:
            missed.record(cursor, [row], source=self.source)

    def record_malformed(
        self, connection: Connection, instance_id: int, result: PgcrResult
    ) -> None:
        """An unusable report is fetched again later; a refused request is for a person."""
        state = missed.State.MALFORMED
        self.record_missed(connection, instance_id, state, result, self.backoff.delay_s(state, 1))

    def close_missed(self, connection: Connection, instance_id: int) -> None:
        """The report is known to be none of ours: nobody has to look for it any more."""
        with connection.cursor() as cursor:
            missed.close(cursor, [instance_id], among=missed.RETRIED)
