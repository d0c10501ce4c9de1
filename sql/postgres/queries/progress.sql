-- name: limit_statements
-- A tick of the sensor has a budget of 30 s; a measurement that waits longer than this is a failure worth seeing.
SELECT set_config('statement_timeout', %(limit_ms)s, true);

-- name: measure_tables
-- One row a table that the stream writes. Every part is bounded: newest ids come from the end of a primary key, waiting
-- rows from partial indexes, and no count reads more than 100 001 rows (about 10 ms). Beyond that the planner's estimate,
-- which autovacuum keeps within a few per cent, is good enough for a chart.
WITH newest AS (
    SELECT instance_id, date_completed FROM core.instance ORDER BY instance_id DESC LIMIT 1
),
measured (name, counted, newest_id, since, waiting) AS (
    SELECT 'streaming.crawl_block',
        (SELECT count(*) FROM (SELECT FROM streaming.crawl_block LIMIT 100001) AS few),
        (SELECT last_id FROM streaming.crawl_block ORDER BY first_id DESC LIMIT 1),
        (SELECT leased_at FROM streaming.crawl_block ORDER BY first_id DESC LIMIT 1),
        (SELECT count(*) FROM (SELECT FROM streaming.crawl_block WHERE state <> 'done' LIMIT 100001) AS few)
    UNION ALL
    SELECT 'streaming.missed_pgcr',
        (SELECT count(*) FROM (SELECT FROM streaming.missed_pgcr LIMIT 100001) AS few),
        (SELECT max(instance_id) FROM streaming.missed_pgcr),
        (SELECT min(next_attempt_at) FROM streaming.missed_pgcr WHERE state IN ('waiting', 'malformed', 'blocked')),
        (SELECT count(*) FROM (SELECT FROM streaming.missed_pgcr
            WHERE state IN ('waiting', 'malformed', 'blocked') LIMIT 100001) AS few)
        + (SELECT count(*) FROM (SELECT FROM streaming.missed_pgcr WHERE state = 'unknown_hash' LIMIT 100001) AS few)
    UNION ALL
    SELECT 'raw.pgcr',
        (SELECT count(*) FROM (SELECT FROM raw.pgcr LIMIT 100001) AS few),
        (SELECT max(instance_id) FROM raw.pgcr),
        (SELECT date_crawled FROM raw.pgcr ORDER BY instance_id DESC LIMIT 1),
        NULL
    UNION ALL
    SELECT 'core.instance',
        (SELECT count(*) FROM (SELECT FROM core.instance LIMIT 100001) AS few),
        (SELECT instance_id FROM newest), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'core.instance_player',
        (SELECT count(*) FROM (SELECT FROM core.instance_player LIMIT 100001) AS few),
        (SELECT max(instance_id) FROM core.instance_player), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'extended.instance_character',
        (SELECT count(*) FROM (SELECT FROM extended.instance_character LIMIT 100001) AS few),
        (SELECT max(instance_id) FROM extended.instance_character), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'extended.instance_character_weapon',
        (SELECT count(*) FROM (SELECT FROM extended.instance_character_weapon LIMIT 100001) AS few),
        (SELECT max(instance_id) FROM extended.instance_character_weapon), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'core.player_stats',
        (SELECT count(*) FROM (SELECT FROM core.player_stats LIMIT 100001) AS few),
        (SELECT max(membership_id) FROM core.player_stats), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'core.player',
        (SELECT count(*) FROM (SELECT FROM core.player LIMIT 100001) AS few),
        (SELECT max(membership_id) FROM core.player), (SELECT date_completed FROM newest), NULL
    UNION ALL
    SELECT 'streaming.outbox',
        (SELECT count(*) FROM (SELECT FROM streaming.outbox LIMIT 100001) AS few),
        (SELECT max(id) FROM streaming.outbox),
        (SELECT least(
            (SELECT created_at FROM streaming.outbox WHERE sent_at IS NULL AND kind = 'message' ORDER BY id LIMIT 1),
            (SELECT created_at FROM streaming.outbox WHERE sent_at IS NULL AND kind = 'clickhouse' ORDER BY id LIMIT 1)
        )),
        (SELECT count(*) FROM (SELECT FROM streaming.outbox WHERE sent_at IS NULL LIMIT 100001) AS few)
)
SELECT
    measured.name,
    CASE WHEN counted > 100000 THEN greatest(counted, pg_class.reltuples::bigint) ELSE counted END AS row_count,
    counted > 100000 AS is_estimate,
    newest_id,
    greatest(extract(epoch FROM now() - since), 0)::float8 AS lag_s,
    waiting
FROM measured
JOIN pg_class ON pg_class.oid = measured.name::regclass
ORDER BY measured.name;
