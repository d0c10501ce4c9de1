"""The check of one stored run: all rules asked, their answers put together to a verdict.

Pure: the same parameters and facts give the same verdict, in whatever order players and weapons
come. A rule that cannot say anything is written down and counts as 0.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeVar, TypeVarTuple

import msgspec

from raidhub_dagster.cheat_detection import generic_rules, instance_rules
from raidhub_dagster.cheat_detection.curves import any_of, clip, on, two_of
from raidhub_dagster.cheat_detection.facts import InstanceFacts, PlayerFacts
from raidhub_dagster.cheat_detection.instance_rules import NOTHING, Finding, Run, look_at
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.player_rules import OWN_RULES, look_at_player, participation
from raidhub_dagster.cheat_detection.reasons import ReasonBit, activity_mask, mask_of
from raidhub_dagster.cheat_detection.verdict import PlayerVerdict, Reason, Verdict

TeamRules = Mapping[str, Callable[[Parameters, Run], Finding]]

# Names as `failed_rules` has them.
_INCOMPLETE: TeamRules = {"time_dilation": instance_rules.judge_time}
_CHECKPOINT: TeamRules = {
    "total_kills": instance_rules.judge_kills,
    **_INCOMPLETE,
    "lowman": instance_rules.judge_team_size,
}
_FRESH: TeamRules = {**_CHECKPOINT, "speed": instance_rules.judge_speed}
_GENERIC: TeamRules = {
    "generic_solo": generic_rules.judge_new_solo,
    "generic_short": generic_rules.judge_short,
    "generic_speed": generic_rules.judge_usual_speed,
    "generic_kills": generic_rules.judge_usual_kills,
}

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class _Judged(NamedTuple):
    """A run or a player with what is said against them; without the activity's bit."""

    probability: float
    reasons: tuple[Reason, ...]


def check(parameters: Parameters, facts: InstanceFacts) -> Verdict:
    """The verdict on a run under a version of the rules. Raises nothing for whatever is stored."""
    facts = _in_order(facts)
    if (why := _why_skipped(parameters, facts)) is not None:
        clean = tuple(PlayerVerdict(player.membership_id, 0.0, 0, ()) for player in facts.players)
        return Verdict(facts.instance_id, parameters.version, 0.0, 0, (), clean, skipped=why)
    run = look_at(parameters, facts)
    failed: list[str] = []
    table = _FRESH if run.is_fresh else _CHECKPOINT
    usual = _ask_all(parameters, run, table if facts.completed else _INCOMPLETE, failed)
    generic = _ask_all(parameters, run, _GENERIC if facts.completed else {}, failed)
    own = [_ask_about(parameters, run, player, failed) for player in facts.players]
    whole, players = _judge(parameters, run, usual + generic, own)
    if any(finding.reasons for finding in generic):
        whole, players = _mark_generic(
            parameters, (whole, players), _judge(parameters, run, usual, own)
        )
    activity = activity_mask(parameters, facts.activity_id)
    return Verdict(
        instance_id=facts.instance_id,
        version=parameters.version,
        probability=whole.probability,
        bitmask=activity | mask_of(reason.bit for reason in whole.reasons),
        reasons=whole.reasons,
        players=tuple(
            PlayerVerdict(
                membership_id=player.membership_id,
                probability=judged.probability,
                bitmask=activity | mask_of(reason.bit for reason in judged.reasons),
                reasons=judged.reasons,
            )
            for player, judged in zip(facts.players, players, strict=True)
        ),
        failed_rules=tuple(failed),
    )


class _Own(NamedTuple):
    """What the rules say of one player, before it is put together."""

    share: float  # in what the team did
    findings: tuple[Finding, ...]


def _in_order(facts: InstanceFacts) -> InstanceFacts:
    """Players by id, so that sums of fractions do not depend on how they came."""
    players = sorted(facts.players, key=lambda player: player.membership_id)
    return msgspec.structs.replace(facts, players=tuple(players))


def _why_skipped(parameters: Parameters, facts: InstanceFacts) -> str | None:
    """None for a run that can be judged."""
    if not facts.is_settled:
        return "unsettled"
    skip = parameters.skip
    for window in skip.windows:
        if window.overlaps(facts.date_started, facts.date_completed):
            return f"window: {window.name}"
    if not facts.completed:
        return "incomplete" if facts.activity_id in skip.incomplete_activities else None
    instant = skip.instant_checkpoint
    if (
        instant is not None
        and facts.fresh is not True
        and facts.duration < instant.max_duration_exclusive
        and sum(player.kills for player in facts.players) <= instant.max_kills
    ):
        return "instant checkpoint"
    return None


def _ask(
    failed: list[str], name: str, otherwise: T, rule: Callable[[*Arguments], T], *args: *Arguments
) -> T:
    """What a rule says, or `otherwise` where it fails: it never takes the others with it."""
    try:
        return rule(*args)
    except (ArithmeticError, TypeError, ValueError) as error:
        failed.append(f"{name}: {error}")
        return otherwise


def _ask_all(
    parameters: Parameters, run: Run, rules: TeamRules, failed: list[str]
) -> tuple[Finding, ...]:
    return tuple(_ask(failed, name, NOTHING, rule, parameters, run) for name, rule in rules.items())


def _ask_about(parameters: Parameters, run: Run, player: PlayerFacts, failed: list[str]) -> _Own:
    here: list[str] = []
    share = _ask(here, "participation", 0.0, participation, parameters, run, player)
    findings = []
    played = _ask(here, "player", None, look_at_player, parameters, player)
    if played is not None:
        for name, rule in OWN_RULES.items():
            findings.append(_ask(here, name, NOTHING, rule, parameters, run, played))
    failed.extend(f"{problem} (player {player.membership_id})" for problem in here)
    return _Own(share, tuple(findings))


def _judge(
    parameters: Parameters, run: Run, team: tuple[Finding, ...], own: Sequence[_Own]
) -> tuple[_Judged, list[_Judged]]:
    """The run and its players, in the order of `own`."""
    players = [
        _judge_player(parameters, player, team, its)
        for player, its in zip(run.facts.players, own, strict=True)
    ]
    limit = parameters.thresholds.instance_store
    reasons = [
        Reason(bit, finding.probability, text)
        for finding in team
        if finding.probability > limit
        for bit, text in finding.reasons
    ]
    cheaters = two_of(player.probability for player in players)
    if cheaters > limit:
        text = f"two or more players cheated, with a chance of {cheaters:.3f}"
        reasons.append(Reason(ReasonBit.TWO_PLUS_CHEATERS, cheaters, text))
    chance = any_of((*(finding.probability for finding in team), cheaters))
    whole = _Judged(chance, tuple(reasons))
    if run.facts.player_count == 1 and len(players) == 1:
        whole = _judge_solo(whole, players[0])
        players = [whole]
    return whole, players


def _judge_player(
    parameters: Parameters, player: PlayerFacts, team: tuple[Finding, ...], own: _Own
) -> _Judged:
    limit = parameters.thresholds.player_reason
    reasons = [
        Reason(bit, finding.probability, text)
        for finding in own.findings
        if finding.probability > limit
        for bit, text in finding.reasons
    ]
    parts = [own.share * finding.probability for finding in team]
    for part, finding in zip(parts, team, strict=True):
        if part > limit:
            reasons.extend(
                Reason(bit, part, f"took part ({own.share:.2f}) when the team {text}")
                for bit, text in finding.reasons
            )
    chance = any_of((*parts, two_of(finding.probability for finding in own.findings)))
    if not player.completed:
        chance /= on(parameters.curves.not_finished, player.time_played_seconds) + 1
    elif player.is_first_clear:
        before, chance = chance, math.pow(chance, parameters.rules.player.first_clear_exponent)
        text = f"a first clear, so that {before:.3f} weighs as {chance:.3f}"
        reasons.append(Reason(ReasonBit.FIRST_CLEAR, 0.0, text))
    return _Judged(clip(chance), tuple(reasons))


def _judge_solo(whole: _Judged, player: _Judged) -> _Judged:
    """The run and its only player are one: what speaks against either speaks against both."""
    text = f"solo: the run ({whole.probability:.3f}) and its player ({player.probability:.3f})"
    reasons = (*whole.reasons, *player.reasons)
    reasons += (Reason(ReasonBit.SOLO, 0.0, f"{text} are judged as one"),)
    return _Judged(any_of((whole.probability, player.probability)), reasons)


def _mark_generic(
    parameters: Parameters,
    found: tuple[_Judged, Sequence[_Judged]],
    without: tuple[_Judged, Sequence[_Judged]],
) -> tuple[_Judged, list[_Judged]]:
    """Marks what generic rules alone lift over a limit that somebody acts upon."""
    thresholds, blacklist = parameters.thresholds, parameters.blacklist
    cascade, classes = blacklist.cascade, parameters.classes
    steps = (classes.a, classes.b, classes.c)
    of_instance = {thresholds.instance_store, blacklist.flagged.probability, cascade.instance_flag}
    of_instance |= {step.instance for step in steps if step.instance is not None}
    of_player = {thresholds.player_store, cascade.player_flag}
    of_player |= {step.player for step in steps if step.player is not None}
    players = [_mark(*both, of_player) for both in zip(found[1], without[1], strict=True)]
    return _mark(found[0], without[0], of_instance), players


def _mark(found: _Judged, without: _Judged, steps: Collection[float]) -> _Judged:
    if not any(without.probability < step <= found.probability for step in steps):
        return found
    text = f"without rules for unknown activities the chance would be {without.probability:.3f}"
    return found._replace(reasons=(*found.reasons, Reason(ReasonBit.GENERIC, 0.0, text)))
