"""How far to step down after a throttle, and how to come back; without clock and without I/O.

Rules and numbers: docs/zeus.md, "When Bungie says stop".
"""

import math

HALF = 0.5
STEP = 0.1  # of the configured rate
STEP_S = 30.0
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 120.0
# A throttle that comes back so soon after the end of a pause is still the same one.
SAME_TROUBLE_S = 60.0

_LONG_AGO = -math.inf


class Ladder:
    """Pause, half the rate, and up again by a tenth every 30 s: an address, or a whole host."""

    __slots__ = ("_paused_at", "_slow", "paused_until")

    def __init__(self) -> None:
        self.paused_until = _LONG_AGO
        self._paused_at = _LONG_AGO
        self._slow = False

    def is_paused(self, now: float) -> bool:
        return now < self.paused_until

    def share(self, now: float) -> float:
        """Share of the configured rate that holds now, or after the pause: 0.5 to 1."""
        if not self._slow:
            return 1.0
        steps = max(now - self.paused_until, 0) // STEP_S
        share = HALF + STEP * steps
        if share < 1 - 1e-9:
            return share
        self._slow = False
        return 1.0

    def pause(self, now: float, seconds: float, sent_at: float) -> bool:
        """Pauses; False when the refused request was sent before this pause began.

        What was on its way then tells nothing new: it can lengthen the pause, counted from its
        beginning, but not begin another one.
        """
        if sent_at < self._paused_at:
            self.paused_until = max(self.paused_until, self._paused_at + seconds)
            return False
        self._paused_at = now
        self._slow = True
        self.paused_until = max(self.paused_until, now + seconds)
        return True


class Backoff(Ladder):
    """The ladder of all addresses together: 10 s at first, twice as long each time up to 120 s."""

    __slots__ = ("_length",)

    def __init__(self) -> None:
        super().__init__()
        self._length = 0.0

    def back_off(self, now: float, sent_at: float, least_s: float = 0.0) -> float:
        """Seconds of the pause that begins; 0 when the request was sent before the present one."""
        if sent_at < self._paused_at:
            self.pause(now, max(self._length, least_s), sent_at)
            return 0.0
        again = now - self.paused_until <= SAME_TROUBLE_S
        self._length = min(self._length * 2, LONGEST_PAUSE_S) if again else FIRST_PAUSE_S
        seconds = max(self._length, least_s)
        self.pause(now, seconds, sent_at)
        return seconds
