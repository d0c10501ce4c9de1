-- The ids that the crawl could not finish: docs/domain/crawl.md, "Missed ids".

-- name: record
-- Primary key. Ascending ids, so that two writers wait for each other instead of deadlocking.
-- A closed row that is opened again starts a new life: its age and tries count from now. Tries
-- also count anew in another state, whose law of pauses is another one.
INSERT INTO streaming.missed_pgcr AS m
    (instance_id, state, reason, last_result, hash, last_error, attempts, source,
     last_attempt_at, next_attempt_at)
SELECT r.instance_id, r.state, r.reason, r.last_result, r.hash, r.last_error, r.visits,
       %(source)s,
       now(), now() + r.retry_in_s * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(states)s::text[], %(reasons)s::text[], %(results)s::smallint[],
            %(hashes)s::bigint[], %(errors)s::text[], %(retry_in_s)s::double precision[],
            %(visits)s::int[])
     AS r(instance_id, state, reason, last_result, hash, last_error, retry_in_s, visits)
-- A block that is crawled again may meet an error where the report is stored already.
WHERE NOT EXISTS (SELECT FROM core.instance AS i WHERE i.instance_id = r.instance_id)
ORDER BY r.instance_id
ON CONFLICT (instance_id) DO UPDATE SET
    state = excluded.state,
    reason = excluded.reason,
    last_result = excluded.last_result,
    hash = coalesce(excluded.hash, m.hash),
    last_error = excluded.last_error,
    attempts = CASE WHEN m.closed_at IS NULL AND m.state = excluded.state
                    THEN m.attempts + excluded.attempts ELSE greatest(excluded.attempts, 1) END,
    first_seen_at = CASE WHEN m.closed_at IS NULL THEN m.first_seen_at ELSE now() END,
    last_attempt_at = now(),
    next_attempt_at = excluded.next_attempt_at,
    closed_at = NULL
-- A kept report whose definition is missing is not lost because a later copy of it is broken.
WHERE m.state IN ('waiting', 'malformed', 'blocked')
   OR (%(reopen)s AND (m.state <> 'unknown_hash' OR excluded.state = 'unknown_hash'));

-- name: due
-- Index missed_pgcr_due_idx. Claimed by moving next_attempt_at: no other process takes the row
-- before the claim ends, and a process that dies leaves it due again by itself.
UPDATE streaming.missed_pgcr AS m
SET next_attempt_at = now() + %(claim_s)s * interval '1 second'
FROM (
    SELECT instance_id
    FROM streaming.missed_pgcr
    -- Not the blocked ones: they are tried from their queue.
    WHERE state IN ('waiting', 'malformed') AND next_attempt_at <= now()
    ORDER BY next_attempt_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS picked
WHERE m.instance_id = picked.instance_id
RETURNING m.instance_id, m.state, m.attempts,
          extract(epoch FROM now() - m.first_seen_at)::double precision AS age_s;

-- name: claim
-- Primary key: one pass over the ids in order. Claimed as in `due`, so that neither takes a row of
-- the other.
UPDATE streaming.missed_pgcr AS m
SET next_attempt_at = now() + %(claim_s)s * interval '1 second'
FROM (
    SELECT instance_id
    FROM streaming.missed_pgcr
    WHERE state IN ('waiting', 'malformed') AND next_attempt_at <= now()
      AND instance_id > %(after)s AND instance_id <= %(until)s
    ORDER BY instance_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS picked
WHERE m.instance_id = picked.instance_id
RETURNING m.instance_id, m.state, m.attempts,
          extract(epoch FROM now() - m.first_seen_at)::double precision AS age_s;

-- name: release
-- Primary key. What was tried has its next time already and is not among these.
UPDATE streaming.missed_pgcr SET next_attempt_at = now()
WHERE instance_id = ANY(%(ids)s) AND state IN ('waiting', 'malformed');

-- name: close_stored
-- Primary keys; a scan of the open rows, once a run. Outside writers store without telling.
UPDATE streaming.missed_pgcr AS m
SET state = 'resolved', closed_at = now(), next_attempt_at = NULL
WHERE m.state IN ('waiting', 'malformed', 'blocked')
  AND EXISTS (SELECT FROM core.instance AS i WHERE i.instance_id = m.instance_id)
  AND EXISTS (SELECT FROM raw.pgcr AS r WHERE r.instance_id = m.instance_id)
RETURNING m.instance_id;

-- name: count_due
-- Index missed_pgcr_due_idx.
SELECT count(*) FROM streaming.missed_pgcr
WHERE state IN ('waiting', 'malformed') AND next_attempt_at <= now() AND instance_id <= %(until)s;

-- name: find_stored
-- Primary keys, as in `close_stored`.
SELECT m.instance_id, count(*) OVER ()
FROM streaming.missed_pgcr AS m
WHERE m.state IN ('waiting', 'malformed', 'blocked')
  AND EXISTS (SELECT FROM core.instance AS i WHERE i.instance_id = m.instance_id)
  AND EXISTS (SELECT FROM raw.pgcr AS r WHERE r.instance_id = m.instance_id)
ORDER BY m.instance_id
LIMIT 5;

-- name: find_unattended
-- Index missed_pgcr_due_idx.
SELECT instance_id, count(*) OVER ()
FROM streaming.missed_pgcr
WHERE state IN ('waiting', 'malformed') AND next_attempt_at < now() - interval '1 day'
ORDER BY next_attempt_at
LIMIT 5;

-- name: list_malformed
-- Index missed_pgcr_due_idx holds these states, those without a next try included.
SELECT instance_id FROM streaming.missed_pgcr
WHERE state = 'malformed'
ORDER BY instance_id
LIMIT %(limit)s;

-- name: forgotten
-- A scan, every ten minutes and only while the queue of blocked ids is empty.
UPDATE streaming.missed_pgcr AS m
SET last_attempt_at = now()
FROM (
    SELECT instance_id
    FROM streaming.missed_pgcr
    WHERE state = 'blocked'
      AND coalesce(last_attempt_at, first_seen_at) < now() - %(after_s)s * interval '1 second'
    ORDER BY instance_id
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
) AS picked
WHERE m.instance_id = picked.instance_id
RETURNING m.instance_id;

-- name: lock
-- Primary key. Ascending, for the same reason as in record.
SELECT instance_id FROM streaming.missed_pgcr
WHERE instance_id = ANY(%(ids)s) AND state = ANY(%(among)s)
ORDER BY instance_id
FOR UPDATE;

-- name: close
-- Primary key.
UPDATE streaming.missed_pgcr
SET state = %(state)s, closed_at = now(), next_attempt_at = NULL
WHERE instance_id = ANY(%(ids)s);

-- name: holes
-- Primary key of crawl_block, one probe upwards and one downwards an id: nearly every done block
-- holds something resolved, so the first row met ends the search. A stored raid is resolved too: ids
-- below the first block have nothing else. It must be near, since a few bogus ids lie far above all.
SELECT i.id
FROM unnest(%(ids)s::bigint[]) AS i(id)
WHERE (
    EXISTS (
        SELECT FROM streaming.crawl_block
        WHERE first_id > i.id AND state = 'done' AND raids + non_raids > 0
    ) OR EXISTS (
        SELECT FROM core.instance
        WHERE instance_id > i.id AND instance_id < i.id + 10000000
    )
) AND (
    EXISTS (
        SELECT FROM streaming.crawl_block
        WHERE first_id < i.id AND state = 'done' AND raids + non_raids > 0
    ) OR EXISTS (
        SELECT FROM core.instance
        WHERE instance_id < i.id AND instance_id > i.id - 10000000
    )
);

-- name: count_by_state
-- A scan: asked once a minute, and the table holds open rows and 30 days of closed ones.
SELECT state, count(*) FROM streaming.missed_pgcr GROUP BY state;

-- name: prune
-- A scan, every ten minutes.
DELETE FROM streaming.missed_pgcr WHERE closed_at < now() - interval '30 days';
