"""What must hold of tables, by samples: looked at daily, and by hand at any time.

The claims, and the SQL behind them, stand in storage/quality.py. None blocks: nothing that Dagster
computes would be better for waiting.
"""

import dagster as dg

from assets import analytics, clans, core, crawl, definitions
from raidhub_dagster.checks.claims import claim, judged
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import ClickHouseResource
from raidhub_dagster.storage.quality import (
    CLICKHOUSE,
    POSTGRES,
    check_clickhouse,
    check_table,
)

_KEYS = {
    spec.metadata.get("dagster/table_name"): spec.key
    for module in (definitions, crawl, core, analytics, clans)
    for asset in vars(module).values()
    if isinstance(asset, dg.AssetSpec | dg.AssetsDefinition)
    for spec in ([asset] if isinstance(asset, dg.AssetSpec) else asset.specs)
}


def _postgres(table: str) -> dg.AssetChecksDefinition:
    promise = POSTGRES[table]
    return claim(
        _KEYS[table],
        promise.name,
        promise.description,
        lambda connection, _since: check_table(connection, table),
        blocking=False,
    )


def _clickhouse(table: str) -> dg.AssetChecksDefinition:
    promise = CLICKHOUSE[table]

    @dg.asset_check(
        asset=dg.AssetKey(["clickhouse", table]),
        name=f"{table}_{promise.name}",
        description=promise.description,
    )
    def holds(clickhouse: ClickHouseResource) -> dg.AssetCheckResult:
        with dagster_failures(), clickhouse.client(timeout_s=90) as client:
            return judged(check_clickhouse(client, table))

    return holds


QUALITY_CHECKS = [
    *(_postgres(table) for table in POSTGRES),
    *(_clickhouse(table) for table in CLICKHOUSE),
]
