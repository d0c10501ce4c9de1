"""What a raid costs on the disks, and how long a backup of many takes: the figures of capacity.md.

30,000 raids of the simulator, a quarter of an hour of the real game's, are stored and sent as
always. `*_bytes` are bytes a raid: of PostgreSQL by schema with indexes, `index_bytes` of them,
the outbox (kept for seven days) and WAL apart; of ClickHouse after its merges, and of a backup.
`player_bytes` is a player with their counters. `backup_per_s` and `restore_per_s` are raids a
second, the restore with everything it counts again.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.backup.making import CLICKHOUSE, make
from raidhub_dagster.backup.restoring import restore_all
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage import clickhouse
from raidhub_dagster.storage.clickhouse_lookups import refresh_lookups
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.clickhouse_sender import send_pending
from raidhub_dagster.storage.postgres import connect
from simulator import definitions
from simulator.reports import Reports
from simulator.world import FIRST_ID, World, WorldConfig
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server, work

RAIDS = 30_000
RATE = 30.0  # raids a second: the days that an aggregate has are few, as on a real day
PLAYERS = 60_000
JOBS = 2

_SIZES = """
SELECT n.nspname || CASE WHEN c.relname = 'outbox' THEN '.outbox' ELSE '' END AS part,
       sum(pg_total_relation_size(c.oid)), sum(pg_indexes_size(c.oid))
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relname NOT IN ('player', 'player_stats', 'player_identity')
GROUP BY part
"""
_PLAYERS = """
SELECT (pg_total_relation_size('core.player') + pg_total_relation_size('core.player_stats')
        + pg_total_relation_size('streaming.player_identity'))::float
       / (SELECT count(*) FROM core.player)
"""
_PARTS = """
SELECT table = 'instance', sum(bytes_on_disk) FROM system.parts
WHERE active AND database = currentDatabase() GROUP BY 1
"""


@contextmanager
def stores(folder: Path) -> Iterator[tuple[Settings, Connection, Client]]:
    with server() as postgres:
        address = {"clickhouse_host": HOST, "clickhouse_http_port": free_port()}
        settings = postgres.model_copy(update=address)
        engine = ClickhouseServer(settings, folder / "engine")
        with running(engine, folder / "engine.log"):
            migrate_clickhouse(settings)
            with (
                closing(connect(settings, "bench")) as connection,
                closing(clickhouse.connect(settings, "bench", timeout_s=1800)) as client,
            ):
                refresh_lookups(connection, client)
                yield settings, connection, client


def bodies(raids: int) -> list[bytes]:
    """Messages of raids that ended in the last hours, all sizes of teams among them."""
    epoch = time.time() - raids / RATE - 3600
    config = WorldConfig(
        seed=7, epoch=epoch, rate=RATE, players=PLAYERS, raid_share=1.0, historic_share=0.0
    )
    world = World(definitions.load(definitions.DEFAULT_FOLDER), config)
    reports = Reports(world)
    ids = range(FIRST_ID, FIRST_ID + raids)
    return [pack(reports.response(world.run(i)).encode()) for i in ids]


def run(raids: int = RAIDS) -> Figures:
    with tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        folder = Path(name)
        with stores(folder) as (settings, connection, client):
            messages = bodies(raids)
            before = _number(connection, "SELECT pg_current_wal_lsn() - '0/0'")
            work(settings, messages)
            wal = _number(connection, "SELECT pg_current_wal_lsn() - '0/0'") - before
            later = datetime.now(UTC) + timedelta(minutes=1)
            while send_pending(connection, client, now=later).rows:
                pass
            stored = _number(connection, "SELECT count(*) FROM core.instance")
            figures = {
                "body_bytes": sum(map(len, messages)) / len(messages),
                "wal_bytes": wal / stored,
                **_postgres(connection, stored),
                **_clickhouse(client, stored),
                **_backup(settings, folder / "backup", stored),
            }
    return figures


def _postgres(connection: Connection, stored: float) -> Figures:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SIZES)
        sizes = {part: (float(total), float(indexes)) for part, total, indexes in cursor}
    parts = {"raw": "raw", "core": "core", "extended": "extended", "outbox": "streaming.outbox"}
    figures = {f"{name}_bytes": sizes[part][0] / stored for name, part in parts.items()}
    kept = sum(sizes[part][1] for part in ("raw", "core", "extended"))
    figures["index_bytes"] = kept / stored
    figures["player_bytes"] = _number(connection, _PLAYERS)
    return figures


def _clickhouse(client: Client, stored: float) -> Figures:
    client.command("OPTIMIZE TABLE instance FINAL")
    found = {bool(is_base): size for is_base, size in client.query(_PARTS).result_rows}
    return {
        "clickhouse_bytes": found[True] / stored,
        "aggregate_bytes": found.get(False, 0) / stored,
    }


def _backup(settings: Settings, folder: Path, stored: float) -> Figures:
    started = time.perf_counter()
    made = make(settings, folder, jobs=JOBS, tell=lambda _: None)
    backup_s = time.perf_counter() - started
    size = sum(file.bytes for file in made.files.values())
    analytics = sum(f.bytes for name, f in made.files.items() if name.startswith(CLICKHOUSE))
    target = settings.model_copy(update={"postgres_db": "again", "clickhouse_db": "again"})
    started = time.perf_counter()
    restore_all(target, folder, force=False, jobs=JOBS, hours=0, tell=lambda _: None)
    return {
        "backup_bytes": size / stored,
        "backup_clickhouse_bytes": analytics / stored,
        "backup_per_s": stored / backup_s,
        "restore_per_s": stored / (time.perf_counter() - started),
    }


def _number(connection: Connection, statement: str) -> float:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
        ((number,),) = cursor.fetchall()
    return float(number)


if __name__ == "__main__":
    report(run)
