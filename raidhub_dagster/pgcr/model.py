"""A raid report after parsing: what every other part of the platform sees of a PGCR.

Plain frozen values without behaviour. Rules that fill them are in `parse.py`; their source is
docs/domain/pgcr.md.
"""

from datetime import datetime

import msgspec


class Weapon(msgspec.Struct, frozen=True, gc=False):
    weapon_hash: int
    kills: int
    precision_kills: int


class Character(msgspec.Struct, frozen=True):
    """One character of one player; `class_hash` and `emblem_hash` are None when unresolved."""

    character_id: int  # 0 when the report has none
    class_hash: int | None
    emblem_hash: int | None
    completed: bool  # as reported, without the completion reason
    score: int
    kills: int
    assists: int
    deaths: int
    precision_kills: int
    super_kills: int
    grenade_kills: int
    melee_kills: int
    time_played_seconds: int
    start_seconds: int
    weapons: tuple[Weapon, ...]  # ascending weapon_hash, one row a hash


class Player(msgspec.Struct, frozen=True):
    """One platform account in one report; identity as at the time of the fetch."""

    membership_id: int
    membership_type: int | None  # None when unresolved
    icon_path: str | None
    display_name: str | None
    bungie_global_display_name: str | None  # with its code a pair: both or neither
    bungie_global_display_name_code: str | None
    completed: bool  # some character completed and its completion reason is 0
    time_played_seconds: int  # union over characters, within [0, duration]
    first_seen: datetime  # aware, UTC, whole seconds
    last_seen: datetime
    characters: tuple[Character, ...]  # ascending character_id


class Instance(msgspec.Struct, frozen=True):
    """One run of a tracked activity. Times are aware, UTC, whole seconds; `duration` in seconds."""

    instance_id: int
    hash: int
    platform_type: int  # -1..6
    date_started: datetime
    date_completed: datetime
    duration: int
    score: int
    player_count: int
    completed: bool
    deathless: bool
    fresh: bool | None  # None: unknowable for this era
    flawless: bool | None
    skull_hashes: tuple[int, ...]  # order of first appearance, no 0
    players: tuple[Player, ...]  # ascending membership_id


class Rejection(msgspec.Struct, frozen=True):
    """Why a report is no Instance: `reason` is a code of docs/domain/pgcr.md, `field` its place."""

    reason: str
    field: str  # a path such as "entries[3].player.destinyUserInfo.membershipId"
    detail: str = ""
