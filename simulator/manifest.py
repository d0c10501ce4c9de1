"""The manifest: definitions that fit the reports, as Bungie ships them (SQLite inside a zip)."""

import hashlib
import io
import json
import sqlite3
import zipfile
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from simulator import chance
from simulator.world import CLASSES, EMPTY_FEAT, FEATS, World

_RAID_TYPE = 2043403989
_TIERS, _SKULLS = 1_369_000_001, 1_444_000_001  # the collections that raids point to
_AMMO = {1498876634: 1, 2465295065: 2, 953998645: 3}  # slot -> usual ammunition
_HEAVY = 3
_ELEMENTS = (1, 2, 3, 4, 6, 7)
_SUBTYPES = (6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 18, 22, 23, 24, 25, 31, 33)
_FIRST, _SECOND = (
    ("Quiet", "Last", "Burning", "Hollow", "Ninth", "Gilded", "Broken", "Drifting"),
    ("Oath", "Harbinger", "Psalm", "Verdict", "Lantern", "Thorn", "Meridian", "Chorus"),
)


# What Bungie does now and then; each is off until `/sim/manifest` switches it on.
TRUNCATED = "truncated"  # half of the zip, with a length that fits
HALF_AT_EDGE = "half_at_edge"  # the same, but only by the address without a query
PAGE = "page"  # a page of the edge with HTTP 200
CORRUPT = "corrupt"  # a sound zip of a damaged database
MISSING_TABLE = "missing_table"
SHRUNK = "shrunk"  # half of the items
NEW_VALUES = "new_values"  # a weapon of a kind that nobody knows yet
BAD_RECORDS = "bad_records"  # among good ones
ALL_REDACTED = "all_redacted"  # of every weapon only the hash is left
NEW_RAID = "new_raid"  # an activity that no report's definition knows
FLAWS = (
    *(TRUNCATED, HALF_AT_EDGE, PAGE, CORRUPT, MISSING_TABLE, SHRUNK),
    *(NEW_VALUES, BAD_RECORDS, ALL_REDACTED, NEW_RAID),
)

NEW_WEAPON, NEW_RAID_HASH = 4_100_000_001, 4_200_000_001
Tables = dict[str, list[dict[str, Any]]]
_ITEMS = "DestinyInventoryItemDefinition"


class Manifest:
    """The manifests so far; `revision` is the published one and may go back.

    Each revision keeps the flaws it was published with. `hidden` addresses of a new file are
    answered with 404 once somebody asked too early, and the edge remembers each of them.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.revision = 1
        self.is_unsettled = False  # servers disagree: every second answer names the one before
        self.hidden = 0
        self._flaws: dict[int, frozenset[str]] = {}
        self._asked = 0
        self._remembered: set[str] = set()
        self.content = lru_cache(maxsize=2)(self._content)

    def publish(self, revision: int, flaws: Collection[str] = ()) -> None:
        """From now on this one, new or old. Raises ValueError for a flaw that does not exist."""
        if unknown := set(flaws).difference(FLAWS):
            raise ValueError(f"flaws are {', '.join(FLAWS)}, not {', '.join(sorted(unknown))}")
        self.revision = revision
        if flaws or revision not in self._flaws:
            self._flaws[revision] = frozenset(flaws)
        self.content.cache_clear()

    @property
    def version(self) -> str:
        return self._version(self.revision)

    @property
    def path(self) -> str:
        """Where the database lies, by a name that changes with every version."""
        return self._path(self.revision)

    def _version(self, revision: int) -> str:
        return f"250000.26.11.01.{1800 + revision}-1-sim.{self._world.config.seed}"

    def _path(self, revision: int) -> str:
        name = hashlib.md5(self._version(revision).encode(), usedforsecurity=False).hexdigest()
        return f"/common/destiny2_content/sqlite/en/world_sql_content_{name}.content"

    def response(self) -> dict[str, Any]:
        self._asked += 1
        older = self.is_unsettled and self._asked % 2 == 0
        revision = self.revision - 1 if older else self.revision
        return {
            "version": self._version(revision),
            "mobileAssetContentPath": "",
            "mobileGearAssetDataBases": [],
            "mobileWorldContentPaths": {"en": self._path(revision)},
            "jsonWorldContentPaths": {},
            "jsonWorldComponentContentPaths": {},
            "mobileClanBannerDatabasePath": "",
            "mobileGearCDN": {},
            "iconImagePyramidInfo": [],
        }

    def revision_at(self, path: str, query: str) -> int | None:
        """Which revision lies at an address; None for a 404."""
        if path == self._path(self.revision):
            address = f"{path}?{query}"
            if address in self._remembered:
                return None
            if self.hidden > 0:
                self.hidden -= 1
                self._remembered.add(address)
                return None
            return self.revision
        if self.is_unsettled and path == self._path(self.revision - 1):
            return self.revision - 1
        return None

    def flaws(self, revision: int) -> frozenset[str]:
        return self._flaws.get(revision, frozenset())

    def _content(self, revision: int) -> bytes:
        flaws = self.flaws(revision)
        tables = self.tables(flaws)
        data = database(tables, _STRAY if BAD_RECORDS in flaws else ())
        if CORRUPT in flaws:
            data = data[: len(data) // 2]
        packed = zipped(data, self._path(revision).rsplit("/", 1)[-1])
        return packed[: len(packed) // 2] if TRUNCATED in flaws else packed

    def tables(self, flaws: Collection[str] = ()) -> Tables:
        """Records by table; each has its unsigned `hash`."""
        tables = self._whole()
        if NEW_VALUES in flaws:
            tables[_ITEMS].append(_strange(weapon(0, NEW_WEAPON)))
        if NEW_RAID in flaws:
            tables["DestinyActivityDefinition"].append(
                {
                    "hash": NEW_RAID_HASH,
                    "displayProperties": {"name": "The Newest Raid"},
                    "activityTypeHash": _RAID_TYPE,
                }
            )
        if ALL_REDACTED in flaws:
            tables[_ITEMS] = [
                {"hash": r["hash"], "itemType": r["itemType"], "redacted": True}
                for r in tables[_ITEMS]
            ]
        if SHRUNK in flaws:
            tables[_ITEMS] = tables[_ITEMS][::2]
        if MISSING_TABLE in flaws:
            del tables["DestinyActivitySelectableSkullCollectionDefinition"]
        return tables

    def _whole(self) -> Tables:
        skulls = [_skull(n, feat) for n, feat in enumerate((*FEATS, EMPTY_FEAT))]
        return {
            _ITEMS: [
                *(weapon(n, item) for n, item in enumerate(self._world.weapons)),
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


# Records as nobody can use them: a key and a text.
_STRAY = (
    (11, b'{"hash":11,"itemType":3,"displayProperties":{"name":'),
    (12, b'{"itemType":3,"displayProperties":{"name":"No Hash"}}'),
    (13, b'{"hash":"13","itemType":3}'),
    (14, b'{"hash":14,"itemType":3,"displayProperties":["a list"]}'),
    (15, b'{"hash":-15,"itemType":3}'),
    (16, b"\xff\xfe"),
    (17, None),
    # Usable but for one character of its name, which a database refuses.
    (18, b'{"hash":18,"itemType":3,"displayProperties":{"name":"Nul\\u0000l"}}'),
)


def database(tables: Tables, stray_items: Iterable[tuple[int, bytes | None]] = ()) -> bytes:
    """An SQLite file as the game's: a signed key and the JSON of each record."""
    connection = sqlite3.connect(":memory:")
    try:
        for table, records in tables.items():
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, json BLOB)")
            connection.executemany(
                f"INSERT INTO {table} VALUES (?, ?)",  # noqa: S608  names are constants here
                ((_signed(r["hash"]), json.dumps(r)) for r in records),
            )
        connection.executemany(
            f"INSERT INTO {_ITEMS} VALUES (?, ?)",  # noqa: S608  a constant
            stray_items,
        )
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def zipped(data: bytes, name: str) -> bytes:
    """A zip of one file."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return packed.getvalue()


def _signed(unsigned: int) -> int:
    """The key that the game's tables use: the hash as a signed 32-bit number."""
    return unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned


def weapon(number: int, item_hash: int) -> dict[str, Any]:
    """The item of a weapon; `number` is its place among all."""
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


def is_heavy(number: int, item_hash: int) -> bool:
    """Whether the weapon takes heavy ammunition."""
    found: bool = weapon(number, item_hash)["equippingBlock"]["ammoType"] == _HEAVY
    return found


def _strange(item: dict[str, Any]) -> dict[str, Any]:
    return item | {
        "itemSubType": 77,
        "defaultDamageType": 8,
        "equippingBlock": {"ammoType": 9, "equipmentSlotTypeHash": 1},
        "inventory": {"tierTypeName": "Mythic"},
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
