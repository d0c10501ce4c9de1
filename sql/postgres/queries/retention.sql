-- Retention of tables in schema streaming: docs/domain/schema.md, "Retention".

-- name: count_dirty_days
-- Few hundred rows.
SELECT count(*) FROM streaming.clickhouse_dirty_day
WHERE rebuilt_at >= marked_at AND rebuilt_at < now() - interval '30 days';

-- name: delete_dirty_days
DELETE FROM streaming.clickhouse_dirty_day
WHERE rebuilt_at >= marked_at AND rebuilt_at < now() - interval '30 days';

-- name: count_factors
-- Scans: a row a player who was judged yesterday.
SELECT count(*) FROM streaming.account_factor_cache WHERE fetched_at < now() - interval '24 hours';

-- name: delete_factors
DELETE FROM streaming.account_factor_cache WHERE fetched_at < now() - interval '24 hours';

-- name: kept_versions
-- A scan, once a day. The version in use and the one before it, by when they last judged.
SELECT version FROM streaming.cheat_check
GROUP BY version
ORDER BY max(checked_at) DESC, version DESC
LIMIT 2;

-- name: count_checks
SELECT count(*) FROM streaming.cheat_check WHERE version <> ALL(%(kept)s::text[]);

-- name: delete_checks
-- Once after each change of the rules, so that a scan a batch is borne.
DELETE FROM streaming.cheat_check
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM streaming.cheat_check WHERE version <> ALL(%(kept)s::text[]) LIMIT %(limit)s
));

-- name: count_overdue
-- What the stream itself deletes or merges, and did not for a day: its chore stands still. Indexes
-- outbox_sent_idx, withheld_pgcr_closed_idx, blocked_success_time_idx; the rest are scans of tables
-- that the same chore scans every few minutes.
SELECT 'streaming.outbox' AS "table", 'hermes, relay' AS "deleted by", count(*) AS overdue
FROM streaming.outbox WHERE sent_at < now() - interval '8 days'
UNION ALL
SELECT 'streaming.clickhouse_batch', 'hermes, relay', count(*)
FROM streaming.clickhouse_batch WHERE state = 'done' AND done_at < now() - interval '8 days'
UNION ALL
SELECT 'streaming.missed_pgcr', 'atlas', count(*)
FROM streaming.missed_pgcr WHERE closed_at < now() - interval '31 days'
UNION ALL
SELECT 'streaming.withheld_pgcr', 'hermes, pgcr_blocked_retry', count(*)
FROM streaming.withheld_pgcr WHERE closed_at < now() - interval '25 hours'
UNION ALL
SELECT 'streaming.blocked_success', 'hermes, pgcr_blocked_retry', count(*)
FROM streaming.blocked_success WHERE succeeded_at < now() - interval '25 hours'
UNION ALL
SELECT 'streaming.young_pgcr', 'hermes, instance_store', count(*)
FROM streaming.young_pgcr WHERE due_at < now() - interval '24 hours'
UNION ALL
SELECT 'streaming.crawl_block', 'atlas (merged)', count(*)
FROM (
    SELECT first_id = lag(last_id) OVER (ORDER BY first_id) + 1 AS touches
    FROM streaming.crawl_block
    WHERE state = 'done' AND done_at < now() - interval '91 days'
) AS old
WHERE touches;
