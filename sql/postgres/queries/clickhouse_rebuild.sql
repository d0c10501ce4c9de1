-- PostgreSQL's side of rebuilding ClickHouse. Run while the sender is held off, so that "sent"
-- means "there".

-- name: select_day
-- Index instance_date_completed_brin, outbox_unsent_idx. What is still to be sent is left out: it
-- will pass the views, and must be counted by them alone.
SELECT i.instance_id, coalesce(c.revision, 1) AS revision
FROM core.instance AS i
LEFT JOIN streaming.clickhouse_correction AS c USING (instance_id)
WHERE i.date_completed >= %(day)s::date::timestamp AT TIME ZONE 'UTC'
  AND i.date_completed < (%(day)s::date + 1)::timestamp AT TIME ZONE 'UTC'
  AND NOT EXISTS (
      SELECT FROM streaming.outbox AS o
      WHERE o.kind = 'clickhouse' AND o.sent_at IS NULL AND o.key = i.instance_id
  )
ORDER BY i.date_completed, i.instance_id;

-- name: select_overtaken
-- Index outbox_unsent_idx. Runs whose correction is there already while the first row is not: the
-- views will count them when it comes.
SELECT o.key
FROM streaming.outbox AS o
INNER JOIN streaming.clickhouse_correction AS c ON c.instance_id = o.key
WHERE o.kind = 'clickhouse' AND o.sent_at IS NULL AND c.sent_revision > 1
ORDER BY o.key
LIMIT %(limit)s;

-- name: select_awaiting
-- Scans a table with a row a day. What the daily rebuild has to do.
SELECT day, reason, marked_at
FROM streaming.clickhouse_dirty_day
WHERE rebuilt_at IS NULL OR rebuilt_at < marked_at
ORDER BY day;

-- name: note_rebuilt
-- Primary key. Who was marked again meanwhile has another marked_at and stays marked.
UPDATE streaming.clickhouse_dirty_day AS d
SET rebuilt_tables = d.rebuilt_tables || %(table)s::text,
    rebuilt_at = CASE
        WHEN d.rebuilt_tables || %(table)s::text @> %(tables)s::text[]
        THEN greatest(%(now)s, d.marked_at)
        ELSE d.rebuilt_at
    END
FROM unnest(%(days)s::date[], %(marks)s::timestamptz[]) AS seen (day, marked_at)
WHERE d.day = seen.day
  AND d.marked_at = seen.marked_at
  AND NOT %(table)s = ANY(d.rebuilt_tables);

-- name: prune_marks
-- Scans a table with a row a day.
DELETE FROM streaming.clickhouse_dirty_day
WHERE rebuilt_at >= marked_at AND rebuilt_at < %(now)s - interval '30 days';

-- name: read_names
-- Primary key.
SELECT membership_id, coalesce(bungie_name, display_name, membership_id::text)
FROM core.player
WHERE membership_id = ANY(%(players)s::bigint[]);
