-- The outbox's messages and webhooks: claimed, published or posted, marked. docs/domain/queues.md,
-- "Outbox".

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

-- name: lock_webhooks
-- One relay at a time posts: the rate belongs to the receiver, not to a process.
SELECT pg_try_advisory_xact_lock(hashtextextended('outbox webhooks', 0));

-- name: count_webhook_attempts
-- Index outbox_webhook_attempt_idx.
SELECT destination
FROM streaming.outbox
WHERE kind = 'webhook' AND attempted_at > now() - make_interval(secs => %(window_s)s)
GROUP BY destination
HAVING count(*) >= %(burst)s;

-- name: claim_webhook
-- Index outbox_unsent_idx, in the order of the index; few rows.
SELECT id, destination, body, attempts
FROM streaming.outbox
WHERE kind = 'webhook' AND sent_at IS NULL AND destination <> ALL(%(resting)s::text[])
  AND (next_attempt_at IS NULL OR next_attempt_at <= now())
ORDER BY id
LIMIT 1
FOR UPDATE SKIP LOCKED;

-- name: close_webhook
-- Primary key. With an error: nobody took it, and it is not tried again.
UPDATE streaming.outbox
SET sent_at = clock_timestamp(), attempted_at = clock_timestamp(), attempts = attempts + 1,
    last_error = left(%(error)s, 500)
WHERE id = %(id)s;

-- name: retry_webhook
-- Primary key.
UPDATE streaming.outbox
SET attempted_at = clock_timestamp(), attempts = attempts + 1, last_error = left(%(error)s, 500),
    next_attempt_at = clock_timestamp() + make_interval(secs => %(pause_s)s)
WHERE id = %(id)s;

-- name: rest_webhooks
-- Index outbox_unsent_idx. The receiver asked for a pause: it is the way, not a message.
UPDATE streaming.outbox
SET next_attempt_at = greatest(next_attempt_at, clock_timestamp() + make_interval(secs => %(pause_s)s))
WHERE kind = 'webhook' AND sent_at IS NULL AND destination = %(destination)s;

-- name: add_webhook
INSERT INTO streaming.outbox (kind, destination, key, body)
VALUES ('webhook', %(destination)s, %(key)s, %(body)s);

-- name: count_unsent
-- What the stores still lack; messages to people wait for their turn and hold nobody up.
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
WHERE sent_at IS NULL AND kind <> 'webhook';

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
