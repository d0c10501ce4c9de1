"""Files of every kind into a real store: what is good goes in, what is not is named."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from raidhub_dagster.commands.ingest import ingest
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.archive import read_entries
from raidhub_dagster.storage.postgres import connected
from tests.support.reports import encode, envelope, flatten, make_entry, make_report
from tests.support.samples import SAMPLES

FIRST = 16_000_000_000


@pytest.fixture
def run(
    postgres: dict[str, Any],
    settings_for: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Result]:
    """`raidhub ingest` against a fresh database."""
    settings = settings_for(postgres)
    monkeypatch.chdir(tmp_path)
    for name in ("postgres_host", "postgres_port", "postgres_user", "postgres_db"):
        monkeypatch.setenv(name.upper(), str(getattr(settings, name)))
    monkeypatch.setenv("POSTGRES_PASSWORD", postgres["postgres_password"])
    return lambda *paths: CliRunner().invoke(ingest, [str(p) for p in paths])


@pytest.fixture
def stored(
    postgres: dict[str, Any], settings_for: Callable[..., Settings]
) -> Callable[[str], list[tuple[Any, ...]]]:
    def rows(statement: str) -> list[tuple[Any, ...]]:
        with (
            connected(settings_for(postgres), "pytest") as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return cursor.fetchall()

    return rows


def archive_line(number: int, **changes: Any) -> bytes:
    report = flatten(make_report(instance_id=FIRST + number, **changes))
    kept = {"_id": str(FIRST + number), "archived": "2025-03-01T00:00:00.000Z", **report}
    return encode(kept) + b"\n"


def test_every_kind_of_file_goes_in(
    run: Callable[..., Result], stored: Callable[[str], list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    """People have what they downloaded: bare, wrapped, compressed, a folder, an archive."""
    (tmp_path / "bare.json").write_bytes(encode(make_report(instance_id=FIRST + 1)))
    wrapped = encode(envelope(make_report(instance_id=FIRST + 2)))
    (tmp_path / "wrapped.json.gz").write_bytes(gzip.compress(wrapped))
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = archive_line(3) + archive_line(4, mode=2, hash=777) + archive_line(3)
    # Two frames, as when somebody joined two archives with cat.
    packed = [zstandard.ZstdCompressor().compress(part) for part in (lines, archive_line(5))]
    (folder / "0-1.jsonl.zst").write_bytes(b"".join(packed))

    result = run(tmp_path / "bare.json", tmp_path / "wrapped.json.gz", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "1 duplicate, 1 non_raid, 4 stored\n"
    ids = stored("SELECT instance_id - 16000000000 FROM core.instance ORDER BY 1")
    assert ids == [(1,), (2,), (3,), (5,)]
    kept = stored("SELECT data FROM raw.pgcr WHERE instance_id = 16000000003")[0][0]
    assert json.loads(gzip.decompress(bytes(kept))) == flatten(make_report(instance_id=FIRST + 3))


def test_bad_input_is_named_and_the_rest_goes_in(
    run: Callable[..., Result], stored: Callable[[str], list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    """One broken download among thousands must neither stop the others nor pass unseen."""
    (tmp_path / "good.json").write_bytes(encode(make_report(instance_id=FIRST + 1)))
    (tmp_path / "text.json").write_text("no report", "utf-8")
    (tmp_path / "photo.png").write_bytes(b"png")
    (tmp_path / "error.json").write_bytes(encode(envelope(None, ErrorCode=1653)))
    (tmp_path / "nobody.json").write_bytes(encode(make_report(players=[])))
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b'{"activityDetails": {}}')[:-9])
    whole = zstandard.ZstdCompressor().compress(archive_line(2) * 9000)
    (tmp_path / "cut.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()

    result = run(*(tmp_path / name for name in sorted(p.name for p in tmp_path.iterdir())), "gone")
    assert result.exit_code == 1
    refused = dict(line.split(": ", 1) for line in result.stderr.splitlines())
    names = {Path(place.split(":")[0]).name for place in refused}
    assert names == {
        *("text.json", "photo.png", "error.json", "nobody.json", "cut.json.gz", "cut.jsonl.zst"),
        *("empty", "gone"),
    }
    assert "entries_empty at entries" in refused[str(tmp_path / "nobody.json")]
    assert stored("SELECT count(*) FROM core.instance WHERE instance_id = 16000000001") == [(1,)]


def test_report_that_the_database_refuses_costs_itself_only(
    run: Callable[..., Result], stored: Callable[[str], list[tuple[Any, ...]]], tmp_path: Path
) -> None:
    """No index takes a name of 20 kB; the lines before and after it are fine."""
    entry = make_entry(9)
    noise = random.Random(1).choices("0123456789abcdef", k=20_000)
    entry["player"]["destinyUserInfo"]["displayName"] = "".join(noise)
    lines = archive_line(1) + archive_line(2, players=[entry]) + archive_line(3)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))

    result = run(tmp_path / "a.jsonl.zst")
    assert (result.exit_code, result.stdout) == (1, "1 refused, 2 stored\n")
    assert result.stderr.startswith(f"{tmp_path / 'a.jsonl.zst'}:2: not stored: index row")
    ids = stored("SELECT instance_id - 16000000000 FROM core.instance ORDER BY 1")
    assert ids == [(1,), (3,)]


def test_line_that_is_too_long_is_skipped(tmp_path: Path) -> None:
    """A checkpoint bot's report may have tens of MB; one beyond the limit costs its line only."""
    path = tmp_path / "a.jsonl.zst"
    lines = b'{"a": 1}\n' + b'"' + b"x" * 3000 + b'"\n' + b"\n" + b'{"b": 2}'
    path.write_bytes(zstandard.ZstdCompressor().compress(lines))
    entries = list(read_entries(path, max_line_bytes=100))
    assert [(e.place.rsplit(":", 1)[1], bool(e.problem)) for e in entries] == [
        ("1", False),
        ("2", True),
        ("4", False),
    ]
    assert entries[2].body == b'{"b": 2}'


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no real reports beside the project")
def test_real_reports_go_in(
    run: Callable[..., Result], stored: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """Seven raids and a dungeon, as the API sent them."""
    result = run(SAMPLES)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "1 non_raid, 7 stored\n"
    assert stored("SELECT count(*) FROM core.instance") == [(7,)]
