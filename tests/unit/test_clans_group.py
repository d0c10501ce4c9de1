"""Answers about clans: names as people write them, banners that readers take, pages of members."""

import msgspec
import pytest

from raidhub_dagster.clans.group import (
    BANNER_PARTS,
    Clan,
    MemberPage,
    clean,
    read_clans_of,
    read_group,
    read_members,
)
from raidhub_dagster.errors import TransientError
from tests.support.reports import Json, encode
from tests.support.samples import sample


def group(**detail: Json) -> bytes:
    return encode({"detail": {"groupType": 1, "name": "Ann", "motto": "", **detail}})


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("\u3164 Sol \u3164", "Sol"),
        ("&#12644;Sol&#x3164;", "Sol"),
        ("Sol &amp; Friends", "Sol & Friends"),
        ("  &#33;wipes&#33;  ", "!wipes!"),
        ("Tom\0my", "Tommy"),
        ("\u3164", ""),
        (None, ""),
        ("雪 <3", "雪 <3"),
    ],
)
def test_names_are_what_people_read(text: str | None, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize("info", [None, {}, {"clanBannerData": None}, {"clanBannerData": {}}])
def test_a_clan_without_banner_has_seven_zeros(info: Json) -> None:
    """Readers refuse the whole clan when one of the seven is missing."""
    assert read_group(group(clanInfo=info)) == Clan("Ann", "", "", dict.fromkeys(BANNER_PARTS, 0))


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, "x", None, [], True])
def test_what_is_no_unsigned_number_is_zero(value: Json) -> None:
    found = read_group(
        group(clanInfo={"clanBannerData": {"decalId": value, "gonfalonId": 7, "other": 9}})
    )
    assert found is not None
    assert found.banner == dict.fromkeys(BANNER_PARTS, 0) | {"gonfalonId": 7}


@pytest.mark.parametrize("kind", [0, 2, None])
def test_a_group_of_another_kind_is_no_clan(kind: int | None) -> None:
    assert read_group(group(groupType=kind)) is None


def member(membership_id: Json) -> Json:
    return {"destinyUserInfo": {"membershipId": membership_id}}


def test_members_without_an_id_are_left_out() -> None:
    """Deleted accounts stay in the list of members."""
    results = [member("5"), member("0"), member(None), member("x"), {}, member(6), member("5")]
    assert read_members(encode({"results": results, "hasMore": True})) == MemberPage((5, 6), True)


@pytest.mark.parametrize("page", [{}, {"results": []}, {"results": None, "hasMore": None}])
def test_an_empty_page_is_no_error(page: Json) -> None:
    assert read_members(encode(page)) == MemberPage((), has_more=False)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"detail": 5}', b"{"])
def test_an_answer_of_another_shape_is_tried_again(body: bytes) -> None:
    with pytest.raises(TransientError, match="group of another shape"):
        read_group(body)


# Real answers.


@pytest.mark.parametrize(
    ("path", "name", "call_sign", "decal"),
    [
        ("group/clan_2022.json", "Heavenly Mayhem", "HeM", 4142223388),
        ("group/clan_2017.json", "The Warren", "WRRN", 4125445803),
    ],
)
def test_real_clans_are_read(path: str, name: str, call_sign: str, decal: int) -> None:
    found = read_group(encode(msgspec.json.decode(sample(path))["Response"]))
    assert found is not None
    assert (found.name, found.call_sign, found.banner["decalId"]) == (name, call_sign, decal)
    assert set(found.banner) == set(BANNER_PARTS)
    assert all(found.banner.values())


@pytest.mark.parametrize(
    ("path", "members"),
    [("members_103", 103), ("members_87", 87), ("empty_page", 0)],
)
def test_real_pages_of_members_are_read_whole(path: str, members: int) -> None:
    found = msgspec.json.decode(sample(f"group_members/{path}.json"))
    page = read_members(encode(found.get("Response", found)))
    assert len(page.members) == members
    assert not page.has_more


@pytest.mark.parametrize(
    ("told", "clans"),
    [
        ({"5": False, "4": False}, (4, 5)),
        ({"5": False, "6": True}, (5,)),
        ({"0": False, "x": False, "-3": False, "99999999999999999999": False}, ()),
        ({}, ()),
    ],
    ids=["two", "ghost", "no ids", "none"],
)
def test_only_clans_of_the_account_that_plays_are_read(told: Json, clans: tuple[int, ...]) -> None:
    """A ghost is the clan of an account that cross save left behind, for ever in the list."""
    body = {"areAllMembershipsInactive": told, "results": [{"group": {"groupId": "7"}}]}
    assert read_clans_of(encode(body)) == clans


@pytest.mark.parametrize(
    "body", [b"[]", b'{"areAllMembershipsInactive": [1]}', b'{"results": []}', b"7", b"{"]
)
def test_groups_of_another_shape_are_no_answer(body: bytes) -> None:
    """Taken for a player without clans, every change of the API would empty the crawl."""
    with pytest.raises(TransientError, match="groups of a member of another shape"):
        read_clans_of(body)


@pytest.mark.parametrize(("name", "clans"), [("one_clan", (3074427,)), ("none", ())])
def test_real_groups_of_a_member_are_read(name: str, clans: tuple[int, ...]) -> None:
    found = msgspec.json.decode(sample(f"groups_for_member/{name}_assembled.json"))
    assert read_clans_of(encode(found["Response"])) == clans
