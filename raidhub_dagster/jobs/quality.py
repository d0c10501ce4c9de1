"""Every check of the location in one run, apart from the work that they check."""

import dagster as dg

from assets import analytics, archives, cheat_learning, cheats, manifest, reports
from raidhub_dagster.jobs.repair import ALONE_TAG

# Some steps check what they just did: these have no step of theirs, and running them would do it.
_OF_THEIR_STEPS = [
    check
    for module in (analytics, archives, cheat_learning, cheats, manifest, reports)
    for asset in vars(module).values()
    if isinstance(asset, dg.AssetsDefinition)
    for check in asset.check_keys
]

quality_job = dg.define_asset_job(
    "quality_job",
    description="Runs every asset check that stands alone: samples, recounts, ranks, freshness, "
    "queues. Changes nothing. What fails is told to Discord and stands on the asset's page.",
    selection=dg.AssetSelection.all_asset_checks() - dg.AssetSelection.checks(*_OF_THEIR_STEPS),
    tags={ALONE_TAG: "quality_job", "dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,  # a hundred short steps: 2.6 s each as processes
)

QUALITY_JOBS = [quality_job]
