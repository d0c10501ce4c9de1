"""What of a player follows from other columns and is no board's input: the score of the search."""

import time

import dagster as dg

from assets.core import PLAYER
from assets.leaderboards import RefreshConfig, wfr_score
from assets.tables import OWNERS, RETRY, WEEKLY
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.derived_columns import repair_search_scores

SEARCH_SCORE_KEY = dg.AssetKey(["postgres", "search_score"])


@dg.asset(
    key=SEARCH_SCORE_KEY,
    group_name="players",
    kinds={"postgres"},
    owners=OWNERS,
    description="In which order the search shows players: the column _search_score of core.player, "
    "from clears, the time last seen and the race score. PostgreSQL generates it; this finds and "
    "computes anew those that differ all the same, after a load around it or a change of server.",
    deps=[PLAYER, wfr_score],
    metadata={"dagster/table_name": "core.player"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=WEEKLY,
)
def search_score(config: RefreshConfig, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with dagster_failures(), postgres.connection() as connection:
        done = repair_search_scores(connection, timeout_s=config.timeout_s)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.rows,
            "changed_players": done.changed,
            "seconds": round(time.monotonic() - started, 3),
        }
    )
