"""Ledgers lose what is past its retention, and nothing else."""

import pytest

from raidhub_dagster.storage.retention import prune_ledgers
from tests.support.database import Database


def test_only_what_is_old_and_done_goes(database: Database) -> None:
    """A dirty day that was forgotten stays wrong in the site's charts for ever."""
    database.rows(
        "INSERT INTO streaming.clickhouse_dirty_day VALUES"
        " ('2026-01-01', 'x', now() - interval '40 days', now() - interval '31 days'),"
        " ('2026-01-02', 'x', now() - interval '40 days', now() - interval '29 days'),"
        " ('2026-01-03', 'x', now() - interval '40 days', NULL),"
        # marked again after it was rebuilt
        " ('2026-01-04', 'x', now() - interval '31 days', now() - interval '32 days');"
        "INSERT INTO streaming.account_factor_cache VALUES"
        " (1, now() - interval '25 hours', '{}', 0), (2, now() - interval '23 hours', '{}', 0)"
    )
    preview = prune_ledgers(database.connection, dry_run=True)
    assert database.rows("SELECT count(*) FROM streaming.clickhouse_dirty_day") == [(4,)]
    done = prune_ledgers(database.connection, dry_run=False)
    assert preview.rows == done.rows
    assert done.rows == {
        "streaming.clickhouse_dirty_day": 1,
        "streaming.account_factor_cache": 1,
        "streaming.cheat_check": 0,
    }
    days = database.rows("SELECT extract(day FROM day)::int FROM streaming.clickhouse_dirty_day")
    assert sorted(days) == [(2,), (3,), (4,)]
    assert database.rows("SELECT membership_id FROM streaming.account_factor_cache") == [(2,)]
    assert sum(prune_ledgers(database.connection, dry_run=False).rows.values()) == 0


def test_the_ledger_of_checks_keeps_two_versions(database: Database) -> None:
    """The version before is what a roll-back returns to; older verdicts nobody reads."""
    database.rows(
        "INSERT INTO streaming.cheat_check"
        " SELECT n, 'v' || v, now() - v * interval '10 days', 0, 0, 0"
        " FROM generate_series(1, 25) AS n, generate_series(1, 4) AS v"
    )
    done = prune_ledgers(database.connection, dry_run=False, batch=7)
    assert done.kept_versions == ["v1", "v2"]
    assert done.rows["streaming.cheat_check"] == 50
    left = database.rows(
        "SELECT version, count(*) FROM streaming.cheat_check GROUP BY 1 ORDER BY 1"
    )
    assert left == [("v1", 25), ("v2", 25)]


@pytest.mark.parametrize(
    ("table", "damage"),
    [
        (
            "streaming.outbox",
            "INSERT INTO streaming.outbox (kind, destination, key, body, sent_at)"
            " VALUES ('message', 'x', 1, '', now() - interval '9 days')",
        ),
        (
            "streaming.missed_pgcr",
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source, closed_at)"
            " VALUES (1, 'resolved', 'x', 'x', now() - interval '32 days')",
        ),
        (
            "streaming.crawl_block",
            "INSERT INTO streaming.crawl_block"
            " (first_id, last_id, state, owner, lease_until, done_at)"
            " SELECT 10 * n + 1, 10 * n + 10, 'done', 'x', now(), now() - interval '92 days'"
            " FROM generate_series(1, 2) AS n",
        ),
        (
            "streaming.blocked_success",
            "INSERT INTO streaming.blocked_success VALUES (1, now() - interval '2 days')",
        ),
        (
            "streaming.withheld_pgcr",
            "INSERT INTO streaming.withheld_pgcr (instance_id, returns_at, closed_at)"
            " VALUES (1, now(), now() - interval '2 days')",
        ),
        (
            "streaming.young_pgcr",
            "INSERT INTO streaming.young_pgcr VALUES (1, now(), 0, now() - interval '2 days')",
        ),
        (
            "streaming.clickhouse_batch",
            "INSERT INTO streaming.clickhouse_batch (target, row_count, state, done_at)"
            " VALUES ('instance', 1, 'done', now() - interval '9 days')",
        ),
    ],
)
def test_a_chore_that_stands_still_is_named(database: Database, table: str, damage: str) -> None:
    """Such tables grow until a disk is full; nobody else would tell."""
    assert prune_ledgers(database.connection, dry_run=False).overdue == []
    database.rows(damage)
    (told,) = prune_ledgers(database.connection, dry_run=False).overdue
    assert (told["table"], told["overdue"]) == (table, 1)
