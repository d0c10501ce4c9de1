"""Random deaths of every process during a crawl: at the end both stores equal the world's truth."""

import time
from contextlib import closing
from pathlib import Path
from random import Random

import psycopg2
import pytest

from raidhub_dagster.storage.postgres import connect
from tests.support.system import DAGSTER, FIRST_ID, System, system, wait_for
from tests.support.truth import assert_true, read_truth

# By `kill -9`; of PostgreSQL that is the postmaster, of ClickHouse the process with the engine.
KILLED = ("zeus", "atlas", "hermes", "relay", "rabbitmq", "postgres", "clickhouse")
RESTARTED = ("postgres", "clickhouse")  # in order, too: that is another way to end
# Everything that heals does so within seconds; what never heals stays out of the truth.
_MEAN = (
    "--players 3000 --historic-share 0.5 --fault late=0.01 --fault late_s=15 --fault blocked=0.05"
    " --fault blocked_s=15 --fault malformed=0.05 --fault malformed_s=10 --fault reset=0.003"
    " --fault truncated=0.003 --fault unexpected=0.003 --fault broken_json=0.002"
    " --fault bad_gateway=0.003"
)
_PATIENT = "--workers 24 --block-size 200 --lease-s 6 --retry-scale 0.02"


def test_kills_change_nothing(tmp_path: Path) -> None:
    """Nothing is lost and nothing counts twice, whoever dies when."""
    run_with_deaths(tmp_path, ids=9_000, latency_ms=60, deaths=14, seed=20)


@pytest.mark.soak
def test_half_an_hour_of_kills_changes_nothing(tmp_path: Path) -> None:
    """The same for long enough to meet what happens once in hundreds of deaths.

    Dagster dies too, with whatever its schedules and sensors have begun.
    """
    seed = int(time.time())
    run_with_deaths(tmp_path, ids=160_000, latency_ms=150, deaths=301, seed=seed, with_dagster=True)


def run_with_deaths(
    folder: Path,
    *,
    ids: int,
    latency_ms: int,
    deaths: int,
    seed: int,
    with_dagster: bool = False,
) -> None:
    head = FIRST_ID + ids - 1
    killed = (*KILLED, *DAGSTER) if with_dagster else KILLED
    ends = [(name, True) for name in killed] + [(name, False) for name in RESTARTED]
    luck = Random(seed)
    order = ends + luck.choices(ends, k=deaths - len(ends))
    luck.shuffle(order)
    print(f"seed {seed}")
    with system(
        folder,
        simulator=f"{_MEAN} --head {head} --fault latency_ms={latency_ms}",
        atlas=_PATIENT,
        without=() if with_dagster else DAGSTER,
        limit_s=300,
    ) as running:
        for number, (name, is_killed) in enumerate(order, start=1):
            # Between two deaths the crawl goes on for a while.
            if is_killed:
                wait_for(f"{name} is up", lambda n=name: running.kill(n), limit_s=60)  # type: ignore[misc]
            else:
                running.stop(name)
                running.start(name)
            wanted = FIRST_ID + ids * 0.8 * number / deaths
            wait_for("the crawl goes on", lambda w=wanted: _cursor(running) >= w, limit_s=300)  # type: ignore[misc]
        # With 24 fetches at a time and retries about 100 ids a second: the last fifth and the odd.
        # A withheld id whose message died with the broker is sent again after six minutes at most.
        wait_for(
            "everything there is was stored",
            lambda: _is_complete(running, head),
            limit_s=420 + ids / 5 / 50,
            pause_s=2,
        )
        running.supervisor.stop_process("atlas")
        with closing(connect(running.settings, "pytest")) as connection:
            assert assert_true(connection, running.simulator, FIRST_ID, head) > ids * 0.03
        recount = running.raidhub("verify", "--wait", 120)
        assert recount.returncode == 0, recount.stdout + recount.stderr
        if with_dagster:
            running.start("atlas")
            # A code server that died last needs half a minute to come back.
            wait_for("all are up", lambda: _is_healthy(running), limit_s=120, pause_s=5)


def _cursor(running: System) -> int:
    """Newest id that was ever leased; 0 while PostgreSQL is away."""
    try:
        return running.number("SELECT coalesce(max(next_id), 0) FROM streaming.crawl_cursor")
    except psycopg2.OperationalError:
        return 0


def _is_healthy(running: System) -> bool:
    """Every service, Dagster's three among them."""
    return running.raidhub("status").returncode == 0


def _is_complete(running: System, head: int) -> bool:
    raids = read_truth(running.simulator, "raids", from_=FIRST_ID, to=head)
    wanted = {raid["instance_id"] for raid in raids}
    stored = {row[0] for row in running.rows("SELECT instance_id FROM raw.pgcr")}
    return wanted <= stored
