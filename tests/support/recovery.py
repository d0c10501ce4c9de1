"""What tests of recovery share: missed rows, gaps, stored neighbours, a publisher that trips."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.messaging.messages import Message
from raidhub_dagster.messaging.publisher import Publisher
from raidhub_dagster.recovery.visits import Manner, Visitors
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support.topics import execute

DESERT_PERPETUAL = 3896382790


def miss(settings: Settings, *ids: int, state: str = "waiting", days: float = 0.0) -> None:
    """Rows that are due since a minute and were recorded `days` ago."""
    listed = ", ".join(
        f"({i}, '{state}', 'not_found', 'atlas', 1, now() - interval '{days} days 1 minute',"
        " now() - interval '1 minute')"
        for i in ids
    )
    execute(
        settings,
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source, attempts,"
        f" first_seen_at, next_attempt_at) VALUES {listed}",
    )


def keep(settings: Settings, *ids: int, with_report: bool = True, **columns: Any) -> None:
    """Stored instances, as outside writers insert them."""
    row = {"hash": DESERT_PERPETUAL, "completed": True, "is_whitelisted": False} | columns
    for i in ids:
        execute(
            settings,
            "INSERT INTO core.instance (instance_id, hash, completed, is_whitelisted,"
            " player_count, date_started, date_completed, duration, platform_type)"
            f" VALUES ({i}, {row['hash']}, {row['completed']}, {row['is_whitelisted']},"
            " 1, now(), now(), 9, 3)",
        )
        if with_report:
            execute(settings, f"INSERT INTO raw.pgcr (instance_id, data) VALUES ({i}, '{{}}')")


def open_gap(settings: Settings, first_id: int, last_id: int, days: float = 0.0) -> None:
    execute(
        settings,
        "INSERT INTO streaming.gap (first_id, last_id, reason, detected_at)"
        f" VALUES ({first_id}, {last_id}, 'test', now() - interval '{days} days')",
    )


class Tripping:
    """The real publisher, with something that happens before message number `at` goes out."""

    def __init__(self, publisher: Publisher, at: int, trip: Callable[[], object]) -> None:
        self._publisher = publisher
        self._left = at
        self._trip = trip

    def publish(self, messages: Sequence[Message]) -> None:
        if self._left > 0 >= self._left - len(messages):
            self._trip()
        self._left -= len(messages)
        self._publisher.publish(messages)


# What every function of recovery takes first.
Recovery = tuple[Connection, Publisher, Visitors]


@contextmanager
def recovering(settings: Settings, **manner: Any) -> Iterator[Recovery]:
    """A connection, a publisher and visitors that do not pause between tries."""
    usual = {"workers": 4, "retry_s": 0.0} | manner

    def client() -> BungieClient:
        return BungieClient.from_settings(settings)

    with (
        connected(settings, "test") as connection,
        Publisher(settings, "test") as publisher,
        Visitors.of(connection, client, Manner(**usual)) as visitors,
    ):
        yield connection, publisher, visitors
