"""Rows in PostgreSQL's binary COPY format, the fastest way in for tables that only grow.

A weapon row is one `struct` call instead of six conversions to text and back; binary bodies go in
as they are instead of as twice their size in hex.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from io import BytesIO
from itertools import chain

from psycopg2.extensions import cursor as Cursor  # noqa: N812

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # of PostgreSQL's times
_EPOCH_DAY = _EPOCH.date().toordinal()
_OID_INT8 = 20

_int4 = struct.Struct(">ii").pack
_int8 = struct.Struct(">iq").pack
_length = struct.Struct(">i").pack
_fields = struct.Struct(">h").pack
_TRUE, _FALSE = b"\0\0\0\1\1", b"\0\0\0\1\0"


def fields(count: int) -> bytes:
    """The start of a row of `count` columns."""
    return _fields(count)


def int4(value: int | None) -> bytes:
    return _NULL if value is None else _int4(4, value)


def int8(value: int | None) -> bytes:
    return _NULL if value is None else _int8(8, value)


def boolean(value: bool | None) -> bytes:
    return _NULL if value is None else _TRUE if value else _FALSE


def binary(value: bytes) -> bytes:
    """A bytea, or the UTF-8 of a text."""
    return _length(len(value)) + value


def timestamp(value: datetime) -> bytes:
    """A timestamptz; whole seconds, as all times of a report."""
    since = value - _EPOCH
    return _int8(8, (since.days * 86_400 + since.seconds) * 1_000_000)


def day(value: date | None) -> bytes:
    return _NULL if value is None else _int4(4, value.toordinal() - _EPOCH_DAY)


def int8_array(values: Sequence[int]) -> bytes:
    if not values:
        return binary(struct.pack(">iii", 0, 0, _OID_INT8))
    head = struct.pack(">iiiii", 1, 0, _OID_INT8, len(values), 1)
    return binary(head + b"".join(_int8(8, value) for value in values))


def copy_rows(cursor: Cursor, statement: str, rows: Iterable[bytes]) -> None:
    """Runs `statement` (COPY ... FROM STDIN (FORMAT binary)) with `rows`, one bytes a row."""
    body = b"".join(chain((_HEADER,), rows, (_TRAILER,)))
    cursor.copy_expert(statement, BytesIO(body), size=1 << 20)


def array(values: Iterable[object]) -> str:
    """A literal of PostgreSQL's array syntax, to be cast; None is NULL.

    One text parameter instead of thousands of adapted values: 10 times cheaper on both sides.
    """
    return "{" + ",".join(_element(value) for value in values) + "}"


def _element(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
