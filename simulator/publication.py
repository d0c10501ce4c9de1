"""When an id can be read: the head of publication, its bursts and silences.

Times are Unix seconds. The head is a function of the clock, as at Bungie's: a restart with the
same epoch continues where it would have been. It can also be held and moved by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor

from simulator import chance


@dataclass(frozen=True)
class Schedule:
    """How the head advances. Without bursts and silences it follows the rate exactly."""

    epoch: float
    rate: float  # ids a second on average
    first_id: int
    burst_s: float = 5.0  # what was played in one such span is published together, 0: at once
    flood: float = 0.4  # share of a span that its publication takes
    silence_every_s: float = 600.0  # one silence in each such span, 0: none
    silence_s: float = 20.0  # afterwards the head catches up at three times the rate

    def head(self, now: float) -> int:
        """The newest published id at `now`."""
        played = self._burst(self._after_silence(now - self.epoch))
        return self.first_id + floor(played * self.rate)

    def published_at(self, instance_id: int) -> float:
        """The time from which `head` is at least `instance_id`."""
        played = (instance_id - self.first_id) / self.rate
        if self.burst_s:
            span = floor(played / self.burst_s)
            share = played / self.burst_s - span
            played = (span + 1 + share * self.flood) * self.burst_s
        silence = self._silence(played)
        if silence <= played <= silence + 1.5 * self.silence_s:
            played = silence + self.silence_s + (played - silence) / 3
        return self.epoch + played

    def _silence(self, elapsed: float) -> float:
        """Start of the silence of the span that `elapsed` lies in; it ends within the span."""
        if not self.silence_every_s:
            return float("inf")
        span = floor(elapsed / self.silence_every_s)
        room = max(self.silence_every_s - 1.5 * self.silence_s, 0.0)
        return span * self.silence_every_s + room * chance.unit(chance.key(0, "silence"), span)

    def _after_silence(self, elapsed: float) -> float:
        silence = self._silence(elapsed)
        if elapsed <= silence:
            return elapsed
        return min(elapsed, silence + max(0.0, 3 * (elapsed - silence - self.silence_s)))

    def _burst(self, elapsed: float) -> float:
        if not self.burst_s:
            return elapsed
        span = floor(elapsed / self.burst_s)
        share = elapsed / self.burst_s - span
        return (span - 1 + min(1.0, share / self.flood)) * self.burst_s


class Publication:
    """The head now: by schedule, or held where somebody put it."""

    def __init__(
        self, schedule: Schedule, clock: Callable[[], float], held: int | None = None
    ) -> None:
        self._schedule, self._clock = schedule, clock
        self.held: int | None = None
        self._moves: list[tuple[float, int]] = []  # when the head was put where, ascending ids
        if held is not None:
            self.hold(held)

    @property
    def head(self) -> int:
        if self.held is not None:
            return self.held
        moved = self._moves[-1][1] if self._moves else self._schedule.first_id - 1
        return max(moved, self._schedule.head(self._clock()))

    def hold(self, head: int) -> None:
        """Puts the head at `head` until somebody moves or releases it. ValueError: backwards."""
        now = self._clock()
        if self._moves and head < self.head:
            raise ValueError(f"the head is at {self.head} and never goes back")
        self._moves.append((now, head))
        self.held = head

    def release(self) -> None:
        """Back to the schedule, which starts from the held head when it is behind it."""
        self.held = None

    def published_at(self, instance_id: int) -> float:
        """When an id up to the head became readable."""
        for when, head in self._moves:
            if instance_id <= head:
                return when
        return self._schedule.published_at(instance_id)
