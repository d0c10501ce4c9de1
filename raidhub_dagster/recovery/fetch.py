"""One report asked for once, and what its answer leaves behind: a message, or a row to try again.

Used wherever a report is fetched outside the crawl's own loop: by the topics of hermes, by the
recovery of missed ids, by repairs. What an answer means is docs/domain/pgcr.md, "Answers".
"""

import time
from collections.abc import Callable, Container
from datetime import datetime, timedelta
from typing import NamedTuple

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.errors import MaintenanceError, TransientError, UnavailableError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import Message, instance_store_properties
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.storage.missed import Missed, State

# docs/domain/pgcr.md, "Validation": older reports that come twice alike grow no more.
SETTLED_AFTER = timedelta(hours=48)


class Fetched(NamedTuple):
    """A judged answer; `settled`: the report is odd but old, came twice alike and is whole."""

    result: PgcrResult
    settled: Instance | None = None

    @property
    def kind(self) -> ResultKind:
        return ResultKind.SUCCESS if self.settled is not None else self.result.kind

    @property
    def instance(self) -> Instance | None:
        return self.settled or self.result.instance

    @property
    def said(self) -> str:
        """For people: the name of the code and what came with it."""
        return f"{self.result.status} {self.result.detail}".strip()


class KeyRefusedError(UnavailableError):
    """Bungie refuses our key: asking again soon brings the same."""


def fetch_report(
    client: BungieClient,
    instance_id: int,
    tracked_hashes: Container[int],
    *,
    now: Callable[[], datetime],
    past_caches: bool = False,
) -> Fetched:
    """One request, and another one for an old report that cannot be used as it is.

    Raises MaintenanceError, and UnavailableError when nobody answers or our key is refused: none
    of these says anything about the report.
    """
    # Numbers that no request had before; two reports of one id are seconds apart at least.
    number = int(now().timestamp())
    first = number if past_caches else None
    result = _request(client, instance_id, tracked_hashes, first)
    ended_at = result.ended_at
    if (
        result.kind is not ResultKind.BAD_FORMAT
        or ended_at is None
        or now() - ended_at < SETTLED_AFTER
    ):
        return Fetched(result)
    again = _request(client, instance_id, tracked_hashes, number + 1)
    if again.kind is not ResultKind.BAD_FORMAT or again.response is None:
        return Fetched(again)
    if again.response != result.response:
        return Fetched(again)
    parsed = parse(again.response, now=now(), expected_id=instance_id, settled=True)
    return Fetched(again, parsed if isinstance(parsed, Instance) else None)


def _request(
    client: BungieClient,
    instance_id: int,
    tracked_hashes: Container[int],
    malformed_retry: int | None,
) -> PgcrResult:
    started = time.perf_counter()
    result = client.fetch_pgcr(instance_id, tracked_hashes, malformed_retry=malformed_retry)
    metrics.GET_PGCR_REQ.labels(result.status).observe((time.perf_counter() - started) * 1000)
    said = f"{result.status} {result.detail}".strip()
    if result.kind is ResultKind.SYSTEM_DISABLED:
        raise MaintenanceError(said)
    if result.code_class is CodeClass.KEY_PROBLEM:
        raise KeyRefusedError(f"Bungie's API refuses our key: {said}")
    if not client.is_reachable:
        raise UnavailableError(f"nobody listens at {client.endpoints.pgcr}")
    return result


def report_message(
    instance_id: int, fetched: Fetched, *, fetched_at: datetime, source: str
) -> Message:
    """The report on its way to the store; `source` names who found it."""
    response = fetched.result.response
    if response is None:
        raise TransientError(f"report {instance_id} came without a body")
    return Message(
        topology.INSTANCE_STORE,
        pack(response),
        instance_store_properties(
            instance_id, fetched_at, source, settled=fetched.settled is not None
        ),
    )


def missed_row(
    instance_id: int, state: State, result: PgcrResult, retry_in_s: float | None, visits: int = 1
) -> Missed:
    """What the ledger of missed ids says of an id after this answer.

    A refused request has no next try: no later one brings anything else.
    """
    rejection = result.rejection
    return Missed(
        instance_id,
        state,
        rejection.reason if rejection is not None else result.kind.name.lower(),
        last_result=int(result.kind),
        error=f"{result.status}: {result.detail}",
        retry_in_s=None if result.is_poison else retry_in_s,
        visits=visits,
    )
