"""Real reports beside the checkout, and the facts that were computed from them by hand.

They are of real players and no part of the project: tests that need them skip without them.
"""

from pathlib import Path
from typing import NamedTuple

import pytest

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples" / "pgcr"


class Facts(NamedTuple):
    activity_version: tuple[int, int]
    started: str
    duration: int
    entries: int
    players: int
    finishers: int
    completed: bool
    fresh: bool | None
    flawless: bool | None
    kills: int
    weapon_rows: int
    score: int
    platform: int
    time_s: int  # of all players together


FACTS = {
    10629996107: Facts(
        (10, 4), "2022-04-19T17:03:39Z", 2765, 8, 6, 6, True, None, False, 1658, 64, 0, 3, 16327
    ),
    11756061781: Facts(
        (11, 1), "2022-10-08T01:19:16Z", 4961, 3, 3, 3, True, True, True, 1534, 29, 0, 3, 14875
    ),
    14287236297: Facts(
        (12, 1), "2024-01-04T00:54:26Z", 3187, 1, 1, 1, True, True, True, 747, 12, 0, 3, 3187
    ),
    14720975287: Facts(
        (12, 1), "2024-04-27T18:58:46Z", 4835, 6, 6, 0, False, True, False, 1670, 35, 0, 3, 28812
    ),
    15820091265: Facts(
        (12, 1), "2025-01-13T23:00:20Z", 383, 5, 4, 4, True, False, False, 52, 7, 0, 3, 1499
    ),
    6870306963: Facts(
        (5, 1), "2020-09-07T01:09:09Z", 3187, 8, 6, 6, True, True, False, 501, 28, 0, 3, 16452
    ),
    7315438924: Facts(
        (8, 1),
        "2020-11-21T18:01:01Z",
        77731,
        10,
        10,
        6,
        True,
        None,
        False,
        22476,
        111,
        0,
        3,
        248235,
    ),
}
DUNGEON = 15897664962


def sample(path: str) -> bytes:
    """A file beside the reports, such as "profile/characters_2017.json"; skips without it."""
    file = SAMPLES.parent / path
    if not file.exists():
        pytest.skip(f"no real answers at {SAMPLES.parent}")
    return file.read_bytes()
