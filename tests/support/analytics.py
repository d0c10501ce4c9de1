"""A world for tests of ClickHouse: both stores, runs on days that the aggregates still keep."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.model import Character, Instance, Player, Weapon
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage import clickhouse_lookups, clickhouse_sender
from raidhub_dagster.storage import postgres as pg
from raidhub_dagster.storage.clickhouse_sender import Sent
from raidhub_dagster.storage.store import Outcome, Store
from tests.support.worlds import report_of

HASH = 1374392663  # King's Fall, Standard
ACTIVITY, VERSION = 11, 1
# Noon, so that no run around it ends on another day; well within a month.
HOUR = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=5)
# Another month, of which only the base row is still kept.
LONG_AGO = datetime(HOUR.year - 2, 6, 30, 12, 30, tzinfo=UTC)

VIEWS = {
    "population": "SELECT hour, activity_id, sum(player_count) FROM player_population_by_hour"
    " GROUP BY ALL HAVING sum(player_count) > 0 ORDER BY ALL",
    "clear_time": "SELECT bungie_day, activity_id, version_id,"
    " quantilesMerge(0.05, 0.1, 0.5, 0.9)(clear_time) FROM clear_time_by_day"
    " GROUP BY ALL ORDER BY ALL",
    "weapons": "SELECT hour, activity_id, weapon_hash, sum(usage_count), sum(kill_count),"
    " sum(precision_kill_count) FROM weapon_meta_by_hour GROUP BY ALL ORDER BY ALL",
    "relations": "SELECT membership_id, related_membership_id, sum(weight)"
    " FROM player_relation_weights_bidirectional GROUP BY ALL ORDER BY ALL",
}


NOTHING = Sent(0, 0, 0, 0)


@dataclass
class Analytics:
    settings: Settings
    postgres: Connection
    clickhouse: Client

    def store(self, *instances: Instance) -> list[Outcome]:
        return Store(self.postgres).store([report_of(i) for i in instances], source="test")

    def send(self, *, after: timedelta = timedelta(minutes=10), **limits: Any) -> Sent:
        """One step, so late that everything waiting is due."""
        now = datetime.now(UTC) + after
        return clickhouse_sender.send_pending(self.postgres, self.clickhouse, now=now, **limits)

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Of PostgreSQL; a statement that returns nothing gives no rows."""
        with self.postgres, self.postgres.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def select(self, statement: str) -> list[tuple[Any, ...]]:
        """Of ClickHouse."""
        return [tuple(row) for row in self.clickhouse.query(statement).result_rows]

    def views(self) -> dict[str, list[tuple[Any, ...]]]:
        """What readers of the four aggregates see."""
        return {name: self.select(statement) for name, statement in VIEWS.items()}

    def instances(self) -> list[tuple[Any, ...]]:
        """(instance_id, revision, first clears, sherpas), as readers see them, by id."""
        return self.select(
            "SELECT instance_id, revision, arraySum(players.is_first_clear),"
            " arraySum(players.sherpas) FROM instance FINAL ORDER BY instance_id"
        )


@contextmanager
def opened(settings: Settings) -> Iterator[Analytics]:
    """Both stores, empty but for the definitions."""
    with (
        closing(pg.connect(settings, "pytest")) as connection,
        closing(ch.connect(settings, "pytest")) as client,
    ):
        clickhouse_lookups.refresh_lookups(connection, client)
        yield Analytics(settings, connection, client)


class DeathError(BaseException):
    """What a kill looks like from inside: no handler of ours may see it as an answer."""


class MortalClient:
    """A client whose process is killed before call number `lives`, counted from 0."""

    def __init__(self, client: Client, lives: int) -> None:
        self._client = client
        self._lives = lives

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if self._lives == 0:
                raise DeathError(name)
            self._lives -= 1
            return getattr(self._client, name)(*arguments, **more)

        return call


def send_until_quiet(analytics: Analytics, *, after: timedelta = timedelta(minutes=10)) -> None:
    while analytics.send(after=after) != NOTHING:
        pass


def run(
    instance_id: int,
    *,
    started: datetime = HOUR + timedelta(minutes=30),
    duration: int = 3600,
    players: Sequence[int] = (1, 2),
    weapons: Iterable[tuple[int, int, int]] = ((70, 5, 2),),
    fresh: bool | None = True,
    completed: bool = True,
    hash: int = HASH,  # noqa: A002  the column's name
) -> Instance:
    """One character a player, each with all `weapons` (hash, kills, precision kills)."""
    return Instance(
        instance_id=instance_id,
        hash=hash,
        platform_type=-1,
        date_started=started,
        date_completed=started + timedelta(seconds=duration),
        duration=duration,
        score=0,
        player_count=len(players),
        completed=completed,
        deathless=False,
        fresh=fresh,
        flawless=None,
        skull_hashes=(),
        players=tuple(
            _player(number, started, duration, completed, weapons) for number in sorted(players)
        ),
    )


def _player(
    number: int,
    started: datetime,
    duration: int,
    completed: bool,
    weapons: Iterable[tuple[int, int, int]],
) -> Player:
    used = tuple(Weapon(*weapon) for weapon in sorted(weapons))
    return Player(
        membership_id=number,
        membership_type=3,
        icon_path="/a.png",
        display_name="Ann",
        bungie_global_display_name="Ann",
        bungie_global_display_name_code="0001",
        completed=completed,
        time_played_seconds=duration,
        first_seen=started,
        last_seen=started + timedelta(seconds=duration),
        characters=(
            Character(
                character_id=1000 + number,
                class_hash=None,
                emblem_hash=4242,
                completed=completed,
                score=1,
                kills=sum(w.kills for w in used),
                assists=0,
                deaths=1,
                precision_kills=0,
                super_kills=0,
                grenade_kills=0,
                melee_kills=0,
                time_played_seconds=duration,
                start_seconds=0,
                weapons=used,
            ),
        ),
    )
