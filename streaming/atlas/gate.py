"""Whether the API may be asked at all: closed by maintenance, throttling, a refused key, outages.

When the pause is over exactly one fetch is let through. Its answer opens the gate or closes it for
twice as long, so that 25 workers never fall upon an API that is still ill.
"""

from collections import deque
from collections.abc import Callable

LONGEST_S = 120.0
# What the API's own list of systems says holds so long: twice the time between two looks and some,
# so that a list nobody can read any more does not keep the gate shut for ever.
_HOLD_S = 180.0


class Gate:
    """Open at first. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: float | None = None
        self._pause_s = 0.0
        self._trial = False  # the one fetch is on its way
        self._is_maintenance = False
        self.reason = ""

    @property
    def is_open(self) -> bool:
        return self._until is None

    @property
    def until(self) -> float:
        """When the next fetch may be tried by the clock; infinity while the trial is on its way."""
        if self._trial:
            return float("inf")
        return 0.0 if self._until is None else self._until

    def lets_through(self) -> bool:
        """True when a fetch may start now."""
        return self._until is None or (not self._trial and self._clock() >= self._until)

    def enter(self) -> bool:
        """Counts a fetch as started; True when it is the trial."""
        self._trial = self._until is not None
        return self._trial

    def close(
        self,
        reason: str,
        pause_s: float,
        *,
        trial: bool,
        longest_s: float = LONGEST_S,
        is_maintenance: bool = False,
    ) -> None:
        """Closes for `pause_s`, or twice the last pause (at most `longest_s`) after a failed trial.

        Answers to fetches that were on their way when the gate closed only prolong the pause.
        """
        now = self._clock()
        if self._until is None:
            self._pause_s = pause_s
        elif trial:
            self._pause_s = max(pause_s, min(2 * self._pause_s, longest_s))
        else:
            self._until = max(self._until, now + pause_s)
            return
        self._until = now + self._pause_s
        self._trial = False
        self._is_maintenance = is_maintenance
        self.reason = reason

    def hold(self, reason: str, pause_s: float) -> None:
        """The API's own list says that what we need is off; call again with every look at it."""
        self._pause_s = pause_s
        self._until = self._clock() + _HOLD_S
        self._is_maintenance = True
        self.reason = reason

    def end_maintenance(self) -> None:
        """The list says that all is on: one fetch may find out at once whether that is true."""
        if self._until is not None and self._is_maintenance and not self._trial:
            self._until = min(self._until, self._clock())

    def open(self) -> None:
        self._until = None
        self._trial = False
        self._is_maintenance = False
        self.reason = ""


class Throttles:
    """Tells one throttled source address or key from an API that throttles everybody.

    Behind zeus every address and key has its own limit, and zeus rests the one that was refused;
    so a single refusal says nothing about the next fetch.
    """

    _LOOK_BACK = 16

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=self._LOOK_BACK)
        self._refused = 0

    def count(self, refused: bool) -> None:
        if len(self._last) == self._LOOK_BACK:
            self._refused -= self._last[0]
        self._last.append(refused)
        self._refused += refused

    @property
    def are_most(self) -> bool:
        """True when more than half of the last 16 answers are refusals."""
        return self._refused > self._LOOK_BACK // 2

    def forget(self) -> None:
        self._last.clear()
        self._refused = 0
