"""The head of the id space: which 404 means "not published yet" and which one "not there".

Ids are published in bursts with silences of up to 40 minutes, and runs of 15 680 ids are known
that never came. So a 404 counts only below an id that is published; ids above the highest one
wait, and a few of them are asked again in growing intervals. docs/domain/crawl.md, "The head".
"""

from collections.abc import Callable, Iterable

from raidhub_dagster.storage.postgres import Rng
from streaming.atlas.visit import PAUSE_S, Visit

# So many ids above the highest published one may be unanswered before no new one is asked. Each is
# a 404 for nothing, so they follow the workers (two for three of them), who follow the share of
# 404s. But several, since neighbours are published in any order.
FEWEST_WAITING = 3
MOST_WAITING = 10
# Beyond the highest published id, new ids on their way when the head is met are 404s too. So their
# number grows slowly from that limit, by one for so many ids found: at most 1.6 % of a run is
# overshot, and the full pace is reached within seconds.
FOUND_FOR_ONE_MORE = 64
# Of those, so many are asked again in a round: the lowest, the highest and some between.
POLLED = 6
# Distances at which a round looks for published ids beyond a hole, three neighbours each: without
# them a hole longer than that would be taken for the head for ever.
PROBE_DISTANCES = tuple(16 * 2**k for k in range(11))  # 16 to 16 384
PROBE_NEIGHBOURS = 3
UNPROBED_ROUNDS = 2  # most silences are over by then
_LONGEST_S = 15.0


class Head:
    """The highest published id known and the ids that wait above it.

    `clock` is monotonic, in seconds; `scale` multiplies the intervals between rounds.
    """

    def __init__(
        self, resolved: int, *, clock: Callable[[], float], rng: Rng, scale: float = 1.0
    ) -> None:
        self.resolved = resolved
        self.limit = MOST_WAITING
        self._found = 0  # ids since the head was met
        self._clock = clock
        self._rng = rng
        self._scale = scale
        self._waiting: dict[int, Visit] = {}
        self._polled: set[int] = set()  # of the waiting ones: asked right now
        self._rounds = 0  # since the last id was published
        self.round_at = float("inf")

    def is_ahead(self, instance_id: int) -> bool:
        """True when no higher id is known to be published."""
        return instance_id > self.resolved

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_silent(self) -> bool:
        """True when enough ids wait: a further new one would only be one more 404."""
        return len(self._waiting) >= self.limit

    @property
    def run_ahead(self) -> int:
        """How many new ids may be on their way beyond the highest published one."""
        if self._waiting:
            return self.limit - len(self._waiting)
        return self.limit + self._found // FOUND_FOR_ONE_MORE

    def follow(self, workers: int) -> None:
        self.limit = min(max(workers * 2 // 3, FEWEST_WAITING), MOST_WAITING)

    def wait(self, visit: Visit) -> None:
        """Takes an id ahead that answered 404."""
        self._waiting[visit.instance_id] = visit
        if self.is_silent:  # a hole alone would not fill the limit
            self._found = 0
        self._polled.discard(visit.instance_id)
        if self.round_at == float("inf"):
            self._plan_round()

    def answered(self, instance_id: int) -> None:
        """The id waits no more, whatever it answered."""
        self._waiting.pop(instance_id, None)
        self._polled.discard(instance_id)

    def forget(self, ids: Iterable[int]) -> None:
        """These are no longer ours to ask."""
        for instance_id in ids:
            self.answered(instance_id)

    def waiting_visits(self) -> Iterable[Visit]:
        return self._waiting.values()

    def advance(self, instance_id: int) -> list[Visit]:
        """`instance_id` is published: returns the waiting ids that are now behind it, ascending."""
        if instance_id <= self.resolved:
            return []
        self._found += 1
        self.resolved = instance_id
        behind = sorted(i for i in self._waiting if i < instance_id)
        # Those asked right now come back with their answers.
        freed = [self._waiting.pop(i) for i in behind if i not in self._polled]
        for i in behind:
            self.answered(i)
        self._rounds = 0
        self._plan_round()
        return freed

    def round(self, highest_issued: int) -> tuple[list[Visit], list[Visit]]:
        """What to ask now that `round_at` has come: (ids that wait, probes beyond all of them)."""
        idle = sorted(i for i in self._waiting if i not in self._polled)
        step = max(1, -(-len(idle) // (POLLED - 1)))
        asked = sorted({*idle[::step], *idle[-1:]})
        self._polled.update(asked)
        beyond = max(self.resolved, highest_issued)
        distance = PROBE_DISTANCES[self._rounds % len(PROBE_DISTANCES)]
        probes = [Visit(beyond + distance + n, is_probe=True) for n in range(PROBE_NEIGHBOURS)]
        self._rounds += 1
        self._plan_round()
        is_long = self._rounds > UNPROBED_ROUNDS and self.is_silent
        return [self._waiting[i] for i in asked], probes if is_long else []

    def _plan_round(self) -> None:
        if not self._waiting:
            self.round_at = float("inf")
            return
        pause_s = min(PAUSE_S * 2 / 3 * 1.3**self._rounds, _LONGEST_S)
        self.round_at = self._clock() + pause_s * self._rng.uniform(0.8, 1.2) * self._scale
