-- Where rebuilds are prepared before they take their place, and the weekly reports.
-- A twin has the structure, partitions and time to live of its table but no deduplication: the
-- same rows may come again. It holds something only while a rebuild runs, or after one was killed.
CREATE TABLE IF NOT EXISTS instance_twin AS instance
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(date_completed)
PRIMARY KEY (date_completed, instance_id)
ORDER BY (date_completed, instance_id);

CREATE TABLE IF NOT EXISTS player_population_by_hour_twin AS player_population_by_hour
ENGINE = SummingMergeTree(player_count)
PARTITION BY toDate(hour)
ORDER BY (hour, activity_id)
TTL hour + INTERVAL 1 MONTH
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS clear_time_by_day_twin AS clear_time_by_day
ENGINE = AggregatingMergeTree
PARTITION BY bungie_day
ORDER BY (bungie_day, activity_id, version_id)
TTL bungie_day + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS weapon_meta_by_hour_twin AS weapon_meta_by_hour
ENGINE = SummingMergeTree((usage_count, kill_count, precision_kill_count))
PARTITION BY toDate(hour)
ORDER BY (hour, activity_id, weapon_hash)
TTL hour + INTERVAL 1 MONTH
SETTINGS ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS player_relation_weights_bidirectional_twin
AS player_relation_weights_bidirectional
ENGINE = SummingMergeTree(weight)
ORDER BY (membership_id, related_membership_id);

-- How each raid went in a game week, which begins on Tuesday at 17:00 UTC.
CREATE TABLE IF NOT EXISTS weekly_raid_report (
    week Date COMMENT 'the Tuesday on which it began',
    activity_id UInt16,
    version_id UInt16,
    runs UInt32 COMMENT 'ended in the week, completed or not',
    clears UInt32,
    fresh_clears UInt32 COMMENT 'known to be played from the beginning',
    players UInt32 COMMENT 'distinct ones, whether or not they finished',
    median_clear_s Nullable(Float64),
    median_fresh_clear_s Nullable(Float64),
    fastest_fresh_clear_s Nullable(UInt32)
)
ENGINE = MergeTree
PARTITION BY week
ORDER BY (week, activity_id, version_id);

-- What was fought with in a game week, beside the week before. A share is of all uses of its week.
CREATE TABLE IF NOT EXISTS weapon_meta_trend (
    week Date COMMENT 'the Tuesday on which it began',
    weapon_hash UInt32,
    usage_count UInt64 COMMENT 'characters that used it in a run',
    kill_count UInt64,
    precision_kill_count UInt64,
    usage_share Float64,
    usage_count_before UInt64,
    kill_count_before UInt64,
    usage_share_before Float64
)
ENGINE = MergeTree
PARTITION BY week
ORDER BY (week, weapon_hash);

CREATE TABLE IF NOT EXISTS weekly_raid_report_twin AS weekly_raid_report;
CREATE TABLE IF NOT EXISTS weapon_meta_trend_twin AS weapon_meta_trend;
