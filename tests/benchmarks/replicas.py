"""One, two and three atlas processes on one ledger: how the crawl grows.

`paced_N` gives each process eight fetches of 40 ms at a time, about 190 ids/s: what they cost each
other beside the machine's cores. `unlimited_N` lets each go as fast as it can, zeus included; there
the simulator and zeus, one Python process each, and the cores are the limit, hence
`simulator_cores_N` and `atlas_cores_N`, the cores that each kept busy. All in ids/s, from the first
lease to the last block done. Nobody takes the raids off their queue: hermes would share the cores.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from raidhub_dagster.stack.process import find_program, free_port
from tests.benchmarks.machine import Figures, report
from tests.support.system import DAGSTER, FIRST_ID, System, system


def run(most: int = 3, paced_ids: int = 6000, unlimited_ids: int = 30_000) -> Figures:
    figures: Figures = {}
    everything = sum(range(1, most + 1)) * (paced_ids + unlimited_ids)
    with tempfile.TemporaryDirectory(prefix="raidhub-bench-") as name:
        folder = Path(name)
        simulator = f"--calm --head {FIRST_ID + everything + 1000}"
        without = ("hermes", "relay", *DAGSTER)
        with system(folder, simulator=simulator, without=without, ZEUS_STATS_RATE="0") as running:
            begin = FIRST_ID
            for replicas in range(1, most + 1):
                ids = replicas * paced_ids
                running.ask("/sim/faults", latency_ms=40.0, latency_sigma=0.0)
                pace = ("--workers", "8", "--min-workers", "8", "--max-workers", "8")
                found = _crawl(running, folder, replicas, begin, ids, *pace, "--block-size", "100")
                figures[f"paced_{replicas}"] = found["ids_per_second"]
                begin += ids
                ids = replicas * unlimited_ids
                running.ask("/sim/faults", latency_ms=0.0)
                found = _crawl(running, folder, replicas, begin, ids, "--max-workers", "32")
                figures[f"unlimited_{replicas}"] = found["ids_per_second"]
                figures[f"simulator_cores_{replicas}"] = found["simulator_cores"]
                figures[f"atlas_cores_{replicas}"] = found["atlas_cores"]
                begin += ids
    for kind in ("paced", "unlimited"):
        figures[f"{kind}_speedup"] = figures[f"{kind}_2"] / figures[f"{kind}_1"]
    return figures


def _crawl(
    running: System, folder: Path, replicas: int, begin: int, ids: int, *flags: str
) -> Figures:
    last = begin + ids - 1
    simulator = running.process("simulator")
    leased = f"SELECT count(*) FROM streaming.crawl_block WHERE first_id BETWEEN {begin} AND {last}"
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_atlas(folder, "--target", str(FIRST_ID), "--buffer", "0",
                                       "--until", str(last), *flags))
            for _ in range(replicas)
        ]  # fmt: skip
        while not running.number(leased):
            assert all(process.poll() is None for process in processes), "atlas ended"
            time.sleep(0.02)
        started, used = time.monotonic(), _cpu_s(simulator)
        started_s = [_cpu_s(psutil.Process(process.pid)) for process in processes]
        atlas_s = list(started_s)
        while any(process.poll() is None for process in processes):
            for place, process in enumerate(processes):
                if process.poll() is None:
                    atlas_s[place] = _cpu_s(psutil.Process(process.pid))
            time.sleep(0.2)
    elapsed_s = time.monotonic() - started
    seconds = running.number(
        "SELECT extract(epoch FROM max(done_at) - min(leased_at)) * 1000"
        f" FROM streaming.crawl_block WHERE first_id BETWEEN {begin} AND {last}"
    )
    return {
        "ids_per_second": ids / seconds * 1000,
        "simulator_cores": (_cpu_s(simulator) - used) / elapsed_s,
        "atlas_cores": (sum(atlas_s) - sum(started_s)) / elapsed_s,
    }


@contextmanager
def _atlas(folder: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A replica beside the stack of `folder`, which it finds there."""
    command = [find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, "-m"]
    environment = {**os.environ, "ATLAS_METRICS_PORT": str(free_port())}
    with (folder / "atlas.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "raidhub_dagster", "atlas", *flags],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    report(run)
