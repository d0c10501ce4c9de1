"""How likely an account is a cheater's, and the level that its flags and this chance give together.

Pure: what is known comes as values, numbers come from the parameters. Missing facts say nothing and
are never guilt. Formulas: docs/domain/cheat-levels.md.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import msgspec

from raidhub_dagster.cheat_detection.curves import any_of
from raidhub_dagster.cheat_detection.parameters import Account, LevelRule, Levels, Parameters

_DAY_S = 86_400.0
# As readers of reports know them.
NAMES = {
    "age": "Age",
    "star_clears": "StarClears",
    "clears": "Clears",
    "platform": "Platform",
    "characters": "Characters",
    "dlcs": "DLCs",
    "guardian_rank": "GuardianRank",
    "private_profile": "PrivateProfile",
}


class Record(msgspec.Struct, frozen=True):
    """What the database knows of a player. Times are aware.

    `completed` and the three below count completed runs of the last `window_days`.
    """

    membership_id: int
    membership_type: int | None
    name: str
    first_seen: datetime
    last_seen: datetime
    clears: int  # of all times
    is_private: bool
    was_crawled: bool  # False: `first_seen` is only the first run that was stored
    cheat_level: int
    completed: int
    lowman: int
    flawless: int
    solo: int

    def age_days(self, now: datetime) -> float:
        return (now - self.first_seen).total_seconds() / _DAY_S

    def share(self, runs: int) -> float:
        """Of the completed runs; 0 without any."""
        return runs / self.completed if self.completed > 0 else 0.0


class Profile(msgspec.Struct, frozen=True):
    """What an account shows of itself; None is what it hides or what could not be read."""

    membership_types: tuple[int, ...] = ()  # its own and those it may sign in from
    characters: int | None = None
    versions_owned: int | None = None  # a bit a game and expansion
    seasons: int | None = None
    current_rank: int | None = None
    highest_rank: int | None = None  # of all times


class Factor(NamedTuple):
    """One reason for or, below 0, against; `is_named`: people are told of it."""

    name: str
    value: float
    is_named: bool


class AccountVerdict(NamedTuple):
    """`chance` in 0..1. `is_partial`: no profile was to be had, so its factors are left out."""

    chance: float
    factors: tuple[Factor, ...]
    is_partial: bool

    @property
    def names(self) -> list[str]:
        return [NAMES[factor.name] for factor in self.factors if factor.is_named]


class Counts(NamedTuple):
    """Flags of each class, none of them counted twice."""

    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0

    @property
    def total(self) -> int:
        return sum(self)

    def reaching(self, name: str) -> int:
        """Flags of class `name` or a heavier one."""
        return sum(self[: "abcd".index(name) + 1])


class Judgement(NamedTuple):
    """A level and the line of the rules that gave it, with its numbers; level 0 has none."""

    level: int
    rule: str


def judge_account(
    account: Account, record: Record, profile: Profile | None, now: datetime
) -> AccountVerdict:
    """The account's chance at `now` (aware); without a `profile` from the record alone."""
    factors = [
        _age(account, record, now),
        _star_clears(account, record),
        _clears(account, record),
        Factor(
            "private_profile",
            account.private_profile if record.is_private else 0.0,
            record.is_private,
        ),
    ]
    if profile is not None:
        factors += [
            _platform(account, record, profile),
            _characters(account, profile),
            _dlcs(account, profile),
            _guardian_rank(account, profile),
        ]
    factors.sort(key=lambda factor: getattr(account.bits, factor.name))
    return AccountVerdict(
        any_of(factor.value for factor in factors), tuple(factors), profile is None
    )


def judge(parameters: Parameters, flags: Counts, sure: Counts, chance: float) -> Judgement:
    """The level of a player with these flags and this account's chance.

    `sure` are those of `flags` that do not rest on generic rules alone; the others lift nobody
    above generic.max_level.
    """
    found = level_of(parameters.levels, flags, chance)
    most = parameters.generic.max_level
    if found.level <= most or flags == sure:
        return found
    certain = level_of(parameters.levels, sure, chance)
    if certain.level > most:
        return certain
    return Judgement(most, f"{found.rule}, at most {most} by generic rules")


def level_of(levels: Levels, flags: Counts, chance: float) -> Judgement:
    """The highest level of which one line matches; none below `min_flags`."""
    if flags.total >= levels.min_flags:
        for level, rules in levels.descending:
            for rule in rules:
                if _matches(rule, flags, chance):
                    return Judgement(level, _told(rule, flags, chance))
    return Judgement(0, "")


def _needs(rule: LevelRule) -> Iterable[tuple[str, int]]:
    wanted = (("a", rule.a), ("b", rule.b), ("c", rule.c), ("d", rule.d))
    return [(name, least) for name, least in wanted if least is not None]


def _matches(rule: LevelRule, flags: Counts, chance: float) -> bool:
    return all(flags.reaching(name) >= least for name, least in _needs(rule)) and (
        rule.chance is None or chance >= rule.chance
    )


def _told(rule: LevelRule, flags: Counts, chance: float) -> str:
    """As `5 or more flags of class a (6), chance of the account at least 0.90 (0.934)`."""
    classes = {"a": "class a", "b": "class a or b", "c": "class a to c", "d": "any class"}
    parts = [
        f"{least} or more flags of {classes[name]} ({flags.reaching(name)})"
        for name, least in _needs(rule)
    ]
    if rule.chance is not None:
        parts.append(f"chance of the account at least {rule.chance:.2f} ({chance:.3f})")
    return ", ".join(parts)


def _age(account: Account, record: Record, now: datetime) -> Factor:
    if record.was_crawled:
        days = record.age_days(now)
        for step in account.age.steps:
            if days < step.days:
                return Factor("age", step.value, step.flag)
    return Factor("age", 0.0, False)


def _star_clears(account: Account, record: Record) -> Factor:
    rule = account.star_clears
    heaviest = max(
        rule.lowman * record.share(record.lowman),
        rule.flawless * record.share(record.flawless),
        rule.solo * record.share(record.solo),
    )
    value = min(rule.cap, heaviest) / max(
        1.0, (record.clears - rule.clears_offset) / rule.clears_scale
    )
    return Factor("star_clears", value, value > rule.flag_above)


def _clears(account: Account, record: Record) -> Factor:
    rule = account.clears
    if record.clears >= rule.below:
        return Factor("clears", 0.0, False)
    return Factor("clears", (rule.below - max(record.clears, 0)) / rule.divisor, True)


def _platform(account: Account, record: Record, profile: Profile) -> Factor:
    types = set(profile.membership_types)
    if not types and record.membership_type is not None:
        types = {record.membership_type}
    if not types:
        return Factor("platform", 0.0, False)
    rule = account.platform
    value = max([rule.base, *(rule.values[kind] for kind in types if kind in rule.values)])
    return Factor("platform", value, bool(types & rule.flag))


def _characters(account: Account, profile: Profile) -> Factor:
    value = account.characters.get(profile.characters or 0, 0.0)
    return Factor("characters", value, value > 0)


def _dlcs(account: Account, profile: Profile) -> Factor:
    if profile.versions_owned is None or profile.seasons is None:
        return Factor("dlcs", 0.0, False)
    rule = account.dlcs
    owned = (profile.versions_owned >> rule.first_bit).bit_count()
    value = rule.base ** (owned + rule.season_weight * profile.seasons) + rule.offset
    return Factor("dlcs", value, value > rule.flag_above)


def _guardian_rank(account: Account, profile: Profile) -> Factor:
    rule = account.guardian_rank
    current = profile.current_rank or 0
    highest = max(profile.highest_rank or 0, current)
    if highest <= 0:  # ranks count from 1
        return Factor("guardian_rank", 0.0, False)
    if highest < rule.low_below:
        value = rule.low_value + rule.low_step * (rule.low_from - highest)
        return Factor("guardian_rank", value, True)
    if highest == rule.low_below:
        return Factor("guardian_rank", rule.five, True)
    if current >= rule.high_from:
        value = rule.high_value + rule.high_step * (highest - rule.high_from)
        return Factor("guardian_rank", value, False)
    return Factor("guardian_rank", 0.0, False)
