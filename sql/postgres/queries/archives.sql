-- How far archives were imported. Rules: docs/domain/archives.md.

-- name: read_progress
-- Primary key.
SELECT state, version, line, offset_bytes, counts, sample
FROM streaming.archive_file
WHERE name = %(name)s;

-- name: start_over
-- Primary key.
INSERT INTO streaming.archive_file (name, source, version)
VALUES (%(name)s, %(source)s, %(version)s)
ON CONFLICT (name) DO UPDATE SET
    source = excluded.source,
    version = excluded.version,
    state = 'reading',
    line = 0,
    offset_bytes = 0,
    counts = '{}',
    sample = '{}',
    started_at = now(),
    updated_at = now(),
    finished_at = NULL;

-- name: forget_refusals
-- Primary key, by its first column.
DELETE FROM streaming.archive_refusal WHERE name = %(name)s;

-- name: save_progress
-- Primary key.
UPDATE streaming.archive_file
SET state = %(state)s,
    line = %(line)s,
    offset_bytes = %(offset_bytes)s,
    counts = %(counts)s,
    sample = %(sample)s::bigint[],
    updated_at = now(),
    finished_at = CASE WHEN %(state)s = 'done' THEN now() END
WHERE name = %(name)s;

-- name: keep_refusal
-- Primary key.
INSERT INTO streaming.archive_refusal (name, line, reason, detail, instance_id, body)
VALUES (%(name)s, %(line)s, %(reason)s, %(detail)s, %(instance_id)s, %(body)s)
ON CONFLICT (name, line) DO NOTHING;

-- name: first_refusals
-- Primary key.
SELECT line, reason, instance_id, detail
FROM streaming.archive_refusal
WHERE name = %(name)s
ORDER BY line
LIMIT %(limit)s;

-- name: find_uneven
-- Scan of one row a file: at most 1700. The id is the first one of the file.
SELECT split_part(name, '-', 1)::bigint AS id, count(*) OVER () AS differing
FROM streaming.archive_file AS f
WHERE line <> (SELECT coalesce(sum(value::bigint), 0) FROM jsonb_each_text(f.counts))
   OR coalesce((counts ->> 'refused')::bigint, 0)
      <> (SELECT count(*) FROM streaming.archive_refusal AS r WHERE r.name = f.name)
ORDER BY 1
LIMIT 5;

-- name: find_lost
-- Index archive_file_finished_idx, then primary keys: of the 20 files finished last, up to 200
-- raids each. A raid is there when its body is kept and it is stored or waits for a definition.
WITH newest AS (
    SELECT sample FROM streaming.archive_file
    WHERE finished_at IS NOT NULL
    ORDER BY finished_at DESC
    LIMIT 20
)
SELECT id, count(*) OVER () AS differing
FROM newest, unnest(sample) AS id
WHERE NOT EXISTS (SELECT FROM raw.pgcr AS r WHERE r.instance_id = id)
   OR NOT EXISTS (SELECT FROM core.instance AS i WHERE i.instance_id = id)
      AND NOT EXISTS (
          SELECT FROM streaming.missed_pgcr AS m
          WHERE m.instance_id = id AND m.state = 'unknown_hash'
      )
ORDER BY id
LIMIT 5;
