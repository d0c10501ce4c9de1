"""A token bucket that never lets the server's own bucket run over; without clock and without I/O.

Times are seconds of any clock that does not go back; the caller brings them.
"""

import math

# The server counts requests as they arrive, and they do not arrive as they were sent: a new
# connection costs some round trips, a used one none. Requests sent over a span S can arrive
# within S - 0.25 s, so the bucket keeps what its rate brings in 0.25 s out of the burst: 10 of 90
# tokens at 40/s. The rate itself is not touched.
JITTER_S = 0.25
# A token that arithmetic left short by a rounding error is one.
_WHOLE = 1 - 1e-9


class Bucket:
    """`rate` tokens a second, at most `burst` less the reserve at once; a rate of 0 is no limit.

    It begins empty: the process before may just have spent everything that the server grants.
    """

    __slots__ = ("_now", "_rate", "_share", "_tokens", "capacity", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.capacity = max(burst - rate * JITTER_S, 1.0)
        self._rate = rate
        self._share = 1.0
        self._tokens = 0.0
        self._now = now

    def take(self, now: float) -> bool:
        """Takes a token when there is one."""
        if not self.rate:
            return True
        self._settle(now)
        if self._tokens < _WHOLE:
            return False
        self._tokens -= 1
        return True

    def ready_at(self, now: float) -> float:
        """When the next token is there, at `now` or later."""
        if not self.rate:
            return now
        self._settle(now)
        missing = 1 - self._tokens
        return now if self._tokens >= _WHOLE else self._now + missing / self._rate

    def inflow(self, now: float, when: float) -> float:
        """Tokens that can be taken from `now` to `when` by somebody who takes each at once."""
        if not self.rate:
            return math.inf
        self._settle(now)
        return self._tokens + max(when - self._now, 0) * self._rate

    def slow_to(self, share: float, now: float) -> None:
        """From `now` on tokens come at this share (0..1] of the rate."""
        if share != self._share:
            self._settle(now)
            self._share, self._rate = share, self.rate * share

    def empty(self, until: float) -> None:
        """No token until then: a pause must not end in a burst."""
        self._tokens = 0.0
        self._now = max(self._now, until)

    def _settle(self, now: float) -> None:
        if now > self._now:
            self._tokens = min(self._tokens + (now - self._now) * self._rate, self.capacity)
            self._now = now
