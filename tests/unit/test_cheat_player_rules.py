"""Factors of one player and their part in the team's, against numbers worked out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.cheat_detection.curves import CannotSayError
from raidhub_dagster.cheat_detection.instance_rules import Finding, Run, look_at
from raidhub_dagster.cheat_detection.parameters import load_parameters
from raidhub_dagster.cheat_detection.player_rules import (
    PlayerRule,
    judge_grenades,
    judge_heavy,
    judge_kill_rate,
    judge_kills_share,
    judge_supers,
    judge_weapons,
    look_at_player,
    participation,
    weapon_diversity,
)
from tests.support.runs import make_player, make_run, make_weapons

PARAMETERS = load_parameters("compat-2.2.0")


def factor(rule: PlayerRule, run: Run | None = None, **player: Any) -> Finding:
    """What a rule says of a player of an ordinary run."""
    played = look_at_player(PARAMETERS, make_player(**player))
    assert played is not None
    return rule(PARAMETERS, run or look_at(PARAMETERS, make_run()), played)


def team_of(kills: int, seconds: int, size: int = 6) -> Run:
    """A run of `size` players with so many kills and so much time together."""
    rest = (make_player(99, kills=kills, time_played_seconds=seconds),)
    return look_at(PARAMETERS, make_run(player_count=size, players=rest))


@pytest.mark.parametrize(
    ("seconds", "weight"), [(59, None), (60, 0.2), (150, 0.5), (300, 1), (5000, 1), (0, None)]
)
def test_short_stays_weigh_less(seconds: int, weight: float | None) -> None:
    """min(300, t)/300; below a minute a rate is luck."""
    played = look_at_player(PARAMETERS, make_player(time_played_seconds=seconds))
    assert (played and played.weight) == weight


class TestRates:
    @pytest.mark.parametrize(
        ("rule", "counters", "seconds", "expected"),
        [
            # 25 grenade kills a minute more than melees: 1 / (1 + e^(-0.35 * 5))
            (judge_grenades, {"grenade_kills": 250, "melee_kills": 0}, 600, 0.8519528020),
            (judge_grenades, {"grenade_kills": 300, "melee_kills": 50}, 600, 0.8519528020),
            (judge_grenades, {"grenade_kills": 200, "melee_kills": 0}, 600, 0.5),
            # more melees than grenades count as 0: 1 / (1 + e^7)
            (judge_grenades, {"grenade_kills": 10, "melee_kills": 900}, 600, 0.0009110512),
            # half the weight in 150 s
            (judge_grenades, {"grenade_kills": 100, "melee_kills": 50}, 150, 0.25),
            (judge_kill_rate, {"kills": 600}, 600, 0.9525741268),  # 60 a minute: 1 / (1 + e^-3)
            (judge_kill_rate, {"kills": 400}, 600, 0.5),
            (judge_kill_rate, {"kills": 150}, 150, 0.4762870634),
            (judge_kill_rate, {"kills": 0}, 600, 0.0024726232),  # 1 / (1 + e^6)
            (judge_supers, {"super_kills": 80}, 600, 0.8175744762),  # 8 a minute
            (judge_supers, {"super_kills": 60}, 600, 0.5),
            (judge_supers, {"super_kills": 20}, 150, 0.4087872381),
            (judge_supers, {"super_kills": 0}, 600, 0.0109869426),
        ],
    )
    def test_a_rate(
        self, rule: PlayerRule, counters: dict[str, Any], seconds: int, expected: float
    ) -> None:
        """Kills a minute, weighed by the time that the player was there."""
        finding = factor(rule, time_played_seconds=seconds, **counters)
        assert finding.probability == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        ("rule", "counter"),
        [
            (judge_grenades, "grenade_kills"),
            (judge_kill_rate, "kills"),
            (judge_supers, "super_kills"),
        ],
    )
    @given(kills=st.integers(0, 5000), seconds=st.integers(60, 32767))
    def test_more_a_minute_is_never_less_suspicious(
        self, rule: PlayerRule, counter: str, kills: int, seconds: int
    ) -> None:
        """Nor is the same in less time, once the stay is long enough to weigh fully."""

        def chance(count: int, time: int) -> float:
            values: dict[str, Any] = {counter: count, "melee_kills": 0, "time_played_seconds": time}
            return factor(rule, **values).probability

        assert chance(kills + 1, seconds) >= chance(kills, seconds)
        if seconds >= 300:
            assert chance(kills, seconds) >= chance(kills, seconds + 60)

    def test_sentences(self) -> None:
        """With the bit that readers know, and the rate."""
        assert factor(
            judge_grenades, grenade_kills=253, melee_kills=12, time_played_seconds=600
        ).reasons == ((59, "25.3 grenade kills a minute and 1.2 with melees"),)
        assert factor(judge_kill_rate, kills=452, time_played_seconds=600).reasons == (
            (56, "45.2 kills a minute"),
        )
        assert factor(judge_supers, super_kills=91, time_played_seconds=600).reasons == (
            (58, "9.1 super kills a minute"),
        )
        assert factor(judge_supers, super_kills=0, time_played_seconds=600).reasons == ()


class TestHeavy:
    @pytest.mark.parametrize(
        ("seconds", "weapons", "expected"),
        [
            # 5 * 190/600 is above 1.25; 1.25 * 190/201 = 1.1815920
            (600, make_weapons(190, 10, heavy=1), 0.9930407260),
            # 5 * 100/600 * 100/101 = 0.8250825
            (600, make_weapons(60, 40, heavy=2), 0.5808034760),
            # 0.2614379, and half the kills that weigh fully: 50/100
            (600, make_weapons(40, 10, heavy=1), 0.0004549311),
            # 1.25 * 40/51 = 0.9803922; * 50/100 for kills, * 150/300 for time
            (150, make_weapons(40, 10, heavy=1), 0.2281359511),
            (1200, make_weapons(190, 10, heavy=1), 0.3381478711),  # 5 * 190/1200 * 190/201
            (600, make_weapons(190, 210, heavy=1), 0.0629439322),  # 1.25 * 190/401
            (600, (), 0),
        ],
    )
    def test_more_than_there_is_ammo_for(
        self, seconds: int, weapons: tuple[Any, ...], expected: float
    ) -> None:
        """Both the pace and the share must be high; a weapon nobody knows is not heavy."""
        finding = factor(judge_heavy, time_played_seconds=seconds, weapons=weapons)
        assert finding.probability == pytest.approx(expected, abs=1e-9)

    def test_sentence(self) -> None:
        """How many, of how many, in what time."""
        weapons = make_weapons(190, 10, heavy=1)
        assert factor(judge_heavy, time_played_seconds=500, weapons=weapons).reasons == (
            (47, "190 of 200 weapon kills with heavy ammo in 8:20"),
        )


class TestWeaponDiversity:
    @pytest.mark.parametrize(
        ("rows", "completed", "diversity", "chance"),
        [
            # fewer than 150 kills say nothing
            ((149,), True, 100, 0),
            # up to 3 rows: (n + 1) * 1200/1800 / (max(k, 800)/800)
            ((150,), True, 1.3333333333, 0.3351600230),  # 0.5 e^-0.4
            ((400, 400), True, 2, 0.2744058180),  # 0.5 e^-0.6
            ((800, 800, 0), True, 1.3333333333, 0.3351600230),  # 2.6667 / 2
            # not finished: squared
            ((500, 300, 10), False, 6.9366119663, 0.0624036963),  # (2.6667 / 1.0125)^2
            # more rows: the root of mean/sd and rows^1.5 without outliers, by max(k, 600)/600
            ((50, 50, 50, 50), True, 15.0710678119, 0.0054373280),  # sqrt(50) + 8
            ((300, 300, 300, 300), True, 12.6602540378, 0.0112069249),  # (sqrt(300) + 8) / 2
            ((300, 300, 300, 300), False, 160.2820323028, 0),
            # mean 200, sd 489.8979; 1200 is beyond 2 sd: (0.6389431 + 5^1.5) / 2
            ((1200, 0, 0, 0, 0, 0), True, 5.9096414959, 0.0849205106),
            # mean 120.9, sd 379.1571, one outlier: (0.5646844 + 27) / 2.015
            ((1200, *[1] * 9), True, 13.6797426794, 0.0082538957),
        ],
    )
    def test_a_few_weapons_for_everything(
        self, rows: tuple[int, ...], completed: bool, diversity: float, chance: float
    ) -> None:
        """Equal rows count each, as do unknown weapons: joined by value they vanished."""
        about: dict[str, Any] = {
            "time_played_seconds": 1800,
            "weapons": make_weapons(*rows),
            "completed": completed,
        }
        played = look_at_player(PARAMETERS, make_player(**about))
        assert played is not None
        assert weapon_diversity(PARAMETERS, played) == pytest.approx(diversity, abs=1e-9)
        assert factor(judge_weapons, **about).probability == pytest.approx(chance, abs=1e-9)

    def test_sentence(self) -> None:
        """3 * 1200/600 = 6, so 0.5 e^(-0.3 * 6)."""
        finding = factor(judge_weapons, time_played_seconds=600, weapons=make_weapons(700, 100))
        assert finding.probability == pytest.approx(0.0826494441, abs=1e-9)
        assert finding.reasons == ((57, "800 kills with 2 weapons in 10:00, diversity 6.00"),)

    @given(st.lists(st.integers(0, 2000), max_size=12), st.randoms())
    def test_the_order_of_rows_is_none(self, rows: list[int], random: Any) -> None:
        """PostgreSQL gives them in whatever order."""
        mixed = list(rows)
        random.shuffle(mixed)
        first, second = (factor(judge_weapons, weapons=make_weapons(*r)) for r in (rows, mixed))
        assert first == second


class TestKillsShare:
    @pytest.mark.parametrize(
        ("kills", "seconds", "team_kills", "team_seconds", "expected"),
        [
            # a sixth of the time: s_max = ln(1/6 + 0.05)/ln 30 + 0.99 = 0.5403362
            (95, 600, 100, 3600, 0.8751357175),  # 0.95/s_max = 1.7581645
            (60, 600, 100, 3600, 0.0699757333),  # 1.1104197
            (54, 600, 100, 3600, 0),  # 0.9993777 is not above 1
            (21, 600, 21, 3600, 0.9305323970),  # 1.8506995
            (20, 600, 20, 3600, 0),  # the team needs more than 20 kills
            # all of the time: s_max = 1.0043450 is never passed
            (21, 600, 21, 600, 0),
            (95, 150, 100, 900, 0.4375678588),  # half the weight
        ],
    )
    def test_more_than_the_share_of_time_explains(
        self, kills: int, seconds: int, team_kills: int, team_seconds: int, expected: float
    ) -> None:
        """One who does it all while five are at the keyboard is seen, one who is alone is not."""
        run = team_of(team_kills, team_seconds)
        finding = factor(judge_kills_share, run, kills=kills, time_played_seconds=seconds)
        assert finding.probability == pytest.approx(expected, abs=1e-9)

    def test_sentence(self) -> None:
        """Both shares, and how far they are apart."""
        finding = factor(judge_kills_share, team_of(100, 3600), kills=95, time_played_seconds=600)
        assert finding.reasons == (
            (
                50,
                "95.0 % of the team's 100 kills in 16.7 % of its time, 1.76 times what is likely",
            ),
        )

    def test_without_a_share_it_cannot_say(self) -> None:
        """Other numbers than today's may leave no likely share."""
        rule = PARAMETERS.rules.kills_share.model_copy(update={"offset": 0.0})
        rules = PARAMETERS.rules.model_copy(update={"kills_share": rule})
        parameters = PARAMETERS.model_copy(update={"rules": rules})
        played = look_at_player(parameters, make_player())
        assert played is not None
        with pytest.raises(CannotSayError):
            judge_kills_share(parameters, team_of(1000, 10800), played)


class TestParticipation:
    @pytest.mark.parametrize(
        ("size", "player", "team", "expected"),
        [
            # (kills, seconds) of the player, of the team
            # A = (170/1021)^1.25 / (1800/10801) = 0.6382200, B = 171/1021 = 0.1674829
            # 1 / (1 + e^(-1.6 (2.5 A B - 3)))
            (6, (170, 1800), (1020, 10800), 0.0124631647),
            (6, (0, 1800), (1000, 10800), 0.0081625712),  # 1 / (1 + e^4.8)
            (6, (900, 1800), (1000, 10800), 0.9999992587),
            # two players: k = -3.0, x0 = 1.2
            (2, (100, 600), (200, 1200), 0.3898313070),
            (2, (25, 600), (50, 1200), 0.1160476971),  # B = 26/51 * 25/50
            (3, (300, 1800), (400, 5400), 0.9975506840),
            # eight and more: k = -0.9, x0 = 3.9
            (8, (170, 1800), (1360, 14400), 0.0341564530),
            (12, (170, 1800), (1360, 14400), 0.0341564530),
            # nobody takes part in what they did alone, or without any time
            (1, (170, 1800), (170, 1800), 0),
            (6, (170, 0), (1020, 10800), 0),
        ],
    )
    def test_a_players_part(
        self, size: int, player: tuple[int, int], team: tuple[int, int], expected: float
    ) -> None:
        """The carried are not blamed for what the carrier did."""
        run = team_of(team[0], team[1], size)
        kills, seconds = player
        facts = make_player(kills=kills, time_played_seconds=seconds)
        assert participation(PARAMETERS, run, facts) == pytest.approx(expected, abs=1e-9)

    @given(kills=st.integers(0, 1000), size=st.integers(2, 60))
    def test_who_kills_more_takes_part_more(self, kills: int, size: int) -> None:
        """At the same time played."""
        run = team_of(2000, 10800, size)
        fewer, more = (
            participation(PARAMETERS, run, make_player(kills=count)) for count in (kills, kills + 1)
        )
        assert fewer <= more
