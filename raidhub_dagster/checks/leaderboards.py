"""What must hold after each refresh of a leaderboard; a broken board stops those that read it.

The claims, and the SQL behind them, stand in storage/leaderboards.py.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import dagster as dg
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

from assets.leaderboards import WFR_SCORE_KEY, leaderboard_key
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.leaderboards import (
    VIEWS,
    Problem,
    check_positions,
    check_wfr_score,
)

# A connection, and the start of the run: what changed since may be unknown to the refresh.
Find = Callable[[Connection, datetime], Sequence[Problem]]


def _check(key: dg.AssetKey, claim: str, description: str, find: Find) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key, name=f"{key.path[-1]}_{claim}", description=description, blocking=True
    )
    def holds(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> dg.AssetCheckResult:
        record = context.instance.get_run_record_by_id(context.run.run_id)
        started = record.start_time if record is not None else None
        since = datetime.now(UTC) if started is None else datetime.fromtimestamp(started, UTC)
        with dagster_failures(), postgres.connection() as connection:
            problems = find(connection, since)
        told = [
            dg.TableRecord({"claim": p.claim, "rows": p.rows, "examples": str(p.examples)})
            for p in problems
        ]
        return dg.AssetCheckResult(
            passed=not problems,
            description="; ".join(p.claim for p in problems) or None,
            metadata={
                "broken_rows": sum(p.rows for p in problems),
                "at_most": 0,
                "problems": dg.MetadataValue.table(told, schema=_PROBLEMS),
            },
        )

    return holds


def _check_board(view: str) -> Find:
    return lambda connection, since: check_positions(connection, view, since)


_PROBLEMS = dg.TableSchema(
    [
        dg.TableColumn("claim", "string", description="What should hold and does not."),
        dg.TableColumn("rows", "int", description="Rows that break it."),
        dg.TableColumn("examples", "string", description="Up to five of their ids."),
    ]
)

LEADERBOARD_CHECKS = [
    _check(
        leaderboard_key(view),
        "is_dense_and_eligible",
        "Positions run from 1 without holes, because readers page by them, and nobody on the "
        "board is private, blacklisted or known to cheat. An empty board passes.",
        _check_board(view),
    )
    for view in VIEWS
] + [
    _check(
        WFR_SCORE_KEY,
        "follows_the_races",
        "Every player has the score that the world-first races give, 0 without one.",
        lambda connection, _since: check_wfr_score(connection),
    )
]
