"""What clears of an activity usually look like, for the rules of activities without numbers.

Recomputed whole once a day into a small table, which the loader of facts joins: rules read norms
of yesterday, and a check costs the same however many clears there are. Statements:
`sql/postgres/queries/cheat_norms.sql`.
"""

from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "cheat_norms")


class Refreshed(NamedTuple):
    """What the table holds now; `rows` as dictionaries of its columns, by activity and version."""

    activities: int  # that norms are wanted for
    rows: list[dict[str, object]]


def refresh_norms(connection: Connection, parameters: Parameters) -> Refreshed:
    """Makes the table what the stored clears say, in one transaction.

    Only of activities that the parameters give no curve or no least kills. Blacklisted runs do not
    count unless they are whitelisted: else the cheats of a new raid would make themselves usual.
    Where there are too few clears the norm is null.
    """
    generic = parameters.generic
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL["list_activities"])
        wanted = [row["id"] for row in cursor if _lacks_numbers(parameters, row["id"])]
        scope = {"activities": array(wanted)}
        cursor.execute(_SQL["drop_others"], scope)
        cursor.execute(
            _SQL["refresh"],
            {
                **scope,
                "kills_clears": generic.kills_quantile.clears,
                "kills_quantile": generic.kills_quantile.quantile,
                "speed_clears": generic.speed_quantile.min_clears,
                "speed_quantile": generic.speed_quantile.quantile,
            },
        )
        cursor.execute(_SQL["list_norms"])
        return Refreshed(len(wanted), [dict(row) for row in cursor])


def check_norms(connection: Connection) -> list[Problem]:
    """Norms that no run could have: a rule would flag by them whatever is played."""
    with connection, connection.cursor() as cursor:
        return [
            problem
            for query, told in (
                ("impossible_norms", "a norm is below zero, or longer than a day"),
                ("norms_of_nothing", "an activity or a version does not exist"),
            )
            for problem in find_broken(cursor, _SQL[query], told)
        ]


def _lacks_numbers(parameters: Parameters, activity_id: int) -> bool:
    activity = parameters.activities.get(activity_id)
    if activity is None:
        return True
    kills = activity.min_kills
    return activity.record_curve is None or not (kills.fresh or kills.checkpoint)
