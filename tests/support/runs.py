"""Runs as the cheat rules see them, ordinary unless told otherwise."""

from datetime import UTC, datetime, timedelta
from typing import Any

from raidhub_dagster.cheat_detection.facts import InstanceFacts, PlayerFacts, WeaponUse

# Outside of every window that is skipped, inside of none that makes a lowman likely.
DONE = datetime(2024, 3, 1, 12, tzinfo=UTC)


def make_weapons(*kills: int, heavy: int = 0) -> tuple[WeaponUse, ...]:
    """A row for each number; the first `heavy` of them with heavy ammo."""
    return tuple(WeaponUse(kills=count, is_heavy=n < heavy) for n, count in enumerate(kills))


def make_player(membership_id: int = 1, **changes: Any) -> PlayerFacts:
    """Half an hour with 170 kills, spread over weapons and abilities."""
    usual: dict[str, Any] = {
        "membership_id": membership_id,
        "completed": True,
        "is_first_clear": False,
        "time_played_seconds": 1800,
        "kills": 170,
        "super_kills": 10,
        "grenade_kills": 20,
        "melee_kills": 15,
        "weapons": make_weapons(40, 30, 25, 15, 10, 5, heavy=1),
    }
    return PlayerFacts(**(usual | changes))


def make_run(**changes: Any) -> InstanceFacts:
    """Six players' fresh clear of the Vault of Glass in half an hour, nothing odd about it.

    `players` may be given, else there are `player_count`; the run ends at `date_completed`, and its
    start follows from the duration.
    """
    team = changes.get("player_count", 6)
    duration = changes.get("duration", 1800)
    done = changes.get("date_completed", DONE)
    usual: dict[str, Any] = {
        "instance_id": 15000000000,
        "activity_id": 9,
        "activity_name": "Vault of Glass",
        "is_raid": True,
        "version_id": 1,
        "release_date": datetime(2021, 5, 22, 17, tzinfo=UTC),
        "date_started": done - timedelta(seconds=min(duration, 10**9)),
        "date_completed": done,
        "duration": duration,
        "player_count": team,
        "completed": True,
        "fresh": True,
        "flawless": False,
        "skull_hashes": (),
        "is_saturated": False,
        "is_settled": True,
        "players": tuple(
            make_player(n + 1, time_played_seconds=max(0, min(duration, 32767)))
            for n in range(team)
        ),
    }
    return InstanceFacts(**(usual | changes))
