"""Rows of players: who they are by all sightings so far, and what is added to their counters.

Identity and counters are one row of `core.player`, so they are written together. The rules of
identity are in `identity.py`; every caller holds the locks of the players it passes.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.derive import Change, Pair
from raidhub_dagster.storage.identity import Identity, Seen, merge, sighting
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "store")
_INT4_MAX = 2_147_483_647
_NOBODY = Identity()


class StoredPlayer(NamedTuple):
    identity: Identity
    last_crawled: datetime | None


class Shown(NamedTuple):
    """A version of a report as a sighting of its players.

    A report may have shown the same moment before, under other names: the version that counts
    prevails, which a version that came late does not (`is_newest` false).
    """

    instance: Instance
    is_newest: bool = True


def read_players(cursor: Cursor, members: Iterable[int]) -> dict[int, StoredPlayer]:
    """Those of `members` (membership ids) who have a row."""
    cursor.execute(_SQL["read_players"], {"players": array(sorted(members))})
    return {row[0]: _stored_player(row) for row in cursor}


def _stored_player(row: tuple[object, ...]) -> StoredPlayer:
    _, kind, kind_at, kind_by, icon, icon_at, icon_by, name, name_at, name_by, *rest = row
    global_name, code, global_at, global_by, last_crawled = rest
    pair = None if global_name is None or code is None else (global_name, code)
    identity = Identity(
        kind,  # type: ignore[arg-type]  # columns of read_players, in their order
        _seen(kind_at, kind_by),
        icon,  # type: ignore[arg-type]
        _seen(icon_at, icon_by),
        name,  # type: ignore[arg-type]
        _seen(name_at, name_by),
        pair,  # type: ignore[arg-type]
        _seen(global_at, global_by),
    )
    return StoredPlayer(identity, last_crawled)  # type: ignore[arg-type]


def _seen(at: object, instance_id: object) -> Seen | None:
    if isinstance(at, datetime) and isinstance(instance_id, int):
        return Seen(at, instance_id)
    return None


def write_players(
    cursor: Cursor,
    sightings: Iterable[Shown],
    stored: Mapping[int, StoredPlayer],
    changes: Mapping[Pair, Change],
) -> dict[int, Identity]:
    """Upserts everyone who is shown; their identities as they are now.

    `changes` are added to the counters, also of players who are stored but not shown.
    """
    identities: dict[int, Identity] = {}
    first_seen: dict[int, datetime] = {}
    last_seen: dict[int, datetime] = {}
    for instance, is_newest in sightings:
        for player in instance.players:
            who = player.membership_id
            known = identities.get(who) or (stored[who].identity if who in stored else _NOBODY)
            seen = sighting(player, instance.instance_id)
            identities[who] = merge(seen, known) if is_newest else merge(known, seen)
            first_seen[who] = min(player.first_seen, first_seen.get(who, player.first_seen))
            last_seen[who] = max(player.last_seen, last_seen.get(who, player.last_seen))
    totals: dict[int, Change] = {}
    for pair, change in changes.items():
        total = totals.setdefault(pair.membership_id, Change())
        total.clears += change.clears
        total.fresh_clears += change.fresh_clears
        total.sherpas += change.sherpas
        total.total_time_played_seconds += change.total_time_played_seconds

    everyone = sorted(identities)
    listed = [identities[who] for who in everyone]
    added = [totals.get(who) or Change() for who in everyone]
    cursor.execute(
        _SQL["upsert_players"],
        {
            "players": array(everyone),
            "membership_types": array(i.membership_type for i in listed),
            "icon_paths": array(i.icon_path for i in listed),
            "display_names": array(i.display_name for i in listed),
            "global_names": array(i.global_name and i.global_name[0] for i in listed),
            "global_codes": array(i.global_name and i.global_name[1] for i in listed),
            "last_seen": array(last_seen[who] for who in everyone),
            "first_seen": array(first_seen[who] for who in everyone),
            "clears": array(t.clears for t in added),
            "fresh_clears": array(t.fresh_clears for t in added),
            "sherpas": array(t.sherpas for t in added),
            "times": array(min(t.total_time_played_seconds, _INT4_MAX) for t in added),
        },
    )
    write_identities(cursor, identities)
    others = {who: total.sherpas for who, total in totals.items() if who not in identities}
    if others:
        cursor.execute(
            _SQL["add_sherpas"],
            {"players": array(others), "sherpas": array(others.values())},
        )
    return identities


def write_identities(cursor: Cursor, identities: Mapping[int, Identity]) -> None:
    """Which sighting each value of these players (by membership id) came from; ascending ids."""
    everyone = sorted(identities)
    listed = [identities[who] for who in everyone]
    cursor.execute(
        _SQL["upsert_identities"],
        {
            "players": array(everyone),
            "type_seen": array(
                i.membership_type_seen and i.membership_type_seen.at for i in listed
            ),
            "type_instances": _instances(i.membership_type_seen for i in listed),
            "icon_seen": array(i.icon_path_seen and i.icon_path_seen.at for i in listed),
            "icon_instances": _instances(i.icon_path_seen for i in listed),
            "name_seen": array(i.display_name_seen and i.display_name_seen.at for i in listed),
            "name_instances": _instances(i.display_name_seen for i in listed),
            "global_seen": array(i.global_name_seen and i.global_name_seen.at for i in listed),
            "global_instances": _instances(i.global_name_seen for i in listed),
        },
    )


def _instances(seen: Iterable[Seen | None]) -> str:
    return array(None if s is None else s.instance_id for s in seen)
