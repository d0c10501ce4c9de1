"""Crawl to committed: simulator, zeus, atlas, broker, hermes, relay, both stores on one machine.

Zeus has no limit for reports: what is measured is how fast the machine could go. Players are asked
for at the rate that the API allows (16 addresses of 12 a second), because refreshing them without
a limit takes from the same two cores.

`ids_per_second` counts from the first lease to the last commit; `raids_committed_p95_s` is the way
from fetch to commit; the memory figures are the largest seen, `*_growth` what came on top after a
third of the time.
"""

import re
import tempfile
import time
from pathlib import Path

import requests

from tests.benchmarks.machine import Figures, report
from tests.support.system import FIRST_ID, System, system

IDS = 600_000  # ten minutes at the rate of the reference machine
MIB = 2**20


def run(ids: int = IDS) -> Figures:
    last = FIRST_ID + ids - 1
    with (
        tempfile.TemporaryDirectory(prefix="raidhub-bench-") as folder,
        system(
            Path(folder),
            # The head is beyond the end, so that the last id has successors.
            simulator=f"--calm --players 60000 --historic-share 0 --head {last + 1000}",
            atlas=f"--workers 32 --min-workers 32 --max-workers 64 --until {last}",
            ZEUS_STATS_RATE="0",
        ) as running,
    ):
        raids = running.ask(f"/truth/summary?from={FIRST_ID}&to={last}")["raids"]
        atlas, hermes = running.process("atlas"), running.process("hermes")
        memory: dict[str, list[int]] = {"atlas": [], "hermes": []}
        while running.number("SELECT count(*) FROM core.instance") < raids:
            if atlas.is_running():
                memory["atlas"].append(atlas.memory_info().rss)
            memory["hermes"].append(hermes.memory_info().rss)
            time.sleep(1)
        seconds = (
            running.number(
                "SELECT extract(epoch FROM (SELECT max(date_crawled) FROM raw.pgcr)"
                " - (SELECT min(leased_at) FROM streaming.crawl_block)) * 1000"
            )
            / 1000
        )
        p95 = committed_p95_s(running)
    figures = {"ids_per_second": ids / seconds, "raids_committed_p95_s": p95}
    for name, sizes in memory.items():
        figures[f"{name}_rss_mb"] = max(sizes) / MIB
        figures[f"{name}_growth_mb"] = (max(sizes) - max(sizes[: len(sizes) // 3 + 1])) / MIB
    return figures


def committed_p95_s(running: System) -> float:
    """Upper bound of the bucket of instance_fetch_to_commit_seconds that holds the percentile."""
    port = running.settings.hermes_metrics_port
    metrics = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    found = re.findall(r'fetch_to_commit_seconds_bucket\{le="([^"]+)"\} ([\d.e+]+)', metrics)
    buckets = [(float(bound), float(count)) for bound, count in found]
    return next(bound for bound, count in buckets if count >= 0.95 * buckets[-1][1])


if __name__ == "__main__":
    report(run)
