"""The store alone, from message body to commit: durable PostgreSQL, all indexes, outbox, exactness.

`raids_per_second` is the median over rounds with two workers; `growth_ratio` is the time a raid
takes with 300 000 stored against 10 000. Both figures are the issue's own (docs/benchmarks.md).
All raids are young, as at the head. `duplicates_per_second` are the same messages once more,
`replacements_per_second` later fetches in which somebody has another kill.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from raidhub_dagster.pgcr.envelope import fetched_at, open_body, pack, stamped
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.postgres import PostgresServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.seeds import seed
from raidhub_dagster.storage.store import Report, Store
from raidhub_dagster.storage.young import Rechecks
from tests.benchmarks.machine import Figures, report
from tests.support.reports import KINGS_FALL, encode, make_entry, make_report

WORKERS = 2
BATCH = 50
# Who raids in a few weeks. With a tenth of them most batches share a player with those of the
# other worker, and one waits for the other's commit (docs/benchmarks.md).
PLAYERS = 600_000
FIRST_ID = 16_800_000_000
DURATION = 1600
# Of raids with one standard version each; a player's history spreads over them.
HASHES = (KINGS_FALL, 2381413764, 910380154, 3881495763, 1441982566, 4179289725, 2122313384)
# Recent, so that everybody stale is asked for: 300 000 raids 5 s apart end about now.
_BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=18)


class Bodies:
    """Message bodies of six-player raids in the order of play, made from one template a worker."""

    def __init__(self) -> None:
        weapons = [(3_000_000_000 + 7 * n, 40 - n, 9) for n in range(8)]
        entries = [
            make_entry(n, kills=150 + n, deaths=1, start=n, time=1500, weapons=weapons)
            for n in range(1, 7)
        ]
        self._template = encode(make_report(players=entries, duration=DURATION)).decode()

    def make(self, number: int) -> bytes:
        """The gzip of report `number`; neighbours share players as fireteams do."""
        rng = Random(number)
        team = rng.randrange(PLAYERS // 6)
        text = self._template
        for n in range(1, 7):
            # Two of six are guests of the fireteam, so that sherpas and first clears happen.
            who = team * 6 + n if n < 5 else rng.randrange(PLAYERS)
            text = text.replace(f'"{4_611_686_018_000_000_000 + n}"', f'"46116860190{who:08}"')
            text = text.replace(f"Guardian {n}", f"Guardian {who}")
        period = _BEGIN + timedelta(seconds=number * 5)
        text = text.replace('"16000000001"', f'"{FIRST_ID + number}"')
        text = text.replace("2025-01-20T20:00:00Z", period.strftime("%Y-%m-%dT%H:%M:%SZ"))
        text = text.replace(str(KINGS_FALL), str(rng.choice(HASHES)))
        return stamped(pack(text.encode()), period + timedelta(seconds=DURATION + 60))

    def make_later(self, number: int) -> bytes:
        """The same report as fetched a quarter of an hour later, with another number of kills."""
        body = self.make(number)
        plain = open_body(body).replace(b'"value":151.0', b'"value":152.0', 1)
        at = fetched_at(body)
        assert at is not None
        return stamped(pack(plain), at + timedelta(minutes=15))


def work(settings: Settings, bodies: Sequence[bytes]) -> float:
    """Seconds that one worker needs for its bodies, as hermes does it: decode, parse, store."""
    with closing(connect(settings, "bench")) as connection:
        store = Store(connection, rechecks=Rechecks.of(settings))
        started = time.perf_counter()
        for start in range(0, len(bodies), BATCH):
            store.store([_report(body) for body in bodies[start : start + BATCH]], source="bench")
        return time.perf_counter() - started


def _report(body: bytes) -> Report:
    parsed = parse(open_body(body), now=datetime.now(UTC))
    assert not isinstance(parsed, Rejection), parsed
    return Report(parsed, body)


@contextmanager
def server() -> Iterator[Settings]:
    """A private durable server, migrated and seeded."""
    with tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        settings = Settings(
            _env_file=None,
            postgres_host=HOST,
            postgres_port=free_port(),
            postgres_user="raidhub",
            postgres_password="bench",  # noqa: S106  of a server that lives for minutes
        )
        with running(PostgresServer(settings, folder / "postgres"), folder / "postgres.log"):
            migrate_postgres(settings)
            seed(settings)
            yield settings


class Load:
    """Stores ever more raids with a pool of workers."""

    def __init__(self, settings: Settings, pool: "multiprocessing.pool.Pool") -> None:
        self._settings = settings
        self._pool = pool
        self._next = 0

    def store(self, count: int) -> float:
        """Raids per second, from the first message to the last commit of the slower worker."""
        self._next += count
        return self.store_again(count, Bodies().make)

    def store_again(self, count: int, make: Callable[[int], bytes]) -> float:
        """The same for messages about the newest raids."""
        numbers = range(self._next - count, self._next)
        bodies = self._pool.map(make, numbers, chunksize=200)
        started = time.perf_counter()
        parts = [(self._settings, bodies[part::WORKERS]) for part in range(WORKERS)]
        self._pool.starmap(work, parts, chunksize=1)
        return count / (time.perf_counter() - started)


def run(small: int = 10_000, large: int = 300_000, rounds: int = 5) -> Figures:
    with server() as settings, multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        load = Load(settings, pool)
        load.store(small - 3_000)
        at_small = [load.store(3_000) for _ in range(rounds)]
        again = [load.store_again(3_000, Bodies().make) for _ in range(rounds)]
        replaced = load.store_again(3_000, Bodies().make_later)
        while load._next < large:
            load.store(10_000)
        at_large = [load.store(3_000) for _ in range(rounds)]
    return {
        "raids_per_second": statistics.median(at_small),
        "growth_ratio": statistics.median(at_small) / statistics.median(at_large),
        "duplicates_per_second": statistics.median(again),
        "replacements_per_second": replaced,
    }


if __name__ == "__main__":
    report(run)
