"""What must hold for definitions from the manifest, in PostgreSQL and in ClickHouse's copies."""

from collections.abc import Sequence

from clickhouse_connect.driver.client import Client
from psycopg2 import sql
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.manifest.load import Target
from raidhub_dagster.storage.claims import Problem, find_broken
from raidhub_dagster.storage.clickhouse_lookups import count_rows
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "manifest")


def check_hashes(connection: Connection, target: Target) -> Sequence[Problem]:
    """There are rows, and their hashes are 32-bit numbers above 0, as reports carry them."""
    table = sql.Identifier("definitions", target.table)
    with connection, connection.cursor() as cursor:
        return [
            problem
            for name, claim in (
                ("find_emptiness", "the table has rows"),
                ("find_hashes", "hashes are from 1 to 4294967295"),
            )
            for problem in find_broken(cursor, sql.SQL(_SQL[name]).format(table=table), claim)
        ]


def check_slots(connection: Connection) -> Sequence[Problem]:
    """Readers show the best weapons of each slot, by these names."""
    with connection, connection.cursor() as cursor:
        return list(
            find_broken(cursor, _SQL["find_slots"], "slots are Kinetic, Energy, Power or Unknown")
        )


def check_copy(connection: Connection, client: Client, table: str) -> Sequence[Problem]:
    """ClickHouse has as many rows of lookup `table` as PostgreSQL."""
    here, there = count_rows(connection, client, table)
    if here == there:
        return []
    return [Problem(f"{there} rows are a copy of {here}", abs(here - there), ())]
