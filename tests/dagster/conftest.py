"""What the Dagster tests share: an instance in memory, and rows as outside writers insert them."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from tests.support.webhook import Hook

LAST_WISH = 2122313384  # world first counts
LAST_WISH_ID = 4
STANDARD_LAST_WISH = 2214608157
RELEASE = datetime(2018, 9, 14, 17, tzinfo=UTC)


class World:
    """Rows through the columns that outside writers fill (docs/domain/schema.md)."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> None:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall()

    def player(self, membership_id: int, **columns: object) -> None:
        """A player of Last Wish with `clears` and whatever else `columns` say."""
        row = {
            "membership_id": membership_id,
            "membership_type": 3,
            "display_name": f"Guardian {membership_id}",
            "last_seen": RELEASE,
            "clears": 1,
            "fresh_clears": 1,
            "sherpas": 0,
            "total_time_played_seconds": 3600,
            "cheat_level": 0,
            "is_private": False,
            "sum_of_best": None,
        } | columns
        self._insert("core.player", row)
        self._insert(
            "core.player_stats",
            {
                "membership_id": membership_id,
                "activity_id": LAST_WISH_ID,
                **{k: row[k] for k in ("clears", "fresh_clears", "sherpas")},
                "total_time_played_seconds": row["total_time_played_seconds"],
            },
        )

    def raid(
        self,
        instance_id: int,
        members: Sequence[int],
        *,
        completed_after: timedelta = timedelta(hours=20),
        hash_: int = LAST_WISH,
    ) -> None:
        """A completed raid of `members`, which ended that long after the release of Last Wish."""
        ended = RELEASE + completed_after
        self._insert(
            "core.instance",
            {
                "instance_id": instance_id,
                "hash": hash_,
                "score": 0,
                "flawless": False,
                "completed": True,
                "fresh": True,
                "player_count": len(members),
                "date_started": ended - timedelta(hours=2),
                "date_completed": ended,
                "duration": 7200,
                "platform_type": 3,
                "skull_hashes": [],
            },
        )
        for membership_id in members:
            self._insert(
                "core.instance_player",
                {
                    "instance_id": instance_id,
                    "membership_id": membership_id,
                    "completed": True,
                    "time_played_seconds": 7200,
                    "sherpas": 0,
                    "is_first_clear": False,
                },
            )
        self._insert("raw.pgcr", {"instance_id": instance_id, "data": b"{}"})

    def _insert(self, table: str, row: dict[str, object]) -> None:
        values = ", ".join(["%s"] * len(row))
        self.run(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({values})",
            list(row.values()),
        )


@pytest.fixture
def world(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Iterator[World]:
    """An empty, migrated and seeded database, and the hand that fills it."""
    with connected(settings_for(postgres), "pytest") as connection:
        yield World(connection)


@pytest.fixture
def store(postgres: dict[str, Any]) -> PostgresResource:
    return PostgresResource(settings=postgres)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def hook() -> Iterator[Hook]:
    """Discord."""
    found = Hook()
    yield found
    found.close()
