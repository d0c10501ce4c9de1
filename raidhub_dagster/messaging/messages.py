"""What a message looks like on the wire: builders for what we publish, readers for what comes in.

Bodies of reports are opened by `raidhub_dagster.pgcr.envelope`. Source: docs/domain/queues.md.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeGuard

import msgspec

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.messaging.topology import INSTANCE_STORE

PERSISTENT = 2
MAX_ID = 2**63 - 1  # bigint of the tables
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class Message(NamedTuple):
    """One message to publish; `properties` are keyword arguments of pika.BasicProperties."""

    queue: str
    body: bytes
    properties: dict[str, Any]


class Origin(NamedTuple):
    """What the store needs of an instance_store message's headers."""

    instance_id: int | None  # None: they do not tell
    settled: bool  # the report is known not to grow any more
    fetched_at: datetime | None = None  # aware; None: unknown


def instance_store_properties(
    instance_id: int, fetched_at: datetime, source: str, settled: bool
) -> dict[str, Any]:
    """Properties of a report; its body is the gzip of the raw Response JSON.

    `fetched_at` is aware; `settled` says that the report is old enough not to grow any more, so
    that the store does not wait for a longer one.
    """
    return {
        "content_type": "application/json",
        "content_encoding": "gzip",
        "delivery_mode": PERSISTENT,
        "message_id": f"{INSTANCE_STORE}:{instance_id}",
        "headers": {
            "instance_id": instance_id,
            "fetched_at": fetched_at.isoformat(),
            "source": source,
            "settled": settled,
        },
    }


def effect_properties(queue: str, key: int, body: bytes) -> dict[str, Any]:
    """Properties of an outbox message about entity `key`: an id as text, or a JSON object."""
    return {
        "content_type": "application/json" if body.startswith(b"{") else "text/plain",
        "delivery_mode": PERSISTENT,
        "message_id": f"{queue}:{key}",
    }


def is_count(value: object) -> TypeGuard[int]:
    """True for an integer of a header or a body: pika's 64-bit ones are a subclass of int."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_origin(headers: Mapping[str, Any] | None) -> Origin:
    """Headers of an instance_store message. Publishers outside send none: nothing is required.

    A header of the wrong type counts as absent; the body alone decides what is stored.
    """
    given = headers or {}
    instance_id = given.get("instance_id")
    return Origin(
        instance_id if is_count(instance_id) and 0 < instance_id <= MAX_ID else None,
        given.get("settled") is True,
        _time(given.get("fetched_at")),
    )


def _time(value: object) -> datetime | None:
    try:
        read = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return read if read is not None and read.tzinfo is not None else None


def read_id(body: bytes, name: str) -> int:
    """The id in the body of an id queue: digits, a JSON number or string, or `{name: id}`.

    Raises PermanentError for anything else and for ids outside 1..2^63-1.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PermanentError(f"body is neither an id nor JSON: {body[:50]!r}") from None
    if isinstance(value, dict):
        value = value.get(name)
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if not is_count(value) or not 0 < value <= MAX_ID:
        raise PermanentError(f"no {name} between 1 and 2^63-1 in {body[:50]!r}")
    return value
