"""The missed ids whose time has come, asked for again: one pass in ascending order.

The crawl takes due rows too, with a tenth of its workers; a claim keeps either from what the other
has. Rules: docs/domain/crawl.md, "Recovery".
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.systems import REPORTS, off
from raidhub_dagster.errors import MaintenanceError
from raidhub_dagster.recovery.outcomes import Fate, Outcomes, Publisher, Tally
from raidhub_dagster.recovery.visits import Visitors
from raidhub_dagster.storage import api_state, ledger, missed
from raidhub_dagster.storage.missed import Due
from raidhub_dagster.storage.postgres import is_connection_lost

log = logging.getLogger(__name__)

SOURCE = "missed_pgcrs"
# Near the head an id may simply not be published yet, and the crawl asks for it anyway.
RECENT_IDS = 5000
# Five tries of two requests with 15 s each, and as many before it in the worker's queue: 340 s.
CLAIM_S = 900.0
_AT_ONCE = 16  # rows of a claim
_TOLD_EVERY_S = 60.0
# What hermes saw of the API's systems; it looks every 60 s. Older says nothing.
_STATE_COUNTS_S = 180.0

Tell = Callable[[Tally], None]


@dataclass
class Recovered:
    """What one run did; `stopped` says why it ended early, "" when it came to the end."""

    tally: Tally = field(default_factory=Tally)
    stopped: str = ""
    due_left: int = 0


class Backlog(NamedTuple):
    """What a tick decides on."""

    due: int  # rows that a run would ask for, or gaps that it would sweep
    gate: str  # why the API must not be asked, "" when it may


def look(connection: Connection, ceiling: int) -> Backlog:
    """Rows that are due, and whether the API is known to be switched off."""
    due = missed.count_due(connection, until=newest_tried(connection, ceiling))
    return Backlog(due, closed_gate(connection))


def closed_gate(connection: Connection) -> str:
    """Which systems that reports need are off, as hermes saw it lately; "" for none."""
    seen = {
        name: state.enabled
        for name, state in api_state.read(connection).items()
        if state.age_s <= _STATE_COUNTS_S
    }
    return ", ".join(off(seen, REPORTS)) if seen.keys() >= set(REPORTS) else ""


def newest_tried(connection: Connection, ceiling: int, *, force: bool = False) -> int:
    """The highest id that a run asks for: it stays behind the newest stored one, unless forced."""
    if force:
        return ceiling
    return (ledger.newest_instance(connection, ceiling) or 0) - RECENT_IDS


def open_rows(connection: Connection) -> int:
    """Ids that are still unresolved, whoever works on them."""
    with connection, connection.cursor() as cursor:
        states = missed.count_by_state(cursor)
    return sum(states[state] for state in missed.OPEN)


def recover_missed(
    connection: Connection,
    publisher: Publisher,
    visitors: Visitors,
    *,
    ceiling: int,
    force: bool = False,
    limit_s: float = 3000.0,
    tell: Tell = lambda _tally: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Recovered:
    """Closes what is stored already and asks for all other due rows, once each.

    After `limit_s` no more rows are taken; a later run goes on. Maintenance ends the run in order
    and counts for no id. `tell` is called about once a minute. Raises UnavailableError when the
    API answers nobody, BrokerError, psycopg2.Error; what was not tried is due again then.
    """
    done = Recovered()
    done.tally.add(dict.fromkeys(missed.close_stored(connection), Fate.STORED))
    outcomes = Outcomes(connection, publisher, source=SOURCE, sleep=sleep)
    until = newest_tried(connection, ceiling, force=force)
    ends_at = clock() + limit_s
    told_at = clock()
    claimed: dict[int, Due] = {}

    def claims() -> Iterator[int]:
        after = 0
        while clock() < ends_at:
            rows = missed.claim(
                connection, after=after, until=until, limit=_AT_ONCE, claim_s=CLAIM_S
            )
            if not rows:
                return
            claimed.update((row.instance_id, row) for row in rows)
            after = rows[-1].instance_id
            yield from (row.instance_id for row in rows)
        done.stopped = f"{limit_s:.0f} s were over"

    try:
        for visited in visitors.each(claims()):
            done.tally.add(outcomes.settle(visited, claimed))
            for visit in visited:
                del claimed[visit.instance_id]
            if clock() - told_at >= _TOLD_EVERY_S:
                told_at = clock()
                tell(done.tally)
    except MaintenanceError as error:
        done.stopped = f"maintenance: {error}"
    finally:
        _release(connection, claimed)
    done.due_left = missed.count_due(connection, until=until)
    return done


def _release(connection: Connection, claimed: dict[int, Due]) -> None:
    """What was claimed and not tried is due at once; without a database the claim just ends."""
    if not claimed:
        return
    try:
        if not connection.closed:
            connection.rollback()
            missed.release(connection, list(claimed))
    except Exception as error:
        if not is_connection_lost(error):
            raise
        log.warning(
            "%d claimed ids wait for the end of their claim: the database is away",
            len(claimed),
            extra={"action": "claims_left", "ids": len(claimed)},
        )
