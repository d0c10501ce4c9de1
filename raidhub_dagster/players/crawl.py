"""The crawl of one player: account, characters and privacy, stored as a sighting of that moment.

Rules: docs/domain/players.md. The database is never held while the API is asked.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.players import rows
from raidhub_dagster.players.account import AbsentError, ask_account
from raidhub_dagster.players.profile import (
    Profile,
    read_character_ids,
    read_history,
    read_profile,
)
from raidhub_dagster.storage.identity import Identity, Seen
from raidhub_dagster.storage.postgres import Pool

# A crawl sees no report: its sighting comes before those of the same moment.
_NO_REPORT = 0


class Outcome(StrEnum):
    FRESH = "fresh"  # crawled a short while ago: nobody was asked
    CRAWLED = "crawled"
    ABSENT = "absent"  # no such account


class Privacy(NamedTuple):
    """What the history of one character told."""

    is_private: bool | None  # None: there was no character to ask about
    oldest: datetime | None  # beginning of the oldest activity on its first page


class Sighting(NamedTuple):
    """What a crawl saw; the merge with other sightings is the caller's."""

    identity: Identity
    crawled_at: datetime
    last_seen: datetime | None  # None: the account tells no date
    first_seen: datetime
    is_private: bool | None


_HIDDEN = Profile(None, None, None, None, (), ())


def crawl_player(
    pool: Pool,
    client: BungieClient,
    membership_id: int,
    *,
    fresh_for: timedelta,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Outcome:
    """Asks for the player and commits what came.

    A player of known type who was crawled within `fresh_for` is left alone. Raises TransientError
    and MaintenanceError of the client, RefusedError for a refused key or request, psycopg2.Error.
    """
    crawled_at = now()
    with pool.connection() as connection, connection:
        known = rows.find_player(connection, membership_id)
    if known and known.is_fresh(crawled_at - fresh_for):
        if known.has_pending_clan:
            pool.run(lambda connection: rows.join_clans(connection, membership_id))
        return Outcome.FRESH
    try:
        sighting = _look(client, membership_id, known and known.membership_type, crawled_at)
    except AbsentError:
        pool.run(lambda connection: rows.mark_absent(connection, membership_id, crawled_at))
        return Outcome.ABSENT
    pool.run(lambda connection: _store(connection, membership_id, sighting))
    return Outcome.CRAWLED


def _look(
    client: BungieClient, membership_id: int, known_type: int | None, now: datetime
) -> Sighting:
    endpoints = client.endpoints
    try:
        membership_type, response = ask_account(
            client,
            membership_id,
            known_type,
            lambda kind: endpoints.profile_url(kind, membership_id),
        )
    except RefusedError as error:
        if error.code_class is not CodeClass.PRIVATE:
            raise
        return sighting_of(_HIDDEN, None, Privacy(is_private=True, oldest=None), now)
    profile = read_profile(response, now)
    return sighting_of(
        profile, membership_type, _privacy(client, membership_type, membership_id, profile), now
    )


def _privacy(
    client: BungieClient, membership_type: int, membership_id: int, profile: Profile
) -> Privacy:
    """Asks for the first page of one character's history, the only place where privacy shows."""
    endpoints = client.endpoints
    try:
        characters = list(profile.character_ids) or read_character_ids(
            client.get(endpoints.account_stats_url(membership_type, membership_id))
        )
        if not characters:
            return Privacy(is_private=None, oldest=None)
        url = endpoints.activity_history_url(membership_type, membership_id, characters[0], page=0)
        page = read_history(client.get(url))
    except RefusedError as error:
        if error.code_class is CodeClass.KEY_PROBLEM:
            raise
        is_private = True if error.code_class is CodeClass.PRIVATE else None
        return Privacy(is_private, oldest=None)
    periods = [row.period for row in page if row.period]
    return Privacy(is_private=False, oldest=min(periods, default=None))


def sighting_of(
    profile: Profile, membership_type: int | None, privacy: Privacy, crawled_at: datetime
) -> Sighting:
    """What the answers say about the player at `crawled_at`; `membership_type` was asked for.

    `first_seen` is a time at which the player is known to have played, else the crawl's own:
    the account existed then. Both depend on nothing but this crawl, so that it does not matter
    whether reports come before or after it.
    """
    kind = profile.membership_type or membership_type
    seen = Seen(crawled_at, _NO_REPORT)
    icon, name, pair = profile.icon_path, profile.display_name, profile.global_name
    return Sighting(
        Identity(
            kind,
            seen if kind else None,
            icon,
            seen if icon else None,
            name,
            seen if name else None,
            pair,
            seen if pair else None,
        ),
        crawled_at,
        last_seen=profile.last_played,
        first_seen=privacy.oldest or profile.last_played or crawled_at,
        is_private=privacy.is_private,
    )


def _store(connection: Connection, membership_id: int, sighting: Sighting) -> None:
    rows.record_sighting(
        connection,
        membership_id,
        sighting.identity,
        crawled_at=sighting.crawled_at,
        last_seen=sighting.last_seen,
        first_seen=sighting.first_seen,
        is_private=sighting.is_private,
    )
    rows.join_clans(connection, membership_id)
