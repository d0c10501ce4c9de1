"""Reports how far the crawl and the outbox are behind; tells people when it is too far."""

import json
from collections.abc import Iterator

import dagster as dg

from assets.analytics import OUTBOX, clickhouse_instance
from assets.core import INSTANCE
from raidhub_dagster.discord.messages import Fields
from raidhub_dagster.monitoring.episodes import Limit, Reading
from raidhub_dagster.resources import TICK_LIMIT_S, DiscordResource, PostgresResource
from raidhub_dagster.storage import api_state
from raidhub_dagster.storage.progress import Stream, measure_stream
from sensors.episodes import bad, good, numbers, read_cursor, tell

# Bungie is silent for 40 minutes at times, and an hour is what the game's own site is late at most.
CRAWL_LAG_S = Limit((5_400, 6 * 3600, 24 * 3600), over_at=1_800)
# The relay tells its own alerts at 10 and 15 minutes; this one also comes when no relay runs.
OUTBOX_AGE_S = Limit((1_800, 6 * 3600), over_at=300)
CLICKHOUSE_AGE_S = Limit((3_600, 24 * 3600), over_at=900)
# Systems of Bungie's without which no report comes.
_CRAWLED = ("Destiny2", "Activities")


def report_health(
    context: dg.SensorEvaluationContext, postgres: PostgresResource, discord: DiscordResource
) -> dg.SensorResult:
    """One observation each of the crawl's lag, the outbox and what ClickHouse lacks.

    The cursor is JSON: `levels` of the running episodes. While Bungie is in maintenance no report
    can come: the crawl's episode neither begins nor ends.
    """
    before = read_cursor(context.cursor)
    with postgres.connection(limit_s=TICK_LIMIT_S) as connection:
        stream = measure_stream(connection)
        systems = api_state.read(connection)
    off = sorted(name for name in _CRAWLED if name in systems and not systems[name].enabled)
    levels = tell(discord, numbers(before.get("levels")), _readings(stream, bool(off)))
    crawl: dict[str, int | float | str] = {
        "raids_last_minute": stream.raids_last_minute,
        "ids_last_minute": stream.ids_last_minute,
        "missed_ids": sum(stream.missed.values()),
        "open_gap_ids": stream.open_gap_ids,
    }
    if stream.newest_id is not None:
        crawl["newest_id"] = stream.newest_id
    if stream.newest_age_s is not None:
        crawl["crawl_lag_s"] = round(stream.newest_age_s, 1)
    if off:
        crawl["systems_off"] = ", ".join(off)
    outbox = {"unsent": stream.unsent, "oldest_s": round(stream.unsent_oldest_s, 1)}
    lacking = {
        "pending": stream.clickhouse_pending,
        "oldest_s": round(stream.clickhouse_oldest_s or 0.0, 1),
        "dirty_days": stream.dirty_days,
    }
    return dg.SensorResult(
        asset_events=[
            dg.AssetObservation(INSTANCE.key, metadata=crawl),
            dg.AssetObservation(OUTBOX.key, metadata=outbox),
            dg.AssetObservation(clickhouse_instance.key, metadata=lacking),
        ],
        cursor=json.dumps({"levels": levels}),
    )


def _readings(stream: Stream, in_maintenance: bool) -> Iterator[Reading]:
    if stream.newest_age_s is not None and not in_maintenance:
        lag: Fields = {
            "Newest raid ended": _span(stream.newest_age_s),
            "Newest id": stream.newest_id or 0,
            "Raids in the last minute": stream.raids_last_minute,
        }
        yield Reading(
            "crawl",
            stream.newest_age_s,
            CRAWL_LAG_S,
            bad("crawl_is_behind", "Crawl is behind", lag, mentions=True),
            good("crawl_caught_up", "Crawl caught up", lag),
        )
    waits: Fields = {"Oldest": _span(stream.unsent_oldest_s), "Unsent": stream.unsent}
    yield Reading(
        "outbox",
        stream.unsent_oldest_s,
        OUTBOX_AGE_S,
        bad("outbox_is_stuck", "Outbox is stuck", waits, mentions=True),
        good("outbox_drained", "Outbox is drained", waits),
    )
    oldest_s = stream.clickhouse_oldest_s or 0.0
    lacks: Fields = {"Oldest": _span(oldest_s), "Rows and corrections": stream.clickhouse_pending}
    yield Reading(
        "clickhouse",
        oldest_s,
        CLICKHOUSE_AGE_S,
        bad("clickhouse_is_stale", "ClickHouse is stale", lacks),
        good("clickhouse_is_current", "ClickHouse is current", lacks),
    )


def _span(seconds: float) -> str:
    """For people: `5 min`, `3.2 h`."""
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


stream_health_sensor = dg.sensor(
    name="stream_health_sensor",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Observes how far the crawl is behind the game, how old the oldest unsent effect "
    "is. Tells Discord when it is too far, and when it caught up.",
)(report_health)
