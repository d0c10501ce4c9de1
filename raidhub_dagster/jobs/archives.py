"""Imports of archives, reprocessing of kept reports, and the repair of skulls from them."""

from typing import Any

import dagster as dg
from pydantic import Field

from assets.archives import PGCR_ARCHIVE_KEY, REPROCESSED_PGCR_KEY
from raidhub_dagster.execution import WAITING_RUN, pods_or_in_process
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.jobs.repair import RepairConfig, Report, repair_job, tell
from raidhub_dagster.resources import PostgresResource
from raidhub_dagster.storage import reprocess

_HALF_A_DAY_S = "43200"

archives_job = dg.define_asset_job(
    "archives_job",
    description="Stores the raids of historical archives, one file a partition.",
    selection=dg.AssetSelection.assets(PGCR_ARCHIVE_KEY),
    tags={"dagster/max_runtime": _HALF_A_DAY_S, **WAITING_RUN},
    executor_def=pods_or_in_process,
)
reprocessing_job = dg.define_asset_job(
    "reprocessing_job",
    description="Compares kept reports with their rows, and repairs those when asked to.",
    selection=dg.AssetSelection.assets(REPROCESSED_PGCR_KEY),
    tags={"dagster/max_runtime": _HALF_A_DAY_S, **WAITING_RUN},
    executor_def=pods_or_in_process,
)


class SkullConfig(RepairConfig):
    hash: int = Field(
        default=1044919065, description="Activity hash whose instances are read again."
    )
    first_id: int = Field(default=1, description="The first instance id.")
    below_id: int = Field(
        default=16377060020, description="Instances from this id on are right already."
    )


@dg.op(
    description="Reads the skulls (feats) of all instances of a hash out of their kept reports "
    "again. Ranks that filter by feats follow with their next refresh."
)
def update_skull_hashes(
    context: dg.OpExecutionContext, config: SkullConfig, postgres: PostgresResource
) -> None:
    with dagster_failures(), postgres.work("update_skull_hashes") as connection:
        reprocess.check_order(config.first_id, config.below_id - 1, "first_id", "below_id - 1 =")
        done = reprocess.update_skull_hashes(
            connection,
            config.hash,
            config.first_id,
            config.below_id - 1,
            dry_run=config.dry_run,
        )
    tell(
        context,
        Report(
            f"Skulls of hash {config.hash}, ids {config.first_id} to {config.below_id - 1}",
            {
                "instances": done.read,
                "changed": done.changed,
                "unreadable": done.unreadable,
            },
            {"First changes": done.examples},
            is_preview=config.dry_run,
        ),
    )


ARCHIVE_JOBS: list[Any] = [
    archives_job,
    reprocessing_job,
    repair_job(update_skull_hashes),
]
