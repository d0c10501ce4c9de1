"""One id on its way through the crawl, and the pause between two tries of it."""

from dataclasses import dataclass

from raidhub_dagster.bungie.protocol import PgcrResult
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.missed import Due, Missed, State
from raidhub_dagster.storage.postgres import Rng

PAUSE_S = 5.5
# An id leaves the crawl for missed_pgcr beyond these: publication is late, not the crawl.
MOST_NOT_FOUND = 3
MOST_ERRORS = 2
MOST_THROTTLED = 10


def pause_s(tries: int, rng: Rng) -> float:
    """Seconds before the next try of an id after `tries`: 3.7-9.2 after 1, up to 14.7 after 2."""
    return PAUSE_S * 2 / 3 + rng.uniform(0, PAUSE_S * tries)


class OpenBlock:
    """A leased block and what became of its ids so far."""

    __slots__ = ("first_id", "last_id", "missed", "next_id", "non_raids", "raids", "unfinished")

    def __init__(self, block: Block) -> None:
        self.first_id, self.last_id = block
        self.next_id = block.first_id  # the next one to ask
        self.unfinished = block.last_id - block.first_id + 1
        self.raids = 0
        self.non_raids = 0
        self.missed: list[Missed] = []

    @property
    def unasked(self) -> int:
        return self.last_id - self.next_id + 1


@dataclass(slots=True, eq=False)
class Visit:
    """One id: of a block, of a missed row (`due`), or a probe that only asks whether it exists."""

    instance_id: int
    block: OpenBlock | None = None
    due: Due | None = None
    is_probe: bool = False
    is_trial: bool = False  # of the gate
    not_found: int = 0
    errors: int = 0
    malformed: int = 0
    throttled: int = 0
    last: PgcrResult | None = None  # the answer before this one

    @property
    def tries(self) -> int:
        """Answers so far that counted."""
        return self.not_found + self.errors + self.throttled

    @property
    def malformed_retry(self) -> int | None:
        """Counts the fetches of an unusable report, so that no cache answers; None for others."""
        before = (
            self.due.attempts if self.due is not None and self.due.state is State.MALFORMED else 0
        )
        return before + self.malformed or None
