"""What must hold of clans, of their members and of their board."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.leaderboards import filled
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "clans")


def check_references(connection: Connection) -> list[Problem]:
    """Members that name no known player or clan; best empty."""
    with connection, connection.cursor() as cursor:
        claim = "a member names no known player or clan"
        return list(find_broken(cursor, _SQL["check_references"], claim))


def check_inhabited(connection: Connection) -> list[Problem]:
    """Clans of top players without any member, known or awaited; best empty."""
    with connection, connection.cursor() as cursor:
        claim = "the clan of a top player has no members"
        return list(find_broken(cursor, _SQL["check_inhabited"], claim))


def check_board(
    connection: Connection, *, unseen_from: int, size: int = 50
) -> tuple[int, list[Problem]]:
    """How many of `size` random clans could be recounted, and those whose row differs.

    Clans of which anything was written by transaction `unseen_from` (that of the refresh) or a
    later one are left out. Raises PermanentError when the board was never refreshed.
    """
    with filled("leaderboard.clan_leaderboard"), connection, connection.cursor() as cursor:
        cursor.execute(_SQL["sample_board"], {"unseen_from": unseen_from, "size": size})
        sample = cursor.fetchall()
    wrong = [
        group_id for group_id, board, members in sample if not _agrees(board, recount(members))
    ]
    claim = "a clan's row differs from its members' values"
    return len(sample), [Problem(claim, len(wrong), tuple(wrong[:5]))] if wrong else []


def recount(members: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """The board's row of a clan by its definition (docs/domain/leaderboards.md); None: no row.

    `members` are ordered by score, descending, then by id.
    """
    if not members:
        return None
    number = len(members)
    row: dict[str, float] = {"known_member_count": number}
    for column, source in (
        ("clears", "clears"),
        ("fresh_clears", "fresh_clears"),
        ("sherpas", "sherpas"),
        ("time_played_seconds", "total_time_played_seconds"),
    ):
        total = sum(member[source] for member in members)
        row[column] = total
        row[f"average_{column}"] = (2 * total + number) // (2 * number)  # half away from zero
    scores = [member["wfr_score"] for member in members]
    weighted = math.fsum(s * 0.9 ** (place - 6) for place, s in enumerate(scores, 1))
    row["total_contest_score"] = math.fsum(scores)
    row["weighted_contest_score"] = 3 * weighted / (1 + number) ** (1 / 3)
    return row


def _agrees(board: Mapping[str, Any] | None, wanted: Mapping[str, float] | None) -> bool:
    if board is None or wanted is None:
        return board is wanted
    # Sums of floats in another order may differ in their last bits.
    return all(math.isclose(board[name], value, rel_tol=1e-9) for name, value in wanted.items())
