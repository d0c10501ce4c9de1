"""The SQLite file of a manifest: what is in it, as bytes. What the records mean: `records.py`."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.queries import load

_SQL = load("sqlite", "manifest")

ITEMS = "DestinyInventoryItemDefinition"
CLASSES = "DestinyClassDefinition"
ACTIVITIES = "DestinyActivityDefinition"
TIERS = "DestinyActivityDifficultyTierCollectionDefinition"
SKULLS = "DestinyActivitySelectableSkullCollectionDefinition"
TABLES = (ITEMS, CLASSES, ACTIVITIES, TIERS, SKULLS)

_SELECT = {
    ITEMS: _SQL["select_items"],
    CLASSES: _SQL["select_classes"],
    ACTIVITIES: _SQL["select_activities"],
    TIERS: _SQL["select_tiers"],
    SKULLS: _SQL["select_skulls"],
}

Record = tuple[int, bytes]  # hash as the key says it, JSON


class UnfitError(PermanentError):
    """A manifest that must not be loaded; downloading it again brings the same one."""


class Database:
    """An open manifest. Its methods raise UnfitError for a damaged file."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self._name = name
        self._connection = connection

    def tables(self) -> list[str]:
        return [name.decode() for (name,) in self._rows(_SQL["select_tables"])]

    def count_rows(self) -> dict[str, int]:
        return {table.decode(): rows for table, rows in self._rows(_SQL["count_rows"])}

    def records(self, table: str) -> Iterator[Record]:
        """All of one of `TABLES`, with the unsigned hash."""
        for id_, json in self._rows(_SELECT[table]):
            yield id_ & 0xFFFFFFFF, json if isinstance(json, bytes) else b""

    def _rows(self, statement: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._connection.execute(statement)
        except sqlite3.Error as error:
            raise UnfitError(f"{self._name}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """The manifest at `path`, which nobody changes. Raises UnfitError when it is none."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    except sqlite3.Error as error:
        raise UnfitError(f"{path}: {error}") from error
    with closing(connection):
        connection.text_factory = bytes  # the column is declared as either, and decoded once
        yield Database(path.name, connection)


def count_rows(path: Path) -> dict[str, int]:
    """Rows of each of `TABLES`. Raises UnfitError when one is missing, or for a damaged file."""
    with opened(path) as database:
        missing = sorted(set(TABLES).difference(database.tables()))
        if missing:
            raise UnfitError(f"{path.name} lacks {', '.join(missing)}")
        return database.count_rows()
