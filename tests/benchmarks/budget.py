"""The crawl at the API's limit: 16 addresses of 40 requests a second, for five minutes.

Everything runs on this machine: simulator (which counts what breaks a budget), zeus, atlas,
broker, hermes, relay, both stores and Dagster's three processes. `budget_share` is what was
fetched of what the budget allows, `ids_per_second` the same as a number; `raids_committed_p95_s`
goes from fetch to commit; `budget_violations` are requests beyond an address's budget, by the
simulator's own log.
"""

import tempfile
import time
from pathlib import Path

from tests.benchmarks.crawl import committed_p95_s
from tests.benchmarks.machine import Figures, report
from tests.support.system import System, system, wait_for

SECONDS = 300
WARM_S = 30  # the burst is spent and the workers have grown
ADDRESSES = 16
RATE = 40.0  # a second and address


def run(seconds: int = SECONDS) -> Figures:
    ids = int((seconds + 10 * WARM_S) * ADDRESSES * RATE)
    with (
        tempfile.TemporaryDirectory(prefix="raidhub-bench-") as folder,
        system(
            Path(folder),
            simulator=(
                f"--calm --players 60000 --historic-share 0 --rate 640 --backlog {ids}"
                f" --fault report_limit_per_s={RATE:g} --fault report_burst=90"
                " --fault other_limit_per_s=12 --fault other_burst=25"
            ),
            atlas="--workers 100",
            without=(),
        ) as running,
    ):
        wait_for("the crawl is under way", lambda: _fetched(running) > 0, limit_s=60)
        time.sleep(WARM_S)
        before, began = _fetched(running), time.monotonic()
        time.sleep(seconds)
        after, ended = _fetched(running), time.monotonic()
        per_s = (after - before) / (ended - began)
        return {
            "ids_per_second": per_s,
            "budget_share": per_s / (ADDRESSES * RATE),
            "raids_committed_p95_s": committed_p95_s(running),
            "budget_violations": float(_violations(running)),
        }


def _fetched(running: System) -> int:
    """Reports asked of the simulator so far."""
    return sum(each["report"]["requests"] for each in _budgets(running))


def _violations(running: System) -> int:
    return sum(kind["over_budget"] for each in _budgets(running) for kind in each.values())


def _budgets(running: System) -> list[dict[str, dict[str, int]]]:
    return list(running.ask("/truth/budgets").values())


if __name__ == "__main__":
    report(run)
