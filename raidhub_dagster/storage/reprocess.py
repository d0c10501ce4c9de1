"""Reads kept reports with today's parser and gives those rows that differ the right values.

Each repaired report is one transaction of the store, derived state recounted. What differs is
found by `kept.py`; rules: docs/domain/archives.md, "Reprocessing".
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.pgcr.model import Instance, Rejection
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.kept import Comparison, State, compare_kept
from raidhub_dagster.storage.plan import parse_kept
from raidhub_dagster.storage.postgres import is_connection_lost
from raidhub_dagster.storage.queries import load
from raidhub_dagster.storage.store import Outcome, Report, Store

_SQL = load("postgres", "kept")
_STORE = load("postgres", "store")
_PAGE = 200
# So many ids have one partition, as one archive has: enough for a run of minutes.
BLOCK_SIZE = 10_000_000
_EXAMPLES = 5

Row = dict[str, object]


@dataclass
class Reprocessed:
    """What was found; `fields` and `problems` are rows for people, with a few examples each."""

    states: Counter[State] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)  # of the repaired ones
    differences: Counter[str] = field(default_factory=Counter)  # by field
    _fields: dict[str, list[Row]] = field(default_factory=dict)
    _problems: dict[str, tuple[int, list[int]]] = field(default_factory=dict)

    @property
    def reports(self) -> int:
        return self.states.total()

    @property
    def wrong(self) -> int:
        return self.reports - self.states[State.EQUAL] - self.states[State.WAITING]

    @property
    def left(self) -> int:
        """Those that are wrong still: in a preview all, else what could not be repaired."""
        return self.wrong - self.outcomes.total() + self.outcomes[Outcome.CONFLICT]

    def fields(self) -> list[Row]:
        """Up to five differences of each field, with the number of all of them."""
        return [
            {"field": name, "all": self.differences[name], **row}
            for name in sorted(self._fields)
            for row in self._fields[name]
        ]

    def problems(self) -> list[Row]:
        """Reports that are not merely different, or that could not be repaired."""
        return [
            {"problem": name, "reports": number, "ids": ", ".join(map(str, ids))}
            for name, (number, ids) in sorted(self._problems.items())
        ]

    def note(self, comparison: Comparison) -> None:
        self.states[comparison.state] += 1
        instance_id, parsed = comparison.instance_id, comparison.parsed
        if isinstance(parsed, Rejection):
            self.note_problem(f"unreadable: {parsed.reason} at {parsed.field}", instance_id)
        elif comparison.state is State.NOT_STORED:
            self.note_problem("kept, but not stored", instance_id)
        for found in comparison.differences:
            self.differences[found.field] += 1
            rows = self._fields.setdefault(found.field, [])
            if len(rows) < _EXAMPLES:
                rows.append(
                    {
                        "id": instance_id,
                        "of": found.where,
                        "old": str(found.old)[:100],
                        "new": str(found.new)[:100],
                    }
                )

    def note_problem(self, problem: str, instance_id: int) -> None:
        number, ids = self._problems.get(problem, (0, []))
        self._problems[problem] = (number + 1, [*ids, instance_id][:_EXAMPLES])


def reprocess(
    connection: Connection,
    first_id: int,
    last_id: int,
    *,
    dry_run: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    tell: Callable[[Reprocessed, int], None] = lambda _found, _id: None,
) -> Reprocessed:
    """Compares every kept report with an id in [first_id, last_id], and repairs without `dry_run`.

    May be stopped at any moment and run again: a repaired report is equal the next time. A report
    that cannot be repaired is told and stops nothing. `tell` hears of the last id of each page.
    """
    store = Store(connection, now=now)
    found = Reprocessed()
    for page in _pages(connection, first_id, last_id):
        for comparison in compare_kept(connection, page, now=now()):
            found.note(comparison)
            if comparison.is_wrong and not dry_run and isinstance(comparison.parsed, Instance):
                report = Report(comparison.parsed, page[comparison.instance_id])
                _repair(store, report, found)
        tell(found, max(page))
    return found


def check_order(first_id: int, last_id: int, first_name: str, last_name: str) -> None:
    """Raises PermanentError with both names for a range that is mistyped: it would find nothing."""
    if first_id > last_id:
        raise PermanentError(f"{first_name} {first_id} is above {last_name} {last_id}")


def find_blocks(connection: Connection, size: int = BLOCK_SIZE) -> list[tuple[int, int]]:
    """First and last id of every block of `size` ids that has a kept report, ascending."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["find_blocks"], {"size": size})
        return [(number * size, (number + 1) * size - 1) for (number,) in cursor]


@dataclass(frozen=True)
class SkullUpdate:
    read: int
    changed: int
    unreadable: int  # without a body, or with one that today's parser rejects: left as they are
    examples: Sequence[Row]


def update_skull_hashes(
    connection: Connection,
    hash_: int,
    first_id: int,
    last_id: int,
    *,
    dry_run: bool,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> SkullUpdate:
    """Reads the skulls of all instances of `hash_` with these ids out of their kept reports again.

    A page is a transaction under the locks of its instances. ClickHouse has no skulls.
    """
    read = changed = unreadable = 0
    examples: list[Row] = []
    after = first_id - 1
    while True:
        with connection, connection.cursor() as cursor:
            page = {"hash": hash_, "after": after, "last": last_id, "limit": _PAGE}
            cursor.execute(_SQL["find_of_hash"], page)
            ids = [instance_id for (instance_id,) in cursor]
            if not ids:
                return SkullUpdate(read, changed, unreadable, examples)
            cursor.execute(_STORE["lock_keys"], {"keys": array(ids)})
            cursor.execute(_SQL["read_skulls"], {"instances": array(ids)})
            wanted: dict[int, str] = {}
            for instance_id, old, data in cursor.fetchall():
                read += 1
                parsed = data and parse_kept(instance_id, bytes(data), now())
                if not isinstance(parsed, Instance):
                    unreadable += 1
                    continue
                new = list(parsed.skull_hashes)
                if new != (old or []):
                    wanted[instance_id] = array(new)
                    if len(examples) < 4 * _EXAMPLES:
                        examples.append({"id": instance_id, "old": old, "new": new})
            changed += len(wanted)
            if wanted and not dry_run:
                cursor.execute(
                    _SQL["update_skulls"],
                    {"instances": array(wanted), "skulls": array(wanted.values())},
                )
            after = ids[-1]


def _repair(store: Store, report: Report, found: Reprocessed) -> None:
    instance_id = report.instance.instance_id
    try:
        (outcome,) = store.store([report], source="reprocess", anew=True)
    except psycopg2.Error as error:
        if is_connection_lost(error):
            raise
        found.note_problem(f"not repaired: {str(error).partition(chr(10))[0]}", instance_id)
        return
    found.outcomes[str(outcome)] += 1
    if outcome is Outcome.CONFLICT:
        found.note_problem("not repaired: its hash is not defined", instance_id)


def _pages(connection: Connection, first_id: int, last_id: int) -> Iterator[dict[int, bytes]]:
    after = first_id - 1
    while True:
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["read_page"], {"after": after, "last": last_id, "limit": _PAGE})
            page = {instance_id: bytes(data) for instance_id, data in cursor}
        if not page:
            return
        yield page
        after = max(page)
