"""Takes back what cheat checks said: flags of a wrong rule, everything about one player, or levels.

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
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extras import Json, RealDictCursor

from raidhub_dagster.cheat_detection.flag_stats import TOP_LEVEL
from raidhub_dagster.cheat_detection.levels import ACTOR
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
# What the highest level alone excluded.
_LIFTED = {
    "blacklisted_players": "clear_cascaded_player",
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
class Reverted:
    """A recorded change, and what became of it: `problem` says why it stays, else it is undone.

    `rows` are blacklists and names that went with a level, or came back with a clearing.
    """

    change: int
    membership_id: int
    name: str
    old_level: int  # before taking it back, here and below
    new_level: int
    rows: dict[str, int]
    own_change: int | None
    problem: str = ""


def revert_changes(
    connection: Connection,
    *,
    changes: Sequence[int] = (),
    run: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
    lift_blacklists: bool = True,
    actor: str,
    reason: str,
    dry_run: bool,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> list[Reverted]:
    """Undoes changes of levels: those of these ids, or those by the rules in a run or a time.

    Times are aware, `until` is exclusive. The newest change of a player first, all of a player in
    one transaction; what was undone before is left out. A change after which the level changed
    again stays, with the reason. A clearing comes back as by `restore_player`. With
    `lift_blacklists`, raids that were excluded only because of this player's highest level are so
    no more. Raises PermanentError when nothing says which changes.
    """
    if not changes and not run and since is None and until is None:
        raise PermanentError("which changes: give changes, run, since or until")
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["find_changes"],
            {
                "changes": array(changes),
                "rules": ACTOR,
                "run": run or None,
                "since": since,
                "until": until,
                "by_time": since is not None or until is not None,
            },
        )
        by_player: dict[int, list[int]] = {}
        for change, membership_id in cursor:
            by_player.setdefault(membership_id, []).append(change)
    done: list[Reverted] = []
    for membership_id, ids in by_player.items():
        work = partial(_revert, membership_id, ids, lift_blacklists, actor, reason)
        done += _run(connection, work, dry_run, sleep, rng)
    return done


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


def _revert(
    membership_id: int,
    changes: Sequence[int],
    lift_blacklists: bool,
    actor: str,
    reason: str,
    connection: Connection,
) -> list[Reverted]:
    """Undoes `changes`, the newest first, as far as each is still what the level rests on."""
    who = {"player": membership_id}
    done = []
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_player"], who)
        for change in changes:
            cursor.execute(_SQL["read_player"], who)
            if (player := cursor.fetchone()) is None:
                done.append(Reverted(change, membership_id, "", 0, 0, {}, None, "no such player"))
                continue
            level, is_whitelisted, name = player
            cursor.execute(_SQL["read_change"], {"change": change})
            ((_, old_level, new_level, evidence),) = cursor.fetchall()
            if level != new_level:
                problem = f"the level is {level}, not {new_level} any more"
                done.append(Reverted(change, membership_id, name, level, level, {}, None, problem))
                continue
            if _CLEARING in evidence:
                restored = _restore(change, actor, connection)
                rows, own = restored.rows, restored.change
            else:
                gone = (
                    _lift(cursor, membership_id, is_whitelisted)
                    if lift_blacklists and old_level < TOP_LEVEL <= new_level
                    else None
                )
                rows = {kind: len(gone[kind]) for kind in _LIFTED} if gone else {}
                standing = {**who, "level": old_level, "whitelisted": is_whitelisted}
                cursor.execute(_SQL["set_standing"], standing)
                taken: dict[str, Any] = {"taken_back": change}
                cursor.execute(
                    _SQL["record_change"],
                    {
                        **who,
                        "old": level,
                        "new": old_level,
                        "reason": reason or f"change {change} taken back",
                        "actor": actor,
                        "evidence": Json(taken | ({_CLEARING: gone} if gone else {})),
                    },
                )
                ((own,),) = cursor.fetchall()
            done.append(Reverted(change, membership_id, name, level, old_level, rows, own))
    return done


def _lift(cursor: Cursor, membership_id: int, is_whitelisted: bool) -> dict[str, Any]:
    """What the cascade excluded because of this player alone, in the shape of a clearing."""
    who = {"player": membership_id}
    cursor.execute(_SQL["find_cascaded"], who)
    instances = {"instances": array(sorted(instance for (instance,) in cursor))}
    gone: dict[str, Any] = {kind: [] for kind in _CLEARED} | {"was_whitelisted": is_whitelisted}
    for kind, statement in _LIFTED.items():
        cursor.execute(_SQL[statement], {**who, **instances})
        gone[kind] = [deleted for (deleted,) in cursor]
    return gone
