"""Adds the partitions of archives and of reprocessing: files that appeared, blocks that filled.

It starts no runs: an import takes hours and reprocessing is a repair, both are a person's decision.
"""

from collections.abc import Sequence

import dagster as dg

from assets.archives import ARCHIVE_FILES, PGCR_BLOCKS
from raidhub_dagster.archives.source import Span
from raidhub_dagster.errors import TransientError
from raidhub_dagster.resources import TICK_LIMIT_S, ArchiveResource, PostgresResource
from raidhub_dagster.stack.process import ask_all
from raidhub_dagster.storage.reprocess import find_blocks


def add_partitions(
    context: dg.SensorEvaluationContext, archives: ArchiveResource, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Partitions for what is there and has none yet. None is taken away: its history would go.

    What is known is Dagster's own list, so there is no cursor that could be wrong.
    """
    files = _archives(archives) if archives.is_set else []
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        blocks = [Span(*block).name for block in find_blocks(connection)]
    requests = [
        definition.build_add_request(new)
        for definition, names in ((ARCHIVE_FILES, files), (PGCR_BLOCKS, blocks))
        if (new := _unknown(context.instance, definition, names))
    ]
    if not requests:
        told = f"{len(files)} archives" if archives.is_set else "ARCHIVE_SOURCE is not set"
        return dg.SkipReason(f"nothing new: {told}, {len(blocks)} blocks of kept reports")
    return dg.SensorResult(dynamic_partitions_requests=requests)


def _archives(archives: ArchiveResource) -> list[str]:
    """Names of all archives. Raises TransientError for a server that gives them by the byte."""
    names = ask_all({"index": archives.source().names}, limit_s=TICK_LIMIT_S)["index"]
    if isinstance(names, TransientError):
        raise TransientError(f"the list of archives: {names}") from names
    return names


def _unknown(
    instance: dg.DagsterInstance, definition: dg.DynamicPartitionsDefinition, names: Sequence[str]
) -> list[str]:
    """Those of `names` that are no partition yet, in their order."""
    known = set(instance.get_dynamic_partitions(str(definition.name)))
    return [name for name in names if name not in known]


archive_partitions_sensor = dg.sensor(
    name="archive_partitions_sensor",
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each new archive file and each new block of kept reports; "
    "starts no run.",
)(add_partitions)
