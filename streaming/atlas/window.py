"""What the crawl saw in the last four minutes; the scaling laws and the search for gaps look at it.

Source: docs/domain/crawl.md, "Workers".
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from raidhub_dagster.bungie.protocol import ResultKind

LONGEST_S = 240.0
SHORTEST_S = 60.0  # a rate over less than that says little
LAG_S = 900.0  # where no report told one
_ERRORS = frozenset({ResultKind.BAD_FORMAT, ResultKind.EXTERNAL_ERROR, ResultKind.RATE_LIMITED})
_RESOLVED = frozenset({ResultKind.SUCCESS, ResultKind.NON_RAID})


class Sight(NamedTuple):
    """One look at the window."""

    asked: int  # answers that say something about ids or the API; maintenance says neither
    not_found: int
    not_found_share: float
    error_share: float
    lag_s: float  # 20th percentile
    resolved: int
    resolved_per_s: float
    is_silent: bool  # nothing was resolved since the look before this one


class _Slice:
    __slots__ = ("asked", "ended", "errors", "lags", "not_found", "resolved")

    def __init__(self) -> None:
        self.ended = 0.0
        self.asked = self.not_found = self.errors = self.resolved = 0
        # By whole seconds: 3 000 answers a second for 4 minutes would be 700 000 numbers.
        self.lags: Counter[int] = Counter()


class Window:
    """Counts since the last look form a slice; slices older than the window are forgotten."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._present = _Slice()
        self._past: deque[_Slice] = deque()

    def add(self, kind: ResultKind, lag_s: float | None) -> None:
        """Counts an answer; `lag_s` of a resolved id, None where the report does not tell."""
        if kind is ResultKind.SYSTEM_DISABLED:
            return
        present = self._present
        present.asked += 1
        if kind in _RESOLVED:
            present.resolved += 1
            if lag_s is not None:
                present.lags[int(lag_s)] += 1
        elif kind is ResultKind.NOT_FOUND:
            present.not_found += 1
        elif kind in _ERRORS:
            present.errors += 1

    def look(self) -> Sight:
        """The sums over the window; what comes now belongs to the next slice."""
        now = self._clock()
        is_silent = not self._present.resolved
        self._present.ended = now
        self._past.append(self._present)
        self._present = _Slice()
        while self._past[0].ended <= now - LONGEST_S:
            self._past.popleft()
        asked = sum(s.asked for s in self._past)
        not_found = sum(s.not_found for s in self._past)
        resolved = sum(s.resolved for s in self._past)
        seconds = min(max(now - self._began, SHORTEST_S), LONGEST_S)
        return Sight(
            asked=asked,
            not_found=not_found,
            not_found_share=not_found / asked if asked else 0.0,
            error_share=sum(s.errors for s in self._past) / asked if asked else 0.0,
            lag_s=_percentile(self._past),
            resolved=resolved,
            resolved_per_s=resolved / seconds,
            is_silent=is_silent,
        )


def _percentile(slices: deque[_Slice]) -> float:
    lags: Counter[int] = Counter()
    for part in slices:
        lags.update(part.lags)
    rank = lags.total() // 5
    for lag_s in sorted(lags):
        rank -= lags[lag_s]
        if rank < 0:
            return float(lag_s)
    return LAG_S
