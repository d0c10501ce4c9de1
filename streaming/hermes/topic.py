"""What a topic has to provide; the consumer does everything else.

A topic is a `Topic` value: its queue, its limits and `open`, which makes one handler for each slot.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raidhub_dagster.errors import RaidHubError
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


class PostponedError(RaidHubError):
    """Not now, and nobody's fault: the message goes as it is to the wait queue `queue`.

    No retry is counted and nothing is parked.
    """

    def __init__(self, message: str, queue: str) -> None:
        super().__init__(message)
        self.queue = queue


class Handler(Protocol):
    """The work of one slot, called by its thread only; owns that slot's connections."""

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        """One outcome a delivery: None once its effect is committed, else why it failed.

        A PermanentError parks the message at once, a PostponedError lets it wait elsewhere, a
        MaintenanceError puts it back uncounted and closes the topic until its systems are on
        again; any other outcome is a counted retry. What this method raises, rather than returns,
        is the outcome of all of them; a lost database or broker makes the slot pause and try the
        same deliveries again, uncounted.
        """

    def put_off(self, delivery: Delivery, error: Exception) -> None:
        """Called before a message goes to a retry queue, to leave a trace of what it alone tells.

        The broker brings it back without a confirm between the two queues: killed there, it may
        lose the message.
        """

    def give_up(self, delivery: Delivery, error: Exception) -> None:
        """Called before a message is parked, to leave a trace of it elsewhere."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """Numbers of workers; a worker is one message handled at a time."""

    minimum: int
    maximum: int
    desired: int  # to begin with
    contest: int  # the floor during a contest


@dataclass(frozen=True)
class Scaling:
    """When a topic gets more workers or fewer; times in seconds. docs/domain/queues.md, Scaling."""

    up_depth: int = 100
    down_depth: int = 10
    up_share: float = 0.20  # of the present workers
    down_share: float = 0.10
    least_step: int = 1
    most_step: int = 10
    checks_up: int = 2  # in a row
    checks_down: int = 3
    check_every_s: float = 300.0
    cooldown_s: float = 120.0


@dataclass(frozen=True)
class Topic:
    """A queue's limits as in docs/domain/queues.md, and who handles its messages."""

    name: str  # of the queue
    open: Callable[[Settings], Handler]
    limits: Limits
    retries: int
    base_delay_s: int
    scaling: Scaling = Scaling()
    systems: tuple[str, ...] = ()  # of Bungie's, all of which must be on
    workers_per_slot: int = 1  # a slot is a thread; one that takes batches stands for several
    batch: int = 1  # messages a slot takes at once, at most
    batch_wait_s: float = 0.0  # how long it waits for a batch to fill
    chores: tuple[Callable[[Settings, Threads], Loop], ...] = ()  # what runs beside the slots

    def slots(self, workers: int) -> int:
        """Threads for so many workers."""
        return -(-workers // self.workers_per_slot)

    @property
    def delays_s(self) -> tuple[int, ...]:
        """Seconds before the first, second, ... retry."""
        return tuple(
            topology.retry_delay_s(self.base_delay_s, retry) for retry in range(1, self.retries + 1)
        )
