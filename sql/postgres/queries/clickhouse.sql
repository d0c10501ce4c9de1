-- PostgreSQL's side of ClickHouse: what is on its way, and the locks of those who send it.
-- Locks have two keys: a space of their own beside the one-key locks that the store takes on
-- players. Those of a session vanish with a killed process.

-- name: lock
SELECT pg_advisory_lock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: limit_wait
-- For the sender to finish its step.
SET LOCAL lock_timeout = '10min';

-- name: select_lock
-- Whether this session still holds the lock of `sender`: a lost connection loses it silently.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted AND objsubid = 2
      AND classid = hashtext('clickhouse')::bigint & 4294967295
      AND objid = hashtext('sender')::bigint & 4294967295
);

-- name: lock_for_transaction
SELECT pg_advisory_xact_lock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: select_unconfirmed_batches
-- Index clickhouse_batch_open_idx. Tried and not finished: ClickHouse may have them, or a part.
SELECT id::text
FROM streaming.clickhouse_batch
WHERE state <> 'done' AND first_attempt_at IS NOT NULL
ORDER BY created_at, id;

-- name: select_due_batches
-- Index clickhouse_batch_open_idx. A batch that ClickHouse answered with an error, or that is held,
-- waits 1 s doubling to 5 min; one that got no answer is due at once. `is_expired`: its token may
-- be forgotten, a day after the first try or %(remembered)s confirmed batches later. Counting
-- those scans the table of a week, but only for a batch that was tried before.
SELECT
    b.id::text,
    b.state = 'unknown' OR (b.first_attempt_at IS NOT NULL AND (
        b.first_attempt_at <= %(now)s - interval '1 day'
        OR (SELECT count(*) FROM streaming.clickhouse_batch AS later
            WHERE later.done_at >= b.first_attempt_at) >= %(remembered)s
    )) AS is_expired
FROM streaming.clickhouse_batch AS b
WHERE b.state <> 'done'
  AND (b.last_error IS NULL
       OR b.last_attempt_at <= %(now)s - interval '1 s' * least(300, power(2, least(b.attempts, 9))))
ORDER BY b.created_at, b.id
LIMIT %(limit)s;

-- name: fix_batches
-- The oldest rows that are in no batch, by index outbox_unsent_idx, one batch a month; none while
-- they are few and young. Only one sender runs, and rows in no batch change in nobody else's hands.
WITH oldest AS MATERIALIZED (
    SELECT id, month, created_at
    FROM streaming.outbox
    WHERE kind = 'clickhouse' AND sent_at IS NULL AND batch_id IS NULL
    ORDER BY id
    LIMIT %(rows)s
), fixed AS MATERIALIZED (
    SELECT gen_random_uuid() AS id, month, count(*) AS row_count
    FROM oldest
    WHERE (SELECT count(*) >= %(rows)s OR min(created_at) <= %(before)s FROM oldest)
    GROUP BY month
), batch AS (
    INSERT INTO streaming.clickhouse_batch (id, target, row_count, created_at)
    SELECT id, 'instance', row_count, %(now)s FROM fixed
)
UPDATE streaming.outbox AS o
SET batch_id = fixed.id
FROM oldest
INNER JOIN fixed USING (month)
WHERE o.id = oldest.id;

-- name: select_batch_rows
-- Index outbox_batch_idx.
SELECT id, body FROM streaming.outbox WHERE batch_id = %(batch)s::uuid;

-- name: begin_attempt
-- Primary key. Committed before the first byte leaves: from here on ClickHouse may have the batch.
UPDATE streaming.clickhouse_batch
SET attempts = attempts + 1,
    first_attempt_at = coalesce(first_attempt_at, %(now)s),
    last_attempt_at = %(now)s,
    last_error = NULL
WHERE id = %(batch)s::uuid;

-- name: give_up_token
-- Primary key.
UPDATE streaming.clickhouse_batch SET state = 'unknown' WHERE id = %(batch)s::uuid;

-- name: hold_batch
-- Primary key. Nothing was sent: first_attempt_at stays.
UPDATE streaming.clickhouse_batch
SET attempts = attempts + 1, last_attempt_at = %(now)s, last_error = left(%(reason)s, 500)
WHERE id = %(batch)s::uuid;

-- name: record_refusal
-- Primary key.
UPDATE streaming.clickhouse_batch SET last_error = left(%(reason)s, 500) WHERE id = %(batch)s::uuid;

-- name: finish_batch
-- Primary key.
UPDATE streaming.clickhouse_batch SET state = 'done', done_at = %(now)s WHERE id = %(batch)s::uuid;

-- name: mark_rows_sent
-- Index outbox_batch_idx.
UPDATE streaming.outbox SET sent_at = %(now)s WHERE batch_id = %(batch)s::uuid AND sent_at IS NULL;

-- name: reopen_corrections
-- A correction that overtook the first row wins by its revision. But had it moved the date, the
-- first row now stands under the older key: the correction goes out again and removes it.
UPDATE streaming.clickhouse_correction AS c
SET sent_revision = c.revision - 1
FROM streaming.outbox AS o
WHERE o.batch_id = %(batch)s::uuid AND c.instance_id = o.key AND c.sent_revision = c.revision;

-- name: begin_snapshot
-- A row and its revision must be of the same moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: select_corrections
-- Index clickhouse_correction_open_idx.
SELECT instance_id, revision
FROM streaming.clickhouse_correction
WHERE sent_revision < revision AND marked_at <= %(before)s
ORDER BY marked_at
LIMIT %(limit)s;

-- name: mark_corrections_sent
-- Primary key. Whoever raised the revision meanwhile keeps the correction open.
UPDATE streaming.clickhouse_correction AS c
SET sent_revision = sent.revision
FROM unnest(%(instance_ids)s::bigint[], %(revisions)s::integer[]) AS sent (instance_id, revision)
WHERE c.instance_id = sent.instance_id;

-- name: mark_dirty_days
-- Primary key.
INSERT INTO streaming.clickhouse_dirty_day (day, reason, marked_at)
SELECT day, %(reason)s, %(now)s FROM unnest(%(days)s::date[]) AS day ORDER BY day
ON CONFLICT (day) DO UPDATE
SET reason = excluded.reason, marked_at = excluded.marked_at, rebuilt_at = NULL,
    rebuilt_tables = '{}';

-- name: prune_batches
-- Scans a week of batches: 120 000 rows at most, 20 ms.
DELETE FROM streaming.clickhouse_batch
WHERE state = 'done' AND done_at < %(now)s - interval '7 days';
