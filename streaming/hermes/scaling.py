"""How many workers a topic has: the law alone, without queue, thread or clock.

Source: docs/domain/queues.md, "Scaling".
"""

from streaming.hermes.topic import Limits, Scaling


class Scaler:
    """The workers of one topic. Every `now` is in seconds of one clock that never goes back."""

    def __init__(self, limits: Limits, law: Scaling, now: float) -> None:
        self.workers = limits.desired
        self._limits = limits
        self._law = law
        self._high = 0  # checks in a row that found the queue long
        self._low = 0
        self._checked_at = now
        self._stepped_at: float | None = None

    def is_due(self, now: float) -> bool:
        """True when the depth has to be looked at: once an interval.

        After a step only the cooldown counts: the checks in a row were waited for already, and a
        queue that was long enough for one step mostly needs several.
        """
        due_at = self._checked_at + self._law.check_every_s
        if self._stepped_at is not None and self._stepped_at == self._checked_at:
            due_at = min(due_at, self._stepped_at + self._law.cooldown_s)
        return now >= due_at

    def check(self, depth: int, now: float, *, floor: int) -> int:
        """Looks at the messages that wait; by how many workers the number changed."""
        law = self._law
        self._checked_at = now
        self._high = min(self._high + 1, law.checks_up) if depth > law.up_depth else 0
        self._low = min(self._low + 1, law.checks_down) if depth < law.down_depth else 0
        if self._stepped_at is not None and now < self._stepped_at + law.cooldown_s:
            return 0
        if self._high == law.checks_up:
            return self._move(self.workers + self._step(law.up_share), now, floor)
        if self._low == law.checks_down:
            return self._move(self.workers - self._step(law.down_share), now, floor)
        return 0

    def raise_to(self, floor: int, now: float) -> int:
        """At least `floor` workers at once; by how many the number changed."""
        return self._move(max(self.workers, floor), now, floor)

    def rest(self, now: float) -> None:
        """For times when nothing is consumed: a queue that may not shrink says nothing."""
        self._checked_at = now
        self._high = self._low = 0

    def _step(self, share: float) -> int:
        # The tiny addend: 0.29 * 100 is 28.999... in floating point.
        wanted = int(self.workers * share + 1e-9)
        return min(max(wanted, self._law.least_step), self._law.most_step)

    def _move(self, workers: int, now: float, floor: int) -> int:
        change = min(max(workers, floor, self._limits.minimum), self._limits.maximum) - self.workers
        if change:
            self.workers += change
            self._stepped_at = now
        return change
