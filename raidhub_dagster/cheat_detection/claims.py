"""What must hold of counted flags, levels and the blacklist after a run."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.account import Counts, judge
from raidhub_dagster.cheat_detection.flag_stats import CLASSES, Flag, classes_of
from raidhub_dagster.cheat_detection.levels import ACTOR
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "nemesis")


def check_counts(
    connection: Connection, parameters: Parameters, *, size: int = 50
) -> list[Problem]:
    """Random players whose counts differ from those of their flags, classed one by one.

    Players with a flag younger than the counts are left out. Best empty, as all of these.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["sample_flag_stats"],
            {
                "size": size,
                "window_days": parameters.account.window_days,
                "prefixes": array(parameters.flag_prefixes),
            },
        )
        sample = cursor.fetchall()
    classes = parameters.classes
    wrong = []
    for membership_id, counts, flags in sample:
        whole: Counter[str] = Counter()
        sure: Counter[str] = Counter()
        for player, player_mask, instance, instance_mask in flags:
            own, of_run = Flag(player, player_mask), Flag(instance, instance_mask)
            in_class, surely = classes_of(classes, own, of_run)
            whole[in_class] += 1
            sure[surely] += 1
        if counts != [whole[name] for name in CLASSES] + [sure[name] for name in CLASSES]:
            wrong.append(membership_id)
    return _problem("counts differ from the flags", wrong)


def check_reached(connection: Connection, parameters: Parameters) -> list[Problem]:
    """Players in the counts whose level is below what their flags give whatever the account."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_flag_stats"])
        rows = cursor.fetchall()
    low = [
        who
        for who, level, *counts in rows
        if judge(parameters, Counts(*counts[:4]), Counts(*counts[4:]), 0.0).level > level
    ]
    return _problem("the level is below what the flags alone give", low)


def check_recorded(connection: Connection) -> list[Problem]:
    """Changes by the rules that are no rise, or that lack their evidence."""
    with connection, connection.cursor() as cursor:
        claim = "a rise by the rules has no evidence, or is none"
        return list(find_broken(cursor, _SQL["check_recorded"], claim, {"actor": ACTOR}))


def check_spared(connection: Connection, since: datetime) -> list[Problem]:
    """Whitelisted players whom a rule gave a level since `since`, when the run began."""
    with connection, connection.cursor() as cursor:
        claim = "a rule gave a whitelisted player a level"
        values = {"actor": ACTOR, "since": since}
        return list(find_broken(cursor, _SQL["check_spared"], claim, values))


def check_blacklist(connection: Connection, since: datetime) -> list[Problem]:
    """Raids that a rule blacklisted since `since` although they, or a player, are whitelisted."""
    values = {"since": since}
    with connection, connection.cursor() as cursor:
        return [
            *find_broken(
                cursor,
                _SQL["check_spared_raids"],
                "a rule blacklisted a whitelisted raid, or one of a whitelisted player",
                values,
            ),
            *find_broken(
                cursor,
                _SQL["check_cascade_named"],
                "a cascaded raid names no player",
                values,
            ),
        ]


def _problem(claim: str, ids: Sequence[int]) -> list[Problem]:
    return [Problem(claim, len(ids), tuple(ids[:5]))] if ids else []
