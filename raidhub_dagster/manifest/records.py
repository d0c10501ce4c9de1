"""What the records of a manifest say, without any I/O: weapons, classes, feats, unknown raids.

One unusable record is told in `bad` and holds up nobody; a value that no mapping knows becomes
"Unknown" and is told in `unknown`. Rules: docs/domain/definitions.md, "The manifest".
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgspec

from raidhub_dagster.manifest.database import (
    ACTIVITIES,
    CLASSES,
    ITEMS,
    SKULLS,
    TIERS,
    Database,
    Record,
)

UNKNOWN = "Unknown"
WEAPON = 3  # itemType
RAID = 2043403989  # activityTypeHash

ELEMENTS = {1: "Kinetic", 2: "Arc", 3: "Solar", 4: "Void", 6: "Stasis", 7: "Strand"}
AMMO_TYPES = {1: "Primary", 2: "Special", 3: "Heavy"}
SLOTS = {1498876634: "Kinetic", 2465295065: "Energy", 953998645: "Power"}
WEAPON_TYPES = {
    6: "Auto Rifle",
    7: "Shotgun",
    8: "Machine Gun",
    9: "Hand Cannon",
    10: "Rocket Launcher",
    11: "Fusion Rifle",
    12: "Sniper Rifle",
    13: "Pulse Rifle",
    14: "Scout Rifle",
    17: "Sidearm",
    18: "Sword",
    22: "Linear Fusion Rifle",
    23: "Grenade Launcher",
    24: "Submachine Gun",
    25: "Trace Rifle",
    31: "Bow",
    33: "Glaive",
}
RARITIES = {name: name for name in ("Common", "Uncommon", "Rare", "Legendary", "Exotic")}
MAPPINGS = (ELEMENTS, AMMO_TYPES, SLOTS, WEAPON_TYPES, RARITIES)

_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_MOST_HASH = 2**32 - 1
_MOST_INTEGER = 2**31 - 1

Value = str | int
Row = tuple[Value, ...]  # the columns after the hash
_Kind = TypeVar("_Kind", bound=msgspec.Struct)


class Bad(NamedTuple):
    """A record that was left out."""

    table: str
    hash: int  # of its key
    problem: str


@dataclass
class Found:
    """What a manifest says about one table of ours."""

    rows: dict[int, Row] = field(default_factory=dict)  # by hash
    # Of redacted records: better than nothing, and no reason to forget what was known.
    redacted: set[int] = field(default_factory=set)
    bad: list[Bad] = field(default_factory=list)
    # (field of the record, its value) -> hashes of the records
    unknown: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def add(self, table: str, hash_: int, row: Row) -> None:
        """A hash that comes twice keeps its first row."""
        if self.rows.setdefault(hash_, row) != row:
            self.bad.append(Bad(table, hash_, "another record has the same hash"))


class Raid(NamedTuple):
    """An activity that the game calls a raid."""

    hash: int
    name: str


class Activities(NamedTuple):
    raids: list[Raid]
    hashes: set[int]  # of all activities
    bad: list[Bad]


class _Display(msgspec.Struct):
    name: str | None = None
    icon: str | None = None
    description: str | None = None


_NOTHING = _Display()


class _Hashed(msgspec.Struct, rename="camel"):
    hash: int

    def __post_init__(self) -> None:
        if not 1 <= self.hash <= _MOST_HASH:
            raise ValueError(f"hash {self.hash} is out of range")


class _Item(msgspec.Struct, rename="camel"):
    item_type: Any = None


class _Equipping(msgspec.Struct, rename="camel"):
    ammo_type: Any = None
    equipment_slot_type_hash: Any = None


class _Inventory(msgspec.Struct, rename="camel"):
    tier_type_name: Any = None


class _Weapon(_Hashed, rename="camel"):
    display_properties: _Display | None = None
    default_damage_type: Any = None
    item_sub_type: Any = None
    equipping_block: _Equipping | None = None
    inventory: _Inventory | None = None
    redacted: bool | None = False


class _Class(_Hashed, rename="camel"):
    display_properties: _Display | None = None


class _Activity(_Hashed, rename="camel"):
    display_properties: _Display | None = None
    activity_type_hash: int | None = None
    difficulty_tier_collection_hash: int | None = None


class _Tier(msgspec.Struct, rename="camel"):
    selectable_skull_collection_hashes: list[int] | None = None


class _Tiers(_Hashed, rename="camel"):
    difficulty_tiers: list[_Tier] | None = None


class _Selectable(msgspec.Struct, rename="camel"):
    activity_skull: msgspec.Raw = msgspec.Raw(b"null")


class _Skulls(_Hashed, rename="camel"):
    selectable_activity_skulls: list[_Selectable] | None = None


class _Use(msgspec.Struct, rename="camel"):
    dynamic_use: int | None = 0


class _Skull(_Hashed, rename="camel"):
    skull_identifier_hash: int
    display_properties: _Display | None = None
    display_description_override_for_nav_mode: str | None = None
    modifier_power_contribution: int | None = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.skull_identifier_hash <= _MOST_HASH:
            raise ValueError(f"skullIdentifierHash {self.skull_identifier_hash} is out of range")
        if abs(self.modifier_power_contribution or 0) > _MOST_INTEGER:
            raise ValueError("modifierPowerContribution is out of range")


def read_weapons(database: Database) -> Found:
    """Rows: name, icon_path, weapon_type, element, slot, ammo_type, rarity."""
    found = Found()
    kind = msgspec.json.Decoder(_Item)
    for key, json in database.records(ITEMS):
        try:
            if kind.decode(json).item_type != WEAPON:
                continue
        except _UNDECODABLE as error:
            found.bad.append(Bad(ITEMS, key, str(error)))
            continue
        for weapon in _decoded([(key, json)], ITEMS, _Weapon, found.bad):
            _add_weapon(found, weapon)
    return found


def _add_weapon(found: Found, weapon: _Weapon) -> None:
    shown = weapon.display_properties or _NOTHING
    equipping = weapon.equipping_block or _Equipping()
    tier = weapon.inventory.tier_type_name if weapon.inventory else None
    slot = equipping.equipment_slot_type_hash

    def named(what: str, names: Mapping[Any, str], value: object) -> str:
        name = names.get(value) if isinstance(value, int | str) else None
        if name is None and not weapon.redacted:
            found.unknown.setdefault((what, repr(value)[:50]), []).append(weapon.hash)
        return name or UNKNOWN

    row = (
        _text(shown.name),
        _text(shown.icon),
        named("itemSubType", WEAPON_TYPES, weapon.item_sub_type),
        named("defaultDamageType", ELEMENTS, weapon.default_damage_type),
        named("equipmentSlotTypeHash", SLOTS, slot),
        named("ammoType", AMMO_TYPES, equipping.ammo_type),
        named("tierTypeName", RARITIES, tier),
    )
    found.add(ITEMS, weapon.hash, row)
    if weapon.redacted:
        found.redacted.add(weapon.hash)


def read_classes(database: Database) -> Found:
    """Rows: name."""
    found = Found()
    for class_ in _decoded(database.records(CLASSES), CLASSES, _Class, found.bad):
        name = _text((class_.display_properties or _NOTHING).name)
        if name:
            found.add(CLASSES, class_.hash, (name,))
        else:
            found.bad.append(Bad(CLASSES, class_.hash, "a class without a name"))
    return found


def read_feats(database: Database, tracked: Collection[int]) -> Found:
    """Those that an activity of `tracked` offers.

    Rows: skull_hash, name, description, icon_path, description_short, modifier_power_contribution.
    """
    found = Found()
    tiers = {
        each.hash: [h for t in each.difficulty_tiers or () for h in _hashes(t)]
        for each in _decoded(database.records(TIERS), TIERS, _Tiers, found.bad)
    }
    offered: set[int] = set()
    for activity in _decoded(database.records(ACTIVITIES), ACTIVITIES, _Activity, found.bad):
        hash_ = activity.difficulty_tier_collection_hash
        if activity.hash not in tracked or not hash_:
            continue
        if hash_ in tiers:
            offered.update(tiers[hash_])
        else:
            found.bad.append(Bad(ACTIVITIES, activity.hash, f"no tier collection {hash_}"))
    for skulls in _decoded(database.records(SKULLS), SKULLS, _Skulls, found.bad):
        if skulls.hash in offered:
            offered.discard(skulls.hash)
            _add_feats(found, skulls)
    found.bad += [Bad(SKULLS, hash_, "offered, but not there") for hash_ in sorted(offered)]
    return found


def _hashes(tier: _Tier) -> list[int]:
    return tier.selectable_skull_collection_hashes or []


def _add_feats(found: Found, skulls: _Skulls) -> None:
    for selectable in skulls.selectable_activity_skulls or ():
        record = (skulls.hash, bytes(selectable.activity_skull))
        uses = [use.dynamic_use or 0 for use in _decoded([record], SKULLS, _Use, found.bad)]
        if not any(use > 0 for use in uses):
            continue
        for skull in _decoded([record], SKULLS, _Skull, found.bad):
            shown = skull.display_properties or _NOTHING
            row = (
                skull.skull_identifier_hash,
                _text(shown.name),
                _text(shown.description),
                _text(shown.icon),
                _text(skull.display_description_override_for_nav_mode),
                skull.modifier_power_contribution or 0,
            )
            found.add(SKULLS, skull.hash, row)


def read_activities(database: Database) -> Activities:
    """Every activity, and those that are raids to the game, by hash."""
    bad: list[Bad] = []
    raids: list[Raid] = []
    hashes: set[int] = set()
    for activity in _decoded(database.records(ACTIVITIES), ACTIVITIES, _Activity, bad):
        hashes.add(activity.hash)
        if activity.activity_type_hash == RAID:
            raids.append(Raid(activity.hash, _text((activity.display_properties or _NOTHING).name)))
    return Activities(sorted(raids), hashes, bad)


def _decoded(
    records: Iterable[Record], table: str, kind: type[_Kind], bad: list[Bad]
) -> Iterator[_Kind]:
    """The records as `kind`; those that are none go to `bad`."""
    for key, json in records:
        try:
            yield msgspec.json.decode(json, type=kind)
        except _UNDECODABLE as error:
            bad.append(Bad(table, key, str(error)))


def _text(value: str | None) -> str:
    """PostgreSQL takes neither NUL nor half of a surrogate pair."""
    return (value or "").replace("\0", "").encode("utf-8", "ignore").decode()
