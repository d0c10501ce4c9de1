"""Recounts players from their runs and corrects what differs, in batches, beside a working store.

What is right is asked in the statements of `verify.py`; it is made right by those with which the
store gives an instance other rows (`replace.py`). So a repair, the proof and the store cannot
disagree. Rules: docs/domain/storage.md, "Derived state".
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage import replace
from raidhub_dagster.storage.claims import Problem
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.derive import Pair
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.verify import differing_rows, reparsed

_SQL = load("postgres", "recount")
_STORE = load("postgres", "store")
_SHOWN = 20
_LOCK_ROUNDS = 3  # as the store: then nobody else stores the activities
_ID_MAX = 2**63 - 1

# What verify compares of players -> words of a problem, and which column of its rows is the player.
PARTS = {
    "standings": ("a first clear or sherpas are not those of the runs", 1),
    "player_stats": ("a player's counters of an activity differ", 0),
    "players": ("a player's totals differ", 0),
}


@dataclass
class Recount:
    """What a recount found; differences are rows, examples up to 20 of them."""

    players: int = 0  # looked at
    standings: int = 0  # runs with another first clear or other sherpas
    player_stats: int = 0  # players in an activity with other counters or another fastest run
    totals: int = 0  # players with other totals
    instances: set[int] = field(default_factory=set)  # whose rows changed, or would
    last_player: int = 0  # up to whom all is done
    examples: list[dict[str, object]] = field(default_factory=list)

    @property
    def differing(self) -> int:
        return self.standings + self.player_stats + self.totals


class _MorePlayersError(Exception):
    def __init__(self, players: set[int]) -> None:
        super().__init__(f"{len(players)} more players must be locked")
        self.players = players


@dataclass
class _Found:
    """The differing rows of one batch of players."""

    standings: list[tuple[Any, ...]]
    player_stats: list[tuple[Any, ...]]
    totals: list[tuple[Any, ...]]

    def __bool__(self) -> bool:
        return bool(self.standings or self.player_stats or self.totals)

    @property
    def instances(self) -> dict[int, int]:
        return {row[0]: row[2] for row in self.standings}

    @property
    def runs(self) -> set[Pair]:
        return {Pair(row[1], row[2]) for row in self.standings}

    @property
    def pairs(self) -> set[Pair]:
        return self.runs | {Pair(row[0], row[1]) for row in self.player_stats}

    @property
    def players(self) -> set[int]:
        return {pair.membership_id for pair in self.pairs} | {row[0] for row in self.totals}

    def examples(self) -> Iterator[dict[str, object]]:
        for instance, player, activity, first, is_first, sherpas, given, _ in self.standings:
            stored, recounted = (first, sherpas), (is_first, given)
            yield _example("instance_player", player, activity, instance, stored, recounted)
        for player, activity, *rest in self.player_stats:
            yield _example("player_stats", player, activity, None, rest[:-1:2], rest[1:-1:2])
        for player, *rest in self.totals:
            yield _example("player", player, None, None, rest[:-1:2], rest[1:-1:2])


def _example(
    table: str,
    player: int,
    activity: int | None,
    instance: int | None,
    stored: Iterable[object],
    recounted: Iterable[object],
) -> dict[str, object]:
    return {
        "table": table,
        "player": player,
        "activity": "" if activity is None else activity,
        "instance": "" if instance is None else instance,
        "stored": ", ".join(map(str, stored)),
        "recounted": ", ".join(map(str, recounted)),
    }


def everybody(connection: Connection, *, size: int, after: int = 0) -> Iterator[list[int]]:
    """All players behind `after` in ascending batches. Raises PermanentError for a size below 1."""
    _check_size(size)
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["next_players"], {"after": after, "limit": size})
            players = [who for (who,) in cursor]
        if not players:
            return
        yield players
        after = players[-1]


def players_of_range(
    connection: Connection, first_id: int, last_id: int | None, *, size: int, after: int = 0
) -> Iterator[list[int]]:
    """Who took part in the instances of that range of ids, both ends included."""
    with connection, connection.cursor() as cursor:
        last = _ID_MAX if last_id is None else last_id
        cursor.execute(_SQL["players_of_range"], {"first": first_id, "last": last})
        players = [who for (who,) in cursor if who > after]
    yield from _batches(players, size)


def listed(connection: Connection, players: Collection[int], *, size: int) -> Iterator[list[int]]:
    """`players` in batches. Raises PermanentError naming those who are not stored."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["known_players"], {"players": array(sorted(set(players)))})
        known = [who for (who,) in cursor]
    if missing := sorted(set(players) - set(known)):
        raise PermanentError(f"no such players: {', '.join(map(str, missing[:5]))}")
    yield from _batches(known, size)


def _check_size(size: int) -> None:
    if size < 1:
        raise PermanentError(f"batch_players: {size} players are no batch, at least 1 is")


def _batches(players: list[int], size: int) -> Iterator[list[int]]:
    _check_size(size)
    for start in range(0, len(players), size):
        yield players[start : start + size]


def recount(
    connection: Connection,
    batches: Iterable[Sequence[int]],
    *,
    standings: bool,
    dry_run: bool,
    tell: Callable[[Recount], None] = lambda _so_far: None,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> Recount:
    """Compares the players of `batches` with their runs and, without `dry_run`, corrects them.

    With `standings` first clears and sherpas too, else counters alone. Each batch that differs is
    corrected in a transaction of its own under the store's locks: a recount that was killed
    continues behind `last_player`, which `tell` hears after every batch. ClickHouse gets what
    changed through the corrections.
    """
    done = Recount()
    for players in batches:
        with connection, connection.cursor() as cursor:
            found = _find(cursor, players, standings=standings)
        if found and not dry_run:
            done.instances |= _correct(connection, found, sleep, rng)
        done.instances |= found.instances.keys()
        done.players += len(players)
        done.standings += len(found.standings)
        done.player_stats += len(found.player_stats)
        done.totals += len(found.totals)
        done.last_player = max(players)
        for example in found.examples():
            if len(done.examples) == _SHOWN:
                break
            done.examples.append(example)
        tell(done)
    return done


def _find(cursor: Cursor, players: Collection[int], *, standings: bool) -> _Found:
    return _Found(
        differing_rows(cursor, "standings", players) if standings else [],
        differing_rows(cursor, "player_stats", players),
        differing_rows(cursor, "players", players),
    )


def _correct(
    connection: Connection, found: _Found, sleep: Callable[[float], None], rng: Rng
) -> set[int]:
    """Makes `found` right; instances whose rows changed. All is derived anew under the locks."""
    also: set[int] = set()
    for lock_round in count():
        correction = _Correction(found, also, alone=lock_round >= _LOCK_ROUNDS)
        try:
            return in_transaction(connection, correction.run, sleep=sleep, rng=rng)
        except _MorePlayersError as more:
            also |= more.players
    raise AssertionError("unreachable")


class _Correction:
    """One try at what differs in one batch."""

    def __init__(self, found: _Found, also: Collection[int], *, alone: bool) -> None:
        self._found = found
        self._locked = found.players | set(also)
        self._alone = alone

    def run(self, connection: Connection) -> set[int]:
        found = self._found
        activities = sorted({pair.activity_id for pair in found.pairs})
        changed: set[int] = set()
        with connection.cursor() as cursor:
            statement = _STORE["own_activities" if self._alone else "share_activities"]
            cursor.execute(statement, {"activities": array(activities)})
            cursor.execute(_STORE["lock_keys"], {"keys": array(sorted(self._locked))})
            if found.standings:
                changed |= replace.restate(cursor, found.instances, found.runs, self._check).keys()
                cursor.execute(_STORE["mark_corrections"], {"instances": array(sorted(changed))})
            replace.restate_counters(cursor, found.pairs, found.players)
        return changed

    def _check(self, members: set[int]) -> None:
        if not self._alone and not members <= self._locked:
            raise _MorePlayersError(members - self._locked)


def check_players(connection: Connection, part: str, *, players: int) -> list[Problem]:
    """What of `part` (of PARTS) differs from the runs of so many random players; best empty."""
    claim, player = PARTS[part]
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_players"])
        ((known,),) = cursor.fetchall()
        # Four times as many as needed are drawn with their pages; of few, everybody.
        percent = min(100.0, 400.0 * players / known) if known > 0 else 100.0
        cursor.execute(_SQL["draw_players"], {"percent": percent, "size": players})
        differing = differing_rows(cursor, part, [who for (who,) in cursor])
    who = tuple(row[player] for row in differing)
    return [Problem(claim, len(who), who[:5])] if who else []


def check_reports(connection: Connection, *, reports: int) -> list[Problem]:
    """What of so many random stored reports today's parser tells differently; best empty."""
    kept = reparsed(connection, reports)
    if kept.is_equal:
        return []
    return [Problem("rows differ from the report", kept.differing, tuple(kept.examples))]
