"""One request for many callers: those who ask the same at the same time, and shortly after.

Never for reports: a 404 there means "not yet", and nobody asks twice for the others.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from multidict import CIMultiDict

# Longer bodies are not shared: they stream, to each caller its own.
MOST_BODY_BYTES = 1024 * 1024
# So many bodies are held for sharing at once; who comes then streams its own.
MOST_FLIGHTS = 256
_MOST_ENTRIES = 1000
_MOST_BYTES = 32 * 1024 * 1024

# Settings, the manifest's index, groups with their members, profiles with any components.
_KEPT = re.compile(
    r"/Platform/(?:Settings|Destiny2/Manifest|GroupV2/[0-9]+(?:/Members)?"
    r"|Destiny2/-?[0-9]+/Profile/[0-9]+)/(?:\?.*)?"
)

# What two requests must have in common: path with query, and the headers that pass.
Question = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that is all here; `headers` are to be copied."""

    status: int
    reason: str | None
    headers: CIMultiDict[str]
    body: bytes
    is_success: bool = False  # HTTP 200 with code 1


def may_be_kept(path: str) -> bool:
    """True for what may be answered from memory for some seconds."""
    return _KEPT.fullmatch(path) is not None


class Memory:
    """Successes of the last `keep_s` seconds, the oldest out first."""

    def __init__(self, keep_s: float, clock: Callable[[], float]) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._entries: OrderedDict[Question, tuple[float, Whole]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Of all bodies."""
        return self._bytes

    def get(self, question: Question) -> tuple[Whole, float] | None:
        """The answer and its age in seconds."""
        self._expire()
        found = self._entries.get(question)
        return None if found is None else (found[1], self._clock() - found[0])

    def put(self, question: Question, answer: Whole) -> None:
        if not self._keep_s or len(answer.body) > MOST_BODY_BYTES:
            return
        self._expire()
        self._drop(question)
        self._entries[question] = (self._clock(), answer)
        self._bytes += len(answer.body)
        while self._bytes > _MOST_BYTES or len(self._entries) > _MOST_ENTRIES:
            self._drop(next(iter(self._entries)))

    def _expire(self) -> None:
        before = self._clock() - self._keep_s
        while self._entries:
            question = next(iter(self._entries))
            if self._entries[question][0] > before:
                return
            self._drop(question)

    def _drop(self, question: Question) -> None:
        found = self._entries.pop(question, None)
        if found is not None:
            self._bytes -= len(found[1].body)


class Flights:
    """Requests on their way, each a task of its own: it outlives the caller who began it."""

    def __init__(self) -> None:
        self._tasks: dict[Question, asyncio.Task[Whole | None]] = {}
        self._callers: dict[Question, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    async def join(
        self, question: Question, ask: Callable[[], Coroutine[None, None, Whole | None]]
    ) -> Whole | None:
        """The result of the flight for this question, begun with `ask` when there is none.

        Raises what `ask` raises. When the last caller leaves, the flight is cancelled.
        """
        task = self._tasks.get(question)
        if task is None:
            task = self._tasks[question] = asyncio.create_task(ask())
            self._callers[question] = 0
            task.add_done_callback(lambda done: self._landed(question, done))
        self._callers[question] += 1
        try:
            return await asyncio.shield(task)
        finally:
            if self._tasks.get(question) is task:
                self._callers[question] -= 1
                if not self._callers[question]:
                    self._landed(question, task)
                    task.cancel()

    def _landed(self, question: Question, task: "asyncio.Task[Whole | None]") -> None:
        if self._tasks.get(question) is task:
            del self._tasks[question], self._callers[question]
        if task.done() and not task.cancelled():
            task.exception()  # whoever waited has it; when all have left, nobody misses it
