"""Checks again what was checked before, and tells what that changes before anything is written.

For people and backfills: nobody is told in Discord, the difference is the news. Statements:
`sql/postgres/queries/cheat_check.sql`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection import checking
from raidhub_dagster.cheat_detection.checking import CheckFailedError
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.reasons import labels_in
from raidhub_dagster.cheat_detection.verdict import flagged_players, is_flagged
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging import topology
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "cheat_check")
_TOLD = 200  # changes that a difference keeps, the heaviest first; the counts are of all


class Change(NamedTuple):
    """A flag that comes or goes: of a player, or with `player` None of the run itself."""

    instance_id: int
    player: int | None
    activity: str
    before: float  # probability that is stored; 0 without a flag
    after: float
    mask: int  # of the flag that comes, or goes
    explanation: str

    @property
    def is_new(self) -> bool:
        return self.before == 0


class LevelChange(NamedTuple):
    """A cheat level that rose or fell; ids ascend."""

    change_id: int
    membership_id: int
    before: int
    level: int


@dataclass
class Difference:
    """What checking again changes, or would.

    `newly` and `no_longer` count flags of runs and players by raid and reason; a flag with two
    reasons counts twice there, once in `changes`.
    """

    version: str
    checked: int = 0
    missing: list[int] = field(default_factory=list)  # that are not stored
    skipped: Counter[str] = field(default_factory=Counter)  # by reason
    failed: list[str] = field(default_factory=list)
    flagged: int = 0  # runs that are flagged now
    new_flags: int = 0
    gone_flags: int = 0
    newly: Counter[tuple[str, str]] = field(default_factory=Counter)
    no_longer: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: list[Change] = field(default_factory=list)  # at most _TOLD

    def add(self, change: Change, reasons: Iterable[str]) -> None:
        counted = self.newly if change.is_new else self.no_longer
        counted.update((change.activity, reason) for reason in reasons)
        if change.is_new:
            self.new_flags += 1
        else:
            self.gone_flags += 1
        self.changes.append(change)

    def trim(self) -> None:
        """Forgets the lighter changes, so that a year takes no more memory than a day."""
        self.changes.sort(key=lambda c: (-max(c.before, c.after), c.instance_id, c.player or 0))
        del self.changes[_TOLD:]

    def refuse_failures(self) -> None:
        """Raises CheckFailedError when there are runs that the rules could not judge."""
        if self.failed:
            told = "; ".join(self.failed[:5])
            raise CheckFailedError(f"{len(self.failed)} without a verdict: {told}")

    def facts(self) -> dict[str, str | int]:
        """The counts, by what a report calls them."""
        skipped = ", ".join(f"{why}: {number}" for why, number in sorted(self.skipped.items()))
        return {
            "version": self.version,
            "checked": self.checked,
            "flagged": self.flagged,
            "newly_flagged": self.new_flags,
            "no_longer_flagged": self.gone_flags,
            "skipped": skipped or "none",
            "without_verdict": len(self.failed),
            "not_stored": len(self.missing),
        }

    def by_raid_and_reason(self) -> list[dict[str, object]]:
        """Rows of a table, by raid, then reason."""
        return [
            {
                "raid": raid,
                "reason": reason,
                "newly_flagged": self.newly[raid, reason],
                "no_longer_flagged": self.no_longer[raid, reason],
            }
            for raid, reason in sorted(self.newly.keys() | self.no_longer.keys())
        ]

    def examples(self, number: int = 50) -> list[dict[str, object]]:
        """The heaviest changes, as rows of a table."""
        return [
            {
                "instance": change.instance_id,
                "player": change.player or "",
                "raid": change.activity,
                "change": "newly flagged" if change.is_new else "no longer flagged",
                "before": round(change.before, 3),
                "after": round(change.after, 3),
                "explanation": change.explanation[:300],
            }
            for change in self.changes[:number]
        ]


def recheck(
    connection: Connection,
    parameters: Parameters,
    ids: Iterable[int],
    *,
    dry_run: bool,
    into: Difference | None = None,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> Difference:
    """Checks all of `ids` again, those that this version has seen too; the difference to before.

    It is added to `into`, for work that comes in parts. In batches, each a transaction, so that a
    run that ends early may simply be repeated. A preview writes nothing and takes no lock.
    """
    done = Difference(parameters.version) if into is None else into
    for batch in _batches(sorted(set(ids))):
        if dry_run:
            try:
                found = _compare(connection, parameters, batch)
            finally:
                connection.rollback()
        else:
            found = in_transaction(
                connection, partial(_check, parameters, batch), sleep=sleep, rng=rng
            )
        _count(done, parameters, *found)
        done.missing.extend(_not_stored(batch, found[1]))
    return done


def instances_of_day(connection: Connection, day: date) -> list[int]:
    """Ids of what was completed on `day`, in UTC."""
    window = {"since": day, "before": day + timedelta(days=1)}
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["find_of_day"], window)
        return [instance_id for (instance_id,) in cursor]


def instances_of_players(
    connection: Connection, players: Sequence[int], since: datetime | None
) -> list[int]:
    """Ids of what any of `players` took part in, completed at `since` (aware) or later.

    Raises PermanentError for players who are not stored.
    """
    with connection, connection.cursor() as cursor:
        wanted = {"players": array(players), "since": since}
        cursor.execute(_SQL["find_missing_players"], wanted)
        if missing := [str(who) for (who,) in cursor]:
            raise PermanentError(f"no such player: {', '.join(missing)}")
        cursor.execute(_SQL["find_of_players"], wanted)
        return [instance_id for (instance_id,) in cursor]


def queue_recent(
    connection: Connection,
    parameters: Parameters,
    players: Sequence[int],
    *,
    now: datetime,
    dry_run: bool,
) -> int:
    """Asks instance_cheat_check for recent runs of those whose level asks for it; how many.

    Whoever is below the level, whitelisted or long unseen is left out, and so is what this version
    has checked. A preview is taken back.
    """
    rule = parameters.blacklist.recheck
    wanted = {
        "players": array(sorted(set(players))),
        "queue": topology.INSTANCE_CHEAT_CHECK,
        "version": parameters.version,
        "min_level": rule.min_level,
        "seen_days": rule.seen_within_days,
        "completed_days": rule.completed_within_days,
        "now": now,
    }
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["queue_recent"], wanted)
        queued = cursor.rowcount
        if dry_run:
            connection.rollback()
    return queued


def level_changes(
    connection: Connection, after: int, *, now: datetime, limit: int
) -> list[LevelChange]:
    """Changes of levels behind the one with id `after`, at most `limit`, the oldest first.

    All of them when `after` is above every id.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["find_level_changes"], {"after": after, "now": now, "limit": limit})
        return [LevelChange(*row) for row in cursor]


def digest_of_inputs(connection: Connection) -> str:
    """Changes with the definitions that verdicts depend on."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["digest_rules_inputs"])
        ((digest,),) = cursor.fetchall()
    return str(digest)


def check_ledger(connection: Connection, parameters: Parameters) -> list[Problem]:
    """Claims that hold whatever was checked again: each verdict of the last week has its flag."""
    with connection, connection.cursor() as cursor:
        return list(
            find_broken(
                cursor,
                _SQL["verdicts_without_flags"],
                "ledger and flags say different things",
                {
                    "version": parameters.version,
                    "threshold": parameters.thresholds.instance_store,
                },
            )
        )


_Standing = dict[tuple[int, int | None], tuple[float, int]]
"""Probability and mask by instance and player (None: the run itself)."""


def _check(
    parameters: Parameters, ids: Sequence[int], connection: Connection
) -> tuple[_Standing, checking.Judgement]:
    with connection.cursor() as cursor:
        checking.lock(cursor, ids)
        found = _compare(connection, parameters, ids)
        checking.record(cursor, parameters, found[1].verdicts)
    return found


def _compare(
    connection: Connection, parameters: Parameters, ids: Sequence[int]
) -> tuple[_Standing, checking.Judgement]:
    with connection.cursor() as cursor:
        before = _read_standing(cursor, ids)
    return before, checking.judge(connection, parameters, ids)


def _read_standing(cursor: Cursor, ids: Sequence[int]) -> _Standing:
    cursor.execute(_SQL["read_standing"], {"instances": array(ids)})
    return {(instance, who): (chance or 1.0, mask) for instance, who, chance, mask in cursor}


def _count(
    done: Difference,
    parameters: Parameters,
    before: _Standing,
    judgement: checking.Judgement,
) -> None:
    done.failed.extend(str(error) for error in judgement.failed.values())
    for facts, verdict in judgement.verdicts:
        instance_id = facts.instance_id
        done.checked += 1
        if verdict.skipped is not None:
            done.skipped[verdict.skipped] += 1
        after: dict[int | None, tuple[float, int, str]] = {
            p.membership_id: (p.probability, p.bitmask, p.explanation)
            for p in flagged_players(parameters, verdict)
        }
        if is_flagged(parameters, verdict):
            done.flagged += 1
            after[None] = (verdict.probability, verdict.bitmask, verdict.explanation)
        stored = {who: flag for (i, who), flag in before.items() if i == instance_id}
        for who in after.keys() ^ stored.keys():
            probability, mask, text = after.get(who, (0.0, 0, ""))
            chance, old_mask = stored.get(who, (0.0, 0))
            change = Change(
                *(instance_id, who, facts.activity_name, chance, probability),
                *(mask or old_mask, text),
            )
            done.add(change, _reasons(parameters, change.mask))
    done.trim()


def _not_stored(ids: Sequence[int], judgement: checking.Judgement) -> list[int]:
    stored = {facts.instance_id for facts, _ in judgement.verdicts} | judgement.failed.keys()
    return [instance_id for instance_id in ids if instance_id not in stored]


def _reasons(parameters: Parameters, mask: int) -> list[str]:
    """Labels of the reasons proper: the raid has a column of its own."""
    raids = {activity.name for activity in parameters.activities.values()}
    return [label for label in labels_in(parameters, mask) if label not in raids] or ["none"]


def _batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), checking.BATCH):
        yield ids[start : start + checking.BATCH]
