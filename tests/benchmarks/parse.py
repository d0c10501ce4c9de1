"""How long one report takes: the probe that drops 95 % of them, and the parser for raids."""

from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import probe
from tests.benchmarks.machine import report
from tests.support.reports import encode, make_realistic_report

ROUNDS = 2000


def run() -> dict[str, float]:
    """Medians in milliseconds: `raid_ms` for a raid of six, `probe_ms` for a strike as large."""
    raid, strike = encode(make_realistic_report()), encode(make_realistic_report(mode=18))
    now = datetime.now(UTC)
    if not isinstance(parse(raid, now=now), Instance):
        raise TypeError("the report of the benchmark does not parse")
    return {
        "raid_ms": _median_ms(lambda: parse(raid, now=now)),
        "probe_ms": _median_ms(lambda: probe(strike, ())),
    }


def _median_ms(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = perf_counter()
        work()
        seconds.append(perf_counter() - started)
    return median(seconds) * 1000


if __name__ == "__main__":
    report(run)
