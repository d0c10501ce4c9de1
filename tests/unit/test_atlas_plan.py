"""Decisions of the crawl on a virtual clock: the head, retries, settled reports, the gate."""

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from raidhub_dagster.bungie.codes import CodeClass, Scope
from raidhub_dagster.bungie.protocol import PgcrResult, ResultKind, transport_failure
from raidhub_dagster.pgcr.model import Rejection
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.missed import Backoff, Due, Missed, State
from streaming.atlas.offload import ROOM
from streaming.atlas.plan import ERRORS_IN_A_ROW, MOST_PAUSED, Plan, Report, Withheld
from streaming.atlas.scaling import Bounds
from streaming.atlas.visit import Visit

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 86400.0

NON_RAID = PgcrResult(ResultKind.NON_RAID, 1, "Success", "")
RAID = PgcrResult(ResultKind.SUCCESS, 1, "Success", "", response=b"{}")
NOT_FOUND = PgcrResult(ResultKind.NOT_FOUND, 1653, "DestinyPGCRNotFound", "")
BLOCKED = PgcrResult(ResultKind.INSUFFICIENT_PRIVILEGES, 12, "InsufficientPrivileges", "")
MAINTENANCE = PgcrResult(ResultKind.SYSTEM_DISABLED, 5, "SystemDisabled", "")
BAD_KEY = PgcrResult(
    ResultKind.EXTERNAL_ERROR, 2101, "ApiInvalidOrExpiredKey", "", CodeClass.KEY_PROBLEM
)
THROTTLED = PgcrResult(
    ResultKind.RATE_LIMITED,
    31,
    "ThrottleLimitExceeded",
    "",
    CodeClass.THROTTLE,
    scope=Scope.ADDRESS,
    throttle_seconds=10,
)
GAME_THROTTLED = PgcrResult(
    ResultKind.RATE_LIMITED,
    1672,
    "DestinyThrottledByGameServer",
    "",
    CodeClass.THROTTLE,
    scope=Scope.GLOBAL,
    throttle_seconds=10,
)
POISON = PgcrResult(
    ResultKind.BAD_FORMAT,
    7,
    "ParameterParseFailure",
    "",
    CodeClass.PERMANENT,
    rejection=Rejection("bad_request", "instance_id"),
)
FAILED = transport_failure(TimeoutError())
UNREACHABLE = transport_failure(OSError(), is_unreachable=True)


def malformed(ended: timedelta, response: bytes = b'{"entries":[]}') -> PgcrResult:
    return PgcrResult(
        ResultKind.BAD_FORMAT,
        1,
        "Success",
        "",
        response=response,
        rejection=Rejection("extended_missing", "entries[0].extended"),
        ended_at=NOW - ended,
    )


class Crawl:
    """A plan on a virtual clock, and an API that answers with `answer(id)`."""

    def __init__(
        self, answer: Callable[[int], PgcrResult], *, workers: int = 5, step: int = 1
    ) -> None:
        self.time = 0.0
        self.answer = answer
        self.asked: list[tuple[float, int]] = []
        self.published: list[tuple[int, bool]] = []
        self.withheld: list[int] = []
        rng = random.Random(1)
        self.plan = Plan(
            workers=workers,
            bounds=Bounds(1, 250),
            resolved=0,
            ceiling=10**11,
            backoff=Backoff(rng),
            rng=rng,
            clock=lambda: self.time,
            now=lambda: NOW,
            step=step,
        )

    def step(self) -> bool:
        """Starts what may start, answers all of it; False when nothing may start now."""
        visits: list[Visit] = []
        while (visit := self.plan.next_visit()) is not None:
            visits.append(visit)
            self.asked.append((self.time, visit.instance_id))
        for visit in visits:
            match self.plan.answered(visit, self.answer(visit.instance_id)):
                case Report(settled=settled):
                    self.published.append((visit.instance_id, settled))
                    self.plan.published(visit)
                case Withheld():
                    self.withheld.append(visit.instance_id)
                    self.plan.handed_on(visit)
        return bool(visits)

    def run(self, seconds: float) -> None:
        """Lets the virtual clock go on, from one thing that happens to the next."""
        end = self.time + seconds
        while True:
            while self.step():
                pass
            next_at = self.plan.next_at()
            if next_at > end:
                self.time = end
                return
            self.time = max(next_at, self.time + 0.001)

    def rows(self) -> list[Missed]:
        """Rows written since the last call."""
        return self.plan.take_settled().again

    @property
    def tries(self) -> Counter[int]:
        return Counter(instance_id for _, instance_id in self.asked)


def test_finishes_a_block_when_every_id_answers() -> None:
    crawl = Crawl(lambda i: RAID if i == 103 else NON_RAID)
    crawl.plan.add_block(Block(101, 110))
    crawl.run(1)
    (done,) = crawl.plan.take_done()
    assert (done.first_id, done.raids, done.non_raids, done.missed) == (101, 1, 9, 0)
    assert crawl.published == [(103, False)]
    assert crawl.plan.held == []


def test_never_gives_up_an_id_while_no_higher_one_is_published() -> None:
    """A 404 at the head means not yet: hours of silence must not fill missed_pgcr."""
    crawl = Crawl(lambda _: NOT_FOUND)
    crawl.plan.add_block(Block(101, 1100))
    crawl.run(3 * 3600)
    assert crawl.plan.take_done() == []
    assert not crawl.plan.wants_block(10_000)
    assert len(crawl.asked) < 3 * 3600  # less than one request a second for nothing


def test_goes_on_at_once_when_the_silence_ends() -> None:
    """Publication is bursty; each second of delay here is lag for every reader."""
    head = 0
    crawl = Crawl(lambda i: NON_RAID if i <= head else NOT_FOUND)
    crawl.plan.add_block(Block(101, 1100))
    crawl.run(2400)
    head = 10_000
    crawl.run(20)
    (done,) = crawl.plan.take_done()
    assert (done.first_id, done.non_raids) == (101, 1000)


@pytest.mark.parametrize("size", [1, 30, 1140, 15_680])
def test_gets_past_a_hole(size: int) -> None:
    """Runs of up to 15 680 ids never came; taken for the head they would stop the crawl."""
    hole = range(151, 151 + size)
    crawl = Crawl(lambda i: NOT_FOUND if i in hole else NON_RAID, workers=25)
    crawl.plan.add_block(Block(101, hole[-1] + 50))
    crawl.run(3600)
    (done,) = crawl.plan.take_done()
    assert (done.non_raids, done.missed) == (100, size)
    rows = crawl.rows()
    assert {row.instance_id for row in rows} == set(hole)
    assert {row.state for row in rows} == {State.WAITING}
    tries = crawl.tries
    assert min(tries[i] for i in hole) >= 4
    offloaded = 6 * min(size, ROOM)
    assert len(crawl.asked) < 5 * size + offloaded + 400  # polls and probes come on top


def test_rests_between_tries_without_holding_a_worker() -> None:
    """A late id must not slow its neighbours: one worker, and the others are done long before."""
    crawl = Crawl(lambda i: NOT_FOUND if i == 101 else NON_RAID, workers=1)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(600)
    times = [at for at, instance_id in crawl.asked if instance_id == 101][:5]
    assert all(later - earlier > 3.5 for earlier, later in pairwise(times[1:]))
    assert max(at for at, instance_id in crawl.asked if instance_id == 200) < times[-1]
    row, *_ = crawl.rows()
    assert (row.instance_id, row.reason) == (101, "not_found")


def test_bounds_the_ids_that_rest() -> None:
    """A hole of a million ids must not end in a million objects in memory."""
    crawl = Crawl(lambda i: NON_RAID if i == 50_000 else NOT_FOUND, workers=25)
    crawl.plan.learn(50_000)
    crawl.plan.add_block(Block(101, 10_000))
    crawl.run(3)
    assert len(crawl.tries) <= MOST_PAUSED + 25


def test_hands_on_a_withheld_report_and_leaves_it_to_its_queue() -> None:
    """Its own topic knows when the floodgates open; two that ask would ask twice."""
    crawl = Crawl(lambda i: BLOCKED if i == 102 else NON_RAID)
    crawl.plan.add_block(Block(101, 103))
    crawl.run(3600)
    assert crawl.withheld == [102]
    (row,) = crawl.rows()
    assert (row.state, row.last_result, row.retry_in_s) == (State.BLOCKED, 5, None)
    assert crawl.tries[102] == 1


def test_records_a_malformed_report_after_three_fetches() -> None:
    crawl = Crawl(lambda i: malformed(timedelta(hours=1)) if i == 101 else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(30)
    (row,) = crawl.rows()
    assert (row.state, row.reason) == (State.MALFORMED, "extended_missing")
    assert crawl.tries[101] == 3


def test_keeps_a_refused_request_for_inspection_without_asking_again() -> None:
    """Codes 7, 8, 9, 18 and 19 are about the request: each further one is refused alike."""
    crawl = Crawl(lambda i: POISON if i == 101 else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(600)
    (row,) = crawl.rows()
    assert (row.state, row.reason, row.retry_in_s) == (State.MALFORMED, "bad_request", None)
    assert crawl.tries[101] == 1


def test_tells_caches_that_a_malformed_report_is_asked_again() -> None:
    """The edge would answer the same broken body for hours."""
    crawl = Crawl(lambda _: malformed(timedelta(hours=1)))
    crawl.plan.add_block(Block(101, 101))
    visit = crawl.plan.next_visit()
    assert visit is not None
    assert visit.malformed_retry is None
    crawl.plan.answered(visit, malformed(timedelta(hours=1)))
    assert visit.malformed_retry == 1


# Complete but for `extended`, which is accepted once settled.
BARE = (
    b'{"period":"2025-12-01T00:00:00Z","activityDetails":{"instanceId":"101","mode":4,'
    b'"membershipType":3,"referenceId":1441982566,"directorActivityHash":1441982566},'
    b'"activityWasStartedFromBeginning":true,"startingPhaseIndex":0,"entries":[{"characterId":"5",'
    b'"player":{"destinyUserInfo":{"membershipType":3,"membershipId":"4611686018400000001"}},'
    b'"values":{"activityDurationSeconds":{"basic":{"value":600}}}}]}'
)


@pytest.mark.parametrize(("ended", "is_settled"), [(49, True), (47, False)])
def test_takes_an_old_malformed_report_that_comes_twice_alike(ended: int, is_settled: bool) -> None:
    """It is as complete as it ever gets; a younger one may still grow."""
    crawl = Crawl(lambda _: malformed(timedelta(hours=ended), BARE))
    crawl.plan.add_block(Block(101, 101))
    crawl.run(600)
    assert crawl.published == ([(101, True)] if is_settled else [])


def test_asks_nothing_during_maintenance_but_one_fetch_a_minute() -> None:
    """25 workers on a switched-off API are what gets an application blocked."""
    crawl = Crawl(lambda _: MAINTENANCE)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(600)
    assert len(crawl.asked) <= 5 + 600 / 60
    crawl.answer = lambda _: NON_RAID
    crawl.run(130)
    (done,) = crawl.plan.take_done()
    assert (done.non_raids, done.missed) == (100, 0)


def test_asks_no_more_after_maintenance_for_having_waited() -> None:
    """Rounds at a silent head that the gate held up for ten hours would all go out at once."""
    crawl = Crawl(lambda i: NON_RAID if i < 150 else NOT_FOUND)
    crawl.plan.add_block(Block(101, 1100))
    crawl.run(60)
    crawl.answer = lambda _: MAINTENANCE
    crawl.run(10 * 3600)
    crawl.answer = lambda _: NOT_FOUND
    asked = len(crawl.asked)
    crawl.run(130)  # the next trial comes after 120 s
    assert len(crawl.asked) - asked < 100  # rounds of nine, every few seconds


def test_rests_when_every_answer_is_a_throttle() -> None:
    """Whoever goes on asking is blocked by the edge for hours."""
    crawl = Crawl(lambda _: THROTTLED, workers=1)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(9)
    assert 1 < len(crawl.asked) <= 9
    crawl.run(16)
    assert len(crawl.asked) <= 10  # one trial after ten seconds


def test_a_single_throttled_address_rests_only_its_id() -> None:
    """Zeus rests the address and goes on with fifteen others; the crawl must not stop for it."""
    refused = {110: 2}

    def answer(instance_id: int) -> PgcrResult:
        if refused.get(instance_id, 0):
            refused[instance_id] -= 1
            return THROTTLED
        return NON_RAID

    crawl = Crawl(answer)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(5)
    assert len(crawl.tries) == 100
    crawl.run(25)
    times = [at for at, instance_id in crawl.asked if instance_id == 110]
    assert all(later - earlier >= 10 for earlier, later in pairwise(times))
    (done,) = crawl.plan.take_done()
    assert (done.non_raids, done.missed) == (100, 0)


def test_a_throttle_of_the_game_servers_rests_everything() -> None:
    """It is meant for everybody, whatever the address."""
    crawl = Crawl(lambda i: GAME_THROTTLED if i == 105 else NON_RAID, workers=1)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(9)
    assert crawl.asked[-1][1] == 105
    assert crawl.plan.gate.reason == "throttled (DestinyThrottledByGameServer)"


def test_gives_up_an_id_that_is_throttled_ten_times_in_a_row() -> None:
    """The predecessor looped on it for ever."""
    crawl = Crawl(lambda i: THROTTLED if i == 101 else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(100)
    (done,) = crawl.plan.take_done()
    assert done.missed == 1
    assert [row.reason for row in crawl.rows()] == ["rate_limited"]
    assert crawl.tries[101] == 10


def test_stops_at_a_refused_key_and_says_so() -> None:
    crawl = Crawl(lambda _: BAD_KEY)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(600)
    assert len(crawl.asked) <= 5 + 600 / 60
    assert "BUNGIE_API_KEY" in crawl.plan.gate.reason
    assert crawl.plan.take_done() == []


def test_does_not_blame_the_ids_for_an_outage() -> None:
    """An hour without the API would else turn every id of that hour into a missed row."""
    crawl = Crawl(lambda _: FAILED)
    crawl.plan.add_block(Block(101, 1000))
    crawl.run(3600)
    assert len(crawl.asked) < ERRORS_IN_A_ROW + 200  # a trial every 20 s
    crawl.answer = lambda _: NON_RAID
    crawl.run(600)
    (done,) = crawl.plan.take_done()
    assert done.non_raids > 870


def test_an_id_that_always_fails_does_not_keep_the_gate_shut() -> None:
    crawl = Crawl(lambda i: FAILED if i < 101 + ERRORS_IN_A_ROW else NON_RAID)
    crawl.plan.add_block(Block(101, 200))
    crawl.run(3600)
    (done,) = crawl.plan.take_done()
    assert (done.non_raids, done.missed) == (100 - ERRORS_IN_A_ROW, ERRORS_IN_A_ROW)


def test_a_proxy_that_is_away_is_nobodys_fault() -> None:
    """While zeus restarts not one try of any id may count, not even that of the trials."""
    crawl = Crawl(lambda _: UNREACHABLE)
    crawl.plan.add_block(Block(101, 110))
    crawl.run(3600)
    assert len(crawl.asked) < 5 + 3600 / 15
    crawl.answer = lambda _: NON_RAID
    crawl.run(30)
    (done,) = crawl.plan.take_done()
    assert (done.non_raids, done.missed) == (10, 0)


def test_six_more_tries_from_memory_then_the_table() -> None:
    """Most ids that are late come within minutes; whoever is not there by then gets an alert."""
    crawl = Crawl(lambda i: NOT_FOUND if i == 101 else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(60)
    first, *_ = crawl.rows()
    assert first.retry_in_s == 900  # nobody else tries it meanwhile
    crawl.run(900)
    last = crawl.rows()[-1]
    assert crawl.tries[101] == 4 + 1 + 6  # the first one before 102 was seen
    assert last.visits == 6
    assert last.retry_in_s == pytest.approx(960, rel=0.21)
    times = [at for at, instance_id in crawl.asked if instance_id == 101][-7:]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] == pytest.approx(15, abs=0.1)
    for i, pause in enumerate(pauses[1:], start=1):
        assert 2 * i * i - 0.1 <= pause <= i * (7 * i - 1) + 0.1
    warning, final = crawl.plan.take_unresolved()
    assert (warning.is_final, final.is_final) == (False, True)
    assert warning.elapsed_s < final.elapsed_s


def test_an_offloaded_id_that_appears_closes_its_row() -> None:
    appears_at = 100.0
    crawl = Crawl(lambda i: NOT_FOUND if i == 101 and crawl.time < appears_at else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(600)
    assert crawl.plan.take_settled().resolved == [101]
    assert crawl.tries[102] == 1


def test_a_withheld_offloaded_id_is_handed_on() -> None:
    crawl = Crawl(lambda i: NON_RAID if i != 101 else NOT_FOUND if crawl.time < 60 else BLOCKED)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(600)
    assert crawl.withheld == [101]
    assert crawl.rows()[-1].state is State.BLOCKED


def test_memory_takes_two_thousand_offloaded_ids_and_the_table_the_rest() -> None:
    crawl = Crawl(lambda i: NON_RAID if i > 5000 else NOT_FOUND, workers=25)
    crawl.plan.learn(6000)
    crawl.plan.add_block(Block(101, 3100))
    crawl.run(300)
    first = {row.instance_id: row for row in reversed(crawl.rows())}
    assert Counter(row.retry_in_s == 900 for row in first.values()) == {True: ROOM, False: 1000}


def test_forgets_blocks_that_others_hold() -> None:
    """After a pause longer than the lease two processes would ask the same ids to their end."""
    crawl = Crawl(lambda i: NON_RAID if i < 105 else NOT_FOUND)
    crawl.plan.add_block(Block(101, 110))
    crawl.run(60)
    crawl.plan.forget([101])
    asked = len(crawl.asked)
    crawl.run(600)
    assert len(crawl.asked) == asked
    assert (crawl.plan.held, crawl.plan.take_done(), crawl.rows()) == ([], [], [])
    crawl.plan.add_block(Block(101, 104))
    crawl.run(10)
    (done,) = crawl.plan.take_done()
    assert done.non_raids == 4


def test_a_sample_of_the_ids_is_enough_for_a_developer() -> None:
    crawl = Crawl(lambda _: NON_RAID, step=5)
    crawl.plan.add_block(Block(101, 112))
    crawl.plan.add_block(Block(113, 114))
    crawl.run(10)
    assert sorted(crawl.tries) == [101, 106, 111, 113]
    assert sorted(crawl.plan.take_done()) == [(101, 0, 3, 0), (113, 0, 1, 0)]


def test_stays_away_while_the_api_lists_its_reports_as_off() -> None:
    """The list tells it before any answer does, and when it is over."""
    crawl = Crawl(lambda _: NON_RAID)
    crawl.plan.systems(["Activities"])
    crawl.plan.add_block(Block(101, 200))
    for _ in range(40):  # ten minutes
        crawl.run(15)
        crawl.plan.systems(["Activities"])
    assert crawl.asked == []
    assert crawl.plan.gate.reason == "maintenance: Activities"
    crawl.plan.systems([])
    crawl.run(1)
    assert len(crawl.asked) == 100


def test_a_list_that_nobody_can_read_any_more_does_not_stop_the_crawl_for_ever() -> None:
    crawl = Crawl(lambda _: NON_RAID)
    crawl.plan.systems(["Destiny2"])
    crawl.plan.add_block(Block(101, 200))
    crawl.run(181)
    assert len(crawl.asked) == 100


def test_fetches_missed_rows_with_a_tenth_of_the_workers() -> None:
    """A flood of old trouble must not hold up what is new."""
    crawl = Crawl(lambda _: NON_RAID, workers=20)
    assert crawl.plan.due_room == 4
    crawl.plan.add_due([Due(i, State.WAITING, 1, 10.0) for i in range(1, 30)])
    started = [crawl.plan.next_visit() for _ in range(3)]
    assert [visit is not None for visit in started] == [True, True, False]


@pytest.mark.parametrize(
    ("due", "answer", "becomes"),
    [
        (Due(5, State.WAITING, 3, 60.0), RAID, ("resolved", 5)),
        (Due(5, State.WAITING, 3, 60.0), NOT_FOUND, ("again", State.WAITING)),
        (Due(5, State.WAITING, 99, 8 * DAY_S), NOT_FOUND, ("missing", State.WAITING)),
        (Due(5, State.WAITING, 99, 8 * DAY_S), FAILED, ("again", State.WAITING)),
        (Due(5, State.WAITING, 3, 60.0), BLOCKED, ("again", State.BLOCKED)),
        (Due(5, State.MALFORMED, 3, 60.0), FAILED, ("again", State.MALFORMED)),
        (Due(5, State.WAITING, 3, 60.0), malformed(timedelta(1)), ("again", State.MALFORMED)),
        (Due(5, State.MALFORMED, 9, 15 * DAY_S), malformed(timedelta(1)), ("rejected", 5)),
    ],
)
def test_a_missed_row_becomes(
    due: Due, answer: PgcrResult, becomes: tuple[str, int | State]
) -> None:
    crawl = Crawl(lambda _: answer)
    crawl.plan.add_due([due])
    crawl.run(60)
    settled = crawl.plan.take_settled()._asdict()
    (name,) = (name for name, rows in settled.items() if rows)
    (row,) = settled[name]
    assert (name, row if isinstance(row, int) else row.state) == becomes
    assert crawl.plan.due_room > 0


def test_the_end_releases_what_is_unfinished_and_keeps_what_is_done() -> None:
    """Blocks asked to their end are done with their resting ids as missed rows; others go back."""
    crawl = Crawl(lambda i: NOT_FOUND if i in {101, 300} else NON_RAID)
    crawl.plan.add_block(Block(101, 110))
    crawl.run(1)
    crawl.plan.add_block(Block(291, 300))  # its last id is ahead of everything
    crawl.run(1)
    crawl.plan.add_block(Block(400, 410))
    crawl.plan.is_stopping = True
    assert not crawl.step()
    assert sorted(crawl.plan.abandon()) == [291, 400]
    (done,) = crawl.plan.take_done()
    assert (done.first_id, done.missed) == (101, 1)
    (row,) = crawl.rows()
    assert row.instance_id == 101
    assert row.retry_in_s == pytest.approx(15, rel=0.21)


def test_the_end_frees_the_rows_of_offloaded_ids() -> None:
    """The next process takes them up at once instead of after a quarter of an hour."""
    crawl = Crawl(lambda i: NOT_FOUND if i == 101 else NON_RAID)
    crawl.plan.add_block(Block(101, 102))
    crawl.run(60)
    crawl.rows()
    crawl.plan.abandon()
    (row,) = crawl.rows()
    assert (row.instance_id, row.visits) == (101, 0)
    assert row.retry_in_s is not None
    assert row.retry_in_s < 60


def test_waits_without_a_timer_while_neither_api_nor_store_wants_anything() -> None:
    """The timer would fire a thousand times a second until the store has caught up."""
    crawl = Crawl(lambda _: NON_RAID)
    crawl.plan.add_block(Block(101, 200))
    crawl.plan.gate.close("throttled", 10, trial=False)
    crawl.time = 11
    crawl.plan.is_slowed = True
    assert crawl.plan.next_visit() is None
    assert crawl.plan.next_at() == float("inf")
    crawl.plan.is_slowed = False
    assert crawl.plan.next_at() == 10


def test_takes_no_new_ids_while_the_store_is_behind() -> None:
    crawl = Crawl(lambda _: NON_RAID)
    crawl.plan.add_block(Block(101, 200))
    crawl.plan.is_slowed = True
    crawl.run(60)
    assert crawl.asked == []
    assert not crawl.plan.wants_block(1000)


def test_goes_on_with_a_block_of_its_own_that_it_leased_again() -> None:
    """After a long outage of the database the first lease to take over may be our own."""
    crawl = Crawl(lambda _: NON_RAID)
    crawl.plan.add_block(Block(101, 110))
    visit = crawl.plan.next_visit()
    assert visit is not None
    crawl.plan.add_block(Block(101, 110))
    crawl.plan.answered(visit, NON_RAID)
    crawl.run(1)
    (done,) = crawl.plan.take_done()
    assert (done.first_id, done.non_raids) == (101, 10)
    assert len(crawl.asked) == 9
