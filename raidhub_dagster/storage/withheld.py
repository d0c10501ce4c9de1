"""Reports that Bungie withholds: which ids go round, which may be tried, are the floodgates open.

The table is the truth, a message only carries an id: one that is lost is sent again, a second one
of the same id is surplus. All processes share it. Rules: docs/domain/queues.md, "Withheld reports".
"""

from enum import Enum

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.messaging import topology
from raidhub_dagster.storage.postgres import Rng
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "withheld")

# The gates are open when more than so many withheld reports came out within so many seconds.
_FLOOD = 3
_WINDOW_S = 180
# While they are closed: tries a minute in all, of the oldest and of the newest ids.
TRIES_A_MINUTE = 20
_EDGE = TRIES_A_MINUTE // 2
# A message rests for at most a minute; one so long overdue is lost, unless it waits for a slot.
_OVERDUE_S = 300
_SENT_AGAIN = 500  # a sweep
_FIRST_REST_S, _LONGEST_REST_S = 60.0, 3600.0


class Decision(Enum):
    TRY = "try"
    WAIT = "wait"  # others are asked first: the message rests
    SURPLUS = "surplus"  # the report is there, or another message carries the id


def admit(connection: Connection, instance_id: int, wait_s: float) -> Decision:
    """What to do with a message of the id, in the caller's transaction.

    With WAIT the message is expected back after `wait_s`.
    """
    key = {"instance": instance_id}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["look"], key | {"window_s": _WINDOW_S, "edge": _EDGE})
        ((is_there, is_carried, successes, is_edge),) = cursor.fetchall()
        if is_there:
            cursor.execute(_SQL["close"], key)
        if is_there or is_carried:
            return Decision.SURPLUS
        if successes > _FLOOD or (is_edge and _takes_a_try(cursor)):
            cursor.execute(_SQL["enter"], key | {"rest_s": 0})
            cursor.execute(_SQL["try"], key)
            return Decision.TRY
        # The way of nearly all, every minute: two statements and no lock.
        cursor.execute(_SQL["enter"], key | {"rest_s": wait_s})
    return Decision.WAIT


def _takes_a_try(cursor: Cursor) -> bool:
    """True while this minute has tries left; whoever asks next waits for this transaction."""
    cursor.execute(_SQL["lock_tries"])
    cursor.execute(_SQL["has_tries_left"], {"tries": TRIES_A_MINUTE})
    return bool(cursor.fetchone() == (True,))


def expect(connection: Connection, instance_id: int, seconds: float) -> None:
    """The id's message goes to rest for so long: until then any other one is surplus."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["expect"], {"instance": instance_id, "seconds": seconds})


def is_open(connection: Connection) -> bool:
    """Are the floodgates open."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["count_successes"], {"window_s": _WINDOW_S})
        ((successes,),) = cursor.fetchall()
    return bool(successes > _FLOOD)


def succeed(connection: Connection, instance_id: int) -> None:
    """The report came out; enough of these open the gates."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["succeed"], {"instance": instance_id})
    close(connection, instance_id)


def close(connection: Connection, instance_id: int) -> None:
    """The id goes round no more."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["close"], {"instance": instance_id})


def rest_s(connection: Connection, instance_id: int, rng: Rng) -> float:
    """Pause of an id that is given up now: a minute, doubling each time, at most an hour, +-20 %.

    A report that stays withheld for ever must not be asked for every minute.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SQL["given_up_before"], {"instance": instance_id})
        row = cursor.fetchone()
    before = row[0] if row else 0
    return float(min(_FIRST_REST_S * 2.0 ** min(before, 6), _LONGEST_REST_S)) * rng.uniform(
        0.8, 1.2
    )


def count_given_up(connection: Connection) -> int:
    """Ids that rest in the ledger of missed ids as withheld."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["count_given_up"])
        ((count,),) = cursor.fetchall()
    return int(count)


def count_lost(connection: Connection) -> int:
    """Ids whose message is long overdue; those that wait in the main queue are among them."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["count_lost"], {"overdue_s": _OVERDUE_S})
        ((count,),) = cursor.fetchall()
    return int(count)


def send_lost(connection: Connection) -> int:
    """Sends up to 500 overdue ids again through the outbox; how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            _SQL["send_lost"],
            {"overdue_s": _OVERDUE_S, "limit": _SENT_AGAIN, "queue": topology.PGCR_BLOCKED_RETRY},
        )
        return cursor.rowcount


def prune(connection: Connection) -> None:
    """Deletes what was closed, and successes, more than an hour ago."""
    with connection.cursor() as cursor:
        cursor.execute(_SQL["prune"])
