"""The ledger of cheat checks: each instance is checked once under each version of the rules.

Clean passes are recorded too, so that a second delivery costs a look-up and nothing else.
"""

from enum import StrEnum

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.checker import Checker
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "cheat_check")


class Outcome(StrEnum):
    CHECKED = "checked"
    KNOWN = "known"  # checked before under the same version
    NOT_STORED = "not_stored"


def check_once(connection: Connection, checker: Checker, instance_id: int) -> Outcome:
    """Checks and records in the caller's transaction, which holds the instance's lock until then.

    Raises what the checker raises.
    """
    key = {"instance": instance_id, "version": checker.version}
    with connection.cursor() as cursor:
        cursor.execute(_SQL["lock_instance"], key)
        cursor.execute(_SQL["is_checked"], key)
        if cursor.fetchone() == (True,):
            return Outcome.KNOWN
        verdict = checker.check(connection, instance_id)
        if verdict is None:
            return Outcome.NOT_STORED
        cursor.execute(_SQL["record"], key | verdict._asdict())
    return Outcome.CHECKED
