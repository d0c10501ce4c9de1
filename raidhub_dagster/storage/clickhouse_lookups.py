"""Keeps ClickHouse's copies of the definitions current: its views turn hashes into activities.

A row whose hash is missing from them would vanish from every aggregate without an error, so the
sender asks `missing_hashes` before each insert.
"""

import logging
from collections.abc import Collection
from contextlib import closing
from typing import NamedTuple

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import TransientError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse, postgres
from raidhub_dagster.storage.queries import load

log = logging.getLogger(__name__)

LOOKUPS = ("activity_version", "activity", "version", "weapon_definition")

_LOCKS = load("postgres", "clickhouse")
_POSTGRES = load("postgres", "clickhouse_lookups")
_CLICKHOUSE = load("clickhouse", "lookups")


class LookupRefreshed(NamedTuple):
    table: str
    rows: int


def refresh(settings: Settings) -> list[LookupRefreshed]:
    """`refresh_lookups` on connections of its own."""
    with (
        postgres.connected(settings, "raidhub-lookups") as connection,
        closing(clickhouse.connect_checked(settings, "raidhub-lookups")) as client,
    ):
        return refresh_lookups(connection, client)


def refresh_lookups(connection: Connection, client: Client) -> list[LookupRefreshed]:
    """Every lookup with the definitions that PostgreSQL has now; the next insert sees them.

    Readers and views see the old or the new content, never a part. Several at once wait for each
    other: they share the twins. Raises TransientError when a twin does not hold what was sent,
    with the lookup unchanged, and the drivers' errors.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_LOCKS["lock_for_transaction"], {"name": "lookups"})
        return [_refresh(connection, client, table) for table in LOOKUPS]


def missing_hashes(client: Client, hashes: Collection[int]) -> list[int]:
    """Those of `hashes` that the views could not attribute, ascending."""
    found = client.query(_CLICKHOUSE["missing_hashes"], parameters={"hashes": sorted(hashes)})
    return [hash_ for (hash_,) in found.result_rows]


def count_rows(connection: Connection, client: Client, table: str) -> tuple[int, int]:
    """Rows that PostgreSQL has for lookup `table`, and that the lookup has."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_POSTGRES[table])
        ((stored,),) = client.query(_CLICKHOUSE["count"], parameters={"twin": table}).result_rows
        return cursor.rowcount, stored


def _refresh(connection: Connection, client: Client, table: str) -> LookupRefreshed:
    with connection.cursor() as cursor:
        cursor.execute(_POSTGRES[table])
        columns = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall()
    names = {"lookup": table, "twin": f"{table}_twin"}
    client.command(_CLICKHOUSE["empty"], parameters=names)
    if rows:
        client.insert(names["twin"], rows, column_names=columns, settings={"async_insert": 0})
    ((stored,),) = client.query(_CLICKHOUSE["count"], parameters=names).result_rows
    if stored != len(rows):
        raise TransientError(f"{names['twin']} has {stored} rows instead of {len(rows)}")
    client.command(_CLICKHOUSE["exchange"], parameters=names)
    log.info(
        "Refreshed a lookup", extra={"action": "lookup_refreshed", "table": table, "rows": stored}
    )
    return LookupRefreshed(table, stored)
