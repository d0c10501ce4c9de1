"""Rules about a run as a whole, against numbers worked out by hand from the page's formulas."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.cheat_detection.curves import CannotSayError
from raidhub_dagster.cheat_detection.instance_rules import (
    Finding,
    Run,
    judge_against_record,
    judge_kills,
    judge_speed,
    judge_team_size,
    judge_time,
    look_at,
    record,
)
from raidhub_dagster.cheat_detection.parameters import RecordCurve, load_parameters
from tests.support.runs import make_player, make_run

PARAMETERS = load_parameters("compat-2.2.0")
RELEASED = datetime(2021, 5, 22, 17, tzinfo=UTC)
FAST, UNLIKELY, FEW_CHECKPOINT, FEW_FRESH = 48, 49, 61, 62
CUTTHROAT, BATTALIONS = 2673088233, 2392637702


def run_of(kills: int = 1000, seconds: int = 10800, **facts: Any) -> Run:
    """A run whose players have so many kills and so much time together."""
    players = (make_player(1, kills=kills, time_played_seconds=seconds),)
    return look_at(PARAMETERS, make_run(players=players, **facts))


def bits(finding: Finding) -> set[int]:
    return {bit for bit, _ in finding.reasons}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


class TestTeamSize:
    @pytest.mark.parametrize(
        ("facts", "chance", "expected"),
        [
            # Vault of Glass, fresh: 1 player 0.20 from 2024-07-14 on, 2 players 0
            ({"player_count": 6}, 0, set()),
            ({"player_count": 3}, 0, set()),
            ({"player_count": 2}, 0, set()),
            ({"player_count": 2, "flawless": True}, 0, set()),
            ({"player_count": 1, "date_completed": at("2024-08-01T00Z")}, 0.2, {UNLIKELY}),
            # when flawless its square root
            (
                {"player_count": 1, "flawless": True, "date_completed": at("2024-08-01T00Z")},
                0.4472135955,
                {UNLIKELY},
            ),
            ({"player_count": 1}, 0.995, {UNLIKELY, FEW_FRESH}),  # in March 2024
            # master has a list of its own: 1 player 0.25 from 2025-10-07 on, 2 players 0.04
            ({"player_count": 1, "version_id": 4}, 0.995, {UNLIKELY, FEW_FRESH}),
            (
                {"player_count": 1, "version_id": 4, "date_completed": at("2025-11-01T00Z")},
                0.25,
                {UNLIKELY},
            ),
            ({"player_count": 2, "version_id": 4}, 0.04, set()),
            ({"player_count": 2, "version_id": 4, "flawless": True}, 0.2, {UNLIKELY}),
            # fresh clears have no least duration
            ({"player_count": 2, "duration": 30}, 0, set()),
            # Vow of the Disciple: 3 players
            ({"activity_id": 10, "player_count": 3}, 0, set()),
            ({"activity_id": 10, "player_count": 2}, 0.995, {FEW_FRESH}),
            ({"activity_id": 10, "player_count": 1}, 0.995, {FEW_FRESH}),
            ({"activity_id": 10, "player_count": 0}, 0.995, {FEW_FRESH}),
            # Salvation's Edge: 3 players from 2025-12-01T17:00Z on, 4 players 0.04
            ({"activity_id": 14, "player_count": 4}, 0.04, set()),
            ({"activity_id": 14, "player_count": 3}, 0.995, {FEW_FRESH}),  # 0.03 is no reason
            ({"activity_id": 14, "player_count": 2}, 0.995, {FEW_FRESH}),
            # Root of Nightmares has no list
            ({"activity_id": 12, "player_count": 1}, 0, set()),
            # Pantheon has lists of versions only
            ({"activity_id": 101, "version_id": 129, "player_count": 1}, 0.995, {FEW_FRESH}),
            ({"activity_id": 101, "version_id": 130, "player_count": 2}, 0.995, {FEW_FRESH}),
            ({"activity_id": 101, "version_id": 128, "player_count": 1}, 0, set()),
            # the predecessor's descending list gave 0.995 to the legal 3
            ({"activity_id": 102, "version_id": 134, "player_count": 3}, 0.35, {UNLIKELY}),
            ({"activity_id": 102, "version_id": 134, "player_count": 4}, 0.15, {UNLIKELY}),
            ({"activity_id": 102, "version_id": 134, "player_count": 5}, 0, set()),
            ({"activity_id": 102, "version_id": 134, "player_count": 2}, 0.995, {FEW_FRESH}),
            # an activity without parameters
            ({"activity_id": 77, "player_count": 1}, 0, set()),
        ],
    )
    def test_fresh(self, facts: dict[str, Any], chance: float, expected: set[int]) -> None:
        """A table read wrongly blacklists every legal duo of a raid."""
        finding = judge_team_size(PARAMETERS, run_of(**facts))
        assert finding.probability == pytest.approx(chance, abs=1e-9)
        assert bits(finding) == expected

    @pytest.mark.parametrize(
        ("facts", "chance", "expected"),
        [
            # Vault of Glass: 1 player 0.15 of at least 300 s, 2 players of at least 105 s
            ({"player_count": 1, "duration": 300}, 0.15, {UNLIKELY}),
            # 1 - 0.85 (1 - sig(15, 0.82)(150/300)) = 1 - 0.85 * 0.0081625712
            ({"player_count": 1, "duration": 150}, 0.9930618145, {FAST, UNLIKELY}),
            # and with the root of 0.15
            (
                {"player_count": 1, "duration": 150, "flawless": True},
                0.9949987791,
                {FAST, UNLIKELY},
            ),
            ({"player_count": 2, "duration": 105}, 0, set()),
            ({"player_count": 2, "duration": 84}, 0.5744425168, {FAST, UNLIKELY}),  # sig(0.8)
            ({"player_count": 2, "duration": 0}, 0.9999954483, {FAST, UNLIKELY}),  # sig(0)
            ({"player_count": 3, "duration": 20}, 0, set()),
            # Vow: 3 players of at least 180 s
            ({"activity_id": 10, "player_count": 2, "duration": 180}, 0.995, {FEW_CHECKPOINT}),
            (
                {"activity_id": 10, "player_count": 2, "duration": 179},
                0.995,
                {FAST, FEW_CHECKPOINT},
            ),
            # King's Fall: 0.05 is no reason, for a reason is above 0.05
            ({"activity_id": 11, "player_count": 2, "duration": 300}, 0.05, set()),
            ({"activity_id": 11, "player_count": 1, "duration": 300}, 0.995, {FEW_CHECKPOINT}),
            # Pantheon's checkpoints have no list
            ({"activity_id": 101, "version_id": 129, "player_count": 1}, 0, set()),
        ],
    )
    @pytest.mark.parametrize("fresh", [False, None])
    def test_checkpoint(
        self, facts: dict[str, Any], chance: float, expected: set[int], fresh: bool | None
    ) -> None:
        """A run of unknown freshness is judged as one of a checkpoint."""
        finding = judge_team_size(PARAMETERS, run_of(fresh=fresh, **facts))
        assert finding.probability == pytest.approx(chance, abs=1e-9)
        assert bits(finding) == expected

    @pytest.mark.parametrize(
        ("done", "chance", "expected"),
        [
            # Eater of Worlds, prestige (3), checkpoint: 1 player in one window
            ("2018-10-25T18:05:00Z", 0.995, {FEW_CHECKPOINT}),
            ("2018-10-25T18:05:01Z", 0, set()),
            ("2020-11-10T16:59:59Z", 0, set()),
            ("2020-11-10T17:00:00Z", 0.995, {FEW_CHECKPOINT}),
        ],
    )
    def test_a_window_does_not_have_its_ends(
        self, done: str, chance: float, expected: set[int]
    ) -> None:
        """Windows are when something was possible; the patch that ended it came at the end."""
        run = run_of(
            activity_id=2, version_id=3, player_count=1, fresh=False, date_completed=at(done)
        )
        assert judge_team_size(PARAMETERS, run).probability == chance
        assert bits(judge_team_size(PARAMETERS, run)) == expected

    def test_fast_and_outside_of_the_windows(self) -> None:
        """Every reason that is true stands in the mask."""
        finding = judge_team_size(
            PARAMETERS,
            run_of(
                player_count=1, fresh=False, duration=150, date_completed=at("2022-06-01T00:00Z")
            ),
        )
        assert (finding.probability, bits(finding)) == (0.995, {FAST, UNLIKELY, FEW_CHECKPOINT})

    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            (
                {"activity_id": 10, "activity_name": "Vow of the Disciple", "player_count": 1},
                ["cleared fresh Vow of the Disciple with 1 player, expected at least 3"],
            ),
            (
                {"activity_id": 10, "player_count": 2, "fresh": False, "duration": 100},
                [
                    "cleared Rhulk in 1:40, expected at least 3:00 of 3 players",
                    "cleared Rhulk with 2 players, expected at least 3",
                ],
            ),
            (
                {"player_count": 1, "flawless": True},
                [
                    "cleared flawless fresh Vault of Glass with exactly 1 player in 30:00, "
                    "cheated with a chance of 0.447",
                    "cleared fresh Vault of Glass with 1 player on 2024-03-01, "
                    "outside of the times when so few could",
                ],
            ),
        ],
    )
    def test_sentences(self, facts: dict[str, Any], expected: list[str]) -> None:
        """Who looks at a flag wants to follow it without a look at the tables."""
        finding = judge_team_size(PARAMETERS, run_of(**facts))
        assert [text for _, text in finding.reasons] == expected

    @given(
        activity=st.sampled_from(sorted(PARAMETERS.activities)),
        fresh=st.booleans(),
        version=st.sampled_from([1, 4, 64, 129, 130, 131, 132, 133, 134]),
        team=st.integers(0, 11),
    )
    def test_a_smaller_team_is_never_less_suspicious(
        self, activity: int, fresh: bool, version: int, team: int
    ) -> None:
        """In lists without windows, and where nobody was too fast."""
        kind: dict[str, Any] = {
            "activity_id": activity,
            "fresh": fresh,
            "version_id": version,
            "duration": 7200,
        }
        table = PARAMETERS.activities[activity].lowman
        lists = table.fresh if fresh else table.checkpoint
        if any(entry.windows for entry in lists.get(version, lists.get("any", ()))):
            return
        smaller, larger = (
            judge_team_size(PARAMETERS, run_of(player_count=size, **kind)).probability
            for size in (team, team + 1)
        )
        assert smaller >= larger


class TestTimeDilation:
    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            ({"seconds": 500, "duration": 1000}, 0.7685247835),  # 1 / (1 + e^(12 (0.5 - 0.6)))
            ({"seconds": 900, "duration": 1000}, 0.0265969936),
            ({"seconds": 999, "duration": 1000, "player_count": 49}, 0.0082602981),
            ({"seconds": 1000, "duration": 1000}, 0),
            ({"seconds": 6000, "duration": 1000}, 0),
            ({"seconds": 100, "duration": 360}, 0),
            ({"seconds": 100, "duration": 361}, 0.9796855715),  # 12 * (100/361 - 0.6) = -3.875900
            ({"seconds": 500, "duration": 1000, "player_count": 50}, 0),
            ({"seconds": 500, "duration": 1000, "is_saturated": True}, 0),
        ],
    )
    def test_the_clock_of_the_players(self, facts: dict[str, Any], expected: float) -> None:
        """Checkpoint bots, short runs and counters at their end are no slow clocks."""
        finding = judge_time(PARAMETERS, run_of(**facts))
        assert finding.probability == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        ("facts", "why"),
        [
            ({"seconds": 500, "duration": 0}, "the run took no time"),
            ({"seconds": 500, "duration": -5}, "the run took no time"),
            ({"seconds": 0, "duration": 1000}, "no player has any time"),
        ],
    )
    def test_without_time_it_cannot_say(self, facts: dict[str, Any], why: str) -> None:
        """T or D of 0 is a report without times, not the slowest clock of all."""
        with pytest.raises(CannotSayError, match=why):
            judge_time(PARAMETERS, run_of(**facts))

    def test_sentence(self) -> None:
        """Both times, as one reads them in the game."""
        finding = judge_time(PARAMETERS, run_of(seconds=500, duration=1000))
        assert finding.reasons == (
            (
                51,
                "the players were there for 8:20 together, 50.0 % less than the 16:40 of the run",
            ),
        )


class TestSpeed:
    @pytest.mark.parametrize(
        ("days", "expected"),
        [
            (0, 1310.42),  # log10(0 + 1) = 0
            (99, 1059.467),  # 1310.42 - 36.37 * 3.45 * 2
            (999, 933.9905),  # 1310.42 - 36.37 * 3.45 * 3
            (-5, 1310.42),  # a clear before the release counts as one on the first day
        ],
    )
    def test_the_record_of_a_day(self, days: float, expected: float) -> None:
        """Of the Vault of Glass; records fall as teams practise."""
        curve = PARAMETERS.activities[9].record_curve
        assert curve is not None
        assert record(curve, days) == pytest.approx(expected, abs=1e-9)

    def test_a_record_that_needs_no_day(self) -> None:
        """Pantheon was played for weeks only; a missing release date then does not matter."""
        assert record(RecordCurve(constant=570), None) == 570
        with pytest.raises(CannotSayError, match="no release date"):
            record(RecordCurve(a=1, b=1, c=1, e=1), None)

    @pytest.mark.parametrize(
        ("duration", "seconds", "expected"),
        [
            # day 99, R = 1059.467; six bodies: (D - 25) / R
            (1059, 6354, 0.1372290686),  # 0.9759624: 1 / (1 + e^(40 * 0.0459624))
            (1025, 6150, 0.3647437690),
            (925, 5550, 0.9616040210),
            # more than six bodies count as six
            (1059, 60000, 0.1372290686),
            # T/D = 2: R * 3^0.2 = 1319.8108214
            (1300, 2600, 0.1912510349),
            # quicker than the 25 seconds that are given
            (20, 120, 1.0),
        ],
    )
    def test_against_the_record(self, duration: int, seconds: int, expected: float) -> None:
        """Small teams get more time, by how many bodies were there on average."""
        run = run_of(
            duration=duration, seconds=seconds, date_completed=RELEASED + timedelta(days=99)
        )
        assert judge_speed(PARAMETERS, run).probability == pytest.approx(expected, abs=1e-9)

    def test_other_curves(self) -> None:
        """A constant one (Pantheon, 570 s), and one with c = 5 (Garden of Salvation)."""
        run = run_of(activity_id=101, release_date=None, duration=500, seconds=3000)
        # (500 - 25) / 570 = 0.8333333
        assert judge_speed(PARAMETERS, run).probability == pytest.approx(0.9795009902, abs=1e-9)
        run = run_of(
            activity_id=7,
            duration=500,
            seconds=3000,
            date_completed=RELEASED + timedelta(days=995),
        )
        # R = 1304.29 - 28.15 * 9.56 * 3 = 496.948; (500 - 25) / R = 0.9558344
        assert judge_speed(PARAMETERS, run).probability == pytest.approx(0.2624300172, abs=1e-9)

    @pytest.mark.parametrize("best", [0, -1, -500])
    def test_a_record_of_nothing_says_nothing(self, best: float) -> None:
        """A curve that falls below 0 on some day in the future must not flag everybody then."""
        run = run_of(duration=500, seconds=3000)
        assert judge_against_record(PARAMETERS, run, best) == Finding(0)

    @pytest.mark.parametrize("activity", [15, 16, 77])
    def test_without_a_curve_it_is_off(self, activity: int) -> None:
        """The epic raid's curve is not known yet."""
        assert judge_speed(PARAMETERS, run_of(activity_id=activity, duration=60)) == Finding(0)

    @pytest.mark.parametrize(("seconds", "duration"), [(0, 600), (600, 0), (600, -1)])
    def test_without_time_it_cannot_say(self, seconds: int, duration: int) -> None:
        """How many bodies there were is not known."""
        with pytest.raises(CannotSayError):
            judge_speed(PARAMETERS, run_of(seconds=seconds, duration=duration))

    @pytest.mark.parametrize(
        ("version", "duration", "skulls", "expected"),
        [
            # below the floor: 1 / (1 + e^(18 (D / floor - 0.72)))
            (132, 300, (), 0.5256916391),  # 300/420
            (132, 300, (BATTALIONS,), 0.8468362842),  # 300/480
            (132, 300, (CUTTHROAT,), 0.9507339940),  # 300/540
            (132, 300, (CUTTHROAT, BATTALIONS, 1, 790421403), 0.9812934900),  # 300/600
            (132, 300, (BATTALIONS, BATTALIONS), 0.8468362842),  # once
            (132, 366, (), 0.0614729588),
            (132, 419, (), 0),  # 0.0067 is not used
            (132, 420, (), 0),
            (132, 420, (BATTALIONS,), 0.0578669553),  # 420/480: above 0.05, so it is used
            (134, 450, (), 0.9812934900),
            (134, 900, (), 0),
            (133, 10, (), 0),  # no floor
        ],
    )
    def test_floors_of_the_second_pantheon(
        self, version: int, duration: int, skulls: tuple[int, ...], expected: float
    ) -> None:
        """Feats that slow a team down raise the floor it is held against."""
        run = run_of(activity_id=102, version_id=version, duration=duration, skull_hashes=skulls)
        assert judge_speed(PARAMETERS, run).probability == pytest.approx(expected, abs=1e-9)

    def test_sentences(self) -> None:
        """What was expected of so many bodies, and of a full team."""
        run = run_of(duration=1300, seconds=2600, date_completed=RELEASED + timedelta(days=99))
        assert judge_speed(PARAMETERS, run).reasons == (
            (
                60,
                "cleared fresh Vault of Glass in 21:40, expected at least 21:59 "
                "of 2.0 players (17:39 of a full team)",
            ),
        )
        run = run_of(activity_id=102, activity_name="Pantheon", version_id=132, duration=300)
        assert judge_speed(PARAMETERS, run).reasons == (
            (60, "cleared fresh Pantheon in 5:00, expected at least 7:00"),
        )

    @given(
        activity=st.sampled_from(sorted(PARAMETERS.activities)),
        seconds=st.integers(60, 10**6),
        duration=st.integers(1, 10**5),
        slower=st.integers(0, 1000),
        days=st.floats(-10, 4000),
    )
    def test_a_faster_run_is_never_less_suspicious(
        self, activity: int, seconds: int, duration: int, slower: int, days: float
    ) -> None:
        """Else waiting in orbit would be worth it."""
        kind: dict[str, Any] = {
            "activity_id": activity,
            "version_id": 132,
            "seconds": seconds,
            "date_completed": RELEASED + timedelta(days=days),
        }
        fast = judge_speed(PARAMETERS, run_of(duration=duration, **kind)).probability
        slow = judge_speed(PARAMETERS, run_of(duration=duration + slower, **kind)).probability
        assert fast >= slow - 1e-12


class TestTotalKills:
    @pytest.mark.parametrize(
        ("facts", "expected"),
        [
            # Vault of Glass, fresh, m = 1000: the size's curve is 1
            ({"kills": 500}, 0.9986278591),  # 501/1001: 1 / (1 + e^(20 (0.5004995 - 0.83)))
            ({"kills": 829}, 0.5041457591),
            ({"kills": 1000}, 0.0322954647),  # 1 / (1 + e^3.4)
            ({"kills": 30}, 0.9999998853),  # the cap is 30 kills
            ({"kills": 29}, 0.9999998894),  # p^(0.5 + 29/60)
            ({"kills": 0}, 0.9999999685),  # sqrt(p)
            # its checkpoint, m = 40: the size's curve is 1 / (1 + e^0.76) = 0.3186466
            ({"kills": 30, "fresh": False}, 0.2594665423),
            ({"kills": 13, "fresh": False}, 0.3186280730),
            ({"kills": 12, "fresh": False}, 0.3186350958),  # the cap is 12 kills
            ({"kills": 11, "fresh": False}, 0.3341914549),  # 0.3186394^(0.5 + 11/24)
            ({"kills": 3, "fresh": None}, 0.4892917614),  # 0.3186461^(0.5 + 3/24)
            # Last Wish, fresh, m = 18: so is the cap
            ({"activity_id": 4, "kills": 0}, 0.4030695149),  # sqrt(0.1624650)
            ({"activity_id": 4, "kills": 9}, 0.2554587718),  # 0.1620918^(0.5 + 9/36)
            ({"activity_id": 4, "kills": 18}, 0.0052468847),
            # its checkpoint, m = 9; the cap is that of the fresh minimum, min(18, 12)
            ({"activity_id": 4, "kills": 6, "fresh": False}, 0.1922556029),  # 0.1109614^0.75
            # a minimum of one kill: finishers, glyphs
            ({"activity_id": 13, "kills": 0, "fresh": False}, 0.2989289195),  # sqrt(0.0893585)
            ({"activity_id": 14, "kills": 1, "fresh": False}, 0.0421343914),
            # none, because whoever joins late clears it at once
            ({"activity_id": 3, "kills": 0, "fresh": False}, 0),
            ({"activity_id": 102, "kills": 0}, 0),
            ({"activity_id": 77, "kills": 0}, 0),
        ],
    )
    def test_against_the_least(self, facts: dict[str, Any], expected: float) -> None:
        """Small minimums say little, hardly any kills say more."""
        finding = judge_kills(PARAMETERS, run_of(**facts))
        assert finding.probability == pytest.approx(expected, abs=1e-9)

    def test_sentences(self) -> None:
        """One kill is not kills."""
        assert judge_kills(PARAMETERS, run_of(kills=1)).reasons == (
            (54, "cleared fresh Vault of Glass with 1 kill, expected at least 1000"),
        )
        assert judge_kills(PARAMETERS, run_of(kills=3, fresh=False)).reasons == (
            (54, "cleared Atheon with 3 kills, expected at least 40"),
        )

    @given(
        activity=st.sampled_from(sorted(PARAMETERS.activities)),
        fresh=st.booleans(),
        kills=st.integers(0, 3000),
    )
    def test_more_kills_are_never_more_suspicious(
        self, activity: int, fresh: bool, kills: int
    ) -> None:
        """Too few kills is the reason."""
        fewer, more = (
            judge_kills(PARAMETERS, run_of(kills=n, activity_id=activity, fresh=fresh)).probability
            for n in (kills, kills + 1)
        )
        assert fewer >= more - 1e-12
