"""What speaks against a run as a whole: its team's size, duration, time and kills.

Each rule gives one `Finding`; it raises CannotSayError when it lacks an input. Formulas:
docs/domain/cheat-detection.md.
"""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from raidhub_dagster.cheat_detection.curves import CannotSayError, any_of, clip, on
from raidhub_dagster.cheat_detection.facts import InstanceFacts
from raidhub_dagster.cheat_detection.parameters import (
    ANY,
    Activity,
    Lowman,
    Parameters,
    RecordCurve,
)
from raidhub_dagster.cheat_detection.reasons import ReasonBit

_DAY = timedelta(days=1)


class Finding(NamedTuple):
    """A chance of a cheat, and (bit, sentence) for each reason; none where nobody would read it."""

    probability: float
    reasons: tuple[tuple[int, str], ...] = ()


NOTHING = Finding(0.0)


class Run(NamedTuple):
    """A stored run with what several rules need of it."""

    facts: InstanceFacts
    activity: Activity | None  # None: the parameters have no such activity
    is_fresh: bool  # certainly; a run of unknown freshness is judged as one of a checkpoint
    seconds: int  # of all players together
    kills: int
    days: float | None  # since the activity's release, negative before it
    name: str  # what was cleared, as a sentence says it


def look_at(parameters: Parameters, facts: InstanceFacts) -> Run:
    activity = parameters.activities.get(facts.activity_id)
    called = facts.activity_name or (activity.name if activity else "an unknown activity")
    is_fresh = facts.fresh is True
    if is_fresh:
        name = f"fresh {called}"
    else:
        name = activity.checkpoint_name if activity else f"a checkpoint of {called}"
    return Run(
        facts=facts,
        activity=activity,
        is_fresh=is_fresh,
        seconds=sum(player.time_played_seconds for player in facts.players),
        kills=sum(player.kills for player in facts.players),
        days=(facts.date_completed - facts.release_date) / _DAY if facts.release_date else None,
        name=name,
    )


def judge_team_size(parameters: Parameters, run: Run) -> Finding:
    """Lowman: fewer players than ever cleared it, or as few as hardly anybody did."""
    if run.activity is None:
        return NOTHING
    table = run.activity.lowman.fresh if run.is_fresh else run.activity.lowman.checkpoint
    team = run.facts.player_count
    for entry in table.get(run.facts.version_id, table.get(ANY, ())):
        if team < entry.players:
            text = f"cleared {run.name} with {people(team)}, expected at least {entry.players}"
            return Finding(
                parameters.rules.lowman.too_few, (*_fast(run, entry), (_too_few(run), text))
            )
        if team == entry.players:
            return _judge_smallest_team(parameters, run, entry)
    return NOTHING


def judge_time(parameters: Parameters, run: Run) -> Finding:
    """Time dilation: the clock of the players ran slower than that of the run."""
    rule, facts = parameters.rules.time_dilation, run.facts
    if facts.duration <= 0 or run.seconds <= 0:
        raise CannotSayError(_missing(run))
    share = run.seconds / facts.duration
    if (
        share >= 1
        or facts.duration <= rule.min_duration
        or facts.player_count >= rule.max_players_exclusive
        or facts.is_saturated
    ):
        return NOTHING
    chance = on(parameters.curves.time_dilation, share)
    return speak(
        parameters,
        chance,
        ReasonBit.TIME_DILATION,
        lambda: (
            f"the players were there for {clock(run.seconds)} together, "
            f"{100 * (1 - share):.1f} % less than the {clock(facts.duration)} of the run"
        ),
    )


def judge_speed(parameters: Parameters, run: Run) -> Finding:
    """A fresh clear faster than the best teams of its day, or below the floor of its version."""
    if run.activity is None:
        return NOTHING
    if run.activity.duration_floor:
        return _judge_floor(parameters, run, run.activity)
    if run.activity.record_curve is None:
        return NOTHING
    return judge_against_record(parameters, run, record(run.activity.record_curve, run.days))


def judge_against_record(parameters: Parameters, run: Run, best: float) -> Finding:
    """A fresh clear against the record `best` in seconds of a full team; 0 or less says nothing."""
    if best <= 0:
        return NOTHING
    rule, duration = parameters.rules.speed, run.facts.duration
    if duration <= 0 or run.seconds <= 0:
        raise CannotSayError(_missing(run))
    bodies = min(run.seconds / duration, rule.max_bodies)
    expected = best * math.pow(rule.max_bodies / bodies, rule.body_exponent)
    chance = on(parameters.curves.completion_time, (duration - rule.grace_seconds) / expected)
    return speak(
        parameters,
        chance,
        ReasonBit.TOO_FAST,
        lambda: (
            f"cleared {run.name} in {clock(duration)}, expected at least {clock(expected)} "
            f"of {bodies:.1f} players ({clock(best)} of a full team)"
        ),
    )


def judge_kills(parameters: Parameters, run: Run) -> Finding:
    """Total kills: fewer than a clear needs."""
    if run.activity is None:
        return NOTHING
    least = run.activity.min_kills
    return judge_against_kills(
        parameters, run, least.fresh if run.is_fresh else least.checkpoint, least.fresh
    )


def judge_against_kills(
    parameters: Parameters, run: Run, least: int | None, least_fresh: int | None
) -> Finding:
    """A clear against the `least` kills of its kind; 0 or None says nothing.

    Teams with next to no kill are judged harder, below a cap that `least_fresh` lowers, for
    checkpoints too.
    """
    if not least or least < 0:
        return NOTHING
    rule, curves = parameters.rules.total_kills, parameters.curves
    chance = on(curves.total_kills, (run.kills + 1) / (least + 1))
    chance *= on(curves.total_kills_size, least + 1)
    cap = rule.cap_fresh if run.is_fresh else rule.cap_checkpoint
    cap = cap if least_fresh is None else min(least_fresh, cap)
    if run.kills < cap:
        base = rule.low_exponent_base
        chance = math.pow(chance, base + (1 - base) * run.kills / cap)
    return speak(
        parameters,
        chance,
        ReasonBit.TOTAL_INSTANCE_KILLS,
        lambda: f"cleared {run.name} with {count(run.kills, 'kill')}, expected at least {least}",
    )


def record(curve: RecordCurve, days: float | None) -> float:
    """The record of a day in seconds. Raises CannotSayError where it needs a day and has none."""
    if curve.constant is not None:
        return curve.constant
    if days is None:
        raise CannotSayError("the activity has no release date")
    a, b, c, e = curve.a, curve.b, curve.c, curve.e
    if a is None or b is None or c is None or e is None:
        raise CannotSayError("the record curve is not whole")
    return a - b * e * math.log10(max(0.0, days) + c)


def _judge_smallest_team(parameters: Parameters, run: Run, entry: Lowman) -> Finding:
    """A team as small as the smallest that is known to have cleared it, in the entry's windows."""
    rule, facts = parameters.rules.lowman, run.facts
    chance = entry.chance
    if facts.flawless is True:
        chance = math.pow(chance, rule.flawless_exponent)
    fast = _fast(run, entry)
    if fast:
        ratio = facts.duration / entry.min_time
        chance = any_of((chance, on(parameters.curves.checkpoint_duration, ratio)))
    reasons = fast
    if chance > parameters.thresholds.instance_store:
        flawless = "flawless " if facts.flawless is True else ""
        text = (
            f"cleared {flawless}{run.name} with exactly {people(facts.player_count)} "
            f"in {clock(facts.duration)}, cheated with a chance of {chance:.3f}"
        )
        reasons = (*reasons, (ReasonBit.UNLIKELY_LOWMAN, text))
    done = facts.date_completed
    if not entry.windows or any(window.contains(done) for window in entry.windows):
        return Finding(chance, reasons)
    text = (
        f"cleared {run.name} with {people(facts.player_count)} on {done:%Y-%m-%d}, "
        "outside of the times when so few could"
    )
    return Finding(rule.outside_window, (*reasons, (_too_few(run), text)))


def _fast(run: Run, entry: Lowman) -> tuple[tuple[int, str], ...]:
    """The reason of a checkpoint cleared faster than the entry's team could."""
    if run.is_fresh or run.facts.duration >= entry.min_time:
        return ()
    text = (
        f"cleared {run.name} in {clock(run.facts.duration)}, "
        f"expected at least {clock(entry.min_time)} of {people(entry.players)}"
    )
    return ((ReasonBit.FAST_LOWMAN_CHECKPOINT, text),)


def _too_few(run: Run) -> int:
    if run.is_fresh:
        return ReasonBit.TOO_FEW_PLAYERS_FRESH
    return ReasonBit.TOO_FEW_PLAYERS_CHECKPOINT


def _judge_floor(parameters: Parameters, run: Run, activity: Activity) -> Finding:
    """Against the least seconds of a version; feats of a player's own choice raise them."""
    floor = activity.duration_floor.get(run.facts.version_id)
    if floor is None:
        return NOTHING
    bonus = parameters.rules.pantheon_feats.bonus_seconds
    floor += sum(bonus.get(skull, 0) for skull in set(run.facts.skull_hashes))
    duration = run.facts.duration
    if duration <= 0:
        raise CannotSayError(_missing(run))
    if duration >= floor:
        return NOTHING
    chance = on(parameters.curves.pantheon_floor, duration / floor)
    if chance <= parameters.thresholds.instance_store:
        return NOTHING
    return speak(
        parameters,
        chance,
        ReasonBit.TOO_FAST,
        lambda: f"cleared {run.name} in {clock(duration)}, expected at least {clock(floor)}",
    )


def _missing(run: Run) -> str:
    return "the run took no time" if run.facts.duration <= 0 else "no player has any time"


def speak(parameters: Parameters, chance: float, bit: int, text: Callable[[], str]) -> Finding:
    """The finding of a rule with one reason, whose sentence is only written if it is read."""
    if not 0 <= chance <= 1:
        chance = clip(chance)
    if chance <= parameters.thresholds.lowest:
        return Finding(chance)
    return Finding(chance, ((bit, text()),))


def clock(seconds: float) -> str:
    """As the game shows it: 5:07, 1:05:07."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def people(number: int) -> str:
    return count(number, "player")
