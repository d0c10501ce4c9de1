"""The sweep of ranges that were jumped over: samples, then every id near those that are there.

A gap is swept in rounds, 20 hours apart, each with other samples, until a week has passed: reports
may come days late, and a block of them may be shorter than the distance of two samples. Rules:
docs/domain/crawl.md, "Recovery".
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import MaintenanceError, PermanentError
from raidhub_dagster.recovery.backlog import Backlog, Tell, closed_gate, newest_tried
from raidhub_dagster.recovery.outcomes import Outcomes, Publisher, Tally
from raidhub_dagster.recovery.visits import Visited, Visitors
from raidhub_dagster.storage import gaps
from raidhub_dagster.storage.gaps import Gap
from raidhub_dagster.storage.ledger import Block

SOURCE = "pgcr_gaps"
STEP = 100  # between two samples
# Dealt with before the next step is written down: a hundred samples, at most a few minutes.
CHUNK = 100 * STEP
LONGEST = 200_000  # ids of a gap that is swept without being asked to
MARGIN = 1000  # on both sides of a missed id
AGAIN_S = 20 * 3600.0  # between two rounds; eight fit into a week, five must be
# Of the samples of two rounds; prime to STEP, so that a week's rounds spread evenly.
_SHIFT = 37
_TOLD_EVERY_S = 60.0


@dataclass
class Swept:
    """What one run did; `stopped` says why it ended early, "" when it came to the end."""

    tally: Tally = field(default_factory=Tally)
    sampled: int = 0
    around: list[Block] = field(default_factory=list)  # new ranges around missed ids
    rounds: int = 0  # that came to their end
    done: int = 0  # gaps that did
    too_long: list[Gap] = field(default_factory=list)
    stopped: str = ""


def look(connection: Connection, ceiling: int) -> Backlog:
    """Gaps that a run would sweep, and whether the API is known to be switched off."""
    listed = gaps.list_open(connection, until=newest_tried(connection, ceiling), again_s=AGAIN_S)
    return Backlog(sum(gap.size <= LONGEST for gap in listed), closed_gate(connection))


def sweep_gaps(
    connection: Connection,
    publisher: Publisher,
    visitors: Visitors,
    *,
    ceiling: int,
    force: bool = False,
    around_missed: bool = True,
    longest: int = LONGEST,
    limit_s: float = 3000.0,
    again_s: float = AGAIN_S,
    over_s: float = gaps.OVER_AFTER_S,
    tell: Tell = lambda _tally: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Swept:
    """Sweeps every gap whose time has come; those longer than `longest` only with `force`.

    Each step is written down, so that a killed run goes on where it was; the ids of its last step
    are asked for again, which is harmless. Maintenance and `limit_s` end the run in order. Raises
    UnavailableError when the API answers nobody, BrokerError, psycopg2.Error.
    """
    swept = Swept()
    until = newest_tried(connection, ceiling, force=force)
    if around_missed:
        # Never near the head: to the crawl the end of a gap is an id that is known to be there.
        behind = newest_tried(connection, ceiling)
        swept.around = gaps.add_around_missed(
            connection, margin=MARGIN, until=behind, source=SOURCE
        )
    ends_at = clock() + limit_s
    sweep = _Sweep(connection, publisher, visitors, swept, tell, clock, sleep)
    try:
        for gap in gaps.list_open(connection, until=until, again_s=again_s):
            if gap.size > longest and not force:
                swept.too_long.append(gap)
                continue
            for _ in sweep.round(gap):
                if clock() >= ends_at:
                    swept.stopped = f"{limit_s:.0f} s were over"
                    return swept
            swept.rounds += 1
            swept.done += gaps.end_round(connection, gap.id, over_s)
    except MaintenanceError as error:
        swept.stopped = f"maintenance: {error}"
    return swept


def refuse_too_long(swept: Swept) -> None:
    """Raises PermanentError naming the gaps that need a person's word. To be called at the end."""
    if swept.too_long:
        named = ", ".join(f"{g.first_id} to {g.last_id} ({g.size} ids)" for g in swept.too_long[:5])
        raise PermanentError(
            f"{len(swept.too_long)} gaps are longer than {LONGEST} ids: {named}. "
            "Nothing of them was asked for; run recovery_gaps_job with force: true",
            {"gaps": len(swept.too_long), "ids": sum(g.size for g in swept.too_long)},
        )


class _Sweep:
    """The steps of rounds, one gap after the other."""

    def __init__(
        self,
        connection: Connection,
        publisher: Publisher,
        visitors: Visitors,
        swept: Swept,
        tell: Tell,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._visitors = visitors
        self._swept = swept
        self._tell = tell
        self._clock = clock
        self._told_at = clock()
        self._outcomes = Outcomes(connection, publisher, source=SOURCE, sleep=sleep)

    def round(self, gap: Gap) -> Iterator[None]:
        """Deals with the gap from its position to its end; yields after each step written down."""
        gaps.begin(self._connection, gap.id)
        known = gaps.read_swept(self._connection, gap.id)
        position = gap.first_id if gap.position is None else gap.position
        while position <= gap.last_id:
            end = min(position + CHUNK, gap.last_id + 1)
            samples = without(_samples(gap, position, end), known)
            there = self._ask(samples, keep_missing=False)
            stretches = subtract(_stretches(gap, there), known)
            rest = (i for s in stretches for i in range(s.first_id, s.last_id + 1))
            found = self._ask([i for i in rest if i not in there], keep_missing=True)
            gaps.advance(
                self._connection,
                gap.id,
                position=end,
                sampled=len(samples),
                found=len(there) + len(found),
                swept=stretches,
            )
            self._swept.sampled += len(samples)
            known = sorted([*known, *stretches])
            position = end
            yield

    def _ask(self, ids: Collection[int], *, keep_missing: bool) -> set[int]:
        """Those of `ids` that are published; what is known of others is in the ledger then.

        A 404 of a sample leaves no row: the gap remembers it.
        """
        there = gaps.find_stored(self._connection, ids)
        skipped = there | gaps.find_missed(self._connection, ids)
        for visited in self._visitors.each(i for i in ids if i not in skipped):
            fates = self._outcomes.settle(visited, {}, keep_missing=keep_missing)
            self._swept.tally.add(fates)
            there.update(v.instance_id for v in visited if _exists(v))
            if self._clock() - self._told_at >= _TOLD_EVERY_S:
                self._told_at = self._clock()
                self._tell(self._swept.tally)
        return there


def _exists(visit: Visited) -> bool:
    return bool(visit.fetched.result.exists)


def _samples(gap: Gap, first_id: int, end: int) -> Iterable[int]:
    """Every STEP-th id of `first_id` to `end` (excluded), in each round others."""
    phase = (gap.first_id + gap.rounds * _SHIFT - first_id) % STEP
    return range(first_id + phase, end, STEP)


def _stretches(gap: Gap, there: Iterable[int]) -> list[Block]:
    """The ids around those that are there, up to the next samples, joined where they touch."""
    found: list[Block] = []
    for i in sorted(there):
        first_id, last_id = max(i - STEP + 1, gap.first_id), min(i + STEP - 1, gap.last_id)
        if found and first_id <= found[-1].last_id + 1:
            found[-1] = Block(found[-1].first_id, last_id)
        else:
            found.append(Block(first_id, last_id))
    return found


def without(ids: Iterable[int], parts: Collection[Block]) -> list[int]:
    """Those of `ids` (ascending) that lie in none of `parts` (ascending, not overlapping)."""
    rest: list[int] = []
    ahead = iter(parts)
    part = next(ahead, None)
    for i in ids:
        while part is not None and part.last_id < i:
            part = next(ahead, None)
        if part is None or i < part.first_id:
            rest.append(i)
    return rest


def subtract(blocks: Iterable[Block], parts: Collection[Block]) -> list[Block]:
    """`blocks` without what lies in `parts` (ascending, not overlapping)."""
    rest: list[Block] = []
    for first_id, last_id in blocks:
        for part in parts:
            if part.last_id < first_id or part.first_id > last_id:
                continue
            if part.first_id > first_id:
                rest.append(Block(first_id, part.first_id - 1))
            first_id = part.last_id + 1
        if first_id <= last_id:
            rest.append(Block(first_id, last_id))
    return rest
