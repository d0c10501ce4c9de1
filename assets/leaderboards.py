"""The leaderboards: ranks that readers page through, and the score that the races give players.

Dagster owns these. Each asset refreshes one materialized view without locking its readers out;
what the views rank, and who is eligible, is in docs/domain/leaderboards.md.
"""

import time
from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from assets.core import INSTANCE, INSTANCE_PLAYER, PLAYER, PLAYER_STATS
from assets.definitions import ACTIVITY_DEFINITION, ACTIVITY_VERSION
from assets.manifest import activity_feat_definitions
from assets.tables import DAILY, OWNERS, RETRY, WEEKLY, shown
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.derived_columns import refresh_sums_of_best
from raidhub_dagster.storage.leaderboards import (
    WFR_SCORE,
    fingerprint,
    refresh_view,
    refresh_wfr_score,
    top,
    top_scores,
)

WFR_SCORE_KEY = dg.AssetKey(["postgres", "wfr_score"])
SUM_OF_BEST_KEY = dg.AssetKey(["postgres", "sum_of_best"])
CLAN_MEMBERS_KEY = dg.AssetKey(["postgres", "clan_members"])  # assets/clans.py, which reads ranks


def leaderboard_key(view: str) -> dg.AssetKey:
    return dg.AssetKey(["postgres", view])


def _after_change(of: dg.AssetKey, cron: str) -> dg.AutomationCondition[dg.AssetKey]:
    """Once `of` says something else than before (its data version), at the next tick of `cron`.

    Work that the schedules do anyway is not repeated: a run that refreshes both does not count, nor
    does a refresh after which the rows are the same, as on every day without a race. The cron
    bounds the rest: during a race, which is refreshed every 5 minutes, one run an hour.
    """
    changed = dg.AutomationCondition.any_deps_match(
        dg.AutomationCondition.data_version_changed()
        & ~dg.AutomationCondition.executed_with_root_target()
    ).allow(dg.AssetSelection.assets(of))
    handled = dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    return (
        dg.AutomationCondition.cron_tick_passed(cron)
        & changed.since(handled)
        & ~dg.AutomationCondition.in_progress()
    ).with_label(f"after a change of {of.path[-1]}")


class RefreshConfig(dg.Config):
    # No bound here: Dagster checks it inside the step, where the retry policy repeats it in vain.
    # PostgreSQL refuses a negative limit, and that is not repeated.
    timeout_s: int = Field(
        default=900,
        description="Statement limit, 0 for none; past it the work hurts other statements more "
        "than stale ranks hurt readers.",
    )


def _leaderboard(
    view: str,
    *,
    description: str,
    deps: Sequence[dg.AssetSpec | dg.AssetsDefinition | dg.AssetKey],
    fresh: dg.FreshnessPolicy = DAILY,
    condition: dg.AutomationCondition[dg.AssetKey] | None = None,
) -> dg.AssetsDefinition:
    """The asset of materialized view `leaderboard.<view>`."""

    @dg.asset(
        key=leaderboard_key(view),
        group_name="leaderboards",
        kinds={"postgres"},
        owners=OWNERS,
        description=description,
        deps=deps,
        metadata={"dagster/table_name": f"leaderboard.{view}"},
        pool="postgres_refresh",
        retry_policy=RETRY,
        freshness_policy=fresh,
        automation_condition=condition,
    )
    def refresh(config: RefreshConfig, postgres: PostgresResource) -> dg.MaterializeResult[None]:
        with dagster_failures(), postgres.connection() as connection:
            done = refresh_view(connection, view, timeout_s=config.timeout_s)
            best = top(connection, view)
            version = fingerprint(connection, view)
        return dg.MaterializeResult(
            data_version=None if version is None else dg.DataVersion(version),
            metadata={
                "dagster/row_count": done.rows,
                "seconds": round(done.seconds, 3),
                "size_bytes": done.size_bytes,
                "unseen_from": done.unseen_from,
                "top_10": shown(best),
            },
        )

    return refresh


world_first_contest_leaderboard = _leaderboard(
    "world_first_contest_leaderboard",
    description="Teams by how soon after a raid's release they cleared it under contest rules.",
    deps=[INSTANCE, INSTANCE_PLAYER, ACTIVITY_DEFINITION, ACTIVITY_VERSION],
)
individual_raid_leaderboard = _leaderboard(
    "individual_raid_leaderboard",
    description="Players within each raid: clears, fresh clears, sherpas, time.",
    deps=[PLAYER, PLAYER_STATS, ACTIVITY_DEFINITION],
)
individual_pantheon_version_leaderboard = _leaderboard(
    "individual_pantheon_version_leaderboard",
    description="Players within each Pantheon boss: clears, fresh clears, score.",
    deps=[PLAYER, INSTANCE, INSTANCE_PLAYER, ACTIVITY_VERSION],
)
team_activity_version_leaderboard = _leaderboard(
    "team_activity_version_leaderboard",
    description="The first thousand teams to clear each version of each activity.",
    deps=[INSTANCE, INSTANCE_PLAYER, ACTIVITY_DEFINITION, ACTIVITY_VERSION],
)
team_pantheon_custom_race_leaderboard = _leaderboard(
    "team_pantheon_custom_race_leaderboard",
    description="Teams by how soon they cleared Insurrection Prime with exactly five feats, in "
    "the race of 13 to 15 June 2026.",
    deps=[INSTANCE, INSTANCE_PLAYER, ACTIVITY_VERSION, activity_feat_definitions],
)


@dg.asset(
    key=WFR_SCORE_KEY,
    group_name="leaderboards",
    kinds={"postgres"},
    owners=OWNERS,
    description="Every player's score from the best rank in each world-first race, 0 without one: "
    "the column wfr_score of core.player. Rows are the players above 0.",
    deps=[world_first_contest_leaderboard, PLAYER],
    metadata={"dagster/table_name": "core.player"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=DAILY,
    automation_condition=_after_change(
        leaderboard_key("world_first_contest_leaderboard"), "20 * * * *"
    ),
)
def wfr_score(config: RefreshConfig, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with dagster_failures(), postgres.connection() as connection:
        changed = refresh_wfr_score(connection, timeout_s=config.timeout_s)
        scored, best = top_scores(connection)
        version = fingerprint(connection, WFR_SCORE)
    return dg.MaterializeResult(
        data_version=None if version is None else dg.DataVersion(version),
        metadata={
            "dagster/row_count": scored,
            "changed_players": changed,
            "seconds": round(time.monotonic() - started, 3),
            "top_10": shown(best),
        },
    )


@dg.asset(
    key=SUM_OF_BEST_KEY,
    group_name="leaderboards",
    kinds={"postgres"},
    owners=OWNERS,
    description="Every player's fastest fresh clears of all raids in the game, added up; null "
    "without one of them: the column sum_of_best of core.player. The store keeps it current, this "
    "brings it to changed definitions. Rows are the players with a sum.",
    deps=[PLAYER_STATS, INSTANCE, ACTIVITY_DEFINITION],
    metadata={"dagster/table_name": "core.player"},
    pool="postgres_refresh",
    retry_policy=RETRY,
    freshness_policy=WEEKLY,
)
def sum_of_best(config: RefreshConfig, postgres: PostgresResource) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with dagster_failures(), postgres.connection() as connection:
        done = refresh_sums_of_best(connection, timeout_s=config.timeout_s)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": done.rows,
            "changed_players": done.changed,
            "seconds": round(time.monotonic() - started, 3),
        }
    )


individual_global_leaderboard = _leaderboard(
    "individual_global_leaderboard",
    description="Players over all raids: clears, fresh clears, sherpas, speed, time, race score.",
    deps=[PLAYER, wfr_score, sum_of_best],
    condition=_after_change(WFR_SCORE_KEY, "40 * * * *"),
)
clan_leaderboard = _leaderboard(
    "clan_leaderboard",
    description="Clans by what their known members did, and by their race scores.",
    deps=[PLAYER, wfr_score, CLAN_MEMBERS_KEY],
    fresh=WEEKLY,
    condition=_after_change(WFR_SCORE_KEY, "50 * * * *"),
)
