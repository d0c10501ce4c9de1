-- Batches of players whom a queue is asked for. Rules: docs/domain/players.md, "Batches".

-- name: pick_histories
-- Scans players once a batch: no index on clears, which every stored raid writes.
WITH most AS MATERIALIZED (
    SELECT membership_id, clears, bungie_name, history_last_crawled
    FROM core.player
    WHERE clears > 0
    ORDER BY clears DESC, membership_id
    LIMIT %(range)s
)
SELECT membership_id, bungie_name, clears, history_last_crawled AS last, count(*) OVER () AS due
FROM most
WHERE (history_last_crawled IS NULL OR history_last_crawled < %(before)s)
  AND NOT EXISTS (
      SELECT FROM streaming.asked_player AS asked
      WHERE asked.queue = %(queue)s AND asked.membership_id = most.membership_id
        AND asked.asked_at >= %(asked_before)s)
ORDER BY random()
LIMIT %(count)s;

-- name: pick_stale
-- As above; and whoever has no name or no platform, however few the clears: nobody can find, or
-- ask for, such a player. Those without come first, then the oldest.
WITH most AS MATERIALIZED (
    SELECT membership_id
    FROM core.player
    WHERE clears > 0
    ORDER BY clears DESC, membership_id
    LIMIT %(range)s
)
SELECT p.membership_id, p.bungie_name, p.clears, p.last_crawled AS last, count(*) OVER () AS due
FROM core.player AS p
LEFT JOIN most USING (membership_id)
WHERE (p.last_crawled IS NULL OR p.last_crawled < %(before)s)
  AND (most.membership_id IS NOT NULL OR p.bungie_name IS NULL OR p.membership_type IS NULL)
  AND NOT EXISTS (
      SELECT FROM streaming.asked_player AS asked
      WHERE asked.queue = %(queue)s AND asked.membership_id = p.membership_id
        AND asked.asked_at >= %(asked_before)s)
ORDER BY p.bungie_name IS NOT NULL AND p.membership_type IS NOT NULL,
         p.last_crawled NULLS FIRST, p.membership_id
LIMIT %(count)s;

-- name: remember
-- Primary key.
INSERT INTO streaming.asked_player AS a (queue, membership_id, asked_at)
SELECT %(queue)s, id, %(now)s FROM unnest(%(players)s::bigint[]) AS id
ON CONFLICT (queue, membership_id) DO UPDATE SET asked_at = excluded.asked_at;

-- name: ask
-- The messages leave with the commit.
INSERT INTO streaming.outbox (kind, destination, key, body)
SELECT 'message', %(queue)s, id, convert_to(id::text, 'UTF8')
FROM unnest(%(players)s::bigint[]) AS id;

-- name: prune
-- The whole table: some ten thousand rows.
DELETE FROM streaming.asked_player WHERE asked_at < %(now)s - interval '60 days';
