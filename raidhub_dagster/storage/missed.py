"""The ledger of ids that could not be finished: one durable row an id, retried until closed.

States, laws and who may change what: docs/domain/crawl.md, "Missed ids". Fetching is not here.
"""

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.postgres import Rng
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "missed")

_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_MALFORMED_S = (15 * _MINUTE_S, _HOUR_S, 6 * _HOUR_S, _DAY_S)
_GIVE_UP_AFTER_S = {"waiting": 7 * _DAY_S, "malformed": 14 * _DAY_S}


class State(StrEnum):
    WAITING = "waiting"
    MALFORMED = "malformed"
    BLOCKED = "blocked"
    UNKNOWN_HASH = "unknown_hash"
    MISSING = "missing"
    RESOLVED = "resolved"
    REJECTED = "rejected"


# Those that somebody fetches again: the crawl, or for blocked ones whoever consumes their queue.
RETRIED = frozenset({State.WAITING, State.MALFORMED, State.BLOCKED})
OPEN = RETRIED | {State.UNKNOWN_HASH}


class Missed(NamedTuple):
    """One id to be recorded. `reason` is a code such as "not_found" or a rejection's reason."""

    instance_id: int
    state: State
    reason: str
    last_result: int | None = None  # number of the result kind
    hash: int | None = None  # of unknown activities
    error: str = ""  # for people, cut at 500 characters
    retry_in_s: float | None = None  # None: nobody has to try
    visits: int = 1  # tries that this record stands for; they decide on the next pause


class Due(NamedTuple):
    instance_id: int
    state: State
    attempts: int  # visits so far
    age_s: float  # since the id was first recorded


class Settled(NamedTuple):
    """What became of unresolved ids: closed as resolved, given up, or to be tried again."""

    resolved: list[int]
    rejected: list[int]
    missing: list[Missed]  # holes if ids on both sides are resolved, else tried again like this
    again: list[Missed]  # also those that are new

    def __bool__(self) -> bool:
        return any(self)


class Backoff:
    """When a missed id is tried again, and when it has been tried long enough.

    `scale` multiplies every interval; simulations and tests shorten days to seconds with it.
    """

    def __init__(self, rng: Rng, scale: float = 1.0) -> None:
        self._rng = rng
        self._scale = scale

    def delay_s(self, state: State, attempts: int, age_s: float = 0.0) -> float | None:
        """Pause after visit number `attempts` (1 = the crawl's own); None: not by its row.

        waiting: 15 s doubling to an hour, daily after 7 days. malformed: 15 min, 1 h, 6 h, then
        daily. blocked: the queue of withheld reports does it. All +-20 %, so that a flood does not
        come back as one.
        """
        match state:
            case State.WAITING if age_s < self._scale * _GIVE_UP_AFTER_S[state]:
                base_s = min(15.0 * 2.0 ** min(attempts - 1, 10), _HOUR_S)
            case State.WAITING:
                base_s = _DAY_S
            case State.MALFORMED:
                base_s = _MALFORMED_S[min(attempts, len(_MALFORMED_S)) - 1]
            case _:
                return None
        return base_s * self._scale * self._rng.uniform(0.8, 1.2)

    def is_given_up(self, state: State, age_s: float) -> bool:
        """True past 7 days of waiting (a hole, if its neighbours are there) or 14 malformed."""
        limit_s = _GIVE_UP_AFTER_S.get(state)
        return limit_s is not None and age_s >= self._scale * limit_s


def record(cursor: Cursor, rows: Iterable[Missed], *, source: str, reopen: bool = True) -> None:
    """Upserts the rows in the caller's transaction; a row that exists keeps its age and source.

    `reopen=False` leaves alone what is closed: a new 404 says nothing about an id whose report was
    seen. What is held for an unknown hash is kept in any case. `source` names the part that gave
    the id up. An id whose report is stored is missed by nobody: its row is left out.
    """
    by_id = {row.instance_id: row for row in rows}
    if not by_id:
        return
    ids, states, reasons, results, hashes, errors, retry_in_s, visits = zip(
        *by_id.values(), strict=True
    )
    cursor.execute(
        _SQL["record"],
        {
            "ids": list(ids),
            "states": list(states),
            "reasons": list(reasons),
            "results": list(results),
            "hashes": list(hashes),
            "errors": [error[:500] or None for error in errors],
            "retry_in_s": list(retry_in_s),
            "visits": list(visits),
            "source": source,
            "reopen": reopen,
        },
    )


def due(connection: Connection, *, limit: int, claim_s: float) -> list[Due]:
    """Claims up to `limit` rows whose time has come, the longest overdue first; commits.

    No other caller gets a claimed row for `claim_s`; after that it is due again.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["due"], {"limit": limit, "claim_s": claim_s})
        rows = cursor.fetchall()
    return [Due(i, State(state), attempts, age_s) for i, state, attempts, age_s in rows]


def forgotten(connection: Connection, *, limit: int, after_s: float) -> list[int]:
    """Up to `limit` blocked ids that nobody touched for `after_s`, which count as touched now.

    Their messages are lost when nothing is in their queue; commits.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["forgotten"], {"limit": limit, "after_s": after_s})
        return [row[0] for row in cursor.fetchall()]


def close(
    cursor: Cursor,
    ids: Sequence[int],
    *,
    state: State = State.RESOLVED,
    among: Collection[State] = OPEN,
) -> None:
    """Closes the rows of `ids` whose state is `among`, in the caller's transaction.

    The store closes what it stored whatever its state; the crawl passes RETRIED, so that it never
    closes a row that the store meanwhile opened for an unknown hash. Ids without row are fine.
    """
    if not ids:
        return
    cursor.execute(_SQL["lock"], {"ids": list(ids), "among": [str(s) for s in among]})
    found = [row[0] for row in cursor.fetchall()]
    if found:
        cursor.execute(_SQL["close"], {"ids": found, "state": state})


def holes(cursor: Cursor, ids: Sequence[int]) -> set[int]:
    """Those of `ids` with resolved ids on both sides: only these can be holes."""
    cursor.execute(_SQL["holes"], {"ids": list(ids)})
    return {row[0] for row in cursor.fetchall()}


def settle(cursor: Cursor, settled: Settled, *, source: str) -> set[int]:
    """Writes what became of ids, in the caller's transaction; which of them are holes for good.

    Harmless twice, and never opens a row that somebody closed meanwhile.
    """
    suspects = [row.instance_id for row in settled.missing]
    found = holes(cursor, suspects) if suspects else set()
    again = [row for row in settled.missing if row.instance_id not in found]
    record(cursor, [*settled.again, *again], source=source, reopen=False)
    for ids, state in (
        (settled.resolved, State.RESOLVED),
        (settled.rejected, State.REJECTED),
        (sorted(found), State.MISSING),
    ):
        close(cursor, ids, state=state, among=RETRIED)
    return found


def claim(
    connection: Connection, *, after: int, until: int, limit: int, claim_s: float
) -> list[Due]:
    """As `due`, but by ascending id: those above `after`, up to `until` (included); commits.

    A caller that goes on behind the last id it got meets each row once.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["claim"], {"after": after, "until": until, "limit": limit, "claim_s": claim_s}
        )
        rows = cursor.fetchall()
    return sorted(Due(i, State(state), attempts, age_s) for i, state, attempts, age_s in rows)


def release(connection: Connection, ids: Collection[int]) -> None:
    """Ends claims of rows that nobody tried: they are due at once; commits."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["release"], {"ids": list(ids)})


def close_stored(connection: Connection) -> list[int]:
    """Closes the rows of ids whose report is stored whole, whoever stored it; commits. Which."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["close_stored"])
        return sorted(row[0] for row in cursor)


def count_due(connection: Connection, *, until: int) -> int:
    """How many rows up to id `until` `claim` would give now; commits."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_due"], {"until": until})
        ((count,),) = cursor.fetchall()
    return int(count)


def list_malformed(connection: Connection, *, limit: int) -> list[int]:
    """Up to `limit` ids whose report is broken, ascending; commits."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["list_malformed"], {"limit": limit})
        return [row[0] for row in cursor]


def check_stored(connection: Connection) -> list[Problem]:
    """Nobody misses an id whose report is stored."""
    return _check(connection, "find_stored", "no missed row is open whose report is stored")


def check_attended(connection: Connection) -> list[Problem]:
    """Somebody asks for every row in time."""
    return _check(connection, "find_unattended", "no missed row is overdue for a day")


def _check(connection: Connection, query: str, claimed: str) -> list[Problem]:
    with connection.cursor() as cursor:
        return list(find_broken(cursor, _SQL[query], claimed))


def count_by_state(cursor: Cursor) -> dict[State, int]:
    """Rows of every state, 0 included."""
    cursor.execute(_SQL["count_by_state"])
    return dict.fromkeys(State, 0) | {State(state): n for state, n in cursor.fetchall()}


def prune(cursor: Cursor) -> int:
    """Deletes rows closed for 30 days; how many."""
    cursor.execute(_SQL["prune"])
    return cursor.rowcount
