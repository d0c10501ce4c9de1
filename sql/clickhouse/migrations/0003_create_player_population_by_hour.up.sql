-- Players inside each activity at each full hour: an instance adds its players to every hour that
-- begins at or after the hour it started in and before it ended. A run that ends on the hour does
-- not count there, one of no length counts nowhere. Hours more than three days before the end are
-- left out: one report with an absurd duration would touch more partitions than an insert may.
-- Matchmade crowds (50 players and more) are no fireteams.
CREATE TABLE IF NOT EXISTS player_population_by_hour (
    hour DateTime,
    activity_id UInt16,
    player_count UInt32
)
ENGINE = SummingMergeTree(player_count)
PARTITION BY toDate(hour)
ORDER BY (hour, activity_id)
TTL hour + INTERVAL 1 MONTH
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS player_population_by_hour_mv
TO player_population_by_hour AS
SELECT
    toDateTime(arrayJoin(range(
        toUInt32(greatest(
            toStartOfHour(i.date_started),
            toStartOfHour(i.date_completed) - INTERVAL 3 DAY
        )),
        toUInt32(i.date_completed),
        3600
    ))) AS hour,
    v.activity_id AS activity_id,
    sum(i.player_count) AS player_count
FROM instance AS i
INNER JOIN activity_version AS v ON v.hash = i.hash
WHERE i.duration > 0 AND i.player_count < 50
GROUP BY hour, activity_id;
