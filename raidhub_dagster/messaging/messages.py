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
    value = _decode(body)
    return _id(value.get(name) if isinstance(value, dict) else value, name, body)


class CharacterToFill(NamedTuple):
    """The character of a player in a report whose class and emblem nobody knows."""

    membership_id: int
    character_id: int
    instance_id: int


def read_character(body: bytes) -> CharacterToFill:
    """The body of a character_fill message; ids are numbers or text, in any order of keys.

    Raises PermanentError naming the id that is missing or impossible.
    """
    value = _decode(body)
    if not isinstance(value, dict):
        raise PermanentError(f"no object with three ids: {body[:50]!r}")
    return CharacterToFill(
        *(
            _id(value.get(name), name, body)
            for name in ("membershipId", "characterId", "instanceId")
        )
    )


class ReportToFetch(NamedTuple):
    instance_id: int
    refetch: bool  # although it is stored: it may have grown


def read_report(body: bytes) -> ReportToFetch:
    """The body of a pgcr_crawl message: an id, or `{"instanceId": id, "refetch": true}`.

    Raises PermanentError as `read_id` does.
    """
    value = _decode(body)
    refetch = isinstance(value, dict) and value.get("refetch") is True
    return ReportToFetch(read_id(body, "instanceId"), refetch)


def id_message(queue: str, value: int) -> Message:
    """A message of an id queue."""
    body = b"%d" % value
    return Message(queue, body, effect_properties(queue, value, body))


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise PermanentError(f"body is neither an id nor JSON: {body[:50]!r}") from None


def _id(value: object, name: str, body: bytes) -> int:
    if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):
        value = int(value)
    if not is_count(value) or not 0 < value <= MAX_ID:
        raise PermanentError(f"no {name} between 1 and 2^63-1 in {body[:50]!r}")
    return value
