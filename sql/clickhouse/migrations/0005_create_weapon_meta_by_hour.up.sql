-- What was fought with, by the hour the run ended in. usage_count is the number of characters that
-- used the weapon: rows have each hash once a character.
CREATE TABLE IF NOT EXISTS weapon_meta_by_hour (
    hour DateTime,
    activity_id UInt16,
    weapon_hash UInt32,
    usage_count UInt32,
    kill_count UInt64,
    precision_kill_count UInt64
)
ENGINE = SummingMergeTree((usage_count, kill_count, precision_kill_count))
PARTITION BY toDate(hour)
ORDER BY (hour, activity_id, weapon_hash)
TTL hour + INTERVAL 1 MONTH
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS weapon_meta_by_hour_mv TO weapon_meta_by_hour AS
SELECT
    toStartOfHour(i.date_completed) AS hour,
    v.activity_id AS activity_id,
    i.weapon.weapon_hash AS weapon_hash,
    count() AS usage_count,
    sum(i.weapon.kills) AS kill_count,
    sum(i.weapon.precision_kills) AS precision_kill_count
FROM (
    SELECT hash, date_completed, arrayJoin(arrayFlatten(players.characters.weapons)) AS weapon
    FROM instance
) AS i
INNER JOIN activity_version AS v ON v.hash = i.hash
GROUP BY hour, activity_id, weapon_hash;
