"""When a figure is worth a message: an episode is told when it begins, worsens and is over.

Two limits lie apart, so that a figure that swings about one of them tells nothing. The state is a
few numbers that the caller keeps; what is measured, and what the messages say, is the caller's too.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from raidhub_dagster.discord.alerts import Alert


class Limit(NamedTuple):
    """An episode begins at the first of `levels` (ascending), each further one is told once.

    It is over at `over_at` or below, which lies under the first level.
    """

    levels: tuple[float, ...]
    over_at: float

    def level(self, value: float, before: int) -> int:
        """0 outside an episode, else the highest level that it reached so far."""
        if before and value <= self.over_at:
            return 0
        return max(before, sum(value >= level for level in self.levels))


class Reading(NamedTuple):
    """A figure of now, and what is told of its episode."""

    name: str  # of the episode, unique among the caller's
    value: float
    limit: Limit
    begun: Alert
    over: Alert


def follow(
    levels: Mapping[str, int], readings: Iterable[Reading], send: Callable[[Alert], object]
) -> dict[str, int]:
    """Sends what changed since `levels`, and returns the levels of now.

    An episode without a reading stays as it is: who could not look knows nothing of its end.
    """
    now = dict(levels)
    for reading in readings:
        before = now.pop(reading.name, 0)
        level = reading.limit.level(reading.value, before)
        if level > before:
            send(reading.begun)
        elif before and not level:
            send(reading.over)
        if level:
            now[reading.name] = level
    return now
