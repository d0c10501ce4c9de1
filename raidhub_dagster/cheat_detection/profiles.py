"""Profiles behind account factors: read with tolerance, asked for by several threads, kept a day.

Nothing here fails a run for one account: a profile that is hidden, gone, broken or not to be had
is missing, with the reason. The database is never held while the API is asked.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import Lock
from typing import Any

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extras import Json

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.cheat_detection.account import Profile
from raidhub_dagster.errors import MaintenanceError, TransientError
from raidhub_dagster.pgcr.wire import Undecodable
from raidhub_dagster.players.account import AbsentError, ask_account
from raidhub_dagster.players.profile import known_type
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "nemesis")

WORKERS = 15
ATTEMPTS = 3  # of each request: the next run comes in a few hours
# So many failures in a row that a later try might cure are no longer those of single accounts.
_AWAY_AFTER = 30
_MOST = 2**63


@dataclass
class Profiles:
    """What was found, and how many are missing by reason."""

    found: dict[int, Profile] = field(default_factory=dict)
    cached: int = 0
    asked: int = 0
    missing: Counter[str] = field(default_factory=Counter)

    def note(self, membership_id: int, found: Profile | str) -> None:
        if isinstance(found, Profile):
            self.found[membership_id] = found
        else:
            self.missing[found] += 1


def pause_s(attempt: int) -> float:
    """1 and 2 s between the attempts: who is not to be had now has a verdict all the same."""
    return float(attempt)


def read_facts(response: bytes) -> Profile | None:
    """Component 100 of an account, None when it is hidden or nothing can be made of it.

    A field of another kind is missing and costs no other field.
    """
    try:
        answer = msgspec.json.decode(response)
    except Undecodable:
        return None
    data = _part(_part(answer, "profile"), "data")
    if not data:
        return None
    user = _part(data, "userInfo")
    applicable = user.get("applicableMembershipTypes")
    types = [user.get("membershipType"), *(applicable if isinstance(applicable, list) else ())]
    known = (known_type(_number(kind)) for kind in types)
    return Profile(
        membership_types=tuple(dict.fromkeys(kind for kind in known if kind)),
        characters=_length(data.get("characterIds")),
        versions_owned=_number(data.get("versionsOwned")),
        seasons=_length(data.get("seasonHashes")),
        current_rank=_number(data.get("currentGuardianRank")),
        highest_rank=_number(data.get("lifetimeHighestGuardianRank")),
    )


def find_profiles(
    pool: Pool,
    clients: Sequence[BungieClient],
    players: Mapping[int, int | None],
    *,
    fresh_for: timedelta,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Profiles:
    """Profiles of `players` (id -> membership type, if known), from the cache or the API.

    One thread for each of `clients`. What the API says is kept for `fresh_for`, a hidden or absent
    account too. In maintenance, with a refused key, or when it does not answer, nobody else is
    asked. Raises what the database raises.
    """
    done = Profiles()
    after = now() - fresh_for
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_profiles"], {"players": array(sorted(players)), "after": after})
        kept: dict[int, dict[str, Any]] = dict(cursor.fetchall())
    for membership_id, facts in kept.items():
        done.note(membership_id, _opened(facts))
    done.cached = len(kept)
    wanted = [who for who in sorted(players) if who not in kept]
    if wanted:
        _Crew(pool, clients, players, done, now).ask(wanted)
    return done


class _Crew:
    """Threads with a client each that ask until all are asked or it is in vain."""

    def __init__(
        self,
        pool: Pool,
        clients: Sequence[BungieClient],
        players: Mapping[int, int | None],
        done: Profiles,
        now: Callable[[], datetime],
    ) -> None:
        self._pool = pool
        self._clients = clients
        self._players = players
        self._done = done
        self._now = now
        self._lock = Lock()  # of what is found and of the next one
        self._in_a_row = 0
        self._vain: str | None = None  # why nobody else is asked

    def ask(self, wanted: Sequence[int]) -> None:
        free: SimpleQueue[BungieClient] = SimpleQueue()
        for client in self._clients:
            free.put(client)

        def work(membership_id: int) -> None:
            client = free.get()
            try:
                self._ask_one(client, membership_id)
            finally:
                free.put(client)

        with ThreadPoolExecutor(len(self._clients), thread_name_prefix="profiles") as executor:
            futures = [executor.submit(work, membership_id) for membership_id in wanted]
        for future in futures:
            future.result()

    def _ask_one(self, client: BungieClient, membership_id: int) -> None:
        if self._vain is not None:
            self._settle(membership_id, self._vain)
            return
        with self._lock:
            self._done.asked += 1
        found = self._look(client, membership_id)
        if isinstance(found, Profile) or found in _LASTING:
            self._pool.run(lambda connection: _keep(connection, membership_id, found, self._now()))
        self._settle(membership_id, found)

    def _look(self, client: BungieClient, membership_id: int) -> Profile | str:
        """The profile, or why there is none."""
        endpoints = client.endpoints
        try:
            _, response = ask_account(
                client,
                membership_id,
                self._players[membership_id],
                lambda kind: endpoints.profile_url(kind, membership_id),
            )
        except AbsentError:
            return _GONE
        except RefusedError as error:
            if error.code_class is CodeClass.KEY_PROBLEM:
                self._vain = "refused key"
                return self._vain
            return _HIDDEN if error.code_class is CodeClass.PRIVATE else "refused"
        except MaintenanceError:
            self._vain = "maintenance"
            return self._vain
        except TransientError:
            return _FAILED
        return read_facts(response) or _HIDDEN

    def _settle(self, membership_id: int, found: Profile | str) -> None:
        with self._lock:
            self._in_a_row = self._in_a_row + 1 if found == _FAILED else 0
            if self._in_a_row >= _AWAY_AFTER:
                self._vain = "no answer"
            self._done.note(membership_id, found)


_HIDDEN, _GONE, _FAILED = "hidden", "gone", "failed"
_LASTING = (_HIDDEN, _GONE)  # asked again tomorrow, not in the next run
_MISSING = "missing"  # under this key the cache has why


def _keep(
    connection: Connection, membership_id: int, found: Profile | str, fetched_at: datetime
) -> None:
    facts = {_MISSING: found} if isinstance(found, str) else msgspec.to_builtins(found)
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL["keep_profile"],
            {"player": membership_id, "factors": Json(facts), "fetched_at": fetched_at},
        )


def _opened(facts: Mapping[str, Any]) -> Profile | str:
    """A row of the cache; one of another release counts as hidden until tomorrow."""
    if _MISSING in facts:
        return str(facts[_MISSING])
    try:
        return msgspec.convert(facts, Profile)
    except msgspec.ValidationError:
        return _HIDDEN


def _part(value: object, key: str) -> dict[str, Any]:
    """A JSON object within another, empty when there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _number(value: object) -> int | None:
    """A number that is not negative, also one written as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _MOST else None


def _length(value: object) -> int | None:
    """How many different things a list has."""
    return len({str(entry) for entry in value}) if isinstance(value, list) else None
