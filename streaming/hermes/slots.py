"""The slots of one topic: who takes which message, and how their number changes while they run."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
        self._waiting: queue.SimpleQueue[Held | None] = queue.SimpleQueue()  # None only wakes
        self._collecting = threading.Lock()
        self._lock = threading.Lock()  # of what follows
        self._allowed = 0
        self._running: dict[Slot, threading.Thread | None] = {}
        self._resting = 0
        self._started = 0

    @property
    def waiting(self) -> int:
        """Messages held and in no slot."""
        return self._waiting.qsize()

    @property
    def running(self) -> int:
        with self._lock:
            return len(self._running)

    def allow(self, number: int) -> None:
        """From now on `number` slots."""
        with self._lock:
            self._allowed = number
        self._reinforce()
        self._wake()

    def give(self, held: Held) -> None:
        self._waiting.put(held)
        self._reinforce()

    def take_back(self) -> list[Held]:
        """What is in no slot yet."""
        found: list[Held] = []
        took_wake = False
        with suppress(queue.Empty):
            while True:
                held = self._waiting.get_nowait()
                if held is None:
                    took_wake = True
                else:
                    found.append(held)
        if took_wake:
            self._wake()
        return found

    def problem(self) -> str | None:
        """Why a slot pauses, if one does."""
        with self._lock:
            slots = list(self._running)
        return next((slot.problem for slot in slots if slot.problem), None)

    def end(self) -> None:
        """Once the process stops: nobody takes anything any more."""
        self._wake()  # the slot that collects; its end wakes the next

    def are_alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads_of_slots())

    def join(self, left_s: Callable[[], float]) -> None:
        """Waits for what runs, as long as `left_s()` says each time."""
        for thread in self._threads_of_slots():
            thread.join(left_s())

    def _threads_of_slots(self) -> list[threading.Thread]:
        with self._lock:
            return [thread for thread in self._running.values() if thread is not None]

    def _wake(self) -> None:
        if self.running:
            self._waiting.put(None)

    def _reinforce(self) -> None:
        """Starts slots for what nobody at rest can take."""
        with self._lock:
            while (
                len(self._running) < self._allowed
                and self._waiting.qsize() > self._resting * self._topic.batch
                and not self._threads.stopping.is_set()
            ):
                slot = self._make()
                self._running[slot] = None  # before its thread asks whether it is one too many
                self._resting += 1
                self._started += 1
                name = f"{self._topic.name}-{self._started}"
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
        wait_s: float | None = None  # for the first one: as long as it takes
        closes_at = 0.0
        with self._collecting:
            while len(batch) < self._topic.batch and not self._threads.stopping.is_set():
                if not batch and self._is_one_too_many(slot):
                    return []
                try:
                    held = self._waiting.get(timeout=wait_s)
                except queue.Empty:
                    break
                if held is None or held.is_stale:
                    continue
                batch.append(held)
                if wait_s is None:
                    closes_at = self._clock() + self._topic.batch_wait_s
                wait_s = max(0.0, closes_at - self._clock())
            with self._lock:
                self._resting -= 1
        if self._threads.stopping.is_set():
            return []  # the broker gives them to somebody else
        self._reinforce()
        return batch

    def _is_one_too_many(self, slot: Slot) -> bool:
        """Whether this slot leaves; then it is no longer one of the running."""
        with self._lock:
            if len(self._running) <= self._allowed:
                return False
            del self._running[slot]
            self._resting -= 1
            return True
