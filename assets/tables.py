"""How a table that others write is described to Dagster; the tables stand in the group modules."""

from collections.abc import Iterable

import dagster as dg

OWNERS = ["team:raidhub"]


def table(
    name: str,
    *,
    group: str,
    description: str,
    deps: Iterable[dg.AssetSpec | dg.AssetsDefinition] = (),
    store: str = "postgres",
) -> dg.AssetSpec:
    """The external asset of table `name` (with its schema, as the store knows it).

    Its key is `[store, table]`. A progress sensor finds the asset by the whole name, which stands
    in the metadata `dagster/table_name`.
    """
    return dg.AssetSpec(
        [store, name.rpartition(".")[2]],
        group_name=group,
        kinds={store},
        owners=OWNERS,
        description=description,
        deps=deps,
        metadata={"dagster/table_name": name},
    )
