"""Where archives come from: a folder, and a web server with its moods."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raidhub_dagster.archives.source import FolderSource, WebSource, find_source, read_span
from raidhub_dagster.errors import ConfigurationError, PermanentError, TransientError
from tests.support.archives import NAME, ArchiveServer, serving

BODY = bytes(range(256)) * 4000  # 1 MB
FILE = f"{NAME}.jsonl.zst"


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving() as server:
        server.files = {FILE: BODY}
        yield server


class Pauses(list[float]):
    """Waits for nothing and remembers how long."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def download(server: ArchiveServer, pauses: Pauses) -> bytes:
    with WebSource(server.address, sleep=pauses).opened(NAME) as archive:
        return archive.stream.read()


def test_files_of_a_folder_are_listed_by_their_ids(tmp_path: Path) -> None:
    """By name as text, 10000000 comes before 9; other files are none of ours."""
    for name in ("10000000-19999999", "0-9999999", "9-1", "x0-9", "1-2.part"):
        (tmp_path / f"{name}.jsonl.zst").write_bytes(b"")
    (tmp_path / "0-9999999.jsonl.zst.tmp").write_bytes(b"")
    assert FolderSource(tmp_path).names() == ["0-9999999", "10000000-19999999"]


def test_a_folder_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ARCHIVE_SOURCE: .*gone: No such file"):
        FolderSource(tmp_path / "gone").names()


@pytest.mark.parametrize("location", [None, "", "ftp://host/archives"])
def test_a_setting_that_names_no_place_is_refused(location: str | None) -> None:
    with pytest.raises(ConfigurationError, match="ARCHIVE_SOURCE"):
        find_source(location)


def test_a_login_in_the_address_is_used_and_not_told(server: ArchiveServer, pauses: Pauses) -> None:
    """What is told stands in events, alerts and logs, which more people read than the setting."""
    source = WebSource(server.address.replace("://", "://reader:canary@"), sleep=pauses)
    assert source.names() == [NAME]
    with source.opened(NAME) as archive:
        assert archive.stream.read(9) == BODY[:9]
    assert server.logins == {"reader:canary"}
    told = [source.place]
    for ask in (source.names, source.opened("1-2").__enter__):
        server.statuses = [404]
        with pytest.raises(PermanentError) as caught:
            ask()
        told.append(str(caught.value))
    with pytest.raises(ConfigurationError) as refused:
        find_source("ftp://reader:canary@host/archives")
    told.append(str(refused.value))
    assert [text for text in told if "canary" in text or "reader" in text] == []


@pytest.mark.parametrize("name", ["../secret", "1", "5-1", "a-b", ""])
def test_a_name_that_is_no_range_leads_nowhere(name: str, tmp_path: Path) -> None:
    """Names come from partitions, which anybody with the UI may type."""
    with pytest.raises(PermanentError, match="names no range of ids"):
        read_span(name)
    with (
        pytest.raises(PermanentError, match="names no range"),
        FolderSource(tmp_path).opened(name),
    ):
        pass


@pytest.mark.parametrize("index", ["", "index.txt"])
def test_whatever_names_the_files_is_an_index(server: ArchiveServer, index: str) -> None:
    """Servers list folders in many ways; all of them say the names."""
    server.files |= {"0-9999999.jsonl.zst": b"", "readme.txt": b""}
    assert WebSource(server.address.rstrip("/"), index).names() == ["0-9999999", NAME]


def test_an_index_that_is_not_there_is_told(server: ArchiveServer) -> None:
    server.statuses = [404]
    with pytest.raises(PermanentError, match="HTTP 404"):
        WebSource(server.address).names()
    server.statuses = [503]
    with pytest.raises(TransientError, match="HTTP 503"):
        WebSource(server.address).names()


def test_a_download_goes_on_where_its_connection_broke(
    server: ArchiveServer, pauses: Pauses
) -> None:
    """1.5 GB rarely come in one piece; beginning anew each time might never end."""
    server.cut_after = [300_000, 0, 500_000]
    assert download(server, pauses) == BODY
    assert server.ranges == ["bytes=300000-", "bytes=300000-", "bytes=800000-"]
    assert pauses == [1.0, 2.0, 1.0]


def test_a_server_without_ranges_is_read_from_the_start_again(
    server: ArchiveServer, pauses: Pauses
) -> None:
    server.knows_ranges = False
    server.cut_after = [600_000]
    assert download(server, pauses) == BODY


def test_a_server_that_fails_for_a_moment_is_asked_again(
    server: ArchiveServer, pauses: Pauses
) -> None:
    server.statuses = [503, 429]
    assert download(server, pauses) == BODY
    assert pauses == [1.0, 2.0]


def test_a_server_that_stays_away_ends_the_run_and_says_why(
    server: ArchiveServer, pauses: Pauses
) -> None:
    """The step is tried again later and goes on; waiting for ever would hold the pool."""
    server.statuses = [503] * 6
    with pytest.raises(TransientError, match="HTTP 503"):
        download(server, pauses)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_file_that_is_not_there_is_not_asked_for_again(
    server: ArchiveServer, pauses: Pauses
) -> None:
    server.files = {}
    with pytest.raises(PermanentError, match="HTTP 404"):
        download(server, pauses)
    assert pauses == []


def test_a_file_that_changes_meanwhile_is_not_put_together_from_both(
    server: ArchiveServer, pauses: Pauses
) -> None:
    """Half of the old and half of the new one is no archive at all."""
    source = WebSource(server.address, sleep=pauses)
    server.cut_after = [300_000]
    with source.opened(NAME) as archive:
        server.tag = "two"
        with pytest.raises(TransientError, match="changed while it was read"):
            archive.stream.read()
