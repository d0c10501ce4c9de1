"""What raids are like when nobody cheats: kills, records, and how few players have done it.

Facts of the game, written down for the world; how a detector uses the like is its own business.
"""

from dataclasses import dataclass
from datetime import datetime
from math import inf, log10

DAY = 86_400


def _at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@dataclass(frozen=True)
class Team:
    """So many players have done it, between two moments (Unix seconds)."""

    players: int
    since: float = -inf
    until: float = inf
    quickest: int = 0  # seconds, from the last checkpoint


Teams = tuple[Team, ...]


@dataclass(frozen=True)
class Raid:
    """Pairs are of a clear from the beginning and of one from the last checkpoint."""

    usual: tuple[int, int]  # kills of a team
    fewest: tuple[int, int]  # kills that it takes at least
    record: tuple[float, float, float, float] | None  # seconds: a - b f log10(days + c)
    teams: tuple[Teams, Teams]  # ascending sizes
    of_version: dict[int, tuple[Teams, Teams]]

    def record_s(self, age_s: float) -> float | None:
        """The best time from the beginning when the raid is so old; None: nobody counts it."""
        if self.record is None:
            return None
        a, b, c, factor = self.record
        return a - b * factor * log10(max(age_s, 0.0) / DAY + c)

    def smallest(self, version_id: int, fresh: bool, when: float) -> Team | None:
        """The smallest team that had done it by `when`; None where size proves nothing."""
        teams = self.of_version.get(version_id, self.teams)[not fresh]
        return next((t for t in teams if t.since < when < t.until), None)


def _raid(
    usual: tuple[int, int],
    fewest: tuple[int, int],
    record: tuple[float, float, float, float] | None,
    fresh: Teams,
    checkpoint: Teams,
    of_version: dict[int, tuple[Teams, Teams]] | None = None,
) -> Raid:
    return Raid(usual, fewest, record, (fresh, checkpoint), of_version or {})


def expected_s(record_s: float, bodies: float) -> float:
    """The record of a smaller team: six share the work."""
    return float(record_s * (6 / min(bodies, 6)) ** 0.2)


_ALONE_IN_WISH = (
    Team(1, _at("2019-11-25T02:00Z"), _at("2020-11-10T17:00Z"), 120),
    Team(1, _at("2021-09-03T19:00Z"), quickest=120),
    Team(2),
)
_FINAL_SHAPE = (
    Team(1, _at("2024-07-11T09:36:31Z"), _at("2024-07-23T17:00Z"), 180),
    Team(1, _at("2025-03-28T14:00Z"), quickest=180),
    Team(2, quickest=300),
)
_SALVATION_FRESH = (Team(3, _at("2025-12-01T17:00Z")), Team(4))

# By activity id.
RAIDS = {
    1: _raid((700, 200), (300, 85), (2028.95, 52.55, 5, 7.96), (Team(4),), (Team(2),)),
    2: _raid(
        (650, 150),
        (325, 69),
        (1607.05, 34.0, 1, 6.86),
        (Team(4),),
        (Team(1, _at("2018-08-29T03:15Z"), _at("2020-11-10T17:00Z")), Team(2)),
        {
            3: (
                (Team(4),),
                (Team(1, _at("2018-10-25T18:05Z"), _at("2020-11-10T17:00Z")), Team(2)),
            )
        },
    ),
    3: _raid((850, 120), (400, 0), (1298.54, 38.42, 5, 7.16), (Team(5),), (Team(5),)),
    4: _raid((900, 90), (18, 9), (645.33, 38.31, 1, 3.24), _ALONE_IN_WISH, _ALONE_IN_WISH),
    5: _raid((500, 90), (103, 27), (776.04, 23.69, 1, 8.14), (Team(2),), (Team(2),)),
    6: _raid((1000, 200), (425, 76), (829.3, 45.43, 1, 2.8), (Team(2),), (Team(2),)),
    7: _raid(
        (1000, 300),
        (385, 120),
        (1304.29, 28.15, 5, 9.56),
        (Team(3),),
        (Team(1, _at("2023-04-30T00:00Z"), quickest=600), Team(2, quickest=300)),
    ),
    8: _raid(
        (1200, 160),
        (500, 64),
        (918.75, 43.74, 1, 2.4),
        (Team(1, _at("2024-09-12T00:00Z")), Team(2)),
        (
            Team(1, _at("2021-03-01T00:00Z"), _at("2021-03-31T00:00Z"), 900),
            Team(1, _at("2024-09-12T00:00Z"), quickest=900),
            Team(2, quickest=300),
        ),
    ),
    9: _raid(
        (2200, 120),
        (1000, 40),
        (1310.42, 36.37, 1, 3.45),
        (Team(1, _at("2024-07-14T00:00Z")), Team(2)),
        (
            Team(1, _at("2021-07-14T00:00Z"), _at("2021-12-07T00:00Z"), 300),
            Team(1, _at("2023-10-20T00:00Z"), quickest=300),
            Team(2, quickest=105),
        ),
        {
            4: (
                (Team(1, _at("2025-10-07T00:00Z")), Team(2)),
                (Team(1, _at("2024-02-12T00:00Z"), quickest=120), Team(2, quickest=120)),
            )
        },
    ),
    10: _raid(
        (1800, 320), (770, 125), (1887.74, 38.67, 5, 8.05), (Team(3),), (Team(3, quickest=180),)
    ),
    11: _raid(
        (1300, 260), (460, 105), (1138.9, 39.11, 1, 3.94), (Team(3),), (Team(2, quickest=300),)
    ),
    12: _raid((1300, 110), (430, 33), (924.81, 40.46, 1, 4.11), (), ()),
    13: _raid((1900, 90), (760, 1), (1288.97, 38.84, 1, 9.5), (Team(2),), ()),
    14: _raid(
        (2200, 200),
        (875, 1),
        (2102.45, 58.14, 1, 10.0),
        _SALVATION_FRESH,
        _FINAL_SHAPE,
        {4: (_SALVATION_FRESH, (Team(2, quickest=300),))},
    ),
    15: _raid((1400, 200), (300, 40), (1500.0, 60.0, 1, 2.7), (Team(2),), (Team(2),)),
    16: _raid(
        (1500, 240),
        (320, 60),
        (1600.0, 60.0, 1, 2.7),
        (Team(1, _at("2025-12-15T17:00Z")), Team(2)),
        (Team(1),),
    ),
    101: _raid(
        (900, 200),
        (335, 75),
        (570.0, 0.0, 1, 0.0),
        (),
        (),
        {129: ((Team(2),), ()), 130: ((Team(3),), ()), 131: ((Team(3),), ())},
    ),
    102: _raid(
        (900, 200),
        (200, 60),
        None,
        (),
        (),
        {
            132: ((Team(2),), (Team(2),)),
            133: ((Team(5),), (Team(5),)),
            134: ((Team(4),), (Team(3),)),
        },
    ),
}
# Of a raid that came out after this was written.
OTHER = _raid((1000, 200), (100, 20), None, (), ())
# Encounters of a Pantheon take so long together, by version.
FLOORS = {132: 420.0, 134: 900.0}

# Weeks in which the game itself was broken.
BUG_WEEKS = (
    (_at("2023-09-15T13:54Z"), _at("2023-09-18T04:00:09Z")),
    (_at("2025-09-16T17:00Z"), _at("2025-09-23T17:00Z")),
    (_at("2026-01-27T17:00Z"), _at("2026-02-03T17:00Z")),
)


def is_broken_time(begins: float, ends: float) -> bool:
    return any(ends > first and begins < last for first, last in BUG_WEEKS)
