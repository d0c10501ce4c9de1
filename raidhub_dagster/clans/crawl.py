"""The crawl of one clan: its name and banner, and all of its members at once.

Every page is fetched before the one transaction begins, so that readers never see a clan without
members and no lock waits for the API. Rules: docs/domain/clans.md.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.clans.group import Clan, read_group, read_members
from raidhub_dagster.messaging import topology
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "clans")

_GONE = frozenset({622, 686})  # GroupNotFound, ClanNotFound
_SWAP = (
    "delete_pending",
    "delete_members",
    "insert_pending",
    "insert_members",
    "settle_pending",
    "ask_for_players",
)


class Outcome(StrEnum):
    FRESH = "fresh"  # crawled a short while ago: nobody was asked
    CRAWLED = "crawled"
    GONE = "gone"  # no such group any more: its members are deleted, its row stays
    NOBODY = "nobody"  # a list without anybody, which no clan has: the members stay as they were
    NO_CLAN = "no_clan"  # a group of another kind: nothing was written


def crawl_clan(
    pool: Pool,
    client: BungieClient,
    group_id: int,
    *,
    fresh_for: timedelta,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Asks for the clan and commits what came; left alone when crawled within `fresh_for`.

    Members who are no players yet are asked for and become members when they are known. Raises
    TransientError and MaintenanceError of the client, RefusedError for a refused key or request,
    psycopg2.Error.
    """
    crawled_at = now()
    with pool.connection() as connection, connection:
        last = _last_crawl(connection, group_id)
    if last is not None and last > crawled_at - fresh_for:
        return Outcome.FRESH
    try:
        clan = read_group(client.get(client.endpoints.group_url(group_id)))
        if clan is None:
            return Outcome.NO_CLAN
        members = _fetch_members(client, group_id)
    except RefusedError as error:
        if error.code not in _GONE:
            raise
        pool.run(lambda connection: _empty(connection, group_id, crawled_at))
        return Outcome.GONE
    pool.run(lambda connection: _replace(connection, group_id, clan, members, crawled_at))
    return Outcome.CRAWLED if members else Outcome.NOBODY


def _fetch_members(client: BungieClient, group_id: int) -> list[int]:
    """All of them, ascending.

    `totalResults` is unreliable. `hasMore` is believed only as long as a page brings somebody new:
    an answer that repeats itself would never end.
    """
    members: dict[int, None] = {}
    page = 1
    while True:
        found = read_members(client.get(client.endpoints.group_members_url(group_id, page=page)))
        before = len(members)
        members |= dict.fromkeys(found.members)
        if not found.has_more or len(members) == before:
            return sorted(members)
        page += 1


def _last_crawl(connection: Connection, group_id: int) -> datetime | None:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["find_crawled"], {"group": group_id})
        row = cursor.fetchone()
    return row[0] if row else None


def _empty(connection: Connection, group_id: int, crawled_at: datetime) -> None:
    values = {"group": group_id, "members": array(()), "crawled_at": crawled_at}
    with connection.cursor() as cursor:
        for step in (
            "lock_group",
            "delete_pending",
            "delete_members",
            "touch_clan",
            "forget_group",
        ):
            cursor.execute(_SQL[step], values)


def _replace(
    connection: Connection, group_id: int, clan: Clan, members: list[int], crawled_at: datetime
) -> None:
    values = {
        "group": group_id,
        "name": clan.name,
        "motto": clan.motto,
        "call_sign": clan.call_sign,
        "banner": msgspec.json.encode(clan.banner).decode(),
        "crawled_at": crawled_at,
        "members": array(members),
        "queue": topology.PLAYER_CRAWL,
    }
    with connection.cursor() as cursor:
        for step in ("lock_group", "upsert_clan", *(_SWAP if members else ())):
            cursor.execute(_SQL[step], values)
