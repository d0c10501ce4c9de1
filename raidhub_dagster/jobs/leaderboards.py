"""Which leaderboards are refreshed together: all of them, and one job for each time of day.

The checks of a board run with it; a failed one keeps the boards that read it as they were. The
repair `refresh_view` refreshes one board with what it needs, and checks nothing.
"""

import time
from typing import Any

import dagster as dg
from pydantic import Field

from assets.leaderboards import (
    individual_global_leaderboard,
    individual_pantheon_version_leaderboard,
    individual_raid_leaderboard,
    team_activity_version_leaderboard,
    team_pantheon_custom_race_leaderboard,
    wfr_score,
    world_first_contest_leaderboard,
)
from assets.tables import RETRY
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import ALONE_TAG, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage.leaderboards import (
    ALL,
    WFR_SCORE,
    refresh_order,
    refresh_wfr_score,
)
from raidhub_dagster.storage.leaderboards import (
    refresh_view as refresh,
)


def _short_steps(name: str) -> dict[str, Any]:
    """What all share. Another run of the same job waits: it would only rank the same rows again."""
    return {
        "name": name,
        "tags": {"dagster/max_runtime": "3600", ALONE_TAG: name},
        "executor_def": dg.in_process_executor,  # a process for each step would add 2.6 s
    }


leaderboards_job = dg.define_asset_job(
    description="Refreshes every leaderboard, those that others read first.",
    selection=dg.AssetSelection.groups("leaderboards"),
    **_short_steps("leaderboards_job"),
)
leaderboards_raid_job = dg.define_asset_job(
    description="Ranks players within each raid.",
    selection=dg.AssetSelection.assets(individual_raid_leaderboard),
    **_short_steps("leaderboards_raid_job"),
)
leaderboards_global_job = dg.define_asset_job(
    description="Ranks players over all raids.",
    selection=dg.AssetSelection.assets(individual_global_leaderboard),
    **_short_steps("leaderboards_global_job"),
)
leaderboards_world_first_job = dg.define_asset_job(
    description="Ranks the world-first races, then scores every player by them.",
    selection=dg.AssetSelection.assets(world_first_contest_leaderboard, wfr_score),
    **_short_steps("leaderboards_world_first_job"),
)
leaderboards_contest_job = dg.define_asset_job(
    description="Ranks the world-first races alone, to follow one live.",
    selection=dg.AssetSelection.assets(world_first_contest_leaderboard),
    **_short_steps("leaderboards_contest_job"),
)
leaderboards_version_job = dg.define_asset_job(
    description="Ranks teams by activity and version, players by Pantheon boss, the custom race.",
    selection=dg.AssetSelection.assets(
        team_activity_version_leaderboard,
        individual_pantheon_version_leaderboard,
        team_pantheon_custom_race_leaderboard,
    ),
    **_short_steps("leaderboards_version_job"),
)
leaderboards_custom_race_job = dg.define_asset_job(
    description="Ranks the Pantheon custom race alone, to follow it live.",
    selection=dg.AssetSelection.assets(team_pantheon_custom_race_leaderboard),
    **_short_steps("leaderboards_custom_race_job"),
)


class RefreshViewConfig(dg.Config):
    view: str = Field(
        default=ALL,
        description="Name of a materialized view of schema leaderboard, without the schema; "
        "`all` refreshes every one.",
    )
    timeout_s: int = Field(default=3600, description="Statement limit, 0 for none.")


@dg.op(
    description="Refreshes one leaderboard, or all, after what it needs: the races before the "
    "score, the score before the boards that rank it. Readers go on reading the old ranks.",
    pool="postgres_refresh",
    retry_policy=RETRY,
)
def refresh_view(
    context: dg.OpExecutionContext, config: RefreshViewConfig, postgres: PostgresResource
) -> None:
    """Each refreshed view is also materialized in Dagster's books: its page shows the refresh."""
    done: list[dict[str, object]] = []
    with dagster_failures(), postgres.work("refresh_view") as connection:
        for name in refresh_order(config.view):
            began = time.monotonic()
            if name == WFR_SCORE:
                changed = refresh_wfr_score(connection, timeout_s=config.timeout_s)
                metadata: dict[str, Any] = {"changed_players": changed}
            else:
                view = refresh(connection, name, timeout_s=config.timeout_s)
                metadata = {
                    "dagster/row_count": view.rows,
                    "size_bytes": view.size_bytes,
                    "unseen_from": view.unseen_from,
                }
            metadata["seconds"] = round(time.monotonic() - began, 3)
            context.log_event(
                dg.AssetMaterialization(dg.AssetKey(["postgres", name]), metadata=metadata)
            )
            rows = metadata.get("dagster/row_count", metadata.get("changed_players"))
            done.append({"refreshed": name, "rows": rows, "seconds": metadata["seconds"]})
    tell(context, Report("Leaderboards refreshed", {"refreshed": len(done)}, {"In order": done}))


LEADERBOARD_JOBS = [
    leaderboards_job,
    leaderboards_raid_job,
    leaderboards_global_job,
    leaderboards_world_first_job,
    leaderboards_contest_job,
    leaderboards_version_job,
    leaderboards_custom_race_job,
    repair_job(refresh_view),
]
