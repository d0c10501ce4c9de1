"""The way to ClickHouse and the tables there that count over all raids.

Hermes' relay sends the outbox; ClickHouse fills its aggregates at each insert. Dagster only
observes: stream_progress_sensor reports their growth.
"""

from datetime import timedelta

import dagster as dg

from assets.core import INSTANCE, INSTANCE_CHARACTER_WEAPON
from assets.definitions import ACTIVITY_VERSION
from assets.tables import table

OUTBOX = table(
    "streaming.outbox",
    group="analytics",
    description="What must still leave PostgreSQL: messages and rows for ClickHouse. "
    "Waiting are the unsent ones, the lag is the age of the oldest.",
    deps=[INSTANCE, INSTANCE_CHARACTER_WEAPON],
)
CLICKHOUSE_INSTANCE = table(
    "instance",
    store="clickhouse",
    group="analytics",
    description="One row a raid with players, characters and weapons nested. Rows are counted "
    "as stored: a corrected raid counts twice until ClickHouse merges.",
    deps=[OUTBOX, ACTIVITY_VERSION],
    # An hour later than the reports: ClickHouse may be away for so long without a loss.
    fresh=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3)),
)
PLAYER_POPULATION_BY_HOUR = table(
    "player_population_by_hour",
    store="clickhouse",
    group="analytics",
    description="Players in each activity by hour, kept a month.",
    deps=[CLICKHOUSE_INSTANCE],
)
CLEAR_TIME_BY_DAY = table(
    "clear_time_by_day",
    store="clickhouse",
    group="analytics",
    description="Quantiles of the duration of fresh clears by game day, kept a year.",
    deps=[CLICKHOUSE_INSTANCE],
)
WEAPON_META_BY_HOUR = table(
    "weapon_meta_by_hour",
    store="clickhouse",
    group="analytics",
    description="Use and kills of each weapon by hour, kept a month.",
    deps=[CLICKHOUSE_INSTANCE],
)
PLAYER_RELATION_WEIGHTS_BIDIRECTIONAL = table(
    "player_relation_weights_bidirectional",
    store="clickhouse",
    group="analytics",
    description="Time that two players spent in the same raids, completed ones weighing more.",
    deps=[CLICKHOUSE_INSTANCE],
)
