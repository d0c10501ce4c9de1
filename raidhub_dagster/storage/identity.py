"""Who a player is, from sightings in any order: each value comes from the newest that has it.

A sighting is a moment at which a report or a profile crawl showed a name. Rules and reasons:
docs/domain/storage.md, "Identity". Pure; the store reads and writes.
"""

from datetime import datetime
from typing import NamedTuple, TypeVar

from raidhub_dagster.pgcr.model import Player

T = TypeVar("T")


class Seen(NamedTuple):
    """When and where a value was seen; greater wins. A profile crawl has instance_id 0."""

    at: datetime
    instance_id: int


class Identity(NamedTuple):
    """A player's identity with the sighting of each value; both None when never seen."""

    membership_type: int | None = None
    membership_type_seen: Seen | None = None
    icon_path: str | None = None
    icon_path_seen: Seen | None = None
    display_name: str | None = None
    display_name_seen: Seen | None = None
    global_name: tuple[str, str] | None = None  # name and code, always a pair
    global_name_seen: Seen | None = None


def sighting(player: Player, instance_id: int) -> Identity:
    """What one report says; names of an account of unknown type do not count."""
    seen = Seen(player.last_seen, instance_id)
    typed = player.membership_type is not None
    icon = player.icon_path if typed else None
    name = player.display_name if typed else None
    pair = None
    if player.bungie_global_display_name and player.bungie_global_display_name_code:
        pair = (player.bungie_global_display_name, player.bungie_global_display_name_code)
    return Identity(
        player.membership_type,
        seen if typed else None,
        icon,
        None if icon is None else seen,
        name,
        None if name is None else seen,
        pair,
        None if pair is None else seen,
    )


def merge(one: Identity, other: Identity) -> Identity:
    """The newest of each value; commutative and associative, so order does not matter.

    A value without a sighting (written by someone outside) yields to any that has one.
    """
    return Identity(
        *_newer(
            (one.membership_type, one.membership_type_seen),
            (other.membership_type, other.membership_type_seen),
        ),
        *_newer((one.icon_path, one.icon_path_seen), (other.icon_path, other.icon_path_seen)),
        *_newer(
            (one.display_name, one.display_name_seen), (other.display_name, other.display_name_seen)
        ),
        *_newer(
            (one.global_name, one.global_name_seen), (other.global_name, other.global_name_seen)
        ),
    )


def _newer(one: tuple[T, Seen | None], other: tuple[T, Seen | None]) -> tuple[T, Seen | None]:
    if other[1] is None:
        return one if one[1] is not None or one[0] is not None else other
    if one[1] is None or other[1] > one[1]:
        return other
    return one
