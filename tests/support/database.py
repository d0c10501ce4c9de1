"""PostgreSQL for tests of the store, in which two raids count for the sum of best."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.pgcr.model import Instance
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import postgres as pg
from raidhub_dagster.storage.store import Outcome, Report, Store
from tests.support import worlds

NEEDED = (11, 12)  # the raids that a sum of best needs, so that small worlds reach one


@dataclass
class Database:
    settings: Settings
    connection: Connection

    def connect(self) -> Connection:
        return pg.connect(self.settings, "pytest")

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A statement that returns nothing gives no rows."""
        with self.connection, self.connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def opened(settings: Settings) -> Iterator[Database]:
    with closing(pg.connect(settings, "pytest")) as connection:
        database = Database(settings, connection)
        database.rows(
            "UPDATE definitions.activity_definition SET is_sunset = true WHERE id <> ALL(%s)",
            list(NEEDED),
        )
        yield database


def store_all(store: Store, world: Sequence[Instance], batch: int) -> list[Outcome]:
    return store_reports(store, [worlds.report_of(i) for i in world], batch)


def store_reports(store: Store, reports: Sequence[Report], batch: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for start in range(0, len(reports), batch):
        outcomes += store.store(reports[start : start + batch], source="test")
    return outcomes
