"""Answers about players: the usual, the odd and the broken, and real ones."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from raidhub_dagster.errors import TransientError
from raidhub_dagster.players import profile
from raidhub_dagster.players.profile import Activity, Character
from tests.support.reports import Json, encode
from tests.support.samples import sample

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHO = 4_611_686_018_400_000_001


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def character(**changes: Json) -> Json:
    usual = {
        "dateLastPlayed": "2025-01-01T10:00:00Z",
        "classHash": 671679327,
        "emblemHash": 5,
        "emblemPath": "/a.jpg",
    }
    return usual | changes


def answer(user: Json = None, characters: Json = None, **account: Json) -> bytes:
    return encode(
        {
            "profile": {"data": {"userInfo": user or {}, **account}, "privacy": 1},
            "characters": {"data": characters or {}, "privacy": 1},
        }
    )


def read(body: bytes) -> profile.Profile:
    return profile.read_profile(body, NOW)


def test_icon_and_date_are_those_of_the_character_played_last() -> None:
    found = read(
        answer(
            {"membershipType": 3, "displayName": "Ann"},
            {
                "11": character(emblemPath="/old.jpg"),
                "12": character(emblemPath="/new.jpg", dateLastPlayed="2025-03-01T00:00:00Z"),
            },
            dateLastPlayed="2025-02-01T00:00:00Z",
            characterIds=["11", "12", "13"],
        )
    )
    assert found.icon_path == "/new.jpg"
    assert found.last_played == at("2025-03-01T00:00:00Z")
    assert found.character_ids == (12, 11, 13)
    assert (found.membership_type, found.display_name) == (3, "Ann")


@pytest.mark.parametrize(
    ("user", "pair"),
    [
        ({"bungieGlobalDisplayName": "Ann", "bungieGlobalDisplayNameCode": 42}, ("Ann", "0042")),
        ({"bungieGlobalDisplayName": "Ann", "bungieGlobalDisplayNameCode": "7"}, ("Ann", "0007")),
        ({"bungieGlobalDisplayName": "A\0", "bungieGlobalDisplayNameCode": 12345}, ("A", "12345")),
        ({"bungieGlobalDisplayName": "", "bungieGlobalDisplayNameCode": 42}, None),
        ({"bungieGlobalDisplayName": "Ann"}, None),
        ({"bungieGlobalDisplayName": "Ann", "bungieGlobalDisplayNameCode": -1}, None),
        ({"bungieGlobalDisplayName": None, "bungieGlobalDisplayNameCode": None}, None),
    ],
)
def test_global_name_is_a_pair_or_nothing(user: Json, pair: tuple[str, str] | None) -> None:
    """The same rule as for reports, or crawl and report would fight about the name for ever."""
    assert read(answer(user)).global_name == pair


@pytest.mark.parametrize("hidden", [{"privacy": 2}, {}, None, {"data": None, "privacy": 2}])
def test_hidden_components_are_unknown_and_no_error(hidden: Json) -> None:
    body = encode({"profile": hidden, "characters": hidden})
    assert read(body) == profile.Profile(None, None, None, None, (), ())
    assert profile.read_character(encode({"character": hidden}), 7, NOW) is None


@pytest.mark.parametrize(
    "date", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "2036-01-01T00:00:00Z", "soon", ""]
)
def test_dates_on_which_nobody_played_count_as_absent(date: str) -> None:
    """last_seen only grows: one wrong date would lead the name search for years."""
    assert (
        read(answer({}, {"1": character(dateLastPlayed=date)}, dateLastPlayed=date)).last_played
        is None
    )


@pytest.mark.parametrize(
    ("kind", "known"), [(1, 1), (6, 6), (0, None), (10, None), (254, None), (-1, None)]
)
def test_types_without_players_are_unknown(kind: int, known: int | None) -> None:
    assert read(answer({"membershipType": kind})).membership_type == known


def test_character_of_zeros_has_no_class() -> None:
    body = encode({"character": {"data": character(classHash=0, emblemHash=2**32)}})
    found = profile.read_character(body, 7, NOW)
    assert found == Character(7, None, None, "/a.jpg", at("2025-01-01T10:00:00Z"))


def test_history_rows_without_an_id_are_left_out() -> None:
    rows = [
        {"period": "2025-01-01T10:00:00Z", "activityDetails": {"instanceId": "16"}},
        {"period": "never", "activityDetails": {"instanceId": 17}},
        {"period": "2025-01-01T10:00:00Z", "activityDetails": {"instanceId": "x"}},
        {"period": "2025-01-01T10:00:00Z"},
    ]
    assert profile.read_history(encode({"activities": rows})) == [
        Activity(16, at("2025-01-01T10:00:00Z")),
        Activity(17, None),
    ]


@pytest.mark.parametrize("end", [{}, {"activities": []}, {"activities": None}])
def test_a_page_behind_the_last_one_is_empty(end: Json) -> None:
    assert profile.read_history(encode(end)) == []


@pytest.mark.parametrize(
    "body", [b"[]", b'{"profile": 5}', b'{"characters": {"data": [1]}}', b"{", b"\xff", b""]
)
def test_an_answer_of_another_shape_is_tried_again(body: bytes) -> None:
    """It is Bungie's fault, not the message's: nothing may be parked for it at once."""
    with pytest.raises(TransientError, match="profile of another shape"):
        read(body)


# Real answers.


def response(path: str) -> Any:
    found = msgspec.json.decode(sample(path))
    return found["Response"] if isinstance(found, dict) and "Response" in found else found


def test_real_profiles_are_read_whole() -> None:
    for found in response("profile/twelve_profiles_2020.json"):
        read_one = read(encode(found))
        assert read_one.membership_type in (1, 2)
        assert read_one.display_name
        assert len(read_one.characters) == len(read_one.character_ids) == 3
        assert (read_one.icon_path or "").startswith("/common/destiny2_content/icons/")
        assert read_one.last_played is not None
        assert all(c.class_hash and c.emblem_hash for c in read_one.characters)


def test_real_characters_of_2017_are_read() -> None:
    found = read(encode(response("profile/characters_2017.json")))
    assert found.character_ids[0] == 2305843009266849896
    assert found.last_played == at("2017-09-21T08:38:06Z")
    assert found.display_name is None


@pytest.mark.parametrize(
    "path", ["profile/private_components.json", "profile/private_character.json"]
)
def test_real_hidden_components_are_no_error(path: str) -> None:
    assert read(encode(response(path))).characters == ()


@pytest.mark.parametrize(
    ("path", "rows"), [("history/page_25.json", 25), ("history/page_4.json", 4)]
)
def test_real_history_pages_are_read_whole(path: str, rows: int) -> None:
    found = profile.read_history(encode(response(path)))
    assert len(found) == rows
    assert all(row.period for row in found)


def test_real_account_statistics_tell_the_characters() -> None:
    found = profile.read_character_ids(encode(response("historical_stats/account.json")))
    assert found == [2305843009266849896, 2305843009266849897, 2305843009266849898]


@pytest.mark.parametrize("path", ["cross_save_2022", "cross_save_2025", "plain_2020"])
def test_real_linked_profiles_tell_the_living_account_only(path: str) -> None:
    found = response(f"linked_profiles/{path}.json")
    (living,) = found["profiles"]
    body = encode(found)
    who = int(living["membershipId"])
    assert profile.read_linked_type(body, who) == living["membershipType"]
    for dead in found["profilesWithErrors"]:
        assert profile.read_linked_type(body, int(dead["infoCard"]["membershipId"])) is None
