"""Counts every player's flags by class, so that a level can be followed to the flags behind it.

The table is written anew as a whole; it holds who may get a level by the rules, and nobody else.
Classes and limits: docs/domain/cheat-levels.md.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.cheat_detection.parameters import Classes, FlagClass, Parameters
from raidhub_dagster.cheat_detection.reasons import ReasonBit
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "nemesis")

CLASSES = ("a", "b", "c", "d")
TOP_LEVEL = 4
_SHOWN = 50  # flags of a player that are kept as evidence, the heaviest ones


class FlagStats(NamedTuple):
    """What was counted; flags by class, and those of all that rest on generic rules alone."""

    players: int
    class_a: int
    class_b: int
    class_c: int
    class_d: int
    generic: int


def count_flags(connection: Connection, parameters: Parameters, *, timeout_s: int) -> FlagStats:
    """Replaces the counts, in one transaction. Raises QueryCanceled after `timeout_s` (0: never).

    Counted are the flags of the last `window_days` by versions with one of `flag_prefixes`, the
    latest of each raid; without whitelisted raids and players, players of the highest level, and
    players with fewer than `min_flags`.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["limit_statement"], {"limit_ms": f"{timeout_s * 1000}"})
        cursor.execute(_SQL["forget_flag_stats"])
        cursor.execute(_SQL["count_flags"], _values(parameters))
        cursor.execute(_SQL["sum_flag_stats"])
        (row,) = cursor.fetchall()
    return FlagStats(*row)


def heaviest(connection: Connection, *, limit: int) -> list[dict[str, object]]:
    """Rows of the players with the most flags of the heaviest class, as people read them."""
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL["list_flag_stats"], {"limit": limit})
        return [dict(row) for row in cursor]


def class_of(
    classes: Classes, player: float | None, instance: float | None, *, any_flag: bool = True
) -> str:
    """The class of one flag by its probabilities; empty when no class takes it.

    A class without limits takes every flag, unless `any_flag` is False.
    """
    for name in CLASSES:
        limits: FlagClass = getattr(classes, name)
        if limits.player is None and limits.instance is None and any_flag:
            return name
        for chance, limit in ((player, limits.player), (instance, limits.instance)):
            if chance is not None and limit is not None and chance >= limit:
                return name
    return ""


class Flag(NamedTuple):
    """Of a player in a run, or of a run; without one both are None."""

    probability: float | None
    bitmask: int | None

    @property
    def is_generic(self) -> bool:
        """Whether the probability rests on generic rules."""
        return bool((self.bitmask or 0) >> ReasonBit.GENERIC & 1)

    @property
    def sure(self) -> float | None:
        return None if self.is_generic else self.probability


def classes_of(classes: Classes, player: Flag, of_run: Flag) -> tuple[str, str]:
    """The class of a player's flag, and the one that it has without generic rules."""
    return (
        class_of(classes, player.probability, of_run.probability),
        class_of(classes, player.sure, of_run.sure, any_flag=not player.is_generic),
    )


def _values(parameters: Parameters) -> Mapping[str, object]:
    limits: Sequence[FlagClass] = [getattr(parameters.classes, name) for name in CLASSES]
    return {
        "window_days": parameters.account.window_days,
        "prefixes": array(parameters.flag_prefixes),
        "generic": 1 << ReasonBit.GENERIC,
        "classes": array(CLASSES),
        "player_limits": array(limit.player for limit in limits),
        "instance_limits": array(limit.instance for limit in limits),
        "top_level": TOP_LEVEL,
        "min_flags": parameters.levels.min_flags,
        "shown": _SHOWN,
    }
