"""What people and other systems are told of levels; pure, the outbox carries it.

Shapes: docs/domain/cheat-levels.md, "Who is told".
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from raidhub_dagster.cheat_detection.account import AccountVerdict, Counts, Record
from raidhub_dagster.discord.alerts import Colour
from raidhub_dagster.discord.messages import embed

_INT64 = 1 << 64
_LEVEL_BITS = 20
LEVEL_NAMES = ("None", "Suspicious", "Moderate", "Extreme", "Blacklisted")


class Rise(msgspec.Struct, frozen=True):
    """A player whose level rose, with everything behind it."""

    record: Record
    old_level: int
    new_level: int
    rule: str
    flags: Counts
    sure: Counts
    account: AccountVerdict


def blacklisted_player(rise: Rise, *, now: datetime, version: str) -> Mapping[str, Any]:
    """For Discord: somebody reached the highest level."""
    record, account = rise.record, rise.account
    names = ", ".join(account.names) or "no factor"
    partial = ", without the profile" if account.is_partial else ""
    return embed(
        "Blacklisted Player",
        Colour.RED,
        at=now,
        footer=version,
        fields={
            "Player": f"{record.name or 'unknown'} ({record.membership_id})",
            "Last seen": record.last_seen.isoformat(timespec="seconds"),
            "Clears": record.clears,
            "Account age in days": int(record.age_days(now)),
            "Class A flags": rise.flags.a,
            "Account chance": f"{account.chance:.3f} ({names}{partial})",
        },
    )


def run_summary(
    levels: Mapping[int, int],
    *,
    raised: int,
    blacklisted: int,
    cascaded: int,
    eligible: int,
    now: datetime,
    version: str,
) -> Mapping[str, Any]:
    """For Discord: what a run did. `levels` are players by level; `eligible` raids of a cascade."""
    by_level = {f"{LEVEL_NAMES[level]} ({level})": levels.get(level, 0) for level in (1, 2, 3, 4)}
    return embed(
        "Cheat levels",
        Colour.BLUE if raised or blacklisted or cascaded else Colour.GREY,
        at=now,
        footer=version,
        fields={
            **by_level,
            "Levels raised": raised,
            "Blacklisted": blacklisted,
            "Cascaded": cascaded,
            "Eligible": eligible,
        },
    )


def gm_report(rise: Rise, *, now: datetime, window_days: int) -> Mapping[str, Any]:
    """The report to the Grandmasters' service."""
    record, account, flags = rise.record, rise.account, rise.flags
    return {
        "id": report_id(record.membership_id, rise.new_level),
        "player": str(record.membership_id),
        "metadata": {
            "cheater_account_probability": round(account.chance, 6),
            "cheater_account_heuristics": account.names,
            "raidhub_cheat_level": rise.new_level,
            "estimated_account_age_days": round(record.age_days(now), 3),
            "look_back_days": window_days,
            "raid_clears": record.clears,
            "fraction_raid_clears_solo": round(record.share(record.solo), 6),
            "fraction_raid_clears_lowman": round(record.share(record.lowman), 6),
            "fraction_raid_clears_flawless": round(record.share(record.flawless), 6),
            "flags": {
                "total": flags.total,
                "class_a": flags.a,
                "class_b": flags.b,
                "class_c": flags.c,
                "class_d": flags.d,
            },
            "last_seen": record.last_seen.isoformat().replace("+00:00", "Z"),
        },
    }


def report_id(membership_id: int, level: int) -> int:
    """membership_id * 2^20 + level, as signed 64-bit arithmetic wraps it."""
    wrapped = ((membership_id << _LEVEL_BITS) + level) % _INT64
    return wrapped - _INT64 if wrapped >= _INT64 // 2 else wrapped


def evidence(rise: Rise, *, version: str, run: str, now: datetime) -> dict[str, object]:
    """What a change of level rests on; the flags themselves are added by the statement."""
    return {
        "rules": version,
        "run": run,
        "rule": rise.rule,
        "flags": rise.flags._asdict(),
        "sure": rise.sure._asdict(),
        "chance": round(rise.account.chance, 6),
        "factors": {f.name: round(f.value, 6) for f in rise.account.factors if f.value},
        "partial": rise.account.is_partial,
        "age_days": round(rise.record.age_days(now), 3),
        "clears": rise.record.clears,
    }
