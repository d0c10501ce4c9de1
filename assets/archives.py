"""Historical archives of reports, and stored reports read again by today's parser.

One partition is one archive file, or one block of as many ids: docs/domain/archives.md says why.
archive_partitions_sensor adds the partitions; a person starts the runs, or a backfill.
"""

from datetime import timedelta

import dagster as dg
from pydantic import Field

from assets.core import INSTANCE, INSTANCE_PLAYER, PLAYER
from assets.crawl import PGCR
from assets.definitions import ACTIVITY_VERSION
from assets.tables import OWNERS, RETRY, Checked, shown
from raidhub_dagster.archives.importing import Limits, Told, import_archive
from raidhub_dagster.archives.progress import first_refusals
from raidhub_dagster.archives.source import read_span
from raidhub_dagster.execution import HEAVY_STEP
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.monitoring.markdown import Report
from raidhub_dagster.resources import ArchiveResource, PostgresResource
from raidhub_dagster.storage.reprocess import Reprocessed, check_order, reprocess

ARCHIVE_FILES = dg.DynamicPartitionsDefinition(name="archive_file")
PGCR_BLOCKS = dg.DynamicPartitionsDefinition(name="pgcr_block")

PGCR_ARCHIVE_KEY = dg.AssetKey(["archive", "pgcr_archive"])
REPROCESSED_PGCR_KEY = dg.AssetKey(["postgres", "reprocessed_pgcr"])

REPROCESSED_CHECK = dg.AssetCheckSpec(
    "reprocessed_pgcr_leaves_none_wrong",
    asset=REPROCESSED_PGCR_KEY,
    description="The rows of every kept report of the block are what today's parser says; a "
    "preview leaves them as they are.",
)


class ArchiveConfig(dg.Config):
    again: bool = Field(
        default=False,
        description="True: read a file from its start although it was imported, or is half "
        "imported. Reports that are stored stay as they are.",
    )
    max_refused: int = Field(
        default=Limits().max_refused,
        description="So many lines of a file may be unusable; with more the run fails, because "
        "it is no archive or our parser is wrong. Nothing is lost: the next run goes on.",
    )
    tell_every_s: float = Field(
        default=Limits().tell_every_s,
        description="Seconds between two lines in the log, and two observations, of the progress.",
    )


@dg.asset(
    key=PGCR_ARCHIVE_KEY,
    group_name="archives",
    kinds={"archive"},
    owners=OWNERS,
    description="The raids of one historical archive, stored as if they had been crawled. A run "
    "that ends early goes on where it ended.",
    deps=[ACTIVITY_VERSION],
    metadata={"dagster/table_name": "streaming.archive_file"},
    partitions_def=ARCHIVE_FILES,
    pool="archives",
    op_tags=HEAVY_STEP,
    retry_policy=RETRY,
)
def pgcr_archive(
    context: dg.AssetExecutionContext,
    config: ArchiveConfig,
    archives: ArchiveResource,
    postgres: PostgresResource,
) -> dg.MaterializeResult[None]:
    name = context.partition_key

    def tell(told: Told) -> None:
        context.log.info(
            "%s: %s lines, %.0f a second, %s",
            name,
            told.progress.place.line,
            told.lines_per_s,
            _left(told),
            extra={"action": "archive_progress"},
        )
        context.log_event(
            dg.AssetObservation(PGCR_ARCHIVE_KEY, partition=name, metadata=_metadata(told))
        )

    with dagster_failures(), postgres.work(f"archive {name}") as connection:
        done = import_archive(
            connection,
            archives.source(),
            name,
            again=config.again,
            limits=Limits(max_refused=config.max_refused, tell_every_s=config.tell_every_s),
            tell=tell,
        )
        refused = first_refusals(connection, name)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": _raids(done),
            **_metadata(done),
            "first_refused_lines": shown(refused),
        }
    )


class ReprocessConfig(dg.Config):
    dry_run: bool = Field(
        default=True, description="True: only report what would change. False: change it."
    )
    first_id: int = Field(default=0, description="Ids of the partition below it are left out.")
    last_id: int = Field(default=2**63 - 1, description="Those above it are, too.")


@dg.asset(
    key=REPROCESSED_PGCR_KEY,
    group_name="archives",
    kinds={"postgres"},
    owners=OWNERS,
    description="Kept reports of one block of ids, read by today's parser: which rows differ from "
    "what it says. With dry_run false they are corrected, one report a transaction.",
    deps=[PGCR, INSTANCE, INSTANCE_PLAYER, PLAYER],
    metadata={"dagster/table_name": "raw.pgcr"},
    partitions_def=PGCR_BLOCKS,
    check_specs=[REPROCESSED_CHECK],
    pool="archives",
    op_tags=HEAVY_STEP,
    retry_policy=RETRY,
)
def reprocessed_pgcr(
    context: dg.AssetExecutionContext, config: ReprocessConfig, postgres: PostgresResource
) -> Checked:  # type: ignore[type-arg]
    name = context.partition_key
    span = read_span(name)
    first, last = max(span.first_id, config.first_id), min(span.last_id, config.last_id)

    def tell(found: Reprocessed, instance_id: int) -> None:
        if found.reports % 10_000 == 0:
            context.log.info(
                "%s reports up to %s, %s of them wrong",
                found.reports,
                instance_id,
                found.wrong,
                extra={"action": "reports_reprocessed"},
            )

    with dagster_failures(), postgres.work(f"reprocess {name}") as connection:
        check_order(config.first_id, config.last_id, "first_id", "last_id")
        found = reprocess(connection, first, last, dry_run=config.dry_run, tell=tell)
    report = Report(
        f"Reports {first} to {last}",
        {
            "reports": found.reports,
            "differing fields": found.differences.total(),
            **{str(state): number for state, number in sorted(found.states.items())},
            **{f"repaired: {o}": number for o, number in sorted(found.outcomes.items())},
        },
        {"Differences": found.fields(), "Problems": found.problems()},
        is_preview=config.dry_run,
    )
    return Checked(
        metadata={
            "dagster/row_count": found.reports,
            "wrong_reports": found.wrong,
            "repaired_reports": found.outcomes.total(),
            "dry_run": config.dry_run,
            "report": dg.MetadataValue.md(report.markdown()),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=REPROCESSED_CHECK.name,
                asset_key=REPROCESSED_PGCR_KEY,
                passed=found.left == 0,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{found.left} reports of {name} are wrong" if found.left else None,
                metadata={"wrong": found.left, "at_most": 0},
            )
        ],
    )


def _metadata(told: Told) -> dict[str, int | float]:
    share = {} if told.share is None else {"share": round(told.share, 4)}
    return {
        "lines": told.progress.place.line,
        "decompressed_bytes": told.progress.place.offset_bytes,
        "lines_per_second": round(told.lines_per_s, 1),
        "seconds": round(told.seconds, 1),
        **share,
        **{f"lines_{name}": number for name, number in sorted(told.progress.counts.items())},
    }


def _raids(told: Told) -> int:
    """Lines of tracked activities, whatever became of them."""
    other = ("non_raid", "blank", "refused")
    return sum(n for name, n in told.progress.counts.items() if name not in other)


def _left(told: Told) -> str:
    if not told.share:
        return "no size known"
    left = timedelta(seconds=round(told.seconds * (1 - told.share) / told.share))
    return f"{100 * told.share:.1f} % of the file, about {left} to go"
