"""What the slots of one process share when they wait for Bungie's API most of the time.

Up to a hundred threads a topic would need a database connection each and use it for moments; they
share a small pool, one publisher and one sender of alerts. These live as long as a handler does.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import ClassVar, Self

from raidhub_dagster.bungie.client import BungieClient, RefusedError
from raidhub_dagster.bungie.codes import CodeClass
from raidhub_dagster.discord.alerts import Alerts
from raidhub_dagster.errors import ConfigurationError, TransientError, UnavailableError
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import Pool
from streaming.hermes.topic import Delivery

_NAME = "hermes-topics"
# A message has retries of its own, so that a request has few: they bridge what lasts for seconds.
_ATTEMPTS = 3
_HASHES_FOR_S = 60.0  # a raid that is new in the definitions is recognised after this long


class Shared:
    """Used by any thread; opened with the first handler of a process, closed with the last."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.pool = Pool(settings, _NAME)
        self.publisher = Publisher(settings, _NAME)
        self.alerts = Alerts(
            settings.atlas_webhook_url, footer="hermes", role_id=settings.alerts_role_id
        )
        self._clock = clock
        self._lock = threading.Lock()
        self._hashes: dict[int, tuple[int, int]] = {}
        self._hashes_until = clock()

    def tracked_hashes(self) -> dict[int, tuple[int, int]]:
        """Hashes whose reports are raids, whatever mode these tell; at most a minute old."""
        with self._lock:
            if not self._hashes or self._clock() >= self._hashes_until:
                with self.pool.connection() as connection, connection:
                    self._hashes = load_tracked_hashes(connection)
                self._hashes_until = self._clock() + _HASHES_FOR_S
            return self._hashes

    def close(self) -> None:
        self.publisher.close()
        self.alerts.close()
        self.pool.close()


class _Leases:
    """Counts who uses a Shared; by settings, since tests run several processes' worth in one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Settings, tuple[Shared, int]] = {}

    def take(self, settings: Settings) -> Shared:
        with self._lock:
            shared, users = self._held.get(settings) or (Shared(settings), 0)
            self._held[settings] = (shared, users + 1)
        return shared

    def give_back(self, settings: Settings) -> None:
        with self._lock:
            shared, users = self._held.pop(settings)
            if users > 1:
                self._held[settings] = (shared, users - 1)
                return
        shared.close()


LEASES = _Leases()


def open_client(settings: Settings) -> BungieClient:
    """A client of one thread. Raises UnavailableError without a key: no message is to blame."""
    try:
        return BungieClient.from_settings(settings, attempts=_ATTEMPTS)
    except ConfigurationError as error:
        raise UnavailableError(str(error)) from None


class ApiHandler(ABC):
    """The handler of one slot that asks Bungie's API: clients of its own, all else shared."""

    requests_at_once: ClassVar[int] = 1

    def __init__(
        self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.settings = settings
        self.now = now
        self.clients = [open_client(settings) for _ in range(self.requests_at_once)]
        self.client = self.clients[0]
        self.shared = LEASES.take(settings)

    def handle(self, deliveries: Sequence[Delivery]) -> Sequence[Exception | None]:
        return [self._outcome(delivery) for delivery in deliveries]

    @abstractmethod
    def work(self, delivery: Delivery) -> None:
        """Returns once the effect of the message is committed; raises why it is not."""

    def put_off(self, delivery: Delivery, error: Exception) -> None:  # noqa: B027
        """Leaves nothing elsewhere: the next raid, or the next sweep, asks for the same again."""

    def give_up(self, delivery: Delivery, error: Exception) -> None:  # noqa: B027
        """Leaves nothing elsewhere: the parked message says all there is."""

    def close(self) -> None:
        for client in self.clients:
            client.close()
        LEASES.give_back(self.settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _outcome(self, delivery: Delivery) -> Exception | None:
        for client in self.clients:
            client.is_reachable = True  # what the last message met says nothing about this one
        try:
            self.work(delivery)
        except Exception as error:  # noqa: BLE001  the slot decides by what it is
            return self._judged(error)
        return None

    def _judged(self, error: Exception) -> Exception:
        """A refused key, or nobody listening where the API should be, is no message's fault."""
        if isinstance(error, RefusedError) and error.code_class is CodeClass.KEY_PROBLEM:
            return UnavailableError(f"Bungie's API refuses our key: {error}", error.facts)
        is_away = not all(client.is_reachable for client in self.clients)
        if is_away and isinstance(error, TransientError):
            where = self.client.endpoints
            return UnavailableError(f"nobody listens at {where.www} or {where.pgcr}", error.facts)
        return error
