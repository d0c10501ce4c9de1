"""What tests of topics share: a handler's verdict on one body, and rows to compare."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.postgres import connected
from raidhub_dagster.storage.store import Report, Store
from streaming.hermes.topic import Delivery, Limits, Topic
from tests.support.worlds import report_of


def outcome(settings: Settings, topic: Topic, body: bytes, **headers: Any) -> Exception | None:
    """What a slot of `topic` would have to settle for a message with this body."""
    (found,) = outcomes(settings, topic, [body], **headers)
    return found


def outcomes(
    settings: Settings, topic: Topic, bodies: Iterable[bytes], **headers: Any
) -> list[Exception | None]:
    """The same for several messages, one after the other, of one slot."""
    with closing(topic.open(settings)) as handler:
        return [handler.handle([Delivery(body, headers)])[0] for body in bodies]


def small(topic: Topic, slots: int = 1) -> Topic:
    return replace(topic, limits=Limits(slots, slots, slots, slots))


def rows(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    with connected(settings, "test") as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def execute(settings: Settings, statement: str) -> None:
    with connected(settings, "test") as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)


def store(settings: Settings, *instances: Any) -> None:
    """Stores instances as hermes does."""
    with connected(settings, "test") as connection:
        reports: list[Report] = [report_of(instance) for instance in instances]
        Store(connection).store(reports, source="test")
