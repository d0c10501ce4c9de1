"""Which migrations run before and after a rollout, and whether a database has what this code needs.

Applying them is `migrations.py` and `clickhouse_migrations.py`; the way of working is
docs/operations/migrations.md.
"""

from collections.abc import Sequence
from enum import Enum
from itertools import takewhile
from pathlib import Path

from psycopg2 import errors
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.storage.queries import SQL_ROOT, load

MIGRATIONS = SQL_ROOT / "postgres" / "migrations"

_SQL = load("postgres", "migrations")


class Phase(Enum):
    PRE = "pre"  # before the new code runs: what the old code bears
    POST = "post"  # when the old code is gone: what the new code bears the lack of


def phase_of(name: str) -> Phase:
    """The phase that `NNNN_{pre,post}_...` names; a migration without one is `pre`."""
    return Phase.POST if name.split("_")[1] == Phase.POST.value else Phase.PRE


def due(pending: Sequence[str], phase: Phase | None, *, is_empty: bool) -> list[str]:
    """Those of `pending` (names, in order) that a step applies; `phase` None is both.

    Migrations run in the order of their numbers and in no other, because no other was ever tested.
    An `is_empty` database gets everything before the rollout: no old code reads it. Raises
    PermanentError when a migration of the other phase comes first.
    """
    if phase is None or (is_empty and phase is Phase.PRE):
        return list(pending)
    ours = list(takewhile(lambda name: phase_of(name) is phase, pending))
    rest = pending[len(ours) :]
    behind = next((name for name in rest if phase_of(name) is phase), None)
    if behind is None:
        return ours
    if phase is Phase.PRE:
        raise PermanentError(
            f"{rest[0]} comes before {behind} and is not applied: run `raidhub migrate --post` when"
            " no code older than it runs any more, or stop everything and run `raidhub migrate`"
        )
    if not ours:
        raise PermanentError(
            f"{rest[0]} comes before {behind} and is not applied: run `raidhub migrate --pre`"
            " and roll this release out first"
        )
    return ours


def needed(folder: Path, suffix: str = ".sql") -> tuple[str, ...]:
    """Migrations that this code cannot do without, in order; those of `post` only take away."""
    names = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    return tuple(name for name in names if phase_of(name) is Phase.PRE)


def refuse_older(store: str, missing: Sequence[str]) -> None:
    """Raises ConfigurationError, naming the first, when a migration that is needed is `missing`."""
    if missing:
        more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
        raise ConfigurationError(
            f"{store} has an older schema than this release needs: {missing[0]}{more} not applied;"
            " run `raidhub migrate --pre`"
        )


_NEEDED = needed(MIGRATIONS)


def require(connection: Connection) -> None:
    """Returns when the database has what this code needs; what newer code added does not matter.

    In a transaction of its own. Raises ConfigurationError naming the first migration that lacks.
    """
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(_SQL["select_applied"])
            applied = {name for (name,) in cursor.fetchall()}
    except errors.UndefinedTable:
        applied = set()
    refuse_older("PostgreSQL", [name for name in _NEEDED if name not in applied])
