"""The message about a flagged run: its colour, and what is left of it when rules write a lot."""

import json
from datetime import UTC, datetime

import pytest

from raidhub_dagster.cheat_detection.facts import InstanceFacts
from raidhub_dagster.cheat_detection.flag_notice import colour, flagged_instance
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.cheat_detection.verdict import PlayerVerdict, Reason, Verdict

ENDED = datetime(2026, 1, 1, tzinfo=UTC)
FACTS = InstanceFacts(
    instance_id=5,
    activity_id=9,
    activity_name="Vault of Glass",
    is_raid=True,
    version_id=1,
    release_date=None,
    date_started=ENDED,
    date_completed=ENDED,
    duration=60,
    player_count=1,
    completed=True,
    fresh=True,
    flawless=None,
    skull_hashes=(),
    is_saturated=False,
    is_settled=True,
    players=(),
)


def message(players: int, text: str = "cleared it", probability: float = 0.75) -> dict[str, object]:
    said = (Reason(62, probability, text),)
    judged = tuple(PlayerVerdict(n, 1 / n, 1, said) for n in range(1, players + 1))
    verdict = Verdict(5, "test-1", probability, 1, said, judged)
    (embed,) = flagged_instance(load_parameters(), FACTS, verdict)["embeds"]
    return dict(embed)


@pytest.mark.parametrize(
    ("probability", "rgb"),
    [(0.0, (255, 255, 239)), (0.25, (255, 128, 120)), (1.0, (255, 0, 0)), (2.0, (255, 0, 0))],
)
def test_the_surer_the_redder(probability: float, rgb: tuple[int, int, int]) -> None:
    red, green, blue = rgb
    assert colour(probability) == red * 65536 + green * 256 + blue


def test_a_solo_run_does_not_name_its_player_twice() -> None:
    embed = message(1)
    assert embed["fields"] == [
        {"name": "Instance", "value": "5", "inline": True},
        {"name": "Activity", "value": "Vault of Glass", "inline": True},
        {"name": "Probability", "value": "0.750", "inline": True},
    ]
    assert embed["description"] == "cleared it"
    assert embed["footer"] == {"text": "test-1"}


def test_only_flagged_players_are_named_the_worst_first() -> None:
    """A clean player in a channel of cheats is a slander."""
    fields = message(25)["fields"]
    assert isinstance(fields, list)
    named = [field["name"] for field in fields]
    assert named[3:] == [*(f"Player {n}" for n in range(1, 13)), "More flagged players"]
    assert fields[-1]["value"] == "7"  # 1/20 is no flag
    assert fields[3]["value"] == "1.000: cleared it"


def test_discord_takes_the_longest_message() -> None:
    """It refuses one above 6000 characters as a whole, and then nobody learns of the cheat."""
    embed = message(50, "x" * 5000)
    fields = embed["fields"]
    assert isinstance(fields, list)
    texts = [embed["title"], embed["description"], "test-1"]
    texts += [text for field in fields for text in (field["name"], field["value"])]
    assert sum(len(str(text)) for text in texts) <= 6000
    assert len(fields) <= 25
    assert all(len(field["value"]) <= 1024 for field in fields)
    json.dumps(embed)
