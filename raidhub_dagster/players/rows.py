"""The rows of players that crawls read and write, each call inside the caller's transaction.

A player is written under the lock that the store takes too, so that a sighting of a report and one
of a crawl never overwrite each other. Rules: docs/domain/storage.md, "Locks" and "Identity".
"""

from datetime import UTC, datetime
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.identity import Identity, merge
from raidhub_dagster.storage.players import read_players, write_identities
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "players")
_STORE = load("postgres", "store")

# Before anybody played: `greatest` with a true sighting always gives the sighting.
_NEVER_SEEN = datetime(2017, 8, 27, tzinfo=UTC)


class Known(NamedTuple):
    """A player who has a row."""

    membership_type: int | None
    last_crawled: datetime | None
    has_pending_clan: bool  # a clan waits for this player to be known

    def is_fresh(self, since: datetime) -> bool:
        """True when nobody has to ask: the type is known and the crawl is later than `since`."""
        crawled = self.last_crawled
        return self.membership_type is not None and crawled is not None and crawled > since


def find_player(connection: Connection, membership_id: int) -> Known | None:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["find_player"], {"player": membership_id})
        row = cursor.fetchone()
    return Known(*row) if row else None


def record_sighting(
    connection: Connection,
    membership_id: int,
    identity: Identity,
    *,
    crawled_at: datetime,
    last_seen: datetime | None,
    first_seen: datetime,
    is_private: bool | None,
) -> None:
    """Merges what a crawl saw into the player's row, or makes one; times are aware."""
    with connection.cursor() as cursor:
        cursor.execute(_STORE["lock_keys"], {"keys": array([membership_id])})
        stored = read_players(cursor, [membership_id]).get(membership_id)
        merged = merge(stored.identity, identity) if stored else identity
        global_name, global_code = merged.global_name or (None, None)
        cursor.execute(
            _SQL["upsert_crawled"],
            {
                "player": membership_id,
                "membership_type": merged.membership_type,
                "icon_path": merged.icon_path,
                "display_name": merged.display_name,
                "global_name": global_name,
                "global_code": global_code,
                "last_seen": last_seen or _NEVER_SEEN,
                "first_seen": first_seen,
                "is_private": is_private,
                "crawled_at": crawled_at,
            },
        )
        write_identities(cursor, {membership_id: merged})


def mark_absent(connection: Connection, membership_id: int, crawled_at: datetime) -> None:
    """Remembers that the account was looked for; clans no longer wait for the player."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["mark_crawled"], {"player": membership_id, "crawled_at": crawled_at})
        cursor.execute(_SQL["forget_pending"], {"player": membership_id})


def join_clans(connection: Connection, membership_id: int) -> None:
    """Makes a known player a member of the clans that waited for them."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["join_clans"], {"player": membership_id})


def mark_history(
    connection: Connection, membership_id: int, walked_at: datetime, *, is_private: bool
) -> None:
    """Remembers the walk through a history; a private one hides the player from boards."""
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL["mark_history"],
            {"player": membership_id, "walked_at": walked_at, "is_private": is_private},
        )


class Unfilled(NamedTuple):
    """A character of a report without class or emblem."""

    membership_type: int | None  # of the player


def find_unfilled(
    connection: Connection, instance_id: int, membership_id: int, character_id: int
) -> Unfilled | None:
    """None when the character is complete, or not there."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["find_unfilled"], _key(instance_id, membership_id, character_id))
        row = cursor.fetchone()
    return Unfilled(*row) if row else None


def fill_character(
    connection: Connection,
    instance_id: int,
    membership_id: int,
    character_id: int,
    *,
    class_hash: int | None,
    emblem_hash: int | None,
) -> bool:
    """Fills what is null; ClickHouse gets the corrected row. True when something changed."""
    with connection.cursor() as cursor:
        cursor.execute(_STORE["lock_keys"], {"keys": array(sorted({instance_id, membership_id}))})
        cursor.execute(
            _SQL["fill_character"],
            {
                **_key(instance_id, membership_id, character_id),
                "class_hash": class_hash,
                "emblem_hash": emblem_hash,
            },
        )
        if not cursor.rowcount:
            return False
        cursor.execute(_STORE["mark_corrections"], {"instances": array([instance_id])})
    return True


def _key(instance_id: int, membership_id: int, character_id: int) -> dict[str, int]:
    return {"instance": instance_id, "player": membership_id, "character": character_id}
