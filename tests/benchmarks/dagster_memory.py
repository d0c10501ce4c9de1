"""Memory of the code server and the daemon at work, with all schedules and sensors on.

A whole stack runs against the simulator, so that sensors have something to report. The webserver
is not counted, nor are the processes of runs, which end with them. DAGSTER_MEMORY_MINUTES says
for how long, 10 unless set; the goal of 600 MB is for 60. Figures are resident megabytes, with
pages that processes share counted in each: `daemon_mb` and `code_mb` at the end, `peak_mb` the
largest sum, `growth_mb` what came on top after a third of the time.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.benchmarks.machine import Figures, report
from tests.support.system import FIRST_ID, System, system

MINUTES = float(os.environ.get("DAGSTER_MEMORY_MINUTES", "10"))
EVERY_S = 10.0
MIB = 2**20


def resident(process: psutil.Process) -> float:
    """MB of a process and of what stays below it: servers and helpers, no runs with their steps."""
    own = process.memory_info().rss / MIB
    return own + sum(_resident_below(child) for child in process.children())


def _resident_below(process: psutil.Process) -> float:
    try:
        return 0.0 if "execute_run" in " ".join(process.cmdline()) else resident(process)
    except psutil.NoSuchProcess:  # helpers come and go; the server itself may not
        return 0.0


def run(minutes: float = MINUTES) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="raidhub-bench-") as folder,
        system(
            Path(folder),
            simulator=f"--calm --players 2000 --rate 5 --head {FIRST_ID + 1000}",
            atlas="--workers 4",
            without=(),
            limit_s=600,
        ) as running,
    ):
        sums, daemon, code = watch(running, minutes)
    return {
        "minutes": minutes,
        "daemon_mb": daemon,
        "code_mb": code,
        "end_mb": sums[-1],
        "peak_mb": max(sums),
        "growth_mb": max(sums) - max(sums[: len(sums) // 3 + 1]),
    }


def watch(running: System, minutes: float) -> tuple[list[float], float, float]:
    """Sums by time, and the two parts at the end."""
    sums = []
    begun = time.monotonic()
    daemon = code = 0.0
    while time.monotonic() - begun < minutes * 60:
        daemon, code = (resident(running.process(n)) for n in ("dagster-daemon", "dagster-code"))
        sums.append(daemon + code)
        if len(sums) % 6 == 1:
            minute = (time.monotonic() - begun) / 60
            print(f"{minute:5.1f} min {daemon:6.0f} {code:6.0f} MB", file=sys.stderr, flush=True)
        time.sleep(EVERY_S)
    return sums, daemon, code


if __name__ == "__main__":
    report(run)
