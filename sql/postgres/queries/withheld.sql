-- Withheld reports and the floodgates. Rules: docs/domain/queues.md, "Withheld reports".

-- name: look
-- Primary keys; index blocked_success_time_idx for the count; index withheld_pgcr_open_idx, at most
-- `edge` rows each way: is the id among the oldest or the newest?
SELECT
    EXISTS (SELECT FROM core.instance WHERE instance_id = %(instance)s)
        OR EXISTS (SELECT FROM streaming.blocked_success WHERE instance_id = %(instance)s),
    EXISTS (SELECT FROM streaming.withheld_pgcr
            WHERE instance_id = %(instance)s AND closed_at IS NULL AND returns_at > now()),
    (SELECT count(*) FROM streaming.blocked_success
     WHERE succeeded_at > now() - %(window_s)s * interval '1 second'),
    (SELECT count(*) FROM (
        SELECT FROM streaming.withheld_pgcr
        WHERE closed_at IS NULL AND instance_id < %(instance)s LIMIT %(edge)s
    ) AS older) < %(edge)s
    OR (SELECT count(*) FROM (
        SELECT FROM streaming.withheld_pgcr
        WHERE closed_at IS NULL AND instance_id > %(instance)s LIMIT %(edge)s
    ) AS newer) < %(edge)s;

-- name: lock_tries
-- While the gates are closed, tries are counted one after the other across all processes.
SELECT pg_advisory_xact_lock(hashtext('withheld'), 0);

-- name: enter
-- Primary key. A row that is there keeps its age; a closed one begins again. Its message is not
-- expected back before `rest_s` are over.
INSERT INTO streaming.withheld_pgcr AS w (instance_id, returns_at)
VALUES (%(instance)s, now() + %(rest_s)s * interval '1 second')
ON CONFLICT (instance_id) DO UPDATE SET
    entered_at = CASE WHEN w.closed_at IS NULL THEN w.entered_at ELSE now() END,
    returns_at = excluded.returns_at,
    closed_at = NULL;

-- name: has_tries_left
-- Index withheld_pgcr_tried_idx.
SELECT count(*) < %(tries)s
FROM streaming.withheld_pgcr
WHERE tried_at > now() - interval '1 minute';

-- name: try
-- Primary key.
UPDATE streaming.withheld_pgcr SET tried_at = now() WHERE instance_id = %(instance)s;

-- name: expect
-- Primary key. Its message waits elsewhere for so long.
UPDATE streaming.withheld_pgcr
SET returns_at = now() + %(seconds)s * interval '1 second'
WHERE instance_id = %(instance)s;

-- name: count_successes
-- Index blocked_success_time_idx.
SELECT count(*) FROM streaming.blocked_success
WHERE succeeded_at > now() - %(window_s)s * interval '1 second';

-- name: close
-- Primary key.
UPDATE streaming.withheld_pgcr SET closed_at = now() WHERE instance_id = %(instance)s;

-- name: succeed
-- Primary key. A second delivery counts once.
INSERT INTO streaming.blocked_success (instance_id) VALUES (%(instance)s)
ON CONFLICT (instance_id) DO NOTHING;

-- name: given_up_before
-- Primary key: how often the id was given up as withheld already.
SELECT attempts FROM streaming.missed_pgcr
WHERE instance_id = %(instance)s AND state = 'blocked' AND closed_at IS NULL;

-- name: count_given_up
-- Index missed_pgcr_due_idx: its states and more; for an alert.
SELECT count(*) FROM streaming.missed_pgcr WHERE state = 'blocked';

-- name: send_lost
-- Index withheld_pgcr_returns_idx. Messages that should have been back long ago: their ids go out
-- again through the outbox, and count as back from now on.
WITH lost AS (
    SELECT instance_id FROM streaming.withheld_pgcr
    WHERE closed_at IS NULL AND returns_at < now() - %(overdue_s)s * interval '1 second'
    ORDER BY returns_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), expected AS (
    UPDATE streaming.withheld_pgcr AS w SET returns_at = now()
    FROM lost WHERE w.instance_id = lost.instance_id
)
INSERT INTO streaming.outbox (kind, destination, key, body)
SELECT 'message', %(queue)s, instance_id, convert_to(instance_id::text, 'UTF8')
FROM lost
ORDER BY instance_id;

-- name: count_lost
-- Index withheld_pgcr_returns_idx.
SELECT count(*) FROM streaming.withheld_pgcr
WHERE closed_at IS NULL AND returns_at < now() - %(overdue_s)s * interval '1 second';

-- name: prune
-- Indexes withheld_pgcr_closed_idx and blocked_success_time_idx.
WITH closed AS (
    DELETE FROM streaming.withheld_pgcr WHERE closed_at < now() - interval '1 hour'
)
DELETE FROM streaming.blocked_success WHERE succeeded_at < now() - interval '1 hour';
