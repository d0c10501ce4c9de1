"""What the topics that fetch reports have in common: the request, and what its answer leads to.

What an answer means is docs/domain/pgcr.md, "Answers".
"""

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.errors import MaintenanceError, TransientError, UnavailableError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import Message, instance_store_properties
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import missed
from streaming.hermes.topics.shared import ApiHandler

# docs/domain/pgcr.md, "Validation": older reports that come twice alike grow no more.
_SETTLED_AFTER = timedelta(hours=48)


class Fetched(NamedTuple):
    """A judged answer; `settled`: the report is odd but old, came twice alike and is whole."""

    result: PgcrResult
    settled: bool = False

    @property
    def kind(self) -> ResultKind:
        return ResultKind.SUCCESS if self.settled else self.result.kind


class ReportHandler(ApiHandler):
    """Fetches reports; `source` names the topic in headers and in the ledger."""

    source: str

    def __init__(
        self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(settings, now=now)
        self.backoff = missed.Backoff(random)

    def fetch(self, instance_id: int, *, past_caches: bool = False) -> Fetched:
        """One request, and another one for an old report that cannot be used as it is.

        Raises MaintenanceError, and UnavailableError when nobody answers or our key is refused:
        none of these says anything about the report.
        """
        result = self._request(instance_id, past_caches=past_caches)
        ended_at = result.ended_at
        if (
            result.kind is not ResultKind.BAD_FORMAT
            or ended_at is None
            or self.now() - ended_at < _SETTLED_AFTER
        ):
            return Fetched(result)
        again = self._request(instance_id, past_caches=True)
        if again.kind is not ResultKind.BAD_FORMAT or again.response is None:
            return Fetched(again)
        if again.response != result.response:
            return Fetched(again)
        parsed = parse(again.response, now=self.now(), expected_id=instance_id, settled=True)
        return Fetched(again, settled=not isinstance(parsed, Rejection))

    def publish_raid(self, instance_id: int, fetched: Fetched) -> None:
        """Hands the report to the store; returns once the broker has it."""
        response = fetched.result.response
        if response is None:
            raise TransientError(f"report {instance_id} came without a body")
        self.shared.publisher.publish(
            [
                Message(
                    topology.INSTANCE_STORE,
                    pack(response),
                    instance_store_properties(
                        instance_id, self.now(), self.source, fetched.settled
                    ),
                )
            ]
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
        rejection = result.rejection
        row = missed.Missed(
            instance_id,
            state,
            rejection.reason if rejection is not None else result.kind.name.lower(),
            last_result=int(result.kind),
            error=f"{result.status}: {result.detail}",
            retry_in_s=retry_in_s,
        )
        with connection.cursor() as cursor:
            missed.record(cursor, [row], source=self.source)

    def record_malformed(
        self, connection: Connection, instance_id: int, result: PgcrResult
    ) -> None:
        """An unusable report is fetched again later; a refused request is for a person."""
        state = missed.State.MALFORMED
        retry_in_s = None if result.is_poison else self.backoff.delay_s(state, 1)
        self.record_missed(connection, instance_id, state, result, retry_in_s)

    def close_missed(self, connection: Connection, instance_id: int) -> None:
        """The report is known to be none of ours: nobody has to look for it any more."""
        with connection.cursor() as cursor:
            missed.close(cursor, [instance_id], among=missed.RETRIED)

    def _request(self, instance_id: int, *, past_caches: bool) -> PgcrResult:
        started = time.perf_counter()
        result = self.client.fetch_pgcr(
            instance_id,
            self.shared.tracked_hashes(),
            # A number that no request had before; seconds never come twice to one report.
            malformed_retry=int(self.now().timestamp()) if past_caches else None,
        )
        metrics.GET_PGCR_REQ.labels(result.status).observe((time.perf_counter() - started) * 1000)
        said = f"{result.status} {result.detail}".strip()
        if result.kind is ResultKind.SYSTEM_DISABLED:
            raise MaintenanceError(said)
        if result.code_class is CodeClass.KEY_PROBLEM:
            raise UnavailableError(f"Bungie's API refuses our key: {said}")
        if not self.client.is_reachable:
            raise UnavailableError(f"nobody listens at {self.client.endpoints.pgcr}")
        return result
