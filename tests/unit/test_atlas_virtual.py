"""Atlas for hours of virtual time: the head, gaps, outages, and several processes on one ledger.

The long forms are the benchmarks `head` and `recovery`.
"""

from collections.abc import Callable

import pytest

from raidhub_dagster.bungie.protocol import PgcrResult
from simulator.faults import Faults
from simulator.publication import Schedule
from streaming.atlas.scaling import Mode
from tests.support.virtual import BLOCKED, FIRST, NON_RAID, Api, Budget, Clock, Crawl

RATE = 40.0
MINUTE_S = 60.0
HOUR_S = 3600.0


def schedule(*, silence_every_s: float = 0.0, silence_s: float = 0.0) -> Schedule:
    """Bursts every 5 s, and one silence in each `silence_every_s`."""
    return Schedule(
        epoch=0.0,
        rate=RATE,
        first_id=FIRST,
        silence_every_s=silence_every_s,
        silence_s=silence_s,
    )


def api(
    faults: Faults | None = None,
    *,
    published: Schedule | None = None,
    hole: int = 0,
    outages: tuple[tuple[float, float], ...] = (),
) -> Callable[[Clock], Api]:
    """`hole` ids are missing after the first 20 000."""
    begin = FIRST + 20_000
    return lambda clock: Api(
        clock,
        published or schedule(),
        faults,
        hole=(begin, begin + hole - 1) if hole else None,
        outages=outages,
    )


def test_rides_the_head_with_few_404s() -> None:
    """Each is a request for nothing; none at all would mean to be behind."""
    crawl = Crawl(api(Faults()))
    process = crawl.start()
    crawl.run(10 * MINUTE_S)
    crawl.answers.clear()
    crawl.run(30 * MINUTE_S)
    assert 0.01 < crawl.share_404 < 0.06
    assert max(s.lag_s for s in process.samples[40:]) < MINUTE_S
    assert crawl.ledger.gaps == []
    assert crawl.ledger.uncovered() == 0


def test_a_silence_of_forty_minutes_is_no_gap() -> None:
    """It comes several times a year; a jump would leave hours of reports to a sweep."""
    published = schedule(silence_every_s=1.1 * HOUR_S, silence_s=40 * MINUTE_S)
    crawl = Crawl(api(Faults(), published=published))
    process = crawl.start()
    crawl.run(1.1 * HOUR_S)
    assert len(process.searches) > 5
    assert crawl.ledger.gaps == []
    assert 0.01 < crawl.share_404 < 0.06
    assert min(s.workers for s in process.samples) >= 5
    assert Mode.PROBE in {s.mode for s in process.samples}
    assert crawl.ledger.uncovered() == 0


@pytest.mark.parametrize("size", [1140, 9996, 15_680])
def test_known_holes_are_walked_and_cost_no_gap(size: int) -> None:
    crawl = Crawl(api(hole=size))
    process = crawl.start()
    crawl.run(25 * MINUTE_S)
    assert crawl.ledger.gaps == []
    assert crawl.ledger.rows.keys() == set(range(FIRST + 20_000, FIRST + 20_000 + size))
    assert process.samples[-1].lag_s < MINUTE_S


@pytest.mark.parametrize("size", [100_000, 2_000_000])
def test_a_real_hole_is_jumped_with_one_gap(size: int) -> None:
    """Walking it would take hours and make millions of rows."""
    crawl = Crawl(api(hole=size))
    process = crawl.start()
    crawl.run(40 * MINUTE_S)
    (gap,) = crawl.ledger.gaps
    end = FIRST + 20_000 + size
    assert FIRST + 20_000 <= gap[0] <= FIRST + 22_000
    assert gap[1] + 1 == pytest.approx(end, abs=20)
    assert crawl.ledger.uncovered() == 0
    assert process.samples[-1].lag_s < MINUTE_S
    assert len(crawl.ledger.rows) < 4000


def test_is_back_at_the_head_after_an_outage_in_the_time_the_budget_allows() -> None:
    """Ten minutes away; 160 ids/s against 40 that come: 200 s, and a fifth more."""
    ends_at = 20 * MINUTE_S
    crawl = Crawl(
        api(Faults(), outages=((10 * MINUTE_S, ends_at),)), budget=Budget(per_s=160, burst=360)
    )
    process = crawl.start()
    crawl.run(30 * MINUTE_S)
    back = next(s.at for s in process.samples if s.at > ends_at and s.lag_s < MINUTE_S)
    assert back - ends_at < 1.2 * 600 * RATE / (160 - RATE) + 15  # it is looked at every 15 s
    assert max(s.workers for s in process.samples) <= 250


def test_an_outage_leaves_no_id_behind() -> None:
    crawl = Crawl(api(outages=((300.0, 900.0),)))
    crawl.start()
    crawl.run(20 * MINUTE_S)
    assert crawl.ledger.rows == {}
    assert crawl.ledger.uncovered() == 0


def test_replicas_jump_once_and_a_killed_ones_blocks_are_taken_over() -> None:
    """All meet the same hole; who jumps second must not record a second gap or skip a block."""
    crawl = Crawl(api(hole=500_000))
    one, two = crawl.start("one"), crawl.start("two")
    crawl.run(5 * MINUTE_S)
    one.kill()
    three = crawl.start("three")
    crawl.run(45 * MINUTE_S)
    (gap,) = crawl.ledger.gaps
    assert gap[1] + 1 == FIRST + 520_000
    assert len(two.searches) + len(three.searches) > 1
    assert crawl.ledger.uncovered() == 0
    below = [b for i, b in crawl.ledger.blocks.items() if b.last_id < crawl.api.head - 3000]
    assert all(b.is_done for b in below)
    assert {b.owner for b in below} == {"one", "two", "three"}
    assert min(p.samples[-1].lag_s for p in (two, three)) < MINUTE_S


def test_a_kill_in_the_middle_of_a_search_loses_nothing() -> None:
    crawl = Crawl(api(hole=500_000))
    one = crawl.start("one")
    for _ in range(3000):
        crawl.run(crawl.clock.time + 1)
        if one.plan._search is not None:
            break
    one.kill()
    crawl.start("two")
    crawl.run(crawl.clock.time + 40 * MINUTE_S)
    assert len(crawl.ledger.gaps) == 1
    assert crawl.ledger.uncovered() == 0


def test_a_second_replica_costs_few_404s_at_the_head() -> None:
    """Its block lies ahead of the other's; asking it in vain must not cost more than it helps."""
    crawl = Crawl(api())
    crawl.start("one")
    crawl.start("two")
    crawl.run(10 * MINUTE_S)
    crawl.answers.clear()
    crawl.run(30 * MINUTE_S)
    assert crawl.share_404 < 0.09
    assert crawl.ledger.gaps == []


def test_withheld_ids_are_handed_on_once() -> None:
    asked: list[int] = []

    class Contest(Api):
        def answer(self, instance_id: int) -> tuple[PgcrResult, float | None]:
            result, lag_s = super().answer(instance_id)
            if result is NON_RAID and instance_id % 50 == 0:
                asked.append(instance_id)
                return BLOCKED, None
            return result, lag_s

    crawl = Crawl(lambda clock: Contest(clock, schedule()))
    crawl.start()
    crawl.run(5 * MINUTE_S)
    assert len(asked) > 150
    assert len(asked) == len(set(asked))
