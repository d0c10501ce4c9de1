"""Every decision of the crawl and no I/O: which id next, and what an answer means for it.

The crawler asks `next_visit`, fetches, and tells `answered`; blocks come from the ledger with
`add_block` and go back with `take_done` and `abandon`. Rules: docs/domain/crawl.md.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import count
from typing import NamedTuple

from raidhub_dagster.bungie.codes import CodeClass, Scope
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.recovery.fetch import SETTLED_AFTER, missed_row
from raidhub_dagster.storage.ledger import Block, Done
from raidhub_dagster.storage.missed import Backoff, Due, Missed, Settled, State
from raidhub_dagster.storage.postgres import Rng
from streaming.atlas import offload
from streaming.atlas.gate import LONGEST_S, Gate, Throttles
from streaming.atlas.head import Head
from streaming.atlas.offload import Offload
from streaming.atlas.scaling import Bounds, Scaling
from streaming.atlas.search import SHORTEST, Search
from streaming.atlas.visit import (
    MOST_ERRORS,
    MOST_NOT_FOUND,
    MOST_THROTTLED,
    OpenBlock,
    Visit,
    pause_s,
)
from streaming.atlas.window import Sight, Window

# Ids that pause between two tries; beyond this no new id is asked. About 1 kB each.
MOST_PAUSED = 2000
# So many failures in a row, of whatever ids, are the API's failure and not theirs: without this
# an hour's outage would turn every id of that hour into a missed row.
ERRORS_IN_A_ROW = 20
OUTAGE_PAUSE_S = 5.0
# Trials against an API that gives no answer at all: more often than against one that asks for rest.
OUTAGE_LONGEST_S = 20.0
MAINTENANCE_PAUSE_S = 60.0
KEY_PAUSE_S = 60.0
# The head looks like a hole when so much of the last four minutes was not found; then one search.
GAP_SHARE = 0.8
GAP_NOT_FOUND = 50
SEARCH_EVERY_S = 300.0


class Report(NamedTuple):
    """A raid to publish; the crawler says `published(visit)` once the broker has it."""

    visit: Visit
    body: bytes  # JSON of Response
    settled: bool


class Withheld(NamedTuple):
    """An id whose report exists and is withheld: to be handed on, then `handed_on(visit)`."""

    visit: Visit


class Jump(NamedTuple):
    """A hole was found: go on at `first_id`, provided that nobody leased an id from `base` on."""

    base: int
    first_id: int


class Unresolved(NamedTuple):
    """An id that stays unresolved after tries from memory; the last one when `is_final`."""

    instance_id: int
    elapsed_s: float
    is_final: bool


class Plan:
    """State of one process's crawl. `clock` is monotonic seconds, `now` the aware time of day."""

    def __init__(
        self,
        *,
        workers: int,
        bounds: Bounds,
        resolved: int,
        ceiling: int,
        backoff: Backoff,
        rng: Rng,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        scale: float = 1.0,
        step: int = 1,
    ) -> None:
        """`resolved` is the highest published id known; of blocks every `step`-th id is asked."""
        self.head = Head(resolved, clock=clock, rng=rng, scale=scale)
        self.gate = Gate(clock)
        self.scaling = Scaling(workers, bounds)
        self.is_slowed = False  # downstream has enough: no new ids
        self.is_stopping = False
        self.head.follow(workers)
        self._window = Window(clock)
        self._throttles = Throttles()
        self._offload = Offload(clock=clock, rng=rng, scale=scale)
        self._search: Search | None = None
        self._turn = 0  # searches of this silence
        self._searched_at = -float("inf")
        self._silent_since: float | None = None
        self._unresolved: list[Unresolved] = []
        self._new_out = 0  # ids on their way that were never asked before
        self._ceiling = ceiling
        self._step = step
        self._backoff = backoff
        self._rng = rng
        self._clock = clock
        self._now = now
        self._scale = scale
        self._order = count()
        self._blocks: dict[int, OpenBlock] = {}
        self._unasked: list[OpenBlock] = []  # ascending
        self._paused: list[tuple[float, int, Visit]] = []
        self._soon: deque[Visit] = deque()  # before anything else
        self._due: deque[Visit] = deque()
        self._due_out = 0
        self._highest_issued = 0
        self._errors_in_a_row = 0
        self._done: list[Done] = []
        self._settled = Settled([], [], [], [])
        self.in_flight = 0

    # What the ledger gives and takes.

    def add_block(self, block: Block) -> None:
        """Takes a leased block; one of ours whose lease ran out and was renewed goes on."""
        if block.first_id in self._blocks:
            return
        opened = OpenBlock(block, self._step)
        self._blocks[opened.first_id] = opened
        insort(self._unasked, opened, key=lambda b: b.first_id)

    def add_due(self, rows: Iterable[Due]) -> None:
        self._due.extend(
            Visit(row.instance_id, due=row)
            for row in rows
            if row.instance_id not in self._offload  # its claim ended during a long pause
        )

    def forget(self, first_ids: Iterable[int]) -> None:
        """Somebody else holds these blocks now: nothing of them is asked here any more."""
        lost = [block for i in first_ids if (block := self._blocks.pop(i, None)) is not None]
        if not lost:
            return
        for block in lost:
            block.is_lost = True
        self._unasked = [block for block in self._unasked if not block.is_lost]
        self._paused = [entry for entry in self._paused if not _is_lost(entry[2])]
        heapq.heapify(self._paused)
        self._soon = deque(visit for visit in self._soon if not _is_lost(visit))
        self.head.forget([v.instance_id for v in self.head.waiting_visits() if _is_lost(v)])
        if not self._blocks:
            self._highest_issued = self.head.resolved

    def wants_block(self, reserve: int) -> bool:
        """True when fewer than `reserve` ids are left to ask and nothing holds new ones back."""
        if not self._takes_new or self.head.is_silent:
            return False
        return sum(b.unasked for b in self._unasked) < reserve

    @property
    def due_room(self) -> int:
        """How many more missed rows to claim: twice what may be out, so that none waits long."""
        if self.is_stopping or not self.gate.is_open:
            return 0
        return max(0, 2 * self._due_share - len(self._due) - self._due_out)

    @property
    def held(self) -> list[int]:
        """First ids of the blocks under lease."""
        return list(self._blocks)

    def learn(self, published_id: int) -> None:
        """Somebody saw this id published."""
        if published_id > self.head.resolved:
            self._soon.extend(self.head.advance(published_id))

    def take_done(self) -> list[Done]:
        done, self._done = self._done, []
        return done

    def take_settled(self) -> Settled:
        settled, self._settled = self._settled, Settled([], [], [], [])
        return settled

    def take_unresolved(self) -> list[Unresolved]:
        unresolved, self._unresolved = self._unresolved, []
        return unresolved

    def abandon(self) -> list[int]:
        """At the end: first ids of the blocks to release. Blocks asked to their end get done.

        Their paused ids become missed rows, which wait no longer than they would have here; ids
        ahead of the head must not, so a block that holds one is released. Rows of offloaded ids
        are free for others.
        """
        self.is_stopping = True
        for visit in self._offload:
            self._settled.again.append(self._row(visit, visits=0))
        self._offload.clear()
        for _, _, visit in self._paused:
            if visit.block is not None and not visit.block.unasked:
                self._give_up(visit, State.WAITING)
        self._paused.clear()
        return list(self._blocks)

    # The pace.

    @property
    def workers(self) -> int:
        """Fetches that may run at the same time."""
        return self.scaling.workers

    @property
    def silent_s(self) -> float:
        """For how long the head has given nothing although the API answers; 0 when it does."""
        return 0.0 if self._silent_since is None else self._clock() - self._silent_since

    def evaluate(self) -> Sight:
        """Looks at the last four minutes and sets the pace; to be called every 15 s."""
        sight = self._window.look()
        is_silent = sight.is_silent and self.head.waiting > 0
        self.scaling.evaluate(sight, is_silent=is_silent)
        self.head.follow(self.workers)
        if not is_silent or not self.gate.is_open:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock()
        return sight

    def systems(self, off: Sequence[str]) -> None:
        """What the API's own list says: those of the systems we need that are off."""
        if off:
            pause_s = MAINTENANCE_PAUSE_S * self._scale
            self.gate.hold(f"maintenance: {', '.join(off)}", pause_s)
        else:
            self.gate.end_maintenance()

    # Gaps.

    def wants_search(self, sight: Sight) -> bool:
        """True when nearly nothing is found: behind the head may be a hole."""
        return (
            sight.not_found_share > GAP_SHARE
            and sight.not_found > GAP_NOT_FOUND
            and self._search is None
            and self.head.is_silent
            and self.gate.is_open
            and not self.is_stopping
            and self._clock() - self._searched_at >= SEARCH_EVERY_S * self._scale
        )

    def search(self, base: int) -> None:
        """Begins to look for a populated block behind `base`, the next id that nobody leased."""
        self._search = Search(base, self._ceiling, self._turn)
        self._searched_at = self._clock()
        self._ask_search()

    def take_search(self) -> tuple[Search, Jump | None] | None:
        """The search that ended since, and where to go on when it found a hole; else None."""
        search = self._search
        if search is None or not search.is_over:
            return None
        self._search = None
        self._turn += 1
        if search.found is None:
            return search, None
        if search.found - search.base < SHORTEST:
            # Too short for a gap: the ids in between are asked one by one.
            self.learn(search.found)
            return search, None
        return search, Jump(search.base, search.found)

    def _ask_search(self) -> None:
        if self._search is not None:
            self._soon.extend(Visit(i, search=self._search) for i in self._search.next_ids())

    # What to ask.

    def next_visit(self) -> Visit | None:
        """The next id to fetch now; None until `next_at`, an answer, a block or a due row."""
        if self.in_flight >= self.scaling.workers or not self.gate.lets_through():
            return None
        now = self._clock()
        # Not on top of a round that a closed gate held up: hours of maintenance would pile them up.
        if now >= self.head.round_at and not self._soon and not self.is_stopping:
            asked, probes = self.head.round(self._highest_issued)
            self._soon.extend(asked)
            self._soon.extend(probes)
        if self.gate.is_open:
            visit = self._next_paused(now) or self._next_row(now) or self._next_new()
        else:  # rather an id that has not failed yet: some always do
            visit = self._next_new() or self._next_paused(now) or self._next_row(now)
        if visit is not None:
            visit.is_trial = self.gate.enter()
            self.in_flight += 1
        return visit

    def next_at(self) -> float:
        """When time alone gives `next_visit` something, on the clock; infinity for never."""
        if self.is_stopping or self.in_flight >= self.scaling.workers:
            return float("inf")
        takes_rows = self._due_out < self._due_share
        if not self.gate.is_open and (self._soon or (self._due and takes_rows) or self._has_new):
            return self.gate.until
        paused_at = self._paused[0][0] if self._paused else float("inf")
        row_at = self._offload.next_at if takes_rows else float("inf")
        return max(min(paused_at, row_at, self.head.round_at), self.gate.until)

    @property
    def _takes_new(self) -> bool:
        return not (self.is_slowed or self.is_stopping or len(self._paused) >= MOST_PAUSED)

    @property
    def _due_share(self) -> int:
        return max(1, self.scaling.workers // 10)

    def _next_paused(self, now: float) -> Visit | None:
        if self.is_stopping:
            return None
        if self._soon:
            return self._soon.popleft()
        if self._paused and self._paused[0][0] <= now:
            return heapq.heappop(self._paused)[2]
        return None

    def _next_row(self, now: float) -> Visit | None:
        if self._due_out >= self._due_share or self.is_stopping:
            return None
        visit = self._offload.next(now)
        if visit is None and self._due:
            visit = self._due.popleft()
        if visit is not None:
            self._due_out += 1
        return visit

    @property
    def _has_new(self) -> bool:
        if not self._unasked or not self._takes_new:
            return False
        # Blocks below the head go on: some were taken over from others.
        return self._new_out < self.head.run_ahead or not self.head.is_ahead(
            self._unasked[0].next_id
        )

    def _next_new(self) -> Visit | None:
        if not self._has_new:
            return None
        block = self._unasked[0]
        visit = Visit(block.next_id, block, is_new=True)
        self._new_out += 1
        block.next_id += block.step
        if not block.unasked:
            self._unasked.pop(0)
        self._highest_issued = max(self._highest_issued, visit.instance_id)
        return visit

    # What an answer means.

    def answered(
        self, visit: Visit, result: PgcrResult, lag_s: float | None = None
    ) -> Report | Withheld | None:
        """Takes the answer to a visit; returns what there is to publish.

        `lag_s` is the age of a report since the end of its activity, where it tells.
        """
        self.in_flight -= 1
        if visit.is_new:
            visit.is_new = False
            self._new_out -= 1
        if not visit.has_row and visit.search is None:
            self._window.add(result.kind, lag_s)
        if _is_lost(visit):
            self._judge_gate(visit, result)
            return None
        if self._judge_gate(visit, result):
            if visit.search is not None:
                self._searched(visit, None)
            return None
        if visit.is_trial:
            self.gate.open()
        if visit.search is not None:
            self._searched(visit, result.exists)
            return None
        visit.throttled = 0
        previous, visit.last = visit.last, result
        kind = result.kind
        if kind is ResultKind.NOT_FOUND:
            self._not_found(visit)
            return None
        if kind is ResultKind.EXTERNAL_ERROR:
            self._failed(visit, result)
            return None
        if result.exists:
            self.head.answered(visit.instance_id)
            self.learn(visit.instance_id)
            self.scaling.resolved()
            self._turn = 0
        if visit.is_probe:
            return None
        if kind is ResultKind.SUCCESS and result.response is not None:
            return Report(visit, result.response, settled=False)
        if kind is ResultKind.INSUFFICIENT_PRIVILEGES:
            return Withheld(visit)
        if kind is ResultKind.NON_RAID:
            self._resolved(visit, is_raid=False)
            return None
        return self._malformed(visit, result, previous)

    def published(self, visit: Visit) -> None:
        """The broker has the raid."""
        self._resolved(visit, is_raid=True)

    def handed_on(self, visit: Visit) -> None:
        """The broker has the id of a withheld report: its row only waits for whoever tries it."""
        self._give_up(visit, State.BLOCKED)

    def _judge_gate(self, visit: Visit, result: PgcrResult) -> bool:
        """True when the answer is about us or the API and says nothing about the id."""
        trial = visit.is_trial
        failed = result.kind is ResultKind.EXTERNAL_ERROR
        throttled = result.kind is ResultKind.RATE_LIMITED
        self._errors_in_a_row = self._errors_in_a_row + 1 if failed else 0
        self._throttles.count(throttled)
        if result.kind is ResultKind.SYSTEM_DISABLED:
            pause_s = MAINTENANCE_PAUSE_S * self._scale
            self.gate.close("maintenance", pause_s, trial=trial, is_maintenance=True)
        elif result.code_class is CodeClass.KEY_PROBLEM:
            self.gate.close(
                f"the API refuses BUNGIE_API_KEY ({result.status})", KEY_PAUSE_S, trial=trial
            )
        elif throttled:
            return self._throttled(visit, result)
        elif failed and (
            trial or result.is_unreachable or self._errors_in_a_row >= ERRORS_IN_A_ROW
        ):
            reason = f"nothing but errors, the last: {result.detail or result.status}"
            pause_s = OUTAGE_PAUSE_S * self._scale
            longest_s = max(pause_s, min(OUTAGE_LONGEST_S * self._scale, LONGEST_S))
            self.gate.close(reason, pause_s, trial=trial, longest_s=longest_s)
            if trial and not result.is_unreachable:
                # Counts, or an id that always fails would keep the gate shut.
                self._failed(visit, result)
                return True
        else:
            return False
        self._pause(visit, 0)
        return True

    def _throttled(self, visit: Visit, result: PgcrResult) -> bool:
        """The id rests as long as the API asks for, whatever the scale; when all are, all rest.

        Zeus rests the address or key that was refused: the next fetch goes by another one.
        """
        pause_s = float(result.throttle_seconds)
        if visit.is_trial or result.scope is Scope.GLOBAL or self._throttles.are_most:
            self.gate.close(f"throttled ({result.status})", pause_s, trial=visit.is_trial)
            self._throttles.forget()
            pause_s = 0.0
        visit.throttled += 1
        if visit.throttled >= MOST_THROTTLED:
            visit.last = result
            visit.throttled = 0
            self._give_up(visit, State.WAITING)
        else:
            self._pause(visit, pause_s)
        return True

    def _searched(self, visit: Visit, exists: bool | None) -> None:
        if visit.search is not None:
            visit.search.answered(visit.instance_id, exists)
        if visit.search is self._search:
            self._ask_search()

    def _failed(self, visit: Visit, result: PgcrResult) -> None:
        visit.last = result
        visit.errors += 1
        self._again_or(visit, visit.errors > MOST_ERRORS, State.WAITING)

    def _not_found(self, visit: Visit) -> None:
        if visit.is_probe:
            return
        if not visit.has_row and self.head.is_ahead(visit.instance_id):
            self.head.wait(visit)
            return
        visit.not_found += 1
        self._again_or(visit, visit.not_found > MOST_NOT_FOUND, State.WAITING)

    def _malformed(
        self, visit: Visit, result: PgcrResult, previous: PgcrResult | None
    ) -> Report | None:
        """An unusable report: complete enough once it is old and comes twice alike."""
        if result.is_poison:
            self._give_up(visit, State.MALFORMED)
            return None
        visit.malformed += 1
        visit.errors += 1
        is_same = previous is not None and previous.response == result.response
        ended_at = result.ended_at
        if (
            is_same
            and result.response is not None
            and ended_at is not None
            and self._now() - ended_at >= SETTLED_AFTER
        ):
            parsed = parse(
                result.response, now=self._now(), expected_id=visit.instance_id, settled=True
            )
            if isinstance(parsed, Instance):
                return Report(visit, result.response, settled=True)
        most = 1 if visit.due is not None else MOST_ERRORS  # twice: the second is for comparing
        self._again_or(visit, visit.errors > most, State.MALFORMED)
        return None

    def _again_or(self, visit: Visit, is_enough: bool, state: State) -> None:
        # A row has its own, longer pauses; only a malformed one of the table is asked twice in a
        # row.
        if visit.asks_only:
            return
        if visit.offloaded is not None:
            self._offload_failed(visit, state)
        elif is_enough or (visit.due is not None and state is not State.MALFORMED):
            self._give_up(visit, state)
        else:
            self._pause(visit, pause_s(max(visit.tries, 1), self._rng) * self._scale)

    def _offload_failed(self, visit: Visit, state: State) -> None:
        instance_id = visit.instance_id
        elapsed_s = self._offload.failed(visit)
        if elapsed_s is None:
            self._due_out -= 1
            if visit.offloaded == offload.WARNED_AFTER:
                elapsed_s = self._offload.elapsed_s(instance_id)
                self._unresolved.append(Unresolved(instance_id, elapsed_s, is_final=False))
            return
        self._unresolved.append(Unresolved(instance_id, elapsed_s, is_final=True))
        self._give_up(visit, state)

    def _pause(self, visit: Visit, seconds: float) -> None:
        """The id is asked again, without anything counted."""
        if visit.asks_only or _is_lost(visit):
            return
        if visit.offloaded is not None:
            self._due_out -= 1
            self._offload.rest(visit, seconds)
        else:
            heapq.heappush(self._paused, (self._clock() + seconds, next(self._order), visit))

    def _give_up(self, visit: Visit, state: State) -> None:
        """The id leaves its block, or its row gets the time of its next try."""
        self.head.answered(visit.instance_id)
        result = visit.last
        if visit.asks_only or result is None or _is_lost(visit):
            return
        if visit.block is not None:
            self._leave_block(visit, visit.block, state, result)
            return
        self._due_out -= 1
        due = visit.due
        if due is None:
            tries = visit.offloaded or 1
            self._settled.again.append(self._row(visit, state=state, visits=tries))
            if visit.instance_id in self._offload:
                self._offload.leave(visit.instance_id)
            return
        failed = result.kind in (ResultKind.EXTERNAL_ERROR, ResultKind.RATE_LIMITED)
        if failed:
            state = due.state  # a failure says nothing new about the id
        row = self._row(visit, state=state)
        if not self._backoff.is_given_up(state, due.age_s) or failed:
            self._settled.again.append(row)
        elif state is State.MALFORMED:
            self._settled.rejected.append(row.instance_id)
        else:
            self._settled.missing.append(row)

    def _leave_block(
        self, visit: Visit, block: OpenBlock, state: State, result: PgcrResult
    ) -> None:
        """The row is written before the block is done; then tries go on from memory, if any."""
        row = self._row(visit, state=state)
        is_offloaded = (
            state is not State.BLOCKED
            and not result.is_poison
            and not self.is_stopping
            and self._offload.has_room
            and visit.instance_id not in self._offload
        )
        if is_offloaded:
            row = row._replace(retry_in_s=offload.CLAIM_S * self._scale)
            self._offload.take(
                Visit(visit.instance_id, offloaded=0, malformed=visit.malformed, last=visit.last)
            )
        self._settled.again.append(row)
        block.missed += 1
        self._finish(block)

    def _row(self, visit: Visit, *, state: State | None = None, visits: int = 1) -> Missed:
        """The row that the last answer of `visit` makes, with the time of its next try."""
        due, result = visit.due, visit.last
        assert result is not None  # noqa: S101  an id without an answer is never given up
        if state is None:
            state = State.MALFORMED if result.rejection is not None else State.WAITING
        before, age_s = 0, 0.0
        if due is not None and due.state is state:
            before, age_s = due.attempts, due.age_s
        elif visit.offloaded is not None:
            before = 1  # in its block
        retry_in_s = self._backoff.delay_s(state, max(before + visits, 1), age_s)
        return missed_row(visit.instance_id, state, result, retry_in_s, visits)

    def _resolved(self, visit: Visit, *, is_raid: bool) -> None:
        block = visit.block
        if block is None:
            self._due_out -= 1
            if visit.instance_id in self._offload:
                self._offload.leave(visit.instance_id)
            self._settled.resolved.append(visit.instance_id)
            return
        if block.is_lost:
            return
        if is_raid:
            block.raids += 1
        else:
            block.non_raids += 1
        self._finish(block)

    def _finish(self, block: OpenBlock) -> None:
        block.unfinished -= 1
        if block.unfinished == 0:
            del self._blocks[block.first_id]
            self._done.append(Done(block.first_id, block.raids, block.non_raids, block.missed))


def _is_lost(visit: Visit) -> bool:
    return visit.block is not None and visit.block.is_lost
