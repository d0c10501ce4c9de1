"""Excludes raids from team boards: those flagged for certain, and recent ones of known cheaters.

A rule adds rows and never changes or deletes one. Whitelists win: a whitelisted raid, and one with
a whitelisted player, is left alone. Boards follow at their next refresh.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.reasons import ReasonBit
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.leaderboards import find_placed_of
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "nemesis")
_AT_ONCE = 50  # players of a transaction


@dataclass(frozen=True)
class Blacklisted:
    """`flagged`, `cascaded` and `named` are new rows; `eligible` raids that a cascade covers."""

    flagged: int = 0
    players: int = 0
    eligible: int = 0
    cascaded: int = 0
    named: int = 0


def blacklist(
    connection: Connection,
    parameters: Parameters,
    *,
    timeout_s: int,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> Blacklisted:
    """Both rules, the flagged raids first. A second call finds nothing new.

    The cascade takes some dozen players a transaction. Raises QueryCanceled when one statement
    takes longer than `timeout_s` (0: never).
    """
    flagged = in_transaction(
        connection, partial(_flagged, parameters, timeout_s), sleep=sleep, rng=rng
    )
    cascade = parameters.blacklist.cascade
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["cascading_players"],
            {"level": cascade.level, "seen_days": cascade.seen_within_days},
        )
        players = [who for (who,) in cursor]
    eligible: set[int] = set()
    cascaded = named = 0
    for start in range(0, len(players), _AT_ONCE):
        batch = players[start : start + _AT_ONCE]
        found, new_raids, new_names = in_transaction(
            connection,
            partial(_cascade, parameters, batch, timeout_s),
            sleep=sleep,
            rng=rng,
        )
        eligible |= found
        cascaded += new_raids
        named += new_names
    return Blacklisted(flagged, len(players), len(eligible), cascaded, named)


def count_blacklist(connection: Connection) -> dict[str, int]:
    """Blacklisted raids by who reported them, without those that a person whitelisted."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_blacklist"])
        return dict(cursor.fetchall())


def _flagged(parameters: Parameters, timeout_s: int, connection: Connection) -> int:
    rule = parameters.blacklist.flagged
    with connection.cursor() as cursor:
        cursor.execute(_SQL["limit_statement"], {"limit_ms": f"{timeout_s * 1000}"})
        cursor.execute(
            _SQL["blacklist_flagged"],
            {
                "probability": f"{rule.probability}",
                "within_days": rule.flagged_within_days,
                "reason": f"Flagged >= {rule.probability:g}",
                **_standing(parameters),
            },
        )
        return cursor.rowcount


def _standing(parameters: Parameters) -> dict[str, object]:
    """Which flags are left out: those of generic rules, and verdicts that later ones replaced."""
    prefixes = array(parameters.flag_prefixes)
    return {"generic": 1 << ReasonBit.GENERIC, "prefixes": prefixes}


def _cascade(
    parameters: Parameters,
    players: list[int],
    timeout_s: int,
    connection: Connection,
) -> tuple[set[int], int, int]:
    """Raids that the rule covers, and how many of them and of names are new."""
    rule = parameters.blacklist.cascade
    part = rule.taking_part
    who = {"players": array(players)}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["limit_statement"], {"limit_ms": f"{timeout_s * 1000}"})
        boarded = find_placed_of(cursor, players)
        cursor.execute(
            _SQL["find_cascaded"],
            {
                **who,
                "boarded": array(sorted(boarded)),
                "instance_flag": f"{rule.instance_flag}",
                "player_flag": f"{rule.player_flag}",
                "solo": part.solo,
                "seconds": f"{part.seconds}",
                "share": f"{part.share_of_duration}",
                "completed": part.completed,
                "part_instance_flag": f"{part.instance_flag}",
                "part_player_flag": f"{part.player_flag}",
                "days": rule.days_before_last_seen,
                "board_days": rule.days_before_last_seen_on_board,
                **_standing(parameters),
            },
        )
        found = cursor.fetchall()
        rows = {
            "instances": array(instance for _, _, instance, _ in found),
            "players": array(player for player, _, _, _ in found),
            "versions": array(version for _, _, _, version in found),
            "reasons": array(_reason(player, name) for player, name, _, _ in found),
            "reason": f"Cheat level {rule.level}",
        }
        cursor.execute(_SQL["blacklist_cascaded"], rows)
        raids = cursor.rowcount
        cursor.execute(_SQL["blacklist_cascaded_players"], rows)
        names = cursor.rowcount
    return {instance for _, _, instance, _ in found}, raids, names


def _reason(player: int, name: str) -> str:
    return f"Blacklisted player {name} ({player}) took part".replace("  ", " ")
