"""What `raidhub bench cheats` tells, in a short form: a rule that got worse is seen at once."""

from functools import cache
from typing import Any

import msgspec
import pytest

from raidhub_dagster.cheat_detection.parameters import DEFAULT_VERSION, load_parameters
from raidhub_dagster.cheat_detection.verdict import PlayerVerdict, Verdict
from raidhub_dagster.cheat_learning.features import FEATURES
from simulator.conduct import STYLES
from tests.benchmarks import cheats
from tests.benchmarks.cheats import (
    COVERED,
    REPORTING_SEEDS,
    TUNING_SEEDS,
    UNCOVERED,
    Evaluation,
    Judged,
    Standing,
    figures,
    judge_worlds,
    tables,
)
from tests.support.judged import GROWING_UNSEEN, Case, make_world, read_cases
from tests.support.learned import rows_of

RUNS = 2500


@cache
def evaluation() -> Evaluation:
    return judge_worlds(load_parameters(), TUNING_SEEDS[:1], RUNS)


def test_the_rules_find_cheaters_and_leave_the_innocent_alone() -> None:
    """Whoever changes a rule, a parameter or the world sees here what it costs."""
    found = figures(evaluation())
    assert found["precision"] >= 0.95
    assert found["recall"] >= 0.85
    assert found["innocent_max"] <= 0.5
    assert found["ordinary_max"] <= 0.5
    assert found["brier"] < 0.06
    assert found["calibration_error"] < 0.08


@pytest.mark.parametrize("style", COVERED)
def test_no_style_goes_unseen(style: str) -> None:
    """A recall over all styles would hide one that no rule finds any more."""
    mine = [j for j in evaluation().judged if j.case.conduct == style]
    assert len(mine) >= 15
    assert sum(j.is_flagged for j in mine) / len(mine) > 0.6


def test_the_newer_version_clears_every_legal_flawless_solo_and_misses_nothing_more() -> None:
    """The older one gives 0.5 and more to the rarest of what people are proud of."""
    older = judge_worlds(load_parameters("compat-2.2.0"), TUNING_SEEDS[:1], RUNS)
    old, new = figures(older), figures(evaluation())
    assert DEFAULT_VERSION == "raidhub-3.0.0"
    assert new["recall"] == old["recall"]
    assert new["precision"] >= old["precision"]
    assert max(new["innocent_max"], new["ordinary_max"]) < 0.45


def test_levels_are_of_cheaters() -> None:
    """A level hides somebody from the leaderboards: a wrong one is what people never forgive."""
    found = figures(evaluation())
    assert found["level_precision"] == 1
    assert any(p.level >= cheats.LEVEL for p in evaluation().players if p.style)


def test_the_harness_is_a_function_of_its_seeds() -> None:
    first, again = (list(read_cases(make_world(5), 150)) for _ in range(2))
    assert first == again != list(read_cases(make_world(6), 150))


def test_what_is_tuned_is_not_what_is_reported() -> None:
    assert not set(TUNING_SEEDS) & set(REPORTING_SEEDS)


# --- the figures themselves ---------------------------------------------------------------------


def judged(conduct: str, chance: float, *players: tuple[int, float]) -> Judged:
    """A run with `players` as (id, chance); the one with id 1 cheats when anybody does."""
    sample = evaluation().judged[0].case.facts
    cheating = frozenset({1}) if conduct in STYLES else frozenset()
    verdict = Verdict(
        1, "v-1", chance, 0, (), tuple(PlayerVerdict(who, p, 0, ()) for who, p in players)
    )
    return Judged(1, Case(conduct, cheating, sample), verdict)


def told(*found: Judged, players: tuple[Standing, ...] = ()) -> dict[str, Any]:
    return figures(Evaluation(list(found), list(players), 1.0))


def test_a_run_is_flagged_by_itself_or_by_one_of_its_players() -> None:
    found = told(
        judged("lowman", 0.9),
        judged("kill_rate", 0.0, (1, 0.6), (2, 0.1)),
        judged("speedrun", 0.4, (1, 0.1)),
        judged("", 0.7, (3, 0.2)),
        judged("", 0.1),
    )
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["blamed_precision"] == 1
    assert found["ordinary_max"] == 0.7


def test_a_style_without_a_rule_is_no_miss_but_no_false_alarm_either() -> None:
    found = told(judged("fresh_account", 0.1), judged("fresh_account", 0.9), judged("lowman", 1.0))
    assert (found["precision"], found["recall"]) == (1, 1)


def test_blame_of_a_clean_player_in_a_cheated_run_counts_as_wrong() -> None:
    found = told(judged("carry", 0.9, (1, 0.9), (2, 0.8), (3, 0.4)))
    assert found["blamed_precision"] == 0.5


def test_hard_innocents_count_also_where_the_report_cannot_tell() -> None:
    found = told(judged("record", 0.3), judged("afk", 0.0, (4, 0.45)))
    assert found["innocent_max"] == 0.45
    found = told(judged("record", 0.3), judged(GROWING_UNSEEN, 1.0))
    assert (found["innocent_max"], found["precision"]) == (1.0, 0)


def test_chances_are_compared_with_what_was_true() -> None:
    found = told(judged("lowman", 0.8), judged("", 0.2))
    assert found["brier"] == pytest.approx(0.04)
    assert found["calibration_error"] == pytest.approx(0.2)


def test_the_queue_is_told_of_each_style_and_of_whom_it_wrongs() -> None:
    """A style without a rule has no other figure than this one."""
    found = [
        judged("fresh_account", 0.1, (1, 0.1), (2, 0.1)),
        judged("fresh_account", 0.1, (1, 0.1)),
        judged("kill_rate", 0.1, (1, 0.1)),
        judged("lowman", 0.9, (1, 0.1)),
        judged("record", 0.1, (3, 0.1)),
    ]
    runs = [
        j._replace(
            case=j.case._replace(facts=msgspec.structs.replace(j.case.facts, instance_id=number))
        )
        for number, j in enumerate(found)
    ]
    queued = frozenset({(1, 0, 1), (1, 2, 1), (1, 4, 3), (1, 0, 2)})
    assert cheats.queue_figures(runs, queued) == {"queue_precision": 0.5, "queue_recall": 0.5}
    lines = [line.split() for line in cheats.queue_table(runs, queued).splitlines()]
    assert ["fresh_account", "no", "2", "0.000", "0.500", "0.500"] in lines
    assert ["kill_rate", "yes", "1", "0.000", "1.000", "1.000"] in lines
    assert ["lowman", "yes", "1", "1.000", "0.000", "1.000"] in lines
    assert [line for line in lines if line[:1] in (["fresh_account"], ["record"])][1:] == [
        ["fresh_account", "1"], ["record", "1"]
    ]  # fmt: skip
    assert set(UNCOVERED) | set(COVERED) == set(STYLES)


def test_what_is_learned_from_is_what_the_report_says() -> None:
    """Measures of a run's own players, and of every run that a store would have."""
    cases = list(read_cases(make_world(5), 60))
    rows = rows_of(load_parameters(), cases)
    runs = {case.facts.instance_id: case for case in cases}
    columns = [feature.column for feature in FEATURES]
    assert {runs[i].facts.completed for i in rows.instance_ids.tolist()} == {True}
    for place in range(0, len(rows), 7):
        case = runs[int(rows.instance_ids[place])]
        (mine,) = [
            (player, tally)
            for player, tally in zip(case.facts.players, case.tallies, strict=True)
            if player.membership_id == rows.membership_ids[place]
        ]
        player, tally = mine
        minutes = player.time_played_seconds / 60
        values = dict(zip(columns, rows.values[place].tolist(), strict=True))
        assert values["kills_per_minute"] == pytest.approx(player.kills / minutes)
        assert values["deaths_per_minute"] == pytest.approx(tally.deaths / minutes)
        assert values["weapons_used"] == tally.weapons
        assert values["start_share"] == pytest.approx(tally.start / case.facts.duration)


def test_levels_below_three_accuse_nobody() -> None:
    found = told(
        players=(
            Standing("lowman", 4, 9),
            Standing("carry", 2, 9),
            Standing("fresh_account", 3, 9),
            Standing(None, 3, 9),
            Standing(None, 2, 9),
        )
    )
    assert found["level_precision"] == pytest.approx(2 / 3)
    assert found["level_recall"] == 0.5


def test_the_tables_name_every_style_raid_and_level() -> None:
    text = tables(evaluation())
    assert all(style in text for style in STYLES)
    assert "Vault of Glass" in text
    assert "level 4" in text
