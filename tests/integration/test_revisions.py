"""Reports that came in several versions: which one counts, and what stays of the others."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from raidhub_dagster.messaging import topology
from raidhub_dagster.pgcr.envelope import gunzip, pack, stamped
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage.clickhouse_parity import compare
from raidhub_dagster.storage.clickhouse_sender import Sent
from raidhub_dagster.storage.revisions import Report
from raidhub_dagster.storage.store import Outcome, Store
from raidhub_dagster.storage.verify import verify
from tests.support import worlds
from tests.support.analytics import Analytics, run
from tests.support.database import NEEDED, Database, store_reports
from tests.support.worlds import clear, report_of

ONE, TWO, THREE, FOUR = (worlds.FIRST_PLAYER + n for n in range(4))
HASH, SAME_RAID, OTHER_RAID = 1374392663, 2964135793, 2381413764
UNKNOWN = 77
NOTHING = Sent(0, 0, 0, 0)
HOUR = timedelta(hours=1)

replace = msgspec.structs.replace


def fetched(instance: Instance, minutes: float) -> Report:
    """`instance` as fetched so long after its end."""
    return report_of(instance, instance.date_completed + timedelta(minutes=minutes))


def without(instance: Instance, *members: int) -> Instance:
    players = tuple(p for p in instance.players if p.membership_id not in members)
    return replace(instance, players=players, player_count=len(players))


def unfinished(instance: Instance, who: int) -> Instance:
    """`instance` in which `who` did not complete."""
    players = tuple(
        replace(p, completed=False, characters=(replace(p.characters[0], completed=False),))
        if p.membership_id == who
        else p
        for p in instance.players
    )
    return replace(instance, players=players)


def named(instance: Instance, name: str, emblem: int | None = None) -> Instance:
    players = tuple(
        replace(p, display_name=name, characters=(replace(p.characters[0], emblem_hash=emblem),))
        for p in instance.players
    )
    return replace(instance, players=players)


def store(database: Database, *reports: Report) -> list[Outcome]:
    """One delivery after the other, two days after the first runs: they are no archives yet."""
    now = worlds.EPOCH + timedelta(days=2)
    return store_reports(Store(database.connection, now=lambda: now), reports, 1)


def assert_world(database: Database, *world: Instance) -> None:
    """The tables are those of `world`, but for players who once were in a run and are in none."""
    found = worlds.found(database.connection)
    present = {row[1] for row in found.instance_players}
    found = found._replace(players={row for row in found.players if row[0] in present})
    assert found == worlds.expected(world, NEEDED)
    assert damaged(database) == {}


def damaged(database: Database) -> dict[str, list[str]]:
    return {f.check: f.examples for f in verify(database.connection, None) if not f.is_equal}


def revisions(database: Database) -> list[tuple[Any, ...]]:
    rows = database.rows("SELECT data, state FROM streaming.pgcr_revision ORDER BY fetched_at")
    return [(gunzip(bytes(data)), state) for data, state in rows]


def plain(report: Report) -> bytes:
    return gunzip(report.body)


def asked(database: Database, queue: str) -> list[int]:
    rows = database.rows("SELECT key FROM streaming.outbox WHERE destination = %s", queue)
    return [key for (key,) in rows]


def test_a_report_that_grew_takes_the_place_of_what_is_stored(database: Database) -> None:
    """Half a fireteam would miss a clear for ever."""
    whole = clear(1, hours=1, players=[ONE, TWO, THREE])
    half = fetched(without(whole, TWO, THREE), 1)
    assert store(database, half, fetched(whole, 15)) == [Outcome.STORED, Outcome.REPLACED]
    assert_world(database, whole)
    assert revisions(database) == [(plain(half), "superseded")]
    assert asked(database, topology.INSTANCE_CHEAT_CHECK) == [whole.instance_id] * 2
    assert sorted(asked(database, topology.PLAYER_CRAWL)) == [ONE, TWO, THREE]
    assert len(asked(database, topology.CHARACTER_FILL)) == 3
    assert database.rows("SELECT instance_id, revision FROM streaming.clickhouse_correction") == [
        (whole.instance_id, 2)
    ]


def test_an_old_copy_of_a_report_that_grew_changes_nothing(database: Database) -> None:
    """A redelivery, or a cache that serves yesterday's copy, must not take players out again."""
    whole = clear(1, hours=1, players=[ONE, TWO, THREE])
    half = without(whole, THREE)
    late = fetched(half, 9_000)
    outcomes = store(database, fetched(whole, 15), fetched(half, 1), late, fetched(whole, 15))
    assert outcomes == [
        Outcome.STORED,
        Outcome.SUPERSEDED,
        Outcome.SUPERSEDED,
        Outcome.DUPLICATE,
    ]
    assert_world(database, whole)
    assert revisions(database) == [(plain(late), "superseded")]
    assert database.rows("SELECT * FROM streaming.clickhouse_correction") == []


def test_of_equally_long_versions_the_later_fetched_counts(database: Database) -> None:
    """Bungie corrects what it said; the second copy is the better one, in whatever order."""
    first = clear(1, hours=1, players=[ONE, TWO])
    second = replace(unfinished(first, TWO), score=5)
    assert store(database, fetched(second, 15), fetched(first, 1)) == [
        Outcome.STORED,
        Outcome.SUPERSEDED,
    ]
    assert_world(database, second)
    third = replace(first, score=6)
    assert store(database, fetched(third, 2_900)) == [Outcome.REPLACED]
    assert_world(database, third)


def test_of_the_same_second_the_later_comer_counts_once(database: Database) -> None:
    """A second is all that a body tells; redeliveries must not make two versions take turns."""
    first = named(clear(1, hours=1, players=[ONE]), "Ann")
    second = replace(first, score=5)
    versions = [fetched(first, 1), fetched(second, 1)]
    assert store(database, *versions, *versions, versions[0]) == [
        Outcome.STORED,
        Outcome.REPLACED,
        Outcome.SUPERSEDED,
        Outcome.DUPLICATE,
        Outcome.SUPERSEDED,
    ]
    assert_world(database, second)
    renamed = named(second, "Bob")
    assert store(database, fetched(renamed, 1)) == [Outcome.SEEN_AGAIN]
    assert_world(database, renamed)


def test_a_file_and_the_api_do_not_take_turns(database: Database) -> None:
    """Archives do not say when they were fetched: importing one again would undo the crawl."""
    run = clear(1, hours=1, players=[ONE, TWO])
    archived, crawled = replace(run, score=1), replace(run, score=2)
    assert store(database, report_of(archived), fetched(crawled, 15)) == [
        Outcome.STORED,
        Outcome.SUPERSEDED,
    ]
    assert store(database, report_of(archived)) == [Outcome.DUPLICATE]
    assert_world(database, archived)
    longer = clear(1, hours=1, players=[ONE, TWO, THREE])
    assert store(database, fetched(longer, 15)) == [Outcome.REPLACED]
    assert_world(database, longer)


def test_an_archive_that_lost_the_platform_is_the_same_report(database: Database) -> None:
    """All archives did: importing one over a crawl would replace every raid."""
    run = clear(1, hours=1, players=[ONE])
    assert store(database, fetched(run, 1), report_of(replace(run, platform_type=0))) == [
        Outcome.STORED,
        Outcome.DUPLICATE,
    ]
    assert revisions(database) == []


def test_other_names_are_a_sighting_and_nothing_else(database: Database) -> None:
    """People rename themselves; that must not check their raids for cheats again."""
    run = named(clear(1, hours=1, players=[ONE, TWO]), "Ann", emblem=1)
    later, latest = named(run, "Bob", emblem=2), named(run, "Cid", emblem=3)
    assert store(database, fetched(run, 1), fetched(latest, 2_900), fetched(later, 15)) == [
        Outcome.STORED,
        Outcome.SEEN_AGAIN,
        Outcome.SEEN_AGAIN,
    ]
    assert_world(database, latest)
    assert revisions(database) == []
    assert asked(database, topology.INSTANCE_CHEAT_CHECK) == [run.instance_id]


def test_what_was_filled_in_since_outlives_a_replacement(database: Database) -> None:
    """A class that the report never had was looked up: nobody would look it up again."""
    whole = clear(1, hours=1, players=[ONE, TWO])
    store(database, fetched(without(whole, TWO), 1))
    database.rows("UPDATE extended.instance_character SET class_hash = 671679327")
    store(database, fetched(whole, 15))
    classes = "SELECT membership_id, class_hash FROM extended.instance_character ORDER BY 1"
    assert database.rows(classes) == [(ONE, 671679327), (TWO, None)]
    assert damaged(database) == {}


def test_a_replaced_report_is_checked_again(database: Database) -> None:
    """A verdict about half of a team would clear, or condemn, the whole of it."""
    whole = clear(1, hours=1, players=[ONE, TWO])
    store(database, fetched(without(whole, TWO), 1))
    database.rows(
        "INSERT INTO streaming.cheat_check (instance_id, version, probability, bitmask)"
        " VALUES (%s, 'v', 0, 0)",
        whole.instance_id,
    )
    store(database, fetched(whole, 20))
    assert database.rows("SELECT * FROM streaming.cheat_check") == []
    assert asked(database, topology.INSTANCE_CHEAT_CHECK) == [whole.instance_id] * 2


def test_first_clears_come_back_when_a_report_takes_one_away(database: Database) -> None:
    """The later run becomes the first one again, and its helpers get their sherpas back."""
    early = clear(1, hours=1, players=[ONE, TWO])
    later = clear(2, hours=5, players=[ONE, THREE])
    before = clear(3, hours=0, players=[THREE])
    corrected = unfinished(early, ONE)
    reports = [fetched(i, 1) for i in (before, later, early)]
    assert store(database, *reports, fetched(corrected, 15))[-1] is Outcome.REPLACED
    assert_world(database, before, later, corrected)
    corrections = database.rows(
        "SELECT instance_id FROM streaming.clickhouse_correction ORDER BY 1"
    )
    assert corrections == [(early.instance_id,), (later.instance_id,)]


def test_a_record_that_was_none_gives_way_to_the_next_best(database: Database) -> None:
    """Fastest runs and sums of best must not keep a time that no report has."""
    fast = replace(clear(1, hours=1, players=[ONE]), duration=100)
    fast = with_end(fast, 100)
    slow = clear(2, hours=3, players=[ONE])
    other = replace(clear(3, hours=5, players=[ONE]), hash=OTHER_RAID)
    corrected = with_end(fast, 4_000)
    store(database, *(fetched(i, 1) for i in (fast, slow, other)))
    best = "SELECT sum_of_best FROM core.player"
    assert database.rows(best) == [(3_700,)]
    assert store(database, report_at(corrected, fast, 15)) == [Outcome.REPLACED]
    assert database.rows(best) == [(7_200,)]
    assert_world(database, corrected, slow, other)
    assert store(database, report_at(replace(corrected, fresh=False), fast, 20)) == [
        Outcome.REPLACED
    ]
    not_fresh = replace(slow, fresh=False, flawless=False)
    assert store(database, fetched(not_fresh, 15)) == [Outcome.REPLACED]
    assert database.rows(best) == [(None,)]


def with_end(instance: Instance, duration: int) -> Instance:
    """`instance` lasting so many seconds, all of which everybody played."""
    ended = instance.date_started + timedelta(seconds=duration)
    return replace(
        instance,
        duration=duration,
        date_completed=ended,
        players=tuple(
            replace(
                p,
                time_played_seconds=duration,
                last_seen=ended,
                characters=(replace(p.characters[0], time_played_seconds=duration),),
            )
            for p in instance.players
        ),
    )


def report_at(instance: Instance, first: Instance, minutes: float) -> Report:
    """Fetched so long after the end that the first version gave."""
    return report_of(instance, first.date_completed + timedelta(minutes=minutes))


def test_a_player_who_left_the_report_keeps_nothing_of_it(database: Database) -> None:
    """Counters of an activity that somebody never played would stay for ever."""
    run = clear(1, hours=1, players=[ONE, TWO])
    shorter = without(run, TWO)
    # As long as the first one: the other entry is of another player.
    swapped = clear(1, hours=1, players=[ONE, THREE])
    assert store(database, fetched(run, 1), fetched(swapped, 15)) == [
        Outcome.STORED,
        Outcome.REPLACED,
    ]
    assert_world(database, swapped)
    counters = "SELECT clears, sherpas, total_time_played_seconds FROM core.player"
    assert database.rows(f"{counters} WHERE membership_id = %s", TWO) == [(0, 0, 0)]
    assert store(database, fetched(shorter, 30)) == [Outcome.SUPERSEDED]


@pytest.mark.parametrize("table", ["flag_instance_player", "blacklist_instance_player"])
def test_a_flagged_player_who_left_the_report_stays_and_is_told_of(
    database: Database, table: str
) -> None:
    """What somebody was judged for must not vanish under the judgement."""
    run = clear(1, hours=1, players=[ONE, TWO, FOUR])
    store(database, fetched(run, 1))
    if table == "flag_instance_player":
        database.rows(
            "INSERT INTO flagging.flag_instance_player VALUES (%s, %s, 'v1', 1, now(), 0.9)",
            run.instance_id,
            TWO,
        )
    else:
        database.rows(
            "INSERT INTO flagging.blacklist_instance (instance_id, report_source, reason)"
            " VALUES (%s, 'Manual', 'test')",
            run.instance_id,
        )
        database.rows(
            "INSERT INTO flagging.blacklist_instance_player VALUES (%s, %s, 'test')",
            run.instance_id,
            TWO,
        )
    swapped = clear(1, hours=1, players=[ONE, THREE, FOUR])
    assert store(database, fetched(swapped, 15)) == [Outcome.PARTLY_REPLACED]
    present = database.rows("SELECT membership_id FROM core.instance_player ORDER BY 1")
    assert present == [(ONE,), (TWO,), (THREE,), (FOUR,)]
    assert database.rows("SELECT player_count FROM core.instance") == [(3,)]
    assert database.rows("SELECT clears FROM core.player_stats") == [(1,)] * 4
    assert damaged(database) == {}


@pytest.mark.parametrize(
    "change",
    [{"hash": OTHER_RAID}, {"hash": UNKNOWN}, {"hash": SAME_RAID}, {"later": timedelta(days=1)}],
    ids=["other raid", "unknown raid", "other version", "other day"],
)
def test_another_run_under_the_same_id_is_kept_aside(
    database: Database, change: dict[str, Any]
) -> None:
    """Nobody can tell which of the two is right: the first stays, a person is told, once."""
    run = clear(1, hours=1, players=[ONE])
    later = change.pop("later", timedelta())
    another = clear(1, hours=1 + later.days * 24, players=[ONE, TWO])
    other = fetched(replace(another, **change), 15)
    assert store(database, fetched(run, 1), other, other) == [
        Outcome.STORED,
        Outcome.CONFLICT,
        Outcome.DUPLICATE,
    ]
    assert_world(database, run)
    assert revisions(database) == [(plain(other), "conflict")]
    assert database.rows("SELECT count(*) FROM core.player") == [(1,)]


def test_a_parked_report_waits_in_its_newest_version(database: Database) -> None:
    """When the definition comes at last, the raid is stored as Bungie tells it by then."""
    run = replace(clear(1, hours=1, players=[ONE, TWO]), hash=UNKNOWN)
    half = without(run, TWO)
    assert (
        store(database, fetched(half, 1), fetched(run, 15), fetched(half, 1))
        == [Outcome.UNKNOWN_HASH] * 3
    )
    contradicting = fetched(replace(run, hash=HASH), 20)
    assert store(database, contradicting) == [Outcome.CONFLICT]
    assert database.rows("SELECT state FROM streaming.missed_pgcr") == [("unknown_hash",)]
    assert damaged(database) == {}
    database.rows("INSERT INTO definitions.activity_version VALUES (77, 11, 1)")
    assert Store(database.connection).store_known_hashes() == 1
    assert database.rows("SELECT hash, player_count FROM core.instance") == [(UNKNOWN, 2)]
    assert database.rows("SELECT state FROM streaming.missed_pgcr") == [("resolved",)]
    assert damaged(database) == {}


def test_the_better_of_two_is_stored_once_the_definition_is_there(database: Database) -> None:
    """An old copy may be the one that arrives after a seed: the kept one is still better."""
    run = replace(clear(1, hours=1, players=[ONE, TWO]), hash=UNKNOWN)
    store(database, fetched(run, 15))
    database.rows("INSERT INTO definitions.activity_version VALUES (77, 11, 1)")
    assert store(database, fetched(without(run, TWO), 1)) == [Outcome.STORED]
    assert database.rows("SELECT hash, player_count FROM core.instance") == [(UNKNOWN, 2)]
    assert damaged(database) == {}


def delete_rows(database: Database, instance_id: int) -> None:
    """As programs outside do: children first, counters untouched."""
    for table in (
        "extended.instance_character_weapon",
        "extended.instance_character",
        "core.instance_player",
        "core.instance",
    ):
        database.rows(f"DELETE FROM {table} WHERE instance_id = %s", instance_id)


@pytest.mark.parametrize("other", [False, True], ids=["same report", "grown report"])
def test_an_instance_that_was_deleted_is_stored_again_without_counting_twice(
    database: Database, other: bool
) -> None:
    """The predecessor counted a raid again whenever somebody stored it again by hand."""
    run = clear(1, hours=1, players=[ONE, TWO])
    again = clear(2, hours=5, players=[ONE, TWO, THREE])
    store(database, fetched(run, 1), fetched(again, 1))
    delete_rows(database, run.instance_id)
    grown = clear(1, hours=1, players=[ONE, TWO, FOUR]) if other else run
    assert store(database, fetched(grown, 15)) == [Outcome.STORED]
    assert_world(database, grown, again)
    rows = database.rows("SELECT key FROM streaming.outbox WHERE kind = 'clickhouse'")
    assert len(rows) == 2  # the views of ClickHouse have counted it already


def test_an_instance_without_its_report_gets_it_back(database: Database) -> None:
    """Rows that agree stay as they are: nothing is checked or sent again for a lost body."""
    run = clear(1, hours=1, players=[ONE, TWO])
    store(database, fetched(run, 1))
    database.rows("DELETE FROM raw.pgcr")
    assert store(database, fetched(without(run, TWO), 1)) == [Outcome.SUPERSEDED]
    assert database.rows("SELECT * FROM raw.pgcr") == []
    assert store(database, fetched(run, 15)) == [Outcome.DUPLICATE]
    assert_world(database, run)
    assert asked(database, topology.INSTANCE_CHEAT_CHECK) == [run.instance_id]
    database.rows("DELETE FROM raw.pgcr")
    grown = clear(1, hours=1, players=[ONE, TWO, THREE])
    assert store(database, fetched(grown, 15)) == [Outcome.REPLACED]
    assert_world(database, grown)


def test_a_kept_body_that_is_no_report_gives_way(database: Database) -> None:
    """But not to one that says less than the rows: those came from a better report."""
    run = clear(1, hours=1, players=[ONE, TWO])
    store(database, fetched(run, 1))
    database.rows("UPDATE raw.pgcr SET data = 'x'")
    less = fetched(clear(1, hours=1, players=[ONE]), 15)
    assert store(database, less) == [Outcome.SUPERSEDED]
    assert store(database, fetched(run, 15)) == [Outcome.DUPLICATE]
    assert_world(database, run)


def test_a_kept_body_of_another_run_than_its_rows_gives_way(database: Database) -> None:
    """Else every later delivery would be told as a contradiction."""
    run = clear(1, hours=1, players=[ONE])
    store(database, fetched(run, 1))
    other = fetched(replace(run, hash=OTHER_RAID), 1)
    database.rows("UPDATE raw.pgcr SET data = %s", other.body)
    assert store(database, fetched(run, 15)) == [Outcome.DUPLICATE]
    assert_world(database, run)


def test_a_report_packed_in_another_way_is_a_duplicate(database: Database) -> None:
    """Programs outside compress as they like, and formats gain fields that we do not read."""
    run = clear(1, hours=1, players=[ONE])
    report = fetched(run, 1)
    same = stamped(
        pack(plain(report).replace(b'{"period"', b'{ "news": 1, "period"')), run.date_completed
    )
    assert store(database, report, Report(run, same)) == [Outcome.STORED, Outcome.DUPLICATE]
    assert revisions(database) == []


def test_versions_within_one_batch_are_all_looked_at(database: Database) -> None:
    """After an outage the queue holds both copies side by side."""
    whole = clear(1, hours=1, players=[ONE, TWO])
    half, full = fetched(without(whole, TWO), 1), fetched(whole, 15)
    neighbour = fetched(clear(2, hours=2, players=[ONE, TWO]), 1)
    outcomes = Store(database.connection).store([half, neighbour, full, half], source="test")
    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.REPLACED, Outcome.DUPLICATE]
    assert_world(database, whole, neighbour.instance)


def test_clickhouse_gets_the_row_of_the_newest_version(analytics: Analytics) -> None:
    """Readers of both stores see the same run, also when it moved to another day."""
    half = run(1, duration=3600, players=[1])
    whole = run(1, duration=3600 * 30, players=[1, 2])
    assert analytics.store(run(2)) == [Outcome.STORED]
    store = Store(analytics.postgres)
    first, later = (
        report_of(i, half.date_completed + HOUR * n) for n, i in enumerate((half, whole))
    )
    assert store.store([first], source="test") == [Outcome.STORED]
    while analytics.send() != NOTHING:
        pass
    assert store.store([later], source="test") == [Outcome.REPLACED]
    while analytics.send() != NOTHING:
        pass
    assert analytics.select(
        "SELECT instance_id, revision, player_count, date_completed FROM instance FINAL"
        " WHERE instance_id = 1"
    ) == [(1, 2, 2, whole.date_completed.replace(tzinfo=None))]
    # Aggregates know of it: their days are marked, and nothing else differs.
    differences = compare(analytics.postgres, analytics.clickhouse)
    assert differences
    assert all(d.awaits_rebuild and d.table != "instance" for d in differences)
    days = {day for (day,) in analytics.rows("SELECT day FROM streaming.clickhouse_dirty_day")}
    assert {half.date_completed.date(), whole.date_completed.date()} <= days


def test_an_instance_stored_again_is_in_clickhouse_once(analytics: Analytics) -> None:
    """A second pass through the views would count it twice for ever."""
    report = report_of(run(1), run(1).date_completed)
    store = Store(analytics.postgres)
    store.store([report], source="test")
    while analytics.send() != NOTHING:
        pass
    before = analytics.views()
    for table in (
        "extended.instance_character_weapon",
        "extended.instance_character",
        "core.instance_player",
        "core.instance",
    ):
        analytics.rows(f"DELETE FROM {table}")
    assert store.store([report], source="test") == [Outcome.STORED]
    while analytics.send() != NOTHING:
        pass
    assert compare(analytics.postgres, analytics.clickhouse) == []
    assert analytics.views() == before
