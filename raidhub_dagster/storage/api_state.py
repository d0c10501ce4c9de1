"""Which of Bungie's systems are on, as the last process that looked saw it.

Asking Bungie is not done here, nor deciding what to do about it.
"""

from collections.abc import Mapping
from typing import NamedTuple

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "api_state")
_PREFIX = "api_system:"  # the table holds other small states too


class Observed(NamedTuple):
    enabled: bool
    age_s: float  # since somebody saw it so


def record(connection: Connection, state: Mapping[str, bool], *, age_s: float = 0.0) -> None:
    """Tells all processes what was seen `age_s` ago; what is newer in the table stays. Commits."""
    names = list(state)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            _SQL["record"],
            {
                "prefix": _PREFIX,
                "names": names,
                "enabled": list(state.values()),
                "ages_s": [age_s] * len(names),
            },
        )


def read(connection: Connection) -> dict[str, Observed]:
    """System -> what was seen last, however old; systems nobody saw yet are missing."""
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["read"], {"prefix": _PREFIX})
        return {name: Observed(enabled, age_s) for name, enabled, age_s in cursor}
