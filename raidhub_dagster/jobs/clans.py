"""The weekly crawl of clans, from the choice of players to the board, in one run.

One run because the board must not be refreshed while the members are still being asked for.
"""

import dagster as dg

from assets.clans import crawl_top_clans, top_players
from assets.leaderboards import clan_leaderboard
from raidhub_dagster.jobs.repair import ALONE_TAG

clans_job = dg.define_asset_job(
    "clans_job",
    description="Chooses the top players, asks for their clans and all members, ranks the clans.",
    selection=dg.AssetSelection.assets(top_players, crawl_top_clans, clan_leaderboard),
    tags={ALONE_TAG: "clans_job", "dagster/max_runtime": "10800"},
    executor_def=dg.in_process_executor,  # the steps follow each other, and the crawl has threads
)

CLAN_JOBS = [clans_job]
