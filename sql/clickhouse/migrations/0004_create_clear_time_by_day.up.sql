-- How long fresh clears took, per game day (which begins at 17:00 UTC). The column is a state:
-- read it with quantilesMerge. Unknown freshness (2) is not fresh, so the flags are compared.
CREATE TABLE IF NOT EXISTS clear_time_by_day (
    bungie_day Date,
    activity_id UInt16,
    version_id UInt16,
    clear_time AggregateFunction(quantiles(0.05, 0.1, 0.5, 0.9), UInt32)
)
ENGINE = AggregatingMergeTree
PARTITION BY bungie_day
ORDER BY (bungie_day, activity_id, version_id)
TTL bungie_day + INTERVAL 1 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS clear_time_by_day_mv TO clear_time_by_day AS
SELECT
    toDate(i.date_completed - INTERVAL 17 HOUR) AS bungie_day,
    v.activity_id AS activity_id,
    v.version_id AS version_id,
    quantilesState(0.05, 0.1, 0.5, 0.9)(i.duration) AS clear_time
FROM instance AS i
INNER JOIN activity_version AS v ON v.hash = i.hash
WHERE i.completed = 1 AND i.fresh = 1
GROUP BY bungie_day, activity_id, version_id;
