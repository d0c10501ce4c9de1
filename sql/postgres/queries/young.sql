-- Raids that were fetched too soon after their end: docs/domain/storage.md, "Young reports".

-- name: note
-- Primary key. An instance that was deleted outside and stored again keeps its first row.
INSERT INTO streaming.young_pgcr (instance_id, date_completed, due_at)
SELECT *
FROM unnest(
    %(instances)s::bigint[], %(date_completed)s::timestamptz[], %(due_at)s::timestamptz[]
)
ORDER BY 1
ON CONFLICT (instance_id) DO NOTHING;

-- name: ask_again
-- Index young_pgcr_due_idx. Rows of other processes are passed over. After the last date nothing is
-- left to wait for, also when the first one was missed: a cheat check that waited is made then, of
-- what is stored; should the last fetch bring more, the replacement brings another one.
WITH due AS MATERIALIZED (
    SELECT instance_id, rounds > 0 OR date_completed + %(last)s <= %(now)s AS is_last
    FROM streaming.young_pgcr
    WHERE due_at <= %(now)s
    ORDER BY due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
),
asked AS (
    INSERT INTO streaming.outbox (kind, destination, key, body)
    SELECT 'message', %(queue)s, instance_id,
           convert_to(format('{"instanceId": "%%s", "refetch": true}', instance_id), 'UTF8')
    FROM due
),
advanced AS (
    UPDATE streaming.young_pgcr AS y
    SET rounds = y.rounds + 1, due_at = y.date_completed + %(last)s
    FROM due
    WHERE y.instance_id = due.instance_id AND NOT due.is_last
),
ended AS (
    DELETE FROM streaming.young_pgcr AS y
    USING due
    WHERE y.instance_id = due.instance_id AND due.is_last
),
unsettled AS (
    DELETE FROM streaming.cheat_check AS c
    USING due
    WHERE c.instance_id = due.instance_id AND due.is_last AND c.skipped = 'unsettled'
    RETURNING c.instance_id
),
checked AS (
    INSERT INTO streaming.outbox (kind, destination, key, body)
    SELECT DISTINCT 'message', %(checks)s, instance_id, convert_to(instance_id::text, 'UTF8')
    FROM unsettled
)
SELECT count(*) FROM due;
