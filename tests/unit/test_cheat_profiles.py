"""What is read of a profile, however odd its fields are."""

import json
from typing import Any

import pytest

from raidhub_dagster.cheat_detection.account import Profile
from raidhub_dagster.cheat_detection.profiles import read_facts

USER = {"membershipType": 3, "membershipId": "1", "applicableMembershipTypes": [1, 3, 6]}
DATA = {
    "userInfo": USER,
    "versionsOwned": 4095,
    "characterIds": ["1", "2"],
    "seasonHashes": [11, 12, 13],
    "currentGuardianRank": 6,
    "lifetimeHighestGuardianRank": 9,
}
FACTS = Profile(
    membership_types=(3, 1, 6), characters=2, versions_owned=4095, seasons=3,
    current_rank=6, highest_rank=9,
)  # fmt: skip


def answer(data: Any) -> bytes:
    return json.dumps({"profile": {"data": data, "privacy": 1}}).encode()


def test_a_profile_is_read() -> None:
    assert read_facts(answer(DATA)) == FACTS


@pytest.mark.parametrize(
    ("field", "value", "fact", "read"),
    [
        ("versionsOwned", None, "versions_owned", None),
        ("versionsOwned", "4095", "versions_owned", 4095),
        ("versionsOwned", -1, "versions_owned", None),
        ("versionsOwned", 2**63, "versions_owned", None),
        ("versionsOwned", "9" * 30, "versions_owned", None),
        ("versionsOwned", 12.5, "versions_owned", None),
        ("versionsOwned", [], "versions_owned", None),
        ("versionsOwned", True, "versions_owned", None),
        ("characterIds", None, "characters", None),
        ("characterIds", [], "characters", 0),
        ("characterIds", ["1", "1", "2"], "characters", 2),
        ("characterIds", {"1": {}}, "characters", None),
        ("characterIds", "1", "characters", None),
        ("seasonHashes", None, "seasons", None),
        ("seasonHashes", [None, 1], "seasons", 2),
        ("currentGuardianRank", None, "current_rank", None),
        ("lifetimeHighestGuardianRank", "x", "highest_rank", None),
        ("lifetimeHighestGuardianRank", "²", "highest_rank", None),
        ("userInfo", None, "membership_types", ()),
        ("userInfo", [], "membership_types", ()),
        ("userInfo", {"membershipType": 3}, "membership_types", (3,)),
        ("userInfo", USER | {"applicableMembershipTypes": None}, "membership_types", (3,)),
        ("userInfo", USER | {"applicableMembershipTypes": 3}, "membership_types", (3,)),
        (
            "userInfo",
            USER | {"applicableMembershipTypes": [254, None, "2", 0]},
            "membership_types",
            (3, 2),
        ),
    ],
)  # fmt: skip
def test_an_odd_field_is_missing_and_costs_no_other(
    field: str, value: Any, fact: str, read: Any
) -> None:
    """The predecessor took the whole profile for guilt, and then crashed."""
    found = read_facts(answer(DATA | {field: value}))
    assert found is not None
    assert getattr(found, fact) == read
    others = {name for name in FACTS.__struct_fields__ if name != fact}
    assert all(getattr(found, name) == getattr(FACTS, name) for name in others)


@pytest.mark.parametrize("field", list(DATA))
def test_an_absent_field_is_missing(field: str) -> None:
    found = read_facts(answer({key: value for key, value in DATA.items() if key != field}))
    assert found is not None
    assert found != FACTS


@pytest.mark.parametrize(
    "body",
    [
        b'{"profile": {"privacy": 2}}',
        b'{"profile": {"data": null, "privacy": 1}}',
        b'{"profile": {"data": {}, "privacy": 1}}',
        b'{"profile": null}',
        b'{"profile": 7}',
        b"{}",
        b"null",
        b"[]",
        b"not json",
        b'{"profile": {"data": \xff}}',
        b"",
        b"[" * 100_000,
    ],
)
def test_a_hidden_or_unreadable_profile_is_none(body: bytes) -> None:
    assert read_facts(body) is None
