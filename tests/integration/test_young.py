"""Raids fetched too soon after their end: put down once, asked for twice, whatever dies between."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage import young
from raidhub_dagster.storage.store import Outcome, Report, Store
from raidhub_dagster.storage.verify import verify
from raidhub_dagster.storage.young import Rechecks
from tests.support import worlds
from tests.support.database import Database
from tests.support.worlds import clear, report_of

RECHECKS = Rechecks(timedelta(seconds=120), timedelta(minutes=15), timedelta(hours=48))
RUN = clear(1, hours=1, players=[worlds.FIRST_PLAYER])
ENDED = RUN.date_completed


def store(database: Database, *reports: Report, rechecks: Rechecks = RECHECKS) -> list[Outcome]:
    return Store(database.connection, rechecks=rechecks).store(reports, source="test")


def fetched(instance: Instance, after: timedelta) -> Report:
    return report_of(instance, instance.date_completed + after)


def rows(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT instance_id, rounds, due_at FROM streaming.young_pgcr ORDER BY 1")


def ask(database: Database, now: datetime, *, limit: int = 500) -> list[bytes]:
    """Bodies of the messages that one step of the chore leaves."""
    before = set(messages(database))
    asked = young.ask_again(database.connection, RECHECKS, now=now, limit=limit)
    new = [body for id_, body in messages(database) if (id_, body) not in before]
    assert len(new) == asked
    return new


def messages(database: Database) -> list[tuple[int, bytes]]:
    found = database.rows(
        "SELECT id, body FROM streaming.outbox WHERE destination = 'pgcr_crawl' ORDER BY id"
    )
    return [(id_, bytes(body)) for id_, body in found]


@pytest.mark.parametrize(
    ("after_s", "is_young"), [(-5, True), (0, True), (119, True), (120, False), (9_000, False)]
)
def test_only_what_was_fetched_too_soon_is_put_down(
    database: Database, after_s: int, is_young: bool
) -> None:
    """Two more requests for every raid of a catch-up would take the crawl's budget."""
    store(database, fetched(RUN, timedelta(seconds=after_s)))
    due_at = ENDED + timedelta(minutes=15)
    assert rows(database) == ([(RUN.instance_id, 0, due_at)] if is_young else [])


def test_files_and_switched_off_settings_put_nothing_down(database: Database) -> None:
    store(database, report_of(RUN))
    off = RECHECKS._replace(young=timedelta())
    store(database, fetched(clear(2, hours=1, players=[1]), timedelta()), rechecks=off)
    Store(database.connection).store(
        [fetched(clear(3, hours=1, players=[1]), timedelta())], source="test"
    )
    assert rows(database) == []


def test_a_raid_is_asked_for_twice_and_no_more(database: Database) -> None:
    """More would be traffic for nothing, fewer would miss those that grow after two days."""
    store(database, fetched(RUN, timedelta(seconds=30)))
    body = b'{"instanceId": "1000001", "refetch": true}'
    assert ask(database, ENDED + timedelta(minutes=14)) == []
    assert ask(database, ENDED + timedelta(minutes=15)) == [body]
    assert ask(database, ENDED + timedelta(hours=47)) == []
    # What came of it changes nothing about the second date.
    grown = clear(1, hours=1, players=[worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1])
    assert store(database, fetched(grown, timedelta(minutes=15))) == [Outcome.REPLACED]
    assert rows(database) == [(RUN.instance_id, 1, ENDED + timedelta(hours=48))]
    assert ask(database, ENDED + timedelta(hours=48)) == [body]
    assert rows(database) == []
    assert store(database, fetched(grown, timedelta(hours=48))) == [Outcome.DUPLICATE]
    assert rows(database) == []


def test_a_raid_whose_dates_have_both_passed_is_asked_for_once(database: Database) -> None:
    """After days of standstill the second look tells all that the first would have."""
    store(database, fetched(RUN, timedelta(seconds=30)))
    assert len(ask(database, ENDED + timedelta(days=3))) == 1
    assert rows(database) == []


def test_the_longest_overdue_go_first_and_a_step_is_bounded(database: Database) -> None:
    runs = [clear(n, hours=10 - n, players=[worlds.FIRST_PLAYER]) for n in range(5)]
    store(database, *(fetched(run, timedelta()) for run in runs))
    asked = ask(database, ENDED + timedelta(days=1), limit=2)
    ids = [msgspec.json.decode(body)["instanceId"] for body in asked]
    assert sorted(ids) == ["1000003", "1000004"]


def test_two_processes_ask_once(database: Database) -> None:
    """Each hermes runs the chore; a raid asked for by all of them would cost the API dearly."""
    runs = [clear(n, hours=1, players=[worlds.FIRST_PLAYER]) for n in range(60)]
    store(database, *(fetched(run, timedelta()) for run in runs))
    now = ENDED + timedelta(minutes=20)

    def chore(_: int) -> int:
        with closing(database.connect()) as connection:
            total = 0
            while asked := young.ask_again(connection, RECHECKS, now=now, limit=7):
                total += asked
            return total

    with ThreadPoolExecutor(4) as pool:
        totals = list(pool.map(chore, range(4)))
    # One that finds all due rows taken by others ends early; what is left is taken next time.
    assert sum(totals) == len(messages(database)) == len({body for _, body in messages(database)})
    assert sum(totals) + len(ask(database, now)) == 60
    assert {rounds for _, rounds, _ in rows(database)} == {1}


def test_a_parked_report_is_looked_at_again_too(database: Database) -> None:
    """On a release day everything is young and unknown at once."""
    unknown = msgspec.structs.replace(RUN, hash=77)
    assert store(database, fetched(unknown, timedelta(seconds=30))) == [Outcome.UNKNOWN_HASH]
    assert len(rows(database)) == 1


def test_a_raid_deleted_and_stored_again_keeps_its_dates(database: Database) -> None:
    """Programs outside delete instances and whole reports; their store must not fail on our row."""
    report = fetched(RUN, timedelta(seconds=30))
    store(database, report)
    ask(database, ENDED + timedelta(minutes=15))
    for table in (
        "extended.instance_character_weapon",
        "extended.instance_character",
        "core.instance_player",
        "core.player_stats",
        "core.instance",
        "raw.pgcr",
    ):
        database.rows(f"DELETE FROM {table}")
    database.rows("UPDATE core.player SET clears = 0, fresh_clears = 0, sherpas = 0")
    database.rows("UPDATE core.player SET total_time_played_seconds = 0, sum_of_best = NULL")
    assert store(database, report) == [Outcome.STORED]
    assert [rounds for _, rounds, _ in rows(database)] == [1]


def test_looks_that_are_hours_late_are_found(database: Database) -> None:
    """Nobody would notice for weeks that hermes asks for nothing any more."""
    store(database, fetched(RUN, timedelta(seconds=30)))
    late = {f.check: f.differing for f in verify(database.connection, None) if not f.is_equal}
    assert late == {"young": 1}
    database.rows("UPDATE streaming.young_pgcr SET due_at = now() - interval '5 hours'")
    assert all(f.is_equal for f in verify(database.connection, None))
