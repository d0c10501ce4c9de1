-- What `raidhub migrate` asks ClickHouse before it changes anything.

-- name: select_time_zone
SELECT timezone();
