-- Ranges that were jumped over, and their sweep: docs/domain/crawl.md, "Recovery".

-- name: list_open
-- A scan: gaps are few. One that a killed run left comes first.
SELECT id, first_id, last_id, position, rounds,
       extract(epoch FROM now() - detected_at)::double precision
FROM streaming.gap
WHERE state <> 'done'
  AND (state = 'sweeping' OR swept_at IS NULL
       OR swept_at < now() - %(again_s)s * interval '1 second')
  AND last_id <= %(until)s
ORDER BY state = 'sweeping' DESC, first_id;

-- name: read_swept
-- Primary key. Bounds included.
SELECT lower(r), upper(r) - 1
FROM (SELECT unnest(swept) AS r FROM streaming.gap WHERE id = %(id)s) AS part
ORDER BY 1;

-- name: begin
-- Primary key.
UPDATE streaming.gap SET state = 'sweeping' WHERE id = %(id)s AND state <> 'done';

-- name: advance
-- Primary key.
UPDATE streaming.gap
SET position = %(position)s,
    sampled = sampled + %(sampled)s,
    found = found + %(found)s,
    swept = swept + (
        SELECT coalesce(range_agg(int8range(s.first_id, s.last_id, '[]')), '{}')
        FROM unnest(%(firsts)s::bigint[], %(lasts)s::bigint[]) AS s(first_id, last_id)
    )
WHERE id = %(id)s;

-- name: end_round
-- Primary key. Done when nothing is left that was not asked for by itself, or when so much time
-- passed, and so many rounds, that what is not there never will be.
UPDATE streaming.gap
SET state = CASE WHEN swept @> int8range(first_id, last_id, '[]')
                   OR (rounds + 1 >= %(rounds)s
                       AND detected_at <= now() - %(over_s)s * interval '1 second')
                 THEN 'done' ELSE 'open' END,
    rounds = rounds + 1, position = NULL, swept_at = now()
WHERE id = %(id)s
RETURNING state;

-- name: add_around_missed
-- A scan of the open rows. Index of the blocks' exclusion constraint. What a block or a gap covers
-- is accounted for; what lies at or above the cursor is the crawl's. Rows that a sweep wrote start
-- nothing, or one hole would grow by a thousand ids a day.
WITH around AS (
    SELECT range_agg(int8range(greatest(instance_id - %(margin)s, 1),
                               instance_id + %(margin)s, '[]')) AS ids
    FROM streaming.missed_pgcr
    WHERE state = 'waiting' AND source <> %(source)s AND instance_id <= %(until)s
), unknown AS (
    SELECT unnest(
        around.ids
        - coalesce((SELECT range_agg(int8range(first_id, last_id, '[]'))
                    FROM streaming.crawl_block
                    WHERE int8range(first_id, last_id, '[]') && around.ids), '{}')
        - coalesce((SELECT range_agg(int8range(first_id, last_id, '[]'))
                    FROM streaming.gap), '{}')
        - int8multirange(int8range(
            least((SELECT min(next_id) FROM streaming.crawl_cursor), %(until)s + 1), NULL))
    ) AS r
    FROM around
    WHERE around.ids IS NOT NULL
)
INSERT INTO streaming.gap (first_id, last_id, reason)
SELECT lower(r), upper(r) - 1, 'around missed ids'
FROM unknown
ORDER BY 1
RETURNING first_id, last_id;

-- name: find_stored
-- Primary keys.
SELECT i.instance_id
FROM core.instance AS i
JOIN raw.pgcr AS r USING (instance_id)
WHERE i.instance_id = ANY(%(ids)s);

-- name: find_missed
-- Primary key.
SELECT instance_id FROM streaming.missed_pgcr
WHERE instance_id = ANY(%(ids)s)
  AND state IN ('waiting', 'malformed', 'blocked', 'unknown_hash');

-- name: count_open
-- A scan: gaps are few.
SELECT count(*), coalesce(sum(last_id - first_id + 1), 0)::bigint
FROM streaming.gap WHERE state <> 'done';

-- name: find_endless
-- A scan: gaps are few. Two rounds after the time at which every gap is over.
SELECT id, count(*) OVER ()
FROM streaming.gap
WHERE state <> 'done' AND detected_at < now() - %(over_s)s * interval '1 second' - interval '2 days'
ORDER BY id
LIMIT 5;
