"""The search for the next populated block behind a hole too long to walk through.

Probes at growing distances, then a bisection between the last one that found nothing and the first
that found something. Existence is not monotone - there are holes in every block, and single ids
come early - so what is found must look like a block and what is jumped over like a hole, or nothing
is jumped. No I/O: whoever searches asks `next_ids` and tells `answered`.
Rules: docs/domain/crawl.md, "Gaps".
"""

from collections.abc import Generator, Iterable

DISTANCES = (*(1000 * 2**k for k in range(13)), 5_000_000)  # 1 000 to 4 096 000, and the farthest
NEIGHBOURS = 3
# Doubling alone would step over a block that is younger than the hole before it is long. So later
# searches of one silence also look at this many places spread evenly, each time at other ones:
# within 15 minutes of publication some place is inside, however long the hole.
_EVEN = 64
_GOLDEN = 0.6180339887  # multiples of it, modulo 1, fall evenly into what is left
# Shorter ones are walked, each id a row of missed_pgcr: runs of 15 680 are known, and a gap has to
# be swept afterwards.
SHORTEST = 20_000
# A block: so many of the ids behind its first one, this far apart, must be there.
_INSIDE = tuple(1 + 9 * k for k in range(12))
_MOST_MISSING = 6
# A hole: none of so many ids spread over it may be there.
_SPREAD = 32
_MOST_MOVES = 8  # of the edge, each to the first id found inside the hole
# Answers that say nothing about the id; then the API is ill and a later search may do better.
_MOST_FAILURES = 30

_Ask = Generator[list[int], frozenset[int], int | None]


class Search:
    """Looks behind `base`, the lowest id that nobody leased; ids from `ceiling` on are bogus.

    `turn` counts the searches before this one that found nothing.
    """

    def __init__(self, base: int, ceiling: int, turn: int = 0) -> None:
        self.base = base
        self.is_over = False
        self.found: int | None = None  # first id of the block to go on with
        self.asked = 0
        self._ceiling = ceiling
        self._turn = turn
        self._open: set[int] = set()
        self._there: set[int] = set()
        self._next: list[int] = []
        self._failures = 0
        self._steps = self._find()
        self._take(next(self._steps))

    def next_ids(self) -> list[int]:
        """Ids to ask now; each is given out once."""
        ids, self._next = self._next, []
        self.asked += len(ids)
        return ids

    def answered(self, instance_id: int, exists: bool | None) -> None:
        """`exists` is None when the answer did not tell; the id is asked again then."""
        if self.is_over or instance_id not in self._open:
            return
        if exists is None:
            self._failures += 1
            if self._failures > _MOST_FAILURES:
                self.is_over = True
            else:
                self._next.append(instance_id)
            return
        self._open.discard(instance_id)
        if exists:
            self._there.add(instance_id)
        if not self._open:
            self._go_on()

    def _go_on(self) -> None:
        there, self._there = frozenset(self._there), set()
        try:
            self._take(self._steps.send(there))
        except StopIteration as end:
            self.is_over, self.found = True, end.value

    def _take(self, ids: Iterable[int]) -> None:
        self._next = sorted({i for i in ids if i < self._ceiling})
        self._open = set(self._next)
        if not self._next:  # the ceiling is near
            self._go_on()

    # The steps: each yields ids and is sent those that are there.

    def _find(self) -> _Ask:
        places = self._places()
        there = yield [i for near in places for i in near]
        below = self.base - 1
        for near in places:
            hit = next((i for i in near if i in there), None)
            if hit is not None:
                start = yield from self._start(below, hit)
                if start is not None:
                    return start
            below = near[-1]
        return None

    def _places(self) -> list[range]:
        """Where to look, ascending; neighbours of a place share its fate but for single holes."""
        places = {self.base + distance: NEIGHBOURS for distance in DISTANCES}
        if self._turn:
            phase = self._turn * _GOLDEN % 1
            for k in range(_EVEN):
                places.setdefault(self.base + int(DISTANCES[-1] * (k + phase) / _EVEN), 1)
        return [range(first, first + size) for first, size in sorted(places.items())]

    def _start(self, below: int, hit: int) -> _Ask:
        """First id of the block that `hit` is in; None when it is in none."""
        for _ in range(_MOST_MOVES):
            low, high = below, hit
            while high - low > 1:
                middle = (low + high) // 2
                near = [i for i in range(middle, middle + NEIGHBOURS) if i < high]
                there = yield near
                if there:
                    high = min(there)
                else:
                    low = near[-1]
            inside = [high + n for n in _INSIDE]
            over = range(self.base, high)
            spread = [over[len(over) * k // _SPREAD] for k in range(_SPREAD if over else 0)]
            there = yield [*inside, *spread]
            earlier = [i for i in spread if i in there]
            if earlier:
                # Something lives in what would be jumped over: its edge comes first.
                hit = earlier[0]
                below = max((i for i in spread if i < hit), default=self.base - 1)
                continue
            missing = sum(i not in there for i in inside)
            return high if missing <= _MOST_MISSING else None
        return None
