"""Clears whose report Bungie withdrew since: flagged by hand, as a person would.

Bungie withholds the reports of runs that it does not recognise (code 12). A run that was stored
before keeps its place on the boards unless somebody notices. Rules: docs/domain/crawl.md,
"Restricted reports".
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.recovery.visits import Visitors
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "restricted")

HASH = 3896382790  # The Desert Perpetual, contest
VERSION = "manual"
REASON = "Restricted PGCR"
RESTRICTED_BIT = 46
# Bits of activities: raids have their id, the two Pantheons these.
_PANTHEONS = {101: 33, 102: 34}
_LAST_RAID = 32
_AT_ONCE = 200
_TOLD_EVERY_S = 60.0


@dataclass
class Restricted:
    """`flagged` are the ids that are, or with a dry run would be, flagged now."""

    bitmask: int
    candidates: int = 0
    already: int = 0  # flagged and blacklisted before: not asked again
    whitelisted: int = 0  # by a person: left alone
    asked: int = 0
    flagged: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)  # gave nothing but errors
    stopped: str = ""


def activity_bit(activity_id: int) -> int:
    """Index of the bit that every mask of the activity has (docs/domain/schema.md)."""
    if 1 <= activity_id <= _LAST_RAID:
        return activity_id
    if activity_id not in _PANTHEONS:
        raise PermanentError(f"activity {activity_id} has no bit in the masks of flags")
    return _PANTHEONS[activity_id]


def flag_restricted(
    connection: Connection,
    visitors: Visitors,
    activity_hash: int,
    *,
    dry_run: bool = True,
    tell: Callable[[int], None] = lambda _asked: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng,
) -> Restricted:
    """Asks for every completed instance of the hash and flags those that are withheld now.

    A few hundred are flagged at a time, so that a killed run goes on where it was when it is
    started again. Raises PermanentError for a hash that no definition knows, UnavailableError.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_activity"], {"hash": activity_hash})
        row = cursor.fetchone()
        if row is None:
            raise PermanentError(f"hash {activity_hash} is in no definition")
        bitmask = 1 << RESTRICTED_BIT | 1 << activity_bit(row[0])
        done = Restricted(bitmask)
        cursor.execute(_SQL["count_candidates"], {"hash": activity_hash, "bitmask": bitmask})
        ((done.candidates, done.already, done.whitelisted),) = cursor.fetchall()
    after = 0
    told_at = clock()
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                _SQL["list_candidates"],
                {
                    "hash": activity_hash,
                    "bitmask": bitmask,
                    "after": after,
                    "limit": _AT_ONCE,
                },
            )
            ids = [instance_id for (instance_id,) in cursor]
        if not ids:
            return done
        after = ids[-1]
        withheld: list[int] = []
        try:
            for visited in visitors.each(ids):
                done.asked += len(visited)
                done.failed += [v.instance_id for v in visited if v.is_failure]
                withheld += [
                    v.instance_id for v in visited if v.kind is ResultKind.INSUFFICIENT_PRIVILEGES
                ]
        except MaintenanceError as error:
            done.stopped = f"maintenance: {error}"
        if withheld and not dry_run:
            parameters = {
                "ids": sorted(withheld),
                "version": VERSION,
                "bitmask": bitmask,
                "reason": REASON,
            }

            def write(connection: Connection, parameters: dict[str, object] = parameters) -> None:
                with connection.cursor() as cursor:
                    cursor.execute(_SQL["flag"], parameters)
                    cursor.execute(_SQL["blacklist"], parameters)

            in_transaction(connection, write, sleep=sleep, rng=rng)
        done.flagged += sorted(withheld)
        if done.stopped:
            return done
        if clock() - told_at >= _TOLD_EVERY_S:
            told_at = clock()
            tell(done.asked)
