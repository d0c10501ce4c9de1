"""Ids that left their block unresolved: six more tries from memory before the table has them alone.

Each has its row in missed_pgcr from the moment it leaves the block, claimed for as long as the
tries take; so a death loses nothing. Rules: docs/domain/crawl.md, "Offload".
"""

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from math import floor

from raidhub_dagster.storage.postgres import Rng
from streaming.atlas.visit import Visit

ROOM = 2000  # ids; the others wait in the table. About 1 kB each
TRIES = 6
WARNED_AFTER = 3
_FIRST_PAUSE_S = 15.0
# The longest way through all tries takes 631 s; after this the row is due for anybody.
CLAIM_S = 900.0


def pause_s(tries: int, rng: Rng) -> float:
    """Seconds before the next try: 15 after none, then i * (2i + one of 0 to 5i - 1)."""
    if tries == 0:
        return _FIRST_PAUSE_S
    return float(tries * (2 * tries + floor(rng.uniform(0, 5 * tries - 1e-9))))


class Offload:
    """`clock` is monotonic, in seconds; `scale` multiplies every pause."""

    def __init__(self, *, clock: Callable[[], float], rng: Rng, scale: float) -> None:
        self._clock = clock
        self._rng = rng
        self._scale = scale
        self._resting: list[tuple[float, int, Visit]] = []
        self._order = count()
        self._since: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._since)

    def __contains__(self, instance_id: int) -> bool:
        return instance_id in self._since

    def __iter__(self) -> Iterator[Visit]:
        """Those that rest."""
        return (visit for _, _, visit in self._resting)

    @property
    def has_room(self) -> bool:
        return len(self._since) < ROOM

    @property
    def next_at(self) -> float:
        return self._resting[0][0] if self._resting else float("inf")

    def take(self, visit: Visit) -> None:
        """A new one; its first try comes after 15 s."""
        self._since[visit.instance_id] = self._clock()
        self.rest(visit, pause_s(0, self._rng) * self._scale)

    def rest(self, visit: Visit, seconds: float) -> None:
        at = self._clock() + seconds
        heapq.heappush(self._resting, (at, next(self._order), visit))

    def failed(self, visit: Visit) -> float | None:
        """Counts a try that resolved nothing; seconds since the first one when it was the last."""
        tries = visit.offloaded = (visit.offloaded or 0) + 1
        if tries >= TRIES:
            return self.leave(visit.instance_id)
        self.rest(visit, pause_s(tries, self._rng) * self._scale)
        return None

    def elapsed_s(self, instance_id: int) -> float:
        return self._clock() - self._since[instance_id]

    def leave(self, instance_id: int) -> float:
        """The id is resolved or left to the table; seconds that it was here."""
        return self._clock() - self._since.pop(instance_id)

    def next(self, now: float) -> Visit | None:
        """One whose pause is over."""
        if self._resting and self._resting[0][0] <= now:
            return heapq.heappop(self._resting)[2]
        return None

    def clear(self) -> None:
        self._resting.clear()
        self._since.clear()
