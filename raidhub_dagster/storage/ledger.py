"""The ledger of the crawl: which ids are done, which are leased, where the next ones begin.

At any moment every id below the cursor is in a done block, in a leased one, a row of missed_pgcr
or inside a gap. Rules: docs/domain/crawl.md, "The ledger". Fetching is not here.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "ledger")

NAME = "atlas"  # the only crawl there is; the table has room for others
_NO_LIMIT = 2**62
_MERGED_AFTER_S = 90 * 86400.0


class Block(NamedTuple):
    """Ids `first_id` to `last_id`, both included."""

    first_id: int
    last_id: int


class Done(NamedTuple):
    """A finished block: what became of its ids. The three counts add up to those asked."""

    first_id: int
    raids: int  # published to instance_store
    non_raids: int
    missed: int  # their rows are recorded before


def read_cursor(connection: Connection) -> int | None:
    """The next id to lease; None when no crawl ever started."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_cursor"], {"name": NAME})
        row = cursor.fetchone()
    return None if row is None else int(row[0])


def create_cursor(connection: Connection, first_id: int, ceiling: int) -> None:
    """Begins the ledger at `first_id`, unless it has begun; ids from `ceiling` on are bogus."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["create_cursor"], {"name": NAME, "first_id": first_id, "ceiling": ceiling}
        )


def newest_instance(connection: Connection, ceiling: int) -> int | None:
    """The highest id stored below `ceiling`."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["newest_instance"], {"ceiling": ceiling})
        row = cursor.fetchone()
    return None if row is None else row[0]


def highest_resolved(connection: Connection) -> int:
    """The highest id known to be published among those leased so far; 0 for none.

    Behind a gap begins what was found when it was jumped over. Stored raids above the cursor do not
    count: somebody else brought them in, and every id up to them that is not published yet would be
    taken for a hole.
    """
    newest = newest_instance(connection, read_cursor(connection) or 0)
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["highest_resolved"])
        row = cursor.fetchone()
    assert row is not None  # noqa: S101  greatest() always answers
    return max(newest or 0, int(row[0]))


def lease_block(
    connection: Connection,
    owner: str,
    size: int,
    lease_s: float,
    *,
    until: int | None = None,
    advance: bool = True,
) -> Block | None:
    """Leases the lowest block that somebody gave up, else the next `size` ids; commits.

    New ids stop at `until` (included) and at the ceiling, and are not taken without `advance`.
    None: there is nothing to lease now. No two leases ever share an id.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["take_over"], {"owner": owner, "lease_s": lease_s})
        row = cursor.fetchone()
        if row is None and advance:
            limit = _NO_LIMIT if until is None else until
            cursor.execute(_SQL["advance"], {"name": NAME, "size": size, "until": limit})
            row = cursor.fetchone()
            if row is not None:
                fields = {"first_id": row[0], "last_id": row[1], "owner": owner}
                cursor.execute(_SQL["insert_block"], {**fields, "lease_s": lease_s})
    return None if row is None else Block(*row)


def extend(
    connection: Connection, owner: str, first_ids: Collection[int], lease_s: float
) -> set[int]:
    """Moves the end of these leases to `lease_s` from now; first ids of those lost to others."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["extend"], {"first_ids": list(first_ids), "owner": owner, "lease_s": lease_s}
        )
        held = {row[0] for row in cursor.fetchall()}
    return set(first_ids) - held


def complete(connection: Connection, owner: str, blocks: Iterable[Done]) -> set[int]:
    """Marks blocks done whose missed ids are recorded already; commits.

    Returns the first ids of blocks that `owner` no longer holds: their new owner does them again.
    Calling again after a lost connection is harmless.
    """
    done = sorted(blocks)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["complete"],
            {
                "first_ids": [block.first_id for block in done],
                "raids": [block.raids for block in done],
                "non_raids": [block.non_raids for block in done],
                "missed": [block.missed for block in done],
                "owner": owner,
            },
        )
        held = {row[0] for row in cursor.fetchall()}
    return {block.first_id for block in done} - held


def release(connection: Connection, owner: str, first_ids: Collection[int]) -> None:
    """Gives leases back before their end: whoever asks next does these blocks from the start."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["release"], {"first_ids": list(first_ids), "owner": owner})


def jump(connection: Connection, base: int, first_id: int, reason: str) -> Block | None:
    """Goes on at `first_id` and records the ids from `base` on as a gap; commits.

    `base` is the next id to lease as the caller knew it. None: somebody leased or jumped since, so
    that nothing is known about the ids in between; nothing happened then.
    """
    with connection, connection.cursor() as cursor:
        fields = {"name": NAME, "base": base, "first_id": first_id, "reason": reason}
        cursor.execute(_SQL["jump"], fields)
        row = cursor.fetchone()
    return None if row is None else Block(*row)


def restart(connection: Connection, back: int) -> int | None:
    """Begins a ledger anew that began above all published ids; commits.

    Only when nothing of it was ever resolved and the newest stored raid lies below its first id: a
    mistyped target. It then begins `back` ids behind that raid, and all blocks are dropped. Returns
    the new first id, None when the ledger is sound.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["restart"], {"name": NAME, "back": back})
        row = cursor.fetchone()
        if row is not None:
            cursor.execute(_SQL["drop_blocks"])
            cursor.execute(_SQL["drop_gaps"])
    return None if row is None else int(row[0])


def open_gaps(cursor: Cursor) -> int:
    """How many ids were jumped over and not swept yet."""
    cursor.execute(_SQL["open_gaps"])
    row = cursor.fetchone()
    assert row is not None  # noqa: S101  sum() always answers
    return int(row[0])


def open_blocks(connection: Connection, until: int) -> int:
    """How many blocks that begin at or below `until` are not done."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["open_below"], {"id": until})
        row = cursor.fetchone()
    assert row is not None  # noqa: S101  count() always answers
    return int(row[0])


def merge(cursor: Cursor, older_than_s: float = _MERGED_AFTER_S) -> None:
    """Joins neighbouring blocks that are done for 90 days into ranges."""
    cursor.execute(_SQL["merge"], {"older_than_s": older_than_s})
