"""Account factors and levels, computed by hand; the numbers are those of compat-2.2.0."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.cheat_detection.account import (
    NAMES,
    Counts,
    Profile,
    Record,
    judge,
    judge_account,
    level_of,
)
from raidhub_dagster.cheat_detection.curves import any_of
from raidhub_dagster.cheat_detection.flag_stats import class_of
from raidhub_dagster.cheat_detection.parameters import load_parameters

NOW = datetime(2026, 6, 1, tzinfo=UTC)
PARAMETERS = load_parameters("compat-2.2.0")
# An old account with many clears and nothing odd, of which every factor of the record is 0.
PLAIN = Record(
    membership_id=1,
    membership_type=1,
    name="Ann#0001",
    first_seen=NOW - timedelta(days=2000),
    last_seen=NOW,
    clears=500,
    is_private=False,
    was_crawled=True,
    cheat_level=0,
    completed=100,
    lowman=0,
    flawless=0,
    solo=0,
)
# The same of the profile, but for the platform, which has no 0.
USUAL = Profile(
    membership_types=(1,), characters=3, versions_owned=(1 << 13) - 1, seasons=20,
    current_rank=6, highest_rank=8,
)  # fmt: skip


def factor(name: str, record: Record = PLAIN, profile: Profile | None = USUAL) -> tuple[Any, bool]:
    """Value of one factor, and whether people are told of it."""
    verdict = judge_account(PARAMETERS.account, record, profile, NOW)
    (found,) = [f for f in verdict.factors if f.name == name]
    return pytest.approx(found.value, abs=1e-12), found.is_named


def record(**changes: Any) -> Record:
    return msgspec.structs.replace(PLAIN, **changes)


def profile(**changes: Any) -> Profile:
    return msgspec.structs.replace(USUAL, **changes)


@pytest.mark.parametrize(
    ("days", "value", "is_named"),
    [
        (0, 0.4, True),
        (6.999, 0.4, True),
        (7, 0.3, True),
        (29.999, 0.3, True),
        (30, 0.2, True),
        (89.999, 0.2, True),
        (90, 0.05, False),
        (364.999, 0.05, False),
        (365, 0.0, False),
        (-1, 0.4, True),  # clocks differ
    ],
)
def test_a_young_account_is_suspicious(days: float, value: float, is_named: bool) -> None:
    young = record(first_seen=NOW - timedelta(days=days))
    assert factor("age", young) == (value, is_named)


def test_the_age_of_somebody_nobody_crawled_says_nothing() -> None:
    """First seen is then the first run that was stored: everybody would be young at the start."""
    young = record(first_seen=NOW - timedelta(days=1), was_crawled=False)
    assert factor("age", young) == (0.0, False)


@pytest.mark.parametrize(
    ("changes", "value", "is_named"),
    [
        ({"lowman": 40}, 0.5 * 0.4, True),
        ({"flawless": 10}, 5 * 0.10, True),
        ({"solo": 3}, 10 * 0.03, True),
        ({"lowman": 100, "flawless": 1, "solo": 1}, 0.5, True),
        ({"solo": 50}, 0.75, True),  # the cap
        ({"lowman": 16}, 0.08, False),
        ({"lowman": 17}, 0.085, True),
        ({"completed": 0, "solo": 0}, 0.0, False),
        ({"lowman": 40, "clears": 140}, 0.2, True),  # (140 - 70) / 70 = 1
        ({"lowman": 40, "clears": 210}, 0.1, True),  # 2
        ({"lowman": 40, "clears": 350}, 0.05, False),  # 4
        ({"lowman": 40, "clears": 10}, 0.2, True),
    ],
)
def test_star_clears(changes: dict[str, int], value: float, is_named: bool) -> None:
    """Shares of completed runs, weaker the more clears there are in all."""
    assert factor("star_clears", record(**({"clears": 70} | changes))) == (value, is_named)


@pytest.mark.parametrize(
    ("clears", "value", "is_named"), [(0, 0.2, True), (49, 0.004, True), (50, 0, False)]
)
def test_few_clears(clears: int, value: float, is_named: bool) -> None:
    assert factor("clears", record(clears=clears)) == (value, is_named)


@pytest.mark.parametrize(
    ("types", "value", "is_named"),
    [
        ((1, 2), -0.2, False),
        ((3,), 0.03, False),
        ((6,), 0.06, True),
        ((1, 3, 6), 0.06, True),  # the maximum, not the minimum
        ((6, 3), 0.06, True),
        ((), -0.2, False),  # the type that the database knows
    ],
)
def test_platform(types: tuple[int, ...], value: float, is_named: bool) -> None:
    assert factor("platform", PLAIN, profile(membership_types=types)) == (value, is_named)


def test_a_platform_that_nobody_knows_says_nothing() -> None:
    unknown = record(membership_type=None)
    assert factor("platform", unknown, profile(membership_types=())) == (0.0, False)


@pytest.mark.parametrize(
    ("characters", "value"), [(None, 0), (0, 0), (1, 0.25), (2, 0.15), (3, 0), (4, 0)]
)
def test_characters(characters: int | None, value: float) -> None:
    assert factor("characters", PLAIN, profile(characters=characters)) == (value, value > 0)


@pytest.mark.parametrize(
    ("versions", "seasons", "value", "is_named"),
    [
        (0b111, 0, 1 - 0.15, True),  # the first three are everybody's
        (0b1111, 0, 0.81 - 0.15, True),
        (0b1111, 2, 0.81**2 - 0.15, True),
        (0b11111111, 4, 0.81**7 - 0.15, False),  # 0.0788
        (0, 30, 0.81**15 - 0.15, False),  # below 0: speaks for the account
        (None, 3, 0.0, False),
        (0b1111, None, 0.0, False),
    ],
)
def test_dlcs(versions: int | None, seasons: int | None, value: float, is_named: bool) -> None:
    owned = profile(versions_owned=versions, seasons=seasons)
    assert factor("dlcs", PLAIN, owned) == (value, is_named)


@pytest.mark.parametrize(
    ("current", "highest", "value", "is_named"),
    [
        (1, 1, 0.45, True),
        (4, 4, 0.3, True),
        (5, 5, 0.05, True),
        (3, 6, 0.0, False),
        (8, 11, 0.0, False),
        (9, 9, -0.05, False),
        (9, 11, -0.25, False),
        (11, 11, -0.25, False),
        (None, None, 0.0, False),
        (None, 4, 0.3, True),
        (0, 0, 0.0, False),  # ranks count from 1: none is no low one
        (9, None, -0.05, False),
        (9, 3, -0.05, False),  # the highest ever is at least the present one
    ],
)
def test_guardian_rank(
    current: int | None, highest: int | None, value: float, is_named: bool
) -> None:
    ranked = profile(current_rank=current, highest_rank=highest)
    assert factor("guardian_rank", PLAIN, ranked) == (value, is_named)


def test_a_private_account_is_a_little_suspicious() -> None:
    assert factor("private_profile", record(is_private=True)) == (0.125, True)


def test_the_chance_is_that_any_factor_is_right() -> None:
    """0.4 (age) with 0.2 (clears) and -0.2 (platform): 1 - 0.6 * 0.8 * 1.2 = 0.424."""
    young = record(first_seen=NOW, clears=0)
    verdict = judge_account(PARAMETERS.account, young, USUAL, NOW)
    dlcs = 0.81**20 - 0.15  # (1 << 13) - 1 has ten above the third, 20 seasons are ten more
    assert verdict.chance == pytest.approx(1 - 0.6 * 0.8 * 1.2 * (1 - dlcs))
    assert verdict.names == ["Age", "Clears"]
    assert not verdict.is_partial


def test_without_a_profile_the_record_speaks_alone() -> None:
    """An API that is away must not make anybody guilty, nor a cheater innocent."""
    young = record(first_seen=NOW, clears=0, is_private=True, solo=10, completed=20)
    verdict = judge_account(PARAMETERS.account, young, None, NOW)
    assert verdict.chance == pytest.approx(1 - 0.6 * 0.8 * 0.875 * 0.25)
    assert verdict.is_partial
    assert verdict.names == ["Age", "StarClears", "Clears", "PrivateProfile"]


def test_factors_have_the_order_and_names_of_their_bits() -> None:
    """Readers of the report know these eight names."""
    bits = PARAMETERS.account.bits.model_dump()
    assert sorted(NAMES, key=lambda name: bits[name]) == list(NAMES)
    verdict = judge_account(PARAMETERS.account, PLAIN, USUAL, NOW)
    assert [f.name for f in verdict.factors] == list(NAMES)


@pytest.mark.parametrize(
    ("chances", "value"),
    [((), 0), ((0.5, 0.5), 0.75), ((-0.2,), 0), ((0.5, -0.2), 0.4), ((1.7,), 1), ((1, -9), 1)],
)
def test_any_of(chances: tuple[float, ...], value: float) -> None:
    assert any_of(chances) == pytest.approx(value)


@pytest.mark.parametrize(
    ("flags", "chance", "level"),
    [
        (Counts(a=5), 0.90, 4),
        (Counts(a=5), 0.899, 2),
        (Counts(a=10), 0.70, 4),
        (Counts(a=10), 0.699, 3),
        (Counts(a=25), 0.50, 4),
        (Counts(a=50), 0.25, 4),
        (Counts(a=50), 0.249, 3),
        (Counts(a=100), 0.0, 4),
        (Counts(a=99), 0.0, 3),
        (Counts(a=6), 0.0, 3),
        (Counts(b=30), 0.0, 3),
        (Counts(a=1, b=29), 0.0, 3),  # cumulative
        (Counts(b=10), 0.75, 3),
        (Counts(b=10), 0.749, 2),
        (Counts(a=4), 0.0, 2),
        (Counts(c=30), 0.0, 2),
        (Counts(b=1, c=14), 0.60, 2),
        (Counts(c=15), 0.599, 1),
        (Counts(d=30), 0.0, 1),
        (Counts(d=29), 1.0, 0),
        (Counts(c=5), 0.0, 1),
        (Counts(b=2, d=1), 0.0, 1),
        (Counts(a=1, d=2), 0.0, 1),
        (Counts(a=1, d=1), 1.0, 0),  # three flags at least
        (Counts(a=2), 1.0, 0),
        (Counts(), 1.0, 0),
    ],
)
def test_levels(flags: Counts, chance: float, level: int) -> None:
    assert level_of(PARAMETERS.levels, flags, chance).level == level


def test_the_rule_is_told_with_its_numbers() -> None:
    """What stands in the record of the change, and what a complaint is answered with."""
    found = level_of(PARAMETERS.levels, Counts(a=6, b=2), 0.934)
    assert found == (
        4,
        "5 or more flags of class a (6), chance of the account at least 0.90 (0.934)",
    )
    found = level_of(PARAMETERS.levels, Counts(b=3, c=2), 0)
    assert found.rule == "5 or more flags of class a to c (5)"


@pytest.mark.parametrize(
    ("flags", "sure", "level"),
    [
        (Counts(a=100), Counts(), 2),
        (Counts(a=100), Counts(a=5), 2),
        (Counts(a=100), Counts(a=6), 3),
        (Counts(a=100), Counts(a=100), 4),
        (Counts(a=4), Counts(), 2),
        (Counts(a=1, d=2), Counts(), 1),
    ],
)
def test_generic_rules_alone_lift_nobody_above_their_level(
    flags: Counts, sure: Counts, level: int
) -> None:
    """A new raid without a table must not blacklist those who are the first to be good at it."""
    assert judge(PARAMETERS, flags, sure, 0.0).level == level


def test_a_level_that_generic_rules_cap_says_so() -> None:
    assert judge(PARAMETERS, Counts(a=6), Counts(), 0.0).rule == (
        "6 or more flags of class a (6), at most 2 by generic rules"
    )


@pytest.mark.parametrize(
    ("player", "instance", "name"),
    [
        (0.85, None, "a"),
        (0.8499, 0.98, "b"),
        (0.5, None, "b"),
        (0.06, 0.99, "b"),
        (0.25, None, "c"),
        (0.06, 0.5, "c"),
        (0.06, 0.4999, "d"),
        (0.06, None, "d"),
        (None, None, "d"),
    ],
)
def test_classes_of_flags(player: float | None, instance: float | None, name: str) -> None:
    assert class_of(PARAMETERS.classes, player, instance) == name


counts = st.builds(Counts, *(st.integers(0, 120) for _ in range(4)))
chances = st.floats(0, 1)


@given(counts, counts, chances, chances)
def test_more_flags_and_a_worse_account_never_lower_a_level(
    flags: Counts, more: Counts, chance: float, other: float
) -> None:
    """Otherwise somebody escapes by cheating more."""
    low, high = sorted((chance, other))
    total = Counts(*(a + b for a, b in zip(flags, more, strict=True)))
    before = judge(PARAMETERS, flags, flags, low).level
    assert before <= judge(PARAMETERS, total, flags, low).level
    assert before <= judge(PARAMETERS, total, total, low).level
    assert before <= judge(PARAMETERS, flags, flags, high).level
    assert 0 <= before <= 4


@given(counts, st.integers(0, 3), chances)
def test_a_heavier_class_never_lowers_a_level(flags: Counts, place: int, chance: float) -> None:
    """A flag that is found to be worse must not do its player a favour."""
    if place == 0 or flags[place] == 0:
        return
    moved = list(flags)
    moved[place] -= 1
    moved[place - 1] += 1
    heavier = Counts(*moved)
    assert level_of(PARAMETERS.levels, flags, chance).level <= (
        level_of(PARAMETERS.levels, heavier, chance).level
    )


odd = st.one_of(st.none(), st.integers(0, 2**63 - 1))


@given(
    st.builds(
        Record,
        membership_id=st.integers(1, 2**63 - 1),
        membership_type=st.one_of(st.none(), st.integers(-1, 300)),
        name=st.text(max_size=5),
        first_seen=st.datetimes(timezones=st.just(UTC)),
        last_seen=st.datetimes(timezones=st.just(UTC)),
        clears=st.integers(0, 2**31 - 1),
        is_private=st.booleans(),
        was_crawled=st.booleans(),
        cheat_level=st.integers(0, 4),
        completed=st.integers(0, 9),
        lowman=st.integers(0, 9),
        flawless=st.integers(0, 9),
        solo=st.integers(0, 9),
    ),
    st.one_of(
        st.none(),
        st.builds(
            Profile,
            membership_types=st.lists(st.integers(1, 6), max_size=4).map(tuple),
            characters=odd,
            versions_owned=odd,
            seasons=st.one_of(st.none(), st.integers(0, 10_000)),
            current_rank=odd,
            highest_rank=odd,
        ),
    ),
)
def test_the_chance_is_a_chance_whatever_is_known(known: Record, shown: Profile | None) -> None:
    """An odd profile once ended the whole run."""
    verdict = judge_account(PARAMETERS.account, known, shown, NOW)
    assert 0 <= verdict.chance <= 1
    assert verdict.is_partial == (shown is None)
