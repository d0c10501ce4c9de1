-- The outbox's messages: claimed, published, marked. docs/domain/queues.md, "Outbox".

-- name: claim_messages
-- Index outbox_unsent_idx, in the order of the index. Rows of other relays are passed over. What
-- no queue would take five times stays for a person, who sets attempts to 0 again.
SELECT id, destination, key, body
FROM streaming.outbox
WHERE kind = 'message' AND sent_at IS NULL AND attempts < 5
ORDER BY id
LIMIT %(limit)s
FOR UPDATE SKIP LOCKED;

-- name: mark_sent
-- Primary key; the rows are locked by claim_messages.
UPDATE streaming.outbox SET sent_at = now() WHERE id = ANY(%(ids)s);

-- name: mark_failed
-- Primary key; the rows are locked by claim_messages.
UPDATE streaming.outbox SET attempts = attempts + 1, last_error = left(%(error)s, 500)
WHERE id = ANY(%(ids)s);

-- name: count_unsent
-- Index outbox_unsent_idx, only what is still to be sent; clickhouse_correction_open_idx; the days
-- are a few hundred rows.
SELECT count(*) AS unsent,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision AS oldest_s,
       coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE kind = 'message')), 0)
           ::double precision AS oldest_message_s,
       coalesce(extract(epoch FROM now() - least(
           min(created_at) FILTER (WHERE kind = 'clickhouse'),
           (SELECT min(marked_at) FROM streaming.clickhouse_correction
            WHERE sent_revision < revision)
       )), 0)::double precision AS clickhouse_oldest_s,
       (SELECT count(*) FROM streaming.clickhouse_dirty_day
        WHERE rebuilt_at IS NULL OR rebuilt_at < marked_at) AS dirty_days
FROM streaming.outbox
WHERE sent_at IS NULL;

-- name: prune_sent
-- Index outbox_sent_idx, oldest first. Two relays never wait for each other's rows.
DELETE FROM streaming.outbox
WHERE id IN (
    SELECT id FROM streaming.outbox
    WHERE sent_at < now() - interval '7 days'
    ORDER BY sent_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
);
