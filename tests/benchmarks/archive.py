"""An archive of ten million lines in small: scan, parse and store, one process, 1 % raids.

`lines_per_second_per_core` counts the processor time of the importing process and of its durable
PostgreSQL's backend together, so that work on a second core is not free; `lines_per_second` is by
the clock. Both are medians over files of other ids. `untracked_lines_per_second_per_core` is a file
without raids. A public archive has 3.1 kB a line (50 TB of 16 billion reports); these flattened
lines of one player to twelve are a third longer (`line_bytes`), a raid of six has 13 kB.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from os import sysconf
from pathlib import Path
from random import Random
from resource import RUSAGE_SELF, getrusage
from typing import NamedTuple

import zstandard
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.archives.importing import import_archive
from raidhub_dagster.archives.source import FolderSource
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import HASHES, server
from tests.support.reports import KINGS_FALL, archived, make_entry, make_report

LINES = 50_000
ROUNDS = 5
FIRST_ID = 9_000_000_000
PLAYERS = 600_000
# Players of what is no raid: patrols and story alone, strikes, Crucible.
_PARTIES = (1, 1, 1, 1, 1, 1, 2, 3, 3, 12)
_BEGIN = datetime(2021, 1, 1, tzinfo=UTC)
_MARK = "4611686018000000%03d"


class Round(NamedTuple):
    lines_per_cpu_s: float
    lines_per_s: float


def write_file(folder: Path, number: int, raids_of_100: int) -> tuple[str, int]:
    """File `number` of LINES lines; its name, and the bytes of its lines."""
    first = FIRST_ID + number * 10_000_000
    name = f"{first}-{first + 9_999_999}"
    size = 0
    with (
        (folder / f"{name}.jsonl.zst").open("wb") as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file) as packed,
    ):
        for line in _lines(first, raids_of_100):
            size += len(line)
            packed.write(line)
    return name, size


def _lines(first: int, raids_of_100: int) -> Iterator[bytes]:
    strikes = [(_template(count, mode=18, weapons=3), count) for count in _PARTIES]
    raid = _template(6, mode=4, weapons=8)
    for number in range(LINES):
        rng = Random(first + number)
        is_raid = number % 100 < raids_of_100
        text, count = (raid, 6) if is_raid else rng.choice(strikes)
        for player in range(1, count + 1):
            text = text.replace(_MARK % player, f"46116860190{rng.randrange(PLAYERS):08}")
        text = text.replace("16000000001", str(first + number))
        period = _BEGIN + timedelta(seconds=number)
        text = text.replace("2025-01-20T20:00:00", period.strftime("%Y-%m-%dT%H:%M:%S"))
        yield text.replace(str(KINGS_FALL), str(rng.choice(HASHES) if is_raid else 777)).encode()


def _template(players: int, *, mode: int, weapons: int) -> str:
    used = [(3_000_000_000 + 7 * n, 40 - n, 9) for n in range(weapons)]
    entries = [make_entry(n, kills=50 + n, deaths=1, weapons=used) for n in range(1, players + 1)]
    return archived(make_report(players=entries, mode=mode)).decode()


def load(settings: Settings, folder: Path, name: str) -> Round:
    with closing(connect(settings, "bench")) as connection:
        cpu_s, started = _cpu_s(connection), time.perf_counter()
        done = import_archive(connection, FolderSource(folder), name)
        cpu_s, seconds = _cpu_s(connection) - cpu_s, time.perf_counter() - started
    lines = done.progress.place.line
    if lines != LINES or set(done.progress.counts) - {"stored", "non_raid"}:
        raise RuntimeError(f"the archive of the benchmark was not stored: {done.progress.counts}")
    return Round(lines / cpu_s, lines / seconds)


def _cpu_s(connection: Connection) -> float:
    """Of this process and of the server's process for `connection`."""
    own = getrusage(RUSAGE_SELF)
    stat = Path(f"/proc/{connection.info.backend_pid}/stat").read_text("utf-8")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return own.ru_utime + own.ru_stime + (int(user) + int(system)) / sysconf("SC_CLK_TCK")


def run(rounds: int = ROUNDS) -> Figures:
    with server() as settings, tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        folder = Path(name)
        empty, _ = write_file(folder, 0, 0)
        files = [write_file(folder, number, 1) for number in range(1, rounds + 1)]
        untracked = [load(settings, folder, empty)]
        done = [load(settings, folder, file) for file, _ in files]
    return {
        "lines_per_second_per_core": statistics.median(r.lines_per_cpu_s for r in done),
        "lines_per_second": statistics.median(r.lines_per_s for r in done),
        "untracked_lines_per_second_per_core": untracked[0].lines_per_cpu_s,
        "line_bytes": statistics.mean(size / LINES for _, size in files),
        "peak_rss_mb": getrusage(RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    report(run)
