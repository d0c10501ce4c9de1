-- A backup of `instance`: everything else of ClickHouse is counted from it again.
-- The copy shares the parts of the table, so it costs no space and no time, and stays as it is
-- while the sender goes on.

-- name: drop_copy
DROP TABLE IF EXISTS instance_backup;

-- name: create_copy
CREATE TABLE instance_backup AS instance
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(date_completed)
PRIMARY KEY (date_completed, instance_id)
ORDER BY (date_completed, instance_id);

-- name: attach_month
ALTER TABLE instance_backup ATTACH PARTITION {month:UInt32} FROM instance;

-- name: count_days
SELECT toDate(date_completed) AS day, count() AS rows
FROM instance_backup FINAL
GROUP BY day
ORDER BY day;

-- name: select_day
SELECT * FROM instance_backup FINAL
WHERE date_completed >= {day:Date} AND date_completed < {day:Date} + 1
FORMAT Native;

-- name: count_held
-- None for a database or a table that is not there yet.
SELECT total_rows FROM system.tables WHERE database = {database:String} AND name = 'instance';

-- name: empty
TRUNCATE TABLE {table:Identifier};
