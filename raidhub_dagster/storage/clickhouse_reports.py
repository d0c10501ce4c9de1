"""What people read about a game week, and who plays with whom: computed in ClickHouse.

A game week begins on Tuesday at 17:00 UTC and is named by that day.
"""

import time
from collections.abc import Iterable, Iterator
from datetime import date, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.clickhouse import answered
from raidhub_dagster.storage.clickhouse_parity import Difference
from raidhub_dagster.storage.clickhouse_rebuild import Rebuilt, replace_dates
from raidhub_dagster.storage.queries import load

_POSTGRES = load("postgres", "clickhouse_rebuild")
_CLICKHOUSE = load("clickhouse", "rebuild")

WEEKLY_RAID_REPORT = "weekly_raid_report"
WEAPON_META_TREND = "weapon_meta_trend"
_COUNTS = {
    WEEKLY_RAID_REPORT: ("count_report", "runs"),
    WEAPON_META_TREND: ("count_trend", "usage_count"),
}
_WEEK = timedelta(days=7)
_TUESDAY = 1

Row = dict[str, Any]


def week_of(game_day: date) -> date:
    """The week of a game day, which begins at 17:00 UTC: the Tuesday on it or before."""
    return game_day - timedelta(days=(game_day.weekday() - _TUESDAY) % 7)


def rebuild_weeks(client: Client, table: str, weeks: Iterable[date]) -> Iterator[Rebuilt]:
    """One of the two reports anew from `instance`, week by week; readers see old or new.

    Only one at a time: the caller holds a lock. Raises TransientError and PermanentError.
    """
    for week in weeks:
        started = time.monotonic()
        with answered():
            window = {"since": week, "until": week + _WEEK}
            rows = replace_dates(client, table, [week], window).get(week, 0)
            differences = tuple(_recount(client, table, week))
        yield Rebuilt(table, week, rows, time.monotonic() - started, differences=differences)


def read_weekly_raid_report(client: Client, since: date, until: date) -> list[Row]:
    """Rows of the weeks from `since` to before `until`, by raid and version, most played first."""
    return _read(client, "read_weekly_raid_report", since=since, until=until)


def read_weapon_meta_trend(client: Client, week: date, *, limit: int) -> list[Row]:
    """The most used weapons of the week or the one before, with the change between them."""
    return _read(client, "read_weapon_meta_trend", day=week, limit=limit)


def strongest_pairs(connection: Connection, client: Client, *, limit: int) -> list[Row]:
    """The pairs of players with the most time together, each pair once."""
    pairs = _read(client, "strongest_pairs", limit=limit)
    names = _names(connection, (p[c] for p in pairs for c in ("membership_id", _RELATED)))
    return [
        {
            "player": names.get(pair["membership_id"], str(pair["membership_id"])),
            "teammate": names.get(pair[_RELATED], str(pair[_RELATED])),
            "weight": pair["weight"],
            # As text: a browser rounds numbers of 19 digits.
            "membership_id": str(pair["membership_id"]),
            _RELATED: str(pair[_RELATED]),
        }
        for pair in pairs
    ]


def teammates(connection: Connection, client: Client, player: int, *, limit: int) -> list[Row]:
    """Whom `player` (membership id) played with most; none for somebody unknown."""
    mates = _read(client, "teammates", player=player, limit=limit)
    names = _names(connection, (mate[_RELATED] for mate in mates))
    return [
        {
            "teammate": names.get(mate[_RELATED], str(mate[_RELATED])),
            "weight": mate["weight"],
            _RELATED: str(mate[_RELATED]),
        }
        for mate in mates
    ]


_RELATED = "related_membership_id"


def _names(connection: Connection, players: Iterable[int]) -> dict[int, str]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES["read_names"], {"players": sorted(set(players))})
        return dict(cursor.fetchall())


def _read(client: Client, name: str, **parameters: Any) -> list[Row]:
    with answered():
        return list(client.query(_CLICKHOUSE[name], parameters=parameters).named_results())


def _recount(client: Client, table: str, week: date) -> Iterator[Difference]:
    statement, measure = _COUNTS[table]
    window = {"since": week, "until": week + _WEEK}
    ((expected, stored),) = client.query(_CLICKHOUSE[statement], parameters=window).result_rows
    if expected != stored:
        yield Difference(table, week, str(week), measure, expected, stored, False)
