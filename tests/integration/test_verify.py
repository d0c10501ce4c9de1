"""`raidhub verify` must find every kind of wrong row; a proof that cannot fail proves nothing."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.store import Report, Store
from raidhub_dagster.storage.verify import verify, wait_for_effects
from tests.support.reports import encode, make_entry, make_report
from tests.support.worlds import EPOCH

FIRST = 16_000_000_000


@pytest.fixture
def connection(
    postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> Iterator[Connection]:
    """A store with three runs of overlapping teams and a ledger that covers them."""
    with closing(connect(settings_for(postgres), "pytest")) as opened:
        reports = []
        for number, team in enumerate(([1, 2, 4], [2, 3], [1, 3])):
            body = encode(
                make_report(
                    instance_id=FIRST + number,
                    period=f"2025-01-{20 + number}T20:00:00Z",
                    players=[make_entry(n) for n in team],
                )
            )
            parsed = parse(body, now=EPOCH.replace(year=2026))
            assert isinstance(parsed, Instance)
            reports.append(Report(parsed, body))
        Store(opened).store(reports, source="test")
        execute(
            opened,
            "INSERT INTO streaming.crawl_cursor VALUES ('pgcr', 1, 101, 1000, now());"
            "INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)"
            " VALUES (1, 50, 'done', 'test', now()), (61, 100, 'leased', 'test', now());"
            "INSERT INTO streaming.gap (first_id, last_id, reason) VALUES (51, 60, 'test')",
        )
        yield opened


def execute(connection: Connection, statement: str) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)


def differing(connection: Connection) -> dict[str, int]:
    return {f.check: f.differing for f in verify(connection, None) if not f.is_equal}


def test_store_of_its_own_making_is_equal(connection: Connection) -> None:
    assert differing(connection) == {}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE core.instance_player SET sherpas = sherpas + 1", {"standings", "player_stats"}),
        ("UPDATE core.instance_player SET is_first_clear = false", {"standings"}),
        ("UPDATE core.player_stats SET clears = 9", {"player_stats", "players"}),
        ("UPDATE core.player_stats SET fastest_instance_id = NULL", {"player_stats"}),
        ("DELETE FROM core.player_stats", {"player_stats", "players"}),
        ("UPDATE core.player SET total_time_played_seconds = 1", {"players"}),
        ("UPDATE core.player SET sum_of_best = 1", {"players"}),
        ("UPDATE core.player SET first_seen = now()", {"sightings"}),
        ("UPDATE core.player SET last_seen = first_seen", {"sightings"}),
        ("UPDATE core.player SET display_name = NULL", {"reports"}),
        (
            "UPDATE streaming.player_identity SET global_name_seen = '2025-01-01T00:00Z'",
            {"reports"},
        ),
        ("DELETE FROM raw.pgcr WHERE instance_id = 16000000001", {"raw_reports"}),
        ("INSERT INTO raw.pgcr (instance_id, data) VALUES (5, 'x')", {"raw_reports"}),
        (
            "INSERT INTO raw.pgcr (instance_id, data) VALUES (5, 'x');"
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
            " VALUES (5, 'missing', 'not_found', 'test')",
            {"raw_reports"},
        ),
        ("UPDATE raw.pgcr SET data = 'x' WHERE instance_id = 16000000001", {"reports"}),
        ("UPDATE definitions.activity_version SET activity_id = 4", {"player_stats"}),
        ("UPDATE core.instance SET score = 7", {"reports"}),
        ("UPDATE extended.instance_character_weapon SET kills = kills + 1", {"reports"}),
        (
            "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source)"
            " VALUES (16000000001, 'waiting', 'not_found', 'test')",
            {"missed_but_stored"},
        ),
        (
            "INSERT INTO streaming.pgcr_revision"
            " SELECT instance_id, sha256(substring(data FROM 9)), now(), data, 'conflict'"
            " FROM raw.pgcr",
            {"current_revisions"},
        ),
        (
            "INSERT INTO streaming.pgcr_revision"
            " SELECT a.instance_id, 'x', now(), b.data, 'superseded'"
            " FROM raw.pgcr AS a, raw.pgcr AS b"
            " WHERE a.instance_id = 16000000001 AND b.instance_id = 16000000000",
            {"superseded"},
        ),
        (
            "INSERT INTO streaming.young_pgcr"
            " VALUES (16000000001, now(), 0, now() - interval '7 hours')",
            {"young"},
        ),
        ("DELETE FROM streaming.gap", {"ledger"}),
        ("UPDATE streaming.crawl_cursor SET next_id = 102", {"ledger"}),
        ("DELETE FROM streaming.crawl_block", {"ledger"}),
    ],
)
def test_damage_is_found(connection: Connection, damage: str, found: set[str]) -> None:
    execute(connection, damage)
    assert differing(connection).keys() == found


def test_example_names_the_row(connection: Connection) -> None:
    """Somebody must be able to look at it."""
    execute(connection, "UPDATE core.player_stats SET clears = 77 WHERE membership_id % 10 = 1")
    finding = next(f for f in verify(connection, None) if f.check == "player_stats")
    assert finding.differing == 1
    assert "4611686018000000001" in finding.examples[0]


def test_effects_under_way_are_waited_for_only_so_long(connection: Connection) -> None:
    """A relay that is down must not hang the command."""
    clock = iter(range(100))
    assert wait_for_effects(connection, 5, clock=lambda: next(clock), sleep=lambda _: None) == 3
    execute(connection, "UPDATE streaming.outbox SET sent_at = now()")
    assert wait_for_effects(connection, 5, clock=lambda: 0) == 0
