"""How a claim about a table becomes an asset check; which claims hold, the area modules say."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from raidhub_dagster.cheat_detection.parameters import Parameters, current_parameters
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.claims import Problem

# A connection, and the start of the run that wrote the table, this one or an earlier: what changed
# since may be unknown to the refresh.
Find = Callable[[Connection, datetime], Sequence[Problem]]


def claim(
    key: dg.AssetKey,
    name: str,
    description: str,
    find: Find,
    *,
    blocking: bool = True,
    pool: str | None = None,
) -> dg.AssetChecksDefinition:
    """The check `<table>_<name>` of asset `key`: it passes when `find` finds no problem.

    A check that could not look raises: unknown is not failed.
    """

    @dg.asset_check(
        asset=key,
        name=f"{key.path[-1]}_{name}",
        description=description,
        blocking=blocking,
        pool=pool,
    )
    def holds(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> dg.AssetCheckResult:
        since = _written_from(context.instance, key, context.run.run_id)
        with dagster_failures(), postgres.connection() as connection:
            return judged(find(connection, since))

    return holds


def claim_of_rules(
    key: dg.AssetKey,
    name: str,
    description: str,
    find: Callable[[Connection, Parameters], Sequence[Problem]],
) -> dg.AssetChecksDefinition:
    """The same of a claim that depends on the cheat rules in use; it stops nothing."""

    @dg.asset_check(asset=key, name=f"{key.path[-1]}_{name}", description=description)
    def holds(postgres: PostgresResource) -> dg.AssetCheckResult:
        with dagster_failures(), postgres.connection() as connection:
            return judged(find(connection, current_parameters(postgres.open_settings())))

    return holds


def _written_from(instance: dg.DagsterInstance, key: dg.AssetKey, run_id: str) -> datetime:
    """Start of the run that materialized `key` last; of `run_id` when none did."""
    event = instance.get_latest_materialization_event(key)
    for writer in (event.run_id if event is not None else "", run_id):
        record = instance.get_run_record_by_id(writer) if writer else None
        if record is not None and record.start_time is not None:
            return datetime.fromtimestamp(record.start_time, UTC)
    return datetime.now(UTC)


def judged(problems: Sequence[Problem], **looked_at: int) -> dg.AssetCheckResult:
    """Passed without problems; each of them is a row of the metadata, after `looked_at`."""
    told = [
        dg.TableRecord(
            {"claim": p.claim, "rows": p.rows, "examples": ", ".join(map(str, p.examples))}
        )
        for p in problems
    ]
    return dg.AssetCheckResult(
        passed=not problems,
        description="; ".join(p.claim for p in problems) or None,
        metadata={
            **looked_at,
            "broken_rows": sum(p.rows for p in problems),
            "at_most": 0,
            "problems": dg.MetadataValue.table(told, schema=_PROBLEMS),
        },
    )


_PROBLEMS = dg.TableSchema(
    [
        dg.TableColumn("claim", "string", description="What should hold and does not."),
        dg.TableColumn("rows", "int", description="Rows that break it."),
        dg.TableColumn("examples", "string", description="Up to five of their ids."),
    ]
)
