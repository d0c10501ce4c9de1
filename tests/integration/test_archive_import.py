"""Archives into a real store: whatever happens on the way, the end is that of one quiet run."""

import gzip
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from raidhub_dagster.archives.importing import Limits, Told, import_archive
from raidhub_dagster.archives.progress import Progress, check_counts, check_stored, first_refusals
from raidhub_dagster.archives.sample import write_sample
from raidhub_dagster.archives.source import FolderSource, WebSource
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import pack
from raidhub_dagster.storage.archive import Place, TruncatedError
from raidhub_dagster.storage.ingest import Ingest, read_report
from raidhub_dagster.storage.store import Report, Store
from raidhub_dagster.storage.verify import verify
from tests.support import worlds
from tests.support.archives import (
    FIRST,
    NAME,
    ArchiveServer,
    make_lines,
    pack_lines,
    serving,
    write_archive,
)
from tests.support.database import Database
from tests.support.reports import archived, encode, make_entry, make_report, stat
from tests.support.worlds import Tables

RAIDS = 120
LINES = make_lines(RAIDS)
FILE = f"{NAME}.jsonl.zst"


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        yield server


def load(database: Database, folder: Path, **options: Any) -> Told:
    return import_archive(database.connection, FolderSource(folder), NAME, **options)


def progress(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT state, line, offset_bytes, counts FROM streaming.archive_file")


def quiet_run(database: Database, folder: Path, lines: list[bytes]) -> Tables:
    """What one uninterrupted import of `lines` leaves; the database is empty again after it."""
    write_archive(folder, lines)
    load(database, folder)
    tables = worlds.found(database.connection)
    worlds.wipe(database.connection)
    database.rows("TRUNCATE streaming.archive_file, streaming.archive_refusal")
    return tables


def assert_sound(database: Database) -> None:
    wrong = [finding for finding in verify(database.connection, None) if not finding.is_equal]
    assert wrong == []
    assert check_counts(database.connection) == []
    assert check_stored(database.connection) == []


def test_an_archive_is_stored_as_if_it_had_been_crawled(database: Database, tmp_path: Path) -> None:
    """Years of history come this way; the body has to stay what Bungie said."""
    write_archive(tmp_path, LINES)
    done = load(database, tmp_path)
    assert done.progress.is_done
    assert done.progress.counts == {"stored": RAIDS, "non_raid": 2 * RAIDS}
    assert progress(database) == [("done", len(LINES), sum(map(len, LINES)), done.progress.counts)]
    assert_sound(database)
    ((body,),) = database.rows("SELECT data FROM raw.pgcr WHERE instance_id = %s", FIRST + 10)
    line = json.loads(LINES[3])
    assert json.loads(gzip.decompress(bytes(body))) == {
        key: value for key, value in line.items() if key not in ("_id", "archived")
    }


def test_an_archive_that_was_imported_is_left_alone(database: Database, tmp_path: Path) -> None:
    """A backfill of everything must not read 50 TB again; asked to, it changes nothing."""
    write_archive(tmp_path, LINES)
    first = load(database, tmp_path)
    tables = worlds.found(database.connection)
    assert load(database, tmp_path).progress == first.progress
    again = load(database, tmp_path, again=True)
    assert again.progress.counts == {"duplicate": RAIDS, "non_raid": 2 * RAIDS}
    assert worlds.found(database.connection) == tables
    assert_sound(database)


def test_a_sample_of_kept_reports_is_an_archive(database: Database, tmp_path: Path) -> None:
    """The demo's only archive; one that nothing reads would show the import as broken."""
    folder = tmp_path / "archives"
    with pytest.raises(PermanentError, match="no report is kept"):
        write_sample(database.connection, folder, most=50)
    write_archive(tmp_path, LINES)
    load(database, tmp_path)
    name = write_sample(database.connection, folder, most=50)
    source = FolderSource(folder)
    assert source.names() == [name] == [f"{FIRST}-{FIRST + 490}"]
    told = import_archive(database.connection, source, name)
    assert told.progress.counts == Counter(duplicate=50)


def test_the_command_and_the_asset_read_the_same(database: Database, tmp_path: Path) -> None:
    """One code for both, or a file means one thing in the UI and another in a shell."""
    tables = quiet_run(database, tmp_path, LINES)
    refused: list[str] = []
    ingest = Ingest(database.connection, lambda place, _why: refused.append(place))
    ingest.add(tmp_path / FILE)
    assert ingest.counts == {"stored": RAIDS, "non_raid": 2 * RAIDS}
    assert refused == []
    assert worlds.found(database.connection) == tables


def test_a_killed_import_goes_on_where_it_was(
    database: Database, server: ArchiveServer, tmp_path: Path
) -> None:
    """Kill -9 at any moment: no line is lost, none counts twice, the tables are the same."""
    tables = quiet_run(database, tmp_path, LINES)
    body = pack_lines(LINES)
    server.files = {FILE: body}
    server.stall_after = len(body) * 9 // 10
    settings = database.settings
    environment = os.environ | {
        "POSTGRES_HOST": settings.postgres_host,
        "POSTGRES_PORT": str(settings.postgres_port),
        "POSTGRES_USER": str(settings.postgres_user),
        "POSTGRES_PASSWORD": settings.postgres_password.get_secret_value(),  # type: ignore[union-attr]
        "POSTGRES_DB": settings.postgres_db,
    }
    program = (
        "import sys\n"
        "from raidhub_dagster.archives.importing import import_archive\n"
        "from raidhub_dagster.archives.source import WebSource\n"
        "from raidhub_dagster.settings import Settings\n"
        "from raidhub_dagster.storage.postgres import connected\n"
        "with connected(Settings.load(), 'victim') as connection:\n"
        "    import_archive(connection, WebSource(sys.argv[1]), sys.argv[2])\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", program, server.address, NAME], env=environment, cwd=tmp_path
    )
    try:
        _wait_for_lines(database, victim)
    finally:
        victim.kill()
        victim.wait()
    ((state, line, _, counts),) = progress(database)
    assert state == "reading"
    assert 0 < line < len(LINES)
    assert sum(counts.values()) == line
    stored = database.rows("SELECT count(*) FROM core.instance")[0][0]
    assert stored == counts["stored"]

    server.stall_after = None
    done = import_archive(database.connection, WebSource(server.address), NAME)
    assert done.progress.counts == {"stored": RAIDS, "non_raid": 2 * RAIDS}
    assert worlds.found(database.connection) == tables
    assert_sound(database)


def _wait_for_lines(database: Database, victim: "subprocess.Popen[bytes]") -> None:
    """Until the server stalls and the victim has committed something; pytest has the limit."""
    while not any(row[1] for row in progress(database)):
        assert victim.poll() is None, "it ended before it was killed"
        database.rows("SELECT pg_sleep(0.05)")


class _Lost:
    """A connection that breaks at one commit: the driver's own, but for that."""

    def __init__(self, connection: Any, commits: int) -> None:
        self._connection = connection
        self._commits = commits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __enter__(self) -> Any:
        return self._connection.__enter__()

    def __exit__(self, *error: Any) -> Any:
        self._commits -= 1
        if self._commits == 0:
            self._connection.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")
        return self._connection.__exit__(*error)


@pytest.mark.parametrize("commits", [3, 4, 5])
def test_a_lost_database_ends_the_run_and_costs_nothing(
    database: Database, tmp_path: Path, commits: int
) -> None:
    """The batch and the place are one transaction: there is no moment between them."""
    tables = quiet_run(database, tmp_path, LINES)
    connection: Any = _Lost(database.connect(), commits)
    with pytest.raises(psycopg2.OperationalError):
        import_archive(connection, FolderSource(tmp_path), NAME)
    done = load(database, tmp_path)
    assert done.progress.counts == {"stored": RAIDS, "non_raid": 2 * RAIDS}
    assert worlds.found(database.connection) == tables
    assert_sound(database)


def test_a_cut_file_keeps_its_place_and_a_whole_one_is_read_anew(
    database: Database, tmp_path: Path
) -> None:
    """A copy that was still under way: what was there is stored, the run says what is wrong."""
    tables = quiet_run(database, tmp_path, LINES)
    path = tmp_path / FILE
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PermanentError, match=r"behind line \d+: ends in the middle") as caught:
        load(database, tmp_path)
    assert isinstance(caught.value.__cause__, TruncatedError)
    ((state, line, _, counts),) = progress(database)
    assert (state, caught.value.facts["line"]) == ("reading", line)
    assert 0 < counts["stored"] < RAIDS
    path.write_bytes(whole)  # another file now, so nothing of the old place counts
    done = load(database, tmp_path)
    assert done.progress.counts["stored"] + done.progress.counts["duplicate"] == RAIDS
    assert done.progress.place.line == len(LINES)
    assert worlds.found(database.connection) == tables
    assert_sound(database)


def test_bad_lines_are_kept_and_the_crawl_asks_for_their_ids(
    database: Database, tmp_path: Path
) -> None:
    """Nothing may be lost: a parser that learns, or a person, finds every line that was refused."""
    report = make_report(instance_id=FIRST + 4, players=[])
    lines = [
        archived(make_report(instance_id=FIRST + 1)),
        b"rubbish\n",
        archived(make_report(instance_id=FIRST + 2))[:-40] + b"\n",
        b"  \n",
        b'"' + b"x" * 100_000 + b'"\n',
        archived(report),
        archived(make_report(instance_id=FIRST + 5, period="never")),
        archived(make_report(instance_id=FIRST + 3)),
    ]
    write_archive(tmp_path, lines)
    done = load(database, tmp_path, limits=Limits(max_line_bytes=50_000))
    assert done.progress.counts == {"stored": 2, "blank": 1, "refused": 5}
    rows = database.rows(
        "SELECT line, reason, instance_id, body FROM streaming.archive_refusal ORDER BY line"
    )
    assert [(line, reason, id_) for line, reason, id_, _ in rows] == [
        (2, "unreadable", None),
        (3, "unreadable", FIRST + 2),
        (5, "too_long", None),
        (6, "entries_empty", FIRST + 4),
        (7, "period", FIRST + 5),
    ]
    kept = [body and gzip.decompress(bytes(body)) for *_, body in rows]
    assert kept == [lines[1], lines[2], None, lines[5], lines[6]]
    assert database.rows(
        "SELECT instance_id, state, source FROM streaming.missed_pgcr ORDER BY instance_id"
    ) == [(FIRST + n, "malformed", "archive") for n in (2, 4, 5)]
    told = first_refusals(database.connection, NAME, limit=2)
    assert [(row["line"], row["reason"]) for row in told] == [(2, "unreadable"), (3, "unreadable")]
    assert_sound(database)
    # Read again, the file has the same ones, once.
    load(database, tmp_path, again=True, limits=Limits(max_line_bytes=50_000))
    assert database.rows("SELECT count(*) FROM streaming.archive_refusal") == [(5,)]


def test_a_line_of_tens_of_megabytes_is_a_raid_like_others(
    database: Database, tmp_path: Path
) -> None:
    """Checkpoint bots: people join for a minute, for days, and each time is an entry."""
    entries = [make_entry(n, time=60) for n in range(1, 51)]
    report = make_report(instance_id=FIRST + 7, players=entries)
    entries[0]["values"]["playerCount"] = stat(-1)
    line = archived(report)
    head, _, rest = line.partition(b'"entries":[')
    listed, _, tail = rest.rpartition(b'],"teams"')
    huge = head + b'"entries":[' + b",".join([listed] * 400) + b'],"teams"' + tail
    assert len(huge) > 20_000_000
    write_archive(tmp_path, [LINES[0], huge, LINES[3]])
    done = load(database, tmp_path)
    assert done.progress.counts == {"stored": 3}
    assert database.rows(
        "SELECT max(kills), count(*) FROM extended.instance_character WHERE instance_id = %s",
        FIRST + 7,
    ) == [(4000, 50)]
    assert_sound(database)


def test_a_raid_that_the_database_refuses_costs_itself_only(
    database: Database, tmp_path: Path
) -> None:
    """No index takes a name of 20 kB; the other raids of its batch are fine."""
    entry = make_entry(9)
    name = "".join(f"{n * 7919 % 1_000_003:x}" for n in range(4500))
    entry["player"]["destinyUserInfo"]["displayName"] = name
    bad = archived(make_report(instance_id=FIRST + 5, players=[entry]))
    lines = [*LINES[:30], bad, *LINES[30:60]]
    write_archive(tmp_path, lines)
    done = load(database, tmp_path)
    assert done.progress.counts == {"stored": 20, "non_raid": 40, "refused": 1}
    ((line, reason, detail),) = database.rows(
        "SELECT line, reason, detail FROM streaming.archive_refusal"
    )
    assert (line, reason) == (31, "not_stored")
    assert detail.startswith("not stored: index row")
    assert database.rows("SELECT state, next_attempt_at FROM streaming.missed_pgcr") == [
        ("waiting", None)
    ]
    assert_sound(database)


def test_a_file_of_rubbish_ends_soon_and_goes_on_when_told_to(
    database: Database, tmp_path: Path
) -> None:
    """Ten million kept lines of rubbish would fill the database instead of telling anybody."""
    lines = [b"rubbish\n"] * 300 + LINES[:3]
    write_archive(tmp_path, lines)
    with pytest.raises(PermanentError, match=r"more than 100; see streaming.archive_refusal"):
        load(database, tmp_path, limits=Limits(max_refused=100))
    assert progress(database)[0][1] < 200
    done = load(database, tmp_path, limits=Limits(max_refused=1000))
    assert done.progress.counts == {"refused": 300, "stored": 1, "non_raid": 2}
    assert_sound(database)


def test_duplicates_within_a_file_count_once(database: Database, tmp_path: Path) -> None:
    """Archives are unordered and some ids come twice, far apart or in one batch."""
    lines = [LINES[0], *LINES, LINES[0], LINES[-3]]
    tables = quiet_run(database, tmp_path, LINES)
    write_archive(tmp_path, lines)
    done = load(database, tmp_path)
    assert done.progress.counts == {"stored": RAIDS, "duplicate": 3, "non_raid": 2 * RAIDS}
    assert worlds.found(database.connection) == tables
    assert_sound(database)


@pytest.mark.parametrize("archive_first", [True, False])
@pytest.mark.parametrize("api_entries", [2, 3])
def test_of_archive_and_api_the_one_with_more_entries_counts(
    database: Database, tmp_path: Path, archive_first: bool, api_entries: int
) -> None:
    """Later answers must not replace what an archive kept, unless they know more players."""
    entries = [make_entry(n) for n in (1, 2, 3)]
    old = make_report(instance_id=FIRST, players=entries[:2])
    kills = make_entry(1, kills=77)
    new = make_report(instance_id=FIRST, players=[kills, *entries[1:api_entries]])
    write_archive(tmp_path, [archived(old)])
    parsed = Report(*_parsed(new))
    outcomes: list[Any] = []
    store = Store(database.connection)
    if archive_first:
        outcomes += load(database, tmp_path).progress.counts
        outcomes += store.store([parsed], source="test")
    else:
        outcomes += store.store([parsed], source="test")
        outcomes += load(database, tmp_path).progress.counts
    kept = database.rows("SELECT kills FROM extended.instance_character ORDER BY membership_id")
    if archive_first and api_entries == 2:
        assert (outcomes, kept) == (["stored", "superseded"], [(10,), (10,)])
    elif archive_first:
        assert (outcomes, kept) == (["stored", "replaced"], [(77,), (10,), (10,)])
    else:
        assert outcomes == ["stored", "superseded"]
        assert kept == [(77,), (10,), (10,)][:api_entries]
    assert_sound(database)


def test_an_id_that_the_crawl_stored_stays_as_it_is(database: Database, tmp_path: Path) -> None:
    """Most of a recent archive was crawled already: same content, other form, no change."""
    report = make_report(instance_id=FIRST)
    Store(database.connection).store([Report(*_parsed(report))], source="test")
    tables = worlds.found(database.connection)
    write_archive(tmp_path, [archived(report)])
    assert load(database, tmp_path).progress.counts == {"duplicate": 1}
    assert worlds.found(database.connection) == tables
    assert database.rows("SELECT platform_type FROM core.instance") == [(3,)]


def _parsed(report: dict[str, Any]) -> tuple[Any, bytes]:
    read = read_report(encode(report), (), now=datetime.now(UTC))
    assert isinstance(read, Report)
    return read.instance, pack(encode(report))


def test_a_raid_of_an_unknown_hash_waits_for_its_definition(
    database: Database, tmp_path: Path
) -> None:
    write_archive(tmp_path, [archived(make_report(instance_id=FIRST, hash=777))])
    done = load(database, tmp_path)
    assert done.progress.counts == {"unknown_hash": 1}
    assert database.rows("SELECT state, hash FROM streaming.missed_pgcr") == [("unknown_hash", 777)]
    assert_sound(database)


def test_a_broken_connection_to_the_server_is_no_event(
    database: Database, server: ArchiveServer, tmp_path: Path
) -> None:
    tables = quiet_run(database, tmp_path, LINES)
    body = pack_lines(LINES)
    server.files = {FILE: body}
    server.cut_after = [len(body) // 3, len(body) // 3]
    source = WebSource(server.address, sleep=lambda _: None)
    done = import_archive(database.connection, source, NAME)
    assert done.progress.counts == {"stored": RAIDS, "non_raid": 2 * RAIDS}
    assert worlds.found(database.connection) == tables


def test_progress_is_told_and_saved_where_raids_are_rare(
    database: Database, tmp_path: Path
) -> None:
    """Ten million strikes without a raid must not look like a hanging run, nor be read twice."""
    write_archive(tmp_path, make_lines(1, others=99))
    ticks = iter(range(10_000))
    told: list[Told] = []
    seen: list[int] = []

    def tell(one: Told) -> None:
        told.append(one)
        seen.append(progress(database)[0][1])

    load(
        database,
        tmp_path,
        tell=tell,
        clock=lambda: float(next(ticks)),
        limits=Limits(save_every_s=10, tell_every_s=30),
    )
    assert len(told) >= 2
    assert seen == [one.progress.place.line for one in told]
    assert [one.share for one in told][-1] == 1.0
    assert told[0].lines_per_s > 0


def test_progress_is_told_while_a_resumed_file_is_read_to_its_place(
    database: Database, tmp_path: Path
) -> None:
    """Minutes of a big archive in which nothing is stored yet: no hanging run."""
    write_archive(tmp_path, LINES)
    connection: Any = _Lost(database.connect(), 5)
    with pytest.raises(psycopg2.OperationalError):
        import_archive(connection, FolderSource(tmp_path), NAME)
    ((_, line, _, _),) = progress(database)
    assert line > 0
    told: list[Told] = []
    load(database, tmp_path, tell=told.append, limits=Limits(tell_every_s=0.0))
    assert (told[0].progress.place.line, told[0].lines_per_s) == (line, 0.0)
    assert len(told) > len(LINES) - line


def test_counts_that_do_not_add_up_are_found(database: Database, tmp_path: Path) -> None:
    """The checks must be able to fail: a line without outcome, a raid that is gone."""
    write_archive(tmp_path, LINES[:9])
    load(database, tmp_path)
    database.rows("UPDATE streaming.archive_file SET line = line + 1")
    (problem,) = check_counts(database.connection)
    assert (problem.rows, problem.examples) == (1, (FIRST,))
    database.rows("DELETE FROM raw.pgcr WHERE instance_id = %s", FIRST + 20)
    (problem,) = check_stored(database.connection)
    assert problem.examples == (FIRST + 20,)


def test_the_sample_is_the_same_however_often_a_run_was_cut() -> None:
    """Otherwise a resumed import is checked by other raids than a quiet one."""
    ids = range(FIRST, FIRST + 1000)
    whole = Progress().after(Place(), Counter(), ids)
    parts = Progress()
    for start in range(0, 1000, 70):
        parts = parts.after(Place(), Counter(), ids[start : start + 70])
    assert set(parts.sample) == set(whole.sample)
    assert len(whole.sample) == 200
