"""The weekly crawl: which players are at a top, which clans they are in, and all of those clans.

Each step reads what the one before left in `streaming.top_player`, and remembers each answer as it
comes, so that a crawl that was killed goes on where it ended. Rules: docs/domain/clans.md.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.clans.crawl import Outcome, crawl_clan
from raidhub_dagster.clans.group import read_clans_of
from raidhub_dagster.errors import PermanentError, TransientError, UnavailableError
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.leaderboards import filled
from raidhub_dagster.storage.postgres import Pool
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "clans")

Stage = Literal["players", "clans"]
Item = TypeVar("Item")
Result = TypeVar("Result")

# So many failures in a row that a later try might cure are no longer those of single players or
# clans: the API is away. Each costs 12 s of pauses, so that the end comes within a minute.
_AWAY_AFTER = 50
ATTEMPTS = 4  # of each request


def pause_s(attempt: int) -> float:
    """2, 4 and 6 s between the attempts: a crawl of a week's worth is in no hurry."""
    return 2.0 * attempt


class Failed(NamedTuple):
    """A player or a clan that was left out; what is stored of them stays."""

    stage: Stage
    id: int
    reason: str


class Progress(NamedTuple):
    stage: Stage
    done: int  # failed ones too
    total: int
    failed: int


Tell = Callable[[Progress], object]


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of the players."""

    players: int  # all at the top
    asked: int  # those who were not asked a short while ago
    failed: Sequence[Failed]


@dataclass(frozen=True, slots=True)
class Crawled:
    """What became of the clans, and what is stored now."""

    outcomes: Counter[Outcome]
    failed: Sequence[Failed]
    forgotten: int
    clans: int
    members: int
    pending: int


def choose_top_players(
    connection: Connection, *, top: int, timeout_s: int
) -> tuple[int, list[dict[str, int]]]:
    """Everybody with a rank of at most `top` on a board of individuals: how many, by platform.

    One transaction. What is known of who stays is kept. Raises PermanentError when a board was
    never refreshed or for a `top` below 1, psycopg2.errors.QueryCanceled after `timeout_s`.
    """
    _at_least("top", top, 1)
    with (
        filled("a board of individuals"),
        connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(_SQL["limit_statement"], {"limit_ms": f"{timeout_s * 1000}"})
        cursor.execute(_SQL["choose_top"], {"top": top})
        cursor.execute(_SQL["top_by_platform"])
        by_platform = [
            {"membership_type": kind, "players": players} for kind, players in cursor.fetchall()
        ]
    return sum(row["players"] for row in by_platform), by_platform


def ask_for_clans(
    pool: Pool,
    clients: Sequence[BungieClient],
    *,
    fresh_for: timedelta,
    tell: Tell,
    every: int = 100,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Asked:
    """Asks for the clans of each chosen player who was not asked within `fresh_for`.

    One thread for each of `clients`; `tell` is called after every `every` players and at the end.
    Who fails is listed, keeps the clans of the last time and is asked by the next call. Raises
    when all fail, when the API is away, and as `crawl_clan` does.
    """
    before = now() - fresh_for
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_top"])
        ((players,),) = cursor.fetchall()
        cursor.execute(_SQL["select_unasked"], {"before": before})
        unasked: list[tuple[int, int]] = cursor.fetchall()

    def ask(client: BungieClient, player: tuple[int, int]) -> None:
        membership_id, membership_type = player
        asked_at = now()
        url = client.endpoints.groups_of_member_url(membership_type, membership_id)
        groups = read_clans_of(client.get(url))
        pool.run(
            lambda connection: _execute(
                connection,
                "record_groups",
                player=membership_id,
                groups=array(groups),
                asked_at=asked_at,
            )
        )

    crew = _Crew[tuple[int, int], None](clients, "players", lambda p: p[0], tell, every)
    crew.work(ask, unasked)
    crew.refuse_all_failed(players)
    return Asked(players, len(unasked), crew.failed)


def crawl_clans(
    pool: Pool,
    clients: Sequence[BungieClient],
    *,
    fresh_for: timedelta,
    forget_after: timedelta,
    tell: Tell,
    every: int = 100,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Crawled:
    """Crawls every clan that a chosen player is in, then drops those that nobody saw for long.

    As `ask_for_clans`: a clan that fails is listed and keeps its members, each one that succeeds
    is committed by itself. `forget_after` counts from the last crawl of a clan, whoever asked.
    """
    _at_least("forget_days", forget_after / timedelta(days=1), 1)  # 0 would drop nearly all
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["select_groups"])
        groups: list[int] = [group_id for (group_id,) in cursor]

    def crawl(client: BungieClient, group_id: int) -> Outcome:
        return crawl_clan(pool, client, group_id, fresh_for=fresh_for, now=now)

    crew = _Crew[int, Outcome](clients, "clans", lambda group_id: group_id, tell, every)
    outcomes = Counter(crew.work(crawl, groups))
    crew.refuse_all_failed(len(groups))
    forgotten = _forget(pool, now() - forget_after)
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["count_clans"])
        ((clans, members, pending),) = cursor.fetchall()
    return Crawled(outcomes, crew.failed, forgotten, clans, members, pending)


def _forget(pool: Pool, before: datetime) -> int:
    """Drops clans last crawled before `before`, each in a transaction; how many."""
    with pool.connection() as connection, connection, connection.cursor() as cursor:
        cursor.execute(_SQL["select_forgotten"], {"before": before})
        old = [group_id for (group_id,) in cursor]
    return sum(pool.run(partial(_drop, group_id=group_id, before=before)) for group_id in old)


def _drop(connection: Connection, *, group_id: int, before: datetime) -> bool:
    values = {"group": group_id, "before": before, "members": array(())}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_group"], values)
        cursor.execute(_SQL["is_forgotten"], values)
        ((is_forgotten,),) = cursor.fetchall()
        if not is_forgotten:  # somebody crawled it meanwhile
            return False
        for step in ("delete_pending", "delete_members", "delete_clan"):
            cursor.execute(_SQL[step], values)
    return True


def _at_least(name: str, value: float, least: int) -> None:
    """A setting that no later try makes better."""
    if value < least:
        raise PermanentError(f"{name} is {value:g}, the least is {least}")


def _execute(connection: Connection, query: str, **values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SQL[query], values)


class _Crew(Generic[Item, Result]):
    """One thread for each client over a list of items; counts, lists failures, tells progress."""

    def __init__(
        self,
        clients: Sequence[BungieClient],
        stage: Stage,
        key: Callable[[Item], int],
        tell: Tell,
        every: int,
    ) -> None:
        _at_least("reqs", len(clients), 1)
        _at_least("progress_every", every, 1)
        self.failed: list[Failed] = []
        self._clients = clients
        self._stage: Stage = stage
        self._key = key
        self._tell = tell
        self._every = every
        self._in_a_row = 0
        self._last: RefusedError | TransientError | None = None

    def work(
        self, act: Callable[[BungieClient, Item], Result], items: Sequence[Item]
    ) -> list[Result]:
        """Results in the order of their ends. The first failure that concerns all ends it."""
        results: list[Result] = []
        with self._hands(act) as submit:
            futures = {submit(item): item for item in items}
            for done, future in enumerate(as_completed(futures), 1):
                result = self._settle(futures.pop(future), future)
                results += result
                if done % self._every == 0 or done == len(items):
                    self._tell(Progress(self._stage, done, len(items), len(self.failed)))
        return results

    def refuse_all_failed(self, known: int) -> None:
        """Raises the last failure when none of all `known` items succeeded, now or lately."""
        if self._last is None or len(self.failed) < known:
            return
        kind = PermanentError if isinstance(self._last, PermanentError) else TransientError
        reason = f"all {known} {self._stage} failed, the last one with: {self._last}"
        raise kind(reason, self._last.facts) from self._last

    @contextmanager
    def _hands(self, act: Callable[[BungieClient, Item], Result]) -> Any:
        """Threads that take a free client each; a failure inside lets nothing new begin."""
        free: SimpleQueue[BungieClient] = SimpleQueue()
        for client in self._clients:
            free.put(client)

        def with_client(item: Item) -> Result:
            client = free.get()
            try:
                return act(client, item)
            finally:
                free.put(client)

        executor = ThreadPoolExecutor(len(self._clients), thread_name_prefix="clans")
        try:
            yield lambda item: executor.submit(with_client, item)
        finally:
            executor.shutdown(cancel_futures=True)

    def _settle(self, item: Item, future: Future[Result]) -> Iterable[Result]:
        """The result, if any. Raises what is not the fault of this item."""
        try:
            result = future.result()
        except UnavailableError:
            raise
        except RefusedError as error:
            if error.code_class is CodeClass.KEY_PROBLEM:
                raise
            self._in_a_row = 0
            self._list(item, error)
        except TransientError as error:
            self._in_a_row += 1
            self._list(item, error)
            if self._in_a_row == _AWAY_AFTER:
                raise UnavailableError(
                    f"{_AWAY_AFTER} {self._stage} in a row failed, the last one with: {error}",
                    error.facts,
                ) from error
        else:
            self._in_a_row = 0
            return (result,)
        return ()

    def _list(self, item: Item, error: RefusedError | TransientError) -> None:
        self._last = error
        self.failed.append(Failed(self._stage, self._key(item), str(error)))
