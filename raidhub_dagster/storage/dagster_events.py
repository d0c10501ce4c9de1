"""Which rows of Dagster's event log may go, and their deletion; Dagster itself keeps all for ever.

What pages of assets, partitions, checks and runs read stays: materializations, planned and failed
ones, checks, what a run and its steps did. Log lines, markers of processes and old observations go.
The connection is one to Dagster's database (raidhub_dagster/instance.py).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.copy import array
from raidhub_dagster.storage.queries import load

_SQL = load("postgres", "dagster_events")

# What a run page shows beside its steps and its log; log lines have no type at all.
DETAILS = (
    "ENGINE_EVENT",
    "STEP_WORKER_STARTING",
    "STEP_WORKER_STARTED",
    "RESOURCE_INIT_STARTED",
    "RESOURCE_INIT_SUCCESS",
    "LOGS_CAPTURED",
    "STEP_INPUT",
    "LOADED_INPUT",
    "HANDLED_OUTPUT",
    "OBJECT_STORE_OPERATION",
    "ASSET_STORE_OPERATION",
    "HOOK_COMPLETED",
    "HOOK_SKIPPED",
    "FRESHNESS_STATE_EVALUATION",
    "CODE_LOCATION_UPDATED",
)
# What steps did, with the reports of repairs. Those of the run itself (PIPELINE_*) stay for ever.
STEPS = (
    "STEP_START",
    "STEP_OUTPUT",
    "STEP_SUCCESS",
    "STEP_FAILURE",
    "STEP_SKIPPED",
    "STEP_RESTARTED",
    "STEP_UP_FOR_RETRY",
    "STEP_EXPECTATION_RESULT",
    "RESOURCE_INIT_FAILURE",
    "HOOK_ERRORED",
)
# About assets, and said again and again: of these the newest tell all.
WATCH = ("ASSET_OBSERVATION", "FRESHNESS_STATE_CHANGE")
_ENDED = ["SUCCESS", "FAILURE", "CANCELED"]
_YOUNGEST_DAYS = 2  # run retries, sensors and people still read what is younger

_Found = list[tuple[int, str, int]]


@dataclass(frozen=True)
class Retention:
    """Days that rows stay, and how many observations of each asset whatever their age."""

    details_days: int = 30
    steps_days: int = 365
    kept_observations: int = 1000

    def check(self) -> None:
        """Raises PermanentError for values that would delete what is still in use."""
        if self.details_days < _YOUNGEST_DAYS:
            raise PermanentError(
                f"details_days: at least {_YOUNGEST_DAYS}, not {self.details_days}"
            )
        if self.steps_days < self.details_days:
            raise PermanentError(f"steps_days: at least details_days, not {self.steps_days}")
        if self.kept_observations < 1:
            raise PermanentError(f"kept_observations: at least 1, not {self.kept_observations}")


@dataclass
class Pruned:
    """Rows that went, or would, by type of event; bytes as stored before compression."""

    rows: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    looked_at: int = 0  # greatest id that was looked at


def prune(
    connection: Connection,
    retention: Retention,
    *,
    now: datetime,
    dry_run: bool,
    batch: int = 5000,
    tell: Callable[[Pruned], None] = lambda _so_far: None,
) -> Pruned:
    """Deletes what `retention` does not keep, `batch` ids in a transaction: `now` is aware.

    A prune that is killed has lost nothing and begins anew. Raises PermanentError for a retention
    that is too short.
    """
    retention.check()
    done = Pruned()
    for found in _all(connection, retention, now, batch, done):
        done.rows.update(kind for _, kind, _ in found)
        done.size_bytes += sum(size for _, _, size in found)
        if not dry_run:
            _delete(connection, [id_ for id_, _, _ in found])
        tell(done)
    return done


def _all(
    connection: Connection, retention: Retention, now: datetime, batch: int, done: Pruned
) -> Iterator[_Found]:
    naive = now.astimezone(UTC).replace(tzinfo=None)
    before = {
        "details_before": naive - timedelta(days=retention.details_days),
        "steps_before": naive - timedelta(days=retention.steps_days),
    }
    last = _one(connection, "last_id", {})
    kinds = {"details": list(DETAILS), "steps": list(STEPS), "ended": _ENDED}
    for after in range(0, last, batch):
        stretch = {**before, **kinds, "after": after, "until": after + batch}
        if _one(connection, "first_young", stretch):
            break
        yield _rows(connection, "find_old", stretch)
        done.looked_at = min(after + batch, last)
    for (asset,) in _rows(connection, "watched_assets", {}):
        for kind in WATCH:
            scope = {**before, "asset": asset, "kind": kind, "kept": retention.kept_observations}
            seen = 0
            while found := _rows(
                connection, "find_old_watch", {**scope, "after": seen, "limit": batch}
            ):
                yield found
                seen = found[-1][0]


def _rows(connection: Connection, query: str, values: dict[str, object]) -> list[Any]:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL[query], values)
        return cursor.fetchall()


def _one(connection: Connection, query: str, values: dict[str, object]) -> Any:
    ((value,),) = _rows(connection, query, values)
    return value


def _delete(connection: Connection, ids: list[int]) -> None:
    with connection, connection.cursor() as cursor:
        cursor.execute(_SQL["delete_tags"], {"ids": array(ids)})
        cursor.execute(_SQL["delete_events"], {"ids": array(ids)})
