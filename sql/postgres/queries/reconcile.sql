-- After PostgreSQL was restored or the broker lost its data: what was on its way then is done again.
-- docs/operations/backup.md, "What a restore does again".

-- name: release_unstored_blocks
-- A scan of the blocks of 29 days (closed rows of missed_pgcr are kept for 30), each with a range of
-- two primary keys. `raids` counts what the block published; what arrived of it is in raw.pgcr, or
-- hermes gave it up. Ids with a row of somebody else's were never counted by the block.
WITH unstored AS (
    SELECT b.first_id, b.done_at
    FROM streaming.crawl_block AS b
    WHERE b.state = 'done'
      AND b.done_at > (SELECT max(done_at) FROM streaming.crawl_block) - interval '29 days'
      AND b.raids > (
          SELECT count(*) FROM (
              SELECT r.instance_id FROM raw.pgcr AS r
              WHERE r.instance_id BETWEEN b.first_id AND b.last_id
                AND NOT EXISTS (
                    SELECT FROM streaming.missed_pgcr AS m
                    WHERE m.instance_id = r.instance_id AND m.source <> 'hermes'
                )
              UNION
              SELECT m.instance_id FROM streaming.missed_pgcr AS m
              WHERE m.instance_id BETWEEN b.first_id AND b.last_id AND m.source = 'hermes'
          ) AS arrived
      )
), released AS (
    UPDATE streaming.crawl_block AS b SET state = 'released', done_at = NULL
    FROM unstored
    WHERE b.first_id = unstored.first_id
    RETURNING unstored.done_at
)
-- A queue keeps its order: what was published long before the oldest unstored raid has arrived.
SELECT count(*) AS released,
       least(min(done_at), (SELECT max(done_at) FROM streaming.crawl_block), now())
           - make_interval(hours => %(hours)s) AS since
FROM released;

-- name: reopen_missed
-- A scan of 30 days of closed rows. Their report was published and never arrived; those that were
-- no raid at all cannot be told apart and are asked for once more.
UPDATE streaming.missed_pgcr AS m
SET state = 'waiting', closed_at = NULL, next_attempt_at = now(), first_seen_at = now()
WHERE m.state = 'resolved' AND m.closed_at > %(since)s
  AND NOT EXISTS (SELECT FROM raw.pgcr AS r WHERE r.instance_id = m.instance_id);

-- name: retry_parked
-- A scan of the open rows. Hermes parked these reports: the copy in the broker is gone.
UPDATE streaming.missed_pgcr SET next_attempt_at = now()
WHERE state = 'waiting' AND reason = 'store_failed' AND next_attempt_at IS NULL;

-- name: resend_messages
-- Index outbox_sent_idx.
UPDATE streaming.outbox SET sent_at = NULL, attempts = 0, last_error = NULL
WHERE kind = 'message' AND sent_at > %(since)s;

-- name: unfix_batches
-- Index clickhouse_batch_open_idx, outbox_batch_idx. ClickHouse may know their tokens from a time
-- that PostgreSQL has forgotten, and would drop the rows: they get a new batch.
WITH dropped AS (
    DELETE FROM streaming.clickhouse_batch
    WHERE state = 'fixed' AND first_attempt_at IS NULL
    RETURNING id
)
UPDATE streaming.outbox AS o SET batch_id = NULL
FROM dropped
WHERE o.batch_id = dropped.id AND o.sent_at IS NULL;
