"""Stops a topic that would park too much: a bad release must not empty a queue into the parking.

Source: docs/domain/queues.md, "Failures".
"""

import threading
from collections import deque

WINDOW = 200  # of the last messages that came to an end
SHARE = 0.20  # of them parked, at most
# Before so many nothing is judged: three bad messages right after a start are no bad release. A
# release that fails at everything parks one less than these.
LEAST = 40


class Breaker:
    """Counts how messages of one topic ended; used by all its slots. Once open it stays so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: deque[bool] = deque(maxlen=WINDOW)  # True: parked
        self._is_open = False
        self.parked = 0  # by this process, in all

    @property
    def is_open(self) -> bool:
        return self._is_open

    def count(self, *, parked: bool) -> None:
        """One message came to its end. Retries and postponements are none."""
        with self._lock:
            self._ends.append(parked)
            self.parked += parked

    def may_park(self) -> bool:
        """Whether one more may be parked; the first time not, the breaker opens."""
        with self._lock:
            considered = [*self._ends, True][-WINDOW:]
            if len(considered) >= LEAST and sum(considered) > SHARE * len(considered):
                self._is_open = True
            return not self._is_open
