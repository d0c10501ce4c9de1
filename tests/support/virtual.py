"""Atlas in virtual time: its real decisions against the simulator's publication and fates.

Two hours of crawling take seconds, since nothing is sent and nothing waits: a heap of events stands
for network, ledger and clock. What `crawler.py` and PostgreSQL do is repeated here in the plainest
way, so that several processes can share one ledger and be killed at any moment.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from typing import NamedTuple

from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind, transport_failure
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.missed import Backoff, Due, Missed, State
from simulator import definitions
from simulator.faults import Fate, Fates, Faults
from simulator.publication import Publication, Schedule
from simulator.world import World, WorldConfig
from streaming.atlas.plan import Plan, Report, Unresolved, Withheld
from streaming.atlas.scaling import Bounds, Mode
from streaming.atlas.search import Search
from streaming.atlas.visit import Visit

FIRST = 16_800_000_000
CEILING = 10**11
BOUNDS = Bounds(5, 250)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)

NON_RAID = PgcrResult(ResultKind.NON_RAID, 1, "Success", "")
RAID = PgcrResult(ResultKind.SUCCESS, 1, "Success", "", response=b"{}")
NOT_FOUND = PgcrResult(ResultKind.NOT_FOUND, 1653, "DestinyPGCRNotFound", "")
BLOCKED = PgcrResult(ResultKind.INSUFFICIENT_PRIVILEGES, 12, "InsufficientPrivileges", "")
FAILED = transport_failure(TimeoutError())


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Api:
    """What an id answers at a time. Ids of `hole` (first, last) were never given to anything."""

    def __init__(
        self,
        clock: Clock,
        schedule: Schedule,
        faults: Faults | None = None,
        *,
        hole: tuple[int, int] | None = None,
        outages: Sequence[tuple[float, float]] = (),
    ) -> None:
        self._clock = clock
        self._schedule = schedule
        self._hole = hole
        self._outages = outages
        self._fates: Fates | None = None
        if faults is not None:
            config = WorldConfig(rate=schedule.rate, first_id=schedule.first_id)
            world = World(definitions.load(definitions.DEFAULT_FOLDER), config)
            self._fates = Fates(world, Publication(schedule, clock), faults)

    @property
    def head(self) -> int:
        return self._id(self._schedule.head(self._clock.time))

    def lag_s(self, instance_id: int) -> float:
        """Since the activity ended."""
        played = (self._place(instance_id) - self._schedule.first_id) / self._schedule.rate
        return self._clock.time - self._schedule.epoch - played + 10

    def is_away(self) -> bool:
        return any(begin <= self._clock.time < end for begin, end in self._outages)

    def answer(self, instance_id: int) -> tuple[PgcrResult, float | None]:
        if self.is_away():
            return FAILED, None
        if self._hole and self._hole[0] <= instance_id <= self._hole[1]:
            return NOT_FOUND, None
        place = self._place(instance_id)
        if not self._schedule.first_id <= place <= self._schedule.head(self._clock.time):
            return NOT_FOUND, None
        if self._fates is not None:
            doom = self._fates.of(place)
            if doom.fate is not Fate.NORMAL and doom.until > self._clock.time:
                if doom.fate in (Fate.HOLE, Fate.LATE):
                    return NOT_FOUND, None
                if doom.fate is Fate.BLOCKED:
                    return BLOCKED, None
        return NON_RAID, self.lag_s(instance_id)

    def _place(self, instance_id: int) -> int:
        """The id's place among those that exist."""
        if self._hole and instance_id > self._hole[1]:
            return instance_id - (self._hole[1] - self._hole[0] + 1)
        return instance_id

    def _id(self, place: int) -> int:
        if self._hole and place >= self._hole[0]:
            return place + self._hole[1] - self._hole[0] + 1
        return place


class Budget:
    """Requests wait for a token in the order they come, as in zeus."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._free_at = 0.0

    def granted_at(self, now: float) -> float:
        self._free_at = max(self._free_at, now - self._burst / self._per_s) + 1 / self._per_s
        return max(now, self._free_at)


@dataclass
class _Lease:
    last_id: int
    owner: str
    until: float
    is_done: bool = False
    has_resolved: bool = False


@dataclass
class Ledger:
    """The tables of schema `streaming` that the crawl keeps, in memory."""

    clock: Clock
    next_id: int = FIRST
    blocks: dict[int, _Lease] = field(default_factory=dict)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    rows: dict[int, tuple[Missed, int]] = field(default_factory=dict)  # with the tries so far
    closed: set[int] = field(default_factory=set)
    _due: list[tuple[float, int]] = field(default_factory=list)  # also times that are void by now
    _due_at: dict[int, float] = field(default_factory=dict)
    _open: set[int] = field(default_factory=set)
    _resolved: int = 0

    def lease(self, owner: str, size: int, lease_s: float, *, advance: bool) -> Block | None:
        now = self.clock.time
        for first_id in sorted(self._open):
            block = self.blocks[first_id]
            if block.until < now:
                block.owner, block.until = owner, now + lease_s
                return Block(first_id, block.last_id)
        if not advance:
            return None
        first_id, self.next_id = self.next_id, self.next_id + size
        self.blocks[first_id] = _Lease(self.next_id - 1, owner, now + lease_s)
        self._open.add(first_id)
        return Block(first_id, self.next_id - 1)

    def extend(self, owner: str, first_ids: Sequence[int], lease_s: float) -> set[int]:
        held = {i for i in first_ids if self.blocks[i].owner == owner and i in self._open}
        for i in held:
            self.blocks[i].until = self.clock.time + lease_s
        return held

    def complete(self, owner: str, first_id: int, resolved: int) -> None:
        block = self.blocks[first_id]
        if block.owner == owner:
            self._open.discard(first_id)
            block.is_done = True
            if resolved:
                self._resolved = max(self._resolved, first_id)

    def highest_resolved(self) -> int:
        return max([self._resolved, *(last + 1 for _, last in self.gaps)])

    def jump(self, base: int, first_id: int) -> bool:
        if self.next_id != base:
            return False
        self.gaps.append((base, first_id - 1))
        self.next_id = first_id
        return True

    def record(self, row: Missed) -> None:
        tries = self.rows[row.instance_id][1] if row.instance_id in self.rows else 0
        self.rows[row.instance_id] = row, tries + row.visits
        if row.retry_in_s is not None and row.state is not State.BLOCKED:
            self._try_at(row.instance_id, self.clock.time + row.retry_in_s)

    def close(self, instance_id: int) -> None:
        self.rows.pop(instance_id, None)
        self.closed.add(instance_id)

    def due(self, limit: int) -> list[Due]:
        now = self.clock.time
        found: list[Due] = []
        while self._due and self._due[0][0] <= now and len(found) < limit:
            at, instance_id = heapq.heappop(self._due)
            if instance_id in self.rows and self._due_at[instance_id] == at:
                row, tries = self.rows[instance_id]
                found.append(Due(instance_id, row.state, tries, 0.0))
                self._try_at(instance_id, now + 300)
        return found

    def _try_at(self, instance_id: int, at: float) -> None:
        self._due_at[instance_id] = at
        heapq.heappush(self._due, (at, instance_id))

    def uncovered(self) -> int:
        """Ids below the cursor that neither a block nor a gap holds, or that two hold: always 0."""
        held = [(i, block.last_id) for i, block in self.blocks.items()] + self.gaps
        at, wrong = FIRST, 0
        for first_id, last_id in sorted(held):
            wrong += abs(first_id - at)
            at = last_id + 1
        return wrong + abs(self.next_id - at)


class Sample(NamedTuple):
    """What one look of the scaling saw."""

    at: float
    mode: Mode
    workers: int
    lag_s: float  # of the oldest id that is not asked yet
    not_found_share: float
    lag_p20_s: float


class Process:
    """One atlas. `kill` ends it as `kill -9` does."""

    def __init__(
        self, crawl: "Crawl", name: str, *, workers: int, bounds: Bounds, block_size: int
    ) -> None:
        self.name = name
        self.samples: list[Sample] = []
        self.searches: list[Search] = []
        self.unresolved: list[Unresolved] = []
        self.is_dead = False
        self._crawl = crawl
        self._block_size = block_size
        self._wake_at = float("inf")
        rng = Random(name)
        self.plan = Plan(
            workers=workers,
            bounds=bounds,
            resolved=crawl.ledger.highest_resolved(),
            ceiling=CEILING,
            backoff=Backoff(rng),
            rng=rng,
            clock=crawl.clock,
            now=lambda: _NOW + timedelta(seconds=crawl.clock.time),
        )
        for every_s, step in (
            (0.05, self._keep_ledger),
            (1.0, self._claim_due),
            (5.0, self._look_around),
            (15.0, self._evaluate),
            (20.0, self._extend),
        ):
            self._every(every_s, step)

    def kill(self) -> None:
        self.is_dead = True

    def _every(self, seconds: float, step: Callable[[], None]) -> None:
        def run() -> None:
            if not self.is_dead:
                step()
                self._crawl.later(seconds, run)

        self._crawl.later(seconds, run)

    def pump(self) -> None:
        if self.is_dead:
            return
        while (visit := self.plan.next_visit()) is not None:
            self._crawl.send(self, visit)
        next_at = self.plan.next_at()
        now = self._crawl.clock.time
        if next_at != float("inf") and (next_at < self._wake_at or self._wake_at <= now):
            self._wake_at = max(next_at, now + 0.001)
            self._crawl.later(self._wake_at - now, self.pump)

    def answered(self, visit: Visit, result: PgcrResult, lag_s: float | None) -> None:
        if self.is_dead:
            return
        self._crawl.count(visit, result)
        match self.plan.answered(visit, result, lag_s):
            case Report():
                self.plan.published(visit)
            case Withheld():
                self.plan.handed_on(visit)
        self.pump()

    def _keep_ledger(self) -> None:
        ledger, plan = self._crawl.ledger, self.plan
        done, settled = plan.take_done(), plan.take_settled()
        for row in (*settled.again, *settled.missing):
            ledger.record(row)
        for instance_id in (*settled.resolved, *settled.rejected):
            ledger.close(instance_id)
        for block in done:
            ledger.complete(self.name, block.first_id, block.raids + block.non_raids)
        leased = False
        while plan.wants_block(max(2 * plan.workers, self._block_size // 2)):
            size = min(self._block_size, plan.scaling.block)
            block_ = ledger.lease(self.name, size, 60, advance=True)
            assert block_ is not None
            plan.add_block(block_)
            leased = True
        ended = plan.take_search()
        if ended is not None:
            search, jump = ended
            self.searches.append(search)
            if jump is not None and ledger.jump(jump.base, jump.first_id):
                plan.learn(jump.first_id)
                leased = True
        self.unresolved += plan.take_unresolved()
        if leased:
            self.pump()

    def _claim_due(self) -> None:
        if room := self.plan.due_room:
            self.plan.add_due(self._crawl.ledger.due(room))
            self.pump()

    def _look_around(self) -> None:
        self.plan.learn(self._crawl.ledger.highest_resolved())
        if self.plan.head.is_silent:
            block = self._crawl.ledger.lease(self.name, 1, 60, advance=False)
            if block is not None:
                self.plan.add_block(block)
        self.pump()

    def _evaluate(self) -> None:
        sight = self.plan.evaluate()
        if self.plan.wants_search(sight):
            self.plan.search(self._crawl.ledger.next_id)
        scaling = self.plan.scaling
        self.samples.append(
            Sample(
                self._crawl.clock.time,
                scaling.mode,
                scaling.workers,
                self._crawl.lag_s(),
                sight.not_found_share,
                sight.lag_s,
            )
        )
        self.pump()

    def _extend(self) -> None:
        held = self.plan.held
        still = self._crawl.ledger.extend(self.name, held, 60)
        self.plan.forget([i for i in held if i not in still])


class Crawl:
    """Processes, one ledger, one API, one budget, one clock."""

    def __init__(
        self,
        make_api: Callable[[Clock], Api],
        *,
        budget: Budget | None = None,
        latency_s: float = 0.06,
    ) -> None:
        self.clock = Clock()
        self.api = make_api(self.clock)
        self.ledger = Ledger(self.clock)
        self.processes: list[Process] = []
        self.answers: Counter[ResultKind] = Counter()
        self.first_tries: Counter[ResultKind] = Counter()  # ids in their blocks, and polls
        self._budget = budget or Budget(640, 1440)
        self._latency_s = latency_s
        self._rng = Random(5)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def start(
        self,
        name: str = "a",
        *,
        workers: int = 25,
        bounds: Bounds = BOUNDS,
        block_size: int = 1000,
    ) -> Process:
        process = Process(self, name, workers=workers, bounds=bounds, block_size=block_size)
        self.processes.append(process)
        return process

    def later(self, seconds: float, step: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.clock.time + seconds, next(self._order), step))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.clock.time, _, step = heapq.heappop(self._events)
            step()
        self.clock.time = until

    def send(self, process: Process, visit: Visit) -> None:
        now = self.clock.time
        latency_s = self._latency_s * self._rng.lognormvariate(0.0, 0.3)
        arrives = self._budget.granted_at(now) + latency_s / 2

        def judge() -> None:
            result, lag_s = self.api.answer(visit.instance_id)
            self.later(latency_s / 2, lambda: process.answered(visit, result, lag_s))

        self.later(arrives - now, judge)

    def count(self, visit: Visit, result: PgcrResult) -> None:
        self.answers[result.kind] += 1
        if not visit.has_row:
            self.first_tries[result.kind] += 1

    def lag_s(self) -> float:
        """Age of the lowest id that no process has asked yet; 0 at the head."""
        lowest = min(
            (b.next_id for p in self.processes if not p.is_dead for b in p.plan._unasked),
            default=self.ledger.next_id,
        )
        return max(0.0, self.api.lag_s(lowest)) if lowest <= self.api.head else 0.0

    @property
    def share_404(self) -> float:
        return self.answers[ResultKind.NOT_FOUND] / max(self.answers.total(), 1)
