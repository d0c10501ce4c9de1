"""The slots of one topic: who takes which message, and how their number changes while they run."""

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from streaming.hermes.slot import Held, Slot
from streaming.hermes.threads import Threads
from streaming.hermes.topic import Topic


class Slots:
    """At most `allowed` threads, each with a slot of its own.

    A thread starts when more waits than those at rest can take: with little to do a topic has few
    threads, and few connections of handlers. A slot that became one too many finishes its batch,
    takes no other and closes its handler; so nothing that is held gets lost when the number falls.
    """

    def __init__(
        self,
        topic: Topic,
        make: Callable[[], Slot],
        threads: Threads,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._make = make
        self._threads = threads
        self._clock = clock
        self._collecting = threading.Lock()
        self._lock = threading.Lock()  # of what follows
        self._changed = threading.Condition(self._lock)  # waited for by the slot that collects
        self._waiting: deque[Held] = deque()
        self._allowed = 0
        self._running: dict[Slot, threading.Thread] = {}
        self._resting = 0
        self._started = 0

    @property
    def waiting(self) -> int:
        """Messages held and in no slot."""
        return len(self._waiting)

    def allow(self, number: int) -> None:
        """From now on `number` slots."""
        with self._changed:
            self._allowed = number
            self._reinforce()
            self._changed.notify()  # its end lets the next one ask whether it has to end too

    def give(self, held: Held) -> None:
        with self._changed:
            self._waiting.append(held)
            self._reinforce()
            self._changed.notify()

    def take_back(self) -> list[Held]:
        """What is in no slot yet."""
        with self._lock:
            found = list(self._waiting)
            self._waiting.clear()
        return found

    def problem(self) -> str | None:
        """Why a slot pauses, if one does."""
        with self._lock:
            slots = list(self._running)
        return next((slot.problem for slot in slots if slot.problem), None)

    def end(self) -> None:
        """Once the process stops: nobody takes anything any more."""
        with self._changed:
            self._changed.notify()

    def are_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads_of_slots())

    def join(self, left_s: Callable[[], float]) -> None:
        """Waits for what runs, as long as `left_s()` says each time."""
        for thread in self._threads_of_slots():
            thread.join(left_s())

    def _threads_of_slots(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._running.values())

    def _reinforce(self) -> None:
        """Starts slots for what nobody at rest can take; the caller holds the lock."""
        while (
            len(self._running) < self._allowed
            and len(self._waiting) > self._resting * self._topic.batch
            and not self._threads.stopping.is_set()
        ):
            slot = self._make()
            self._resting += 1
            self._started += 1
            name = f"{self._topic.name}-{self._started}"
            # The thread asks for the lock before anything else, so it finds itself among these.
            self._running[slot] = self._threads.start(name, partial(self._run, slot))

    def _run(self, slot: Slot) -> None:
        try:
            while batch := self._collect(slot):
                slot.work(batch)
                with self._lock:
                    self._resting += 1
        finally:
            slot.close()
            with self._lock:
                self._running.pop(slot, None)

    def _collect(self, slot: Slot) -> list[Held]:
        """The next batch, closed by size or age; empty when this slot has to end.

        One slot collects at a time: few messages make one batch, not one for each slot.
        """
        batch: list[Held] = []
        closes_at = 0.0
        with self._collecting, self._changed:
            while len(batch) < self._topic.batch and not self._threads.stopping.is_set():
                if not batch and len(self._running) > self._allowed:
                    del self._running[slot]
                    break
                if self._waiting:
                    held = self._waiting.popleft()
                    if held.is_stale:
                        continue
                    if not batch:
                        closes_at = self._clock() + self._topic.batch_wait_s
                    batch.append(held)
                elif not batch:
                    self._changed.wait()
                elif not self._changed.wait(max(0.0, closes_at - self._clock())):
                    break
            self._resting -= 1
            if self._threads.stopping.is_set():
                return []  # the broker gives them to somebody else
            self._reinforce()
        return batch
