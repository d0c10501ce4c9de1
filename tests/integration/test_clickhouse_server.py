"""The embedded ClickHouse behind HTTP, asked by the client that production uses."""

import fcntl
import gzip
import http.client
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from raidhub_dagster.settings import Settings
from raidhub_dagster.stack.clickhouse import ClickhouseServer
from raidhub_dagster.stack.process import HOST, free_port, running
from raidhub_dagster.storage.clickhouse import connect

Overrides = dict[str, Any]

INSTANCE = """
CREATE TABLE runs (
    id Int64, at DateTime, fresh UInt8,
    players Nested(id Int64, kills UInt32, weapons Nested(hash UInt32, kills UInt32))
) ENGINE = ReplacingMergeTree ORDER BY (at, id) PARTITION BY toYYYYMM(at)
SETTINGS non_replicated_deduplication_window = 100"""

KILLS = """
CREATE TABLE kills (day Date, kills UInt64) ENGINE = SummingMergeTree ORDER BY day
SETTINGS non_replicated_deduplication_window = 100"""

KILLS_VIEW = """
CREATE MATERIALIZED VIEW kills_mv TO kills AS
SELECT toDate(at) AS day, sum(arraySum(players.kills)) AS kills FROM runs GROUP BY day"""


@pytest.fixture
def database(
    clickhouse_server: Overrides, settings_for: Callable[..., Settings]
) -> Iterator[Settings]:
    """An empty database of the session's server."""
    name = "protocol"
    with closing(connect(settings_for(clickhouse_server), "test")) as client:
        client.command(f"CREATE DATABASE {name}")
        yield settings_for(clickhouse_server, clickhouse_db=name)
        client.command(f"DROP DATABASE {name}")


@pytest.fixture
def client(database: Settings) -> Iterator[Client]:
    client = connect(database, "test")
    yield client
    client.close()


def rows(start: int, count: int) -> list[list[Any]]:
    """Runs in two months, so that one insert makes two partitions."""
    return [
        [
            number,
            datetime(2026, 1 + number % 2, 5, 12, 0, 0, tzinfo=UTC),
            2,
            [
                {"id": number * 10 + n, "kills": n, "weapons": [{"hash": 4294967295, "kills": n}]}
                for n in range(3)
            ],
        ]
        for number in range(start, start + count)
    ]


COLUMNS = ["id", "at", "fresh", "players"]


def test_nested_rows_come_back_as_they_were_inserted(client: Client) -> None:
    """The whole analytics store rests on nested players staying one column of lists of dicts."""
    client.command(INSTANCE)
    written = client.insert("runs", rows(1, 50), COLUMNS)
    assert written.written_rows == 50
    found = client.query("SELECT id, at, fresh, players FROM runs ORDER BY id").result_rows
    assert len(found) == 50
    assert found[0][0] == 1
    assert found[0][1].replace(tzinfo=UTC) == datetime(2026, 2, 5, 12, tzinfo=UTC)
    assert found[0][3][1] == {"id": 11, "kills": 1, "weapons": [{"hash": 4294967295, "kills": 1}]}


@pytest.mark.parametrize("compression", ["lz4", "zstd", "gzip", None])
def test_inserts_arrive_in_every_compression(client: Client, compression: str | None) -> None:
    client.command("CREATE TABLE t (a UInt32, b String) ENGINE = MergeTree ORDER BY a")
    client.write_compression = compression
    client.insert("t", [[n, f"line\n{n}\0'\\"] for n in range(20_000)], ["a", "b"])
    total, text = client.query("SELECT sum(a), max(b) FROM t").result_rows[0]
    assert total == 199_990_000
    assert text == "line\n9999\0'\\"


def test_an_insert_larger_than_a_statement_may_be_is_stored(client: Client) -> None:
    """Rebuilds send months at once; only the statement itself is held in memory."""
    client.command("CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
    frame = pd.DataFrame({"a": range(400_000), "b": ["x" * 200] * 400_000})
    client.write_compression = None
    client.insert_df("t", frame)
    found = client.query_df("SELECT count() AS rows, sum(length(b)) AS bytes FROM t")
    assert found.to_dict("records") == [{"rows": 400_000, "bytes": 80_000_000}]


def test_a_retried_batch_counts_once_in_the_table_and_in_its_views(client: Client) -> None:
    """Settings of the query string must reach the engine: without the token the views double."""
    for statement in (INSTANCE, KILLS, KILLS_VIEW):
        client.command(statement)
    batch = rows(1, 40)
    for _ in range(3):
        client.insert(
            "runs",
            batch,
            COLUMNS,
            settings={
                "insert_deduplication_token": "batch-1",
                "deduplicate_blocks_in_dependent_materialized_views": 1,
            },
        )
    assert client.command("SELECT count() FROM runs") == 40
    assert client.command("SELECT sum(kills) FROM kills") == 120
    client.insert("runs", batch, COLUMNS, settings={"insert_deduplication_token": "batch-2"})
    assert client.command("SELECT sum(kills) FROM kills") == 240, "another batch is another batch"


def test_parameters_are_bound_by_the_server(client: Client) -> None:
    found = client.query(
        "SELECT {n:UInt32} AS n, {s:String} AS s, {a:Array(UInt32)} AS a, {t:DateTime} AS t,"
        " (SELECT count() FROM system.{table:Identifier}) AS rows",
        parameters={
            "n": 3,
            "s": "it's\n\\ a",
            "a": [1, 2],
            "t": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "table": "one",
        },
    )
    assert found.result_rows[0][:3] == (3, "it's\n\\ a", [1, 2])
    assert found.result_rows[0][3].replace(tzinfo=UTC) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found.result_rows[0][4] == 1


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELEC 1", 62),
        ("SELECT nothing_of_that_name", 47),
        ("SELECT * FROM no_such_table", 60),
        ("INSERT INTO no_such_table (a) VALUES (1)", 60),
        ("SELECT toUInt8('x')", 6),
    ],
)
def test_an_error_keeps_the_engines_code(client: Client, statement: str, code: int) -> None:
    """The sender tells a missing table from an outage by the code."""
    with pytest.raises(DatabaseError, match=rf"Code: {code}\b"):
        client.command(statement)


def test_an_unknown_setting_or_database_is_refused(database: Settings) -> None:
    connection = http.client.HTTPConnection(
        database.clickhouse_host, database.clickhouse_http_port, timeout=30
    )
    for query, code in (("no_such_setting=1", "115"), ("database=nowhere", "81")):
        connection.request("POST", f"/?{query}", b"SELECT 1")
        answer = connection.getresponse()
        assert answer.read().startswith(f"Code: {code}. DB::Exception".encode())
        assert answer.getheader("X-ClickHouse-Exception-Code") == code
        assert answer.status >= 400
    connection.close()


def test_settings_and_the_database_of_a_statement_do_not_outlive_it(
    database: Settings, client: Client
) -> None:
    """All clients share the engine's one session: a stray USE or SET would change their results."""
    client.command("SET max_threads = 1, flatten_nested = 1")
    client.command("USE system")
    client.query("SELECT 1", settings={"max_block_size": 7})
    found = client.query(
        "SELECT currentDatabase(), getSetting('flatten_nested'), getSetting('max_block_size') = 7,"
        " (SELECT changed FROM system.settings WHERE name = 'max_threads')"
    ).result_rows[0]
    assert found == (database.clickhouse_db, False, False, 0)


def test_eight_writers_at_once_lose_nothing(database: Settings, client: Client) -> None:
    client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")

    def write(start: int) -> None:
        with closing(connect(database, "test")) as own:
            for number in range(start, start + 5):
                own.insert("t", [[number]], ["a"])

    writers = [threading.Thread(target=write, args=(n * 5,)) for n in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert client.command("SELECT count(DISTINCT a) FROM t") == 40


def test_answers_are_compressed_and_formats_of_ones_own_are_kept(database: Settings) -> None:
    connection = http.client.HTTPConnection(
        database.clickhouse_host, database.clickhouse_http_port, timeout=30
    )
    connection.request("GET", "/?query=SELECT+42+AS+a+FORMAT+JSONEachRow")
    answer = connection.getresponse()
    assert answer.read() == b'{"a":42}\n'
    assert answer.getheader("X-ClickHouse-Format") == "JSONEachRow"
    connection.request("POST", "/", b"SELECT number FROM numbers(9)", {"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert gzip.decompress(answer.read()) == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n"
    connection.close()


@pytest.mark.parametrize(
    ("encoding", "body", "code"),
    [("gzip", b"no gzip", "354"), ("lz4", b"no frame", "354"), ("br", b"x", "48")],
)
def test_a_body_that_cannot_be_read_is_answered(
    database: Settings, encoding: str, body: bytes, code: str
) -> None:
    """A broken proxy in between must not look like a broken engine."""
    connection = http.client.HTTPConnection(
        database.clickhouse_host, database.clickhouse_http_port, timeout=30
    )
    connection.request("POST", "/", body, {"Content-Encoding": encoding})
    answer = connection.getresponse()
    answer.read()
    assert (answer.status, answer.getheader("X-ClickHouse-Exception-Code")) == (500, code)
    connection.close()


def test_a_truncated_insert_leaves_no_row(client: Client, database: Settings) -> None:
    client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
    connection = http.client.HTTPConnection(
        database.clickhouse_host, database.clickhouse_http_port, timeout=30
    )
    path = f"/?database={database.clickhouse_db}"
    connection.request(
        "POST", path, b"INSERT INTO t (a) FORMAT Native\n\x01\x02\x01a\x06UInt32\x01"
    )
    answer = connection.getresponse()
    assert answer.status == 500
    assert answer.read().startswith(b"Code: ")
    connection.close()
    assert client.command("SELECT count() FROM t") == 0


def test_a_second_process_on_the_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "raidhub.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "raidhub_dagster.stack.clickhouse_server"),
                *("--path", str(tmp_path), "--port", str(free_port())),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == f"clickhouse: another process holds the folder {tmp_path}\n"


def test_rows_survive_the_processs_death(
    tmp_path: Path, settings_for: Callable[..., Settings]
) -> None:
    """`kill -9` between two statements loses nothing that was answered."""
    settings = settings_for(clickhouse_host=HOST, clickhouse_http_port=free_port())
    server = ClickhouseServer(settings, tmp_path / "clickhouse")
    with running(server, tmp_path / "log") as process:
        with closing(connect(settings, "test")) as client:
            client.command("CREATE TABLE t (a UInt32) ENGINE = MergeTree ORDER BY a")
            client.insert("t", [[1], [2]], ["a"])
        process.kill()
    with running(server, tmp_path / "log"), closing(connect(settings, "test")) as client:
        assert client.command("SELECT sum(a) FROM t") == 3
