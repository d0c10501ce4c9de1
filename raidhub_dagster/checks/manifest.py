"""What must hold after each load of the manifest; a broken table is not copied to ClickHouse.

The claims stand in manifest/claims.py.
"""

import dagster as dg

from assets.manifest import (
    activity_feat_definitions,
    class_definitions,
    clickhouse_lookups,
    weapon_definitions,
)
from raidhub_dagster.checks.claims import Find, claim, judged
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.manifest.claims import check_copy, check_hashes, check_slots
from raidhub_dagster.manifest.load import CLASSES, FEATS, WEAPONS, Target
from raidhub_dagster.resources import ClickHouseResource, PostgresResource


def _check(target: Target) -> Find:
    return lambda connection, _since: check_hashes(connection, target)


def _copy_claim(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    """The check that lookup `key` has as many rows as PostgreSQL."""
    table = key.path[-1]

    @dg.asset_check(
        asset=key,
        name=f"{table}_copy_is_whole",
        description="ClickHouse has as many rows as PostgreSQL: a hash that it lacks is missing "
        "from every aggregate.",
    )
    def is_whole(postgres: PostgresResource, clickhouse: ClickHouseResource) -> dg.AssetCheckResult:
        with (
            dagster_failures(),
            postgres.connection() as connection,
            clickhouse.client() as client,
        ):
            return judged(check_copy(connection, client, table))

    return is_whole


MANIFEST_CHECKS = [
    *(
        claim(
            asset.key,
            "have_usable_hashes",
            "The table has rows, and their hashes are as reports carry them: 32 bits, no sign.",
            _check(target),
        )
        for asset, target in (
            (weapon_definitions, WEAPONS),
            (class_definitions, CLASSES),
            (activity_feat_definitions, FEATS),
        )
    ),
    claim(
        weapon_definitions.key,
        "have_known_slots",
        "Readers show the best weapons of the slots Kinetic, Energy and Power; besides there is "
        "only Unknown.",
        lambda connection, _since: check_slots(connection),
    ),
    *(_copy_claim(key) for key in sorted(clickhouse_lookups.keys)),
]
