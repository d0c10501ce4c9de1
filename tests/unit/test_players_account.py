"""Which membership types are tried, and in what order, until an account is found."""

import pytest

from raidhub_dagster.bungie.client import RefusedError
from raidhub_dagster.players.account import AbsentError, ask_account
from tests.support.api import ENDPOINTS, FakeApi, Refusal
from tests.support.reports import Json

WHO = 4_611_686_018_400_000_001
LINKED = ENDPOINTS.linked_profiles_url(WHO)
WRONG = Refusal(18)


def url(membership_type: int) -> str:
    return ENDPOINTS.profile_url(membership_type, WHO)


def api(**answers: Json) -> FakeApi:
    """`t1`, `t2`, ... are the answers of the types, `linked` that of the linked profiles."""
    return FakeApi(
        {LINKED if name == "linked" else url(int(name[1:])): a for name, a in answers.items()}
    )


def ask(api: FakeApi, known: int | None = None) -> int:
    return ask_account(api.client, WHO, known, url)[0]


def linked(membership_type: int, who: int = WHO) -> Json:
    return {"profiles": [{"membershipType": membership_type, "membershipId": str(who)}]}


def test_a_known_type_costs_one_request() -> None:
    found = api(t3={})
    assert (ask(found, 3), found.asked) == (3, [url(3)])


def test_unknown_types_are_tried_in_their_order_until_one_is_right() -> None:
    """Only a wrong type (code 18) is a reason to go on."""
    found = api(t1=WRONG, t2=WRONG, t3=WRONG, t5=WRONG, t6={})
    assert (ask(found), found.asked) == (6, [url(t) for t in (1, 2, 3, 5, 6)])


def test_a_known_type_that_became_wrong_is_no_dead_end() -> None:
    """Battle.net's accounts moved to Steam under the same id."""
    found = api(t4=WRONG, t1=WRONG, t2=WRONG, t3={})
    assert (ask(found, 4), found.asked) == (3, [url(t) for t in (4, 1, 2, 3)])


@pytest.mark.parametrize("name", ["membershipType", "membershipInfo.membershipType"])
@pytest.mark.parametrize("said", ["TigerEgs", "6"])
def test_a_hint_is_tried_next(name: str, said: str) -> None:
    found = api(t1=Refusal(18, **{name: said}), t6={})
    assert (ask(found), found.asked) == (6, [url(1), url(6)])


@pytest.mark.parametrize("said", ["TigerNowhere", "", "9", "-1", "²", "254"])
def test_a_hint_that_makes_no_sense_is_passed_over(said: str) -> None:
    found = api(t1=Refusal(18, membershipType=said), t2={})
    assert (ask(found), found.asked) == (2, [url(1), url(2)])


def test_hints_that_lead_in_a_circle_end() -> None:
    circle = api(
        t1=Refusal(18, membershipType="TigerPsn"),
        t2=Refusal(18, membershipType="TigerXbox"),
        t3=WRONG,
        t5=WRONG,
        t6=WRONG,
        linked=linked(2),
    )
    with pytest.raises(AbsentError):
        ask(circle)
    assert sorted(circle.asked) == sorted([*map(url, (1, 2, 3, 5, 6)), LINKED])


def test_linked_profiles_tell_the_type_of_an_account_that_is_not_found() -> None:
    """Code 1601 comes for a wrong type too: the rest need not be guessed."""
    found = api(t1=Refusal(1601), linked=linked(3), t3={})
    assert (ask(found), found.asked) == (3, [url(1), LINKED, url(3)])


def test_an_account_that_cross_save_left_behind_is_absent() -> None:
    """It stands among the errors of the linked profiles, and its successor is somebody else."""
    errors = [{"errorCode": 1601, "infoCard": {"membershipType": 1, "membershipId": str(WHO)}}]
    found = api(linked=linked(3, WHO + 7) | {"profilesWithErrors": errors})
    with pytest.raises(AbsentError):
        ask(found, 1)
    assert found.asked == [url(1), LINKED]


@pytest.mark.parametrize("code", [8, 24, 205, 217, 1668, 1682])
def test_what_nobody_can_ask_for_is_absent_at_once(code: int) -> None:
    found = api(t3=Refusal(code))
    with pytest.raises(AbsentError):
        ask(found, 3)
    assert found.asked == [url(3)]


@pytest.mark.parametrize("code", [1665, 1620, 7, 2101])
def test_what_another_type_would_not_change_is_for_the_caller(code: int) -> None:
    """Privacy, a deleted character, a broken request of ours, a refused key."""
    found = api(t3=Refusal(code))
    with pytest.raises(RefusedError) as refused:
        ask(found, 3)
    assert (refused.value.code, found.asked) == (code, [url(3)])


def test_a_key_refused_by_the_linked_profiles_is_not_an_absent_account() -> None:
    """Otherwise a bad key would empty clans of their members."""
    with pytest.raises(RefusedError):
        ask(api(t3=Refusal(1601), linked=Refusal(2101)), 3)
