"""What a check of tables finds: claims that rows break. The claims stand with their areas."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class


@dataclass(frozen=True)
class Problem:
    """A claim that a table breaks: by how many rows, with up to five of their ids (or words)."""

    claim: str
    rows: int
    examples: tuple[int | str, ...]


def find_broken(
    cursor: Cursor,
    statement: str | sql.Composed,
    claim: str,
    parameters: Mapping[str, Any] | None = None,
) -> Iterator[Problem]:
    """The problem that `statement` tells, if any.

    It returns at most five rows (id, number of all rows that break the claim).
    """
    cursor.execute(statement, parameters)
    if found := cursor.fetchall():
        yield Problem(claim, found[0][1], tuple(id_ for id_, _ in found))
