"""The sweep of gaps against the simulated API, PostgreSQL and RabbitMQ."""

from collections.abc import Iterator
from typing import Any

import pytest

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.recovery.backlog import RECENT_IDS
from raidhub_dagster.recovery.gaps import (
    CHUNK,
    STEP,
    Swept,
    refuse_too_long,
    subtract,
    sweep_gaps,
    without,
)
from raidhub_dagster.recovery.outcomes import Fate
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import gaps
from raidhub_dagster.storage.ledger import Block
from raidhub_dagster.storage.postgres import connected
from simulator.world import FIRST_ID
from tests.support.bungie import IDS, Bungie, simulated
from tests.support.queues import ready
from tests.support.recovery import Tripping, keep, miss, open_gap, recovering
from tests.support.topics import execute, rows

CEILING = 100_000_000_000
NEWEST = FIRST_ID + IDS - 1
GAPS = "SELECT first_id, last_id, state, rounds, position, sampled, found FROM streaming.gap"
MISSED = "SELECT instance_id FROM streaming.missed_pgcr WHERE state = 'waiting' ORDER BY 1"


@pytest.fixture
def settings(api_settings: Settings) -> Settings:
    """A raid stored far beyond what is published, so that no gap is too young."""
    keep(api_settings, NEWEST + 1_000_000)
    return api_settings


@pytest.fixture(scope="module")
def growing_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bungie]:
    with simulated(tmp_path_factory.mktemp("growing"), "--head", str(FIRST_ID)) as bungie:
        yield bungie


@pytest.fixture
def growing(growing_world: Bungie, settings: Settings) -> tuple[Bungie, Settings, int]:
    """A world of which little is published yet: it, its settings, and the first id to come."""
    base = growing_world.ask("/sim")["head"] + 1
    return (
        growing_world,
        settings.model_copy(
            update={
                "bungie_url_base": growing_world.address,
                "pgcr_url_base": growing_world.address,
            }
        ),
        base,
    )


def sweep(settings: Settings, *, publisher: Any = None, **options: Any) -> Swept:
    with recovering(settings, workers=8) as (connection, own, visitors):
        return sweep_gaps(
            connection, publisher or own, visitors, ceiling=CEILING, again_s=0, **options
        )


def raids(bungie: Bungie, first_id: int, last_id: int) -> list[int]:
    return [i for i in range(first_id, last_id + 1) if bungie.world.is_raid(i)]


def test_a_gap_that_was_published_after_all_is_swept_whole(
    bungie: Bungie, settings: Settings
) -> None:
    """What was jumped over came a day late: every raid of it goes to the store, in one run."""
    last_id = FIRST_ID + 449
    open_gap(settings, FIRST_ID, last_id)
    before = bungie.requests_so_far()
    swept = sweep(settings)
    assert bungie.requests_so_far() == before + 450
    assert (swept.rounds, swept.done, swept.sampled) == (1, 1, 5)
    assert sorted(swept.tally.found) == raids(bungie, FIRST_ID, last_id)
    assert rows(settings, GAPS) == [(FIRST_ID, last_id, "done", 1, None, 5, 450)]
    assert ready(settings, "instance_store") == len(swept.tally.found)


def test_a_gap_with_nothing_in_it_is_only_sampled_and_looked_at_again(
    bungie: Bungie, settings: Settings
) -> None:
    """A hole of a million ids must not cost a million requests; in each round other ids count."""
    open_gap(settings, NEWEST + 1, NEWEST + 1000)
    before = bungie.requests_so_far()
    assert sweep(settings).sampled == 10
    assert bungie.requests_so_far() == before + 10
    assert rows(settings, GAPS) == [(NEWEST + 1, NEWEST + 1000, "open", 1, None, 10, 0)]
    assert rows(settings, MISSED) == []  # the gap remembers them
    sweep(settings)
    assert rows(settings, GAPS)[0][2:5] == ("open", 2, None)


def test_a_block_shorter_than_the_step_is_found_by_a_later_round(
    growing: tuple[Bungie, Settings, int],
) -> None:
    """Fifty ids between two samples would else be lost for good."""
    bungie, settings, base = growing
    bungie.ask("/sim/head", advance=50)
    open_gap(settings, base, base + 999)
    miss(settings, base, state="blocked")  # somebody else's: not asked for here
    assert sweep(settings).tally.found == []
    found = sweep(settings).tally.found  # the samples are 37 ids further
    assert sorted(found) == raids(bungie, base + 1, base + 49)


def test_part_of_a_gap_is_swept_and_its_missing_ids_get_rows(
    growing: tuple[Bungie, Settings, int],
) -> None:
    """Promise 1: an id is in a row, or in the gap, or resolved; and nothing is asked for twice."""
    bungie, settings, base = growing
    bungie.ask("/sim/head", advance=551)
    open_gap(settings, base, base + 999)
    swept = sweep(settings)
    assert sorted(swept.tally.found) == raids(bungie, base, base + 550)
    # In the last stretch, and not there.
    assert rows(settings, MISSED) == [(i,) for i in range(base + 551, base + 600)]
    with connected(settings, "test") as connection:
        assert gaps.read_swept(connection, 1) == [Block(base, base + 599)]
    assert rows(settings, GAPS)[0][2:] == ("open", 1, None, 10, 551)
    before = bungie.requests_so_far()
    sweep(settings)
    assert bungie.requests_so_far() == before + 4  # the samples of what is left
    bungie.ask("/sim/head", advance=1000)
    swept = sweep(settings)
    assert swept.done == 1
    assert sorted(swept.tally.found) == raids(bungie, base + 600, base + 999)


def test_a_gap_is_over_after_a_week_of_rounds(settings: Settings) -> None:
    """Else somebody samples it until the end of time; but never after one round alone."""
    open_gap(settings, NEWEST + 1, NEWEST + 100, days=8)
    for done in (0, 0, 0, 0, 1):
        assert sweep(settings).done == done
    assert sweep(settings).sampled == 0
    with connected(settings, "test") as connection:
        assert gaps.check_ends(connection) == []
        execute(
            settings,
            "UPDATE streaming.gap SET state = 'open', detected_at = now() - '10 d'::interval",
        )
        (problem,) = gaps.check_ends(connection)
    assert (problem.rows, problem.examples) == (1, (1,))


def test_a_round_waits_for_a_day(settings: Settings) -> None:
    open_gap(settings, NEWEST + 1, NEWEST + 100)
    assert sweep(settings).rounds == 1
    with recovering(settings) as (connection, publisher, visitors):
        assert sweep_gaps(connection, publisher, visitors, ceiling=CEILING).rounds == 0


def test_a_long_gap_needs_a_word_of_a_person(settings: Settings) -> None:
    """A mistyped target once made a gap of billions; the others are swept all the same."""
    open_gap(settings, NEWEST + 1, NEWEST + 300_000)
    open_gap(settings, NEWEST + 400_001, NEWEST + 400_100)
    swept = sweep(settings)
    assert swept.rounds == 1
    with pytest.raises(PermanentError, match=f"{NEWEST + 1} to {NEWEST + 300_000} .300000 ids"):
        refuse_too_long(swept)
    swept = sweep(settings, force=True, limit_s=-1.0)
    refuse_too_long(swept)
    assert (swept.sampled, swept.stopped) == (CHUNK // STEP, "-1 s were over")


def test_a_gap_near_the_head_waits_unless_forced(api_settings: Settings) -> None:
    """The crawl just passed it: what is missing there may still come."""
    keep(api_settings, NEWEST + RECENT_IDS)
    open_gap(api_settings, NEWEST + 1, NEWEST + 100)
    assert sweep(api_settings).rounds == 0
    assert sweep(api_settings, force=True).rounds == 1


def test_a_run_that_ended_early_goes_on_where_it_was(settings: Settings) -> None:
    """Hours of sweeping must survive the end of a run, and say how far they came."""
    open_gap(settings, NEWEST + 1, NEWEST + 3 * CHUNK)
    first = sweep(settings, limit_s=-1.0)
    assert (first.sampled, first.stopped, first.rounds) == (CHUNK // STEP, "-1 s were over", 0)
    assert rows(settings, GAPS)[0][2:5] == ("sweeping", 0, NEWEST + 1 + CHUNK)
    second = sweep(settings)
    assert (second.sampled, second.rounds) == (2 * CHUNK // STEP, 1)


class _KilledError(BaseException):
    """Nothing of ours catches it, as nothing catches a SIGKILL."""


def _die() -> None:
    raise _KilledError


def test_a_killed_sweep_loses_nothing(bungie: Bungie, settings: Settings) -> None:
    last_id = FIRST_ID + 299
    open_gap(settings, FIRST_ID, last_id)
    with (
        recovering(settings) as (connection, publisher, visitors),
        pytest.raises(_KilledError),
    ):
        sweep_gaps(connection, Tripping(publisher, 9, _die), visitors, ceiling=CEILING)
    assert rows(settings, GAPS)[0][2:5] == ("sweeping", 0, None)
    before = ready(settings, "instance_store")
    swept = sweep(settings)
    assert swept.done == 1
    assert before < 10
    assert sorted(swept.tally.found) == raids(bungie, FIRST_ID, last_id)


def test_maintenance_in_the_middle_keeps_the_place(bungie: Bungie, settings: Settings) -> None:
    open_gap(settings, FIRST_ID, FIRST_ID + 299)
    with recovering(settings) as (connection, publisher, visitors):
        tripping = Tripping(
            publisher, 9, lambda: bungie.ask("/sim/maintenance", on=True, systems=["Destiny2"])
        )
        swept = sweep_gaps(connection, tripping, visitors, ceiling=CEILING)
    assert swept.stopped.startswith("maintenance")
    assert rows(settings, MISSED) == []
    bungie.calm()
    assert sweep(settings).done == 1


def test_an_error_in_a_sweep_leaves_a_row(bungie: Bungie, settings: Settings) -> None:
    """The sample may have been there; its row sees to it that somebody asks again."""
    open_gap(settings, FIRST_ID, FIRST_ID + 99)
    bungie.faults(unexpected=1.0)
    assert sweep(settings).tally.fates == {Fate.FAILED: 1}
    assert rows(settings, MISSED) == [(FIRST_ID,)]


def test_neighbours_of_missed_ids_that_nobody_asked_for_become_gaps(
    settings: Settings,
) -> None:
    """Ids of an imported log lie below the ledger: what surrounds them is as unknown as they."""
    execute(
        settings,
        "INSERT INTO streaming.crawl_cursor (name, first_id, next_id, ceiling)"
        f" VALUES ('atlas', 1, {NEWEST + 9000}, {CEILING})",
    )
    execute(
        settings,
        "INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)"
        f" VALUES ({NEWEST + 5500}, {NEWEST + 8999}, 'done', 'x', now())",
    )
    open_gap(settings, NEWEST + 4000, NEWEST + 4500, days=1)
    execute(settings, "UPDATE streaming.gap SET state = 'done'")
    miss(settings, NEWEST + 5000, NEWEST + 8500)
    swept = sweep(settings)
    assert swept.around == [Block(NEWEST + 4501, NEWEST + 5499)]
    assert swept.sampled == 10
    assert sweep(settings).around == []
    execute(settings, "UPDATE streaming.missed_pgcr SET source = 'pgcr_gaps'")
    execute(settings, "DELETE FROM streaming.gap")
    assert sweep(settings).around == []  # what a sweep wrote starts no other
    assert sweep(settings, around_missed=False).around == []


def test_ranges_are_subtracted_exactly() -> None:
    """One id too few is lost, one too many is asked for twice."""
    parts = [Block(10, 19), Block(30, 39)]
    assert without([5, 10, 19, 20, 35, 40, 41], parts) == [5, 20, 40, 41]
    assert subtract([Block(1, 12), Block(15, 50)], parts) == [
        Block(1, 9),
        Block(20, 29),
        Block(40, 50),
    ]
    assert subtract([Block(11, 12)], parts) == []
