"""The whole check: how answers are put together, what is skipped, and what must hold always."""

import math
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raidhub_dagster.cheat_detection.facts import InstanceFacts, Norms, PlayerFacts, WeaponUse
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.cheat_detection.reasons import (
    ReasonBit,
    activity_mask,
    bits_in,
    labels_in,
    mask_of,
)
from raidhub_dagster.cheat_detection.rules import check
from raidhub_dagster.cheat_detection.verdict import PlayerVerdict, Verdict
from tests.support.commands import DOCS
from tests.support.runs import DONE, make_player, make_run, make_weapons

PARAMETERS = load_parameters("compat-2.2.0")


def judge(**facts: Any) -> Verdict:
    return check(PARAMETERS, make_run(**facts))


def reasons(verdict: Verdict | PlayerVerdict) -> dict[str, float]:
    """Label of the bit -> what it alone gives."""
    return {ReasonBit(bit).label: chance for bit, chance, _ in verdict.reasons}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def carried(**carrier: Any) -> tuple[PlayerFacts, ...]:
    """One player who did nearly everything, and five who hardly fought."""
    rest = tuple(make_player(n, kills=10, weapons=()) for n in range(2, 7))
    return (make_player(1, kills=950, **carrier), *rest)


class TestInstance:
    def test_an_ordinary_run_is_clean(self) -> None:
        """Its mask has the raid nevertheless: the ledger shows what was looked at."""
        verdict = judge()
        assert verdict.probability < 0.05
        assert (verdict.skipped, verdict.failed_rules, verdict.reasons) == (None, (), ())
        assert verdict.bitmask == 1 << 9
        assert verdict.version == "compat-2.2.0"
        assert [player.membership_id for player in verdict.players] == [1, 2, 3, 4, 5, 6]
        assert {player.bitmask for player in verdict.players} == {1 << 9}

    def test_a_fresh_clear_is_judged_by_four_rules(self) -> None:
        """1 - (1 - kills)(1 - speed)(1 - dilation)(1 - lowman)."""
        # 500 kills: 0.9986278591; T/D = 0.5: dilation 0.7685247835; 2 players of master: 0.04;
        # speed: day 1014.79..., far above the record
        players = tuple(
            make_player(n, kills=250, time_played_seconds=900, weapons=()) for n in (1, 2)
        )
        verdict = judge(players=players, player_count=2, version_id=4, duration=3600)
        by_hand = 1 - (1 - 0.9986278591) * (1 - 0.7685247835) * (1 - 0.04)
        assert verdict.probability == pytest.approx(by_hand, abs=1e-3)
        assert reasons(verdict) == {
            "TotalInstanceKills": pytest.approx(0.9986278591),
            "TimeDilation": pytest.approx(0.7685247835),
            "TwoPlusCheaters": pytest.approx(reasons(verdict)["TwoPlusCheaters"]),
        }

    def test_a_checkpoint_is_not_judged_by_speed(self) -> None:
        """Whoever loads a checkpoint may be at the boss already."""
        players = tuple(make_player(n, kills=50, weapons=()) for n in range(1, 7))
        assert "TooFast" in reasons(judge(players=players, duration=300))
        for fresh in (False, None):
            assert "TooFast" not in reasons(judge(players=players, duration=300, fresh=fresh))

    def test_an_incomplete_run_is_judged_by_time_alone(self) -> None:
        """Few kills, few players and a short time are what giving up looks like."""
        players = (make_player(1, kills=0, completed=False, time_played_seconds=500, weapons=()),)
        verdict = judge(players=players, player_count=2, duration=1000, completed=False)
        assert verdict.probability == pytest.approx(0.7685247835, abs=1e-9)
        assert reasons(verdict) == {"TimeDilation": pytest.approx(0.7685247835)}

    def test_a_reason_is_above_the_threshold(self) -> None:
        """0.05 itself is none: King's Fall's checkpoint with 2 players."""
        players = tuple(make_player(n, kills=150, weapons=()) for n in (1, 2))
        verdict = judge(activity_id=11, players=players, player_count=2, fresh=False)
        assert verdict.reasons == ()
        assert verdict.bitmask == 1 << 11
        assert 0.05 <= verdict.probability < 0.08

    def test_two_cheaters_make_a_cheated_run(self) -> None:
        """Two players who are each sure: the run is, although no rule of the run speaks."""
        sure = {"super_kills": 400, "grenade_kills": 1800, "melee_kills": 0, "kills": 2600}
        players = (
            make_player(1, **sure),
            make_player(2, **sure),
            *(make_player(n) for n in range(3, 7)),
        )
        verdict = judge(players=players)
        first, second = verdict.players[:2]
        assert min(first.probability, second.probability) > 0.99
        assert set(reasons(verdict)) == {"TwoPlusCheaters"}
        assert verdict.probability > 0.99
        alone = judge(players=(make_player(1, **sure), *(make_player(n) for n in range(2, 7))))
        assert "TwoPlusCheaters" not in reasons(alone)
        assert alone.probability < 0.05

    @pytest.mark.parametrize("activity", [17, 32])
    def test_a_raid_without_parameters_has_its_bit(self, activity: int) -> None:
        """Bits 1 to 32 are ids of raids, known or not."""
        assert judge(activity_id=activity).bitmask == 1 << activity

    @pytest.mark.parametrize("activity", [0, 33, 45, 103, -4, 10**9])
    def test_another_activity_has_none(self, activity: int) -> None:
        """A shift by its id would be a reason's bit, or an error."""
        assert judge(activity_id=activity).bitmask == 0

    def test_pantheons_have_theirs(self) -> None:
        """They are numbered 101 and 102."""
        assert judge(activity_id=101).bitmask & mask_of((33, 34)) == 1 << 33
        assert judge(activity_id=102).bitmask & mask_of((33, 34)) == 1 << 34


class TestPlayers:
    def test_own_factors_need_two(self) -> None:
        """The product of two of them; one alone is a strange build."""
        # 8 supers a minute: 0.8175744762; 60 kills a minute: 0.9525741268
        one = judge(players=(make_player(1, super_kills=240), make_player(2)), fresh=False)
        assert reasons(one.players[0])["SuperKills"] == pytest.approx(0.8175744762)
        assert one.players[0].probability < 0.05
        two = judge(
            players=(
                make_player(1, super_kills=240, kills=1800, weapons=()),
                *(make_player(n, kills=1800) for n in range(2, 7)),
            )
        )
        first = two.players[0]
        assert reasons(first)["PlayerTotalKills"] == pytest.approx(0.9525741268)
        assert first.probability == pytest.approx(0.8175744762 * 0.9525741268, abs=2e-3)

    def test_a_minute_is_the_least(self) -> None:
        """All own factors are 0 below 60 s, whatever the counters say."""
        absurd = {"kills": 5000, "super_kills": 5000, "grenade_kills": 5000, "melee_kills": 0}
        players = [make_player(n) for n in range(2, 7)]
        for seconds, found in ((59, False), (60, True)):
            players[0] = make_player(2, time_played_seconds=seconds, **absurd)
            (first, *_) = judge(players=tuple(players)).players
            assert ("SuperKills" in reasons(first)) is found

    def test_who_did_it_answers_for_the_team(self) -> None:
        """A product of the part taken and the team's chance."""
        verdict = judge(players=carried(), duration=600)
        carrier, *rest = verdict.players
        assert "TooFast" in reasons(verdict)
        # A = (950/1001)^1.25 / (1800/10801), B = 951/1001 * 50/50: a part of 1
        assert reasons(carrier)["TooFast"] == pytest.approx(reasons(verdict)["TooFast"], abs=1e-4)
        assert carrier.probability > 0.95
        assert {player.probability < 0.02 for player in rest} == {True}

    def test_who_did_not_finish_is_blamed_less(self) -> None:
        """By sig(0.0052, 220)(t) + 1, which is 1.0002702 after half an hour."""
        finished = judge(players=carried(), duration=600).players[0].probability
        left = judge(players=carried(completed=False), duration=600).players[0].probability
        assert left == pytest.approx(finished / 1.0002702210, rel=1e-6)

    def test_who_left_early_is_blamed_little(self) -> None:
        """1 / (1 + e^(0.0052 (60 - 220))) = 0.6967776531 after a minute."""
        about: dict[str, Any] = {"time_played_seconds": 60, "weapons": (), "kills": 60}
        rest = tuple(make_player(n, kills=188) for n in range(2, 7))
        finished = judge(players=(make_player(1, **about), *rest), duration=600).players[0]
        left = judge(players=(make_player(1, completed=False, **about), *rest), duration=600)
        assert finished.probability > 0.05
        assert left.players[0].probability == pytest.approx(
            finished.probability / 1.6967776531, rel=1e-6
        )

    def test_a_first_clear_weighs_more(self) -> None:
        """To the power of 0.8, with bit 52; only for those who finished."""
        usual = judge(players=carried(), duration=1000).players[0]
        first = judge(players=carried(is_first_clear=True), duration=1000).players[0]
        assert first.probability == pytest.approx(usual.probability**0.8)
        assert "FirstClear" in reasons(first)
        assert f"that {usual.probability:.3f} weighs as {first.probability:.3f}" in (
            first.explanation
        )
        left = judge(players=carried(is_first_clear=True, completed=False), duration=1000)
        assert "FirstClear" not in reasons(left.players[0])

    def test_solo_the_run_and_its_player_are_one(self) -> None:
        """1 - (1 - run)(1 - player), and every reason of both in both masks."""
        supers = make_player(1, super_kills=240, kills=1800, weapons=())
        verdict = judge(players=(supers,), player_count=1, activity_id=10)
        (player,) = verdict.players
        assert verdict.probability == player.probability
        # 0.995 for one player in Vow of the Disciple; 0.8175744762 * 0.9525741268 for the player
        assert verdict.probability == pytest.approx(1 - 0.005 * (1 - 0.7788003), abs=1e-4)
        assert verdict.bitmask == player.bitmask
        assert set(bits_in(verdict.bitmask)) == {10, 53, 56, 58, 62}

    def test_no_bit_of_solo_for_two(self) -> None:
        """Nor for a report that has fewer players than it says."""
        for count in (2, 6):
            verdict = judge(players=(make_player(1),), player_count=count)
            assert "Solo" not in reasons(verdict)


class TestSkipped:
    @pytest.mark.parametrize(
        ("window", "begins", "ends"),
        [
            ("craftening", "2023-09-15T13:54:00Z", "2023-09-18T04:00:09Z"),
            ("quickfang", "2025-09-16T17:00:00Z", "2025-09-23T17:00:00Z"),
            ("bow_mod", "2026-01-27T17:00:00Z", "2026-02-03T17:00:00Z"),
        ],
    )
    @pytest.mark.parametrize(
        ("side", "started", "done", "is_skipped"),
        [
            ("begins", -600, 0, False),  # over when it began
            ("begins", -600, 1, True),
            ("begins", 600, 1200, True),
            ("ends", -1, 600, True),
            ("ends", 0, 600, False),
        ],
    )
    def test_weeks_of_bugs(
        self,
        window: str,
        begins: str,
        ends: str,
        side: str,
        started: int,
        done: int,
        is_skipped: bool,
    ) -> None:
        """Half the game killed bosses in seconds then; every run that overlaps is left alone."""
        edge = at(begins if side == "begins" else ends)
        verdict = judge(
            date_started=edge + timedelta(seconds=started),
            date_completed=edge + timedelta(seconds=done),
            activity_id=10,
            player_count=2,
        )
        assert verdict.skipped == (f"window: {window}" if is_skipped else None)
        assert (verdict.probability == 0) is is_skipped

    def test_a_report_that_may_grow(self) -> None:
        """A missing entry looks like a lowman."""
        verdict = judge(is_settled=False, activity_id=10, player_count=1)
        assert verdict.skipped == "unsettled"
        assert (verdict.probability, verdict.bitmask, verdict.reasons) == (0, 0, ())
        assert verdict.players == (PlayerVerdict(1, 0, 0, ()),)

    @pytest.mark.parametrize("activity", [4, 11])
    def test_incomplete_runs_of_two_raids(self, activity: int) -> None:
        """Two of their encounters look like slow clocks."""
        kind: dict[str, Any] = {"activity_id": activity, "duration": 1000}
        slow = (make_player(1, time_played_seconds=100),)
        assert judge(completed=False, players=slow, **kind).skipped == "incomplete"
        assert judge(completed=True, players=slow, **kind).skipped is None
        assert judge(completed=False, players=slow, duration=1000).skipped is None

    @pytest.mark.parametrize(
        ("facts", "is_skipped"),
        [
            ({"duration": 59}, True),
            ({"duration": 60}, False),
            ({"duration": 59, "fresh": True}, False),
            ({"duration": 59, "completed": False}, False),
            ({"duration": 59, "players": (make_player(1, kills=1),)}, False),
        ],
    )
    def test_a_checkpoint_that_nobody_played(self, facts: dict[str, Any], is_skipped: bool) -> None:
        """A bug of the game calls it cleared; by the formulas it has far too few kills."""
        players = tuple(make_player(n, kills=0, weapons=()) for n in range(1, 7))
        verdict = judge(**({"fresh": False, "players": players} | facts))
        assert verdict.skipped == ("instant checkpoint" if is_skipped else None)


class TestFailedRules:
    def test_a_rule_that_cannot_say_leaves_the_others(self) -> None:
        """A report without times still has a team of one."""
        verdict = judge(
            activity_id=10,
            duration=0,
            player_count=1,
            players=(make_player(1, time_played_seconds=0),),
        )
        assert verdict.failed_rules == (
            "time_dilation: the run took no time",
            "speed: the run took no time",
        )
        assert verdict.probability > 0.995
        assert "TooFewPlayersFresh" in reasons(verdict)

    def test_no_release_date(self) -> None:
        """An activity whose definition is not there yet."""
        verdict = judge(release_date=None)
        assert verdict.failed_rules == ("speed: the activity has no release date",)

    def test_impossible_numbers_of_a_player(self) -> None:
        """The rules about that player fail by name, everybody else's count."""
        broken = make_player(7, kills=-500, weapons=make_weapons(-900, 400, 400, 400, 400))
        verdict = judge(players=(*(make_player(n) for n in range(1, 6)), broken))
        assert any("(player 7)" in problem for problem in verdict.failed_rules)
        assert not any("(player 1)" in problem for problem in verdict.failed_rules)

    def test_no_players_at_all(self) -> None:
        """Nothing to divide by, nobody to blame."""
        verdict = judge(players=(), player_count=0)
        assert verdict.players == ()
        assert verdict.failed_rules


# Not in the parameters.
NEW: dict[str, Any] = {"activity_id": 17, "release_date": DONE - timedelta(days=10)}


class TestGeneric:
    """Rules for what has no table or curve."""

    @pytest.mark.parametrize(
        ("facts", "found"),
        [
            ({}, True),
            ({"release_date": DONE - timedelta(days=30)}, False),
            ({"release_date": DONE - timedelta(days=29, hours=23)}, True),
            ({"release_date": DONE + timedelta(days=1)}, True),
            ({"release_date": None}, False),
            ({"is_raid": False}, False),
            ({"fresh": False}, False),
            ({"fresh": None}, False),
            ({"completed": False}, False),
            ({"player_count": 2}, False),
            ({"activity_id": 12}, False),  # its table says that one may
        ],
    )
    def test_solo_in_a_new_raid(self, facts: dict[str, Any], found: bool) -> None:
        """Nobody does so in the first month."""
        verdict = judge(**({**NEW, "player_count": 1} | facts))
        assert ("TooFewPlayersFresh" in reasons(verdict)) is found
        if found:
            assert verdict.probability == pytest.approx(0.9, abs=1e-3)
            assert {"Generic", "Solo"} < set(reasons(verdict))

    @pytest.mark.parametrize(
        ("facts", "found"),
        [
            ({"duration": 179}, True),
            ({"duration": 180}, False),
            ({"duration": 179, "fresh": False}, False),
            ({"duration": 179, "completed": False}, False),
            ({"duration": 179, "activity_id": 15}, True),  # no curve yet
            ({"duration": 179, "activity_id": 102, "version_id": 133}, True),  # no floor
            ({"duration": 100, "activity_id": 101, "version_id": 128}, False),  # has a curve
        ],
    )
    def test_shorter_than_a_walk_through(self, facts: dict[str, Any], found: bool) -> None:
        """Under three minutes."""
        verdict = judge(**(NEW | facts))
        assert ("of anything" in verdict.explanation) is found
        assert (ReasonBit.GENERIC in bits_in(verdict.bitmask)) is found

    def test_quicker_than_the_quickest(self) -> None:
        """R = 0.9 * 1000 s; (925 - 25)/900 = 1: 1 / (1 + e^2.8)."""
        norms = Norms(quick_seconds=1000)
        for activity in (15, 17):
            about: dict[str, Any] = {**NEW, "activity_id": activity, "norms": norms}
            verdict = judge(duration=925, **about)
            assert reasons(verdict)["TooFast"] == pytest.approx(0.0573241759)
            assert "TooFast" not in reasons(judge(duration=925, fresh=False, **about))
        assert "TooFast" not in reasons(judge(duration=925, **NEW)), "too few are known"
        known = judge(duration=1300, norms=Norms(quick_seconds=10**6))
        assert "TooFast" not in reasons(known), "it has a curve"

    @pytest.mark.parametrize(
        ("kills", "fresh", "expected"),
        [
            # below half of 200: 1 / (1 + e^(20 (100/201 - 0.83))) / (1 + e^(-0.04 (201 - 60)))
            (99, True, 0.9951716),
            (100, True, None),
            (99, False, 0.9951716),
            # next to none: p^(0.5 + 6/60) fresh, p^(0.5 + 6/24) of a checkpoint
            (6, True, 0.9978742),
            (6, False, 0.9973435),
        ],
    )
    def test_far_fewer_kills_than_the_fewest(
        self, kills: int, fresh: bool, expected: float | None
    ) -> None:
        """Against what one clear in a hundred has."""
        players = (make_player(1, kills=kills), *(make_player(n, kills=0) for n in range(2, 7)))
        about: dict[str, Any] = {**NEW, "players": players, "fresh": fresh}
        found = reasons(judge(norms=Norms(low_kills=200), **about)).get("TotalInstanceKills")
        assert found == (None if expected is None else pytest.approx(expected, abs=1e-6))
        for norms in (Norms(), Norms(low_kills=0)):
            assert "TotalInstanceKills" not in reasons(judge(norms=norms, **about))

    def test_kills_of_activities_in_the_table(self) -> None:
        """Nothing is known of the second Pantheon; the spire's checkpoint is left out."""
        players = (make_player(1, kills=5), make_player(2, kills=0))
        about: dict[str, Any] = {"players": players, "norms": Norms(low_kills=200)}
        assert "TotalInstanceKills" in reasons(judge(activity_id=102, version_id=9, **about))
        assert "TotalInstanceKills" not in reasons(judge(activity_id=3, fresh=False, **about))

    def test_a_flag_that_other_rules_give_as_well_is_not_marked(self) -> None:
        """Levels above 2 need flags without the bit: a cheater of a new raid may get there."""
        sure = {"super_kills": 400, "grenade_kills": 1800, "melee_kills": 0, "kills": 2600}
        players = tuple(make_player(n, **sure) for n in range(1, 7))
        verdict = judge(duration=170, players=players, **NEW)
        assert "TooFast" in reasons(verdict)
        assert "Generic" not in reasons(verdict)
        assert {"Generic" in reasons(player) for player in verdict.players} == {False}

    def test_a_flag_that_they_lift_over_a_limit_is_marked(self) -> None:
        """From 0.86 by a slow clock alone to above 0.95, which would be blacklisted."""
        players = (make_player(1, time_played_seconds=450), make_player(2, time_played_seconds=0))
        slow = judge(duration=1000, players=players, player_count=2, **NEW)
        assert "Generic" not in reasons(slow)
        lifted = judge(
            duration=1000,
            players=players,
            player_count=2,
            norms=Norms(quick_seconds=10**6),
            **NEW,
        )
        assert slow.probability == pytest.approx(0.858, abs=0.01)
        assert lifted.probability > 0.99
        assert reasons(lifted)["Generic"] == 0
        assert f"would be {slow.probability:.3f}" in lifted.explanation


def _windows() -> list[Any]:
    """A run inside of each window of each table, by its smallest team."""
    cases = []
    for number, activity in PARAMETERS.activities.items():
        tables = ((True, activity.lowman.fresh), (False, activity.lowman.checkpoint))
        for fresh, table in tables:
            for version, entries in table.items():
                for entry in entries:
                    for window in entry.windows:
                        about = {
                            "activity_id": number,
                            "version_id": 1 if version == "any" else version,
                            "fresh": fresh,
                            "player_count": entry.players,
                            "date_completed": window.begins + timedelta(days=2),
                        }
                        label = f"{number}-{fresh}-{version}-{entry.players}-{window.begins:%Y%m%d}"
                        cases.append(pytest.param(about, id=label))
    return cases


def worst(verdict: Verdict) -> float:
    return max(verdict.probability, *(player.probability for player in verdict.players))


class TestBenign:
    """What looks odd and is not: never above 0.5, from where on people are told of it."""

    @pytest.mark.parametrize("about", _windows())
    def test_legal_lowmen(self, about: dict[str, Any]) -> None:
        """Those who are good at it are whom everybody watches."""
        size = about["player_count"]
        fighters = tuple(
            make_player(n, kills=3000 // size, time_played_seconds=9000, weapons=())
            for n in range(size)
        )
        about = {**about, "duration": 9000, "players": fighters}
        assert worst(judge(**about)) <= 0.5
        # The root of 0.25, of the master vault, is at the limit by itself.
        assert worst(judge(flawless=True, **about)) <= 0.505

    @pytest.mark.parametrize(
        "activity", [n for n, a in PARAMETERS.activities.items() if a.record_curve]
    )
    @pytest.mark.parametrize("days", [0.5, 30, 300])
    def test_record_holders(self, activity: int, days: float) -> None:
        """Five per cent below the curve, which is not the record itself."""
        curve = PARAMETERS.activities[activity].record_curve
        assert curve is not None
        done = datetime(2026, 3, 1, tzinfo=UTC)
        a, b, c, e = curve.a, curve.b, curve.c, curve.e
        best = curve.constant or a - b * e * math.log10(days + c)  # type: ignore[operator]
        duration = int(25 + 0.95 * best)
        kills = (PARAMETERS.activities[activity].min_kills.fresh or 0) * 1.3 / 6
        about: dict[str, Any] = {"super_kills": 0, "time_played_seconds": duration, "weapons": ()}
        players = tuple(make_player(n, kills=int(kills) + 10, **about) for n in range(6))
        verdict = judge(
            activity_id=activity,
            duration=duration,
            players=players,
            release_date=done - timedelta(days=days),
            date_completed=done,
        )
        assert worst(verdict) <= 0.5
        # 1 / (1 + e^(40 (0.95 - 0.93))), and the rest of a second
        assert reasons(verdict) == {"TooFast": pytest.approx(0.31, abs=0.03)}

    def test_a_sniper_of_a_checkpoint(self) -> None:
        """Joins for the last minute and a half, kills next to nothing."""
        sniper = make_player(1, kills=2, time_played_seconds=90, weapons=make_weapons(2))
        rest = tuple(make_player(n, kills=30, time_played_seconds=400) for n in range(2, 7))
        assert worst(judge(fresh=False, duration=400, players=(sniper, *rest))) <= 0.5

    @pytest.mark.parametrize(("activity", "kills"), [(9, 4), (4, 0), (13, 0), (14, 0), (3, 0)])
    def test_a_checkpoint_with_few_kills(self, activity: int, kills: int) -> None:
        """Finishers, glyphs and bosses that fall to six rockets."""
        players = (
            make_player(1, kills=kills, time_played_seconds=180, weapons=()),
            *(make_player(n, kills=0, time_played_seconds=180, weapons=()) for n in range(2, 7)),
        )
        verdict = judge(activity_id=activity, fresh=False, duration=180, players=players)
        assert worst(verdict) <= 0.5

    @pytest.mark.parametrize("activity", sorted(PARAMETERS.activities))
    @pytest.mark.parametrize("size", [1, 3, 6])
    def test_cleared_in_59_seconds_without_a_kill(self, activity: int, size: int) -> None:
        """A checkpoint that the game calls cleared on arrival."""
        players = tuple(
            make_player(n, kills=0, time_played_seconds=59, weapons=()) for n in range(size)
        )
        verdict = judge(
            activity_id=activity, fresh=False, duration=59, players=players, player_count=size
        )
        assert worst(verdict) <= 0.5

    def test_the_wall_of_wishes(self) -> None:
        """Last Wish marked fresh, begun at its last boss."""
        players = tuple(
            make_player(n, kills=5, time_played_seconds=400, weapons=()) for n in range(6)
        )
        verdict = judge(
            activity_id=4,
            release_date=datetime(2018, 9, 14, tzinfo=UTC),
            duration=400,
            players=players,
        )
        assert worst(verdict) <= 0.5

    def test_counters_at_their_end(self) -> None:
        """A night in a raid: the game counts 32767 seconds and no more."""
        players = tuple(make_player(n, time_played_seconds=32767) for n in range(2))
        verdict = judge(
            duration=150000, fresh=False, players=players, player_count=2, is_saturated=True
        )
        assert worst(verdict) <= 0.5

    def test_a_team_away_from_the_keyboard(self) -> None:
        """One plays a checkpoint, five stand at the entrance."""
        one = make_player(1, kills=300, weapons=make_weapons(90, 80, 60, 30, 20, heavy=1))
        rest = tuple(make_player(n, kills=0, weapons=()) for n in range(2, 7))
        verdict = judge(fresh=False, players=(one, *rest))
        assert worst(verdict) <= 0.5
        assert "KillsShare" in reasons(verdict.players[0])

    def test_crowds_at_a_checkpoint(self) -> None:
        """Bots that hold one: sixty players who looked in."""
        players = tuple(
            make_player(n, kills=3, time_played_seconds=30, weapons=()) for n in range(60)
        )
        verdict = judge(fresh=False, duration=7200, players=players, player_count=60)
        assert worst(verdict) <= 0.5


def players_of(counts: st.SearchStrategy[int], ids: st.SearchStrategy[int]) -> Any:
    weapon = st.builds(WeaponUse, kills=counts, is_heavy=st.booleans())
    return st.builds(
        PlayerFacts,
        membership_id=ids,
        completed=st.booleans(),
        is_first_clear=st.booleans(),
        time_played_seconds=counts,
        kills=counts,
        super_kills=counts,
        grenade_kills=counts,
        melee_kills=counts,
        weapons=st.lists(weapon, max_size=6).map(tuple),
    )


def runs_of(counts: st.SearchStrategy[int], times: st.SearchStrategy[datetime]) -> Any:
    """Facts whose numbers need not agree with each other at all."""
    some = st.none() | counts
    return st.builds(
        InstanceFacts,
        instance_id=st.integers(1, 2**63 - 1),
        activity_id=st.sampled_from([*PARAMETERS.activities, 17, 50, -1]),
        activity_name=st.sampled_from(["", "Vault of Glass"]),
        is_raid=st.booleans(),
        version_id=st.sampled_from([0, 1, 3, 4, 129, 132, 133, 134]),
        release_date=st.none() | times,
        date_started=times,
        date_completed=times,
        duration=counts,
        player_count=st.integers(1, 8) | counts,
        completed=st.booleans(),
        fresh=st.sampled_from([True, False, None]),
        flawless=st.sampled_from([True, False, None]),
        skull_hashes=st.lists(st.sampled_from([2392637702, 2673088233, 790421403])).map(tuple),
        is_saturated=st.booleans(),
        is_settled=st.just(True),
        players=st.lists(
            players_of(counts, st.integers(1, 2**63)),
            max_size=8,
            unique_by=lambda player: player.membership_id,
        ).map(tuple),
        norms=st.builds(
            Norms, low_kills=some, quick_seconds=st.none() | st.floats(allow_infinity=True)
        ),
    )


times = st.datetimes(timezones=st.just(UTC))
possible = runs_of(st.integers(0, 40000), times)
absurd = runs_of(st.integers(-(2**63), 2**63) | st.integers(-5, 400), times)


@given(absurd | possible)
def test_whatever_is_stored_a_verdict_is_whole(facts: InstanceFacts) -> None:
    """A probability outside of 0..1 is refused by the ledger, and the batch with it.

    The mask has the activity's bit and those of the reasons, no more and no less.
    """
    verdict = check(PARAMETERS, facts)
    assert [p.membership_id for p in verdict.players] == sorted(
        p.membership_id for p in facts.players
    )
    activity = activity_mask(PARAMETERS, facts.activity_id) if verdict.skipped is None else 0
    parts: list[Verdict | PlayerVerdict] = [verdict, *verdict.players]
    for part in parts:
        assert 0 <= part.probability <= 1
        assert part.bitmask == activity | mask_of(bit for bit, _, _ in part.reasons)
        assert 0 <= part.bitmask < 1 << 63
        assert all(0 <= reason.probability <= 1 for reason in part.reasons)
        assert all(reason.text for reason in part.reasons)
        assert bool(part.explanation) is bool(part.reasons)
    if verdict.skipped is not None:
        assert worst(verdict) == 0 if verdict.players else verdict.probability == 0


@given(possible, st.randoms())
def test_order_does_not_matter(facts: InstanceFacts, rng: random.Random) -> None:
    """Checked again, a run must not change its verdict because rows came in another order."""

    def mixed(things: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(rng.sample(things, len(things)))

    players = tuple(
        msgspec.structs.replace(player, weapons=mixed(player.weapons)) for player in facts.players
    )
    again = msgspec.structs.replace(
        facts, players=mixed(players), skull_hashes=mixed(facts.skull_hashes)
    )
    assert check(PARAMETERS, again) == check(PARAMETERS, facts)


@given(
    st.integers(0, 3000),
    st.integers(60, 3600),
    st.sampled_from(["super_kills", "grenade_kills", "kills"]),
)
@example(0, 60, "kills")
def test_a_player_who_does_more_is_never_less_suspicious(
    count: int, seconds: int, counter: str
) -> None:
    """Of each of their own factors, in a run that stays as it is."""

    def own(kills: int) -> dict[str, float]:
        first = make_player(1, time_played_seconds=seconds, **{counter: kills})
        others = tuple(make_player(n, kills=500) for n in range(2, 7))
        found = reasons(judge(players=(first, *others), fresh=False).players[0])
        return {name: chance for name, chance in found.items() if name in FACTORS}

    less, more = own(count), own(count + 1)
    for name, chance in less.items():
        assert more.get(name, 0.02) >= chance - 1e-12, name


FACTORS = {"SuperKills", "GrenadeKills", "PlayerTotalKills"}


class TestReasons:
    def test_labels_are_those_that_readers_know(self) -> None:
        """They are in the report, in messages and in the page's table."""
        assert {bit.label for bit in ReasonBit} == {
            *("Manual", "Generic", "RestrictedPGCR", "HeavyAmmoKills", "FastLowmanCheckpoint"),
            *("UnlikelyLowman", "KillsShare", "TimeDilation", "FirstClear", "Solo"),
            *("TotalInstanceKills", "TwoPlusCheaters", "PlayerTotalKills", "WeaponDiversity"),
            *("SuperKills", "GrenadeKills", "TooFast", "TooFewPlayersCheckpoint"),
            "TooFewPlayersFresh",
        }

    def test_bits_of_reasons_and_activities_differ(self) -> None:
        """One bit of two meanings can never be told apart again."""
        activities = {activity.bit for activity in PARAMETERS.activities.values()}
        assert not activities & {int(bit) for bit in ReasonBit}
        assert max(ReasonBit) == 62
        assert min(set(ReasonBit) - {ReasonBit.MANUAL}) > 34

    @given(st.sets(st.integers(0, 62)))
    def test_a_mask_and_its_bits(self, bits: set[int]) -> None:
        """There and back."""
        assert bits_in(mask_of(bits)) == tuple(sorted(bits))

    def test_a_mask_in_words(self) -> None:
        """A bit without a name is told, not lost."""
        mask = mask_of((62, 9, 40, 46))
        assert labels_in(PARAMETERS, mask) == (
            "Vault of Glass",
            "Bit 40",
            "RestrictedPGCR",
            "TooFewPlayersFresh",
        )
        with pytest.raises(ValueError, match="no mask"):
            bits_in(-1)

    def test_the_heaviest_reason_comes_first(self) -> None:
        """One reads the beginning."""
        players = tuple(make_player(n, kills=340, time_played_seconds=900) for n in (1, 2))
        about: dict[str, Any] = {"activity_id": 10, "activity_name": "Vow", "duration": 3600}
        verdict = judge(player_count=2, players=players, **about)
        assert verdict.explanation.startswith(
            "cleared fresh Vow with 2 players, expected at least 3; "
            "the players were there for 30:00 together, 50.0 % less than the 1:00:00 of the run; "
        )


def test_the_page_has_every_bit() -> None:
    """Who reads a mask looks it up there."""
    page = (DOCS / "domain" / "cheat-detection.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", page, re.MULTILINE)
    told = {int(bit): label for bit, label in rows if int(bit) == 0 or int(bit) > 34}
    assert told == {int(bit): bit.label for bit in ReasonBit}
