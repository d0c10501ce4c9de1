"""Gives a stored instance the rows of another version of its report, and derives all anew.

Storing a new instance adds to what is there (`derive.py`); a replaced one may take back first
clears, records and whole players, so the affected players are recounted from all their rows.
Everything happens in the caller's transaction, under its locks. Rules: docs/domain/storage.md,
"Changed reports"; statements in `sql/postgres/queries/replace.sql`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.pgcr.model import Character, Instance, Player
from raidhub_dagster.storage import rows
from raidhub_dagster.storage.copy import array, copy_rows
from raidhub_dagster.storage.derive import Pair, Standing
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "replace")
_STORE = load("postgres", "store")


def read_members(cursor: Cursor, instance_ids: Iterable[int]) -> dict[int, set[int]]:
    """Membership ids in the stored rows of each instance; those without rows are left out."""
    cursor.execute(_SQL["read_members"], {"instances": array(sorted(instance_ids))})
    members: dict[int, set[int]] = {}
    for instance_id, membership_id in cursor:
        members.setdefault(instance_id, set()).add(membership_id)
    return members


def write_rows(cursor: Cursor, instance: Instance) -> list[int]:
    """Puts the rows of `instance` in the place of those that stand there.

    The row in `core.instance` and those of all its players in `core.player` are there already.
    Standings are left to `restate`. Returns players who are in the report no more and stay all the
    same, because a flag or a blacklist names them.
    """
    instance_id = instance.instance_id
    instance = _with_known_looks(cursor, instance)
    players = [p.membership_id for p in instance.players]
    cursor.execute(_SQL["find_retained"], {"instance_id": instance_id, "players": array(players)})
    retained = [membership_id for (membership_id,) in cursor]
    kept = {"instance_id": instance_id, "retained": array(retained)}
    cursor.execute(_SQL["forget_checks"], {"instance_id": instance_id})
    cursor.execute(_SQL["delete_weapons"], kept)
    cursor.execute(_SQL["delete_characters"], kept)
    cursor.execute(
        _SQL["delete_players"],
        {"instance_id": instance_id, "stay": array(sorted({*players, *retained}))},
    )
    cursor.execute(
        _SQL["update_instance"],
        {
            "instance_id": instance_id,
            "hash": instance.hash,
            "date_started": instance.date_started,
            "score": instance.score,
            "flawless": instance.flawless,
            "completed": instance.completed,
            "fresh": instance.fresh,
            "player_count": instance.player_count,
            "date_completed": instance.date_completed,
            "duration": instance.duration,
            "platform_type": instance.platform_type,
            "skull_hashes": array(instance.skull_hashes),
        },
    )
    cursor.execute(
        _SQL["upsert_instance_players"],
        {
            "instance_id": instance_id,
            "players": array(players),
            "completed": array(p.completed for p in instance.players),
            "times": array(p.time_played_seconds for p in instance.players),
        },
    )
    copy_rows(cursor, _STORE["copy_characters"], rows.character_rows(instance))
    if weapons := list(rows.weapon_rows(instance)):
        copy_rows(cursor, _STORE["copy_weapons"], weapons)
    return retained


def restate(
    cursor: Cursor,
    instances: Mapping[int, int],
    members: Iterable[Pair],
    check_locked: Callable[[set[int]], None],
) -> dict[int, dict[int, Standing]]:
    """Derives again, from all rows, whatever other rows of `instances` may change.

    `instances` (id -> activity) are those whose rows are others now, `members` the players of the
    old rows and of the new ones. `check_locked` is told of others whose sherpas may change, before
    they do. Returns the standings of everyone who completed one of `instances`, or another one that
    lost or gained a first clear.
    """
    pairs = set(members)
    activity_of = dict(instances)
    cursor.execute(_SQL["move_first_clears"], _listed(pairs))
    activity_of.update(cursor.fetchall())
    changed = array(sorted(activity_of))

    check_locked({membership_id for _, membership_id, *_ in _completers(cursor, changed)})
    cursor.execute(_SQL["restate_sherpas"], {"instances": changed})
    pairs |= {Pair(membership_id, activity_of[i]) for i, membership_id in cursor.fetchall()}
    restate_counters(cursor, pairs, {pair.membership_id for pair in pairs})
    standings: dict[int, dict[int, Standing]] = {instance_id: {} for instance_id in activity_of}
    for instance_id, membership_id, is_first_clear, sherpas in _completers(cursor, changed):
        standings[instance_id][membership_id] = Standing(is_first_clear, sherpas)
    return standings


def restate_counters(cursor: Cursor, pairs: Collection[Pair], players: Iterable[int]) -> None:
    """Counters and fastest runs of `pairs` from their runs, then totals of `players` from those."""
    listed = array(sorted(players))
    cursor.execute(_SQL["lock_players"], {"players": listed})
    cursor.execute(_SQL["drop_stats"], _listed(pairs))
    cursor.execute(_SQL["restate_stats"], _listed(pairs))
    cursor.execute(_SQL["restate_players"], {"players": listed})


def update_looks(cursor: Cursor, instance: Instance) -> bool:
    """Classes and emblems of a later fetch on the stored characters; whether any was another."""
    characters = [(p.membership_id, c) for p in instance.players for c in p.characters]
    cursor.execute(
        _STORE["update_looks"],
        {
            "instance_id": instance.instance_id,
            "players": array(membership_id for membership_id, _ in characters),
            "characters": array(c.character_id for _, c in characters),
            "classes": array(c.class_hash for _, c in characters),
            "emblems": array(c.emblem_hash for _, c in characters),
        },
    )
    return cursor.rowcount > 0


def _with_known_looks(cursor: Cursor, instance: Instance) -> Instance:
    """`instance` with the class and emblem of each character that the stored row knows better."""
    cursor.execute(_SQL["read_looks"], {"instance_id": instance.instance_id})
    known = {(who, character_id): looks for who, character_id, *looks in cursor}

    def look(player: Player, character: Character) -> Character:
        class_hash, emblem_hash = known.get(
            (player.membership_id, character.character_id), (None, None)
        )
        return msgspec.structs.replace(
            character,
            class_hash=character.class_hash or class_hash,
            emblem_hash=character.emblem_hash or emblem_hash,
        )

    players = tuple(
        msgspec.structs.replace(
            player, characters=tuple(look(player, c) for c in player.characters)
        )
        for player in instance.players
    )
    return msgspec.structs.replace(instance, players=players)


def _completers(cursor: Cursor, instances: str) -> list[tuple[int, int, bool, int]]:
    cursor.execute(_STORE["read_completers"], {"instances": instances})
    return cursor.fetchall()


def _listed(pairs: Iterable[Pair]) -> dict[str, str]:
    ordered = sorted(pairs)
    return {
        "players": array(pair.membership_id for pair in ordered),
        "activities": array(pair.activity_id for pair in ordered),
    }
