"""What the rules look at, read from PostgreSQL for some dozens of instances at once.

The number of statements does not depend on that of the instances. Statements:
`sql/postgres/queries/cheat_check.sql`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.facts import InstanceFacts, Norms, PlayerFacts, WeaponUse
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.pgcr.wire import read, value_of
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "cheat_check")
_SATURATED_S = 32_767  # where the game's counter of a character's seconds ends


class _Player(NamedTuple):
    """A row of read_players."""

    instance_id: int
    membership_id: int
    completed: bool
    is_first_clear: bool
    time_played_seconds: int
    kills: int
    super_kills: int
    grenade_kills: int
    melee_kills: int
    is_saturated: bool
    is_bare: bool
    is_empty: bool


class _Run(NamedTuple):
    """What tells whether the report of an instance may still grow."""

    player_count: int
    is_young: bool  # fetched so soon after the end that it is fetched again


def load_facts(connection: Connection, ids: Iterable[int]) -> list[InstanceFacts]:
    """Facts about the stored ones of `ids`, ascending; reads in the caller's transaction.

    Sums over a player's characters; weapons stay rows. An instance without players or characters,
    or with weapons that nobody knows, has facts all the same.
    """
    wanted = {"instances": array(sorted(set(ids))), "saturated": _SATURATED_S}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["read_instances"], wanted)
        instances = cursor.fetchall()
        if not instances:
            return []
        cursor.execute(_SQL["read_players"], wanted)
        players: dict[int, list[_Player]] = defaultdict(list)
        for row in map(_Player._make, cursor):
            players[row.instance_id].append(row)
        weapons = _read_weapons(cursor, wanted)
        runs = {row[0]: _Run(player_count=row[1], is_young=row[-1]) for row in instances}
        unsettled = _find_unsettled(cursor, runs, players, weapons)
    return [
        _facts(row, players[row[0]], weapons, is_settled=row[0] not in unsettled)
        for row in instances
    ]


_Weapons = Mapping[tuple[int, int], list[WeaponUse]]
"""By instance and player."""


def _read_weapons(cursor: Cursor, wanted: Mapping[str, object]) -> _Weapons:
    cursor.execute(_SQL["read_weapons"], wanted)
    found: dict[tuple[int, int], list[WeaponUse]] = defaultdict(list)
    for instance_id, membership_id, kills, is_heavy in cursor:
        found[instance_id, membership_id].append(WeaponUse(kills, is_heavy))
    return found


def _facts(
    row: tuple[Any, ...], players: list[_Player], weapons: _Weapons, *, is_settled: bool
) -> InstanceFacts:
    instance_id, player_count, *of_activity, low_kills, quick_seconds, skulls, _is_young = row
    activity_id, name, is_raid, version_id, release_date, *of_run = of_activity
    started, ended, duration, completed, fresh, flawless = of_run
    return InstanceFacts(
        instance_id=instance_id,
        activity_id=activity_id,
        activity_name=name,
        is_raid=is_raid,
        version_id=version_id,
        release_date=release_date,
        date_started=started,
        date_completed=ended,
        duration=duration,
        player_count=player_count,
        completed=completed,
        fresh=fresh,
        flawless=flawless,
        skull_hashes=tuple(skulls),
        is_saturated=any(player.is_saturated for player in players),
        is_settled=is_settled,
        players=tuple(
            PlayerFacts(
                membership_id=player.membership_id,
                completed=player.completed,
                is_first_clear=player.is_first_clear,
                time_played_seconds=player.time_played_seconds,
                kills=player.kills,
                super_kills=player.super_kills,
                grenade_kills=player.grenade_kills,
                melee_kills=player.melee_kills,
                weapons=tuple(weapons.get((instance_id, player.membership_id), ())),
            )
            for player in players
        ),
        norms=Norms(low_kills, quick_seconds),
    )


def _find_unsettled(
    cursor: Cursor,
    runs: Mapping[int, _Run],
    players: Mapping[int, list[_Player]],
    weapons: _Weapons,
) -> set[int]:
    """Those whose report may still grow: an entry, or the part `extended` of one, was missing.

    The parser refuses such a report until it is two days old, so that hardly any is stored. Rows
    say it outright where players or characters are missing; a player without a single detail only
    hints at it, and then the kept body decides. It decides as well of a young report, which may
    lack entries without a word when it does not count them.
    """
    unsettled: set[int] = set()
    doubtful: set[int] = set()
    for instance_id, run in runs.items():
        listed = players[instance_id]
        if len(listed) < run.player_count or any(player.is_empty for player in listed):
            unsettled.add(instance_id)
        elif run.is_young or any(
            player.is_bare and (instance_id, player.membership_id) not in weapons
            for player in listed
        ):
            doubtful.add(instance_id)
    if doubtful:
        cursor.execute(_SQL["read_bodies"], {"instances": array(sorted(doubtful))})
        unsettled.update(
            i for i, body in cursor if not _is_whole(bytes(body), is_young=runs[i].is_young)
        )
    return unsettled


def _is_whole(body: bytes, *, is_young: bool) -> bool:
    """True as well for a body that cannot be read: the rows are all there is then."""
    try:
        report = read(open_body(body))
    except PermanentError:
        return True
    if isinstance(report, Rejection) or not report.entries:
        return True
    expected = value_of(report.entries[0].values.player_count)
    is_counted = expected == len(report.entries) or (expected < 0 and not is_young)
    return is_counted and all(entry.extended is not None for entry in report.entries)
