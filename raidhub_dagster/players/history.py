"""The walk through a player's whole history of raids, for reports that nobody stored.

Rules: docs/domain/players.md, "Histories".
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from queue import SimpleQueue
from threading import Event

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.players import rows
from raidhub_dagster.players.account import AbsentError, ask_account
from raidhub_dagster.players.profile import read_character_ids, read_history
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.reports import find_unknown

_PAGE = 250  # the most that the API gives
# 500 000 raids of one character: an answer that repeats itself must not be followed for ever.
_MOST_PAGES = 2000


class HistoryWalk:
    """Walks histories with one request at a time for each of `clients`, never more.

    A client belongs to one thread at a time; `executor` has a thread for each.
    """

    def __init__(
        self,
        pool: Pool,
        clients: Sequence[BungieClient],
        executor: Executor,
        publish: Callable[[Sequence[int]], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool = pool
        self._executor = executor
        self._publish = publish
        self._now = now
        self._clients: SimpleQueue[BungieClient] = SimpleQueue()
        for client in clients:
            self._clients.put(client)

    def walk(self, membership_id: int) -> int:
        """How many ids were handed to `publish`, each page's as soon as it is read.

        Ids that are stored, or wait to be fetched, are left out. The walk is remembered at its
        end only: one that fails begins again, which is harmless. Raises as `crawl_player` does,
        and what `publish` raises.
        """
        walked_at = self._now()
        with self._pool.connection() as connection, connection:
            known = rows.find_player(connection, membership_id)
        is_private, published = False, 0
        try:
            published = self._walk(membership_id, known and known.membership_type)
        except AbsentError:
            pass
        except RefusedError as error:
            if error.code_class is not CodeClass.PRIVATE:
                raise
            is_private = True
        self._pool.run(
            lambda connection: rows.mark_history(
                connection, membership_id, walked_at, is_private=is_private
            )
        )
        return published

    def _walk(self, membership_id: int, known_type: int | None) -> int:
        with self._client() as client:
            endpoints = client.endpoints
            membership_type, response = ask_account(
                client,
                membership_id,
                known_type,
                lambda kind: endpoints.account_stats_url(kind, membership_id),
            )
        failed = Event()
        walks = [
            self._executor.submit(
                self._walk_character, membership_type, membership_id, character_id, failed
            )
            for character_id in read_character_ids(response)
        ]
        errors = [error for walk in walks if (error := walk.exception()) is not None]
        if errors:
            # Privacy only when nothing worse happened: then the walk ended because of it alone.
            raise next((e for e in errors if not isinstance(e, RefusedError)), errors[0])
        return sum(walk.result() for walk in walks)

    def _walk_character(
        self, membership_type: int, membership_id: int, character_id: int, failed: Event
    ) -> int:
        published = 0
        try:
            with self._client() as client:
                for page in count():
                    if failed.is_set() or page == _MOST_PAGES:
                        break
                    url = client.endpoints.activity_history_url(
                        membership_type, membership_id, character_id, page=page, count=_PAGE
                    )
                    try:
                        activities = read_history(client.get(url))
                    except RefusedError as error:
                        if error.code_class is CodeClass.NOT_FOUND:
                            break  # a character too long gone to have a history
                        raise
                    if not activities:
                        break
                    published += self._publish_unknown([a.instance_id for a in activities])
        except BaseException:
            failed.set()
            raise
        return published

    def _publish_unknown(self, ids: Sequence[int]) -> int:
        with self._pool.connection() as connection, connection:
            unknown = find_unknown(connection, ids)
        if unknown:
            self._publish(unknown)
        return len(unknown)

    @contextmanager
    def _client(self) -> Iterator[BungieClient]:
        client = self._clients.get()
        try:
            yield client
        finally:
            self._clients.put(client)
