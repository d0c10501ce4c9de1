"""Refresh of the two large leaderboards with a million players, while readers page through them.

`global_s` and `raid_s` are medians over rounds; before each round a day's play changes a tenth of
the players, which moves nearly every position. `*_longest_read_s` is the longest that one page took
a reader who asks for a hundred a second, `*_pages` how many he got meanwhile. `*_first_s` is the
first fill, before anybody can read, `*_cpu_s` the processor time of a refresh: the better figure
where the machine does other things as well.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from random import Random

import psutil
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.leaderboards import refresh_view
from raidhub_dagster.storage.postgres import connect
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server

PLAYERS = 1_000_000
STATS = 5_000_000
ROUNDS = 3
# Without it the reader, who costs 2 ms a page, would take one of two cores for himself.
PAUSE_S = 0.01

# Clears as they are: half of the players have a handful, few have thousands. One in 300 has all
# raids; one in fifty is private or known to cheat.
MAKE_PLAYERS = """
SELECT setseed(0.5);
INSERT INTO core.player (
    membership_id, membership_type, display_name, bungie_global_display_name,
    bungie_global_display_name_code, last_seen, clears, fresh_clears, sherpas,
    total_time_played_seconds, sum_of_best, wfr_score, cheat_level, is_private
)
SELECT 4611686018400000000 + n, 3, 'Guardian ' || n, 'Guardian ' || n, '0001',
       timestamptz '2026-01-01' - random() * interval '3000 days',
       0, 0, 0, 0, CASE WHEN n %% 300 = 0 THEN 10000 + (random() * 50000)::int END,
       CASE WHEN n %% 200 = 0 THEN random() * 100 ELSE 0 END,
       CASE WHEN n %% 100 = 0 THEN 2 ELSE 0 END, n %% 101 = 0
FROM generate_series(1, %(players)s) AS n;
"""
# Without triggers: the foreign keys of five million rows hold by construction.
MAKE_STATS = """
SELECT setseed(0.25), set_config('session_replication_role', 'replica', true);
INSERT INTO core.player_stats (
    membership_id, activity_id, clears, fresh_clears, sherpas, total_time_played_seconds
)
SELECT membership_id, id, clears, (clears * random())::int, (clears * random() * 0.3)::int,
       (clears * (1500 + random() * 3000))::int
FROM (
    SELECT membership_id, a.id, 1 + (1500 * power(random(), 9))::int AS clears
    FROM core.player, definitions.activity_definition AS a
    WHERE a.is_raid AND random() < %(share)s
) AS made;
"""
# As the store writes: totals follow.
SUM = """
UPDATE core.player AS p
SET clears = s.clears, fresh_clears = s.fresh_clears, sherpas = s.sherpas,
    total_time_played_seconds = s.seconds
FROM (
    SELECT membership_id, sum(clears) AS clears, sum(fresh_clears) AS fresh_clears,
           sum(sherpas) AS sherpas, sum(total_time_played_seconds) AS seconds
    FROM core.player_stats GROUP BY membership_id
) AS s
WHERE p.membership_id = s.membership_id AND p.clears <> s.clears;
"""
PLAY = """
UPDATE core.player_stats
SET clears = clears + 1, fresh_clears = fresh_clears + 1,
    total_time_played_seconds = total_time_played_seconds + 3000
WHERE membership_id %% 10 = %(round)s AND (membership_id + activity_id) %% 3 = 0;
"""
PAGES = {
    "individual_global_leaderboard": (
        "SELECT * FROM leaderboard.individual_global_leaderboard AS b"
        " JOIN core.player USING (membership_id)"
        " WHERE clears_position > %(skip)s AND clears_position <= %(skip)s + 50"
        " ORDER BY clears_position"
    ),
    "individual_raid_leaderboard": (
        "SELECT * FROM leaderboard.individual_raid_leaderboard AS b"
        " JOIN core.player USING (membership_id)"
        " WHERE activity_id = 4 AND b.clears_position > %(skip)s"
        " AND b.clears_position <= %(skip)s + 50 ORDER BY b.clears_position"
    ),
}


@dataclass
class Reader:
    """Pages through one board until it is stopped; counts pages and keeps the longest wait."""

    settings: Settings
    view: str
    last: int
    pages: int = 0
    longest_s: float = 0.0

    def read(self, stopping: threading.Event) -> None:
        rng = Random(1)
        with closing(connect(self.settings, "bench-reader")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not stopping.wait(PAUSE_S):
                    started = time.perf_counter()
                    cursor.execute(PAGES[self.view], {"skip": rng.randrange(self.last - 50)})
                    assert len(cursor.fetchall()) == 50
                    self.longest_s = max(self.longest_s, time.perf_counter() - started)
                    self.pages += 1


@contextmanager
def reading(reader: Reader) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=reader.read, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def run(players: int = PLAYERS, stats: int = STATS, rounds: int = ROUNDS) -> Figures:
    figures: Figures = {}
    with server() as settings, closing(connect(settings, "bench")) as connection:
        _fill(connection, players, stats)
        for short, view in (
            ("global", "individual_global_leaderboard"),
            ("raid", "individual_raid_leaderboard"),
        ):
            first = refresh_view(connection, view, timeout_s=0)
            reader = Reader(settings, view, last=players // 5)
            backend = psutil.Process(connection.info.backend_pid)
            seconds, cpu = [], []
            for number in range(rounds):
                _execute(connection, PLAY, {"round": number})
                _execute(connection, SUM)
                before = sum(backend.cpu_times()[:2])
                with reading(reader):
                    seconds.append(refresh_view(connection, view, timeout_s=0).seconds)
                cpu.append(sum(backend.cpu_times()[:2]) - before)
            assert reader.pages > rounds
            figures |= {
                f"{short}_s": statistics.median(seconds),
                f"{short}_cpu_s": statistics.median(cpu),
                f"{short}_longest_read_s": reader.longest_s,
                f"{short}_pages": reader.pages,
                f"{short}_first_s": first.seconds,
                f"{short}_rows": first.rows,
            }
    return figures


def _fill(connection: Connection, players: int, stats: int) -> None:
    _execute(connection, MAKE_PLAYERS, {"players": players})
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM definitions.activity_definition WHERE is_raid")
        ((raids,),) = cursor.fetchall()
    _execute(connection, MAKE_STATS, {"share": stats / players / raids})
    _execute(connection, SUM)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE core.player, core.player_stats")
    connection.autocommit = False


def _execute(
    connection: Connection, statement: str, values: dict[str, object] | None = None
) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement, values or {})


if __name__ == "__main__":
    report(run)
