"""What a topic has to provide; the consumer does everything else.

A topic is a `Topic` value: its queue, its limits and `open`, which makes one handler for each slot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raidhub_dagster.messaging import topology
from raidhub_dagster.settings import Settings
from streaming.hermes.loop import Loop
from streaming.hermes.threads import Threads


@dataclass(frozen=True)
class Delivery:
    """One message as it came in."""

    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    message_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None


class Handler(Protocol):
    """The work of one slot, called by its thread only; owns that slot's connections."""

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        """One outcome a delivery: None once its effect is committed, else why it failed.

        A PermanentError parks the message at once, any other outcome is a counted retry. What
        this method raises, rather than returns, is the outcome of all of them; a lost database or
        broker makes the slot pause and try the same deliveries again, uncounted.
        """

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Called before a message is parked, to leave a trace of it elsewhere."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Topic:
    """A queue's limits as in docs/domain/queues.md, and who handles its messages."""

    name: str  # of the queue
    open: Callable[[Settings], Handler]
    slots: int  # messages, or batches of them, handled at the same time
    retries: int
    base_delay_s: int
    batch: int = 1  # messages a slot takes at once, at most
    batch_wait_s: float = 0.0  # how long it waits for a batch to fill
    chores: tuple[Callable[[Settings, Threads], Loop], ...] = ()  # what runs beside the slots

    @property
    def delays_s(self) -> tuple[int, ...]:
        """Seconds before the first, second, ... retry."""
        return tuple(
            topology.retry_delay_s(self.base_delay_s, retry) for retry in range(1, self.retries + 1)
        )
