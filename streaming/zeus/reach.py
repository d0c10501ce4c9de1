"""Whether a host answers at all: a line when it stops, and one when it is back."""

import logging
from collections.abc import Callable

from streaming.zeus.traffic import Host

log = logging.getLogger(__name__)

# Single losses are everyday: so many in a row are an outage.
IN_A_ROW = 10
REMINDER_S = 60.0


class Reach:
    """Follows the requests to one host."""

    def __init__(self, host: Host, clock: Callable[[], float]) -> None:
        self._host = host
        self._clock = clock
        self._failures = 0  # since the last answer
        self._since = 0.0
        self._told_at: float | None = None
        self._kind = ""

    @property
    def problem(self) -> str | None:
        """None unless the host is out of reach."""
        if self._failures < IN_A_ROW:
            return None
        seconds = self._clock() - self._since
        return f"no answer for {seconds:.0f} s: {self._kind}"

    def answered(self) -> None:
        """Anything came: an answer of whatever kind."""
        if not self._failures:
            return
        if self._told_at is not None:
            log.info(
                "The %s host answers again after %.0f s",
                self._host,
                self._clock() - self._since,
                extra={"action": "zeus_host_reached", "failures": self._failures},
            )
        self._failures, self._told_at = 0, None

    def failed(self, kind: str) -> None:
        """Nothing came; `kind` is a name without secrets."""
        now = self._clock()
        if not self._failures:
            self._since = now
        self._failures += 1
        self._kind = kind
        if self._failures < IN_A_ROW:
            return
        if self._told_at is None or now - self._told_at >= REMINDER_S:
            self._told_at = now
            log.warning(
                "The %s host does not answer, %d requests in a row: %s",
                self._host,
                self._failures,
                kind,
                extra={"action": "zeus_host_lost", "failures": self._failures},
            )
