"""The weekly crawl of clans through zeus, at the limit of www: 16 addresses, 12 requests a second.

1,500 players at the top, in 500 clans of the simulator, which enforces 12/s and a burst of 25 on
each address. `seconds` is the crawl from the first player asked to the last clan committed, as the
asset does it with `reqs` 14; `allowed_s` is what its requests take at least under that limit, and
`ratio` how much longer it was. Members who are no players yet, nine of ten, are put to the queue.
"""

import os
import tempfile
import time
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import requests
from psycopg2.extras import execute_values
from pydantic import SecretStr

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.clans.top import (
    ATTEMPTS,
    ask_for_clans,
    choose_top_players,
    crawl_clans,
    pause_s,
)
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage.leaderboards import refresh_view
from raidhub_dagster.storage.postgres import Pool, connect
from simulator import definitions
from simulator.world import CLAN_BLOCK, FIRST_ID, World, WorldConfig
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.store import server
from tests.benchmarks.zeus import ADDRESSES, KEY, running, wait_for, zeus

PLAYERS, CLANS = 1500, 500
REQS = 14
RATE_PER_S, BURST = 12, 25  # of one address


def choose(settings: Settings, world: World) -> None:
    """Puts the first three members of each clan on the boards, and chooses them."""
    players = [world.player(n * CLAN_BLOCK + i) for n in range(CLANS) for i in range(3)]
    rows = [(p.membership_id, p.membership_type, n + 1) for n, p in enumerate(players)]
    statement = (
        "INSERT INTO core.player (membership_id, membership_type, clears, last_seen) VALUES %s"
    )
    with closing(connect(settings, "bench")) as connection:
        with connection, connection.cursor() as cursor:
            execute_values(cursor, statement, rows, "(%s, %s, %s, now())")
        for view in ("individual_global_leaderboard", "individual_raid_leaderboard"):
            refresh_view(connection, view, timeout_s=0)
        assert choose_top_players(connection, top=PLAYERS, timeout_s=0)[0] == PLAYERS


def crawl(settings: Settings) -> Figures:
    told: list[object] = []
    process = psutil.Process()
    began, cpu = time.perf_counter(), process.cpu_times()
    with closing(Pool(settings, "bench", size=8)) as pool, ExitStack() as stack:
        clients = [
            stack.enter_context(
                BungieClient.from_settings(settings, attempts=ATTEMPTS, pause_s=pause_s)
            )
            for _ in range(REQS)
        ]
        fresh = timedelta(hours=12)
        asked = ask_for_clans(pool, clients, fresh_for=fresh, tell=told.append)
        done = crawl_clans(
            pool,
            clients,
            fresh_for=fresh,
            forget_after=timedelta(days=90),
            tell=told.append,
        )
    seconds, after = time.perf_counter() - began, process.cpu_times()
    return {
        "seconds": seconds,
        "own_cpu_s": after.user + after.system - cpu.user - cpu.system,
        "failed": len(asked.failed) + len(done.failed),
        "clans": done.clans,
        "members": done.members + done.pending,
    }


def run() -> Figures:
    cores = set(os.sched_getaffinity(0))
    people = CLANS * CLAN_BLOCK
    world = World(
        definitions.load(definitions.DEFAULT_FOLDER),
        WorldConfig(first_id=FIRST_ID, players=people, odd_share=0.0),
    )
    port = free_port()
    flags = [*("--port", port, "--head", FIRST_ID + 1), *("--players", people), "--calm"]
    for fault in (f"other_limit_per_s={RATE_PER_S}", f"other_burst={BURST}"):
        flags += ["--fault", fault]
    with (
        server() as database,
        tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name,
        running(Path(name), "-m", "simulator", *flags, cores=cores),
        zeus(Path(name), port, cores=cores, ZEUS_WWW_RATE=RATE_PER_S, ZEUS_WWW_BURST=BURST) as (
            zeus_port,
            _,
        ),
    ):
        wait_for(f"http://{HOST}:{port}/healthz")
        time.sleep(3)  # the budgets fill up
        settings = database.model_copy(
            update={
                "bungie_api_key": SecretStr(KEY),
                "bungie_url_base": f"http://{HOST}:{zeus_port}",
            }
        )
        choose(settings, world)
        figures = crawl(settings)
        budgets: dict[str, Any] = requests.get(
            f"http://{HOST}:{port}/truth/budgets", timeout=10
        ).json()
    asked = sum(kind["requests"] for kinds in budgets.values() for kind in kinds.values())
    allowed_s = (asked - ADDRESSES * BURST) / (ADDRESSES * RATE_PER_S)
    over = sum(kind["over_budget"] for kinds in budgets.values() for kind in kinds.values())
    return figures | {
        "requests": asked,
        "allowed_s": allowed_s,
        "ratio": figures["seconds"] / allowed_s,
        "budget_violations": over,
    }


if __name__ == "__main__":
    report(run)
