"""The manifest from Bungie's answer to the last copy of it, and those copies alone."""

import dagster as dg
from pydantic import Field

from assets.manifest import (
    DatabaseConfig,
    LoadConfig,
    VersionConfig,
    activity_feat_definitions,
    class_definitions,
    clickhouse_lookups,
    manifest_database,
    manifest_version,
    weapon_definitions,
)
from raidhub_dagster.jobs.repair import ALONE_TAG


class ManifestConfig(dg.Config):
    """What a person says once, for all steps."""

    force: bool = Field(
        default=False, description="Download, check and load even what was loaded before."
    )
    disk: bool = Field(
        default=False,
        description="Load the newest *.content in the folder, without asking Bungie.",
    )
    most_change_percent: int = Field(
        default=20,
        description="Refuse a file of which items or activities are more or fewer by this share.",
    )


@dg.config_mapping
def _spread(config: ManifestConfig) -> dg.RunConfig:
    loads = (weapon_definitions, class_definitions, activity_feat_definitions)
    return dg.RunConfig(
        ops={
            manifest_version.op.name: VersionConfig(disk=config.disk),
            manifest_database.op.name: DatabaseConfig(
                force=config.force, most_change_percent=config.most_change_percent
            ),
            **{load.op.name: LoadConfig(force=config.force) for load in loads},
        }
    )


manifest_job = dg.define_asset_job(
    "manifest_job",
    description="Brings all definitions of the manifest to the version that Bungie publishes; "
    "what has it already is left alone.",
    selection=dg.AssetSelection.groups("manifest"),
    config=_spread,
    tags={ALONE_TAG: "manifest", "dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,  # the steps share a folder, a process each adds 2.6 s
)
manifest_lookups_job = dg.define_asset_job(
    "manifest_lookups_job",
    description="Makes ClickHouse's copies of the definitions anew.",
    selection=dg.AssetSelection.assets(clickhouse_lookups),
    tags={ALONE_TAG: "manifest", "dagster/max_runtime": "3600"},
    executor_def=dg.in_process_executor,
)

MANIFEST_JOBS = [manifest_job, manifest_lookups_job]
