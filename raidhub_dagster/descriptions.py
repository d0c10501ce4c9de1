"""What every asset gets when the location is put together: its columns, and where its code is."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import dagster as dg

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.columns import columns

_ROOT = Path(__file__).resolve().parents[1]

Asset = dg.AssetsDefinition | dg.AssetSpec


def with_columns(assets: Iterable[Asset]) -> Sequence[Asset]:
    """Each asset that names a table, with the columns that sql/columns.csv lists for it."""
    known = columns()

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        table = str(spec.metadata.get("dagster/table_name"))
        if table not in known:
            return spec
        schema = dg.TableSchema(
            [dg.TableColumn(c.name, c.type, c.description or None) for c in known[table]]
        )
        return spec.merge_attributes(metadata={"dagster/column_schema": schema})

    return list(dg.map_asset_specs(described, assets))


def with_code_links(assets: Sequence[Asset], settings: Settings) -> Sequence[Asset]:
    """Each asset that is computed here, with a link to its function: on the web or on this machine.

    External assets have no function, so no link.
    """
    linked = dg.with_source_code_references(assets)
    if settings.repository_url:
        linked = dg.link_code_references_to_git(
            linked,
            git_url=settings.repository_url,
            git_branch=settings.repository_branch,
            file_path_mapping=dg.AnchorBasedFilePathMapping(
                local_file_anchor=_ROOT / "pyproject.toml",
                file_anchor_path_in_repository="pyproject.toml",
            ),
        )
    return linked  # type: ignore[return-value]  # deprecated kinds of assets, which we have none of
