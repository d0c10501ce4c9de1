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

-- name: measure_stream
-- One row that says how the stream does, in milliseconds: newest rows come from the end of primary keys, what waits from
-- partial indexes, and no count reads more than 100 001 rows. What was done within the last minute is among the newest
-- blocks and reports: 3 000 raids a minute is three times the fastest crawl that was measured.
SELECT
    (SELECT coalesce(sum(last_id - first_id + 1), 0)
     FROM (SELECT * FROM streaming.crawl_block ORDER BY first_id DESC LIMIT 5000) AS latest
     WHERE state = 'done' AND done_at > now() - interval '1 minute')::bigint AS ids_last_minute,
    (SELECT count(*)
     FROM (SELECT date_crawled FROM raw.pgcr ORDER BY instance_id DESC LIMIT 5000) AS latest
     WHERE date_crawled > now() - interval '1 minute') AS raids_last_minute,
    newest.instance_id AS newest_id,
    extract(epoch FROM now() - newest.date_completed)::float8 AS newest_age_s,
    extract(epoch FROM now() - newest.date_crawled)::float8 AS newest_stored_s,
    gaps.open_gaps,
    gaps.open_ids,
    outbox.unsent,
    outbox.oldest_s,
    clickhouse.pending + corrections.pending AS clickhouse_pending,
    greatest(clickhouse.oldest_s, corrections.oldest_s) AS clickhouse_oldest_s,
    (SELECT count(*) FROM streaming.clickhouse_dirty_day
        WHERE rebuilt_at IS NULL OR rebuilt_at < marked_at) AS dirty_days
FROM (
    SELECT count(*) AS open_gaps, coalesce(sum(last_id - first_id + 1), 0)::bigint AS open_ids
    FROM streaming.gap WHERE state <> 'done'
) AS gaps
CROSS JOIN (
    SELECT count(*) AS unsent, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
    FROM (
        SELECT created_at FROM streaming.outbox WHERE sent_at IS NULL AND kind <> 'webhook' ORDER BY kind, id LIMIT 100001
    ) AS few
) AS outbox
CROSS JOIN (
    SELECT count(*) AS pending, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
    FROM (
        SELECT created_at FROM streaming.outbox WHERE sent_at IS NULL AND kind = 'clickhouse' ORDER BY id LIMIT 100001
    ) AS few
) AS clickhouse
CROSS JOIN (
    SELECT count(*) AS pending, coalesce(extract(epoch FROM now() - min(marked_at)), 0)::float8 AS oldest_s
    FROM (
        SELECT marked_at FROM streaming.clickhouse_correction WHERE sent_revision < revision
        ORDER BY marked_at LIMIT 100001
    ) AS few
) AS corrections
LEFT JOIN (
    SELECT instance_id, date_completed, date_crawled
    FROM core.instance LEFT JOIN raw.pgcr USING (instance_id)
    ORDER BY instance_id DESC LIMIT 1
) AS newest ON true;
