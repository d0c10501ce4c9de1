"""A day of 50,000 raids of six with eight weapons each, rebuilt in ClickHouse from PostgreSQL.

`day_s` is `instance` and its three aggregates of a day that ClickHouse lost, `again_s` the same
when nothing differs, `beside_s` when the month has up to 450,000 other raids, whose parts are
linked, not copied. `relations_s` is all relations. `rebuild_rss_mb` is what this process held at
most. The rows are made in the database: reading them does not care how they came.
"""

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage import clickhouse
from raidhub_dagster.storage.clickhouse_lookups import refresh_lookups
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.clickhouse_rebuild import rebuild_days, rebuild_relations
from raidhub_dagster.storage.postgres import connect
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server

RAIDS = 50_000
OTHER_DAYS = 9
# A day that has ended, with the others in its month, and young enough for every aggregate.
DAY = (datetime.now(UTC) - timedelta(days=3)).date()

# Foreign keys were checked when the rows were made; here they would take most of the time.
_FILL = """
SET session_replication_role = replica;
INSERT INTO core.player (membership_id, membership_type, display_name, last_seen, first_seen)
SELECT 4611686018400000000 + n, 3, 'Guardian ' || n, now(), now()
FROM generate_series(0, 99999) AS n;
INSERT INTO core.instance (instance_id, hash, flawless, completed, fresh, player_count,
                           date_started, date_completed, duration, platform_type)
SELECT 16000000000 + n,
       (ARRAY[1374392663, 2381413764, 910380154, 3881495763, 1441982566])[1 + n %% 5],
       false, n %% 4 <> 0, n %% 3 <> 0, 6, ended - interval '1600 s', ended, 1600 + n %% 600, 3
FROM generate_series(0, %(raids)s - 1) AS n,
     LATERAL (SELECT %(day)s::date::timestamp AT TIME ZONE 'UTC'
                     + (86399.0 * n / %(raids)s) * interval '1 s') AS t (ended);
INSERT INTO core.instance_player (instance_id, membership_id, completed, time_played_seconds)
SELECT 16000000000 + n, 4611686018400000000 + (n * 7 + p * (1 + n %% 11)) %% 100000,
       n %% 4 <> 0, 1500
FROM generate_series(0, %(raids)s - 1) AS n, generate_series(1, 6) AS p;
INSERT INTO extended.instance_character (instance_id, membership_id, character_id, class_hash,
    emblem_hash, completed, kills, deaths, precision_kills, time_played_seconds, start_seconds)
SELECT instance_id, membership_id, membership_id + 1, 671679327, 1918663075, completed,
       150, 1, 40, 1500, 0
FROM core.instance_player;
INSERT INTO extended.instance_character_weapon
SELECT instance_id, membership_id, character_id,
       3000000000 + (instance_id + membership_id + w * 13) %% 997, 20 + w, 5
FROM extended.instance_character, generate_series(1, 8) AS w
ON CONFLICT DO NOTHING;
SET session_replication_role = origin;
ANALYZE;
"""
_SHIFTED = (
    "INSERT INTO instance_staging SELECT * REPLACE (date_completed + toIntervalDay({n:Int32})"
    " AS date_completed, date_started + toIntervalDay({n:Int32}) AS date_started,"
    " instance_id + {n:Int32} * 100000 AS instance_id) FROM instance"
    " WHERE toDate(date_completed) = {day:Date}"
)


@contextmanager
def stores() -> Iterator[tuple[Connection, Client]]:
    with server() as postgres, tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        settings = postgres.model_copy(
            update={"clickhouse_host": HOST, "clickhouse_http_port": free_port()}
        )
        engine = ClickhouseServer(settings, Path(name) / "engine")
        with running(engine, Path(name) / "engine.log"):
            migrate_clickhouse(settings)
            yield from _opened(settings)


def _opened(settings: Settings) -> Iterator[tuple[Connection, Client]]:
    with (
        closing(connect(settings, "bench")) as connection,
        closing(clickhouse.connect(settings, "bench", timeout_s=1800)) as client,
    ):
        refresh_lookups(connection, client)
        yield connection, client


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def run(raids: int = RAIDS, rounds: int = 3) -> Figures:
    with stores() as (connection, client):
        with connection, connection.cursor() as cursor:
            cursor.execute(_FILL, {"raids": raids, "day": DAY})

        def rebuild() -> None:
            done = list(rebuild_days(connection, client, [DAY], now=datetime.now(UTC)))
            assert done[0].rows == raids
            assert not any(piece.differences for piece in done)

        def lost() -> float:
            client.command("TRUNCATE TABLE instance")
            return seconds(rebuild)

        day = [lost() for _ in range(rounds)]
        again = [seconds(rebuild) for _ in range(rounds)]
        relations = seconds(lambda: rebuild_relations(connection, client, now=datetime.now(UTC)))
        beside = _beside(client, rebuild)
    return {
        "day_s": statistics.median(day),
        "again_s": statistics.median(again),
        "beside_s": beside,
        "relations_s": relations,
        "rebuild_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _beside(client: Client, rebuild: Callable[[], None]) -> float:
    """Seconds for the day when its month has others, which the rebuild must carry over."""
    month = DAY.year * 100 + DAY.month
    for n in _other_days(DAY):
        client.command(_SHIFTED, parameters={"n": n, "day": DAY})
        client.command(f"ALTER TABLE instance ATTACH PARTITION {month} FROM instance_staging")
        client.command("TRUNCATE TABLE instance_staging")
    client.command(f"DELETE FROM instance WHERE toDate(date_completed) = '{DAY}'")
    return seconds(rebuild)


def _other_days(day: date) -> list[int]:
    """Days of the same month, as distances."""
    distances = sorted(range(-31, 32), key=abs)
    return [n for n in distances if n and (day + timedelta(days=n)).month == day.month][:OTHER_DAYS]


if __name__ == "__main__":
    report(run)
