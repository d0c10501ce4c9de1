"""Two hours at the head in virtual time: bursts, silences of up to 40 minutes, ids that never come.

`share_404` is over all answers, tries of unresolved ids included, `share_404_first` over those of
ids in their block and of the head's polls, which is what the pace aims at; `gaps` were jumped by
mistake; `lag_p95_s` is the age of the next id outside of silences and the floods that follow. Worst
of three worlds each; `share_404_least` is the best.
"""

from raidhub_dagster.bungie.protocol import ResultKind
from simulator.faults import Faults
from simulator.publication import Schedule
from tests.benchmarks.machine import Figures, report
from tests.support.virtual import FIRST, Api, Clock, Crawl

DURATION_S = 7200.0
# Ids a second, seconds between silences and of each, latency of a fetch.
WORLDS = (
    (37.0, 5400.0, 2400.0, 0.06),
    (40.0, 2400.0, 300.0, 0.03),
    (50.0, 3600.0, 1500.0, 0.15),
)


def run() -> Figures:
    figures = [_ride(*world) for world in WORLDS]
    worst = {name: max(found[name] for found in figures) for name in figures[0]}
    least = ("min_workers", "share_404_least")
    return worst | {name: min(found[name] for found in figures) for name in least}


def _ride(rate: float, silence_every_s: float, silence_s: float, latency_s: float) -> Figures:
    schedule = Schedule(
        epoch=0.0,
        rate=rate,
        first_id=FIRST,
        silence_every_s=silence_every_s,
        silence_s=silence_s,
    )

    def api(clock: Clock) -> Api:
        return Api(clock, schedule, Faults())

    crawl = Crawl(api, latency_s=latency_s)
    process = crawl.start()
    crawl.run(DURATION_S)
    if crawl.ledger.uncovered():
        raise AssertionError("ids below the cursor are in no block and no gap")
    first = crawl.first_tries
    steady = sorted(s.lag_s for s in process.samples if s.lag_p20_s < 60)
    return {
        "share_404": crawl.share_404,
        "share_404_least": crawl.share_404,
        "share_404_first": first[ResultKind.NOT_FOUND] / first.total(),
        "gaps": float(len(crawl.ledger.gaps)),
        "min_workers": float(min(s.workers for s in process.samples)),
        "lag_p95_s": steady[int(0.95 * len(steady))],
    }


if __name__ == "__main__":
    report(run)
