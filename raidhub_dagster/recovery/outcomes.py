"""What visited ids lead to: reports to the store, withheld ids to their queue, rows in the ledger.

The order keeps every promise through any death: the broker has confirmed before a row is closed,
so that an id is at any moment in its row or in a queue. Rules: docs/domain/crawl.md, "Recovery".
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import TransientError
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import Message, id_message
from raidhub_dagster.recovery.fetch import missed_row, report_message
from raidhub_dagster.recovery.visits import Visited
from raidhub_dagster.storage import missed
from raidhub_dagster.storage.missed import Backoff, Due, Settled, State
from raidhub_dagster.storage.postgres import Rng, in_transaction

Sleep = Callable[[float], None]


class Publisher(Protocol):
    """The part of messaging.publisher.Publisher that is used here."""

    def publish(self, messages: Sequence[Message]) -> None: ...


class Fate(StrEnum):
    """What became of an id in this run."""

    FOUND = "found"  # a raid, on its way to the store
    NO_RAID = "no_raid"
    WITHHELD = "withheld"
    NOT_FOUND = "not_found"  # asked again later
    MISSING = "missing"  # confirmed: never published
    MALFORMED = "malformed"
    REJECTED = "rejected"  # malformed for 14 days
    FAILED = "failed"  # nothing but errors; asked again later
    STORED = "stored"  # somebody had stored it already


@dataclass
class Tally:
    """What a run did so far; `ids` are all it tried."""

    fates: Counter[Fate] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)

    def add(self, fates: Mapping[int, Fate]) -> None:
        self.fates.update(fates.values())
        self.ids += fates
        self.found += [i for i, fate in fates.items() if fate is Fate.FOUND]

    @property
    def processed(self) -> int:
        return self.fates.total()


class Outcomes:
    """Writes down what became of ids; `source` names who asked, in headers and in the ledger."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        *,
        source: str,
        sleep: Sleep,
        rng: Rng = random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._connection = connection
        self._publisher = publisher
        self._source = source
        self._backoff = Backoff(rng)
        self._sleep = sleep
        self._rng = rng
        self._now = now

    def settle(
        self, visited: Iterable[Visited], due: Mapping[int, Due], *, keep_missing: bool = True
    ) -> dict[int, Fate]:
        """Publishes, then commits what the ledger has to say; id -> its fate.

        `due` has the rows that the ids were claimed from. Of others a row is made when they stay
        unresolved; without `keep_missing` not for a 404, when something else remembers the id.
        """
        visited = list(visited)
        messages: list[Message] = []
        settled = Settled([], [], [], [])
        fates: dict[int, Fate] = {}
        for visit in visited:
            fate = fates[visit.instance_id] = self._judge(
                visit, due.get(visit.instance_id), settled, keep_missing=keep_missing
            )
            if fate is Fate.FOUND:
                messages.append(self._report(visit))
            elif fate is Fate.WITHHELD:
                messages.append(id_message(topology.PGCR_BLOCKED_RETRY, visit.instance_id))
        self._publisher.publish(messages)

        def write(connection: Connection) -> set[int]:
            with connection.cursor() as cursor:
                return missed.settle(cursor, settled, source=self._source)

        holes = in_transaction(self._connection, write, sleep=self._sleep, rng=self._rng)
        return fates | dict.fromkeys(holes, Fate.MISSING)

    def _report(self, visit: Visited) -> Message:
        return report_message(
            visit.instance_id, visit.fetched, fetched_at=self._now(), source=self._source
        )

    def _judge(
        self, visit: Visited, due: Due | None, settled: Settled, *, keep_missing: bool
    ) -> Fate:
        """Puts the id where it belongs in `settled`."""
        result = visit.fetched.result
        match visit.kind:
            case ResultKind.SUCCESS:
                settled.resolved.append(visit.instance_id)
                return Fate.FOUND
            case ResultKind.NON_RAID:
                settled.resolved.append(visit.instance_id)
                return Fate.NO_RAID
            case ResultKind.INSUFFICIENT_PRIVILEGES:
                settled.again.append(self._row(visit, State.BLOCKED, due))
                return Fate.WITHHELD
            case ResultKind.NOT_FOUND:
                row = self._row(visit, State.WAITING, due)
                if due is not None and self._backoff.is_given_up(State.WAITING, due.age_s):
                    settled.missing.append(row)
                elif due is not None or keep_missing:
                    settled.again.append(row)
                return Fate.NOT_FOUND
            case ResultKind.BAD_FORMAT:
                if due is not None and self._backoff.is_given_up(State.MALFORMED, due.age_s):
                    settled.rejected.append(visit.instance_id)
                    return Fate.REJECTED
                settled.again.append(self._row(visit, State.MALFORMED, due))
                return Fate.MALFORMED
            case ResultKind.EXTERNAL_ERROR | ResultKind.RATE_LIMITED:
                # A failure says nothing new about the id: it keeps its state.
                state = State.WAITING if due is None else due.state
                settled.again.append(self._row(visit, state, due))
                return Fate.FAILED
            case _:
                raise TransientError(f"report {visit.instance_id}: {result.status}")

    def _row(self, visit: Visited, state: State, due: Due | None) -> missed.Missed:
        """Tries count anew in another state, as they do in the ledger."""
        before, age_s = (due.attempts, due.age_s) if due and due.state is state else (0, 0.0)
        retry_in_s = self._backoff.delay_s(state, before + 1, age_s)
        return missed_row(visit.instance_id, state, visit.fetched.result, retry_in_s)


def ranges(ids: Iterable[int]) -> list[tuple[int, int]]:
    """`ids` as contiguous ranges (first, last), ascending."""
    found: list[tuple[int, int]] = []
    for instance_id in sorted(ids):
        if found and instance_id <= found[-1][1] + 1:
            found[-1] = (found[-1][0], instance_id)
        else:
            found.append((instance_id, instance_id))
    return found
