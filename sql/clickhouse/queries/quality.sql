-- Claims about the analytics tables, checked once a day: each returns the number of rows that break
-- it. Time tables read their last days, the pairs a bounded part. Whether the counts are right is
-- compared with PostgreSQL by parity.sql.

-- name: instances_without_keys
SELECT countIf(instance_id <= 0 OR hash = 0 OR player_count = 0 OR date_completed < date_started)
FROM instance
WHERE date_completed > now() - INTERVAL 7 DAY
SETTINGS max_execution_time = 60;

-- name: instances_of_unknown_activity
SELECT count()
FROM instance
WHERE date_completed > now() - INTERVAL 7 DAY AND hash NOT IN (SELECT hash FROM activity_version)
SETTINGS max_execution_time = 60;

-- name: hours_of_unknown_activity
SELECT count()
FROM player_population_by_hour
WHERE activity_id NOT IN (SELECT activity_id FROM activity_version)
SETTINGS max_execution_time = 60;

-- name: hours_in_the_future
SELECT count()
FROM player_population_by_hour
WHERE hour > now() + INTERVAL 1 DAY
SETTINGS max_execution_time = 60;

-- name: days_of_unknown_version
SELECT count()
FROM clear_time_by_day
WHERE (activity_id, version_id) NOT IN (SELECT activity_id, version_id FROM activity_version)
SETTINGS max_execution_time = 60;

-- name: weapons_without_keys
SELECT countIf(weapon_hash = 0 OR activity_id NOT IN (SELECT activity_id FROM activity_version))
FROM weapon_meta_by_hour
WHERE hour > now() - INTERVAL 7 DAY
SETTINGS max_execution_time = 60;

-- name: pairs_without_keys
-- The first rows of the order key: a zero would stand there.
SELECT countIf(membership_id = 0 OR related_membership_id = 0 OR membership_id = related_membership_id)
FROM (
    SELECT membership_id, related_membership_id
    FROM player_relation_weights_bidirectional
    ORDER BY membership_id, related_membership_id
    LIMIT 1000000
)
SETTINGS max_execution_time = 60;
