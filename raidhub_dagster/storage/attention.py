"""What a person has to hear about, as far as PostgreSQL knows it. Telling is not done here."""

from collections.abc import Callable
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "attention")


class UnknownHash(NamedTuple):
    """An activity that no definition knows; its reports are kept until one does."""

    hash: int
    first_id: int
    reports: int  # so far


def tell_unknown_hashes(connection: Connection, tell: Callable[[UnknownHash], object]) -> None:
    """Calls `tell` for each hash that nobody was told of yet; commits that they were.

    A process that dies in between leaves them to the next one.
    """
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["claim_unknown_hashes"])
        for row in cursor.fetchall():
            tell(UnknownHash(*row))
