"""How many reports are fetched at the same time: three regimes that aim at 2.5 % of 404s.

That share is what riding just behind the newest id costs: fewer workers fall behind, more only run
into ids that are not there yet. Laws and examples: docs/domain/crawl.md, "Workers".
"""

from enum import StrEnum
from math import ceil
from typing import NamedTuple

from streaming.atlas.window import Sight

TARGET_SHARE = 0.025
FIRST_BLOCK = 10_000
_PROBE_WORKERS = 25
_PROBE_BLOCK = 2500
_BEHIND_S = 600.0  # so far behind the head 404s do not matter
_AT_HEAD_S = 20  # a report is that old when it is published
_LARGEST_STEP = 0.65


class Mode(StrEnum):
    PROBE = "probe"
    CATCH_UP = "catch-up"
    FINE_TUNE = "fine-tune"


class Bounds(NamedTuple):
    """Fewest and most workers."""

    least: int
    most: int

    def clamp(self, workers: int) -> int:
        return min(max(workers, self.least), self.most)


class Step(NamedTuple):
    mode: Mode
    workers: int
    block: int  # ids that a lease should hold at most


def law(sight: Sight, workers: int, bounds: Bounds) -> Step:
    """What the regimes make of `workers`."""
    share = sight.not_found_share
    if share > 0.5:
        return Step(Mode.PROBE, bounds.clamp(_PROBE_WORKERS), _PROBE_BLOCK)
    if share < 0.001 or sight.lag_s >= _BEHIND_S:
        lag_s = max(sight.lag_s, _AT_HEAD_S)
        grown = ceil(workers * (1 + (lag_s - _AT_HEAD_S) / 100))
        block = round((max(workers, bounds.least) * (ceil(lag_s) - _AT_HEAD_S)) ** 0.824)
        return Step(Mode.CATCH_UP, bounds.clamp(grown), max(block, FIRST_BLOCK))
    off = share - TARGET_SHARE
    change = min((687 * abs(off)) ** 0.88 / 100, _LARGEST_STEP)
    tuned = bounds.clamp(round(workers - (change if off > 0 else -change) * workers))
    if not sight.resolved:
        return Step(Mode.FINE_TUNE, tuned, 600 * tuned)
    block = round((100 if share >= 0.075 else 300) * sight.resolved_per_s)
    return Step(Mode.FINE_TUNE, tuned, max(block, 1))


class Scaling:
    """The present number of workers. A silence of the head changes it for its own time only."""

    def __init__(self, workers: int, bounds: Bounds) -> None:
        self.workers = workers
        self.mode = Mode.CATCH_UP
        self.block = FIRST_BLOCK
        self._bounds = bounds
        self._before: int | None = None  # workers before the silence that lasts now

    def evaluate(self, sight: Sight, *, is_silent: bool) -> None:
        """Applies the law to the last minutes; `is_silent`: the head gave nothing since before.

        Without an answer about any id nothing changes: an outage says nothing about the pace, and
        250 workers would fall upon an API that just came back.
        """
        if not sight.resolved and not sight.not_found:
            return
        if not is_silent:
            self.mode, self.workers, self.block = law(sight, self.workers, self._bounds)
            return
        if self._before is None:
            self._before = self.workers
        step = law(sight, self.workers, self._bounds)
        if step.mode is Mode.PROBE:  # else the 404s of a silence would look like a high pace
            self.mode, self.workers, self.block = step

    def resolved(self) -> None:
        """An id was resolved: a silence is over, and the pace before it was right."""
        if self._before is not None:
            self.workers, self._before = self._before, None
