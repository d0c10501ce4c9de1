"""Whether the API may be asked at all: closed by maintenance, throttling, a refused key, outages.

When the pause is over exactly one fetch is let through. Its answer opens the gate or closes it for
twice as long, so that 25 workers never fall upon an API that is still ill.
"""

from collections.abc import Callable


class Gate:
    """Open at first. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float], longest_s: float = 120.0) -> None:
        self._clock = clock
        self._longest_s = longest_s
        self._until: float | None = None
        self._pause_s = 0.0
        self._trial = False  # the one fetch is on its way
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

    def close(self, reason: str, pause_s: float, *, trial: bool) -> None:
        """Closes for `pause_s`, or twice the last pause (at most `longest_s`) after a failed trial.

        Answers to fetches that were on their way when the gate closed only prolong the pause.
        """
        now = self._clock()
        if self._until is None:
            self._pause_s = pause_s
        elif trial:
            self._pause_s = max(pause_s, min(2 * self._pause_s, self._longest_s))
        else:
            self._until = max(self._until, now + pause_s)
            return
        self._until = now + self._pause_s
        self._trial = False
        self.reason = reason

    def open(self) -> None:
        self._until = None
        self._trial = False
        self.reason = ""
