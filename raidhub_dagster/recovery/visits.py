"""Many ids asked for at once, each until its answer says something about it.

A run of recovery is a few threads that wait for the API; what the answers lead to is decided by
whoever iterates over them, in one thread. Nothing is written here.
"""

import threading
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Self

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import MaintenanceError, PermanentError, UnavailableError
from raidhub_dagster.recovery.fetch import Fetched, KeyRefusedError, fetch_report
from raidhub_dagster.storage.definitions import load_tracked_hashes

WORKERS = 8
RETRIES = 5
# Beyond it one process would take the whole budget of one address (40/s) from the crawl.
MOST_WORKERS = 64
_FAILED = frozenset({ResultKind.EXTERNAL_ERROR, ResultKind.RATE_LIMITED})
# So many ids in a row that gave nothing but errors are an outage of the API, not the ids' fault.
_OUTAGE = 20


class Visited(NamedTuple):
    instance_id: int
    fetched: Fetched

    @property
    def kind(self) -> ResultKind:
        return self.fetched.kind

    @property
    def is_failure(self) -> bool:
        """True when every try ended in an error or a throttle."""
        return self.kind in _FAILED


@dataclass(frozen=True)
class Manner:
    """How ids are asked for: `workers` at once, each up to `retries` times, `retry_s` in between.

    Raises PermanentError naming the field that makes no sense.
    """

    workers: int = WORKERS
    retries: int = RETRIES
    retry_s: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= MOST_WORKERS:
            raise PermanentError(f"workers must be 1 to {MOST_WORKERS}, not {self.workers}")
        if self.retries < 1:
            raise PermanentError(f"retries must be at least 1, not {self.retries}")


class Visitors:
    """Threads with a client each; a context manager. `tracked` are hashes that mean raids."""

    def __init__(
        self,
        open_client: Callable[[], BungieClient],
        tracked: Container[int],
        manner: Manner,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._open_client = open_client
        self._tracked = tracked
        self._manner = manner
        self._now = now
        self._stopping = threading.Event()
        self._own = threading.local()
        self._clients: list[BungieClient] = []
        self._executor = ThreadPoolExecutor(manner.workers, thread_name_prefix="recovery")

    @classmethod
    def of(
        cls, connection: Connection, open_client: Callable[[], BungieClient], manner: Manner
    ) -> Self:
        """With the hashes that the definitions know now."""
        with connection:
            return cls(open_client, load_tracked_hashes(connection), manner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._executor.shutdown(cancel_futures=True)
        for client in self._clients:
            client.close()

    def each(self, ids: Iterable[int]) -> Iterator[list[Visited]]:
        """The visited ids in the order in which their answers come, some at a time.

        `ids` is read as workers get free, at most twice their number ahead. Raises
        MaintenanceError, and UnavailableError when the API answers nobody, after all that was
        asked before: what was read of `ids` and not given back then was not tried.
        """
        source = iter(ids)
        pending: set[Future[Visited | None]] = set()
        stop: Exception | None = None
        failures = 0
        while True:
            while stop is None and len(pending) < 2 * self._manner.workers:
                instance_id = next(source, None)
                if instance_id is None:
                    break
                pending.add(self._executor.submit(self._visit, instance_id))
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            visited: list[Visited] = []
            for future in done:
                try:
                    outcome = future.result()
                except (MaintenanceError, UnavailableError) as error:
                    stop = stop or error
                    self._stopping.set()
                    continue
                if outcome is not None:
                    visited.append(outcome)
                    failures = failures + 1 if outcome.is_failure else 0
            if visited:
                yield visited
            if failures >= _OUTAGE and stop is None:
                stop = UnavailableError(
                    f"{failures} ids in a row gave nothing but errors, the last "
                    f"{visited[-1].instance_id}: {visited[-1].fetched.said}"
                )
                self._stopping.set()
        if stop is not None:
            raise stop

    def _visit(self, instance_id: int) -> Visited | None:
        """In a thread of the pool; None when the run ended before the id was asked for."""
        for tries_left in reversed(range(self._manner.retries)):
            if self._stopping.is_set():
                return None
            try:
                fetched = fetch_report(self._client(), instance_id, self._tracked, now=self._now)
            except KeyRefusedError:
                raise
            except UnavailableError:
                if not tries_left:
                    raise
                self._stopping.wait(self._manner.retry_s)
                continue
            if fetched.kind not in _FAILED or not tries_left:
                return Visited(instance_id, fetched)
            # What the API asks for counts, whatever our own pause is.
            self._stopping.wait(max(self._manner.retry_s, fetched.result.throttle_seconds))
        return None

    def _client(self) -> BungieClient:
        client: BungieClient | None = getattr(self._own, "client", None)
        if client is None:
            client = self._own.client = self._open_client()
            self._clients.append(client)
        return client
