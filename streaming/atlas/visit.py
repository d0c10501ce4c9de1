"""One id on its way through the crawl, and the pause between two tries of it."""

from dataclasses import dataclass

from raidhub_dagster.bungie.protocol import PgcrResult
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.missed import Due, State
from raidhub_dagster.storage.postgres import Rng
from streaming.atlas.search import Search

PAUSE_S = 5.5
# An id leaves its block beyond these: publication is late, not the crawl.
MOST_NOT_FOUND = 3
MOST_ERRORS = 2
MOST_THROTTLED = 10
_LOWEST_LABEL = 6  # of a row's tries: a label comes from a closed set


def pause_s(tries: int, rng: Rng) -> float:
    """Seconds before the next try of an id after `tries`: 3.7-9.2 after 1, up to 14.7 after 2."""
    return PAUSE_S * 2 / 3 + rng.uniform(0, PAUSE_S * tries)


class OpenBlock:
    """A leased block and what became of its ids so far; every `step`-th one is asked."""

    __slots__ = (
        *("first_id", "is_lost", "last_id", "missed", "next_id", "non_raids", "raids"),
        *("step", "unfinished"),
    )

    def __init__(self, block: Block, step: int = 1) -> None:
        self.first_id, self.last_id = block
        self.step = step
        self.next_id = block.first_id  # the next one to ask
        self.unfinished = self.unasked
        self.raids = 0
        self.non_raids = 0
        self.missed = 0
        self.is_lost = False  # its lease is somebody else's now, who asks all of it

    @property
    def unasked(self) -> int:
        return (self.last_id - self.next_id) // self.step + 1


@dataclass(slots=True, eq=False)
class Visit:
    """One id: of a block, offloaded, of a missed row (`due`), or asked only whether it exists."""

    instance_id: int
    block: OpenBlock | None = None
    due: Due | None = None
    offloaded: int | None = None  # tries since it left its block
    is_probe: bool = False  # of the head
    search: Search | None = None  # that it is a probe of
    is_trial: bool = False  # of the gate
    is_new: bool = False  # asked for the first time right now
    not_found: int = 0
    errors: int = 0
    malformed: int = 0
    throttled: int = 0  # in a row
    last: PgcrResult | None = None  # the answer before this one

    @property
    def asks_only(self) -> bool:
        return self.is_probe or self.search is not None

    @property
    def has_row(self) -> bool:
        """True when missed_pgcr knows the id."""
        return self.due is not None or self.offloaded is not None

    @property
    def tries(self) -> int:
        """Answers so far that counted."""
        return self.not_found + self.errors + self.throttled

    @property
    def attempt(self) -> int:
        """Number of this try as the metrics tell it: negative once the id left its block."""
        if self.due is not None:
            return -min(self.due.attempts, _LOWEST_LABEL)
        if self.offloaded is not None:
            return -min(self.offloaded + 1, _LOWEST_LABEL)
        return self.tries + 1

    @property
    def malformed_retry(self) -> int | None:
        """Counts the fetches of an unusable report, so that no cache answers; None for others."""
        before = (
            self.due.attempts if self.due is not None and self.due.state is State.MALFORMED else 0
        )
        return before + self.malformed or None
