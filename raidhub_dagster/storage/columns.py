"""What the columns of the stores' tables are, for people: sql/columns.csv, compared by a test.

The description is ours; names and types are those of a migrated database, in its order.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from raidhub_dagster.storage.queries import SQL_ROOT


class Column(NamedTuple):
    name: str
    type: str  # as the store's catalogue spells it
    description: str  # empty where name and type say it


@cache
def columns() -> Mapping[str, tuple[Column, ...]]:
    """Table, as the store names it (in PostgreSQL with its schema) -> its columns."""
    found: defaultdict[str, list[Column]] = defaultdict(list)
    with (SQL_ROOT / "columns.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["table"]].append(Column(row["column"], row["type"], row["description"]))
    return {table: tuple(listed) for table, listed in found.items()}
