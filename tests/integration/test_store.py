"""The store against real PostgreSQL: order, duplicates, batches, workers, deaths change nothing."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import msgspec
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.messaging import topology
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage import store as store_module
from raidhub_dagster.storage.clickhouse_rows import decode_row, read_rows
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.revisions import Relation, digest, relation
from raidhub_dagster.storage.store import Outcome, Report, Store
from raidhub_dagster.storage.verify import verify
from tests.support import worlds
from tests.support.database import NEEDED, Database, store_all, store_reports
from tests.support.reports import make_report

_PER_EXAMPLE = settings(
    max_examples=40,
    # The database is shared by all examples of a test; each starts by wiping it.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def assert_exact(database: Database, world: list[Instance], *, replaced: int = 0) -> None:
    found, wanted = worlds.found(database.connection), worlds.expected(world, NEEDED)
    for name, rows in found._asdict().items():
        assert rows == getattr(wanted, name), name
    assert_effects(database, world, replaced=replaced)


def assert_effects(database: Database, world: list[Instance], *, replaced: int = 0) -> None:
    """One ClickHouse row an instance, right by itself or with a correction on its way."""
    ids = {i.instance_id for i in world}
    bodies = database.rows("SELECT key, body FROM streaming.outbox WHERE kind = 'clickhouse'")
    assert sorted(key for key, _ in bodies) == sorted(ids)
    corrections = database.rows("SELECT instance_id FROM streaming.clickhouse_correction")
    now = {row["instance_id"]: row for row in read_rows(database.connection, ids)}
    database.connection.rollback()
    for key, body in bodies:
        sent = decode_row(bytes(body))
        assert sent == now[key] or (key,) in corrections
    checks = database.rows(
        "SELECT key FROM streaming.outbox WHERE destination = 'instance_cheat_check'"
    )
    assert {key for (key,) in checks} == ids
    assert len(checks) == len(ids) + replaced


def assert_newest_kept(database: Database, histories: list[list[Report]]) -> None:
    """The body that counts is kept, and every other run that the report ever told."""
    kept = dict(database.rows("SELECT instance_id, data FROM raw.pgcr"))
    revisions = database.rows("SELECT instance_id, sha256, state FROM streaming.pgcr_revision")
    found = {(instance_id, bytes(key)) for instance_id, key, _ in revisions}
    assert {state for *_, state in revisions} <= {"superseded"}
    came = {(v.instance.instance_id, digest(v.body)) for vs in histories for v in vs[:-1]}
    assert found <= came
    for versions in histories:
        *older, newest = versions
        instance_id = newest.instance.instance_id
        assert bytes(kept[instance_id]) == newest.body
        for version in older:
            others = [v for v in versions if v is not version]
            if all(relation(version.instance, v.instance) is Relation.CONTENT for v in others):
                assert (instance_id, digest(version.body)) in found
    assert not [f for f in verify(database.connection, None) if f.differing]


@_PER_EXAMPLE
@given(data=st.data())
def test_tables_are_exact_in_any_order_batching_and_duplication(
    database: Database, data: st.DataObject
) -> None:
    """Otherwise first clears depend on which worker was faster, and nobody can recheck them."""
    worlds.wipe(database.connection)
    world = data.draw(worlds.worlds())
    again = data.draw(st.lists(st.sampled_from(world), max_size=4))
    order = data.draw(st.permutations(world + again))
    outcomes = store_all(Store(database.connection), order, data.draw(st.integers(1, 6)))
    assert outcomes.count(Outcome.STORED) == len(world)
    assert outcomes.count(Outcome.DUPLICATE) == len(again)
    assert_exact(database, world)


@settings(_PER_EXAMPLE, max_examples=80)
@given(data=st.data())
def test_tables_are_those_of_the_newest_versions_in_whatever_order_they_came(
    database: Database, data: st.DataObject
) -> None:
    """A report that grew must leave nothing of what it said before, and no old copy undo it."""
    worlds.wipe(database.connection)
    world, histories = data.draw(worlds.histories())
    reports = [version for versions in histories for version in versions]
    again = data.draw(st.lists(st.sampled_from(reports), max_size=4))
    order = data.draw(st.permutations(reports + again))
    outcomes = store_reports(Store(database.connection), order, data.draw(st.integers(1, 6)))
    assert outcomes.count(Outcome.STORED) == len(world)
    assert_exact(database, world, replaced=outcomes.count(Outcome.REPLACED))
    assert_newest_kept(database, histories)


@pytest.mark.parametrize("rounds", [3, 0], ids=["by players", "by activities"])
@settings(_PER_EXAMPLE, max_examples=8)
@given(history=worlds.histories(most=16), seed=st.integers(0, 2**32))
def test_tables_are_exact_with_parallel_workers(
    database: Database,
    rounds: int,
    history: tuple[list[Instance], list[list[Report]]],
    seed: int,
) -> None:
    """Overlapping fireteams in several workers must neither deadlock nor lose an update."""
    worlds.wipe(database.connection)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "_LOCK_ROUNDS", rounds)
        store_in_parallel(database, history, seed)


def store_in_parallel(
    database: Database, history: tuple[list[Instance], list[list[Report]]], seed: int
) -> None:
    world, histories = history
    rng = random.Random(seed)
    failures: list[BaseException] = []
    outcomes: list[Outcome] = []

    def work(order: list[Report], batch: int) -> None:
        try:
            with closing(database.connect()) as connection:
                outcomes.extend(store_reports(Store(connection), order, batch))
        except BaseException as error:  # noqa: BLE001  reported by the test's own thread
            failures.append(error)

    # Every version goes to two workers, so that duplicates race as well.
    threads = []
    reports = [version for versions in histories for version in versions]
    for part in range(4):
        mine = [r for n, r in enumerate(reports) if n % 4 in (part, (part + 1) % 4)]
        rng.shuffle(mine)
        threads.append(threading.Thread(target=work, args=(mine, rng.randint(1, 5))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert_exact(database, world, replaced=outcomes.count(Outcome.REPLACED))
    assert_newest_kept(database, histories)
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert database.rows(locks) == [(0,)]


class DeadError(Exception):
    """The process is gone."""


def dying_cursor(after: int) -> type[Cursor]:
    """A cursor whose process dies before its statement number `after` (0 is the first)."""
    left = [after]

    class DyingCursor(Cursor):
        def execute(self, *args: Any, **kwargs: Any) -> None:
            self._step()
            super().execute(*args, **kwargs)

        def copy_expert(self, *args: Any, **kwargs: Any) -> None:
            self._step()
            super().copy_expert(*args, **kwargs)

        def _step(self) -> None:
            if left[0] == 0:
                self.connection.close()
                raise DeadError
            left[0] -= 1

    return DyingCursor


@settings(_PER_EXAMPLE, max_examples=8)
@given(history=worlds.histories(most=6), batch=st.integers(1, 5))
def test_tables_are_exact_when_the_process_dies_between_any_two_steps(
    database: Database, history: tuple[list[Instance], list[list[Report]]], batch: int
) -> None:
    """A worker that is killed leaves all of a batch or nothing; the redelivery does the rest."""
    worlds.wipe(database.connection)
    world, histories = history
    reports = [version for versions in histories for version in versions]
    deaths = 0
    outcomes: list[Outcome] = []
    for start in range(0, len(reports), batch):
        part = reports[start : start + batch]
        for step in range(300):
            connection = database.connect()
            connection.cursor_factory = dying_cursor(step)
            try:
                outcomes += store_reports(Store(connection), part, batch)
            except (DeadError, psycopg2.InterfaceError):  # the rollback finds nobody either
                deaths += 1
            else:
                break
            finally:
                connection.close()
        else:
            pytest.fail("the store never came to an end")
    assert deaths >= 10
    assert_exact(database, world, replaced=outcomes.count(Outcome.REPLACED))
    assert_newest_kept(database, histories)


def test_members_of_a_displaced_instance_are_locked_before_they_change(
    database: Database,
) -> None:
    """The late arrival of an early clear rewrites the sherpas of people who are not in it."""
    one, two, three = (worlds.FIRST_PLAYER + n for n in range(3))
    later = worlds.clear(2, hours=10, players=[one, two, three])
    earlier = worlds.clear(1, hours=1, players=[one])
    before = worlds.clear(3, hours=2, players=[two])
    store = Store(database.connection)
    assert store_all(store, [later, earlier, before], 1) == [Outcome.STORED] * 3
    assert_exact(database, [later, earlier, before])
    assert database.rows("SELECT instance_id, revision FROM streaming.clickhouse_correction") == [
        (1_000_002, 3)
    ]


def test_last_round_waits_until_it_has_the_activity_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds that others keep lengthening must end; then nobody else may store the activity."""
    monkeypatch.setattr(store_module, "_LOCK_ROUNDS", 0)
    clears = [
        worlds.clear(n, hours=50 - n, players=[worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + n])
        for n in (1, 2)
    ]
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with closing(database.connect()) as other, ThreadPoolExecutor(1) as pool:
        with other.cursor() as cursor:
            cursor.execute(load("postgres", "store")["share_activities"], {"activities": "{11}"})
            stored = pool.submit(store_all, Store(database.connection), clears, 1)
            cursor.execute(waiting)
            while cursor.fetchall() == [(0,)]:
                assert not stored.done()
                cursor.execute(waiting)
        other.rollback()
        assert stored.result(timeout=60) == [Outcome.STORED] * 2
    assert_exact(database, clears)


def unknown_clear() -> Instance:
    known = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    return msgspec.structs.replace(known, hash=77)


def test_unknown_hash_is_kept_and_stored_once_it_is_known(database: Database) -> None:
    """On a release day nothing may be lost before somebody adds the definition."""
    instance = msgspec.structs.replace(
        worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER]), hash=77
    )
    body = msgspec.json.encode(make_report(instance_id=instance.instance_id, hash=77))
    report = worlds.report_of(instance)._replace(body=body)
    store = Store(database.connection)
    assert store.store([report], source="test") == [Outcome.UNKNOWN_HASH]
    missed = "SELECT instance_id, state, hash FROM streaming.missed_pgcr"
    assert database.rows(missed) == [(instance.instance_id, "unknown_hash", 77)]
    assert store.store_known_hashes() == 0

    with database.connection, database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO definitions.activity_version VALUES (77, 11, 1)")
    assert store.store_known_hashes() == 1
    assert database.rows(missed) == [(instance.instance_id, "resolved", 77)]
    assert database.rows("SELECT instance_id, hash FROM core.instance") == [
        (instance.instance_id, 77)
    ]
    assert store.store_known_hashes() == 0


def test_kept_report_that_no_parser_reads_is_fetched_again(database: Database) -> None:
    """One broken body must not stop the others that wait for the same definition."""
    instance = msgspec.structs.replace(
        worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER]), hash=77
    )
    store = Store(database.connection)
    store.store([worlds.report_of(instance)._replace(body=b"x")], source="test")
    with database.connection, database.connection.cursor() as cursor:
        cursor.execute("INSERT INTO definitions.activity_version VALUES (77, 11, 1)")
    assert store.store_known_hashes() == 0
    assert database.rows(
        "SELECT state, next_attempt_at IS NOT NULL FROM streaming.missed_pgcr"
    ) == [("malformed", True)]


@pytest.mark.parametrize("state", ["waiting", "malformed", "unknown_hash", "missing", "rejected"])
def test_missed_row_is_closed_with_the_store(database: Database, state: str) -> None:
    """Or atlas would fetch a stored report for ever, or a rejected one look lost."""
    instance = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    with database.connection, database.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
            " VALUES (%s, %s, 'not_found', 'atlas')",
            (instance.instance_id, state),
        )
    store_all(Store(database.connection), [instance], 1)
    assert database.rows("SELECT state FROM streaming.missed_pgcr") == [("resolved",)]


@pytest.mark.parametrize(("days_ago", "crawled"), [(0, {0, 1}), (40, {1})])
def test_player_crawl_is_asked_for_the_fresh_and_of_archives_only_for_the_nameless(
    database: Database, days_ago: int, crawled: set[int]
) -> None:
    """An import of ten million old reports must not flood the player queue."""
    instance = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER, worlds.FIRST_PLAYER + 1])
    known, nameless = instance.players
    nameless = msgspec.structs.replace(nameless, membership_type=None)
    instance = msgspec.structs.replace(instance, players=(known, nameless))
    store = Store(
        database.connection, now=lambda: instance.date_completed + timedelta(days=days_ago)
    )
    store_all(store, [instance], 1)
    asked = database.rows(
        f"SELECT key FROM streaming.outbox WHERE destination = '{topology.PLAYER_CRAWL}'"
    )
    assert {key - worlds.FIRST_PLAYER for (key,) in asked} == crawled
    filled = database.rows(
        f"SELECT key, body FROM streaming.outbox WHERE destination = '{topology.CHARACTER_FILL}'"
    )
    assert len(filled) == 2
    assert {msgspec.json.decode(bytes(body))["characterId"] for _, body in filled} == {
        str(key) for key, _ in filled
    }


def test_conflict_with_an_outside_writer_is_tried_again(database: Database) -> None:
    """Writers outside take no lock of ours: their row must look like an earlier delivery."""
    instance = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    outsider = database.connect()
    with outsider.cursor() as cursor:
        cursor.execute("INSERT INTO raw.pgcr (instance_id, data) VALUES (1000001, 'x')")
    timer = threading.Timer(0.3, outsider.commit)
    timer.start()
    store = Store(database.connection, sleep=lambda _: None)
    assert store_all(store, [instance], 1) == [Outcome.STORED]
    timer.join()
    outsider.close()
    ((kept,),) = database.rows("SELECT data FROM raw.pgcr")
    assert bytes(kept) == worlds.report_of(instance).body
    assert database.rows(
        "SELECT convert_from(data, 'UTF8'), state FROM streaming.pgcr_revision"
    ) == [("x", "superseded")]


def test_batch_that_waits_for_a_load_of_definitions_goes_by_the_new_ones(
    database: Database,
) -> None:
    """Half old and half new definitions would leave rows that no recount agrees with."""
    instance = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
    with closing(database.connect()) as loader, ThreadPoolExecutor(1) as pool:
        with loader.cursor() as cursor:
            cursor.execute(load("postgres", "seeds")["lock_stored"])
            cursor.execute(
                "INSERT INTO definitions.season VALUES (99, '', '', '', %s);"
                "UPDATE definitions.activity_version SET activity_id = 12 WHERE hash = %s",
                (instance.date_started - timedelta(hours=1), instance.hash),
            )
        stored = pool.submit(store_all, Store(database.connection), [instance], 1)
        with closing(database.connect()) as looking, looking.cursor() as cursor:
            looking.autocommit = True
            cursor.execute(waiting)
            while cursor.fetchall() == [(0,)]:
                assert not stored.done()
                cursor.execute(waiting)
        loader.commit()
        assert stored.result(timeout=60) == [Outcome.STORED]
    assert database.rows("SELECT season_id FROM core.instance") == [(99,)]
    assert database.rows("SELECT activity_id FROM core.player_stats") == [(12,)]


def test_sum_of_absurd_durations_is_capped(database: Database) -> None:
    """A report may claim 68 years; the sum of two would fail the store for ever."""
    longest = 2**31 - 1
    world = [
        msgspec.structs.replace(
            worlds.clear(number, hours=number, players=[worlds.FIRST_PLAYER]),
            hash=activity_hash,
            duration=longest,
        )
        for number, activity_hash in enumerate((1374392663, 2381413764))
    ]
    store_all(Store(database.connection), world, 1)
    assert database.rows("SELECT sum_of_best FROM core.player") == [(longest,)]
    assert [f.check for f in verify(database.connection, None) if f.differing] == ["reports"]


def test_absurd_times_are_capped(database: Database) -> None:
    """Two of them are more than the columns hold, however they are spread over activities."""
    longest = 2**31 - 1
    clears = [worlds.clear(n, hours=n, players=[worlds.FIRST_PLAYER]) for n in range(4)]
    world = [
        msgspec.structs.replace(
            instance,
            hash=activity_hash,
            players=(msgspec.structs.replace(instance.players[0], time_played_seconds=longest),),
        )
        for instance, activity_hash in zip(clears, [1374392663] * 3 + [2381413764], strict=True)
    ]
    store_all(Store(database.connection), world, 2)
    times = "SELECT total_time_played_seconds FROM"
    assert database.rows(f"{times} core.player_stats") == [(longest,)] * 2
    assert database.rows(f"{times} core.player") == [(longest,)]
    assert [f.check for f in verify(database.connection, None) if f.differing] == ["reports"]


def test_name_that_only_an_outside_writer_knew_stays(database: Database) -> None:
    """Null never overwrites, also not half of a pair."""
    instance = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    (player,) = instance.players
    player = msgspec.structs.replace(
        player, bungie_global_display_name=None, bungie_global_display_name_code=None
    )
    with database.connection, database.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO core.player (membership_id, bungie_global_display_name, last_seen)"
            " VALUES (%s, 'Outside', now())",
            (player.membership_id,),
        )
    store_all(Store(database.connection), [msgspec.structs.replace(instance, players=(player,))], 1)
    assert database.rows("SELECT bungie_global_display_name, display_name FROM core.player") == [
        ("Outside", "Ann")
    ]


def test_error_of_one_report_leaves_the_batch_unstored(database: Database) -> None:
    """The caller then stores each alone; half a batch would be counted twice."""
    good = worlds.clear(1, hours=1, players=[worlds.FIRST_PLAYER])
    bad = msgspec.structs.replace(worlds.clear(2, hours=1, players=[worlds.FIRST_PLAYER]))
    bad = msgspec.structs.replace(bad, players=bad.players * 2)  # breaks the primary key
    store = Store(database.connection, sleep=lambda _: None)
    with pytest.raises(psycopg2.errors.UniqueViolation):
        store.store([worlds.report_of(good), worlds.report_of(bad)], source="test")
    assert database.rows("SELECT * FROM core.instance") == []
    assert store.store([worlds.report_of(good)], source="test") == [Outcome.STORED]
