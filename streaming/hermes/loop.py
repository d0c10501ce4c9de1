"""Repeats one bounded step for ever: the relay's two halves and the chores beside a topic."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from raidhub_dagster.errors import ConfigurationError, TransientError
from raidhub_dagster.messaging.connection import delays
from raidhub_dagster.storage.postgres import is_connection_lost
from streaming.hermes.threads import Threads

log = logging.getLogger(__name__)

# Longer than any step may take: the longest is one ClickHouse insert with its time-out.
_STUCK_AFTER_S = 600.0

# Does one bounded piece of work; True when there is more to do at once.
Step = Callable[[], bool]


class Loop:
    """Opens a step with connections of its own and opens it anew after each failure.

    Failures pause it for 1 s, doubling to `longest_s`; `idle_s` is the pause when all is done.
    """

    def __init__(
        self,
        name: str,
        open_step: Callable[[], AbstractContextManager[Step]],
        threads: Threads,
        *,
        idle_s: float,
        first_s: float = 1.0,
        longest_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._open_step = open_step
        self._threads = threads
        self._idle_s = idle_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._clock = clock
        self._alive_at = clock()
        self._problem: str | None = "not started yet"

    def run(self) -> None:
        """Returns once the process stops, at the end of the present step."""
        pauses = delays(self._first_s, self._longest_s)
        while not self._threads.stopping.is_set():
            try:
                with self._open_step() as step:
                    while not self._threads.stopping.is_set():
                        has_more = step()
                        self._alive_at, self._problem = self._clock(), None
                        pauses = delays(self._first_s, self._longest_s)
                        if not has_more:
                            self._threads.wait(self._idle_s)
            except Exception as error:
                self._alive_at, self._problem = self._clock(), f"{type(error).__name__}: {error}"
                pause_s = next(pauses)
                ours = TransientError | ConfigurationError
                expected = isinstance(error, ours) or is_connection_lost(error)
                log.warning(
                    "%s failed: %s; next try in %.0f s",
                    self.name,
                    error,
                    pause_s,
                    exc_info=not expected,
                    extra={"action": "step_failed", "step": self.name, "retry_s": pause_s},
                )
                self._threads.wait(pause_s)

    def hangs(self) -> str | None:
        """For /livez: that no step ends."""
        silent_s = self._clock() - self._alive_at
        return f"no step ended for {silent_s:.0f} s" if silent_s > _STUCK_AFTER_S else None

    def problem(self) -> str | None:
        """For /healthz: why the last step failed, or that it hangs."""
        return self.hangs() or self._problem
