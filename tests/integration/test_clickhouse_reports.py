"""The weekly reports and the teammates, on a world small enough to count by hand."""

from datetime import UTC, date, datetime, timedelta

import pytest

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.clickhouse_rebuild import rebuild_relations
from raidhub_dagster.storage.clickhouse_reports import (
    WEAPON_META_TREND,
    WEEKLY_RAID_REPORT,
    read_weapon_meta_trend,
    read_weekly_raid_report,
    rebuild_weeks,
    strongest_pairs,
    teammates,
)
from tests.support.analytics import Analytics, run, send_until_quiet

# Long ago on purpose: reports reach further back than the hourly tables.
WEEK = date(2024, 6, 4)
RESET = datetime(2024, 6, 4, 17, tzinfo=UTC)
LAST_WISH = 2122313384


@pytest.fixture
def weeks(analytics: Analytics) -> Analytics:
    """Two game weeks; 3600 s a run unless said otherwise."""
    hour = timedelta(hours=1)
    analytics.store(
        # Ends at the very second of the reset: the new week's.
        run(1, started=RESET - hour, weapons=[(70, 5, 2), (80, 1, 0)]),
        run(2, started=RESET + hour, duration=1800, players=(2, 3), weapons=[(70, 1, 1)]),
        run(3, started=RESET + 5 * hour, duration=5400, fresh=None, weapons=[(70, 2, 0)]),
        run(4, started=RESET + 9 * hour, completed=False, players=(1,), weapons=[]),
        run(5, started=RESET + 20 * hour, duration=900, hash=LAST_WISH, weapons=[(90, 3, 3)]),
        # A second before either end: last week's, and this week's.
        run(6, started=RESET - timedelta(seconds=901), duration=900, weapons=[(80, 4, 4)]),
        run(
            7,
            started=RESET + timedelta(days=7) - timedelta(seconds=901),
            duration=900,
            hash=LAST_WISH,
            fresh=False,
            weapons=[],
        ),
    )
    send_until_quiet(analytics)
    return analytics


def test_a_week_of_raids_is_counted_by_raid_and_version(weeks: Analytics) -> None:
    (done,) = rebuild_weeks(weeks.clickhouse, WEEKLY_RAID_REPORT, [WEEK])
    assert (done.day, done.rows, done.differences) == (WEEK, 2, ())
    kings_fall, last_wish = read_weekly_raid_report(
        weeks.clickhouse, WEEK, WEEK + timedelta(days=7)
    )
    assert (kings_fall["raid"], last_wish["raid"]) == ("King's Fall", "Last Wish")
    assert {k: kings_fall[k] for k in list(kings_fall)[3:]} == {
        "runs": 4,
        "clears": 3,
        "completion_rate": 0.75,
        "fresh_clears": 2,
        "players": 3,
        "median_clear_s": 3600,
        "median_fresh_clear_s": 2700,
        "fastest_fresh_clear_s": 1800,
    }
    assert (last_wish["runs"], last_wish["fresh_clears"]) == (2, 1)


def test_a_week_of_weapons_stands_beside_the_one_before(weeks: Analytics) -> None:
    """Uses are characters: two in each run here."""
    list(rebuild_weeks(weeks.clickhouse, WEAPON_META_TREND, [WEEK]))
    found = {
        row["weapon"]: (
            row["usage_count"],
            row["usage_count_before"],
            row["usage_change"],
            row["kill_count"],
            row["usage_percent"],
            row["percent_points"],
        )
        for row in read_weapon_meta_trend(weeks.clickhouse, WEEK, limit=10)
    }
    assert found == {
        "70": (6, 0, 6, 16, 60.0, 60.0),
        "80": (2, 2, 0, 2, 20.0, -80.0),
        "90": (2, 0, 2, 6, 20.0, 20.0),
    }


@pytest.mark.parametrize("table", [WEEKLY_RAID_REPORT, WEAPON_META_TREND])
def test_a_week_is_replaced_and_others_stay(weeks: Analytics, table: str) -> None:
    weeks_of = f"SELECT week, count() FROM {table} GROUP BY week ORDER BY week"
    list(rebuild_weeks(weeks.clickhouse, table, [WEEK - timedelta(days=7), WEEK]))
    before = weeks.select(weeks_of)
    weeks.store(run(9, started=RESET, players=(5, 6), weapons=[(95, 1, 1)]))
    send_until_quiet(weeks)
    (done,) = rebuild_weeks(weeks.clickhouse, table, [WEEK])
    assert done.differences == ()
    after = weeks.select(weeks_of)
    assert after[0] == before[0]
    assert weeks.select(f"SELECT count() FROM {table}_twin") == [(0,)]


def test_a_report_without_its_twin_fails_at_once(weeks: Analytics) -> None:
    """A missing migration; the reason must reach whoever looks at the run."""
    weeks.clickhouse.command("DROP TABLE weekly_raid_report_twin")
    with pytest.raises(PermanentError, match="weekly_raid_report_twin"):
        list(rebuild_weeks(weeks.clickhouse, WEEKLY_RAID_REPORT, [WEEK]))


def test_who_plays_with_whom_is_named(weeks: Analytics) -> None:
    """1 and 2 were together in five runs, 2 and 3 in one."""
    rebuild_relations(weeks.postgres, weeks.clickhouse, now=datetime.now(UTC))
    first, second = strongest_pairs(weeks.postgres, weeks.clickhouse, limit=5)
    assert (first["membership_id"], first["related_membership_id"]) == ("1", "2")
    assert first["weight"] == (3600 + 5400 + 900 + 900 + 900) * 4
    assert (first["player"], second["weight"]) == ("Ann#0001", 1800 * 4)
    mates = teammates(weeks.postgres, weeks.clickhouse, 2, limit=5)
    assert [m["related_membership_id"] for m in mates] == ["1", "3"]
    assert teammates(weeks.postgres, weeks.clickhouse, 77, limit=5) == []
