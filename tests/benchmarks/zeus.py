"""What zeus costs: time added to a request at the full budget, and requests a second of one core.

`p50_added_ms` and `p99_added_ms`: 640 requests a second through zeus with 16 addresses, less the
same from 16 addresses straight to the simulator, which enforces 40/s and a burst of 90 on each.
`budget_violations` is its count of requests beyond that, `budget_used` the share of 640/s that 64
callers get who always ask again. `requests_per_second`: limits off, bodies of 25 kB, zeus alone on
one core, upstream and callers on the others; `zeus_cpu_share` is what it had of that core, and
`requests_per_cpu_second` leaves out what other programs took.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import requests
import uvloop

from raidhub_dagster.stack.process import find_program, free_port
from tests.benchmarks.machine import Figures, report
from tests.benchmarks.wire import closed_loop, open_loop, request

ADDRESSES = 16
BUDGET_PER_S = 40 * ADDRESSES
FIRST_ID, IDS = 16_790_000_001, 20_000
PATH = "/Platform/Destiny2/Stats/PostGameCarnageReport/"
KEY = "benchmark"
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(
    folder: Path, *command: object, cores: set[int], **environment: object
) -> Iterator[int]:
    """A process of ours that dies with the benchmark, on these cores; its id."""
    name = "-".join(str(part).rpartition(".")[2][:12] for part in command[:2])
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [find_program("setpriv"), "--pdeathsig=KILL", "--", sys.executable, *map(str, command)],
            cwd=folder,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                **{key: str(value) for key, value in environment.items()},
            },
            stdout=log,
            stderr=log,
        )
    os.sched_setaffinity(process.pid, cores)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


@contextmanager
def zeus(
    folder: Path, upstream: int, *, cores: set[int], **environment: object
) -> Iterator[tuple[int, int]]:
    """Port and process id."""
    port = free_port()
    url = f"http://127.0.0.1:{upstream}"
    with running(
        folder,
        *("-m", "raidhub_dagster", "zeus", "--v6_n", ADDRESSES, "--port", port),
        cores=cores,
        BUNGIE_API_KEY=KEY,
        IPV6="127.0.1.1",
        ZEUS_STATS_URL=url,
        ZEUS_WWW_URL=url,
        ZEUS_METRICS_PORT=free_port(),
        **environment,
    ) as pid:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        yield port, pid


def wait_for(url: str) -> None:
    limit = time.monotonic() + 30
    while True:
        try:
            requests.get(url, timeout=5)
        except requests.ConnectionError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.1)
        else:
            return


def throughput(folder: Path, cores: list[int]) -> Figures:
    """All that one core gives; `cores` is this process's set, zeus gets the first."""
    own, others = {cores[0]}, set(cores[1:] or cores)
    port = free_port()
    serve = f"from tests.benchmarks.wire import serve; serve({port}, 25_000)"
    asked = request(f"{PATH}{FIRST_ID}/", KEY)
    os.sched_setaffinity(0, others)
    try:
        with (
            running(folder, "-c", serve, cores=others),
            zeus(folder, port, cores=own, ZEUS_STATS_RATE=0) as (zeus_port, pid),
        ):
            process = psutil.Process(pid)

            def cpu_s() -> float:
                times = process.cpu_times()
                return float(times.user + times.system)

            windows = uvloop.run(
                closed_loop(zeus_port, lambda: asked, 64, [2.0, *[3.0] * 7], cpu_s)
            )
    finally:
        os.sched_setaffinity(0, set(cores))
    return {
        "requests_per_second": median(n / seconds for n, seconds, _ in windows),
        "zeus_cpu_share": median(cpu / seconds for _, seconds, cpu in windows),
        "requests_per_cpu_second": median(n / cpu for n, _, cpu in windows),
    }


def added(folder: Path, cores: list[int]) -> Figures:
    """What a request takes longer, and whether the budgets hold."""
    port = free_port()
    ids = count()

    def next_report() -> bytes:
        return request(f"{PATH}{FIRST_ID + next(ids) % IDS}/", KEY)

    flags = [*("--port", port, "--start-id", FIRST_ID, "--head", FIRST_ID + IDS), "--calm"]
    for fault in ("report_limit_per_s=40", "report_burst=90"):
        flags += ["--fault", fault]
    straight_from = [f"127.0.2.{n + 1}" for n in range(ADDRESSES)]
    direct: list[float] = []
    through: list[float] = []
    with (
        running(folder, "-m", "simulator", *flags, cores=set(cores)),
        zeus(folder, port, cores=set(cores)) as (zeus_port, _),
    ):
        wait_for(f"http://127.0.0.1:{port}/healthz")
        time.sleep(3)  # the budgets fill up
        for _ in range(3):  # in turns: what else runs on the machine disturbs both alike
            for seconds, to, sources in (
                (direct, port, straight_from),
                (through, zeus_port, ["127.0.0.1"]),
            ):
                answers = uvloop.run(open_loop(to, next_report, BUDGET_PER_S, 12, sources))
                if set(answers.statuses) != {200}:
                    raise RuntimeError(f"not only successes: {answers.statuses}")
                seconds += answers.seconds
        windows = uvloop.run(closed_loop(zeus_port, next_report, 64, [10.0, *[5.0] * 6]))
        budgets: dict[str, Any] = requests.get(
            f"http://127.0.0.1:{port}/truth/budgets", timeout=10
        ).json()
    broken = sum(
        kind["over_budget"]
        for address, kinds in budgets.items()
        if address.startswith("127.0.1.")
        for kind in kinds.values()
    )
    return {
        "p50_added_ms": (median(through) - median(direct)) * 1000,
        "p99_added_ms": (_p99(through) - _p99(direct)) * 1000,
        "p50_direct_ms": median(direct) * 1000,
        "p99_direct_ms": _p99(direct) * 1000,
        "budget_violations": broken,
        "budget_used": sum(n for n, _, _ in windows)
        / sum(seconds for _, seconds, _ in windows)
        / BUDGET_PER_S,
    }


def _p99(values: list[float]) -> float:
    return quantiles(values, n=100)[-1]


def run() -> Figures:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="raidhub-bench-") as folder:
        return added(Path(folder), cores) | throughput(Path(folder), cores)


if __name__ == "__main__":
    report(run)
