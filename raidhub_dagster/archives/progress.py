"""How far an archive was imported: one row a file, written together with what was stored.

Statements in `sql/postgres/queries/archives.sql`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from heapq import nsmallest
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.extras import Json

from raidhub_dagster.storage.archive import START, Place
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "archives")
_SAMPLE = 200
_SHUFFLE = 0x9E3779B97F4A7C15  # Fibonacci hashing: ids in a row land anywhere
_MAX_DETAIL = 500


class RefusedLine(NamedTuple):
    """A line that could not be stored; `body` is its gzip, None for one that is too long.

    Its texts are those of `readable`.
    """

    line: int
    reason: str
    detail: str
    instance_id: int | None
    body: bytes | None


@dataclass(frozen=True)
class Progress:
    """What is accounted for: `counts` has every line up to `place`, by what became of it."""

    place: Place = START
    counts: Counter[str] = field(default_factory=Counter)
    sample: tuple[int, ...] = ()  # ids of up to 200 raids, the same ones in whatever order
    is_done: bool = False

    def after(
        self, place: Place, counts: Counter[str], raids: Iterable[int], *, is_done: bool = False
    ) -> "Progress":
        sample = nsmallest(_SAMPLE, {*self.sample, *raids}, key=lambda i: i * _SHUFFLE % 2**64)
        return replace(
            self, place=place, counts=self.counts + counts, sample=tuple(sample), is_done=is_done
        )


def begin(connection: Connection, name: str, *, source: str, version: str, again: bool) -> Progress:
    """Where the import of file `name` goes on. Another `version`, or `again`, starts over."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_progress"], {"name": name})
        for state, known, line, offset_bytes, counts, sample in cursor.fetchall():
            if known == version and not again:
                place = Place(line, offset_bytes)
                return Progress(place, Counter(counts), tuple(sample), state == "done")
        cursor.execute(_SQL["start_over"], {"name": name, "source": source, "version": version})
        cursor.execute(_SQL["forget_refusals"], {"name": name})
    return Progress()


def save(cursor: Cursor, name: str, progress: Progress, refused: Sequence[RefusedLine]) -> None:
    """In the caller's transaction: that of the reports which the progress counts."""
    for line in refused:
        cursor.execute(
            _SQL["keep_refusal"],
            {"name": name, **line._asdict()},
        )
    cursor.execute(
        _SQL["save_progress"],
        {
            "name": name,
            "state": "done" if progress.is_done else "reading",
            "line": progress.place.line,
            "offset_bytes": progress.place.offset_bytes,
            "counts": Json(dict(progress.counts)),
            "sample": array(progress.sample),
        },
    )


def first_refusals(connection: Connection, name: str, limit: int = 10) -> list[dict[str, object]]:
    """The first lines of file `name` that could not be stored, for people."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["first_refusals"], {"name": name, "limit": limit})
        return [
            {"line": line, "reason": reason, "instance_id": instance_id, "detail": detail[:200]}
            for line, reason, instance_id, detail in cursor
        ]


def check_counts(connection: Connection) -> list[Problem]:
    """Every line of every archive has one outcome, every refused one is kept."""
    with connection, connection.cursor() as cursor:
        claim = "lines by outcome add up to the lines read, and refused ones are kept"
        return list(find_broken(cursor, _SQL["find_uneven"], claim))


def check_stored(connection: Connection) -> list[Problem]:
    """A sample of the raids of the archives finished last is stored."""
    with connection, connection.cursor() as cursor:
        claim = "raids of a finished archive are stored"
        return list(find_broken(cursor, _SQL["find_lost"], claim))


def readable(text: str) -> str:
    """What PostgreSQL's text takes: no NUL, no lone surrogate."""
    return text[:_MAX_DETAIL].replace("\0", " ").encode("utf-8", "replace").decode()
