"""Refreshes the leaderboards and the score they give to players, shows their heads, checks them.

What the views rank stands in their migration, the rules in docs/domain/leaderboards.md; when each
is refreshed is a matter of schedules.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from psycopg2 import sql
from psycopg2.errors import (
    DependentObjectsStillExist,
    LockNotAvailable,
    ObjectNotInPrerequisiteState,
)
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class
from psycopg2.extras import RealDictCursor

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.postgres import Rng, in_transaction
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "leaderboards")

WFR_SCORE = "wfr_score"
ALL = "all"

# Every view of schema leaderboard, in the order of a full refresh -> what must be refreshed before
# it: another view, or the score that `refresh_wfr_score` writes to players.
VIEWS: Mapping[str, tuple[str, ...]] = {
    "world_first_contest_leaderboard": (),  # WFR_SCORE comes next
    "individual_global_leaderboard": (WFR_SCORE,),
    "clan_leaderboard": (WFR_SCORE,),
    "individual_raid_leaderboard": (),
    "individual_pantheon_version_leaderboard": (),
    "team_activity_version_leaderboard": (),
    "team_pantheon_custom_race_leaderboard": (),
}

_BEFORE_SCORE = ("world_first_contest_leaderboard",)

# What each view's positions are partitioned by, and the columns that must run from 1 in each part.
POSITIONS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "individual_global_leaderboard": (
        (),
        (
            "clears_position",
            "fresh_clears_position",
            "sherpas_position",
            "speed_position",
            "total_time_played_position",
            "wfr_score_position",
        ),
    ),
    "individual_raid_leaderboard": (
        ("activity_id",),
        (
            "clears_position",
            "fresh_clears_position",
            "sherpas_position",
            "total_time_played_position",
        ),
    ),
    "individual_pantheon_version_leaderboard": (
        ("version_id",),
        ("clears_position", "fresh_clears_position", "score_position"),
    ),
    "team_activity_version_leaderboard": (("activity_id", "version_id"), ("position",)),
    "world_first_contest_leaderboard": (("activity_id",), ("position",)),
    "team_pantheon_custom_race_leaderboard": ((), ("position",)),
    "clan_leaderboard": ((), ()),
}
_INELIGIBLE_PLAYER = ("check_players", "a player is private, cheats or is gone")
_INELIGIBLE_TEAM = (
    ("check_instances", "an instance is blacklisted, not completed or gone"),
    ("check_teams", "a team has no members"),
)
_ELIGIBILITY: Mapping[str, tuple[tuple[str, str], ...]] = {
    "individual_global_leaderboard": (_INELIGIBLE_PLAYER,),
    "individual_raid_leaderboard": (_INELIGIBLE_PLAYER,),
    "individual_pantheon_version_leaderboard": (_INELIGIBLE_PLAYER,),
    "team_activity_version_leaderboard": _INELIGIBLE_TEAM,
    "world_first_contest_leaderboard": _INELIGIBLE_TEAM,
    "team_pantheon_custom_race_leaderboard": _INELIGIBLE_TEAM,
    "clan_leaderboard": (("check_clans", "a clan has no known member"),),
}
# Boards of players -> what their rows are told apart by besides the player.
RECOUNTED: Mapping[str, tuple[str, ...]] = {
    "individual_global_leaderboard": (),
    "individual_raid_leaderboard": ("activity_id",),
    "individual_pantheon_version_leaderboard": ("version_id",),
}
# The one position that not every row has: its index is not unique, so its values are compared.
_PARTIAL_POSITION = "speed_position"

# Boards with a row a player: their percentiles change with every new player, so nearly no row stays
# as it was, and REFRESH CONCURRENTLY would compare all, delete all and insert all into every index.
# They are built beside and exchanged: docs/domain/leaderboards.md, "Order and refresh".
_EXCHANGED = frozenset({"individual_global_leaderboard", "individual_raid_leaderboard"})
_EXCHANGE_WAIT_MS = 50  # that readers may wait behind one attempt
_EXCHANGE_PAUSE_S = 1.0
_EXCHANGE_TRIES_S = 30.0

# Locks held at once by the score's update: the server has room for some 6000 in all.
_PLAYERS_A_BATCH = 500


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One refresh; the size is that of the view with its indexes.

    `unseen_from` is a transaction: what it or a later one wrote may not be in the view.
    """

    rows: int
    seconds: float
    size_bytes: int
    unseen_from: int


def refresh_order(view: str) -> list[str]:
    """What to refresh so that `view`, or with "all" every view, is up to date: first things first.

    Names of VIEWS, and WFR_SCORE. Raises PermanentError for another name.
    """
    if view == ALL:
        wanted = list(VIEWS)
    elif view in VIEWS:
        wanted = [view]
    else:
        raise PermanentError(f"{view} is no leaderboard; there are {ALL}, {', '.join(VIEWS)}")
    order: list[str] = []

    def add(name: str) -> None:
        for before in VIEWS.get(name, _BEFORE_SCORE):
            add(before)
        if name not in order:
            order.append(name)

    for name in wanted:
        add(name)
    return order


def refresh_view(
    connection: Connection,
    view: str,
    *,
    timeout_s: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Refreshed:
    """Refreshes a view of VIEWS in one transaction; readers see the old rows until its end.

    Only the first fill locks readers out, of a view that could not be read before. Raises
    ValueError for another name, psycopg2.errors.QueryCanceled after `timeout_s` in one statement.
    """
    name = _qualified(view)
    identifier = sql.Identifier("leaderboard", view)
    started = clock()
    with connection, connection.cursor() as cursor:
        _limit(cursor, timeout_s)
        cursor.execute(_SQL["enlarge_sorts"])
        cursor.execute(_SQL["lock_view"], {"view": name})
        cursor.execute(_SQL["prepare_refresh"], {"view": name})
        ((populated, unseen_from),) = cursor.fetchall()
        is_exchanged = populated and view in _EXCHANGED and _exchange(cursor, view, clock, sleep)
        if not is_exchanged:
            cursor.execute(_SQL["refresh_view"], {"board": view})
        cursor.execute(sql.SQL(_SQL["measure_view"]).format(view=identifier), {"view": name})
        ((rows, size_bytes),) = cursor.fetchall()
    return Refreshed(rows, clock() - started, size_bytes, unseen_from)


def _exchange(
    cursor: Cursor, view: str, clock: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Builds `view` anew beside the one that is read, and puts it in its place.

    False, with everything as before, when the place cannot be had: readers hold it all the time,
    or somebody made a view of their own upon it.
    """
    cursor.execute(_SQL["build_next"], {"board": view})
    ends_at = clock() + _EXCHANGE_TRIES_S
    while True:
        cursor.execute(_SQL["begin_exchange"], {"wait_ms": f"{_EXCHANGE_WAIT_MS}"})
        try:
            cursor.execute(_SQL["exchange"], {"board": view})
        except (LockNotAvailable, DependentObjectsStillExist) as error:
            cursor.execute(_SQL["undo_exchange"])
            if isinstance(error, DependentObjectsStillExist) or clock() >= ends_at:
                cursor.execute(_SQL["drop_next"], {"board": view})
                return False
            sleep(_EXCHANGE_PAUSE_S)
        else:
            return True


def top(connection: Connection, view: str, n: int = 10) -> list[dict[str, object]]:
    """The first `n` rows as people read them, with names; a view's rows have the same keys.

    A board of several activities shows the leaders of each, newest activity first. Raises
    ValueError for a name that is not in VIEWS, PermanentError when it was never refreshed.
    """
    name = _qualified(view)
    with filled(name), connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL[f"top_{view}"], {"n": n})
        return [dict(row) for row in cursor]


def check_positions(
    connection: Connection, view: str, since: datetime | None = None
) -> list[Problem]:
    """What a freshly refreshed view breaks: dense positions, eligibility, members; best empty.

    Who went private at `since` (aware) or later is on the board until the next refresh, which is
    no fault; without it everybody counts. Raises ValueError for a name that is not in VIEWS,
    PermanentError when the view was never refreshed.
    """
    name = _qualified(view)
    with filled(name), connection, connection.cursor() as cursor:
        return [*_gaps(cursor, view), *_ineligible(cursor, view, since)]


def check_recount(
    connection: Connection,
    view: str,
    since: datetime,
    *,
    sample: int = 20,
    timeout_s: int = 300,
) -> list[Problem]:
    """Sampled rows of a view of RECOUNTED that differ from the players' raids, or stand wrong.

    Players with a raid stored after `since` (aware), the start of the refresh, are left out. Raises
    PermanentError when the view was never refreshed.
    """
    name = _qualified(view)
    identifier = sql.Identifier("leaderboard", view)
    values = {"sample": sample, "since": since}
    with filled(name), connection, connection.cursor() as cursor:
        _limit(cursor, timeout_s)
        problems = list(
            find_broken(cursor, _SQL[f"recount_{view}"], "a counter differs from the raids", values)
        )
        for position in POSITIONS[view][1]:
            what = position.removesuffix("_position")
            statement = sql.SQL(_SQL["check_ranks"]).format(
                view=identifier,
                part=sql.Identifier(*RECOUNTED[view]) if RECOUNTED[view] else sql.Literal(0),
                value=sql.Identifier(what),
                position=sql.Identifier(position),
                rank=sql.Identifier(f"{what}_rank"),
                sign=sql.Literal(-1 if position == _PARTIAL_POSITION else 1),
            )
            problems += find_broken(cursor, statement, f"{position} or its rank is wrong", values)
    return problems


def refresh_wfr_score(
    connection: Connection,
    *,
    timeout_s: int = 900,
    sleep: Callable[[float], None] = time.sleep,
    rng: Rng = random,
) -> int:
    """Brings core.player.wfr_score to the present races; returns how many players changed.

    Writes in ascending batches under the store's own locks, each batch in a transaction: a batch
    that failed leaves a state that the next call completes. Raises PermanentError when the races
    were never refreshed.
    """
    changed = _changed_scores(connection, timeout_s)

    def write(batch: list[tuple[int, float]]) -> int:
        def work(connection: Connection) -> int:
            players, scores = zip(*batch, strict=True)
            values = {"players": list(players), "scores": list(scores)}
            with connection.cursor() as cursor:
                _limit(cursor, timeout_s)
                cursor.execute(_SQL["lock_players"], values)
                cursor.execute(_SQL["update_wfr_scores"], values)
                return cursor.rowcount

        return in_transaction(connection, work, sleep=sleep, rng=rng)

    starts = range(0, len(changed), _PLAYERS_A_BATCH)
    return sum(write(changed[start : start + _PLAYERS_A_BATCH]) for start in starts)


def top_scores(connection: Connection, n: int = 10) -> tuple[int, list[dict[str, object]]]:
    """How many players have a score above 0, and the best `n` of them with names."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_wfr_scores"])
        ((scored,),) = cursor.fetchall()
    with connection, connection.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute(_SQL["top_wfr_scores"], {"n": n})
        return scored, [dict(row) for row in cursor]


def check_wfr_score(connection: Connection, *, timeout_s: int = 900) -> list[Problem]:
    """Players whose score is not what the races give them; empty right after a refresh of both."""
    changed = _changed_scores(connection, timeout_s)
    examples = tuple(membership_id for membership_id, _ in changed[:5])
    return [Problem("a score differs from the races", len(changed), examples)] if changed else []


def fingerprint(connection: Connection, name: str) -> str | None:
    """A digest of what others read of the races or of WFR_SCORE: equal rows, equal digest.

    None for any other board: nothing is computed from it. Raises PermanentError when it was never
    refreshed.
    """
    if name not in ("world_first_contest_leaderboard", WFR_SCORE):
        return None
    with filled(f"leaderboard.{name}"), connection, connection.cursor() as cursor:
        cursor.execute(_SQL[f"fingerprint_{name}"])
        ((digest,),) = cursor.fetchall()
    return str(digest)


def _gaps(cursor: Cursor, view: str) -> Iterator[Problem]:
    partition, positions = POSITIONS[view]
    keys = [sql.Identifier(column) for column in partition]
    for column in positions:
        position = sql.Identifier(column)
        distinct = sql.SQL("DISTINCT {}").format(position)
        statement = sql.SQL(_SQL["check_dense"]).format(
            view=sql.Identifier("leaderboard", view),
            position=position,
            rows=distinct if column == _PARTIAL_POSITION else sql.SQL("*"),
            key=keys[0] if keys else sql.Literal(0),
            partition=sql.SQL(", ").join(keys),
        )
        yield from find_broken(cursor, statement, f"{column} is not 1..N")


def _ineligible(cursor: Cursor, view: str, since: datetime | None) -> Iterator[Problem]:
    for query, claim in _ELIGIBILITY[view]:
        statement = sql.SQL(_SQL[query]).format(view=sql.Identifier("leaderboard", view))
        yield from find_broken(cursor, statement, claim, {"since": since})


def _changed_scores(connection: Connection, timeout_s: int) -> list[tuple[int, float]]:
    races = _qualified("world_first_contest_leaderboard")
    with filled(races), connection, connection.cursor() as cursor:
        _limit(cursor, timeout_s)
        cursor.execute(_SQL["changed_wfr_scores"])
        return cursor.fetchall()


def _qualified(view: str) -> str:
    if view not in VIEWS:
        raise ValueError(f"{view} is no leaderboard; there are {', '.join(VIEWS)}")
    return f"leaderboard.{view}"


def _limit(cursor: Cursor, timeout_s: int) -> None:
    cursor.execute(_SQL["limit_statement"], {"limit_ms": f"{timeout_s * 1000}"})


@contextmanager
def filled(name: str) -> Iterator[None]:
    """Inside, a view that was never refreshed is a PermanentError that says so of `name`."""
    try:
        yield
    except ObjectNotInPrerequisiteState as error:
        raise PermanentError(f"{name} was never refreshed") from error
