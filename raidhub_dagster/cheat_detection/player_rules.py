"""What speaks against one player of a run: six factors of their own, and their part in the team's.

Kills are those of all characters together. Formulas: docs/domain/cheat-detection.md.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from raidhub_dagster.cheat_detection.curves import CannotSayError, clip, on, sigmoid
from raidhub_dagster.cheat_detection.facts import PlayerFacts
from raidhub_dagster.cheat_detection.instance_rules import (
    NOTHING,
    Finding,
    Run,
    clock,
    count,
    speak,
)
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.reasons import ReasonBit


class Played(NamedTuple):
    """A player with what several factors need of them; never without any time."""

    facts: PlayerFacts
    seconds: int
    weight: float  # 0..1: short stays say less
    weapon_kills: int


PlayerRule = Callable[[Parameters, Run, Played], Finding]


def look_at_player(parameters: Parameters, player: PlayerFacts) -> Played | None:
    """None for a player who was there for too short to be judged."""
    seconds, rule = player.time_played_seconds, parameters.rules.player
    if seconds < rule.min_seconds or seconds <= 0:
        return None
    return Played(
        facts=player,
        seconds=seconds,
        weight=min(rule.full_weight_seconds, seconds) / rule.full_weight_seconds,
        weapon_kills=sum(weapon.kills for weapon in player.weapons),
    )


def judge_grenades(parameters: Parameters, _run: Run, player: Played) -> Finding:
    """Grenade kills a minute; builds that throw and punch alike are left out by their melees."""
    grenades, melees = (
        _a_minute(player, player.facts.grenade_kills),
        _a_minute(player, player.facts.melee_kills),
    )
    chance = on(parameters.curves.grenades, max(0.0, grenades - melees))
    return speak(
        parameters,
        player.weight * chance,
        ReasonBit.GRENADE_KILLS,
        lambda: f"{grenades:.1f} grenade kills a minute and {melees:.1f} with melees",
    )


def judge_heavy(parameters: Parameters, _run: Run, player: Played) -> Finding:
    """More kills with heavy ammo than there is ammo for."""
    rule = parameters.rules.heavy
    total = player.weapon_kills
    heavy = sum(weapon.kills for weapon in player.facts.weapons if weapon.is_heavy)
    rate = min(rule.rate_cap, rule.rate_factor * heavy / player.seconds)
    chance = on(parameters.curves.heavy, rate * heavy / (total + 1))
    chance *= min(rule.full_weight_kills, total) / rule.full_weight_kills
    return speak(
        parameters,
        player.weight * chance,
        ReasonBit.HEAVY_AMMO_KILLS,
        lambda: (
            f"{heavy} of {count(total, 'weapon kill')} with heavy ammo in {clock(player.seconds)}"
        ),
    )


def judge_kill_rate(parameters: Parameters, _run: Run, player: Played) -> Finding:
    rate = _a_minute(player, player.facts.kills)
    return speak(
        parameters,
        player.weight * on(parameters.curves.kills_per_minute, rate),
        ReasonBit.PLAYER_TOTAL_KILLS,
        lambda: f"{rate:.1f} kills a minute",
    )


def judge_supers(parameters: Parameters, _run: Run, player: Played) -> Finding:
    rate = _a_minute(player, player.facts.super_kills)
    return speak(
        parameters,
        player.weight * on(parameters.curves.supers_per_minute, rate),
        ReasonBit.SUPER_KILLS,
        lambda: f"{rate:.1f} super kills a minute",
    )


def judge_weapons(parameters: Parameters, _run: Run, player: Played) -> Finding:
    """Weapon diversity: many kills with hardly any change of weapon."""
    rule = parameters.rules.weapon_diversity
    diversity = weapon_diversity(parameters, player)
    chance = rule.factor * player.weight * math.exp(-rule.decay * diversity)
    return speak(
        parameters,
        chance,
        ReasonBit.WEAPON_DIVERSITY,
        lambda: (
            f"{player.weapon_kills} kills with {count(len(player.facts.weapons), 'weapon')} "
            f"in {clock(player.seconds)}, diversity {diversity:.2f}"
        ),
    )


def weapon_diversity(parameters: Parameters, player: Played) -> float:
    """0 or more; below 5 few play so. Computed from whole numbers, so the rows' order is none."""
    rule, rows = parameters.rules.weapon_diversity, player.facts.weapons
    used, total = len(rows), player.weapon_kills
    if total < rule.min_kills:
        score = rule.low_score
    elif used <= rule.few_weapons:
        score = (used + 1) * rule.few_time / player.seconds
        score /= max(total, rule.few_kills) / rule.few_kills
    else:
        squares = sum(weapon.kills * weapon.kills for weapon in rows)
        mean = total / used
        deviation = math.sqrt((used * squares - total * total) / (used * (used - 1)))
        limit = rule.outlier_sd * deviation
        outliers = sum(abs(weapon.kills - mean) > limit for weapon in rows)
        score = math.sqrt(mean / max(deviation, 1.0))
        score += math.pow(used - outliers, rule.many_exponent)
        score /= max(total, rule.many_kills) / rule.many_kills
    return score if player.facts.completed else score * score


def judge_kills_share(parameters: Parameters, run: Run, player: Played) -> Finding:
    """A greater share of the team's kills than the player's share of its time can explain."""
    rule = parameters.rules.kills_share
    if run.kills <= rule.min_instance_kills_exclusive:
        return NOTHING
    share, time = player.facts.kills / run.kills, player.seconds / run.seconds
    most = math.log(time + rule.log_offset) / math.log(rule.log_base) + rule.offset
    if most <= 0:
        raise CannotSayError("no share is likely in so little time")
    if share / most <= 1:
        return NOTHING
    return speak(
        parameters,
        player.weight * on(parameters.curves.kills_share, share / most),
        ReasonBit.KILLS_SHARE,
        lambda: (
            f"{100 * share:.1f} % of the team's {count(run.kills, 'kill')} in {100 * time:.1f} % "
            f"of its time, {share / most:.2f} times what is likely"
        ),
    )


# Name in `failed_rules` -> factor; at least two of them make a cheater.
OWN_RULES: Mapping[str, PlayerRule] = {
    "grenades": judge_grenades,
    "heavy": judge_heavy,
    "kill_rate": judge_kill_rate,
    "supers": judge_supers,
    "weapons": judge_weapons,
    "kills_share": judge_kills_share,
}


def participation(parameters: Parameters, run: Run, player: PlayerFacts) -> float:
    """How much of what the team did was this player's doing, in 0..1; 0 for a team of one."""
    team, seconds = run.facts.player_count, player.time_played_seconds
    if team == 1 or seconds <= 0:
        return 0.0
    curve = parameters.curves.participation
    kills = player.kills
    pace = math.pow(kills / (run.kills + 1), curve.kills_exponent) / (seconds / (run.seconds + 1))
    part = (kills + 1) / (run.kills + 1) * min(kills, curve.kills_cap) / curve.kills_cap
    missing = curve.pivot - min(max(team, curve.min_players), curve.max_players)
    k = curve.k_base + curve.k_per_player * missing
    x0 = curve.x0_base + curve.x0_per_player * missing
    return clip(sigmoid(k, x0, curve.scale * pace * part))


def _a_minute(player: Played, kills: int) -> float:
    return 60 * kills / player.seconds
