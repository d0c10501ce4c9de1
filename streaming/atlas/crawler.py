"""The crawl as a process does it: moves what the plan decides between API, broker and ledger."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.messaging.messages import Message, instance_store_properties
from raidhub_dagster.messaging.topology import INSTANCE_STORE
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.storage import ledger, missed
from raidhub_dagster.storage.definitions import load_tracked_hashes
from streaming.atlas.database import Database
from streaming.atlas.fetcher import Fetcher
from streaming.atlas.plan import Plan, Report, Settled
from streaming.atlas.publisher import Publisher
from streaming.atlas.visit import Visit

log = logging.getLogger(__name__)

SOURCE = "atlas"
# More messages than this wait in instance_store: the crawl goes at the pace of the store.
DEEPEST_QUEUE = 50_000
# So many raids may wait in memory for the broker: at 25 kB each 12 MB.
MOST_UNCONFIRMED = 500
# A missed row that was claimed and not answered belongs to nobody after this.
CLAIM_S = 300.0
_LEDGER_EVERY_S = 0.05  # one transaction takes all blocks done meanwhile
_DUE_EVERY_S = 1.0
_LOOK_AROUND_EVERY_S = 5.0  # published ids that others saw, depth of the queue
_REPORT_EVERY_S = 15.0
_DEFINITIONS_EVERY_S = 60.0
_PRUNE_EVERY_S = 600.0
_LAG_WINDOW_S = 240.0
_LEAVE_S = 5.0
# A fetch ends after 15 s whatever happens, and a silent head is asked every 18 s.
_SILENT_AFTER_S = 120.0


@dataclass(frozen=True)
class Options:
    """What a person chooses; times in seconds."""

    workers: int = 25
    block_size: int = 1000
    until: int | None = None  # the crawl ends when all ids up to this one are done
    lease_s: float = 60.0
    grace_s: float = 20.0  # for what is on its way when the process is asked to stop


class Crawler:
    """Runs until `stopping` is set or `until` reached; then nothing of it is left half done."""

    def __init__(
        self,
        plan: Plan,
        options: Options,
        *,
        stopping: asyncio.Event,
        owner: str,
        database: Database,
        fetcher: Fetcher,
        publisher: Publisher,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._plan = plan
        self._options = options
        self._owner = owner
        self._database = database
        self._fetcher = fetcher
        self._publisher = publisher
        self._clock = clock
        self._now = now
        self._stop = stopping
        self._visits: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._broken: BaseException | None = None
        self._lags: deque[tuple[float, float]] = deque(maxlen=20_000)
        self._answered: Counter[str] = Counter()
        self._last_answer = clock()
        self._is_deep = False

    def problem(self) -> str | None:
        """Why nothing is fetched, None when something is; for /healthz."""
        gate = self._plan.gate
        if not gate.is_open:
            return gate.reason
        silent_s = self._clock() - self._last_answer
        if silent_s <= _SILENT_AFTER_S:
            return None
        why = "the store or the broker is behind" if self._plan.is_slowed else "no id was leased"
        return f"nothing fetched for {silent_s:.0f} s: {why}"

    async def run(self) -> None:
        """Crawls. Raises what no later try can cure; then the leases end by themselves."""
        metrics.ATLAS_ACTIVE_WORKERS.set(self._options.workers)
        loops: tuple[Coroutine[Any, Any, None], ...] = (
            self._keep_ledger(),
            self._every(self._options.lease_s / 3, self._extend),
            self._every(_DUE_EVERY_S, self._claim_due),
            self._every(_LOOK_AROUND_EVERY_S, self._look_around),
            self._every(_REPORT_EVERY_S, self._report),
            self._every(_DEFINITIONS_EVERY_S, self._reload),
            self._every(_PRUNE_EVERY_S, self._prune),
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop) for loop in loops]
            await self._stop.wait()
            self._plan.is_stopping = True
            await self._drain()
            _, late = await asyncio.wait(tasks, timeout=_LEAVE_S)
            for task in late:
                task.cancel()
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._leave()
        except TimeoutError:
            log.warning(
                "Stopped without PostgreSQL; the leases end by themselves",
                extra={"action": "crawl_stopped"},
            )
        if self._broken is not None:
            raise self._broken

    # Fetching.

    def _pump(self) -> None:
        """Starts every fetch that may start now and sets the timer for the next one."""
        plan = self._plan
        plan.is_slowed = self._is_deep or self._publisher.backlog >= MOST_UNCONFIRMED
        while (visit := plan.next_visit()) is not None:
            task = asyncio.create_task(self._visit(visit))
            self._visits.add(task)
            task.add_done_callback(self._visited)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        next_at = plan.next_at()
        if next_at != float("inf"):
            wait_s = max(next_at - self._clock(), 0.001)  # timers may come a millisecond early
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._pump)

    def _visited(self, task: asyncio.Task[None]) -> None:
        self._visits.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken = error
            self._stop.set()

    async def _visit(self, visit: Visit) -> None:
        result = await self._fetcher.fetch(visit.instance_id, visit.malformed_retry)
        self._observe(visit, result)
        was_open = self._plan.gate.is_open
        report = self._plan.answered(visit, result)
        if self._plan.gate.is_open != was_open:
            self._tell_gate()
        self._pump()
        if report is not None:
            await self._publish(report)

    async def _publish(self, report: Report) -> None:
        instance_id = report.visit.instance_id
        message = Message(
            INSTANCE_STORE,
            pack(report.body),
            instance_store_properties(instance_id, self._now(), SOURCE, report.settled),
        )
        await self._publisher.publish(message)
        self._plan.published(report.visit)
        if self._plan.is_slowed:
            self._pump()

    def _observe(self, visit: Visit, result: PgcrResult) -> None:
        self._last_answer = self._clock()
        self._answered[result.kind.name] += 1
        tries = visit.tries + 1 if visit.due is None else -min(visit.due.attempts, 6)
        status, attempts = str(int(result.kind)), str(tries)
        metrics.PGCR_CRAWL_SUMMARY_STATUS.inc(status, attempts)
        lag_s: float | None = None
        if result.kind is ResultKind.SYSTEM_DISABLED:
            lag_s = 0.0  # readers of the lag tell maintenance by it
        elif result.ended_at is not None and result.kind in (
            ResultKind.SUCCESS,
            ResultKind.NON_RAID,
        ):
            lag_s = (self._now() - result.ended_at).total_seconds()
            if visit.due is None:
                self._lags.append((self._last_answer, lag_s))
        if lag_s is not None and lag_s >= 0:
            metrics.PGCR_CRAWL_SUMMARY_LAG.labels(status, attempts).observe(lag_s)
            metrics.PGCR_CRAWL_SUMMARY_LAG_SECONDS.labels(status, attempts).observe(lag_s)

    def _tell_gate(self) -> None:
        gate = self._plan.gate
        if gate.is_open:
            log.info("The API answers again", extra={"action": "gate_opened"})
        else:
            log.warning(
                "Paused: %s", gate.reason, extra={"action": "gate_closed", "reason": gate.reason}
            )

    # The ledger.

    async def _keep_ledger(self) -> None:
        """Hands in blocks that are done and leases new ones, all that came up at a time."""
        until = self._options.until
        while not self._stop.is_set():
            await self._hand_in()
            leased = 0
            while self._plan.wants_block(self._reserve):
                if not await self._lease(advance=True):
                    break
                leased += 1
            if leased:
                self._pump()
            elif until is not None and not self._plan.held and await self._is_through(until):
                self._stop.set()
            await self._sleep(_LEDGER_EVERY_S)

    @property
    def _reserve(self) -> int:
        return max(2 * self._options.workers, self._options.block_size // 2)

    async def _lease(self, *, advance: bool) -> bool:
        options = self._options

        def lease(connection: Connection) -> ledger.Block | None:
            return ledger.lease_block(
                connection,
                self._owner,
                options.block_size,
                options.lease_s,
                until=options.until,
                advance=advance,
            )

        block = await self._database.call(lease)
        if block is not None:
            self._plan.add_block(block)
        return block is not None

    async def _is_through(self, until: int) -> bool:
        def ask(connection: Connection) -> bool:
            position = ledger.read_cursor(connection)
            return (position or 0) > until and ledger.open_blocks(connection, until) == 0

        return await self._database.call(ask)

    async def _hand_in(self) -> None:
        done, settled = self._plan.take_done(), self._plan.take_settled()
        if done:
            lost = await self._database.call(
                lambda connection: ledger.complete(connection, self._owner, done, source=SOURCE)
            )
            if lost:
                log.warning(
                    "Somebody took over %d blocks that were done here too",
                    len(lost),
                    extra={"action": "lease_lost", "blocks": len(lost)},
                )
        if settled:
            await self._database.call(lambda connection: _settle(connection, settled))

    async def _extend(self) -> None:
        held = self._plan.held
        if held:
            await self._database.call(
                lambda connection: ledger.extend(
                    connection, self._owner, held, self._options.lease_s
                )
            )

    async def _claim_due(self) -> None:
        room = self._plan.due_room
        if room:
            self._plan.add_due(
                await self._database.call(
                    lambda connection: missed.due(connection, limit=room, claim_s=CLAIM_S)
                )
            )
            self._pump()

    async def _look_around(self) -> None:
        """What other processes see: published ids, given-up blocks, the depth of the queue."""
        self._plan.learn(await self._database.call(ledger.highest_resolved))
        if self._plan.head.is_silent:  # else the ledger's loop takes them over
            await self._lease(advance=False)
        depth = await self._publisher.depth(INSTANCE_STORE)
        is_deep = depth is not None and depth > DEEPEST_QUEUE
        if is_deep and not self._is_deep:
            log.warning(
                "Slowed down: %d reports wait for the store",
                depth,
                extra={"action": "crawl_slowed", "depth": depth},
            )
        self._is_deep = is_deep
        self._pump()

    async def _reload(self) -> None:
        def count(connection: Connection) -> dict[missed.State, int]:
            with connection, connection.cursor() as cursor:
                return missed.count_by_state(cursor)

        self._fetcher.tracked_hashes = await self._database.call(load_hashes)
        for state, rows in (await self._database.call(count)).items():
            metrics.MISSED_PGCR_ROWS.labels(state).set(rows)

    async def _prune(self) -> None:
        def prune(connection: Connection) -> None:
            with connection, connection.cursor() as cursor:
                ledger.merge(cursor)
                missed.prune(cursor)

        await self._database.call(prune)

    async def _report(self) -> None:
        horizon = self._clock() - _LAG_WINDOW_S
        while self._lags and self._lags[0][0] < horizon:
            self._lags.popleft()
        p20_s = None
        if self._lags:
            lags = sorted(lag_s for _, lag_s in self._lags)
            p20_s = round(lags[len(lags) // 5], 1)
            metrics.ATLAS_LAG_P20_SECONDS.set(p20_s)
        head = self._plan.head.resolved
        metrics.ATLAS_HEAD_ID.set(head)
        counts, self._answered = self._answered, Counter()
        per_s = sum(counts.values()) / _REPORT_EVERY_S
        log.info(
            "Head %d, %.1f answers/s",
            head,
            per_s,
            extra={
                "action": "crawl_progress",
                "head_id": head,
                "answers_per_s": round(per_s, 1),
                "lag_p20_s": p20_s,
                "open_blocks": len(self._plan.held),
                **{kind.lower(): n for kind, n in counts.items()},
            },
        )

    async def _every(self, seconds: float, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await self._sleep(seconds)
        while not self._stop.is_set():
            await step()
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Ends early when the process is asked to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # The end.

    async def _drain(self) -> None:
        """Waits for what is on its way: fetches, then the broker's confirms."""
        if self._visits:
            _, late = await asyncio.wait(self._visits, timeout=self._options.grace_s)
            for task in late:
                task.cancel()

    async def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left = self._plan.abandon()
        await self._hand_in()
        if left:
            await self._database.call(
                lambda connection: ledger.release(connection, self._owner, left)
            )
        log.info(
            "Stopped; %d blocks released",
            len(left),
            extra={"action": "crawl_stopped", "blocks": len(left)},
        )


def load_hashes(connection: Connection) -> dict[int, tuple[int, int]]:
    """Tracked hashes in a transaction of their own."""
    with connection:
        return load_tracked_hashes(connection)


def _settle(connection: Connection, settled: Settled) -> None:
    """Writes what became of missed rows, in one transaction; harmless twice."""
    with connection, connection.cursor() as cursor:
        suspects = [row.instance_id for row in settled.missing]
        holes = missed.holes(cursor, suspects) if suspects else set()
        again = [row for row in settled.missing if row.instance_id not in holes]
        missed.record(cursor, [*settled.again, *again], source=SOURCE, reopen=False)
        for ids, state in (
            (settled.resolved, missed.State.RESOLVED),
            (settled.rejected, missed.State.REJECTED),
            (sorted(holes), missed.State.MISSING),
        ):
            missed.close(cursor, ids, state=state, among=missed.RETRIED)
