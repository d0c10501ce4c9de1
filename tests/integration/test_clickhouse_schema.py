"""The ClickHouse schema: what readers rely on, what the views count, and how it is migrated."""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clickhouse_migrations.clickhouse_cluster import ClickhouseCluster

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage.clickhouse import MIGRATIONS
from raidhub_dagster.storage.clickhouse_migrations import migrate_clickhouse
from raidhub_dagster.storage.clickhouse_rows import row_of
from raidhub_dagster.storage.clickhouse_sender import _ONE_BLOCK
from raidhub_dagster.storage.schema import Phase
from tests.support.analytics import ACTIVITY, HOUR, VERSION, Analytics, run

# Readers and writers outside know these by name and type.
COLUMNS = {
    "instance": [
        ("instance_id", "Int64"),
        ("hash", "UInt32"),
        ("completed", "UInt8"),
        ("player_count", "UInt32"),
        ("fresh", "UInt8"),
        ("flawless", "UInt8"),
        ("date_started", "DateTime"),
        ("date_completed", "DateTime"),
        ("platform_type", "UInt16"),
        ("duration", "UInt32"),
        ("score", "Int32"),
        (
            "players",
            "Nested(membership_id Int64, completed UInt8, time_played_seconds UInt32,"
            " sherpas UInt32, is_first_clear UInt8, characters Nested(character_id Int64,"
            " class_hash UInt32, emblem_hash UInt32, completed UInt8, score Int32, kills UInt32,"
            " assists UInt32, deaths UInt32, precision_kills UInt32, super_kills UInt32,"
            " grenade_kills UInt32, melee_kills UInt32, time_played_seconds UInt32,"
            " start_seconds UInt32, weapons Nested(weapon_hash UInt32, kills UInt32,"
            " precision_kills UInt32)))",
        ),
        ("revision", "UInt32"),
    ],
    "activity_version": [
        ("hash", "Int64"),
        ("activity_id", "UInt16"),
        ("version_id", "UInt16"),
    ],
    "activity": [
        ("id", "Int32"),
        ("name", "String"),
        ("is_sunset", "UInt8"),
        ("is_raid", "UInt8"),
        ("path", "String"),
        ("release_date", "DateTime"),
        ("contest_end", "Nullable(DateTime)"),
        ("week_one_end", "Nullable(DateTime)"),
        ("milestone_hash", "Nullable(UInt32)"),
        ("day_one_end", "DateTime"),
    ],
    "version": [("id", "Int32"), ("name", "String")],
    "weapon_definition": [
        ("hash", "Int64"),
        ("name", "String"),
        ("icon_path", "String"),
        ("element", "String"),
        ("slot", "String"),
        ("ammo_type", "String"),
        ("rarity", "String"),
        ("weapon_type", "String"),
    ],
    "player_population_by_hour": [
        ("hour", "DateTime"),
        ("activity_id", "UInt16"),
        ("player_count", "UInt32"),
    ],
    "clear_time_by_day": [
        ("bungie_day", "Date"),
        ("activity_id", "UInt16"),
        ("version_id", "UInt16"),
        ("clear_time", "AggregateFunction(quantiles(0.05, 0.1, 0.5, 0.9), UInt32)"),
    ],
    "weapon_meta_by_hour": [
        ("hour", "DateTime"),
        ("activity_id", "UInt16"),
        ("weapon_hash", "UInt32"),
        ("usage_count", "UInt32"),
        ("kill_count", "UInt64"),
        ("precision_kill_count", "UInt64"),
    ],
    "player_relation_weights_bidirectional": [
        ("membership_id", "UInt64"),
        ("related_membership_id", "UInt64"),
        ("weight", "UInt64"),
    ],
}
TARGETS = list(COLUMNS)[-4:]


def insert(analytics: Analytics, instances: Iterable[Instance], *, batch: str) -> None:
    """One insert through the views, as the sender makes it."""
    rows = b"\n".join(msgspec.json.encode(row_of(instance, {})) for instance in instances)
    analytics.clickhouse.raw_insert(
        "instance",
        insert_block=rows,
        fmt="JSONEachRow",
        settings={**_ONE_BLOCK, "insert_deduplication_token": batch},
    )


def at(hours: float) -> datetime:
    return HOUR + timedelta(hours=hours)


def plain(hours: float) -> datetime:
    return at(hours).replace(tzinfo=None)


@pytest.mark.parametrize("table", COLUMNS)
def test_columns_are_those_that_others_know(analytics: Analytics, table: str) -> None:
    found = analytics.select(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase()"
        f" AND table = '{table}' ORDER BY position"
    )
    assert found == COLUMNS[table]


@pytest.mark.parametrize("table", ["instance", *TARGETS])
def test_every_table_that_a_batch_reaches_remembers_tokens(
    analytics: Analytics, table: str
) -> None:
    """One without would count a retry twice while the others do not."""
    ((text,),) = analytics.select(f"SHOW CREATE TABLE {table}")
    assert "non_replicated_deduplication_window = 10000" in text


@pytest.mark.parametrize("table", ["instance", *TARGETS, "weekly_raid_report", "weapon_meta_trend"])
def test_a_twin_can_take_the_place_of_a_part(analytics: Analytics, table: str) -> None:
    """Another column or partition, and no rebuild works; tokens, and the second one is empty."""
    columns = (
        "SELECT name, type, is_in_partition_key, is_in_sorting_key, is_in_primary_key"
        " FROM system.columns WHERE database = currentDatabase() AND table = '{}' ORDER BY position"
    )
    twin = analytics.select(columns.format(f"{table}_twin"))
    assert twin == analytics.select(columns.format(table))
    texts = [analytics.select(f"SHOW CREATE TABLE {t}")[0][0] for t in (table, f"{table}_twin")]
    assert "deduplication" not in texts[1]
    ends = [re.findall(r"PARTITION BY .*|ORDER BY .*|TTL .*", text) for text in texts]
    assert ends[0] == ends[1]


def test_aggregates_by_time_end_in_whole_days(analytics: Analytics) -> None:
    """A day can be replaced as one partition, and is dropped as one."""
    for table in TARGETS[:3]:
        ((text,),) = analytics.select(f"SHOW CREATE TABLE {table}")
        assert "ttl_only_drop_parts = 1" in text
        assert re.search(r"PARTITION BY (toDate\(hour\)|bungie_day)", text)
        assert re.search(r"TTL \w+ \+ toInterval(Month|Year)\(1\)", text)


@pytest.mark.parametrize(
    ("started", "minutes", "hours"),
    [
        (0.5, 15, [0]),  # within an hour: the hour it began in
        (0.5, 60, [0, 1]),
        (0.5, 30, [0]),  # ends on the hour: not there
        (0, 60, [0]),
        (0, 61, [0, 1]),
        (0.5, 0, []),  # no length: nowhere
        (0, 0, []),
        (-100.5, 100.5 * 60, list(range(-72, 0))),  # only the last three days of a long one
        (-100.5, 101 * 60, list(range(-72, 1))),
    ],
)
def test_population_counts_each_hour_a_run_covers(
    analytics: Analytics, started: float, minutes: float, hours: list[int]
) -> None:
    insert(analytics, [run(1, started=at(started), duration=int(minutes * 60))], batch="a")
    expected = [(plain(hour), ACTIVITY, 2) for hour in hours]
    assert analytics.views()["population"] == expected


@pytest.mark.parametrize(("players", "counts"), [(49, True), (50, False)])
def test_crowds_are_neither_population_nor_relations(
    analytics: Analytics, players: int, counts: bool
) -> None:
    """Matchmade public events are not fireteams."""
    insert(analytics, [run(1, players=range(1, players + 1))], batch="a")
    views = analytics.views()
    assert bool(views["population"]) is counts
    assert len(views["relations"]) == (49 * 48 if counts else 0)


@pytest.mark.parametrize(
    ("fresh", "completed", "counts"),
    [
        (True, True, True),
        (None, True, False),  # 2 = unknown is not fresh
        (False, True, False),
        (True, False, False),
    ],
)
def test_clear_times_are_of_fresh_clears_only(
    analytics: Analytics, fresh: bool | None, completed: bool, counts: bool
) -> None:
    insert(analytics, [run(1, fresh=fresh, completed=completed)], batch="a")
    assert bool(analytics.views()["clear_time"]) is counts


@pytest.mark.parametrize(("hour", "days_back"), [(17, 0), (16, 1)])
def test_a_game_day_begins_at_17(analytics: Analytics, hour: int, days_back: int) -> None:
    end = HOUR.replace(hour=hour)
    insert(analytics, [run(1, started=end - timedelta(hours=1))], batch="a")
    day = end.date() - timedelta(days=days_back)
    assert analytics.views()["clear_time"] == [(day, ACTIVITY, VERSION, [3600.0] * 4)]


def test_weapons_count_characters_kills_and_precision(analytics: Analytics) -> None:
    first = run(1, players=(1, 2), weapons=[(70, 5, 2), (80, 0, 0)])
    second = run(2, players=(3,), weapons=[(70, 1, 1)])
    insert(analytics, [first, second], batch="a")
    assert analytics.views()["weapons"] == [
        (plain(1), ACTIVITY, 70, 3, 11, 5),
        (plain(1), ACTIVITY, 80, 2, 0, 0),
    ]


def test_relations_weigh_shared_seconds_and_completion(analytics: Analytics) -> None:
    """The lesser time, doubled for each who completed; nobody is related to himself."""
    mixed = run(1, duration=100)
    one, two = mixed.players
    quitter = msgspec.structs.replace(two, time_played_seconds=40, completed=False)
    insert(analytics, [msgspec.structs.replace(mixed, players=(one, quitter))], batch="a")
    assert analytics.views()["relations"] == [(1, 2, 80), (2, 1, 80)]


def test_a_batch_over_two_partitions_counts_once_however_often_it_comes(
    analytics: Analytics,
) -> None:
    """The rule that everything rests on; a new token shows that the test can see a double."""
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    instances = [
        run(1, started=month - timedelta(minutes=30)),
        run(2, started=month - timedelta(minutes=30), duration=900),
        run(3, started=month, duration=1200),
    ]
    insert(analytics, instances, batch="a")
    once = analytics.views()
    count = "SELECT count() FROM instance"
    for _ in range(2):
        insert(analytics, instances, batch="a")
    assert analytics.views() == once
    assert analytics.select(count) == [(3,)]
    insert(analytics, instances, batch="b")
    assert analytics.select(count) == [(6,)]
    twice = analytics.views()
    assert all(twice[name] != once[name] for name in ("population", "weapons", "relations"))


def test_migrating_again_does_nothing(
    clickhouse: dict[str, Any],
    postgres_server: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> None:
    assert migrate_clickhouse(settings_for(postgres_server, clickhouse)) == []


@pytest.fixture
def unmigrated(
    clickhouse_server: dict[str, Any],
    postgres_server: dict[str, Any],
    settings_for: Callable[..., Settings],
) -> Iterable[Settings]:
    """Settings of a database that does not exist yet."""
    settings = settings_for(postgres_server, clickhouse_server, clickhouse_db="unmigrated")
    yield settings
    with closing(ch.connect(settings, "pytest", database="default")) as client:
        client.command("DROP DATABASE IF EXISTS unmigrated")


def test_two_at_once_apply_each_migration_once(unmigrated: Settings) -> None:
    """Replicas start together; ClickHouse has no transaction that would stop the second."""
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(migrate_clickhouse, [unmigrated] * 2)
    names = sorted(p.name.removesuffix(".up.sql") for p in MIGRATIONS.glob("*.up.sql"))
    assert sorted([first, second]) == [[], names]


def test_a_killed_migration_is_finished_by_the_next(unmigrated: Settings) -> None:
    """Half of a file is there and nothing is recorded."""
    name = unmigrated.clickhouse_db
    with closing(ch.connect(unmigrated, "pytest", database="default")) as client:
        client.command(f"CREATE DATABASE {name}")
        client.command(f"CREATE TABLE {name}.version (id Int32, name String) ORDER BY id")
    assert migrate_clickhouse(unmigrated)[0] == "0001_create_lookups"


def test_a_failing_migration_is_named(unmigrated: Settings, tmp_path: Path) -> None:
    (tmp_path / "0001_create_a.up.sql").write_text("CREATE TABLE a (x Int8) ORDER BY x;")
    (tmp_path / "0002_break_b.up.sql").write_text("CREATE TABLE b (x Nonsense) ORDER BY x;")
    with pytest.raises(PermanentError, match=r"migration 0002_break_b failed: .*Nonsense"):
        migrate_clickhouse(unmigrated, folder=tmp_path)


def test_a_changed_migration_is_refused(unmigrated: Settings, tmp_path: Path) -> None:
    """An edited file would leave two installations with different tables of one version."""
    path = tmp_path / "0001_create_a.up.sql"
    path.write_text("CREATE TABLE a (x Int8) ORDER BY x;")
    migrate_clickhouse(unmigrated, folder=tmp_path)
    path.write_text("CREATE TABLE a (x Int16) ORDER BY x;")
    with pytest.raises(PermanentError, match="version is 1"):
        migrate_clickhouse(unmigrated, folder=tmp_path)


def test_a_rollout_migrates_in_two_steps(unmigrated: Settings, tmp_path: Path) -> None:
    (tmp_path / "0001_create_a.up.sql").write_text("CREATE TABLE a (x Int8) ORDER BY x;")
    assert migrate_clickhouse(unmigrated, Phase.PRE, folder=tmp_path) == ["0001_create_a"]
    (tmp_path / "0002_create_b.up.sql").write_text("CREATE TABLE b (x Int8) ORDER BY x;")
    (tmp_path / "0003_post_drop_a.up.sql").write_text("DROP TABLE a;")
    with pytest.raises(PermanentError, match="0002_create_b comes before 0003_post_drop_a"):
        migrate_clickhouse(unmigrated, Phase.POST, folder=tmp_path)
    assert migrate_clickhouse(unmigrated, Phase.PRE, folder=tmp_path) == ["0002_create_b"]
    assert migrate_clickhouse(unmigrated, Phase.PRE, folder=tmp_path) == []
    assert migrate_clickhouse(unmigrated, Phase.POST, folder=tmp_path) == ["0003_post_drop_a"]


def test_a_rolled_back_release_leaves_a_newer_schema_alone(
    unmigrated: Settings, tmp_path: Path
) -> None:
    """`raidhub up` of the old release migrates too, and its code goes on."""
    for path in MIGRATIONS.glob("*.up.sql"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "9001_create_a.up.sql").write_text("CREATE TABLE a (x Int8) ORDER BY x;")
    migrate_clickhouse(unmigrated, folder=tmp_path)
    assert migrate_clickhouse(unmigrated) == []
    ch.connect_checked(unmigrated, "pytest").close()


def test_code_refuses_a_schema_older_than_it_needs(unmigrated: Settings, tmp_path: Path) -> None:
    """The relay would lose no row, but tell of unknown columns instead of what to do."""
    told = r"ClickHouse has an older schema .*: {} not applied; run `raidhub migrate --pre`"
    first = r"0001_create_lookups and \d+ more are"
    with pytest.raises(ConfigurationError, match=told.format(first)):
        ch.connect_checked(unmigrated, "pytest")
    *older, newest = sorted(MIGRATIONS.glob("*.up.sql"))
    for path in older:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    migrate_clickhouse(unmigrated, folder=tmp_path)
    with pytest.raises(ConfigurationError, match=told.format(f"{newest.name[:-7]} is")):
        ch.connect_checked(unmigrated, "pytest")


def test_down_scripts_undo_everything(unmigrated: Settings) -> None:
    migrate_clickhouse(unmigrated)
    cluster = ClickhouseCluster(
        db_host=unmigrated.clickhouse_host,
        db_port=str(unmigrated.clickhouse_http_port),
        driver="clickhouse-connect",
    )
    cluster.rollback(unmigrated.clickhouse_db, MIGRATIONS, steps=len(COLUMNS))
    assert cluster.show_tables(unmigrated.clickhouse_db) == ["schema_versions"]
