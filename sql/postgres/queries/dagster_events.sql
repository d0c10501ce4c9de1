-- Pruning of Dagster's own event log, in its database. Tables and columns are those of Dagster
-- 1.13.27 (dagster/_core/storage/event_log/schema.py); times are UTC without a zone.

-- name: last_id
-- Primary key, backwards.
SELECT coalesce(max(id), 0) FROM event_logs;

-- name: find_old
-- Primary key: one stretch of ids. Only of runs that ended (or were deleted, or never were: what a
-- sensor reports belongs to no run). Never a row about an asset.
SELECT l.id, coalesce(l.dagster_event_type, 'log line') AS kind, octet_length(l.event) AS size
FROM event_logs AS l
WHERE l.id > %(after)s AND l.id <= %(until)s
  AND l.asset_key IS NULL
  AND ((l.timestamp < %(details_before)s
        AND (l.dagster_event_type IS NULL OR l.dagster_event_type = ANY(%(details)s)))
       OR (l.timestamp < %(steps_before)s AND l.dagster_event_type = ANY(%(steps)s)))
  AND NOT EXISTS (
      SELECT FROM runs AS r
      WHERE r.run_id = l.run_id AND r.status <> ALL(%(ended)s)
  );

-- name: first_young
-- Primary key: is this stretch of ids young already? Ids grow in the order of time, up to
-- transactions that overtake each other by seconds.
SELECT coalesce(min(timestamp) >= %(details_before)s, false)
FROM event_logs
WHERE id > %(after)s AND id <= %(until)s;

-- name: watched_assets
-- Dagster's own list of assets.
SELECT asset_key FROM asset_keys ORDER BY asset_key;

-- name: find_old_watch
-- Index idx_events_by_asset: repeated news about one asset of one kind. The newest `kept` stay
-- whatever their age, and of each partition the newest one.
WITH edge AS (
    SELECT id FROM event_logs
    WHERE asset_key = %(asset)s AND dagster_event_type = %(kind)s
    ORDER BY id DESC
    OFFSET %(kept)s LIMIT 1
)
SELECT l.id, l.dagster_event_type AS kind, octet_length(l.event) AS size
FROM event_logs AS l, edge
WHERE l.asset_key = %(asset)s AND l.dagster_event_type = %(kind)s
  AND l.id > %(after)s AND l.id <= edge.id
  AND l.timestamp < %(details_before)s
  AND (l.partition IS NULL OR EXISTS (
      SELECT FROM event_logs AS newer
      WHERE newer.asset_key = l.asset_key AND newer.dagster_event_type = l.dagster_event_type
        AND newer.partition = l.partition AND newer.id > l.id))
ORDER BY l.id
LIMIT %(limit)s;

-- name: delete_tags
-- Index idx_asset_event_tags_event_id.
DELETE FROM asset_event_tags WHERE event_id = ANY(%(ids)s::bigint[]);

-- name: delete_events
-- Primary key.
DELETE FROM event_logs WHERE id = ANY(%(ids)s::bigint[]);
