"""`seed`: what it loads, reports and refuses, and what stored rows owe to the definitions."""

import csv
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.definitions import load_activities, load_tracked_hashes
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.seeds import SEEDS, SeedReport, seed

TABLES = [
    "activity_definition",
    "version_definition",
    "activity_version",
    "season",
    "class_definition",
]

LAST_WISH, GARDEN = 4, 7
LAST_WISH_HASH, GARDEN_HASH = 2122313384, 2659723068


@pytest.fixture
def settings(postgres: dict[str, Any], settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(postgres)


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    with closing(connect(settings, "test")) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped files, to be edited."""
    return Path(shutil.copytree(SEEDS, tmp_path / "seeds"))


def replace(folder: Path, table: str, old: str, new: str) -> None:
    path = folder / f"{table}.csv"
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def execute(connection: Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def changes(reports: list[SeedReport]) -> dict[str, tuple[int, int, tuple[int, ...]]]:
    return {
        report.table: (report.inserted, report.updated, report.changed)
        for report in reports
        if report.inserted or report.updated
    }


def rows(table: str) -> list[dict[str, str]]:
    with (SEEDS / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_empty_tables_get_every_row(settings: Settings, connection: Connection) -> None:
    for table in reversed(TABLES):
        execute(connection, f"DELETE FROM definitions.{table}")
    counts = {report.table: report.inserted for report in seed(settings)}
    assert counts == {f"definitions.{table}": len(rows(table)) for table in TABLES}


@pytest.mark.parametrize("table", TABLES)
def test_stored_rows_say_what_the_files_say(connection: Connection, table: str) -> None:
    """Empty is null, not an empty text, and times keep their instant."""
    (names,) = zip(
        *execute(
            connection,
            "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
            f"definitions.{table}",
        ),
        strict=True,
    )
    columns = [name for name in rows(table)[0] if name in names]
    stored = execute(connection, f"SELECT {', '.join(columns)} FROM definitions.{table}")

    def text(value: object) -> str:
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%SZ")
        if isinstance(value, bool):
            return str(value).lower()
        return "" if value is None else str(value)

    found = [[text(value) for value in row] for row in stored]
    assert sorted(found) == sorted([row[name] for name in columns] for row in rows(table))


def test_second_load_changes_nothing(settings: Settings) -> None:
    """Rewritten rows would lock the store out, and the tables with it, for nothing."""
    assert changes(seed(settings)) == {}
    assert [report.unchanged for report in seed(settings)] == [len(rows(t)) for t in TABLES]


def test_report_names_the_keys_that_changed(settings: Settings, folder: Path) -> None:
    replace(folder, "class_definition", "Hunter", "Jäger")
    with (folder / "class_definition.csv").open("a", encoding="utf-8") as file:
        file.write("1,Ghost\n")
    report = seed(settings, folder=folder)[-1]
    assert report == SeedReport("definitions.class_definition", 1, 1, 2, (671679327, 1))


def test_rows_that_left_the_file_stay(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """Stored instances point at them."""
    replace(folder, "class_definition", "671679327,Hunter\n", "")
    assert changes(seed(settings, folder=folder)) == {}
    assert execute(connection, "SELECT count(*) FROM definitions.class_definition") == [(3,)]


def test_shipped_day_one_ends_agree_with_the_generated_ones(connection: Connection) -> None:
    """The column is in the file for checking only."""
    stored = execute(connection, "SELECT id, day_one_end FROM definitions.activity_definition")
    told = {
        int(row["id"]): datetime.fromisoformat(row["day_one_end"])
        for row in rows("activity_definition")
    }
    assert dict(stored) == told


def test_shipped_names_agree_with_the_keys_beside_them() -> None:
    """activity_name and version_name are for people, who would trust them."""
    activities = {row["id"]: row["name"] for row in rows("activity_definition")}
    versions = {row["id"]: row["name"] for row in rows("version_definition")}
    for row in rows("activity_version"):
        assert row["activity_name"] == activities[row["activity_id"]]
        assert row["version_name"] == versions[row["version_id"]]


# --- bad files


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("season", "start_date", "begin", "season.csv: line 1, column start_date: missing"),
        ("season", "short_name", "id", "season.csv: line 1, column id: missing or repeated"),
        ("season", "2018-05-08T18:00:00Z", "soon", "season.csv: line 4, column start_date: 'soon'"),
        ("season", "2018-05-08T18:00:00Z", "2018-05-08T18:00:00", "line 4, column start_date"),
        ("season", "2018-05-08T18:00:00Z", "", "line 4, column start_date: empty"),
        ("season", "3,Warmind", "2,Warmind", "line 4, column id: 2 stands in an earlier line"),
        (
            "season",
            "3,Warmind",
            "three,Warmind",
            "column id: 'three' is not a whole number",
        ),
        ("season", "3,Warmind", "0,Warmind", "line 4, column id: '0'"),
        ("season", "3,Warmind", "4294967296,Warmind", "line 4, column id"),
        ("season", "3,Warmind,", "3,", "season.csv: line 4: 4 instead of 5 columns"),
        ("season", "3,Warmind,", '3,"War"mind,', "season.csv: line 4: "),
        ("version_definition", "128,Atraks Sovereign,atraks,101,false", "128,a,b,101,no", "'no'"),
        ("version_definition", "atraks,101", "atraks,100", "100 is not in activity_definition"),
        (
            "activity_version",
            "2693136600,1,1",
            "2693136600,1,77",
            "activity_version.csv: line 2, column version_id: 77 is not in version_definition",
        ),
        ("class_definition", "671679327", "4294967296", "column hash"),
    ],
)
def test_bad_file_is_refused_by_file_line_and_column(
    settings: Settings, folder: Path, table: str, old: str, new: str, message: str
) -> None:
    """Whoever edited the file must find the place; the database keeps what it had."""
    replace(folder, "activity_definition", "Last Wish", "First Wish")
    replace(folder, table, old, new)
    with pytest.raises(PermanentError) as raised:
        seed(settings, folder=folder)
    assert message in str(raised.value)
    assert changes(seed(settings)) == {}


def test_file_that_is_not_utf8_is_refused(settings: Settings, folder: Path) -> None:
    (folder / "season.csv").write_bytes(b"id,short_name\n1,\xff\n")
    with pytest.raises(PermanentError, match=r"season\.csv: not UTF-8 at byte 16"):
        seed(settings, folder=folder)


def test_missing_file_is_named(settings: Settings, folder: Path) -> None:
    (folder / "season.csv").unlink()
    with pytest.raises(PermanentError, match=r"season\.csv is missing"):
        seed(settings, folder=folder)


def test_empty_file_misses_its_columns(settings: Settings, folder: Path) -> None:
    (folder / "season.csv").write_bytes(b"")
    with pytest.raises(PermanentError, match="line 1, column id"):
        seed(settings, folder=folder)


# --- seasons of stored instances


def store_instance(connection: Connection, instance_id: int, started: str, **row: Any) -> None:
    values = {"hash": LAST_WISH_HASH, "duration": 3600} | row
    execute(
        connection,
        """
        INSERT INTO core.instance (instance_id, hash, completed, fresh, player_count,
            date_started, date_completed, duration, platform_type)
        VALUES (%s, %s, true, true, 1, %s, %s, %s, 3)""",
        instance_id,
        values["hash"],
        started,
        datetime.fromisoformat(started) + timedelta(hours=1),
        values["duration"],
    )


def seasons(connection: Connection) -> dict[int, int]:
    return dict(execute(connection, "SELECT instance_id, season_id FROM core.instance"))


def test_moved_season_takes_its_instances_along(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """Generated seasons do not follow their table by themselves."""
    for instance_id, started in enumerate(
        ["2018-05-01T00:00:00Z", "2018-05-08T17:00:00Z", "2018-05-09T00:00:00Z"], start=1
    ):
        store_instance(connection, instance_id, started)
    assert seasons(connection) == {1: 2, 2: 2, 3: 3}
    replace(folder, "season", "2018-05-08T18:00:00Z", "2018-05-08T16:00:00Z")
    assert changes(seed(settings, folder=folder)) == {
        "definitions.season": (0, 1, (3,)),
        "core.instance": (0, 1, ()),
    }
    assert seasons(connection) == {1: 2, 2: 3, 3: 3}
    assert changes(seed(settings))["core.instance"] == (0, 1, ())
    assert seasons(connection) == {1: 2, 2: 2, 3: 3}


def test_new_season_takes_later_instances(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """The season's row may come days after its start."""
    store_instance(connection, 1, "2026-06-10T00:00:00Z")
    store_instance(connection, 2, "2027-01-01T00:00:00Z")
    with (folder / "season.csv").open("a", encoding="utf-8") as file:
        file.write("30,New,New,New,2026-12-01T17:00:00Z\n")
    assert changes(seed(settings, folder=folder))["core.instance"] == (0, 1, ())
    assert seasons(connection) == {1: 29, 2: 30}


def test_earliest_season_also_takes_what_is_older_than_all(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """Before all starts the earliest season counts, and it may become another one."""
    store_instance(connection, 1, "2016-01-01T00:00:00Z")
    replace(folder, "season", "2017-09-06T09:00:00Z", "2017-12-06T09:00:00Z")
    seed(settings, folder=folder)
    assert seasons(connection) == {1: 2}


def test_instance_that_is_being_stored_meanwhile_gets_its_season_too(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """Its transaction read the old seasons and commits after the load began."""
    with (folder / "season.csv").open("a", encoding="utf-8") as file:
        file.write("30,New,New,New,2026-12-01T17:00:00Z\n")
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
    with closing(connect(settings, "store")) as store, ThreadPoolExecutor(1) as pool:
        store_instance(store, 1, "2027-01-01T00:00:00Z")
        done = pool.submit(seed, settings, folder=folder)
        while execute(connection, waiting) == [(0,)]:
            assert not done.done()
        store.commit()
        assert changes(done.result(timeout=60))["core.instance"] == (0, 1, ())
    assert seasons(connection) == {1: 30}


def test_two_loads_at_once_insert_each_row_once(settings: Settings, folder: Path) -> None:
    with (folder / "class_definition.csv").open("a", encoding="utf-8") as file:
        file.write("1,Ghost\n")
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: seed(settings, folder=folder), range(2)))
    assert sorted(reports[-1].inserted for reports in both) == [0, 1]


def test_renamed_season_rewrites_nothing(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    store_instance(connection, 1, "2018-05-09T00:00:00Z")
    replace(folder, "season", "3,Warmind,Warmind", "3,Warmind,Rasputin")
    assert set(changes(seed(settings, folder=folder))) == {"definitions.season"}


# --- hashes of stored instances


def move_garden(folder: Path) -> None:
    line = f"{GARDEN_HASH},{GARDEN},"
    replace(folder, "activity_version", line, f"{GARDEN_HASH},{LAST_WISH},")


def test_hash_moves_while_nothing_is_stored_under_it(settings: Settings, folder: Path) -> None:
    move_garden(folder)
    assert changes(seed(settings, folder=folder)) == {
        "definitions.activity_version": (0, 1, (GARDEN_HASH,))
    }


def test_hash_of_stored_instances_stays_where_it_is(
    settings: Settings, folder: Path, connection: Connection
) -> None:
    """Its first clears and counters would stay with the old activity, and nobody would know."""
    store_instance(connection, 1, "2020-01-01T00:00:00Z", hash=GARDEN_HASH)
    move_garden(folder)
    with pytest.raises(PermanentError, match=f"hash {GARDEN_HASH} moves from activity 7 to 4"):
        seed(settings, folder=folder)
    assert changes(seed(settings)) == {}


# --- sums of best times


@pytest.fixture
def two_raids(settings: Settings, folder: Path, connection: Connection) -> Path:
    """Only Last Wish and Garden count; player 1 has 3600 + 1800 s, player 2 misses Garden."""
    path = folder / "activity_definition.csv"
    kept = []
    for line in path.read_text("utf-8").splitlines(keepends=True):
        id_, rest = line.split(",", 1)
        counts = id_ in ("id", str(LAST_WISH), str(GARDEN))
        kept.append(line if counts else f"{id_},{rest.replace('false,true', 'true,true')}")
    path.write_text("".join(kept), "utf-8")
    seed(settings, folder=folder)
    store_instance(connection, 1, "2020-01-01T00:00:00Z", duration=3600)
    store_instance(connection, 2, "2020-01-02T00:00:00Z", duration=1800, hash=GARDEN_HASH)
    execute(
        connection,
        "INSERT INTO core.player (membership_id, last_seen, sum_of_best) "
        "VALUES (1, now(), 5400), (2, now(), NULL)",
    )
    execute(
        connection,
        "INSERT INTO core.player_stats (membership_id, activity_id, fastest_instance_id) "
        "VALUES (1, 4, 1), (1, 7, 2), (2, 4, 1), (2, 7, NULL)",
    )
    return folder


def sums(connection: Connection) -> dict[int, int | None]:
    return dict(execute(connection, "SELECT membership_id, sum_of_best FROM core.player"))


def test_sunset_raid_leaves_every_sum(
    settings: Settings, two_raids: Path, connection: Connection
) -> None:
    """Old and new sums would be ranked together until each player's next record."""
    replace(two_raids, "activity_definition", "gardenofsalvation,false", "gardenofsalvation,true")
    assert changes(seed(settings, folder=two_raids))["core.player"] == (0, 2, ())
    assert sums(connection) == {1: 3600, 2: 3600}


def test_new_raid_takes_every_sum_away(
    settings: Settings, two_raids: Path, connection: Connection
) -> None:
    replace(two_raids, "activity_definition", "deepstonecrypt,true", "deepstonecrypt,false")
    assert changes(seed(settings, folder=two_raids))["core.player"] == (0, 1, ())
    assert sums(connection) == {1: None, 2: None}


def test_renamed_raid_leaves_sums_alone(
    settings: Settings, two_raids: Path, connection: Connection
) -> None:
    replace(two_raids, "activity_definition", "Last Wish", "First Wish")
    assert set(changes(seed(settings, folder=two_raids))) == {"definitions.activity_definition"}
    assert sums(connection) == {1: 5400, 2: None}


# --- reading


def test_tracked_hashes_lead_to_activity_and_version(connection: Connection) -> None:
    hashes = load_tracked_hashes(connection)
    assert len(hashes) == 91
    assert hashes[1374392663] == (11, 1)


def test_activities_have_aware_times(connection: Connection) -> None:
    """They are compared with the clock."""
    activities = {activity.id: activity for activity in load_activities(connection)}
    kings_fall = activities[11]
    assert list(activities) == [*range(1, 17), 101, 102]
    assert kings_fall.contest_end == kings_fall.release_date + timedelta(days=1)
    assert kings_fall.is_raid
    assert not activities[101].is_raid
    assert activities[101].week_one_end is None
