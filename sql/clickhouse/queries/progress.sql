-- name: measure_tables
-- Row counts are kept by the engine, and the newest entries stand at the end of each order key: nothing is scanned.
-- player_relation_weights_bidirectional carries no time, so it has neither a newest id nor a lag.
SELECT
    tables.name AS name,
    toInt64(tables.total_rows) AS row_count,
    newest.id AS newest_id,
    newest.age_s AS lag_s
FROM system.tables AS tables
LEFT JOIN (
    SELECT 'instance' AS name, toNullable(instance_id) AS id, toNullable(dateDiff('second', date_completed, now())) AS age_s
    FROM (SELECT instance_id, date_completed FROM instance ORDER BY date_completed DESC, instance_id DESC LIMIT 1)
    UNION ALL
    SELECT 'player_population_by_hour', NULL, dateDiff('second', hour, now())
    FROM (SELECT hour FROM player_population_by_hour ORDER BY hour DESC LIMIT 1)
    UNION ALL
    SELECT 'clear_time_by_day', NULL, dateDiff('second', toDateTime(bungie_day, 'UTC'), now())
    FROM (SELECT bungie_day FROM clear_time_by_day ORDER BY bungie_day DESC LIMIT 1)
    UNION ALL
    SELECT 'weapon_meta_by_hour', NULL, dateDiff('second', hour, now())
    FROM (SELECT hour FROM weapon_meta_by_hour ORDER BY hour DESC LIMIT 1)
) AS newest ON newest.name = tables.name
WHERE tables.database = currentDatabase()
    AND tables.name IN (
        'instance', 'player_population_by_hour', 'clear_time_by_day', 'weapon_meta_by_hour',
        'player_relation_weights_bidirectional'
    )
ORDER BY name
SETTINGS max_execution_time = 10, join_use_nulls = 1
