"""How tables are described to Dagster; the tables themselves stand in the group modules."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

import dagster as dg

OWNERS = ["team:raidhub"]

# For lost connections and locks; what fails again by itself is not tried again (failures.py).
RETRY = dg.RetryPolicy(max_retries=2, delay=30, backoff=dg.Backoff.EXPONENTIAL)

# Of what a schedule writes. A step may wait for others in its pool for some time.
DAILY = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))
WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8))

# What an asset that brings its own check returns: beside checks Dagster refuses a type parameter.
Checked = dg.MaterializeResult


def table(
    name: str,
    *,
    group: str,
    description: str,
    deps: Iterable[dg.AssetKey | dg.AssetSpec | dg.AssetsDefinition] = (),
    store: str = "postgres",
    fresh: dg.FreshnessPolicy | None = None,
) -> dg.AssetSpec:
    """The external asset of table `name` (with its schema, as the store knows it).

    Its key is `[store, table]`. A progress sensor finds the asset by the whole name, which stands
    in the metadata `dagster/table_name`. With a policy `fresh` it is materialized when it grew.
    """
    return dg.AssetSpec(
        [store, name.rpartition(".")[2]],
        group_name=group,
        kinds={store},
        owners=OWNERS,
        description=description,
        deps=deps,
        metadata={"dagster/table_name": name},
        freshness_policy=fresh,
    )


def shown(rows: Sequence[Mapping[str, object]]) -> dg.TableMetadataValue:
    """Rows of one query as a table; the type of a column is that of its first known value."""
    types: dict[str, str] = {}
    records = []
    for row in rows:
        cells = {n: v if isinstance(v, int | float | None) else str(v) for n, v in row.items()}
        records.append(dg.TableRecord(cells))
        for name, cell in cells.items():
            if cell is not None:
                types.setdefault(name, _COLUMN_TYPES[type(cell)])
    columns = [dg.TableColumn(name, types.get(name, "string")) for row in rows[:1] for name in row]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


_COLUMN_TYPES: dict[type, str] = {bool: "bool", int: "int", float: "float", str: "string"}
