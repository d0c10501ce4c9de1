"""Ranges of ids that were jumped over, and how far their sweep has come.

What a sweep asks for is decided in recovery/gaps.py. Every function commits but the checks.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "gaps")

# As of a missed id: what is not there a week after its successors never comes.
OVER_AFTER_S = 7 * 86400.0
# And nothing is given up by fewer rounds, however long nobody swept.
LEAST_ROUNDS = 5


class Gap(NamedTuple):
    """Ids `first_id` to `last_id`, both included."""

    id: int
    first_id: int
    last_id: int
    position: int | None  # the first id that this round has not dealt with; None: none yet
    rounds: int  # behind it
    age_s: float  # since it was found

    @property
    def size(self) -> int:
        return self.last_id - self.first_id + 1


def list_open(connection: Connection, *, until: int, again_s: float) -> list[Gap]:
    """Gaps to sweep now: begun, new, or not swept for `again_s`; those that end above `until` wait.

    One that a killed run left comes first.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["list_open"], {"until": until, "again_s": again_s})
        return [Gap(*row) for row in cursor]


def read_swept(connection: Connection, gap_id: int) -> list[Block]:
    """The parts of a gap in which every id was asked for, ascending."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_swept"], {"id": gap_id})
        return [Block(*row) for row in cursor]


def begin(connection: Connection, gap_id: int) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["begin"], {"id": gap_id})


def advance(
    connection: Connection,
    gap_id: int,
    *,
    position: int,
    sampled: int,
    found: int,
    swept: Sequence[Block],
) -> None:
    """Everything below `position` is dealt with in this round; the counts are added."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["advance"],
            {
                "id": gap_id,
                "position": position,
                "sampled": sampled,
                "found": found,
                "firsts": [block.first_id for block in swept],
                "lasts": [block.last_id for block in swept],
            },
        )


def end_round(connection: Connection, gap_id: int, over_s: float = OVER_AFTER_S) -> bool:
    """Ends a round; True when the gap is done with it.

    That is when all its ids were asked for, or after five rounds and `over_s` since it was found.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["end_round"], {"id": gap_id, "over_s": over_s, "rounds": LEAST_ROUNDS})
        return cursor.fetchone() == ("done",)


def add_around_missed(
    connection: Connection, *, margin: int, until: int, source: str
) -> list[Block]:
    """Makes gaps of ids near waiting ones that no block and no gap covers: nobody asked for them.

    Rows that `source` wrote do not count as waiting. Returns the new ones.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["add_around_missed"], {"margin": margin, "until": until, "source": source}
        )
        return [Block(*row) for row in cursor]


def find_stored(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Those of `ids` whose instance and report are there."""
    return _find(connection, "find_stored", ids)


def find_missed(connection: Connection, ids: Iterable[int]) -> set[int]:
    """Those of `ids` that have a row which somebody works on."""
    return _find(connection, "find_missed", ids)


def _find(connection: Connection, query: str, ids: Iterable[int]) -> set[int]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL[query], {"ids": list(ids)})
        return {row[0] for row in cursor}


def count_open(connection: Connection) -> tuple[int, int]:
    """Gaps that are not done, and how many ids they hold."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_open"])
        ((gaps, ids),) = cursor.fetchall()
    return int(gaps), int(ids)


def check_ends(connection: Connection) -> list[Problem]:
    """Every gap ends within its time and two days."""
    with connection.cursor() as cursor:
        return list(
            find_broken(
                cursor,
                _SQL["find_endless"],
                "a gap is done 9 days after it was found",
                {"over_s": OVER_AFTER_S},
            )
        )
