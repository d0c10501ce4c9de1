"""What the records of a manifest say, on its real and on broken ones."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raidhub_dagster.errors import TransientError
from raidhub_dagster.manifest.database import ACTIVITIES, CLASSES, ITEMS, SKULLS
from raidhub_dagster.manifest.index import Version, read_index
from raidhub_dagster.manifest.records import (
    RAID,
    Bad,
    Raid,
    read_activities,
    read_classes,
    read_feats,
    read_weapons,
)
from tests.support.manifests import SKULLS_HASH, in_memory, make_skull, make_tables, make_weapon
from tests.support.manifests import stray as with_stray
from tests.support.samples import sample

KINGS_FALL = 1374392663
ACE = ("Ace of Spades", "/ace.jpg", "Hand Cannon", "Kinetic", "Kinetic", "Primary", "Exotic")

# --- the index ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name", "label"),
    [
        (
            "manifest/manifest_2026-06.json",
            "world_sql_content_d135ee140f1e3bb665c791eb7bad3729.content",
            "244164.26.06.16.2053-2-bnet.65465",
        ),
        (
            "manifest/manifest_2017.json",
            "world_sql_content_edf4d47841acbd74f02ae136523ecc37.content",
            "60088.17.09.26.2246-5",
        ),
    ],
)
def test_a_version_is_the_name_of_its_file(file: str, name: str, label: str) -> None:
    """`version` does not always change with the content."""
    response = json.dumps(json.loads(sample(file))["Response"]).encode()
    path = f"/common/destiny2_content/sqlite/en/{name}"
    assert read_index(response) == Version(name, path, label)


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"[]",
        b"{}",
        b'{"mobileWorldContentPaths": null}',
        b'{"mobileWorldContentPaths": {}}',
        b'{"mobileWorldContentPaths": {"en": ""}}',
        b'{"mobileWorldContentPaths": {"en": "/a/../../etc/x.content"}}',
        b'{"mobileWorldContentPaths": {"en": "https://elsewhere/x.content"}}',
        b'{"mobileWorldContentPaths": {"en": "/a/x.content/"}}',
        b'{"mobileWorldContentPaths": {"en": "/a/.content"}}',
    ],
)
def test_an_index_without_a_usable_path_is_asked_for_again(response: bytes) -> None:
    """While a version rolls out servers say odd things; and a path must not lead out of ours."""
    with pytest.raises(TransientError, match="manifest"):
        read_index(response)


# --- weapons --------------------------------------------------------------------------------------


def test_reads_a_weapon_and_no_other_item() -> None:
    helmet = {"hash": 943320520, "itemType": 2, "displayProperties": {"name": "Helm"}}
    with in_memory(make_tables([make_weapon(4_000_000_000), helmet])) as database:
        found = read_weapons(database)
    assert found.rows == {4_000_000_000: ACE}  # its key in the file is negative
    assert (found.bad, found.unknown, found.redacted) == ([], {}, set())


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("Ace of Spades", ("Hand Cannon", "Kinetic", "Kinetic", "Primary", "Exotic")),
        ("Gjallarhorn", ("Rocket Launcher", "Solar", "Power", "Heavy", "Exotic")),
        ("Wicked Implement", ("Scout Rifle", "Stasis", "Kinetic", "Primary", "Exotic")),
        ("Final Warning", ("Sidearm", "Strand", "Kinetic", "Primary", "Exotic")),
        ("Riskrunner", ("Submachine Gun", "Arc", "Energy", "Primary", "Exotic")),
        ("Graviton Lance", ("Pulse Rifle", "Void", "Energy", "Primary", "Exotic")),
        ("Izanagi's Burden", ("Sniper Rifle", "Kinetic", "Kinetic", "Special", "Exotic")),
        ("Fatebringer", ("Hand Cannon", "Kinetic", "Kinetic", "Primary", "Legendary")),
    ],
)
def test_reads_real_weapons_of_2026(name: str, row: tuple[str, ...]) -> None:
    records = json.loads(sample("definitions/items_2026-06.json"))
    items = [r["json"] | {"hash": r["hash"]} for r in records if r["table"] == ITEMS]
    with in_memory(make_tables(items)) as database:
        found = read_weapons(database)
    assert [r[2:] for r in found.rows.values() if r[0] == name] == [row]
    assert (len(found.rows), found.bad, found.unknown) == (9, [], {})


def test_reads_all_real_weapons_of_2019() -> None:
    """Their damage types were cut from the sample, so every one of them is listed for that."""
    records = json.loads(sample("definitions/weapons_2019.json"))
    items = [{"hash": int(hash_), **record} for hash_, record in records.items()]
    with in_memory(make_tables(items)) as database:
        found = read_weapons(database)
    assert (len(found.rows), found.bad) == (629, [])
    assert {f: len(hashes) for (f, _), hashes in found.unknown.items()} == {
        "defaultDamageType": 629
    }


@pytest.mark.parametrize(
    ("changed", "field", "value", "column"),
    [
        ({"itemSubType": 77}, "itemSubType", "77", 2),
        ({"defaultDamageType": 0}, "defaultDamageType", "0", 3),
        ({"defaultDamageType": 5}, "defaultDamageType", "5", 3),
        ({"defaultDamageType": "Prismatic"}, "defaultDamageType", "'Prismatic'", 3),
        ({"equippingBlock": None}, "equipmentSlotTypeHash", "None", 4),
        ({"equippingBlock": {"ammoType": 4}}, "ammoType", "4", 5),
        ({"inventory": {"tierTypeName": ["Mythic"]}}, "tierTypeName", "['Mythic']", 6),
        ({"inventory": {"tierTypeName": ""}}, "tierTypeName", "''", 6),
    ],
)
def test_a_new_value_becomes_unknown_and_is_told(
    changed: dict[str, Any], field: str, value: str, column: int
) -> None:
    """In the predecessor one of these brought the whole old table back, without a word."""
    with in_memory(make_tables([make_weapon(5, **changed), make_weapon(6)])) as database:
        found = read_weapons(database)
    assert found.rows[5][column] == "Unknown"
    assert found.rows[6] == ACE
    assert found.unknown[field, value] == [5]
    assert found.bad == []


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"{",
        b"\xff",
        b"null",
        b"[]",
        b'{"itemType":3}',
        b'{"itemType":3,"hash":"7"}',
        b'{"itemType":3,"hash":0}',
        b'{"itemType":3,"hash":-7}',
        b'{"itemType":3,"hash":4294967296}',
        b'{"itemType":3,"hash":99999999999999999999999}',
        b'{"itemType":3,"hash":7,"displayProperties":[]}',
        b'{"itemType":3,"hash":7,"displayProperties":{"name":7}}',
        b'{"itemType":3,"hash":7,"equippingBlock":"none"}',
        b'{"itemType":3,"hash":7,"inventory":[1]}',
        b"[" * 100_000,
        None,
    ],
)
def test_one_bad_record_is_told_and_the_rest_is_read(record: bytes | None) -> None:
    with with_stray({-2: record}, make_tables([make_weapon(5)])) as database:
        found = read_weapons(database)
    assert found.rows == {5: ACE}
    (bad,) = found.bad
    assert (bad.table, bad.hash) == (ITEMS, 2**32 - 2)
    assert bad.problem


def test_two_records_of_one_hash_are_told() -> None:
    """One statement cannot write a row twice: without this the whole load would fail."""
    other = json.dumps(make_weapon(5, itemSubType=8)).encode()
    with with_stray({9: other}, make_tables([make_weapon(5)])) as database:
        found = read_weapons(database)
    assert found.rows == {5: ACE}
    assert found.bad == [Bad(ITEMS, 5, "another record has the same hash")]


@pytest.mark.parametrize(
    ("text", "stored"), [("Nul\0l", "Null"), ("half \ud800", "half "), (None, ""), ("Ünï", "Ünï")]
)
def test_texts_are_such_as_a_database_takes(text: str | None, stored: str) -> None:
    shown = {"name": text, "icon": None}
    with in_memory(make_tables([make_weapon(5, displayProperties=shown)])) as database:
        found = read_weapons(database)
    if found.bad:  # half of a surrogate pair may be refused while it is decoded
        assert text == "half \ud800"
    else:
        assert found.rows[5][:2] == (stored, "")


def test_a_redacted_weapon_has_a_row_and_is_not_complained_about() -> None:
    """Reports name it long before its record says anything."""
    redacted = {"hash": 5, "itemType": 3, "redacted": True}
    with in_memory(make_tables([redacted])) as database:
        found = read_weapons(database)
    assert found.rows == {5: ("", "", *["Unknown"] * 5)}
    assert (found.redacted, found.unknown, found.bad) == ({5}, {}, [])


_NAMES = (
    *("hash", "itemType", "displayProperties", "name", "icon", "equippingBlock", "ammoType"),
    *("inventory", "tierTypeName", "redacted", "defaultDamageType"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(_NAMES),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(_JSON, st.sampled_from(["itemType", "other"]))
def test_no_record_stops_the_reader(record: Any, kind: str) -> None:
    if isinstance(record, dict):
        record = record | {kind: 3}
    body = json.dumps(record).encode()
    with with_stray({7: body}, make_tables([make_weapon(5)])) as database:
        found = read_weapons(database)
    assert found.rows[5] == ACE
    for hash_, row in found.rows.items():
        assert 1 <= hash_ < 2**32
        assert row[4] in ("Kinetic", "Energy", "Power", "Unknown")


# --- classes --------------------------------------------------------------------------------------


def test_reads_the_real_classes() -> None:
    records = json.loads(sample("definitions/classes.json"))
    with in_memory(make_tables(classes=list(records.values()))) as database:
        found = read_classes(database)
    assert found.rows == {
        671679327: ("Hunter",),
        2271682572: ("Warlock",),
        3655393761: ("Titan",),
    }


def test_a_class_without_a_name_is_told() -> None:
    """Characters of it would otherwise show an empty name."""
    with in_memory(make_tables(classes=[{"hash": 5, "displayProperties": {}}])) as database:
        found = read_classes(database)
    assert (found.rows, found.bad) == ({}, [Bad(CLASSES, 5, "a class without a name")])


# --- feats ----------------------------------------------------------------------------------------


def test_reads_the_feats_of_the_activities_that_we_know() -> None:
    skulls = [
        make_skull(21),
        make_skull(22, dynamicUse=0),
        make_skull(23, dynamicUse=None),
        make_skull(24, displayProperties=None, displayDescriptionOverrideForNavMode=None),
        make_skull(25, modifierPowerContribution=None),
    ]
    tables = make_tables(skulls=skulls, activities=[{"hash": KINGS_FALL}])
    with in_memory(tables) as database:
        found = read_feats(database, {KINGS_FALL})
        others = read_feats(database, {KINGS_FALL + 1})
    assert found.rows == {
        21: (1021, "Feat: 21", "Hard.", "/f.png", "Hard", 5),
        24: (1024, "", "", "", "", 5),
        25: (1025, "Feat: 25", "Hard.", "/f.png", "Hard", 0),
    }
    assert (found.bad, others.rows, others.bad) == ([], {}, [])


@pytest.mark.parametrize(
    "skull",
    [
        None,
        [],
        {"dynamicUse": 1},
        make_skull(22, skullIdentifierHash=None),
        make_skull(22, skullIdentifierHash=0),
        make_skull(22, modifierPowerContribution=2**40),
        make_skull(22, displayProperties={"name": 3}),
        make_skull(2**32),
    ],
)
def test_one_bad_feat_is_told_and_the_rest_is_read(skull: Any) -> None:
    tables = make_tables(skulls=[skull, make_skull(21)], activities=[{"hash": KINGS_FALL}])
    with in_memory(tables) as database:
        found = read_feats(database, {KINGS_FALL})
    assert set(found.rows) == {21}
    assert [(bad.table, bad.hash) for bad in found.bad] == [(SKULLS, SKULLS_HASH)]


def test_collections_that_are_missing_are_told() -> None:
    tables = make_tables(
        activities=[{"hash": KINGS_FALL}, {"hash": 5, "difficultyTierCollectionHash": 99}]
    )
    tables[SKULLS] = []
    with in_memory(tables) as database:
        found = read_feats(database, {KINGS_FALL, 5})
    assert found.bad == [
        Bad(ACTIVITIES, 5, "no tier collection 99"),
        Bad(SKULLS, SKULLS_HASH, "offered, but not there"),
    ]


# --- raids ----------------------------------------------------------------------------------------


def test_raids_are_told_by_their_type() -> None:
    """Several raids lack the mode, and a dungeon must not be taken for one."""
    activities: list[dict[str, Any]] = [
        {"hash": 9, "activityTypeHash": RAID, "displayProperties": {"name": "New"}},
        {"hash": 8, "activityTypeHash": 608898761, "displayProperties": {"name": "Dungeon"}},
        {"hash": 7, "activityTypeHash": RAID},
    ]
    with in_memory(make_tables(activities=activities)) as database:
        found = read_activities(database)
    assert (found.raids, found.hashes, found.bad) == ([Raid(7, ""), Raid(9, "New")], {7, 8, 9}, [])


def test_reads_real_activities_of_2026() -> None:
    records = json.loads(sample("definitions/activities_2026_subset.json"))
    tables = make_tables()
    tables[ACTIVITIES] = list(records.values())
    with in_memory(tables) as database:
        activities = read_activities(database)
        feats = read_feats(database, {129979, 1838028})
    assert (activities.hashes, activities.raids, activities.bad) == ({129979, 1838028}, [], [])
    assert feats.bad == [Bad(ACTIVITIES, 129979, "no tier collection 1369657925")]
