"""Stores reports from files through the same path as the crawl: parse, batch, one transaction."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import open_body, pack
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.pgcr.parse import parse
from raidhub_dagster.pgcr.probe import Probe, probe
from raidhub_dagster.storage.archive import Entry, find_files, read_entries, without_archive_keys
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.postgres import is_connection_lost
from raidhub_dagster.storage.store import Report, Store

_BATCH = 50
NON_RAID = "non_raid"
# A report this old no longer changes; there is no second fetch to compare a file with.
_SETTLED_AFTER = timedelta(hours=48)


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
                if len(batch) == _BATCH:
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
        try:
            body = without_archive_keys(open_body(entry.body))
        except PermanentError as error:
            self._refuse(entry.place, str(error))
            return None
        found = probe(body, self._tracked)
        if isinstance(found, Probe) and not found.tracked:
            self.counts[NON_RAID] += 1
            return None
        parsed = self._parse(body, found)
        if isinstance(parsed, Rejection):
            self._refuse(entry.place, f"{parsed.reason} at {parsed.field} {parsed.detail}".rstrip())
            return None
        return Report(parsed, pack(body))

    def _parse(self, body: bytes, found: Probe | Rejection) -> Instance | Rejection:
        if isinstance(found, Rejection):
            return found
        now = self._now()
        settled = found.ended_at is not None and found.ended_at < now - _SETTLED_AFTER
        return parse(body, now=now, settled=settled)

    def _flush(self, batch: list[_Placed]) -> None:
        try:
            self.counts.update(self._store.store([p.report for p in batch], source="ingest"))
        except psycopg2.Error as error:
            if is_connection_lost(error):
                raise
            if len(batch) == 1:
                self._refuse(batch[0].place, f"not stored: {str(error).partition(chr(10))[0]}")
                return
            for placed in batch:
                self._flush([placed])

    def _refuse(self, place: str, reason: str) -> None:
        self.counts["refused"] += 1
        self._refused(place, reason)
