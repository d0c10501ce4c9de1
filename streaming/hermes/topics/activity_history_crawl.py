"""Topic activity_history_crawl: walks one player's history and publishes unknown reports."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from raidhub_dagster.bungie import systems
from raidhub_dagster.messaging import topology
from raidhub_dagster.messaging.messages import id_message, read_id
from raidhub_dagster.players.history import HistoryWalk
from raidhub_dagster.settings import Settings
from streaming.hermes.topic import Delivery, Limits, Topic
from streaming.hermes.topics.shared import ApiHandler


class ActivityHistoryCrawl(ApiHandler):
    requests_at_once = 3

    def __init__(
        self, settings: Settings, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        super().__init__(settings, now=now)
        self._executor = ThreadPoolExecutor(self.requests_at_once, thread_name_prefix="history")
        self._walk = HistoryWalk(
            self.shared.pool, self.clients, self._executor, self._publish, now=now
        )

    def work(self, delivery: Delivery) -> None:
        self._walk.walk(read_id(delivery.body, "membershipId"))

    def close(self) -> None:
        self._executor.shutdown()
        super().close()

    def _publish(self, ids: Sequence[int]) -> None:
        self.shared.publisher.publish([id_message(topology.PGCR_CRAWL, i) for i in ids])


TOPIC = Topic(
    topology.ACTIVITY_HISTORY_CRAWL,
    ActivityHistoryCrawl,
    Limits(minimum=1, maximum=20, desired=3, contest=10),
    retries=3,
    base_delay_s=1,
    systems=(systems.DESTINY, systems.ACTIVITIES, systems.PROFILES),
)
