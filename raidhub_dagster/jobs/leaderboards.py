"""Which leaderboards are refreshed together: all of them, and one job for each time of day.

The checks of a board run with it; a failed one keeps the boards that read it as they were.
"""

from typing import Any

import dagster as dg

from assets.leaderboards import (
    individual_global_leaderboard,
    individual_pantheon_version_leaderboard,
    individual_raid_leaderboard,
    team_activity_version_leaderboard,
    team_pantheon_custom_race_leaderboard,
    wfr_score,
    world_first_contest_leaderboard,
)

_SHORT_STEPS: dict[str, Any] = {
    "tags": {"dagster/max_runtime": "3600"},
    "executor_def": dg.in_process_executor,  # a process for each step would add 2.6 s
}

leaderboards_job = dg.define_asset_job(
    "leaderboards_job",
    description="Refreshes every leaderboard, those that others read first.",
    selection=dg.AssetSelection.groups("leaderboards"),
    **_SHORT_STEPS,
)
leaderboards_raid_job = dg.define_asset_job(
    "leaderboards_raid_job",
    description="Ranks players within each raid.",
    selection=dg.AssetSelection.assets(individual_raid_leaderboard),
    **_SHORT_STEPS,
)
leaderboards_global_job = dg.define_asset_job(
    "leaderboards_global_job",
    description="Ranks players over all raids.",
    selection=dg.AssetSelection.assets(individual_global_leaderboard),
    **_SHORT_STEPS,
)
leaderboards_world_first_job = dg.define_asset_job(
    "leaderboards_world_first_job",
    description="Ranks the world-first races, then scores every player by them.",
    selection=dg.AssetSelection.assets(world_first_contest_leaderboard, wfr_score),
    **_SHORT_STEPS,
)
leaderboards_contest_job = dg.define_asset_job(
    "leaderboards_contest_job",
    description="Ranks the world-first races alone, to follow one live.",
    selection=dg.AssetSelection.assets(world_first_contest_leaderboard),
    **_SHORT_STEPS,
)
leaderboards_version_job = dg.define_asset_job(
    "leaderboards_version_job",
    description="Ranks teams by activity and version, players by Pantheon boss, the custom race.",
    selection=dg.AssetSelection.assets(
        team_activity_version_leaderboard,
        individual_pantheon_version_leaderboard,
        team_pantheon_custom_race_leaderboard,
    ),
    **_SHORT_STEPS,
)
leaderboards_custom_race_job = dg.define_asset_job(
    "leaderboards_custom_race_job",
    description="Ranks the Pantheon custom race alone, to follow it live.",
    selection=dg.AssetSelection.assets(team_pantheon_custom_race_leaderboard),
    **_SHORT_STEPS,
)

LEADERBOARD_JOBS = [
    leaderboards_job,
    leaderboards_raid_job,
    leaderboards_global_job,
    leaderboards_world_first_job,
    leaderboards_contest_job,
    leaderboards_version_job,
    leaderboards_custom_race_job,
]
