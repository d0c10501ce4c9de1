"""The game's manifest: which version is out, its file, the definitions and raids that are in it.

Dagster owns these; manifest_version_sensor starts their job. What is read from a manifest, and how
a version comes to be the current one: docs/domain/definitions.md.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import dagster as dg
from pydantic import Field

from assets.definitions import ACTIVITY_DEFINITION, ACTIVITY_VERSION, VERSION_DEFINITION
from assets.tables import OWNERS, RETRY, Checked, shown
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.manifest.load import (
    CLASSES,
    FEATS,
    WEAPONS,
    Loaded,
    Target,
    copy_definitions,
    find_unknown_raids,
    late_loads,
    load_target,
)
from raidhub_dagster.manifest.versions import bring, choose
from raidhub_dagster.resources import BungieResource, ClickHouseResource, PostgresResource

# Nobody else may write the folder, or the tables from it, at the same time.
WORK = "manifest"
# Of what metadata list; the counts beside them are of all.
SHOWN = 50


VERSION_KEY = dg.AssetKey(["bungie", "manifest_version"])
DATABASE_KEY = dg.AssetKey(["bungie", "manifest_database"])
UNKNOWN_RAIDS_KEY = dg.AssetKey(["bungie", "unknown_raid_hashes"])
VERSION_CHECK = dg.AssetCheckSpec(
    "manifest_version_is_published",
    asset=VERSION_KEY,
    description="Bungie publishes this version; with `disk` it is only the newest file here.",
)
DATABASE_CHECK = dg.AssetCheckSpec(
    "manifest_database_has_every_table",
    asset=DATABASE_KEY,
    description="Each table that is loaded has rows, also in a file that passed before: the folder "
    "is open to people. Load with `force` to have it anew.",
    blocking=True,
)
UNKNOWN_RAIDS_CHECK = dg.AssetCheckSpec(
    "unknown_raid_hashes_are_none",
    asset=UNKNOWN_RAIDS_KEY,
    description="activity_version knows every raid of the manifest; else its reports are parked.",
)


class VersionConfig(dg.Config):
    disk: bool = Field(
        default=False,
        description="Use the newest *.content in the folder, without asking Bungie.",
    )


class DatabaseConfig(dg.Config):
    force: bool = Field(
        default=False, description="Download and check even what is the current file already."
    )
    most_change_percent: int = Field(
        default=20,
        description="Refuse a file of which items or activities are more or fewer by this share; "
        "raise it once you have looked at the file.",
    )


class LoadConfig(dg.Config):
    force: bool = Field(
        default=False, description="Load even what was loaded from this very version."
    )


@dg.asset(
    key=VERSION_KEY,
    group_name="manifest",
    kinds={"bungie"},
    owners=OWNERS,
    description="The version of the manifest that Bungie publishes; the steps after it load that.",
    check_specs=[VERSION_CHECK],
    pool="bungie",
    retry_policy=RETRY,
)
def manifest_version(
    config: VersionConfig, bungie: BungieResource, postgres: PostgresResource
) -> Checked:  # type: ignore[type-arg]
    with dagster_failures(), postgres.connection() as connection:
        version = choose(connection, bungie.client, bungie.manifest_folder(), disk=config.disk)
        late = late_loads(connection, version.name)
    return Checked(
        metadata={
            "dagster/row_count": 1,
            "version": version.name,
            "label": version.label,
            "path": version.path,
            "is_unchanged": not late,
            "to_load": ", ".join(late) or "nothing",
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=VERSION_CHECK.name,
                asset_key=VERSION_KEY,
                passed=not config.disk,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{version.name} from disk" if config.disk else None,
                metadata={"version": version.name, "path": version.path},
            )
        ],
    )


@dg.asset(
    key=DATABASE_KEY,
    group_name="manifest",
    kinds={"bungie"},
    owners=OWNERS,
    description="The SQLite file of that version, checked before it becomes the current one. "
    "Three older ones are kept.",
    deps=[manifest_version],
    check_specs=[DATABASE_CHECK],
    pool="bungie",
    retry_policy=RETRY,
)
def manifest_database(
    config: DatabaseConfig, bungie: BungieResource, postgres: PostgresResource
) -> Checked:  # type: ignore[type-arg]
    with dagster_failures(), postgres.work(WORK) as connection:
        brought = bring(
            connection,
            bungie.client,
            bungie.manifest_folder(),
            force=config.force,
            most_change_percent=config.most_change_percent,
        )
    empty = sorted(table for table, rows in brought.rows.items() if rows == 0)
    return Checked(
        metadata={
            "dagster/row_count": sum(brought.rows.values()),
            "version": brought.version.name,
            "path": dg.MetadataValue.path(brought.path.absolute()),
            "is_unchanged": brought.is_unchanged,
            "downloaded_bytes": brought.zip_bytes,
            "database_bytes": brought.path.stat().st_size,
            "tables": shown([{"table": t, "rows": n} for t, n in brought.rows.items()]),
            "pruned": ", ".join(brought.pruned) or "none",
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=DATABASE_CHECK.name,
                asset_key=DATABASE_KEY,
                passed=not empty,
                description=f"empty: {', '.join(empty)}" if empty else None,
                metadata={"tables": len(brought.rows), "empty": len(empty), "at_most": 0},
            )
        ],
    )


def _definitions(
    name: str, target: Target, *, description: str, deps: Sequence[dg.AssetSpec] = ()
) -> dg.AssetsDefinition:
    """The asset of table `definitions.<target.table>`."""

    @dg.asset(
        key=["postgres", name],
        group_name="manifest",
        kinds={"postgres"},
        owners=OWNERS,
        description=description,
        deps=[manifest_database, *deps],
        metadata={"dagster/table_name": f"definitions.{target.table}"},
        retry_policy=RETRY,
    )
    def load(
        config: LoadConfig, bungie: BungieResource, postgres: PostgresResource
    ) -> dg.MaterializeResult[None]:
        with dagster_failures(), postgres.work(WORK) as connection:
            folder = bungie.manifest_folder()
            loaded = load_target(connection, folder, target, force=config.force)
        return dg.MaterializeResult(metadata=_told(loaded))

    return load


def _told(loaded: Loaded) -> dict[str, str | int | float | dg.TableMetadataValue]:
    """What a load did, and what a person has to look at."""
    found = loaded.found
    unknown = sorted(found.unknown.items(), key=lambda item: -len(item[1]))
    return {
        "dagster/row_count": loaded.rows,
        "version": loaded.version,
        "is_unchanged": loaded.is_unchanged,
        "seconds": round(loaded.seconds, 3),
        "inserted": loaded.inserted,
        "updated": loaded.updated,
        "unchanged": loaded.unchanged,
        "vanished": loaded.vanished,
        "redacted": len(found.redacted),
        "bad": len(found.bad),
        "bad_records": shown([bad._asdict() for bad in found.bad[:SHOWN]]),
        "unknown": sum(len(hashes) for hashes in found.unknown.values()),
        "unknown_values": shown(
            [
                {"field": f, "value": v, "records": len(hashes), "examples": str(hashes[:5])}
                for (f, v), hashes in unknown[:SHOWN]
            ]
        ),
    }


weapon_definitions = _definitions(
    "weapon_definitions",
    WEAPONS,
    description="Every weapon: name, icon, type, element, slot, ammunition, rarity.",
)
class_definitions = _definitions(
    "class_definitions",
    CLASSES,
    description="Hunter, Titan, Warlock: names of the class hashes that characters carry.",
)
activity_feat_definitions = _definitions(
    "activity_feat_definitions",
    FEATS,
    description="Feats by skull hash, as the activities that we know offer them; the custom race "
    "counts distinct ones.",
    deps=[ACTIVITY_VERSION],
)


@dg.asset(
    key=UNKNOWN_RAIDS_KEY,
    group_name="manifest",
    kinds={"bungie"},
    owners=OWNERS,
    description="Activities that the manifest calls raids and activity_version does not know: "
    "their reports are parked until `raidhub seed` knows them. A report, no table.",
    deps=[manifest_database, ACTIVITY_VERSION],
    check_specs=[UNKNOWN_RAIDS_CHECK],
    retry_policy=RETRY,
)
def unknown_raid_hashes(bungie: BungieResource, postgres: PostgresResource) -> Checked:  # type: ignore[type-arg]
    with dagster_failures(), postgres.connection() as connection:
        found = find_unknown_raids(connection, bungie.manifest_folder())
    return Checked(
        metadata={
            "dagster/row_count": len(found.rows),
            "version": found.version,
            "raids": shown(found.rows),
            "parked_reports": found.parked_reports,
            "known_hashes": found.known,
            "not_in_manifest": str(found.not_in_manifest),
            "bad_records": shown([bad._asdict() for bad in found.bad[:SHOWN]]),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=UNKNOWN_RAIDS_CHECK.name,
                asset_key=UNKNOWN_RAIDS_KEY,
                passed=not found.rows,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{len(found.rows)} raids of the manifest have no activity_version"
                if found.rows
                else None,
                metadata={"unknown": len(found.rows), "at_most": 0},
            )
        ],
    )


_COPIES: dict[str, list[dg.AssetSpec | dg.AssetsDefinition]] = {
    "activity_version": [ACTIVITY_VERSION],
    "activity": [ACTIVITY_DEFINITION],
    "version": [VERSION_DEFINITION],
    "weapon_definition": [weapon_definitions],
}


@dg.multi_asset(
    name="clickhouse_lookups",
    specs=[
        dg.AssetSpec(
            ["clickhouse", table],
            group_name="manifest",
            kinds={"clickhouse"},
            owners=OWNERS,
            description="ClickHouse's copy of the definitions of the same name: its views turn "
            "hashes into activities and weapons by it. All four are made anew together.",
            deps=deps,
            metadata={"dagster/table_name": table},
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=30)),
        )
        for table, deps in _COPIES.items()
    ],
    pool="clickhouse_insert",
    retry_policy=RETRY,
)
def clickhouse_lookups(
    postgres: PostgresResource, clickhouse: ClickHouseResource
) -> Iterator[dg.MaterializeResult[None]]:
    with (
        dagster_failures(),
        postgres.connection() as connection,
        clickhouse.client() as client,
    ):
        refreshed = copy_definitions(connection, client)
    for copy in refreshed:
        yield dg.MaterializeResult(
            asset_key=["clickhouse", copy.table], metadata={"dagster/row_count": copy.rows}
        )
