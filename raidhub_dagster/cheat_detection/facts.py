"""What the rules look at: one stored run and what is known of its kind. Plain frozen values.

The store's own shapes are not used: rules need sums over characters and definitions beside them,
and must not notice when a table changes.
"""

from datetime import datetime

import msgspec


class WeaponUse(msgspec.Struct, frozen=True, gc=False):
    """One stored row: the same weapon on two characters is two of them."""

    kills: int
    is_heavy: bool  # False as well for a weapon that no manifest knows


class PlayerFacts(msgspec.Struct, frozen=True):
    """A player of the run; kills are sums over characters."""

    membership_id: int
    completed: bool
    is_first_clear: bool
    time_played_seconds: int
    kills: int
    super_kills: int
    grenade_kills: int
    melee_kills: int
    weapons: tuple[WeaponUse, ...]


class Norms(msgspec.Struct, frozen=True, gc=False):
    """What runs of the same activity, version and freshness usually look like; None: too few."""

    low_kills: int | None = None  # a low quantile of the team's kills
    quick_seconds: float | None = None  # a low quantile of the duration of fresh clears


class InstanceFacts(msgspec.Struct, frozen=True):
    """A stored run. Times are aware, UTC; `duration` in seconds."""

    instance_id: int
    activity_id: int
    activity_name: str  # as people call it, for the explanations
    is_raid: bool
    version_id: int
    release_date: datetime | None  # of the activity
    date_started: datetime
    date_completed: datetime
    duration: int
    player_count: int
    completed: bool
    fresh: bool | None
    flawless: bool | None
    skull_hashes: tuple[int, ...]
    is_saturated: bool  # some character's time or start is at the counter's end
    is_settled: bool  # False: the report may still grow
    players: tuple[PlayerFacts, ...]  # ascending membership_id
    norms: Norms = Norms()
