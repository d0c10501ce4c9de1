"""Back at the head after an hour's outage of the API, in virtual time.

640 ids a second are allowed (16 addresses, 40/s each) and 50 are published, so the backlog takes
305 s; `allowed_s` is a fifth more. `seconds_to_head` counts from the end of the outage until the
next id is younger than a minute, `missed` the rows that the outage made.
"""

from simulator.publication import Schedule
from tests.benchmarks.machine import Figures, report
from tests.support.virtual import FIRST, Api, Budget, Clock, Crawl

PER_S = 640.0
RATE = 50.0
BEGIN_S, OUTAGE_S = 600.0, 3600.0


def run() -> Figures:
    end_s = BEGIN_S + OUTAGE_S
    schedule = Schedule(epoch=0.0, rate=RATE, first_id=FIRST, silence_every_s=0)

    def api(clock: Clock) -> Api:
        return Api(clock, schedule, outages=((BEGIN_S, end_s),))

    crawl = Crawl(api, budget=Budget(per_s=PER_S, burst=16 * 90))
    crawl.start()
    crawl.run(end_s)
    while crawl.lag_s() >= 60:
        crawl.run(crawl.clock.time + 1)
    return {
        "seconds_to_head": crawl.clock.time - end_s,
        "allowed_s": 1.2 * OUTAGE_S * RATE / (PER_S - RATE),
        "missed": float(len(crawl.ledger.rows)),
    }


if __name__ == "__main__":
    report(run)
