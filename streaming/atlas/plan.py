"""Every decision of the crawl and no I/O: which id next, and what an answer means for it.

The crawler asks `next_visit`, fetches, and tells `answered`; blocks come from the ledger with
`add_block` and go back with `take_done` and `abandon`. Rules: docs/domain/crawl.md.
"""

import heapq
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import count
from typing import NamedTuple

from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.storage.ledger import Block, Done
from raidhub_dagster.storage.missed import Backoff, Due, Missed, State
from raidhub_dagster.storage.postgres import Rng
from streaming.atlas.gate import Gate
from streaming.atlas.head import Head
from streaming.atlas.visit import (
    MOST_ERRORS,
    MOST_NOT_FOUND,
    MOST_THROTTLED,
    OpenBlock,
    Visit,
    pause_s,
)

# Ids that pause between two tries; beyond this no new id is asked. About 1 kB each.
MOST_PAUSED = 2000
# So many failures in a row, of whatever ids, are the API's failure and not theirs: without this
# an hour's outage would turn every id of that hour into a missed row.
ERRORS_IN_A_ROW = 20
OUTAGE_PAUSE_S = 5.0
MAINTENANCE_PAUSE_S = 60.0
KEY_PAUSE_S = 60.0
# A report this old that came twice alike is as complete as it ever gets.
SETTLED_AFTER = timedelta(hours=48)


class Report(NamedTuple):
    """A raid to publish; the crawler says `published(visit)` once the broker has it."""

    visit: Visit
    body: bytes  # JSON of Response
    settled: bool


class Settled(NamedTuple):
    """What became of missed rows: closed as resolved, given up, or to be tried again."""

    resolved: list[int]
    rejected: list[int]
    missing: list[Missed]  # holes if ids on both sides are resolved, else tried again like this
    again: list[Missed]

    def __bool__(self) -> bool:
        return any(self)


class Plan:
    """State of one process's crawl. `clock` is monotonic seconds, `now` the aware time of day."""

    def __init__(
        self,
        *,
        workers: int,
        resolved: int,
        backoff: Backoff,
        rng: Rng,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        scale: float = 1.0,
    ) -> None:
        self.head = Head(resolved, clock=clock, rng=rng, scale=scale)
        self.gate = Gate(clock)
        self.is_slowed = False  # downstream has enough: no new ids
        self.is_stopping = False
        self._workers = workers
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
        opened = OpenBlock(block)
        self._blocks[opened.first_id] = opened
        insort(self._unasked, opened, key=lambda b: b.first_id)

    def add_due(self, rows: Iterable[Due]) -> None:
        self._due.extend(Visit(row.instance_id, due=row) for row in rows)

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
        """Somebody else saw this id published."""
        self._soon.extend(self.head.advance(published_id))

    def take_done(self) -> list[Done]:
        done, self._done = self._done, []
        return done

    def take_settled(self) -> Settled:
        settled, self._settled = self._settled, Settled([], [], [], [])
        return settled

    def abandon(self) -> list[int]:
        """At the end: first ids of the blocks to release. Blocks asked to their end get done.

        Their paused ids become missed rows, which wait no longer than they would have here; ids
        ahead of the head must not, so a block that holds one is released.
        """
        for _, _, visit in self._paused:
            if visit.block is not None and not visit.block.unasked:
                self._give_up(visit, State.WAITING)
        self._paused.clear()
        return list(self._blocks)

    # What to ask.

    def next_visit(self) -> Visit | None:
        """The next id to fetch now; None until `next_at`, an answer, a block or a due row."""
        if self.in_flight >= self._workers or not self.gate.lets_through():
            return None
        now = self._clock()
        # Not on top of a round that a closed gate held up: hours of maintenance would pile them up.
        if now >= self.head.round_at and not self._soon and not self.is_stopping:
            asked, probes = self.head.round(self._highest_issued)
            self._soon.extend(asked)
            self._soon.extend(probes)
        if self.gate.is_open:
            visit = self._next_paused(now) or self._next_due() or self._next_new()
        else:  # rather an id that has not failed yet: some always do
            visit = self._next_new() or self._next_paused(now) or self._next_due()
        if visit is not None:
            visit.is_trial = self.gate.enter()
            self.in_flight += 1
        return visit

    def next_at(self) -> float:
        """When time alone gives `next_visit` something, on the clock; infinity for never."""
        if self.is_stopping or self.in_flight >= self._workers:
            return float("inf")
        has_due = self._due and self._due_out < self._due_share
        if not self.gate.is_open and (self._soon or has_due or self._has_new):
            return self.gate.until
        paused_at = self._paused[0][0] if self._paused else float("inf")
        return max(min(paused_at, self.head.round_at), self.gate.until)

    @property
    def _takes_new(self) -> bool:
        return not (self.is_slowed or self.is_stopping or len(self._paused) >= MOST_PAUSED)

    @property
    def _due_share(self) -> int:
        return max(1, self._workers // 10)

    def _next_paused(self, now: float) -> Visit | None:
        if self.is_stopping:
            return None
        if self._soon:
            return self._soon.popleft()
        if self._paused and self._paused[0][0] <= now:
            return heapq.heappop(self._paused)[2]
        return None

    def _next_due(self) -> Visit | None:
        if not self._due or self._due_out >= self._due_share or self.is_stopping:
            return None
        self._due_out += 1
        return self._due.popleft()

    @property
    def _has_new(self) -> bool:
        if not self._unasked or not self._takes_new:
            return False
        # While the head is silent only blocks below it go on: some were taken over from others.
        return not (self.head.is_silent and self.head.is_ahead(self._unasked[0].next_id))

    def _next_new(self) -> Visit | None:
        if not self._has_new:
            return None
        block = self._unasked[0]
        visit = Visit(block.next_id, block)
        block.next_id += 1
        if not block.unasked:
            self._unasked.pop(0)
        self._highest_issued = max(self._highest_issued, visit.instance_id)
        return visit

    # What an answer means.

    def answered(self, visit: Visit, result: PgcrResult) -> Report | None:
        """Takes the answer to a visit; returns the raid when there is one to publish."""
        self.in_flight -= 1
        if self._closes_gate(visit, result):
            return None
        if visit.is_trial:
            self.gate.open()
        previous, visit.last = visit.last, result
        kind = result.kind
        if kind is ResultKind.NOT_FOUND:
            self._not_found(visit)
            return None
        if kind is ResultKind.EXTERNAL_ERROR:
            self._failed(visit, result)
            return None
        if result.code == 1 or kind is ResultKind.INSUFFICIENT_PRIVILEGES:
            self.head.answered(visit.instance_id)
            self.learn(visit.instance_id)
        if visit.is_probe:
            return None
        if kind is ResultKind.SUCCESS and result.response is not None:
            return Report(visit, result.response, settled=False)
        if kind is ResultKind.NON_RAID:
            self._resolved(visit, is_raid=False)
        elif kind is ResultKind.INSUFFICIENT_PRIVILEGES:
            self._give_up(visit, State.BLOCKED)
        else:
            return self._malformed(visit, result, previous)
        return None

    def published(self, visit: Visit) -> None:
        """The broker has the raid."""
        self._resolved(visit, is_raid=True)

    def _closes_gate(self, visit: Visit, result: PgcrResult) -> bool:
        """True when the answer is about us or the API and says nothing about the id."""
        trial = visit.is_trial
        failed = result.kind is ResultKind.EXTERNAL_ERROR
        self._errors_in_a_row = self._errors_in_a_row + 1 if failed else 0
        if result.kind is ResultKind.SYSTEM_DISABLED:
            self.gate.close("maintenance", MAINTENANCE_PAUSE_S * self._scale, trial=trial)
        elif result.code_class is CodeClass.KEY_PROBLEM:
            self.gate.close(
                f"the API refuses BUNGIE_API_KEY ({result.status})", KEY_PAUSE_S, trial=trial
            )
        elif result.kind is ResultKind.RATE_LIMITED:
            # What the API asks for is kept whatever the scale.
            self.gate.close(f"throttled ({result.status})", result.throttle_seconds, trial=trial)
            visit.throttled += 1
            if visit.throttled >= MOST_THROTTLED:
                visit.last = result
                self._give_up(visit, State.WAITING)
                return True
        elif failed and (trial or self._errors_in_a_row >= ERRORS_IN_A_ROW):
            reason = f"nothing but errors, the last: {result.detail or result.status}"
            self.gate.close(reason, OUTAGE_PAUSE_S * self._scale, trial=trial)
            if trial:  # counts, or an id that always fails would keep the gate shut
                self._failed(visit, result)
                return True
        else:
            return False
        self._pause(visit, 0)
        return True

    def _failed(self, visit: Visit, result: PgcrResult) -> None:
        visit.last = result
        visit.errors += 1
        self._again_or(visit, visit.errors > MOST_ERRORS, State.WAITING)

    def _not_found(self, visit: Visit) -> None:
        if visit.is_probe:
            return
        if visit.due is None and self.head.is_ahead(visit.instance_id):
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
        # A missed row has its own, longer pauses; only a malformed one is asked twice in a row.
        if visit.is_probe:
            return
        if is_enough or (visit.due is not None and state is not State.MALFORMED):
            self._give_up(visit, state)
        else:
            self._pause(visit, pause_s(max(visit.tries, 1), self._rng) * self._scale)

    def _pause(self, visit: Visit, seconds: float) -> None:
        if not visit.is_probe:
            heapq.heappush(self._paused, (self._clock() + seconds, next(self._order), visit))

    def _give_up(self, visit: Visit, state: State) -> None:
        """The id leaves for missed_pgcr, or its row gets the time of its next try."""
        self.head.answered(visit.instance_id)
        due, result = visit.due, visit.last
        if visit.is_probe or result is None:
            return
        failed = result.kind in (ResultKind.EXTERNAL_ERROR, ResultKind.RATE_LIMITED)
        if due is not None and failed:
            state = due.state  # a failure says nothing new about the id
        visits, age_s = (1, 0.0) if due is None else (due.attempts + 1, due.age_s)
        if due is not None and due.state is not state:
            visits = 1
        rejection = result.rejection
        row = Missed(
            visit.instance_id,
            state,
            rejection.reason if rejection is not None else result.kind.name.lower(),
            int(result.kind),
            error=f"{result.status}: {result.detail}",
            retry_in_s=None if result.is_poison else self._backoff.delay_s(state, visits, age_s),
        )
        if visit.block is not None:
            visit.block.missed.append(row)
            self._finish(visit.block)
            return
        self._due_out -= 1
        if not self._backoff.is_given_up(state, age_s) or failed:
            self._settled.again.append(row)
        elif state is State.MALFORMED:
            self._settled.rejected.append(row.instance_id)
        else:
            self._settled.missing.append(row)

    def _resolved(self, visit: Visit, *, is_raid: bool) -> None:
        if visit.block is None:
            self._due_out -= 1
            self._settled.resolved.append(visit.instance_id)
            return
        if is_raid:
            visit.block.raids += 1
        else:
            visit.block.non_raids += 1
        self._finish(visit.block)

    def _finish(self, block: OpenBlock) -> None:
        block.unfinished -= 1
        if block.unfinished == 0:
            del self._blocks[block.first_id]
            self._done.append(
                Done(block.first_id, block.raids, block.non_raids, tuple(block.missed))
            )
