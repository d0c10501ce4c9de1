"""The threads of one process and their common end; nothing about queues."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Threads:
    """Threads that end together: `stopping` is set by a signal, or by the first one that crashes.

    A crashed thread would leave a hole that nobody sees; the supervisor restarts a process.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.crashed = False

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        # Daemons: a handler that outlives the grace period must not hold the process.
        thread = threading.Thread(target=self._run, args=(name, target), name=name, daemon=True)
        thread.start()
        return thread

    def wait(self, seconds: float) -> bool:
        """Sleeps; True at once when the process stops."""
        return self.stopping.wait(seconds)

    def _run(self, name: str, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception:
            log.exception("Thread %s crashed", name, extra={"action": "thread_crashed"})
            self.crashed = True
            self.stopping.set()
