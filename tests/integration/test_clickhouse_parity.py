"""The comparison of both stores: silent when they agree, and it finds each kind of lie."""

from collections.abc import Iterable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raidhub_dagster.storage.clickhouse_parity import Difference, compare
from tests.support.analytics import ACTIVITY, HOUR, LONG_AGO, Analytics, run

DAY = HOUR.date()
SQL_HOUR = f"toDateTime('{HOUR:%Y-%m-%d %H:%M:%S}')"


@pytest.fixture
def sent(analytics: Analytics) -> Analytics:
    """A few runs in both stores; one older than the aggregates reach."""
    analytics.store(run(1), run(2, players=(2, 3)), run(3, started=LONG_AGO, duration=1800))
    while any(analytics.send()):
        pass
    return analytics


def measures(differences: Iterable[Difference]) -> set[tuple[str, str]]:
    return {(difference.table, difference.measure) for difference in differences}


def test_equal_stores_have_no_difference(sent: Analytics) -> None:
    assert compare(sent.postgres, sent.clickhouse) == []


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_views_agree_with_an_independent_recount_of_random_runs(
    analytics: Analytics, data: st.DataObject
) -> None:
    """The views' own SQL is not what the recount uses, so a slip in either shows."""
    (newest,) = analytics.rows("SELECT coalesce(max(instance_id), 0) FROM core.instance")[0]
    minutes = st.integers(-4000, 4000)
    instances = [
        run(
            newest + number + 1,
            started=HOUR + timedelta(minutes=data.draw(minutes)),
            duration=data.draw(st.integers(1, 5 * 86400) | st.just(3600)),
            players=sorted(data.draw(st.sets(st.integers(1, 9), min_size=1, max_size=4))),
            weapons=[(h, h, 1) for h in data.draw(st.sets(st.integers(1, 5), max_size=3))],
            fresh=data.draw(st.sampled_from([True, False, None])),
            completed=data.draw(st.booleans()),
        )
        for number in range(data.draw(st.integers(1, 8)))
    ]
    analytics.store(*instances)
    while any(analytics.send()):
        pass
    assert compare(analytics.postgres, analytics.clickhouse) == []


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "DELETE FROM instance WHERE instance_id = 3",
            {"instances", "players", "kills", "time_played_seconds", "first_clears"},
        ),
        ("ALTER TABLE instance UPDATE player_count = 9 WHERE instance_id = 3", {"players"}),
    ],
)
def test_a_base_row_that_is_off_is_found_whatever_its_age(
    sent: Analytics, statement: str, expected: set[str]
) -> None:
    sent.clickhouse.command(statement, settings={"mutations_sync": 2})
    differences = compare(sent.postgres, sent.clickhouse)
    assert measures(d for d in differences if d.table == "instance") == {
        ("instance", measure) for measure in expected
    }
    assert {d.day for d in differences if d.table == "instance"} == {LONG_AGO.date()}


@pytest.mark.parametrize(
    ("table", "values", "expected"),
    [
        (
            "player_population_by_hour",
            f"SELECT {SQL_HOUR}, {ACTIVITY}, 2",
            {"player_count"},
        ),
        (
            "weapon_meta_by_hour",
            f"SELECT {SQL_HOUR}, {ACTIVITY}, 70, 1, 0, 3",
            {"usage_count", "precision_kill_count"},
        ),
        (
            "clear_time_by_day",
            f"SELECT toDate({SQL_HOUR} - INTERVAL 17 HOUR), {ACTIVITY}, 4,"
            " quantilesState(0.05, 0.1, 0.5, 0.9)(toUInt32(60))",
            {f"clear_time {quantile}" for quantile in (0.05, 0.1, 0.5, 0.9)},
        ),
        ("player_relation_weights_bidirectional", "SELECT 1, 2, 5", {"weight"}),
    ],
)
def test_an_aggregate_that_counts_too_much_is_found(
    sent: Analytics, table: str, values: str, expected: set[str]
) -> None:
    """A view that counts twice is invisible to everybody who reads only the view."""
    sent.clickhouse.command(f"INSERT INTO {table} {values}")
    differences = compare(sent.postgres, sent.clickhouse)
    assert measures(differences) == {(table, measure) for measure in expected}
    assert not any(difference.awaits_rebuild for difference in differences)
    assert all(difference.stored > difference.expected for difference in differences)


@pytest.mark.parametrize("table", ["player_population_by_hour", "weapon_meta_by_hour"])
def test_an_aggregate_that_lost_a_day_is_found(sent: Analytics, table: str) -> None:
    sent.clickhouse.command(f"TRUNCATE TABLE {table}")
    assert {d.table for d in compare(sent.postgres, sent.clickhouse)} == {table}


def test_a_marked_day_is_told_from_a_defect(sent: Analytics) -> None:
    """A replaced report leaves its aggregates wrong until the rebuild: known, not alarming."""
    sent.clickhouse.command("TRUNCATE TABLE weapon_meta_by_hour")
    sent.rows(
        "INSERT INTO streaming.clickhouse_dirty_day (day, reason)"
        " SELECT %s::date + n, 'test' FROM generate_series(0, 1) AS n",
        DAY,
    )
    differences = compare(sent.postgres, sent.clickhouse)
    assert differences
    assert all(difference.awaits_rebuild for difference in differences)


def test_a_window_leaves_out_other_days_and_what_has_none(sent: Analytics) -> None:
    """The daily comparison must not read all of history."""
    for table in ("player_relation_weights_bidirectional", "instance"):
        sent.clickhouse.command(f"TRUNCATE TABLE {table}")
    old = LONG_AGO.date()
    within = compare(sent.postgres, sent.clickhouse, since=old, until=old + timedelta(days=1))
    assert {(d.table, d.day) for d in within} == {("instance", old)}
    outside = compare(sent.postgres, sent.clickhouse, until=old - timedelta(days=1))
    assert outside == []
