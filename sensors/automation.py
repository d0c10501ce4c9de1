"""Which assets Dagster refreshes by itself when what they read has changed: few, and by name."""

import dagster as dg

from assets.leaderboards import clan_leaderboard, individual_global_leaderboard, wfr_score

# A sensor of its own for these three: one slow automation sensor holds up all it targets. The
# conditions stand with the assets.
scores_automation_sensor = dg.AutomationConditionSensorDefinition(
    "scores_automation_sensor",
    target=dg.AssetSelection.assets(wfr_score, individual_global_leaderboard, clan_leaderboard),
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    run_tags={"dagster/max_runtime": "3600"},
    description="Scores follow the races, global and clan ranks the scores: within the hour when "
    "they changed outside the schedules, never when nothing changed.",
)
