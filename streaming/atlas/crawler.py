"""The crawl as a process does it: moves what the plan decides between API, broker and ledger."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.systems import POLL_S, REPORTS, off
from raidhub_dagster.messaging.messages import (
    Message,
    effect_properties,
    instance_store_properties,
)
from raidhub_dagster.messaging.topology import INSTANCE_STORE, PGCR_BLOCKED, PGCR_BLOCKED_RETRY
from raidhub_dagster.monitoring import metrics
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.storage import ledger, missed
from raidhub_dagster.storage.definitions import load_tracked_hashes
from streaming.atlas.database import Database
from streaming.atlas.fetcher import Fetcher
from streaming.atlas.monitor import Monitor
from streaming.atlas.plan import Plan, Report, Withheld
from streaming.atlas.publisher import Publisher
from streaming.atlas.search import SHORTEST
from streaming.atlas.visit import Visit
from streaming.atlas.window import Sight

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
_LOOK_BACK_EVERY_S = 15.0  # sets the pace by what came in the last minutes
_LEAST_PAUSE_S = 0.5  # of what a small scale shortens
_DEFINITIONS_EVERY_S = 60.0
_PRUNE_EVERY_S = 600.0
_POLL_OFF_S = 15.0  # between two looks at the API's systems while one of them is off
# A head that says nothing for so long is worth a look by a person.
_SILENT_S = 3600.0
# Behind the newest stored raid begins a ledger that was begun beyond the head.
_BACK = 10_000
# A withheld id that nobody touched for so long while its queue is empty: the message is lost.
_FORGOTTEN_S = 3600.0
_FORGOTTEN_AT_ONCE = 1000
_LEAVE_S = 5.0
# A fetch ends after 15 s whatever happens, and a silent head is asked every 18 s.
_SILENT_AFTER_S = 120.0


@dataclass(frozen=True)
class Options:
    """What a person chooses; times in seconds."""

    block_size: int = 1000  # the largest; the pace may ask for smaller ones
    until: int | None = None  # the crawl ends when all ids up to this one are done
    lease_s: float = 60.0
    grace_s: float = 20.0  # for what is on its way when the process is asked to stop
    scale: float = 1.0  # of our pauses


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
        monitor: Monitor,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._plan = plan
        self._options = options
        self._owner = owner
        self._database = database
        self._fetcher = fetcher
        self._publisher = publisher
        self._monitor = monitor
        self._clock = clock
        self._now = now
        self._stop = stopping
        self._visits: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._broken: BaseException | None = None
        self._last_look = clock()
        self._sight: Sight | None = None
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
        loops: tuple[Coroutine[Any, Any, None], ...] = (
            self._keep_ledger(),
            self._every(self._options.lease_s / 3, self._extend),
            self._every(_DUE_EVERY_S, self._claim_due),
            self._every(_LOOK_AROUND_EVERY_S, self._look_around),
            self._every(self._scaled(_LOOK_BACK_EVERY_S), self._look_back),
            self._watch_systems(),
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
        lag_s = None
        if result.ended_at is not None:
            lag_s = (self._now() - result.ended_at).total_seconds()
        self._last_answer = self._clock()
        self._monitor.answered(visit, result, lag_s)
        was_open = self._plan.gate.is_open
        answer = self._plan.answered(visit, result, lag_s)
        if self._plan.gate.is_open != was_open:
            self._monitor.gate_moved()
        self._pump()
        match answer:
            case Report():
                await self._publish(answer)
            case Withheld():
                await self._publisher.publish(_blocked(visit.instance_id))
                self._plan.handed_on(visit)

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
            await self._end_search()
            if leased:
                self._pump()
            elif until is not None and not self._plan.held and await self._is_through(until):
                self._stop.set()
            await self._sleep(_LEDGER_EVERY_S)

    @property
    def _reserve(self) -> int:
        return max(2 * self._plan.workers, self._options.block_size // 2)

    async def _lease(self, *, advance: bool) -> bool:
        options = self._options
        size = min(options.block_size, self._plan.scaling.block)

        def lease(connection: Connection) -> ledger.Block | None:
            return ledger.lease_block(
                connection,
                self._owner,
                size,
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
        if settled:  # before the blocks: no id may be in a done one and in no row
            await self._database.call(lambda connection: _settle(connection, settled))
        self._monitor.unresolved(self._plan.take_unresolved())
        if done:
            lost = await self._database.call(
                lambda connection: ledger.complete(connection, self._owner, done)
            )
            if lost:
                log.warning(
                    "Somebody took over %d blocks that were done here too",
                    len(lost),
                    extra={"action": "lease_lost", "blocks": len(lost)},
                )

    async def _extend(self) -> None:
        held = self._plan.held
        if held:
            lost = await self._database.call(
                lambda connection: ledger.extend(
                    connection, self._owner, held, self._options.lease_s
                )
            )
            self._plan.forget(lost)

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
        def count(connection: Connection) -> tuple[dict[missed.State, int], int]:
            with connection, connection.cursor() as cursor:
                return missed.count_by_state(cursor), ledger.open_gaps(cursor)

        self._fetcher.tracked_hashes = await self._database.call(load_hashes)
        states, gap_ids = await self._database.call(count)
        for state, rows in states.items():
            metrics.MISSED_PGCR_ROWS.labels(state).set(rows)
        metrics.GAP_OPEN_IDS.set(gap_ids)

    async def _prune(self) -> None:
        def prune(connection: Connection) -> None:
            with connection, connection.cursor() as cursor:
                ledger.merge(cursor)
                missed.prune(cursor)

        await self._database.call(prune)
        await self._hand_on_again()

    async def _hand_on_again(self) -> None:
        """Messages of withheld ids that were lost, say with a purged queue, are sent once more."""
        depths = [await self._publisher.depth(q) for q in (PGCR_BLOCKED_RETRY, PGCR_BLOCKED)]
        if any(depth != 0 for depth in depths):  # None: the broker is away
            return
        ids = await self._database.call(
            lambda connection: missed.forgotten(
                connection, limit=_FORGOTTEN_AT_ONCE, after_s=_FORGOTTEN_S
            )
        )
        for instance_id in ids:
            await self._publisher.publish(_blocked(instance_id))
        if ids:
            log.warning(
                "Handed on %d withheld ids again: their queue is empty",
                len(ids),
                extra={"action": "withheld_handed_on", "ids": len(ids)},
            )

    # The pace, gaps, maintenance.

    async def _look_back(self) -> None:
        """Sets the pace by the last minutes; looks for a gap where nearly nothing is found."""
        now = self._clock()
        sight = self._sight = self._plan.evaluate()
        self._monitor.looked(sight, max(now - self._last_look, _LEAST_PAUSE_S))
        self._last_look = now
        if self._plan.wants_search(sight):
            base = await self._database.call(ledger.read_cursor)
            if base is not None:
                self._monitor.search_begun(sight)
                self._plan.search(base)
        silent_s = self._plan.silent_s
        if silent_s >= _SILENT_S * self._options.scale:
            self._monitor.silent(silent_s)
            await self._restart(sight)
        self._pump()

    async def _end_search(self) -> None:
        """Jumps when a search found a hole that is long enough for it."""
        ended = self._plan.take_search()
        if ended is None or self._sight is None:
            return
        search, jump = ended
        gap: ledger.Block | None = None
        if jump is not None:
            reason = f"{search.asked} probes found nothing in it"
            gap = await self._database.call(
                lambda connection: ledger.jump(connection, jump.base, jump.first_id, reason)
            )
        if gap is None:
            self._monitor.search_ended(search, self._sight)
        else:
            self._monitor.jumped(gap, SHORTEST)
            self._plan.learn(gap.last_id + 1)
        self._pump()

    async def _restart(self, sight: Sight) -> None:
        """Begins anew behind the stored raids when the crawl began above everything published."""
        begun_at = await self._database.call(lambda connection: ledger.restart(connection, _BACK))
        if begun_at is not None:
            self._monitor.restarted(sight, begun_at, self._plan.head.resolved, _BACK)
            self._plan.forget(self._plan.held)

    async def _watch_systems(self) -> None:
        """Keeps the gate shut while the API says that reports are switched off."""
        while not self._stop.is_set():
            state = await self._fetcher.systems()
            if state is not None:
                was_open = self._plan.gate.is_open
                self._monitor.systems(state)
                self._plan.systems(off(state, REPORTS))
                if self._plan.gate.is_open != was_open:
                    self._monitor.gate_moved()
                self._pump()
            pause_s = POLL_S if self._plan.gate.is_open else _POLL_OFF_S
            await self._sleep(self._scaled(pause_s))

    def _scaled(self, seconds: float) -> float:
        return max(seconds * self._options.scale, min(seconds, _LEAST_PAUSE_S))

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


def _blocked(instance_id: int) -> Message:
    body = str(instance_id).encode()
    properties = effect_properties(PGCR_BLOCKED_RETRY, instance_id, body)
    return Message(PGCR_BLOCKED_RETRY, body, properties)


def load_hashes(connection: Connection) -> dict[int, tuple[int, int]]:
    """Tracked hashes in a transaction of their own."""
    with connection:
        return load_tracked_hashes(connection)


def _settle(connection: Connection, settled: missed.Settled) -> None:
    """Writes what became of missed rows, in one transaction; harmless twice."""
    with connection, connection.cursor() as cursor:
        missed.settle(cursor, settled, source=SOURCE)
