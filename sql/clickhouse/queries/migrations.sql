-- What `raidhub migrate` asks ClickHouse before it changes anything, and whoever
-- connects before it reads or writes.

-- name: select_time_zone
SELECT timezone();

-- name: select_applied
-- Of the migrations, the numbers in front of their names; newer ones may be among them.
SELECT DISTINCT version FROM schema_versions;
