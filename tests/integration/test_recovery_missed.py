"""Recovery of missed ids against the simulated API, PostgreSQL and RabbitMQ."""

import gzip
import json
from itertools import islice
from typing import Any

import pytest

from raidhub_dagster.errors import PermanentError, UnavailableError
from raidhub_dagster.messaging.connection import BrokerError
from raidhub_dagster.recovery.backlog import RECENT_IDS, Recovered, look, recover_missed
from raidhub_dagster.recovery.outcomes import Fate, ranges
from raidhub_dagster.recovery.summary import summary, told_ranges
from raidhub_dagster.recovery.visits import Manner
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.process import HOST, free_port
from raidhub_dagster.storage import api_state, missed
from raidhub_dagster.storage.postgres import connected
from simulator.world import FIRST_ID
from tests.support.bungie import IDS, Bungie
from tests.support.queues import ready, take
from tests.support.recovery import Tripping, keep, miss, recovering
from tests.support.topics import rows

CEILING = 100_000_000_000
NEWEST = FIRST_ID + IDS - 1
STATES = (
    "SELECT instance_id, state, next_attempt_at > now(), attempts FROM streaming.missed_pgcr"
    " ORDER BY 1"
)


@pytest.fixture
def settings(api_settings: Settings) -> Settings:
    """A stored raid at the head, so that half of the world is old enough."""
    keep(api_settings, NEWEST)
    return api_settings


def recover(settings: Settings, *, publisher: Any = None, **options: Any) -> Recovered:
    manner = {name: options.pop(name) for name in ("workers", "retries") if name in options}
    with recovering(settings, **manner) as (connection, own, visitors):
        return recover_missed(connection, publisher or own, visitors, ceiling=CEILING, **options)


def raids(bungie: Bungie, count: int) -> list[int]:
    return list(islice(bungie.raids(), count))


def no_raid(bungie: Bungie) -> int:
    return next(i for i in range(FIRST_ID, FIRST_ID + IDS) if not bungie.world.is_raid(i))


def states(settings: Settings) -> dict[int, str]:
    return {i: state for i, state, *_ in rows(settings, STATES)}


def test_what_is_there_by_now_goes_to_the_store(bungie: Bungie, settings: Settings) -> None:
    """The point of it all: a report that came late is not lost."""
    found, other = raids(bungie, 3), no_raid(bungie)
    miss(settings, *found, other)
    done = recover(settings)
    assert done.tally.fates == {Fate.FOUND: 3, Fate.NO_RAID: 1}
    assert (sorted(done.tally.found), done.stopped, done.due_left) == (found, "", 0)
    assert states(settings) == dict.fromkeys([*found, other], "resolved")
    bodies = [take(settings, "instance_store") for _ in found]
    told = {
        int(json.loads(gzip.decompress(body[1]))["activityDetails"]["instanceId"])
        for body in bodies
        if body is not None
    }
    assert told == set(found)
    assert bodies[0] is not None
    assert bodies[0][0]["source"] == "missed_pgcrs"


def test_stored_ids_are_closed_without_a_request(bungie: Bungie, settings: Settings) -> None:
    """Somebody else brought the report in; one without its body is fetched all the same."""
    whole, without_body = raids(bungie, 2)
    miss(settings, whole, without_body)
    keep(settings, whole)
    keep(settings, without_body, with_report=False)
    before = bungie.requests_so_far()
    done = recover(settings)
    assert done.tally.fates == {Fate.STORED: 1, Fate.FOUND: 1}
    assert bungie.requests_so_far() == before + 1


def test_ids_near_the_head_wait_unless_forced(settings: Settings) -> None:
    """A 404 there says nothing: the crawl is still at it."""
    old, young = FIRST_ID + 7, NEWEST - RECENT_IDS + 1
    miss(settings, old, young)
    assert recover(settings).tally.ids == [old]
    assert recover(settings, force=True).tally.ids == [young]


def test_an_id_that_is_not_there_is_asked_again_later_and_then_found(
    bungie: Bungie, settings: Settings
) -> None:
    """Publication may be a day late; every pause is longer than the one before."""
    wanted = raids(bungie, 1)[0]
    miss(settings, wanted)
    bungie.faults(hole=1.0)
    assert recover(settings).tally.fates == {Fate.NOT_FOUND: 1}
    assert rows(settings, STATES) == [(wanted, "waiting", True, 2)]
    assert recover(settings).tally.processed == 0  # not before its time
    bungie.calm()
    rows_are_due(settings)
    assert recover(settings).tally.fates == {Fate.FOUND: 1}


def rows_are_due(settings: Settings) -> None:
    with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE streaming.missed_pgcr SET next_attempt_at = now()"
            " WHERE state IN ('waiting', 'malformed')"
        )


def test_an_id_that_never_was_published_ends(settings: Settings) -> None:
    """After a week, with raids stored on both sides, though no block of the crawl covers it."""
    hole, younger, alone = FIRST_ID - 5, FIRST_ID - 6, FIRST_ID - 20_000_000
    miss(settings, hole, alone, days=8)
    miss(settings, younger, days=6)
    keep(settings, FIRST_ID - 7)
    done = recover(settings)
    assert done.tally.fates == {Fate.MISSING: 1, Fate.NOT_FOUND: 2}
    assert states(settings) == {hole: "missing", younger: "waiting", alone: "waiting"}


def test_a_withheld_report_goes_to_those_that_wait(bungie: Bungie, settings: Settings) -> None:
    wanted = raids(bungie, 1)[0]
    miss(settings, wanted)
    bungie.faults(blocked=1.0, blocked_forever=1.0)
    assert recover(settings).tally.fates == {Fate.WITHHELD: 1}
    taken = take(settings, "pgcr_blocked_retry")
    assert taken is not None
    assert taken[1] == b"%d" % wanted
    assert states(settings) == {wanted: "blocked"}


def test_a_malformed_report_has_its_own_pauses_and_end(bungie: Bungie, settings: Settings) -> None:
    bungie.faults(malformed=1.0, malformed_forever=1.0)
    recent = [
        i for i in bungie.raids() if bungie.world.run(i).period > bungie.world.config.epoch - 3600
    ]
    first, second = recent[:2]
    miss(settings, first)
    miss(settings, second, state="malformed", days=15)
    done = recover(settings)
    assert done.tally.fates == {Fate.MALFORMED: 1, Fate.REJECTED: 1}
    assert states(settings) == {first: "malformed", second: "rejected"}


@pytest.mark.parametrize("fault", ["unexpected", "html", "bad_gateway", "challenge"])
def test_an_error_is_tried_again_and_leaves_the_row_as_it_was(
    bungie: Bungie, settings: Settings, fault: str
) -> None:
    """A page of some front end, or a code for trouble, says nothing about the id."""
    wanted = raids(bungie, 1)[0]
    miss(settings, wanted, days=8)
    bungie.faults(**{fault: 1.0})
    before = bungie.requests_so_far()
    retries = 1 if fault == "challenge" else 3  # a throttle asks for 10 s in between
    assert recover(settings, retries=retries).tally.fates == {Fate.FAILED: 1}
    assert bungie.requests_so_far() == before + retries
    assert rows(settings, STATES) == [(wanted, "waiting", True, 2)]
    bungie.calm()
    rows_are_due(settings)
    assert recover(settings).tally.fates == {Fate.FOUND: 1}


def test_an_outage_ends_the_run_instead_of_blaming_every_id(
    bungie: Bungie, settings: Settings
) -> None:
    """An hour of it would else cost each of thousands of ids five tries."""
    miss(settings, *range(FIRST_ID, FIRST_ID + 100))
    bungie.faults(bad_gateway=1.0)
    with pytest.raises(UnavailableError, match="ids in a row gave nothing but errors"):
        recover(settings, retries=1)
    bungie.calm()
    assert due(settings) >= 60  # not tried: due at once


def due(settings: Settings) -> int:
    with connected(settings, "test") as connection:
        return look(connection, CEILING).due


def test_nobody_listens_and_nothing_is_counted(settings: Settings) -> None:
    away = settings.model_copy(update={"pgcr_url_base": f"http://{HOST}:{free_port()}"})
    miss(settings, FIRST_ID, FIRST_ID + 1)
    with pytest.raises(UnavailableError, match="nobody listens"):
        recover(away, retries=2)
    assert [row[2:] for row in rows(settings, STATES)] == [(False, 1), (False, 1)]


def test_maintenance_in_the_middle_ends_the_run_and_counts_for_nobody(
    bungie: Bungie, settings: Settings
) -> None:
    """Bungie closes every Tuesday; the predecessor went through its whole file every 15 minutes."""
    listed = raids(bungie, 40)
    miss(settings, *listed)
    with recovering(settings) as (connection, publisher, visitors):
        tripping = Tripping(
            publisher, 5, lambda: bungie.ask("/sim/maintenance", on=True, systems=["Destiny2"])
        )
        done = recover_missed(connection, tripping, visitors, ceiling=CEILING)
    assert done.stopped.startswith("maintenance")
    assert 5 <= done.tally.processed < 40
    assert done.due_left == 40 - done.tally.processed
    untouched = [row for row in rows(settings, STATES) if row[1] == "waiting"]
    assert len(untouched) == done.due_left
    assert {row[2:] for row in untouched} == {(False, 1)}
    bungie.calm()
    assert recover(settings).tally.fates == {Fate.FOUND: done.due_left}
    assert ready(settings, "instance_store") == 40


def test_a_broker_that_is_away_loses_nothing(bungie: Bungie, settings: Settings) -> None:
    """A row is closed only behind the confirm."""
    miss(settings, *raids(bungie, 3))
    away = settings.model_copy(update={"rabbitmq_port": free_port()})
    with pytest.raises(BrokerError):
        recover(away)
    assert due(settings) == 3
    assert recover(settings).tally.fates == {Fate.FOUND: 3}


def test_a_run_and_the_crawl_never_ask_for_the_same_id(bungie: Bungie, settings: Settings) -> None:
    """Both take due rows; twice the requests would halve the budget."""
    listed = raids(bungie, 30)
    miss(settings, *listed)
    with connected(settings, "crawl") as crawl:
        claimed = {row.instance_id for row in missed.due(crawl, limit=10, claim_s=300)}
        done = recover(settings)
        assert missed.due(crawl, limit=100, claim_s=300) == []
    assert len(claimed) == 10
    assert sorted(done.tally.ids) == sorted(set(listed) - claimed)


def test_a_run_that_takes_too_long_leaves_the_rest_to_the_next(
    bungie: Bungie, settings: Settings
) -> None:
    """A run is ended after two hours; a backlog of a day needs more."""
    listed = raids(bungie, 40)
    miss(settings, *listed)
    done = recover(settings, limit_s=-1.0)
    assert (done.tally.processed, done.due_left) == (0, 40)
    assert done.stopped == "-1 s were over"
    assert sorted(recover(settings).tally.ids) == listed  # once each, in one run


def test_the_gate_is_known_before_a_run_begins(settings: Settings) -> None:
    miss(settings, FIRST_ID)
    with connected(settings, "test") as connection:
        assert look(connection, CEILING) == (1, "")
        api_state.record(connection, {"Destiny2": False, "Activities": True})
        assert look(connection, CEILING) == (1, "Destiny2")
        api_state.record(connection, {"Destiny2": True, "Activities": True})
        assert look(connection, CEILING) == (1, "")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 65}, {"retries": 0}])
def test_a_manner_that_makes_no_sense_is_named(wrong: dict[str, int]) -> None:
    with pytest.raises(PermanentError, match=next(iter(wrong))):
        Manner(**wrong)


def test_the_summary_names_at_most_15_ranges() -> None:
    """Discord cuts long messages; what is told must be whole."""
    ids = [5, 1, 2, 3, *range(100, 200, 5)]
    assert ranges(ids)[:3] == [(1, 3), (5, 5), (100, 100)]
    lines = told_ranges(ids).splitlines()
    assert lines[:2] == ["1 - 3 (3)", "5"]
    assert (len(lines), lines[-1]) == (16, "and 7 more")
    assert summary("Missed Reports Recovered", Recovered().tally, "") is None
