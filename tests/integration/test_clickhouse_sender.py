"""The sender against real PostgreSQL and the real engine: nothing lost, nothing counted twice."""

from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage import clickhouse_lookups, clickhouse_sender
from raidhub_dagster.storage import postgres as pg
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.clickhouse_parity import compare
from raidhub_dagster.storage.clickhouse_rows import encode_row, row_of
from raidhub_dagster.storage.clickhouse_sender import Sent
from tests.support.analytics import (
    HOUR,
    LONG_AGO,
    NOTHING,
    Analytics,
    DeathError,
    MortalClient,
    run,
    send_until_quiet,
)

UNKNOWN_HASH = 4_000_000_001


def assert_settled(analytics: Analytics) -> None:
    """Everything sent, both stores equal, no view off."""
    assert (
        analytics.rows(
            "SELECT id FROM streaming.outbox WHERE kind <> 'message' AND sent_at IS NULL"
        )
        == []
    )
    assert (
        analytics.rows(
            "SELECT instance_id FROM streaming.clickhouse_correction WHERE sent_revision < revision"
        )
        == []
    )
    assert compare(analytics.postgres, analytics.clickhouse) == []


def batches(analytics: Analytics, columns: str) -> list[tuple[Any, ...]]:
    return analytics.rows(f"SELECT {columns} FROM streaming.clickhouse_batch ORDER BY created_at")


def enqueue(analytics: Analytics, row: dict[str, Any]) -> None:
    """A row for ClickHouse that no store of ours would write."""
    analytics.rows(
        "INSERT INTO streaming.outbox (kind, destination, key, body, month)"
        " VALUES ('clickhouse', 'instance', %s, %s, date_trunc('month', %s::date))",
        row["instance_id"],
        encode_row(row),
        row["date_completed"],
    )


def test_rows_arrive_once_and_are_marked(analytics: Analytics) -> None:
    analytics.store(run(1), run(2))
    assert analytics.send() == Sent(1, 2, 0, 0)
    assert analytics.send() == NOTHING
    assert analytics.instances() == [(1, 1, 2, 0), (2, 1, 0, 0)]
    assert batches(analytics, "row_count, state, attempts, last_error") == [(2, "done", 1, None)]
    assert_settled(analytics)


def test_young_rows_wait_for_company_until_the_batch_is_full(analytics: Analytics) -> None:
    """A part a second would be more than the engine can merge."""
    analytics.store(run(1), run(2))
    assert analytics.send(after=timedelta(seconds=1)) == NOTHING
    assert analytics.send(after=timedelta(seconds=1), rows=2) == Sent(1, 2, 0, 0)


def test_a_batch_has_one_month_and_no_more_rows_than_allowed(analytics: Analytics) -> None:
    """An insert that touches more than 100 partitions of an aggregate is refused as a whole."""
    analytics.store(
        run(1, started=LONG_AGO),
        run(2, started=LONG_AGO - timedelta(days=60)),
        run(3, started=LONG_AGO),
        run(4, started=LONG_AGO),
    )
    assert analytics.send(rows=3) == Sent(2, 3, 0, 0)
    assert analytics.send(rows=3) == Sent(1, 1, 0, 0)
    months = analytics.rows(
        "SELECT count(DISTINCT month) FROM streaming.outbox WHERE batch_id IS NOT NULL"
        " GROUP BY batch_id"
    )
    assert months == [(1,)] * 3
    assert_settled(analytics)


# In this order: hashes, the batch; staging emptied, filled, counted; moved rows, attach, emptied.
@pytest.mark.parametrize("lives", range(8))
def test_a_kill_before_any_statement_changes_nothing_in_the_end(
    analytics: Analytics, lives: int
) -> None:
    """A restarted relay must neither lose a run nor show its players twice."""
    late = HOUR + timedelta(hours=20)
    analytics.store(run(1, started=late), run(2, players=(3, 4)))
    send_until_quiet(analytics)
    analytics.store(run(3, players=(1, 2, 3)))  # displaces the first clears of run 1
    mortal: Any = MortalClient(analytics.clickhouse, lives)
    with pytest.raises(DeathError):
        Analytics(analytics.settings, analytics.postgres, mortal).send()
    analytics.store(run(4, players=(5, 6)))
    send_until_quiet(analytics)
    assert [row[0] for row in analytics.instances()] == [1, 2, 3, 4]
    assert_settled(analytics)


def test_a_batch_that_arrived_but_was_not_marked_counts_once_in_every_view(
    analytics: Analytics,
) -> None:
    """The kill between the insert and its commit: the retry passes every view again."""
    analytics.store(run(1), run(2, started=HOUR - timedelta(hours=30)), run(3, players=range(1, 7)))
    analytics.send()
    before = analytics.views()
    assert all(before.values())
    analytics.rows("UPDATE streaming.outbox SET sent_at = NULL WHERE kind = 'clickhouse'")
    analytics.rows("UPDATE streaming.clickhouse_batch SET state = 'fixed', done_at = NULL")
    analytics.store(run(4, players=(8, 9)))
    sent = analytics.send()
    assert (sent.batches, sent.rows) == (2, 4)
    assert batches(analytics, "row_count, attempts") == [(3, 2), (1, 1)]
    assert_settled(analytics)


def test_membership_is_committed_before_the_first_send(analytics: Analytics) -> None:
    """Otherwise a retry could hold other rows under the same token, which the engine drops."""
    analytics.store(run(1))
    mortal: Any = MortalClient(analytics.clickhouse, 1)
    with pytest.raises(DeathError, match="raw_insert"):
        Analytics(analytics.settings, analytics.postgres, mortal).send()
    assert batches(analytics, "row_count, state, attempts, first_attempt_at IS NULL") == [
        (1, "fixed", 1, False)
    ]
    analytics.store(run(2))
    assert analytics.send() == Sent(2, 2, 0, 0)


def test_another_sender_at_work_is_left_alone(analytics: Analytics) -> None:
    """Two replicas of the relay share one staging table."""
    analytics.store(run(1))
    with (
        closing(pg.connect(analytics.settings, "pytest")) as other,
        clickhouse_sender._sole_sender(other) as is_ours,
    ):
        assert is_ours
        assert analytics.send() == NOTHING
    assert analytics.send() == Sent(1, 1, 0, 0)


def test_resumes_by_itself_after_clickhouse_was_away(
    postgres: dict[str, Any],
    settings_for: Callable[..., Settings],
    tmp_path: Path,
) -> None:
    """ClickHouse restarts under load: what was on its way arrives, once."""
    settings = settings_for(postgres, clickhouse_host=HOST, clickhouse_http_port=free_port())
    server = ClickhouseServer(settings, tmp_path / "engine")
    with closing(pg.connect(settings, "pytest")) as connection:
        with running(server, tmp_path / "log"):
            migrate_clickhouse(settings)
            clickhouse_lookups.refresh(settings)
            client = ch.connect(settings, "pytest")
            analytics = Analytics(settings, connection, client)
            analytics.store(run(1))
            analytics.send()
        analytics.store(run(2))
        with pytest.raises(TransientError, match="does not answer"):
            analytics.send()
        with running(server, tmp_path / "log"):
            assert analytics.send() == Sent(1, 1, 0, 0)
            assert_settled(analytics)
            client.close()


def test_a_correction_replaces_the_row_and_touches_no_view(analytics: Analytics) -> None:
    """A run found late moves first clears and sherpas of later runs."""
    analytics.store(run(2, started=HOUR + timedelta(hours=2), players=(1, 2)))
    analytics.send()
    assert analytics.instances() == [(2, 1, 2, 0)]
    analytics.store(run(1, players=(1,)))
    assert analytics.send() == Sent(1, 1, 1, 0)
    assert analytics.instances() == [(1, 1, 1, 0), (2, 2, 1, 1)]
    assert analytics.select("SELECT count() FROM instance_staging") == [(0,)]
    assert_settled(analytics)


def test_a_correction_marks_the_days_of_its_run(analytics: Analytics) -> None:
    """The days it lasted and the game day it ended in, which began at 17:00 the day before."""
    midnight = HOUR.replace(hour=0)
    analytics.store(run(2, started=midnight - timedelta(minutes=30)))
    analytics.store(run(1, started=midnight - timedelta(hours=9), players=(1,)))
    analytics.send()
    day = midnight.date()
    marked = analytics.rows("SELECT day, rebuilt_at FROM streaming.clickhouse_dirty_day ORDER BY 1")
    assert marked == [(day - timedelta(days=1), None), (day, None)]


def test_a_correction_may_overtake_the_first_row(analytics: Analytics) -> None:
    """The outbox may wait long while corrections flow."""
    analytics.store(run(2, started=HOUR + timedelta(hours=2)))
    analytics.store(run(1, players=(1,)))
    analytics.rows("UPDATE streaming.outbox SET created_at = now() + interval '1 hour'")
    assert analytics.send() == Sent(0, 0, 1, 0)
    send_until_quiet(analytics, after=timedelta(hours=2))
    assert analytics.instances() == [(1, 1, 1, 0), (2, 2, 1, 1)]
    assert_settled(analytics)


@pytest.mark.parametrize("overtakes", [False, True])
def test_a_correction_that_moves_the_date_leaves_one_row(
    analytics: Analytics, overtakes: bool
) -> None:
    """The date is part of the key: without a delete the run would be there twice for ever."""
    analytics.store(run(1))
    if overtakes:
        analytics.rows("UPDATE streaming.outbox SET created_at = now() + interval '1 hour'")
    else:
        analytics.send()
    longer = timedelta(days=1)
    analytics.rows("UPDATE core.instance SET date_completed = date_completed + %s", longer)
    analytics.rows(
        "INSERT INTO streaming.clickhouse_correction (instance_id, revision) VALUES (1, 2)"
    )
    assert analytics.send().corrections == 1
    send_until_quiet(analytics, after=timedelta(hours=2))
    ended = HOUR + timedelta(minutes=90) + longer
    assert analytics.select("SELECT date_completed, revision FROM instance FINAL") == [
        (ended.replace(tzinfo=None), 2)
    ]
    dirty = analytics.rows("SELECT day FROM streaming.clickhouse_dirty_day")
    assert (ended.date(),) in dirty


def test_a_correction_of_a_deleted_run_is_closed(analytics: Analytics) -> None:
    """Outside writers delete runs; the correction must not come back every second."""
    analytics.rows(
        "INSERT INTO streaming.clickhouse_correction (instance_id, revision) VALUES (77, 2)"
    )
    assert analytics.send() == Sent(0, 0, 1, 0)
    assert analytics.send() == NOTHING


def test_a_stale_lookup_is_refreshed_before_the_batch_leaves(analytics: Analytics) -> None:
    """On a release day the definition is in PostgreSQL first; its runs must not vanish."""
    analytics.clickhouse.command("TRUNCATE TABLE activity_version")
    analytics.store(run(1))
    assert analytics.send() == Sent(1, 1, 0, 0)
    assert_settled(analytics)


def test_a_batch_of_an_undefined_hash_is_held_and_stops_nobody(analytics: Analytics) -> None:
    """The views would drop its rows without an error."""
    row = row_of(run(1, hash=UNKNOWN_HASH, started=LONG_AGO), {})
    enqueue(analytics, row)
    analytics.store(run(2))
    assert analytics.send() == Sent(1, 1, 0, 1)
    ((state, error, first),) = analytics.rows(
        "SELECT state, last_error, first_attempt_at FROM streaming.clickhouse_batch"
        " WHERE state <> 'done'"
    )
    assert (state, error, first) == ("fixed", f"held: no definition of hash {UNKNOWN_HASH}", None)
    analytics.rows(
        "INSERT INTO definitions.activity_version (hash, activity_id, version_id)"
        " VALUES (%s, 11, 1)",
        UNKNOWN_HASH,
    )
    assert analytics.send() == NOTHING  # looked at a moment ago
    assert analytics.send(after=timedelta(minutes=11)) == Sent(1, 1, 0, 0)


def test_an_unreadable_row_holds_its_batch_and_stops_nobody(analytics: Analytics) -> None:
    """It names the row, so that a person can look."""
    enqueue(analytics, row_of(run(1, started=LONG_AGO), {}))
    analytics.rows("UPDATE streaming.outbox SET body = 'not zstd'")
    analytics.store(run(2))
    assert analytics.send() == Sent(1, 1, 0, 1)
    errors = analytics.rows(
        "SELECT last_error FROM streaming.clickhouse_batch WHERE state <> 'done'"
    )
    assert errors[0][0].startswith("held: outbox row ")


def test_a_refused_batch_waits_and_stops_nobody(analytics: Analytics) -> None:
    """One bad batch used to be sent again for ever, and everything waited behind it."""
    bad = row_of(run(1, started=LONG_AGO), {}) | {"colour": "red"}
    enqueue(analytics, bad)
    with pytest.raises(TransientError, match="refused all"):
        analytics.send()
    analytics.store(run(2))
    assert analytics.send() == Sent(1, 1, 0, 0)
    ((attempts, error),) = analytics.rows(
        "SELECT attempts, last_error FROM streaming.clickhouse_batch WHERE state <> 'done'"
    )
    assert attempts == 1
    assert "colour" in error


@pytest.mark.parametrize("arrived", [True, False])
@pytest.mark.parametrize("forgotten_by", ["a day", "many batches"])
def test_a_batch_whose_token_may_be_forgotten_is_stored_past_the_views(
    analytics: Analytics, arrived: bool, forgotten_by: str
) -> None:
    """Sent again through them it could count twice; its days are rebuilt instead."""
    analytics.store(run(1), run(2))
    if arrived:
        analytics.send()
        analytics.rows("UPDATE streaming.outbox SET sent_at = NULL WHERE kind = 'clickhouse'")
        analytics.rows("UPDATE streaming.clickhouse_batch SET state = 'fixed', done_at = NULL")
    else:
        mortal: Any = MortalClient(analytics.clickhouse, 1)
        with pytest.raises(DeathError):
            Analytics(analytics.settings, analytics.postgres, mortal).send()
    before = analytics.views()
    after = timedelta(days=1, hours=1)
    if forgotten_by == "many batches":
        after = timedelta(minutes=20)
        analytics.rows(
            "INSERT INTO streaming.clickhouse_batch (target, row_count, state, done_at)"
            " SELECT 'instance', 1, 'done', now() + interval '15 min' FROM generate_series(1, 290)"
        )
    assert analytics.send(after=after) == Sent(1, 2, 0, 0)
    assert [row[0] for row in analytics.instances()] == [1, 2]
    assert analytics.views() == before
    assert {state for (state,) in batches(analytics, "state")} == {"done"}
    dirty = {day for (day,) in analytics.rows("SELECT day FROM streaming.clickhouse_dirty_day")}
    assert HOUR.date() in dirty
    differences = compare(analytics.postgres, analytics.clickhouse)
    assert all(difference.awaits_rebuild for difference in differences)
    assert bool(differences) is not arrived


def test_a_run_twice_in_a_forgotten_batch_is_one_row(analytics: Analytics) -> None:
    """Deleted by hand and ingested again within seconds; it must not block the batch for ever."""
    for _ in range(2):
        enqueue(analytics, row_of(run(1), {}))
    mortal: Any = MortalClient(analytics.clickhouse, 1)
    with pytest.raises(DeathError):
        Analytics(analytics.settings, analytics.postgres, mortal).send()
    assert analytics.send(after=timedelta(days=2)).batches == 1
    assert analytics.select("SELECT count() FROM instance FINAL") == [(1,)]


def test_confirmed_batches_are_forgotten_after_a_week(analytics: Analytics) -> None:
    analytics.store(run(1))
    analytics.send()
    ((done,),) = batches(analytics, "done_at")
    week = timedelta(days=7)
    assert clickhouse_sender.prune_batches(analytics.postgres, now=done + week) == 0
    later = done + week + timedelta(seconds=1)
    assert clickhouse_sender.prune_batches(analytics.postgres, now=later) == 1


def test_days_of_an_absurdly_long_run_are_bounded() -> None:
    """A duration of 68 years is possible in a report; 25 000 days are no work for a rebuild."""
    days = set(clickhouse_sender._days("2026-01-10 10:00:00", "2094-01-10 10:00:00"))
    assert days == {date(2094, 1, d) for d in (7, 8, 9, 10)}
