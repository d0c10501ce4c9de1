"""Stores the raids of one archive, from where the last run of it ended.

A batch of raids and the place up to which the file is accounted for are one transaction, so that
a run killed at any moment loses no line and counts none twice. Rules: docs/domain/archives.md.
"""

import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from raidhub_dagster.archives.progress import Progress, RefusedLine, begin, readable, save
from raidhub_dagster.archives.source import OpenArchive, Source
from raidhub_dagster.bungie.protocol import ResultKind
from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.envelope import MAX_PLAIN_BYTES, pack
from raidhub_dagster.storage import missed
from raidhub_dagster.storage.archive import Line, Place, read_lines, too_long
from raidhub_dagster.storage.definitions import load_tracked_hashes
from raidhub_dagster.storage.ingest import (
    BATCH,
    NON_RAID,
    REFUSED,
    Refusal,
    read_report,
    why_not_stored,
)
from raidhub_dagster.storage.postgres import is_connection_lost
from raidhub_dagster.storage.store import Outcome, Report, Store

log = logging.getLogger(__name__)

SOURCE = "archive"
BLANK = "blank"
# A batch whose raids are so large together is stored before it is full: memory has a bound.
_MAX_BATCH_BYTES = 64 << 20
_NOT_STORED = "not_stored"
_INSTANCE_ID = re.compile(rb'"(?:_id|instanceId)":\s*"?(\d{1,18})[",}\s]')


@dataclass(frozen=True)
class Limits:
    max_line_bytes: int = MAX_PLAIN_BYTES
    # More of them and it is no archive, or our parser is wrong: a person has to look.
    max_refused: int = 10_000
    save_every_s: float = 10.0  # where raids are too rare to do it
    tell_every_s: float = 60.0


@dataclass(frozen=True)
class Told:
    """How an import is doing; rates are of this run."""

    progress: Progress
    lines_per_s: float
    share: float | None  # of the compressed file, when its size is known
    seconds: float


def import_archive(
    connection: Connection,
    source: Source,
    name: str,
    *,
    again: bool = False,
    limits: Limits = Limits(),
    tell: Callable[[Told], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Told:
    """Imports archive `name` of `source` to its end; one that was imported is left alone.

    With `again` it is read from the start. `tell` hears about once a minute. Raises PermanentError
    when the file cannot be read on or has too many lines that are no reports, TransientError when
    its server stays away; the next call goes on where this one ended.
    """
    with source.opened(name) as archive:
        progress = begin(
            connection, name, source=source.place, version=archive.version, again=again
        )
        run = _Import(connection, archive, name, progress, limits, clock, now)
        if not progress.is_done:
            run.run(tell)
        return run.told()


class _Import:
    """One run over one file. `_done` is committed, the other lists are of the lines since."""

    def __init__(
        self,
        connection: Connection,
        archive: OpenArchive,
        name: str,
        progress: Progress,
        limits: Limits,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._connection = connection
        self._archive = archive
        self._name = name
        self._done = progress
        self._limits = limits
        self._clock = clock
        self._now = now
        self._store = Store(connection, now=now)
        self._first_line = progress.place.line
        self._started = clock()
        with connection:
            self._tracked = load_tracked_hashes(connection)
        self._clear(progress.place)

    def told(self) -> Told:
        seconds = self._clock() - self._started
        lines = self._done.place.line - self._first_line
        size = self._archive.size_bytes
        return Told(
            self._done,
            lines / seconds if seconds > 0 else 0.0,
            self._archive.read_bytes() / size if size else None,
            seconds,
        )

    def run(self, tell: Callable[[Told], None]) -> None:
        saved = told = self._started

        def tell_in_time() -> None:
            nonlocal told
            if (at := self._clock()) - told >= self._limits.tell_every_s:
                told = at
                tell(self.told())

        # A resumed file is read to its place first, which may take minutes.
        for line in self._lines(skipped=tell_in_time):
            self._add(line)
            at = self._clock()
            if self._is_full() or at - saved >= self._limits.save_every_s:
                self._commit()
                saved = self._clock()
            tell_in_time()
        self._commit(is_done=True)

    def _lines(self, skipped: Callable[[], None]) -> Iterator[Line]:
        try:
            yield from read_lines(
                self._archive.stream,
                after=self._done.place,
                max_line_bytes=self._limits.max_line_bytes,
                skipped=skipped,
            )
        except PermanentError as error:
            self._commit()
            last = self._done.place.line
            raise PermanentError(
                f"{self._name}: behind line {last}: {error}", {**error.facts, "line": last}
            ) from error

    def _clear(self, place: Place) -> None:
        self._place = place
        self._counts: Counter[str] = Counter()
        self._raids: list[tuple[int, Report]] = []  # with their lines
        self._raid_bytes = 0
        self._refused: list[RefusedLine] = []

    def _add(self, line: Line) -> None:
        self._place = line.end
        if line.body is None:
            self._refuse(Refusal("too_long", too_long(self._limits.max_line_bytes)), None)
            return
        read = read_report(line.body, self._tracked, now=self._now())
        if read is None:
            self._counts[NON_RAID] += 1
        elif isinstance(read, Report):
            self._raids.append((line.end.line, read))
            self._raid_bytes += len(line.body)
        elif line.body.isspace():
            self._counts[BLANK] += 1
        else:
            self._refuse(read, line.body)

    def _refuse(self, refusal: Refusal, body: bytes | None) -> None:
        found = _INSTANCE_ID.search(body) if body is not None else None
        self._refused.append(
            RefusedLine(
                self._place.line,
                refusal.reason,
                readable(refusal.detail),
                int(found[1]) if found else None,
                None if body is None else pack(body),
            )
        )

    def _is_full(self) -> bool:
        return (
            len(self._raids) >= BATCH
            or len(self._refused) >= BATCH
            or self._raid_bytes >= _MAX_BATCH_BYTES
        )

    def _commit(self, *, is_done: bool = False) -> None:
        """Stores what was read since the last commit and says so, all or nothing."""
        reports = [report for _, report in self._raids]

        def note(cursor: Cursor, outcomes: list[Outcome]) -> None:
            self._save(cursor, Counter(map(str, outcomes)), is_done=is_done)

        try:
            counts = Counter(map(str, self._store.store(reports, source=SOURCE, note=note)))
            is_noted = bool(reports)
        except psycopg2.Error as error:
            if is_connection_lost(error):
                raise
            counts, is_noted = self._store_each(), False
        if not is_noted:
            with self._connection, self._connection.cursor() as cursor:
                self._save(cursor, counts, is_done=is_done)
        self._done = self._after(counts, is_done=is_done)
        self._clear(self._place)
        if self._done.counts[REFUSED] > self._limits.max_refused:
            raise PermanentError(
                f"{self._name}: {self._done.counts[REFUSED]} lines cannot be stored, more than"
                f" {self._limits.max_refused}; see streaming.archive_refusal"
            )

    def _store_each(self) -> Counter[str]:
        """Outcomes of a batch that PostgreSQL refused as a whole: one report is to blame.

        Killed in here, the reports that went in are duplicates for the next run.
        """
        counts: Counter[str] = Counter()
        for line, report in self._raids:
            try:
                (outcome,) = self._store.store([report], source=SOURCE)
                counts[str(outcome)] += 1
            except psycopg2.Error as error:
                if is_connection_lost(error):
                    raise
                told = readable(why_not_stored(error).detail)
                instance_id = report.instance.instance_id
                self._refused.append(RefusedLine(line, _NOT_STORED, told, instance_id, report.body))
        return counts

    def _after(self, counts: Counter[str], *, is_done: bool) -> Progress:
        refused = Counter({REFUSED: len(self._refused)})
        lost = {line.instance_id for line in self._refused}
        raids = (r.instance.instance_id for _, r in self._raids)
        return self._done.after(
            self._place,
            self._counts + counts + refused,
            (i for i in raids if i not in lost),
            is_done=is_done,
        )

    def _save(self, cursor: Cursor, counts: Counter[str], *, is_done: bool) -> None:
        save(cursor, self._name, self._after(counts, is_done=is_done), self._refused)
        lost = (_missed(line.instance_id, line) for line in self._refused if line.instance_id)
        missed.record(cursor, lost, source=SOURCE)


def _missed(instance_id: int, line: RefusedLine) -> missed.Missed:
    """An id that the crawl should ask for; not when our side failed: it would bring the same."""
    if line.reason == _NOT_STORED:
        state, retry_in_s = missed.State.WAITING, None
    else:
        state = missed.State.MALFORMED
        retry_in_s = missed.Backoff(random).delay_s(state, 1)
    return missed.Missed(
        instance_id,
        state,
        line.reason,
        last_result=ResultKind.BAD_FORMAT if state is missed.State.MALFORMED else None,
        error=line.detail,
        retry_in_s=retry_in_s,
    )
