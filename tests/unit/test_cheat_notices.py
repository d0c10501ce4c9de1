"""What is told of levels: the report to the Grandmasters' service to the letter, and embeds."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.cheat_detection import notices
from raidhub_dagster.cheat_detection.account import AccountVerdict, Counts, Factor, Record

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
RISE = notices.Rise(
    record=Record(
        membership_id=4611686018488107374,
        membership_type=3,
        name="Ann#0001",
        first_seen=NOW - timedelta(days=12, hours=12),
        last_seen=datetime(2026, 5, 31, 20, 15, 9, 500_000, tzinfo=UTC),
        clears=40,
        is_private=False,
        was_crawled=True,
        cheat_level=1,
        completed=8,
        lowman=4,
        flawless=2,
        solo=1,
    ),
    old_level=1,
    new_level=4,
    rule="5 or more flags of class a (6)",
    flags=Counts(6, 2, 1, 3),
    sure=Counts(6, 2, 1, 3),
    account=AccountVerdict(
        0.91234567, (Factor("age", 0.3, True), Factor("platform", 0.03, False)), is_partial=False
    ),
)


@pytest.mark.parametrize(
    ("membership_id", "level", "id_"),
    [
        (1, 2, 1_048_578),
        (0, 4, 4),
        # 2^62 + 60719470: times 2^20 the first part is 2^82, of which 64 bits keep nothing.
        (4611686018488107374, 4, 60_719_470 * 1_048_576 + 4),
        (1 << 43, 2, -(1 << 63) + 2),  # 2^63 is the sign
        ((1 << 44) - 1, 3, -1_048_576 + 3),
        (1 << 44, 3, 3),
    ],
)
def test_ids_of_reports_wrap_as_signed_64_bits(membership_id: int, level: int, id_: int) -> None:
    """Another id, and the receiver counts the same rise twice."""
    assert notices.report_id(membership_id, level) == id_


def test_a_report_has_exactly_the_agreed_fields() -> None:
    report = json.loads(msgspec.json.encode(notices.gm_report(RISE, now=NOW, window_days=60)))
    assert report == {
        "id": 60_719_470 * 1_048_576 + 4,
        "player": "4611686018488107374",
        "metadata": {
            "cheater_account_probability": 0.912346,
            "cheater_account_heuristics": ["Age"],
            "raidhub_cheat_level": 4,
            "estimated_account_age_days": 12.5,
            "look_back_days": 60,
            "raid_clears": 40,
            "fraction_raid_clears_solo": 0.125,
            "fraction_raid_clears_lowman": 0.5,
            "fraction_raid_clears_flawless": 0.25,
            "flags": {"total": 12, "class_a": 6, "class_b": 2, "class_c": 1, "class_d": 3},
            "last_seen": "2026-05-31T20:15:09.500000Z",
        },
    }


def shown(message: Any) -> dict[str, str]:
    (embed,) = message["embeds"]
    return {field["name"]: field["value"] for field in embed["fields"]}


def test_a_blacklisted_player_is_told_in_red() -> None:
    message: Any = notices.blacklisted_player(RISE, now=NOW, version="compat-2.2.0")
    (embed,) = message["embeds"]
    assert (embed["title"], embed["color"]) == ("Blacklisted Player", 15548997)
    assert embed["footer"] == {"text": "compat-2.2.0"}
    assert shown(message) == {
        "Player": "Ann#0001 (4611686018488107374)",
        "Last seen": "2026-05-31T20:15:09+00:00",
        "Clears": "40",
        "Account age in days": "12",
        "Class A flags": "6",
        "Account chance": "0.912 (Age)",
    }


def test_a_verdict_without_a_profile_says_so() -> None:
    """Who answers a complaint must know that half of the factors are missing."""
    partial = msgspec.structs.replace(
        RISE,
        record=msgspec.structs.replace(RISE.record, name=""),
        account=AccountVerdict(0.5, (), is_partial=True),
    )
    fields = shown(notices.blacklisted_player(partial, now=NOW, version="x"))
    assert fields["Player"] == "unknown (4611686018488107374)"
    assert fields["Account chance"] == "0.500 (no factor, without the profile)"


@pytest.mark.parametrize(("raised", "colour"), [(0, 9807270), (1, 3447003)])
def test_a_summary_counts_players_by_level(raised: int, colour: int) -> None:
    message: Any = notices.run_summary(
        {1: 5, 4: 2}, raised=raised, blacklisted=0, cascaded=0, eligible=7, now=NOW, version="x"
    )
    assert message["embeds"][0]["color"] == colour
    assert shown(message) == {
        "Suspicious (1)": "5",
        "Moderate (2)": "0",
        "Extreme (3)": "0",
        "Blacklisted (4)": "2",
        "Levels raised": str(raised),
        "Blacklisted": "0",
        "Cascaded": "0",
        "Eligible": "7",
    }


def test_evidence_is_enough_to_follow_the_verdict() -> None:
    evidence = notices.evidence(RISE, version="compat-2.2.0", run="r1", now=NOW)
    assert json.loads(json.dumps(evidence)) == {
        "rules": "compat-2.2.0",
        "run": "r1",
        "rule": "5 or more flags of class a (6)",
        "flags": {"a": 6, "b": 2, "c": 1, "d": 3},
        "sure": {"a": 6, "b": 2, "c": 1, "d": 3},
        "chance": 0.912346,
        "factors": {"age": 0.3, "platform": 0.03},
        "partial": False,
        "age_days": 12.5,
        "clears": 40,
    }
