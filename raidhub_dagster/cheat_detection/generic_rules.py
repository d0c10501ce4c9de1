"""Rules for what the parameters have no table or no curve of, from what is usual there.

They raise flags so that somebody looks; never alone an account's level above `generic.max_level`.
A rule whose norm is not known says nothing.
"""

from raidhub_dagster.cheat_detection.instance_rules import (
    NOTHING,
    Finding,
    Run,
    clock,
    judge_against_kills,
    judge_against_record,
    speak,
)
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.reasons import ReasonBit


def lacks_speed(run: Run) -> bool:
    """No record curve, and no floor for this version."""
    if run.activity is None:
        return True
    return (
        run.activity.record_curve is None
        and run.facts.version_id not in run.activity.duration_floor
    )


def lacks_kills(run: Run) -> bool:
    """No least kills at all; those of one kind alone are left out because they say nothing."""
    if run.activity is None:
        return True
    return not run.activity.min_kills.fresh and not run.activity.min_kills.checkpoint


def judge_new_solo(parameters: Parameters, run: Run) -> Finding:
    """A fresh clear by one player of a raid that is days old."""
    rule, facts = parameters.generic.solo_fresh, run.facts
    if (
        run.activity is not None
        or not (run.is_fresh and facts.is_raid)
        or facts.player_count != 1
        or run.days is None
        or run.days >= rule.max_days
    ):
        return NOTHING
    age = max(0.0, run.days)
    return speak(
        parameters,
        rule.probability,
        ReasonBit.TOO_FEW_PLAYERS_FRESH,
        lambda: f"cleared {run.name} with 1 player {age:.1f} days after its release",
    )


def judge_short(parameters: Parameters, run: Run) -> Finding:
    """A fresh clear in less time than it takes to walk through."""
    rule, duration = parameters.generic.short_fresh, run.facts.duration
    if not (run.is_fresh and lacks_speed(run) and duration < rule.max_duration_exclusive):
        return NOTHING
    least = clock(rule.max_duration_exclusive)
    return speak(
        parameters,
        rule.probability,
        ReasonBit.TOO_FAST,
        lambda: f"cleared {run.name} in {clock(duration)}, expected at least {least} of anything",
    )


def judge_usual_speed(parameters: Parameters, run: Run) -> Finding:
    """A fresh clear against the quickest that are stored, as if they were the record."""
    quick = run.facts.norms.quick_seconds
    if quick is None or not (run.is_fresh and lacks_speed(run)):
        return NOTHING
    return judge_against_record(parameters, run, parameters.generic.speed_quantile.factor * quick)


def judge_usual_kills(parameters: Parameters, run: Run) -> Finding:
    """A clear with far fewer kills than the fewest that are stored."""
    low = run.facts.norms.low_kills
    if low is None or not lacks_kills(run):
        return NOTHING
    if run.kills >= parameters.generic.kills_quantile.ratio * low:
        return NOTHING
    return judge_against_kills(parameters, run, low, low)
