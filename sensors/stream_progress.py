"""Reports what the stream writes: Dagster has no streaming, so one sensor watches its tables."""

import json

import dagster as dg

from assets import analytics, core, crawl
from raidhub_dagster.errors import TransientError
from raidhub_dagster.resources import TICK_LIMIT_S, ClickHouseResource, PostgresResource
from raidhub_dagster.storage.progress import Progress, clickhouse_progress, postgres_progress
from sensors.episodes import read_cursor

# Of the 30 s that a tick plans for.
CLICKHOUSE_TIMEOUT_S = 10

# What runs alone write has no stream to follow; whom ClickHouse fills, a run can rebuild as well.
WATCHED = {
    spec.metadata["dagster/table_name"]: spec
    for module in (crawl, core, analytics)
    for thing in vars(module).values()
    if isinstance(thing, dg.AssetSpec | dg.AssetsDefinition)
    for spec in ([thing] if isinstance(thing, dg.AssetSpec) else thing.specs)
    # A module sees the assets of others too, as dependencies.
    if module.__name__ == f"assets.{spec.group_name}" and spec.key != analytics.DIRTY_DAYS
}

# Fresh by growth. Relations grow as well, but their policy is about the weekly rebuild.
FED = {crawl.PGCR.key, analytics.clickhouse_instance.key}


def report_progress(
    context: dg.SensorEvaluationContext,
    postgres: PostgresResource,
    clickhouse: ClickHouseResource,
) -> dg.SensorResult | dg.SkipReason:
    """One event a watched table, when any of them moved since the state in the cursor.

    An observation; a materialization of one of `FED` that moved, because Dagster measures freshness
    by those alone.

    The cursor is JSON, table -> [rows, newest id]; one that does not say that counts as the first
    tick. ClickHouse away is an observation too: the crawl goes on without it.
    """
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        progress = postgres_progress(connection)
    away = ""
    try:
        with clickhouse.client(timeout_s=CLICKHOUSE_TIMEOUT_S) as client:
            progress += clickhouse_progress(client)
    except TransientError as error:
        away = str(error)
        context.log.warning("%s", away, extra={"action": "clickhouse_unreachable"})

    before = read_cursor(context.cursor)
    # Tables that could not be read keep their state: ClickHouse back and unchanged is no news.
    after = before | {p.table: [p.rows, p.newest_id] for p in progress}
    if after == before:
        told = ", ".join(f"{p.table} {p.rows}" for p in progress)
        return dg.SkipReason(f"nothing moved; rows: {told}{'; ' if away else ''}{away}")
    observations: list[dg.AssetObservation | dg.AssetMaterialization] = [
        _event(p, moved=after[p.table] != before.get(p.table)) for p in progress
    ]
    if away:
        observations += [
            dg.AssetObservation(spec.key, metadata={"unreachable": away})
            for spec in WATCHED.values()
            if "clickhouse" in spec.kinds
        ]
    return dg.SensorResult(asset_events=observations, cursor=json.dumps(after))


def _event(progress: Progress, *, moved: bool) -> dg.AssetObservation | dg.AssetMaterialization:
    metadata: dict[str, int | float | bool] = {
        "dagster/row_count": progress.rows,
        "rows_are_estimated": progress.is_estimate,
    }
    optional = {
        "newest_id": progress.newest_id,
        "lag_s": progress.lag_s,
        "waiting": progress.waiting,
    }
    metadata |= {name: value for name, value in optional.items() if value is not None}
    spec = WATCHED[progress.table]
    if moved and spec.key in FED and progress.rows:
        return dg.AssetMaterialization(spec.key, metadata=metadata)
    return dg.AssetObservation(spec.key, metadata=metadata)


stream_progress_sensor = dg.sensor(
    name="stream_progress_sensor",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes every table that the stream writes: rows, newest id, lag, once a minute "
    "while anything moves.",
)(report_progress)
