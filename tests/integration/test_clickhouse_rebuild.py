"""Rebuilds against both real stores: right afterwards, whole at every moment, whoever is killed."""

from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.storage import postgres as pg
from raidhub_dagster.storage.clickhouse_parity import (
    DAY_AGGREGATES,
    Difference,
    compare,
    compare_sent,
)
from raidhub_dagster.storage.clickhouse_rebuild import (
    Rebuilt,
    awaiting_days,
    parse_days,
    preview,
    prune_marks,
    rebuild,
    rebuild_awaiting,
    rebuild_days,
    rebuild_relations,
)
from raidhub_dagster.storage.clickhouse_sender import held_off, require_held_off
from raidhub_dagster.storage.store import Outcome, Store
from raidhub_dagster.storage.verify import verify
from tests.support.analytics import (
    HASH,
    HOUR,
    LONG_AGO,
    NOTHING,
    VIEWS,
    Analytics,
    DeathError,
    MortalClient,
    run,
    send_until_quiet,
)
from tests.support.worlds import report_of

DAY = HOUR.date()
SQL_HOUR = f"toDateTime('{HOUR:%Y-%m-%d %H:%M:%S}')"
GARBAGE = (
    f"INSERT INTO player_population_by_hour SELECT {SQL_HOUR}, 11, 7",
    f"INSERT INTO weapon_meta_by_hour SELECT {SQL_HOUR}, 11, 70, 1, 0, 3",
    f"INSERT INTO clear_time_by_day SELECT toDate('{DAY}'), 11, 4,"
    " quantilesState(0.05, 0.1, 0.5, 0.9)(toUInt32(60))",
    "INSERT INTO player_relation_weights_bidirectional SELECT 1, 2, 5",
)


class MeddledClient:
    """A client beside which something else happens before each of its calls."""

    def __init__(self, client: Any, meddle: Callable[[], None]) -> None:
        self._client = client
        self._meddle = meddle

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            self._meddle()
            return getattr(self._client, name)(*arguments, **more)

        return call


def around(day: date, *, before: int = 1, after: int = 0) -> list[date]:
    return [day + timedelta(days=n) for n in range(-before, after + 1)]


def rebuilt(analytics: Analytics, days: Iterable[date], client: Any = None) -> list[Rebuilt]:
    """Everything on these days, and the relations."""
    client = client or analytics.clickhouse
    now = datetime.now(UTC)
    done = list(rebuild_days(analytics.postgres, client, list(days), now=now))
    return [*done, rebuild_relations(analytics.postgres, client, now=now)]


def differences(analytics: Analytics) -> list[Difference]:
    return compare(analytics.postgres, analytics.clickhouse)


def assert_equal(analytics: Analytics) -> None:
    """Both stores, and nothing left where rebuilds are prepared."""
    assert differences(analytics) == []
    assert analytics.select("SELECT count() FROM instance_staging") == [(0,)]
    assert analytics.select("SELECT count() FROM instance_twin") == [(0,)]


@pytest.fixture
def sent(analytics: Analytics) -> Analytics:
    """Runs of several days in both stores, one of them over midnight, one of another month."""
    late = HOUR.replace(hour=23)
    analytics.store(
        run(1),
        run(2, players=(2, 3)),
        run(3, started=late, duration=9000, players=(1, 4), weapons=[(70, 1, 1), (80, 2, 0)]),
        run(4, started=HOUR - timedelta(days=2), duration=86400 * 2),
        run(5, started=LONG_AGO),
    )
    send_until_quiet(analytics)
    assert_equal(analytics)
    return analytics


def test_a_day_becomes_what_postgres_holds(sent: Analytics) -> None:
    """A row lost, one too much, one otherwise, and aggregates that count wrong: all of one day."""
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id = 1")
    sent.clickhouse.command(
        "ALTER TABLE instance UPDATE duration = 9 WHERE instance_id = 2",
        settings={"mutations_sync": 2},
    )
    sent.clickhouse.command(
        "INSERT INTO instance_staging (instance_id, hash, date_started, date_completed)"
        f" SELECT 99, {HASH}, {SQL_HOUR}, {SQL_HOUR} + 60"
    )
    sent.clickhouse.command(
        f"ALTER TABLE instance ATTACH PARTITION {HOUR:%Y%m} FROM instance_staging"
    )
    for statement in GARBAGE:
        sent.clickhouse.command(statement)
    base = next(iter(rebuilt(sent, [DAY])))
    assert (base.day, base.added, base.removed, base.changed) == (DAY, 1, 1, 1)
    assert base.differences == ()
    assert_equal(sent)


def test_other_days_of_the_month_stay_as_they_are(sent: Analytics) -> None:
    """The month's partition is exchanged for the sake of one day."""
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id = 5")
    sent.store(run(6, started=LONG_AGO - timedelta(days=3)))
    send_until_quiet(sent)
    sent.clickhouse.command(
        "ALTER TABLE instance UPDATE duration = 9 WHERE instance_id = 6",
        settings={"mutations_sync": 2},
    )
    rebuilt(sent, [LONG_AGO.date()])
    kept = sent.select("SELECT instance_id, duration FROM instance WHERE instance_id IN (5, 6)")
    assert sorted(kept) == [(5, 3600), (6, 9)]


def test_a_day_that_postgres_does_not_have_is_emptied(sent: Analytics) -> None:
    """Outside writers delete runs; the last one of a month leaves no partition behind."""
    sent.rows("DELETE FROM extended.instance_character_weapon WHERE instance_id = 5")
    sent.rows("DELETE FROM extended.instance_character WHERE instance_id = 5")
    sent.rows("DELETE FROM core.instance_player WHERE instance_id = 5")
    sent.rows("UPDATE core.player_stats SET fastest_instance_id = NULL")
    sent.rows("DELETE FROM core.instance WHERE instance_id = 5")
    (base, *_) = rebuilt(sent, [LONG_AGO.date()])
    assert (base.rows, base.removed) == (0, 1)
    assert_equal(sent)


def test_a_day_that_is_right_is_not_touched(sent: Analytics) -> None:
    """A backfill over years must not write all parts anew, nor mark days for nothing."""
    parts = "SELECT name FROM system.parts WHERE active AND table = 'instance'" + (
        " AND database = currentDatabase() ORDER BY name"
    )
    before = sent.select(parts)
    done = list(rebuild(sent.postgres, sent.clickhouse, "instance", [DAY], now=datetime.now(UTC)))
    assert [(d.rows, d.added, d.removed, d.changed) for d in done] == [(3, 0, 0, 0)]
    assert sent.select(parts) == before
    assert awaiting_days(sent.postgres) == []


def test_a_preview_changes_nothing(sent: Analytics) -> None:
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id = 1")
    before = differences(sent)
    (seen,) = preview(sent.postgres, sent.clickhouse, [DAY], now=datetime.now(UTC))
    assert (seen.added, seen.removed, seen.changed) == (1, 0, 0)
    assert differences(sent) == before
    assert awaiting_days(sent.postgres) == []


@settings(
    max_examples=4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_days_rebuilt_are_what_the_recount_says(
    analytics: Analytics, data: st.DataObject
) -> None:
    """The rebuild says in its own words what counts for a day; a slip at its borders shows here."""
    (newest,) = analytics.rows("SELECT coalesce(max(instance_id), 0) FROM core.instance")[0]
    analytics.store(
        *(
            run(
                newest + number + 1,
                started=HOUR + timedelta(minutes=data.draw(st.integers(-4000, 4000))),
                duration=data.draw(st.integers(1, 5 * 86400) | st.just(3600)),
                players=sorted(data.draw(st.sets(st.integers(1, 9), min_size=1, max_size=4))),
                weapons=[(h, h, 1) for h in data.draw(st.sets(st.integers(1, 5), max_size=3))],
                fresh=data.draw(st.sampled_from([True, False, None])),
                completed=data.draw(st.booleans()),
            )
            for number in range(data.draw(st.integers(1, 8)))
        )
    )
    send_until_quiet(analytics)
    for table in (*DAY_AGGREGATES, "player_relation_weights_bidirectional"):
        analytics.clickhouse.command(f"TRUNCATE TABLE {table}")
    now = datetime.now(UTC)
    for table in DAY_AGGREGATES:
        days = around(DAY, before=4, after=8)
        done = list(rebuild(analytics.postgres, analytics.clickhouse, table, days, now=now))
        assert [d for d in done if d.differences] == []
    assert not rebuild_relations(analytics.postgres, analytics.clickhouse, now=now).differences
    assert_equal(analytics)


DAMAGE = {
    "instance": "DELETE FROM instance WHERE instance_id IN (1, 2)",
    "weapon_meta_by_hour": GARBAGE[1],
    "player_relation_weights_bidirectional": GARBAGE[3],
}
SEEN = {
    "instance": "SELECT instance_id, revision, duration FROM instance FINAL ORDER BY ALL",
    "weapon_meta_by_hour": VIEWS["weapons"],
    "player_relation_weights_bidirectional": VIEWS["relations"],
}


@pytest.mark.parametrize("table", DAMAGE)
def test_a_kill_before_any_statement_leaves_old_or_new(sent: Analytics, table: str) -> None:
    """Readers see the piece whole, and the next rebuild needs no cleaning by hand."""

    def piece(client: Any) -> None:
        now = datetime.now(UTC)
        if table == "player_relation_weights_bidirectional":
            rebuild_relations(sent.postgres, client, now=now)
        else:
            list(rebuild(sent.postgres, client, table, [DAY], now=now))

    right = sent.select(SEEN[table])
    for lives in count():
        sent.rows("DELETE FROM streaming.clickhouse_dirty_day")
        sent.clickhouse.command(DAMAGE[table])
        wrong = sent.select(SEEN[table])
        assert wrong != right
        try:
            piece(MortalClient(sent.clickhouse, lives))
        except DeathError:
            seen = sent.select(SEEN[table])
        else:
            break
        assert seen in (wrong, right)
        if table == "instance" and seen == right:
            assert DAY in [awaiting.day for awaiting in awaiting_days(sent.postgres)]
        piece(sent.clickhouse)
        assert sent.select(SEEN[table]) == right
    assert lives > 6
    assert_equal(sent)


def test_what_is_stored_and_sent_meanwhile_is_neither_lost_nor_doubled(sent: Analytics) -> None:
    """The relay sends every few seconds; a rebuild over a busy day must not notice."""
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id IN (1, 2)")
    ids = count(100)
    sends = []
    with closing(pg.connect(sent.settings, "pytest")) as other:
        relay = Analytics(sent.settings, other, sent.clickhouse)

        def meddle() -> None:
            relay.store(run(next(ids), players=(5, 6)))
            sends.append(relay.send())

        rebuilt(sent, around(DAY), MeddledClient(sent.clickhouse, meddle))
    assert NOTHING in sends  # held off
    assert any(s.rows for s in sends)  # let in between two days
    send_until_quiet(sent)
    rebuilt(sent, [])  # relations only: first clears moved, and those are corrections
    assert [d for d in differences(sent) if not d.awaits_rebuild] == []
    assert sent.select("SELECT count() FROM instance FINAL") == [(5 + next(ids) - 100,)]


def test_what_is_still_to_be_sent_is_left_to_the_views(sent: Analytics) -> None:
    """Rebuilt into the table it would be counted now, and by the views once more later."""
    sent.store(run(10), run(11, started=HOUR - timedelta(days=1)))
    (base, *_) = rebuilt(sent, around(DAY))
    assert base.added == 0
    assert sent.select("SELECT count() FROM instance FINAL") == [(5,)]
    send_until_quiet(sent)
    assert_equal(sent)


@pytest.mark.parametrize("arrived", [True, False])
def test_an_unconfirmed_batch_is_made_definite_first(sent: Analytics, arrived: bool) -> None:
    """It may be there, or in a view only; sent again by its token it could count twice."""
    sent.store(run(10, players=(7, 8)))
    if arrived:
        sent.send()
        sent.rows("UPDATE streaming.outbox SET sent_at = NULL WHERE key = 10 AND kind <> 'message'")
        sent.rows(
            "UPDATE streaming.clickhouse_batch SET state = 'fixed', done_at = NULL WHERE id ="
            " (SELECT batch_id FROM streaming.outbox WHERE key = 10 AND kind <> 'message')"
        )
    else:
        mortal: Any = MortalClient(sent.clickhouse, 1)
        with pytest.raises(DeathError):
            Analytics(sent.settings, sent.postgres, mortal).send()
    rebuilt(sent, around(DAY))
    assert sent.send() == NOTHING
    assert_equal(sent)


def test_a_correction_that_overtook_its_run_is_counted_by_the_views_alone(
    sent: Analytics,
) -> None:
    sent.store(run(10, started=HOUR + timedelta(hours=2), players=(8, 9)))
    sent.store(run(11, players=(8,)))  # takes a first clear of 10
    sent.rows(
        "UPDATE streaming.outbox SET created_at = now() + interval '1 hour' WHERE sent_at IS NULL"
    )
    assert sent.send().corrections == 1
    assert (10, 2) in [row[:2] for row in sent.instances()]
    rebuilt(sent, around(DAY))
    send_until_quiet(sent, after=timedelta(hours=2))
    assert_equal(sent)


def replaced(analytics: Analytics, instance: Instance, **changes: Any) -> None:
    """Stores `instance`, sends it, then another version of its report that came later."""
    fetched = instance.date_completed + timedelta(minutes=1)
    store = Store(analytics.postgres)
    store.store([report_of(instance, fetched)], source="test")
    send_until_quiet(analytics)
    later = report_of(msgspec.structs.replace(instance, **changes), fetched + timedelta(hours=1))
    assert store.store([later], source="test") == [Outcome.REPLACED]
    send_until_quiet(analytics)


def test_verify_is_equal_after_days_with_replaced_reports_were_rebuilt(sent: Analytics) -> None:
    """A corrected report used to leave its aggregates wrong for ever."""
    instance = run(20, players=(7, 8), duration=4000)
    longer = instance.date_completed + timedelta(hours=9)
    replaced(sent, instance, duration=4000 + 9 * 3600, date_completed=longer)
    grown = run(21, players=(7, 8, 9))
    replaced(sent, run(21, players=(7, 8)), players=grown.players, player_count=3)
    assert {d.table for d in differences(sent)} >= {
        "player_population_by_hour",
        "player_relation_weights_bidirectional",
    }
    assert all(d.awaits_rebuild for d in differences(sent))
    now = datetime.now(UTC) + timedelta(minutes=20)
    done = list(rebuild_awaiting(sent.postgres, sent.clickhouse, now=now))
    assert {d.table for d in done} == set(DAY_AGGREGATES)
    assert awaiting_days(sent.postgres) == []
    assert {d.table for d in differences(sent)} == {"player_relation_weights_bidirectional"}
    assert all(d.awaits_rebuild for d in differences(sent))  # known until the weekly rebuild
    rebuild_relations(sent.postgres, sent.clickhouse, now=now)
    found = {f.check: f for f in verify(sent.postgres, sent.clickhouse, wait_s=0)}
    assert found["clickhouse"].is_equal, found["clickhouse"]
    assert found["effects"].is_equal


def test_a_day_marked_while_it_is_rebuilt_stays_marked(sent: Analytics) -> None:
    """What the mark tells of may have been too late for this rebuild."""
    mark = (
        "INSERT INTO streaming.clickhouse_dirty_day (day, reason) VALUES (%s, 'test')"
        " ON CONFLICT (day) DO UPDATE SET marked_at = clock_timestamp(), rebuilt_at = NULL,"
        " rebuilt_tables = '{}'"
    )
    sent.rows(mark, DAY)
    with closing(pg.connect(sent.settings, "pytest")) as other:
        beside = Analytics(sent.settings, other, sent.clickhouse)

        def meddle() -> None:
            beside.rows(mark, DAY)

        meddled: Any = MeddledClient(sent.clickhouse, meddle)
        list(rebuild_awaiting(sent.postgres, meddled, now=datetime.now(UTC)))
    assert [a.day for a in awaiting_days(sent.postgres)] == [DAY]
    list(rebuild_awaiting(sent.postgres, sent.clickhouse, now=datetime.now(UTC)))
    assert awaiting_days(sent.postgres) == []


def test_a_rebuild_that_comes_out_wrong_says_so_and_keeps_the_mark(sent: Analytics) -> None:
    """Somebody else writes to the table: the check of the asset turns red, the day comes again."""
    sent.rows("INSERT INTO streaming.clickhouse_dirty_day (day, reason) VALUES (%s, 'test')", DAY)

    def meddle() -> None:
        sent.clickhouse.command(GARBAGE[1])

    meddled: Any = MeddledClient(sent.clickhouse, meddle)
    now = datetime.now(UTC)
    (done,) = rebuild(sent.postgres, meddled, "weapon_meta_by_hour", [DAY], now=now)
    assert {d.measure for d in done.differences} == {"usage_count", "precision_kill_count"}
    (done,) = rebuild(sent.postgres, sent.clickhouse, "weapon_meta_by_hour", [DAY], now=now)
    assert done.differences == ()
    marks = "SELECT rebuilt_tables FROM streaming.clickhouse_dirty_day"
    assert sent.rows(marks) == [(["weapon_meta_by_hour"],)]


def test_a_day_is_done_when_its_last_aggregate_is(sent: Analytics) -> None:
    sent.rows("INSERT INTO streaming.clickhouse_dirty_day (day, reason) VALUES (%s, 'test')", DAY)
    for table in DAY_AGGREGATES:
        assert len(awaiting_days(sent.postgres)) == 1
        list(rebuild(sent.postgres, sent.clickhouse, table, [DAY], now=datetime.now(UTC)))
    assert awaiting_days(sent.postgres) == []
    month = timedelta(days=31)
    assert prune_marks(sent.postgres, now=datetime.now(UTC)) == 0
    assert prune_marks(sent.postgres, now=datetime.now(UTC) + month) == 1


def test_beyond_the_time_to_live_nothing_is_rebuilt(sent: Analytics) -> None:
    """The day would come back, to vanish again with the next merge; its mark is settled."""
    day = LONG_AGO.date()
    sent.rows("INSERT INTO streaming.clickhouse_dirty_day (day, reason) VALUES (%s, 'test')", day)
    done = list(rebuild_awaiting(sent.postgres, sent.clickhouse, now=datetime.now(UTC)))
    assert [(d.day, d.is_expired) for d in done] == [(day, True)] * 3
    assert awaiting_days(sent.postgres) == []
    assert sent.select("SELECT count() FROM clear_time_by_day WHERE bungie_day < '2025-01-01'") == [
        (0,)
    ]


def test_a_stale_lookup_does_not_lose_runs(sent: Analytics) -> None:
    """The join would drop every run of an unknown hash without a word."""
    sent.clickhouse.command("TRUNCATE TABLE activity_version")
    rebuilt(sent, around(DAY))
    assert_equal(sent)


def test_a_hash_without_a_definition_is_named(sent: Analytics) -> None:
    sent.clickhouse.command(
        "INSERT INTO instance_staging (instance_id, hash, date_started, date_completed)"
        f" SELECT 99, 4000000001, {SQL_HOUR}, {SQL_HOUR} + 60"
    )
    sent.clickhouse.command(
        f"ALTER TABLE instance ATTACH PARTITION {HOUR:%Y%m} FROM instance_staging"
    )
    with pytest.raises(PermanentError, match="without a definition: 4000000001"):
        list(
            rebuild(
                sent.postgres, sent.clickhouse, "weapon_meta_by_hour", [DAY], now=datetime.now(UTC)
            )
        )


def test_what_clickhouse_refuses_is_permanent_and_changes_nothing(sent: Analytics) -> None:
    """A missing migration must not be tried for ever."""
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id = 1")
    sent.clickhouse.command("DROP TABLE instance_twin")
    before = sent.instances()
    with pytest.raises(PermanentError, match=r"ClickHouse refused.*instance_twin"):
        rebuilt(sent, [DAY])
    assert sent.instances() == before
    assert sent.send() == NOTHING  # the sender is free again
    with (
        closing(pg.connect(sent.settings, "pytest")) as other,
        held_off(other, sent.clickhouse, now=datetime.now(UTC)),
    ):
        require_held_off(other)


def test_a_lost_lock_is_noticed_before_anything_is_exchanged(analytics: Analytics) -> None:
    """The server ended our session, and the sender is at work again."""
    with pytest.raises(TransientError, match="lost"):
        require_held_off(analytics.postgres)


def test_the_comparison_of_live_days_ignores_what_is_under_way(sent: Analytics) -> None:
    """At 04:00 raids come in like at any other time; a false alarm a day is no alarm."""
    sent.store(run(30, players=(8, 9)))
    replacing = "INSERT INTO streaming.clickhouse_correction (instance_id, revision) VALUES (2, 2)"
    sent.rows(replacing)
    sent.rows("UPDATE core.instance SET player_count = 3 WHERE instance_id = 2")
    window = (DAY - timedelta(days=1), DAY + timedelta(days=2))
    days, found = compare_sent(sent.postgres, sent.clickhouse, *window, now=datetime.now(UTC))
    assert all(d.awaits_rebuild for d in found)
    assert found
    (line,) = [d for d in days if d["day"] == DAY]
    assert (line["instances_postgres"], line["instances_clickhouse"]) == (3, 3)
    assert (line["players_postgres"], line["players_clickhouse"]) == (7, 6)
    sent.clickhouse.command("DELETE FROM instance WHERE instance_id = 3")
    _, found = compare_sent(sent.postgres, sent.clickhouse, *window, now=datetime.now(UTC))
    assert any(not d.awaits_rebuild for d in found)


@pytest.mark.parametrize(
    ("texts", "days"),
    [
        (["2026-01-31"], ["2026-01-31"]),
        (["2026-01-30..2026-02-01", "2026-01-31"], ["2026-01-30", "2026-01-31", "2026-02-01"]),
    ],
)
def test_days_are_read(texts: list[str], days: list[str]) -> None:
    assert [day.isoformat() for day in parse_days(texts)] == days


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([], "none is given"),
        (["yesterday"], "'yesterday' is no day"),
        (["2026-02-30"], "no day"),
        (["2026-02-02..2026-02-01"], "ends before it begins"),
        (["2017-01-01..2026-01-01"], "more than 400"),
        (["2020-01-01..2020-12-31", "2021-01-01..2021-12-31"], "731 are more than 400"),
    ],
)
def test_days_that_are_none_are_refused(texts: list[str], why: str) -> None:
    """A typo must not rebuild ten years."""
    with pytest.raises(PermanentError, match=why):
        parse_days(texts)
