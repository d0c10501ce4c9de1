"""What speaks against one player of a run: six factors of their own, and their part in the team's.

Kills are those of all characters together. Formulas: docs/domain/cheat-detection.md.
"""

import math
from collections.abc import Callable, Mapping

from raidhub_dagster.cheat_detection.curves import CannotSayError, on, sigmoid
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

PlayerRule = Callable[[Parameters, Run, PlayerFacts], Finding]


def judge_grenades(parameters: Parameters, _run: Run, player: PlayerFacts) -> Finding:
    """Grenade kills a minute; builds that throw and punch alike are left out by their melees."""
    grenades, melees = (
        _a_minute(player, player.grenade_kills),
        _a_minute(player, player.melee_kills),
    )
    chance = on(parameters.curves.grenades, max(0.0, grenades - melees))
    return speak(
        parameters,
        _weight(parameters, player) * chance,
        ReasonBit.GRENADE_KILLS,
        lambda: f"{grenades:.1f} grenade kills a minute and {melees:.1f} with melees",
    )


def judge_heavy(parameters: Parameters, _run: Run, player: PlayerFacts) -> Finding:
    """More kills with heavy ammo than there is ammo for."""
    rule = parameters.rules.heavy
    total = sum(weapon.kills for weapon in player.weapons)
    heavy = sum(weapon.kills for weapon in player.weapons if weapon.is_heavy)
    rate = min(rule.rate_cap, rule.rate_factor * heavy / player.time_played_seconds)
    chance = on(parameters.curves.heavy, rate * heavy / (total + 1))
    chance *= min(rule.full_weight_kills, total) / rule.full_weight_kills
    return speak(
        parameters,
        _weight(parameters, player) * chance,
        ReasonBit.HEAVY_AMMO_KILLS,
        lambda: (
            f"{heavy} of {count(total, 'weapon kill')} with heavy ammo "
            f"in {clock(player.time_played_seconds)}"
        ),
    )


def judge_kill_rate(parameters: Parameters, _run: Run, player: PlayerFacts) -> Finding:
    rate = _a_minute(player, player.kills)
    return speak(
        parameters,
        _weight(parameters, player) * on(parameters.curves.kills_per_minute, rate),
        ReasonBit.PLAYER_TOTAL_KILLS,
        lambda: f"{rate:.1f} kills a minute",
    )


def judge_supers(parameters: Parameters, _run: Run, player: PlayerFacts) -> Finding:
    rate = _a_minute(player, player.super_kills)
    return speak(
        parameters,
        _weight(parameters, player) * on(parameters.curves.supers_per_minute, rate),
        ReasonBit.SUPER_KILLS,
        lambda: f"{rate:.1f} super kills a minute",
    )


def judge_weapons(parameters: Parameters, _run: Run, player: PlayerFacts) -> Finding:
    """Weapon diversity: many kills with hardly any change of weapon."""
    rule = parameters.rules.weapon_diversity
    diversity = weapon_diversity(parameters, player)
    chance = rule.factor * _weight(parameters, player) * math.exp(-rule.decay * diversity)
    total = sum(weapon.kills for weapon in player.weapons)
    return speak(
        parameters,
        chance,
        ReasonBit.WEAPON_DIVERSITY,
        lambda: (
            f"{total} kills with {count(len(player.weapons), 'weapon')} "
            f"in {clock(player.time_played_seconds)}, diversity {diversity:.2f}"
        ),
    )


def weapon_diversity(parameters: Parameters, player: PlayerFacts) -> float:
    """0 or more; below 5 few play so. Computed from whole numbers, so the rows' order is none."""
    rule, rows = parameters.rules.weapon_diversity, player.weapons
    used, total = len(rows), sum(weapon.kills for weapon in rows)
    if total < rule.min_kills:
        score = rule.low_score
    elif used <= rule.few_weapons:
        score = (used + 1) * rule.few_time / player.time_played_seconds
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
    return score if player.completed else score * score


def judge_kills_share(parameters: Parameters, run: Run, player: PlayerFacts) -> Finding:
    """A greater share of the team's kills than the player's share of its time can explain."""
    rule = parameters.rules.kills_share
    if run.kills <= rule.min_instance_kills_exclusive:
        return NOTHING
    share, time = player.kills / run.kills, player.time_played_seconds / run.seconds
    most = math.log(time + rule.log_offset) / math.log(rule.log_base) + rule.offset
    if most <= 0:
        raise CannotSayError("no share is likely in so little time")
    if share / most <= 1:
        return NOTHING
    return speak(
        parameters,
        _weight(parameters, player) * on(parameters.curves.kills_share, share / most),
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
    return sigmoid(
        curve.k_base + curve.k_per_player * missing,
        curve.x0_base + curve.x0_per_player * missing,
        curve.scale * pace * part,
    )


def _a_minute(player: PlayerFacts, kills: int) -> float:
    return 60 * kills / player.time_played_seconds


def _weight(parameters: Parameters, player: PlayerFacts) -> float:
    """Short stays say less."""
    full = parameters.rules.player.full_weight_seconds
    return min(full, player.time_played_seconds) / full
