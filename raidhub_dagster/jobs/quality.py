"""Every check of the location in one run, apart from the work that they check."""

import dagster as dg

quality_job = dg.define_asset_job(
    "quality_job",
    description="Runs every asset check: samples, recounts, ranks, freshness, queues. Changes "
    "nothing. What fails is told to Discord and stands on the asset's page.",
    selection=dg.AssetSelection.all_asset_checks(),
    tags={"dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,  # a hundred short steps: 2.6 s each as processes
)

QUALITY_JOBS = [quality_job]
