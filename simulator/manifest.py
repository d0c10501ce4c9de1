"""The manifest: definitions that fit the reports, as Bungie ships them (SQLite inside a zip)."""

import hashlib
import io
import json
import sqlite3
import zipfile
from functools import lru_cache
from typing import Any

from simulator import chance
from simulator.world import CLASSES, EMPTY_FEAT, FEATS, World

_RAID_TYPE = 2043403989
_TIERS, _SKULLS = 1_369_000_001, 1_444_000_001  # the collections that raids point to
_AMMO = {1498876634: 1, 2465295065: 2, 953998645: 3}  # slot -> usual ammunition
_ELEMENTS = (1, 2, 3, 4, 6, 7)
_SUBTYPES = (6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 22, 23, 24, 25, 31, 33)
_FIRST, _SECOND = (
    ("Quiet", "Last", "Burning", "Hollow", "Ninth", "Gilded", "Broken", "Drifting"),
    ("Oath", "Harbinger", "Psalm", "Verdict", "Lantern", "Thorn", "Meridian", "Chorus"),
)


class Manifest:
    """One version of the manifest; `revision` counts the versions."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.revision = 1
        self.content = lru_cache(maxsize=2)(self._content)

    @property
    def version(self) -> str:
        return f"250000.26.11.01.{1800 + self.revision}-1-sim.{self._world.config.seed}"

    @property
    def path(self) -> str:
        """Where the database lies, by a name that changes with every version."""
        name = hashlib.md5(self.version.encode(), usedforsecurity=False).hexdigest()
        return f"/common/destiny2_content/sqlite/en/world_sql_content_{name}.content"

    def response(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "mobileAssetContentPath": "",
            "mobileGearAssetDataBases": [],
            "mobileWorldContentPaths": {"en": self.path},
            "jsonWorldContentPaths": {},
            "jsonWorldComponentContentPaths": {},
            "mobileClanBannerDatabasePath": "",
            "mobileGearCDN": {},
            "iconImagePyramidInfo": [],
        }

    def _content(self, path: str) -> bytes:
        """The zip at `path`, which is only the cache's key: content follows the revision."""
        database = sqlite3.connect(":memory:")
        try:
            for table, records in self.tables().items():
                database.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, json BLOB)")
                database.executemany(
                    f"INSERT INTO {table} VALUES (?, ?)",  # noqa: S608  names are constants here
                    [(_signed(r["hash"]), json.dumps(r)) for r in records],
                )
            database.commit()
            data = database.serialize()
        finally:
            database.close()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(path.rsplit("/", 1)[-1], data)
        return packed.getvalue()

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Records by table; each has its unsigned `hash`."""
        skulls = [_skull(n, feat) for n, feat in enumerate((*FEATS, EMPTY_FEAT))]
        return {
            "DestinyInventoryItemDefinition": [
                *(_weapon(n, item) for n, item in enumerate(self._world.weapons)),
                {"hash": 1_999_999_991, "itemType": 2, "displayProperties": {"name": "A Helmet"}},
                {"hash": 1_999_999_992, "redacted": True, "itemType": 3},
            ],
            "DestinyClassDefinition": [
                {"hash": class_hash, "displayProperties": {"name": name}, "classType": n}
                for n, (class_hash, name) in enumerate(CLASSES)
            ],
            "DestinyActivityDefinition": [
                {
                    "hash": version.hash,
                    "displayProperties": {"name": version.activity.name},
                    "activityTypeHash": _RAID_TYPE,
                    "difficultyTierCollectionHash": _TIERS,
                }
                for version in self._world.definitions.versions.values()
            ],
            "DestinyActivityDifficultyTierCollectionDefinition": [
                {
                    "hash": _TIERS,
                    "difficultyTiers": [{"selectableSkullCollectionHashes": [_SKULLS]}],
                }
            ],
            "DestinyActivitySelectableSkullCollectionDefinition": [
                {
                    "hash": _SKULLS,
                    "selectableActivitySkulls": [{"activitySkull": skull} for skull in skulls],
                }
            ],
        }


def _signed(unsigned: int) -> int:
    """The key that the game's tables use: the hash as a signed 32-bit number."""
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned


def _weapon(number: int, item_hash: int) -> dict[str, Any]:
    luck = chance.mix(item_hash)
    slot = tuple(_AMMO)[luck % 3]
    name = f"{_FIRST[luck >> 4 & 7]} {_SECOND[luck >> 8 & 7]}"
    return {
        "hash": item_hash,
        "displayProperties": {
            "name": name if number < 64 else f"{name} {number}",
            "icon": f"/common/destiny2_content/icons/{luck:032x}.jpg" if number % 20 else "",
        },
        "itemType": 3,
        "itemSubType": _SUBTYPES[number % len(_SUBTYPES)],
        "defaultDamageType": _ELEMENTS[(luck >> 12) % 6],
        "equippingBlock": {"ammoType": _AMMO[slot], "equipmentSlotTypeHash": slot},
        "inventory": {"tierTypeName": "Exotic" if luck >> 20 & 3 == 0 else "Legendary"},
    }


def _skull(number: int, skull_hash: int) -> dict[str, Any]:
    return {
        "hash": 2_800_000_000 + number,
        "skullIdentifierHash": skull_hash,
        "displayProperties": {
            "name": f"Feat {number + 1}",
            "icon": "/common/destiny2_content/icons/feat.png",
            "description": f"The enemy knows trick {number + 1}.",
        },
        "displayDescriptionOverrideForNavMode": f"Trick {number + 1}",
        "dynamicUse": 1,
        "modifierPowerContribution": number % 4,
    }
