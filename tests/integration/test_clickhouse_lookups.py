"""Copies of the definitions in ClickHouse follow PostgreSQL, as a whole or not at all."""

from concurrent.futures import ThreadPoolExecutor

from raidhub_dagster.storage.clickhouse_lookups import LOOKUPS, missing_hashes, refresh
from tests.support.analytics import ACTIVITY, HASH, Analytics, run

NEW_HASH = 4_000_000_001


def define(analytics: Analytics) -> None:
    analytics.rows(
        "INSERT INTO definitions.activity_version (hash, activity_id, version_id)"
        " VALUES (%s, 11, 1)",
        NEW_HASH,
    )


def test_lookups_equal_the_definitions(analytics: Analytics) -> None:
    """Nulls stay nulls and times stay UTC."""
    analytics.rows(
        "INSERT INTO definitions.weapon_definition VALUES"
        " (1, 'Ace', '/i.png', 'Hand Cannon', 'Kinetic', 'Kinetic', 'Primary', 'Exotic')"
    )
    refreshed = refresh(analytics.settings)
    assert [report.table for report in refreshed] == list(LOOKUPS)
    assert analytics.select(
        "SELECT name, icon_path, element, slot, ammo_type, rarity, weapon_type"
        " FROM weapon_definition"
    ) == [("Ace", "/i.png", "Kinetic", "Kinetic", "Primary", "Exotic", "Hand Cannon")]
    columns = "name, is_raid::int, release_date AT TIME ZONE 'UTC', contest_end IS NULL"
    expected = analytics.rows(
        f"SELECT id, {columns}, milestone_hash FROM definitions.activity_definition ORDER BY id"
    )
    found = analytics.select(
        "SELECT id, name, is_raid, release_date, isNull(contest_end), milestone_hash"
        " FROM activity ORDER BY id"
    )
    assert found == expected
    assert {report.table: report.rows for report in refreshed}["activity"] == len(expected)


def test_views_see_a_new_definition_at_the_next_insert(analytics: Analytics) -> None:
    """On a release day nobody recreates views."""
    assert missing_hashes(analytics.clickhouse, {HASH, NEW_HASH}) == [NEW_HASH]
    define(analytics)
    refresh(analytics.settings)
    assert missing_hashes(analytics.clickhouse, {HASH, NEW_HASH}) == []
    analytics.store(run(1, hash=NEW_HASH))
    analytics.send()
    assert {row[1] for row in analytics.views()["population"]} == {ACTIVITY}


def test_a_removed_definition_leaves(analytics: Analytics) -> None:
    define(analytics)
    refresh(analytics.settings)
    analytics.rows("DELETE FROM definitions.activity_version WHERE hash = %s", NEW_HASH)
    refresh(analytics.settings)
    assert missing_hashes(analytics.clickhouse, {NEW_HASH}) == [NEW_HASH]


def test_several_refreshes_at_once_share_the_twins_in_turn(analytics: Analytics) -> None:
    """The asset and the sender may meet; each would otherwise empty what the other fills."""
    define(analytics)
    with ThreadPoolExecutor(3) as threads:
        reports = list(threads.map(refresh, [analytics.settings] * 3))
    assert reports[0] == reports[1] == reports[2]
    assert missing_hashes(analytics.clickhouse, {HASH, NEW_HASH}) == []
