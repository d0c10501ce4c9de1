"""Which reports are stored or on their way, for those who find ids elsewhere. Only reads."""

from collections.abc import Iterable

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "reports")


def is_stored(connection: Connection, instance_id: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_SQL["is_stored"], {"instance": instance_id})
        return cursor.fetchone() == (True,)


def find_unknown(connection: Connection, ids: Iterable[int]) -> list[int]:
    """Those of `ids` that are neither stored nor waiting to be fetched, ascending."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["find_unknown"], {"ids": array(sorted(set(ids)))})
        return [row[0] for row in cursor]
