"""Levels, flags and blacklist in numbers, as people look at them once a day."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.cheat_detection.blacklist import count_blacklist
from raidhub_dagster.cheat_detection.levels import count_levels
from raidhub_dagster.cheat_detection.notices import LEVEL_NAMES
from raidhub_dagster.cheat_detection.parameters import Parameters
from raidhub_dagster.cheat_detection.reasons import ReasonBit, known_mask
from raidhub_dagster.monitoring.markdown import Report
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "nemesis")
_CHANGES = 20

Row = Mapping[str, object]


class Day(NamedTuple):
    """Raids flagged and blacklisted, and players whose level rose, on one day (UTC)."""

    day: date
    flagged: int
    blacklisted: int
    raised: int


@dataclass(frozen=True)
class CheatReport:
    """Raids, reasons and the trend are those of the last `days`; the rest is as it is now."""

    days: int
    levels: dict[int, int]
    blacklisted: dict[str, int]
    raids: list[Row]
    reasons: list[Row]
    unnamed: list[int]  # up to 20 raids of which a flag has a bit that this release does not know
    trend: list[Day]  # the oldest first
    changes: list[Row]  # of levels, the newest first

    def markdown(self) -> str:
        return Report(
            f"Cheat detection, the last {self.days} days",
            {
                "players_with_a_level": sum(self.levels.values()),
                "raids_blacklisted": sum(self.blacklisted.values()),
                "flagged": sum(day.flagged for day in self.trend),
            },
            {
                "Players by level": [
                    {"level": level, "name": LEVEL_NAMES[level], "players": players}
                    for level, players in sorted(self.levels.items())
                ],
                "Blacklisted raids by who reported them": [
                    {"source": source, "raids": raids}
                    for source, raids in sorted(self.blacklisted.items())
                ],
                "By raid": self.raids,
                "By reason": self.reasons,
                "Newest changes of levels": self.changes,
                "By day": [day._asdict() for day in reversed(self.trend)],
            },
        ).markdown()


def read_report(connection: Connection, parameters: Parameters, *, days: int) -> CheatReport:
    """Reads all of it; each part in a transaction of its own, so that none holds up the others."""
    values = {
        "days": days,
        "likely": f"{parameters.blacklist.flagged.probability}",
        "bits": [int(bit) for bit in ReasonBit],
        "limit": _CHANGES,
        "known": known_mask(parameters),
    }
    return CheatReport(
        days=days,
        levels=count_levels(connection),
        blacklisted=count_blacklist(connection),
        raids=_rows(connection, "report_raids", values),
        reasons=[
            {"reason": ReasonBit(bit).label, "raids": raids, "players": players}
            for bit, raids, players in _tuples(connection, "report_reasons", values)
        ],
        unnamed=[instance_id for (instance_id,) in _tuples(connection, "report_unnamed", values)],
        trend=[Day(*row) for row in _tuples(connection, "report_trend", values)],
        changes=_rows(connection, "report_changes", values),
    )


def _rows(connection: Connection, query: str, values: Mapping[str, object]) -> list[Row]:
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL[query], values)
        return [dict(row) for row in cursor]


def _tuples(
    connection: Connection, query: str, values: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL[query], values)
        return cursor.fetchall()
