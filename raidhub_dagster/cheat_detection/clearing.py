"""Takes back what cheat checks said: flags of a wrong rule, or everything about one player.

Levels never fall by themselves and whitelists are a person's, so this is what a person runs. What
exactly goes and what stays: docs/repairs/README.md, "What clearing means". ClickHouse knows nothing
of flags, levels or blacklists; the boards follow at their next refresh.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json, RealDictCursor

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "clearing")

# What people flagged (flag_restricted_pgcrs): no rule's mistake.
MANUAL = "manual"
_HIGHEST_BIT = 62
_VERDICTS_A_BATCH = 1000
_CLEARING = "cleared"  # under this name the evidence has what went

# Kind of row -> the statement that deletes a player's; children before what they point at.
_CLEARED = {
    "player_flags": "clear_player_flags",
    "instance_flags": "clear_solo_flags",
    "blacklisted_players": "clear_blacklisted_player",
    "blacklists": "clear_blacklists",
}
_RESTORED = {
    "player_flags": "restore_player_flags",
    "instance_flags": "restore_instance_flags",
    "blacklists": "restore_blacklists",
    "blacklisted_players": "restore_blacklisted_player",
}

Result = TypeVar("Result")


@dataclass
class ClearedFlags:
    """Rows that went, or would; `players` have a level still, the highest first."""

    kept_version: str
    verdicts: Counter[str] = field(default_factory=Counter)  # by version
    instance_flags: int = 0
    player_flags: int = 0
    checks: int = 0
    blacklists: int = 0
    players: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True)
class ClearedPlayer:
    """What went of one player, or would; rows by kind. `change` is None when nothing was there."""

    membership_id: int
    name: str
    old_level: int
    rows: dict[str, int]
    change: int | None


def clear_flags(
    connection: Connection,
    bits: Sequence[int],
    since: datetime,
    *,
    kept_version: str,
    dry_run: bool,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> ClearedFlags:
    """Deletes flags with one of `bits`, set at `since` (aware) or later, by other rules than now.

    `kept_version` stands for the rules of now. Flags that people set stay. The ledger forgets those
    verdicts, blacklists that only they gave go with them. In batches, each of them a transaction.
    Raises PermanentError for bits that do not exist.
    """
    if not bits or not all(0 <= bit <= _HIGHEST_BIT for bit in bits):
        raise PermanentError(f"bits: {list(bits)} is no list of numbers from 0 to {_HIGHEST_BIT}")
    scope = {"since": since, "bitmap": sum(1 << bit for bit in set(bits))}
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["find_flags"], {**scope, "kept": [kept_version, MANUAL]})
        verdicts = cursor.fetchall()
    done = ClearedFlags(kept_version, Counter(version for _, version in verdicts))
    named: set[int] = set()
    for start in range(0, len(verdicts), _VERDICTS_A_BATCH):
        ids, versions = zip(*verdicts[start : start + _VERDICTS_A_BATCH], strict=True)
        batch = {**scope, "instances": array(ids), "versions": array(versions)}
        deleted = _run(connection, partial(_delete, batch), dry_run, sleep, rng)
        done.instance_flags += deleted.instance_flags
        done.player_flags += len(deleted.players)
        done.checks += deleted.checks
        done.blacklists += deleted.blacklists
        named.update(deleted.players)
    with connection, connection.cursor(cursor_factory=RealDictCursor) as dicts:
        dicts.execute(_SQL["levels_of"], {"players": array(sorted(named))})
        done.players = [dict(row) for row in dicts]
    return done


def clear_player(
    connection: Connection,
    membership_id: int,
    *,
    actor: str,
    reason: str,
    whitelist: bool,
    dry_run: bool,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> ClearedPlayer:
    """Sets the player's level to 0 and deletes flags and automatic blacklists, in one transaction.

    With `whitelist` the player gets no level by a rule again. Everything that went is in the
    evidence of a row of streaming.cheat_level_change, from which `restore_player` brings it back;
    without anything to clear there is no row. Raises PermanentError for a player who is not stored.
    """
    work = partial(_clear, membership_id, actor, reason, whitelist)
    return _run(connection, work, dry_run, sleep, rng)


def restore_player(
    connection: Connection,
    change: int,
    *,
    actor: str,
    dry_run: bool,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> ClearedPlayer:
    """Brings back what the clearing `change` took, and writes down that it did.

    Rows whose raid is gone, or that are there again, are left out. Raises PermanentError for an id
    that is not a clearing, or one after which the level changed again.
    """
    return _run(connection, partial(_restore, change, actor), dry_run, sleep, rng)


@dataclass(frozen=True)
class _Deleted:
    """What went in one batch; `players` one entry a flag."""

    players: list[int]
    instance_flags: int
    checks: int
    blacklists: int


def _run(
    connection: Connection,
    work: Callable[[Connection], Result],
    dry_run: bool,
    sleep: Callable[[float], None],
    rng: Rng,
) -> Result:
    """`work` committed, or for a preview done and rolled back: so it counts what would go."""
    if not dry_run:
        return in_transaction(connection, work, sleep=sleep, rng=rng)
    try:
        return work(connection)
    finally:
        connection.rollback()


def _delete(batch: Mapping[str, object], connection: Connection) -> _Deleted:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["delete_player_flags"], batch)
        players = [who for (who,) in cursor]
        counts = []
        for statement in ("delete_instance_flags", "forget_checks", "lift_unfounded"):
            cursor.execute(_SQL[statement], batch)
            counts.append(cursor.rowcount)
    return _Deleted(players, *counts)


def _clear(
    membership_id: int, actor: str, reason: str, whitelist: bool, connection: Connection
) -> ClearedPlayer:
    who = {"player": membership_id}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_player"], who)
        cursor.execute(_SQL["read_player"], who)
        if (row := cursor.fetchone()) is None:
            raise PermanentError(f"no such player: {membership_id}")
        level, was_whitelisted, name = row
        found = "find_automatic_blacklists" if whitelist else "find_blacklists"
        cursor.execute(_SQL[found], who)
        instances = {"instances": array(sorted(instance for (instance,) in cursor))}
        evidence: dict[str, Any] = {"was_whitelisted": was_whitelisted}
        for kind, statement in _CLEARED.items():
            cursor.execute(_SQL[statement], {**who, **instances})
            evidence[kind] = [deleted for (deleted,) in cursor]
        cursor.execute(_SQL["forget_factors"], who)
        rows = {kind: len(evidence[kind]) for kind in _CLEARED}
        whitelisted = was_whitelisted or whitelist
        if not (level or any(rows.values()) or whitelisted != was_whitelisted):
            return ClearedPlayer(membership_id, name, level, rows, None)
        cursor.execute(_SQL["set_standing"], {**who, "level": 0, "whitelisted": whitelisted})
        cursor.execute(
            _SQL["record_change"],
            {
                **who,
                "old": level,
                "new": 0,
                "reason": reason,
                "actor": actor,
                "evidence": Json({_CLEARING: evidence}),
            },
        )
        ((change,),) = cursor.fetchall()
    return ClearedPlayer(membership_id, name, level, rows, change)


def _restore(change: int, actor: str, connection: Connection) -> ClearedPlayer:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["read_change"], {"change": change})
        row = cursor.fetchone()
        if row is None or _CLEARING not in row[3]:
            raise PermanentError(f"change {change} is no clearing of a player")
        membership_id, old_level, new_level, evidence = row
        evidence = evidence[_CLEARING]
        who = {"player": membership_id}
        cursor.execute(_SQL["lock_player"], who)
        cursor.execute(_SQL["read_player"], who)
        if (player := cursor.fetchone()) is None:
            raise PermanentError(f"no such player: {membership_id}")
        level, _, name = player
        if level != new_level:
            raise PermanentError(
                f"the level of {membership_id} is {level}, not {new_level} any more"
            )
        rows = {}
        for kind, statement in _RESTORED.items():
            cursor.execute(_SQL[statement], {"rows": Json(evidence[kind])})
            rows[kind] = cursor.rowcount
        standing = {**who, "level": old_level, "whitelisted": evidence["was_whitelisted"]}
        cursor.execute(_SQL["set_standing"], standing)
        cursor.execute(
            _SQL["record_change"],
            {
                **who,
                "old": level,
                "new": old_level,
                "reason": f"clearing {change} taken back",
                "actor": actor,
                "evidence": Json({"taken_back": change}),
            },
        )
        ((own,),) = cursor.fetchall()
    return ClearedPlayer(membership_id, name, level, rows, own)
