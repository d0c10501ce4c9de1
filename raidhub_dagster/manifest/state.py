"""What the last loads of the manifest did, in `streaming.api_state`: one row for each of them.

A load writes its row in the transaction that writes its table, so a version counts as loaded only
once all of it is committed. What is not readable counts as never done.
"""

from typing import TypeVar

import msgspec
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.manifest.index import Version
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "manifest")
_PREFIX = "manifest:"  # the table holds other small states too
_WANTED = "wanted"

_State = TypeVar("_State", bound=msgspec.Struct)


class Done(msgspec.Struct, frozen=True):
    """One table's last load, or ClickHouse's last copy."""

    version: str  # name of the content file
    basis: str = ""  # what else it was made from: it is done again when that changes
    rows: dict[str, int] = {}  # of the tables of the file


def write_wanted(connection: Connection, version: Version) -> None:
    """Which version the following steps are to work on; commits."""
    with connection, connection.cursor() as cursor:
        _write(cursor, _WANTED, version)


def read_wanted(connection: Connection) -> Version | None:
    return _read(connection, _WANTED, Version)


def write_done(cursor: Cursor, what: str, done: Done) -> None:
    """The caller owns the transaction."""
    _write(cursor, what, done)


def read_done(connection: Connection, what: str) -> Done | None:
    return _read(connection, what, Done)


def _write(cursor: Cursor, what: str, value: msgspec.Struct) -> None:
    text = msgspec.json.encode(value).decode()
    cursor.execute(_SQL["write_state"], {"key": _PREFIX + what, "value": text})


def _read(connection: Connection, what: str, kind: type[_State]) -> _State | None:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read_state"], {"key": _PREFIX + what})
        found = cursor.fetchone()
    try:
        return msgspec.convert(found[0], kind) if found else None
    except msgspec.ValidationError:
        return None
