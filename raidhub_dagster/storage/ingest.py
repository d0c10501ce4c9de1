"""Stores reports from files through the same path as the crawl: parse, batch, one transaction."""

from collections import Counter
from collections.abc import Callable, Container, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body, pack
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import Probe, is_surely_untracked, probe
from raidhub_dagster.storage.archive import Entry, find_files, read_entries, without_archive_keys
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import is_connection_lost
from raidhub_dagster.storage.store import Report, Store

BATCH = 50
NON_RAID = "non_raid"
REFUSED = "refused"
# A report this old no longer changes; there is no second fetch to compare a file with.
_SETTLED_AFTER = timedelta(hours=48)


class Refusal(NamedTuple):
    """Why a report cannot go in: `reason` is a code of docs/domain/pgcr.md or `unreadable`."""

    reason: str
    detail: str

    def __str__(self) -> str:
        return self.detail


def read_report(
    body: bytes, tracked_hashes: Container[int], *, now: datetime
) -> Report | Refusal | None:
    """The report in `body` as files hold it: wrapped, compressed, of an archive. None: no raid."""
    if is_surely_untracked(body, tracked_hashes):
        return None
    try:
        plain = without_archive_keys(open_body(body))
    except PermanentError as error:
        return Refusal("unreadable", str(error))
    found = probe(plain, tracked_hashes)
    if isinstance(found, Probe) and not found.tracked:
        return None
    parsed = _parse(plain, found, now)
    if isinstance(parsed, Rejection):
        told = f"{parsed.reason} at {parsed.field} {parsed.detail}".rstrip()
        return Refusal(parsed.reason, told)
    return Report(parsed, pack(plain))


def why_not_stored(error: psycopg2.Error) -> Refusal:
    return Refusal("not_stored", f"not stored: {str(error).partition(chr(10))[0]}")


class _Placed(NamedTuple):
    place: str
    report: Report


class Ingest:
    """Stores files one by one. What cannot go in is told to `refused` (place, reason).

    `counts` has the number of reports by outcome: those of the store, `non_raid` and `refused`.
    """

    def __init__(
        self,
        connection: Connection,
        refused: Callable[[str, str], None],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._store = Store(connection, now=now)
        self._refused = refused
        self._now = now
        with connection:
            self._tracked = load_tracked_hashes(connection)

    def add(self, path: Path) -> None:
        """Stores every report at `path`, a file or a folder; a bad one never stops the others."""
        try:
            for file in find_files(path):
                self._add_file(file)
        except PermanentError as error:
            self._refuse(str(path), str(error).removeprefix(f"{path}: "))

    def _add_file(self, file: Path) -> None:
        batch: list[_Placed] = []
        try:
            for placed in self._reports(file):
                batch.append(placed)
                if len(batch) == BATCH:
                    self._flush(batch)
                    batch = []
        except PermanentError as error:
            self._refuse(str(file), str(error).removeprefix(f"{file}: "))
        self._flush(batch)

    def _reports(self, file: Path) -> Iterator[_Placed]:
        for entry in read_entries(file):
            if entry.problem:
                self._refuse(entry.place, entry.problem)
            elif report := self._read(entry):
                yield _Placed(entry.place, report)

    def _read(self, entry: Entry) -> Report | None:
        read = read_report(entry.body, self._tracked, now=self._now())
        if isinstance(read, Refusal):
            self._refuse(entry.place, str(read))
            return None
        if read is None:
            self.counts[NON_RAID] += 1
        return read

    def _flush(self, batch: list[_Placed]) -> None:
        try:
            self.counts.update(self._store.store([p.report for p in batch], source="ingest"))
        except psycopg2.Error as error:
            if is_connection_lost(error):
                raise
            if len(batch) == 1:
                self._refuse(batch[0].place, str(why_not_stored(error)))
                return
            for placed in batch:
                self._flush([placed])

    def _refuse(self, place: str, reason: str) -> None:
        self.counts[REFUSED] += 1
        self._refused(place, reason)


def _parse(body: bytes, found: Probe | Rejection, now: datetime) -> Instance | Rejection:
    if isinstance(found, Rejection):
        return found
    settled = found.ended_at is not None and found.ended_at < now - _SETTLED_AFTER
    return parse(body, now=now, settled=settled)
