"""Waiting for a token: first come, first served, and nobody waits for what comes too late."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from streaming.zeus.traffic import Host, Traffic

# A caller gives up after 15 s; these leave the request itself some time.
LONGEST_WAIT_S = 10.0
# The loop's timers are whole milliseconds: sooner would be a turn in vain.
_SOONEST_S = 0.001
_LONGEST_RETRY_S = 4096.0


class TooBusyError(Exception):
    """The wait would outlast the caller's patience; `retry_s` is when to come again."""

    def __init__(self, retry_s: float) -> None:
        super().__init__(f"no request can leave in time; try again in {retry_s:.0f} s")
        self.retry_s = retry_s


class Gate:
    """The queue in front of one host."""

    def __init__(self, host: Host, traffic: Traffic, clock: Callable[[], float]) -> None:
        self._host = host
        self._traffic = traffic
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiters: deque[asyncio.Future[int]] = deque()
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        return self._waiting

    def try_pass(self) -> int | None:
        """The number of the address that may send now; None when one has to wait."""
        return None if self._waiting else self._traffic.take(self._host, self._clock())

    async def wait(self) -> int:
        """The same, at the caller's turn. Raises TooBusyError, at once when that can be known."""
        now = self._clock()
        if self._traffic.supply(self._host, now, now + LONGEST_WAIT_S) < self._waiting + 1:
            raise TooBusyError(self._retry_s(now))
        turn: asyncio.Future[int] = self._loop.create_future()
        self._waiters.append(turn)
        self._waiting += 1
        try:
            if self._timer is None:
                self._arm(now)
            async with asyncio.timeout(LONGEST_WAIT_S):
                return await turn
        except TimeoutError:
            raise TooBusyError(self._retry_s(self._clock())) from None
        finally:
            self._waiting -= 1

    def recheck(self) -> None:
        """Sends those away who would wait too long now: after a pause began."""
        now = self._clock()
        room = self._traffic.supply(self._host, now, now + LONGEST_WAIT_S)
        excess = self._waiting - room
        while excess > 0 and self._waiters:
            turn = self._waiters.pop()
            if not turn.done():
                turn.set_exception(TooBusyError(self._retry_s(now)))
                excess -= 1

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, now: float) -> None:
        ready_at = self._traffic.ready_at(self._host, now)
        if ready_at == math.inf:  # the last key is being tried: look again soon
            ready_at = now + 0.1
        self._timer = self._loop.call_later(max(ready_at - now, _SOONEST_S), self._serve)

    def _serve(self) -> None:
        self._timer = None
        now = self._clock()
        while self._waiters:
            if self._waiters[0].done():  # gave up
                self._waiters.popleft()
                continue
            address = self._traffic.take(self._host, now)
            if address is None:
                self._arm(now)
                return
            self._waiters.popleft().set_result(address)

    def _retry_s(self, now: float) -> float:
        """When all who wait now, and one more, can have left: to the second, at least one."""
        wanted = self._waiting + 1
        early, late = 0.0, 1.0
        while (
            late < _LONGEST_RETRY_S and self._traffic.supply(self._host, now, now + late) < wanted
        ):
            early, late = late, late * 2
        while late - early > 1:
            middle = (early + late) // 2
            if self._traffic.supply(self._host, now, now + middle) < wanted:
                early = middle
            else:
                late = middle
        return late
