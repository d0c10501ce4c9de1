"""Manifests for tests: the simulator's format with records of the test's own."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

from raidhub_dagster.manifest.database import (
    ACTIVITIES,
    CLASSES,
    ITEMS,
    SKULLS,
    TIERS,
    Database,
)
from simulator import manifest

TIER_HASH, SKULLS_HASH = 1001, 1002


def make_weapon(hash_: int = 347366834, **changed: Any) -> dict[str, Any]:
    """The Ace of Spades, or what `changed` makes of it."""
    return {
        "hash": hash_,
        "displayProperties": {"name": "Ace of Spades", "icon": "/ace.jpg"},
        "itemType": 3,
        "itemSubType": 9,
        "defaultDamageType": 1,
        "equippingBlock": {"ammoType": 1, "equipmentSlotTypeHash": 1498876634},
        "inventory": {"tierTypeName": "Exotic"},
    } | changed


def make_skull(hash_: int, **changed: Any) -> dict[str, Any]:
    return {
        "hash": hash_,
        "skullIdentifierHash": hash_ + 1000,
        "displayProperties": {"name": f"Feat: {hash_}", "icon": "/f.png", "description": "Hard."},
        "displayDescriptionOverrideForNavMode": "Hard",
        "dynamicUse": 1,
        "modifierPowerContribution": 5,
    } | changed


def make_tables(
    items: Sequence[Mapping[str, Any]] = (),
    skulls: Sequence[Any] = (),
    activities: Sequence[Mapping[str, Any]] = (),
    classes: Sequence[Mapping[str, Any]] = (),
) -> manifest.Tables:
    """Tables of a manifest in which every activity of `activities` offers `skulls`."""
    return {
        ITEMS: [dict(item) for item in items],
        CLASSES: [dict(each) for each in classes],
        ACTIVITIES: [{"difficultyTierCollectionHash": TIER_HASH, **each} for each in activities],
        TIERS: [
            {
                "hash": TIER_HASH,
                "difficultyTiers": [{"selectableSkullCollectionHashes": [SKULLS_HASH]}],
            }
        ],
        SKULLS: [
            {
                "hash": SKULLS_HASH,
                "selectableActivitySkulls": [{"activitySkull": skull} for skull in skulls],
            }
        ],
    }


@contextmanager
def in_memory(tables: manifest.Tables) -> Iterator[Database]:
    with stray({}, tables) as database:
        yield database


@contextmanager
def stray(records: Mapping[int, bytes | None], tables: manifest.Tables) -> Iterator[Database]:
    """The tables, and items of this key and text."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(manifest.database(tables, records.items()))
        connection.text_factory = bytes
        yield Database("test", connection)
