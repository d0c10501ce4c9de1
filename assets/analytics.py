"""The way to ClickHouse and the tables there that count over all raids.

Hermes' relay sends the outbox, and ClickHouse fills its aggregates at each insert;
stream_progress_sensor reports their growth. A materialization here is a rebuild: of days from
PostgreSQL, of aggregates from `instance`. docs/domain/clickhouse.md, "Rebuilds".
"""

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from pydantic import Field

from assets.core import INSTANCE, INSTANCE_CHARACTER_WEAPON, PLAYER
from assets.definitions import ACTIVITY_VERSION
from assets.tables import DAILY, OWNERS, RETRY, WEEKLY, Checked, shown, table
from raidhub_dagster.execution import HEAVY_STEP
from raidhub_dagster.failures import dagster_failures
from raidhub_dagster.resources import ClickHouseResource, PostgresResource
from raidhub_dagster.storage.clickhouse_rebuild import (
    Rebuilt,
    rebuild,
    rebuild_awaiting,
    rebuild_relations,
)
from raidhub_dagster.storage.clickhouse_reports import strongest_pairs, teammates

# The first raid opened on this day at 17:00. The last partition is the day that goes on.
FIRST_DAY = "2017-09-13"
DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, end_offset=1)
GAME_DAYS = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, hour_offset=17, end_offset=1)
POOL = "clickhouse_insert"
# A statement over a day takes seconds, one over all relations minutes.
TIMEOUT_S = 1800

OUTBOX = table(
    "streaming.outbox",
    group="analytics",
    description="What must still leave PostgreSQL: messages and rows for ClickHouse. "
    "Waiting are the unsent ones, the lag is the age of the oldest.",
    deps=[INSTANCE, INSTANCE_CHARACTER_WEAPON],
)


def key_of(name: str) -> dg.AssetKey:
    return dg.AssetKey(["clickhouse", name])


def check_of(name: str) -> dg.AssetCheckSpec:
    """The check that a rebuild of table `name` makes itself, on what it just wrote."""
    return dg.AssetCheckSpec(
        f"{name}_equals_its_source",
        asset=key_of(name),
        description="What was just rebuilt is what its source adds up to; so it is not empty when "
        "the source is not.",
        blocking=True,
    )


def result_of(
    name: str, rebuilt: Sequence[Rebuilt], **more: dg.MetadataValue
) -> dg.MaterializeResult[None]:
    """What a rebuild did, with `more` metadata, and the outcome of its check."""
    differences = [d for done in rebuilt for d in done.differences]
    return dg.MaterializeResult(
        asset_key=key_of(name),
        metadata={
            "dagster/row_count": sum(done.rows for done in rebuilt),
            "seconds": round(sum(done.seconds for done in rebuilt), 3),
            "skipped_beyond_time_to_live": sum(done.is_expired for done in rebuilt),
            "corrected_runs": sum(d.added + d.removed + d.changed for d in rebuilt),
            "rebuilt": shown(lines_of(rebuilt)),
            **more,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=check_of(name).name,
                asset_key=key_of(name),
                passed=not differences,
                metadata={
                    "differing": len(differences),
                    "at_most": 0,
                    "differences": shown([d._asdict() for d in differences[:20]]),
                },
            )
        ],
    )


def lines_of(rebuilt: Iterable[Rebuilt]) -> list[dict[str, object]]:
    """A line for each rebuilt piece."""
    return [
        {
            "table": done.table,
            "day": done.day or "all",
            "rows": done.rows,
            "seconds": round(done.seconds, 2),
            "added": done.added,
            "removed": done.removed,
            "changed": done.changed,
            "differing": len(done.differences),
        }
        for done in rebuilt
        if not done.is_expired
    ]


def told(context: dg.AssetExecutionContext, rebuilding: Iterable[Rebuilt]) -> list[Rebuilt]:
    """All of it, with a line of the run's log for each piece as it is done."""
    rebuilt = []
    for done in rebuilding:
        context.log.info(
            "%s %s: %s rows in %.1f s",
            done.table,
            done.day or "all",
            done.rows,
            done.seconds,
            extra={"action": "clickhouse_piece_rebuilt"},
        )
        rebuilt.append(done)
    return rebuilt


def _days(context: dg.AssetExecutionContext) -> list[date]:
    window = context.partition_time_window
    return [
        window.start.date() + timedelta(days=n) for n in range((window.end - window.start).days)
    ]


def _by_day(
    name: str,
    *,
    description: str,
    deps: Sequence[dg.AssetSpec | dg.AssetsDefinition | dg.AssetDep],
    partitions: dg.DailyPartitionsDefinition = DAYS,
    fresh: dg.FreshnessPolicy | None = None,
) -> dg.AssetsDefinition:
    """The asset of ClickHouse's table `name`, of which a run rebuilds a range of days."""

    @dg.asset(
        key=key_of(name),
        group_name="analytics",
        kinds={"clickhouse"},
        owners=OWNERS,
        description=description,
        deps=deps,
        metadata={"dagster/table_name": name},
        partitions_def=partitions,
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[check_of(name)],
        pool=POOL,
        op_tags=HEAVY_STEP,
        retry_policy=RETRY,
        freshness_policy=fresh,
    )
    def rebuild_days(
        context: dg.AssetExecutionContext,
        postgres: PostgresResource,
        clickhouse: ClickHouseResource,
    ) -> Checked:  # type: ignore[type-arg]
        with (
            dagster_failures(),
            postgres.connection() as connection,
            clickhouse.client(timeout_s=TIMEOUT_S) as client,
        ):
            done = rebuild(connection, client, name, _days(context), now=datetime.now(UTC))
            return result_of(name, told(context, done))

    return rebuild_days


clickhouse_instance = _by_day(
    "instance",
    description="One row a raid with players, characters and weapons nested. Rows are counted "
    "as stored: a corrected raid counts twice until ClickHouse merges. A partition is rebuilt from "
    "PostgreSQL; days of aggregates that it touches are marked.",
    deps=[OUTBOX, ACTIVITY_VERSION],
    # An hour later than the reports: ClickHouse may be away for so long without a loss.
    fresh=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3)),
)
# A game day or week that goes on reaches into days that have not begun: they are no hindrance.
INSTANCE_BY_TIME = dg.AssetDep(
    clickhouse_instance,
    partition_mapping=dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True),
)
player_population_by_hour = _by_day(
    "player_population_by_hour",
    description="Players in each activity by hour, kept a month.",
    deps=[clickhouse_instance],
)
clear_time_by_day = _by_day(
    "clear_time_by_day",
    description="Quantiles of the duration of fresh clears by game day, kept a year.",
    deps=[INSTANCE_BY_TIME],
    partitions=GAME_DAYS,
)
weapon_meta_by_hour = _by_day(
    "weapon_meta_by_hour",
    description="Use and kills of each weapon by hour, kept a month.",
    deps=[clickhouse_instance],
)


class RelationsConfig(dg.Config):
    pairs: int = Field(default=20, description="How many of the strongest pairs to show.")
    player: int = Field(default=0, description="Membership id whose teammates to show, 0 for none.")


RELATIONS = "player_relation_weights_bidirectional"


@dg.asset(
    key=key_of(RELATIONS),
    group_name="analytics",
    kinds={"clickhouse"},
    owners=OWNERS,
    description="Time that two players spent in the same raids, completed ones weighing more: who "
    "plays with whom. A run rebuilds all of it and shows the strongest pairs.",
    deps=[clickhouse_instance, PLAYER],
    metadata={"dagster/table_name": RELATIONS},
    check_specs=[check_of(RELATIONS)],
    pool=POOL,
    op_tags=HEAVY_STEP,
    retry_policy=RETRY,
    freshness_policy=WEEKLY,
)
def player_relation_weights_bidirectional(
    config: RelationsConfig, postgres: PostgresResource, clickhouse: ClickHouseResource
) -> Checked:  # type: ignore[type-arg]
    with (
        dagster_failures(),
        postgres.connection() as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        done = rebuild_relations(connection, client, now=datetime.now(UTC))
        pairs = strongest_pairs(connection, client, limit=config.pairs)
        mates = teammates(connection, client, config.player, limit=config.pairs)
    return result_of(RELATIONS, [done], strongest_pairs=shown(pairs), teammates=shown(mates))


DIRTY_DAYS = dg.AssetKey(["postgres", "clickhouse_dirty_day"])


@dg.asset(
    key=DIRTY_DAYS,
    group_name="analytics",
    kinds={"postgres"},
    owners=OWNERS,
    description="Days whose aggregates a correction or a rebuild made wrong; the relay marks them. "
    "A run rebuilds every aggregate on every one of them, as far as it is kept.",
    deps=[OUTBOX, clickhouse_instance],
    metadata={"dagster/table_name": "streaming.clickhouse_dirty_day"},
    pool=POOL,
    op_tags=HEAVY_STEP,
    retry_policy=RETRY,
    freshness_policy=DAILY,
)
def clickhouse_dirty_day(
    context: dg.AssetExecutionContext, postgres: PostgresResource, clickhouse: ClickHouseResource
) -> dg.MaterializeResult[None]:
    started = time.monotonic()
    with (
        dagster_failures(),
        postgres.connection() as connection,
        clickhouse.client(timeout_s=TIMEOUT_S) as client,
    ):
        done = told(context, rebuild_awaiting(connection, client, now=datetime.now(UTC)))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len({d.day for d in done}),
            "seconds": round(time.monotonic() - started, 3),
            "skipped_beyond_time_to_live": sum(d.is_expired for d in done),
            "still_differing": sum(len(d.differences) for d in done),
            "rebuilt": shown(lines_of(done)),
        }
    )
