-- The ledger of id ranges: docs/domain/crawl.md, "The ledger". The clock is the database's.

-- name: read_cursor
-- Primary key.
SELECT next_id FROM streaming.crawl_cursor WHERE name = %(name)s;

-- name: create_cursor
-- Two processes may start at once: the first one's position holds.
INSERT INTO streaming.crawl_cursor (name, first_id, next_id, ceiling)
VALUES (%(name)s, %(first_id)s, %(first_id)s, %(ceiling)s)
ON CONFLICT (name) DO NOTHING;

-- name: newest_instance
-- Primary key, backwards.
SELECT max(instance_id) FROM core.instance WHERE instance_id < %(ceiling)s;

-- name: highest_resolved
-- Primary key, backwards: nearly every done block holds something resolved, so the first one met
-- ends the search. Some id of that block was published, so ids below its start have a successor.
-- Gaps are few: a scan.
SELECT greatest(
    (SELECT first_id FROM streaming.crawl_block
     WHERE state = 'done' AND raids + non_raids > 0
     ORDER BY first_id DESC
     LIMIT 1),
    (SELECT max(last_id) + 1 FROM streaming.gap),
    0
);

-- name: take_over
-- Index crawl_block_open_idx holds the few open blocks. Lowest ids first: the oldest reports wait
-- longest. SKIP LOCKED: another process is taking that one.
UPDATE streaming.crawl_block
SET state = 'leased', owner = %(owner)s, leased_at = now(), attempts = attempts + 1,
    lease_until = now() + %(lease_s)s * interval '1 second'
WHERE first_id = (
    SELECT first_id FROM streaming.crawl_block
    WHERE state = 'released' OR (state = 'leased' AND lease_until < now())
    ORDER BY first_id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
RETURNING first_id, last_id;

-- name: advance
-- The row lock of the cursor lets one process at a time take new ids.
WITH before AS (
    SELECT next_id, least(next_id + %(size)s, ceiling, %(until)s::bigint + 1) AS behind
    FROM streaming.crawl_cursor
    WHERE name = %(name)s
    FOR UPDATE
)
UPDATE streaming.crawl_cursor AS c
SET next_id = before.behind, updated_at = now()
FROM before
WHERE c.name = %(name)s AND before.behind > before.next_id
RETURNING before.next_id, before.behind - 1;

-- name: insert_block
INSERT INTO streaming.crawl_block (first_id, last_id, state, owner, lease_until)
VALUES (%(first_id)s, %(last_id)s, 'leased', %(owner)s,
        now() + %(lease_s)s * interval '1 second');

-- name: extend
-- Primary key. A lease that ran out counts again as long as nobody else took the block.
UPDATE streaming.crawl_block
SET lease_until = now() + %(lease_s)s * interval '1 second'
WHERE first_id = ANY(%(first_ids)s) AND owner = %(owner)s AND state = 'leased'
RETURNING first_id;

-- name: jump
-- Under the cursor's row lock, and only if it still stands where the search began: two processes
-- that search at once record one gap, and no block can lie inside it.
WITH moved AS (
    UPDATE streaming.crawl_cursor
    SET next_id = %(first_id)s, updated_at = now()
    WHERE name = %(name)s AND next_id = %(base)s
      AND %(first_id)s > next_id AND %(first_id)s < ceiling
    RETURNING next_id
)
INSERT INTO streaming.gap (first_id, last_id, reason)
SELECT %(base)s, moved.next_id - 1, %(reason)s
FROM moved
RETURNING first_id, last_id;

-- name: restart
-- The row lock of the cursor keeps new blocks away until the old ones are dropped.
WITH newest AS (
    SELECT max(i.instance_id) AS id
    FROM core.instance AS i, streaming.crawl_cursor AS c
    WHERE c.name = %(name)s AND i.instance_id < c.ceiling
)
UPDATE streaming.crawl_cursor AS c
SET first_id = greatest(newest.id + 1 - %(back)s, 1),
    next_id = greatest(newest.id + 1 - %(back)s, 1),
    updated_at = now()
FROM newest
WHERE c.name = %(name)s AND newest.id + 1 < c.first_id
  AND NOT EXISTS (
      SELECT FROM streaming.crawl_block WHERE state = 'done' AND raids + non_raids > 0
  )
RETURNING c.first_id;

-- name: drop_blocks
DELETE FROM streaming.crawl_block;

-- name: drop_gaps
DELETE FROM streaming.gap;

-- name: open_gaps
-- A scan: gaps are few. One that was swept stays open for a week of further rounds.
SELECT coalesce(sum(last_id - first_id + 1), 0) FROM streaming.gap
WHERE state <> 'done' AND rounds = 0;

-- name: complete
-- Primary key. Again with the same values when the answer to the first try was lost.
UPDATE streaming.crawl_block AS b
SET state = 'done', done_at = now(), raids = d.raids, non_raids = d.non_raids, missed = d.missed
FROM unnest(%(first_ids)s::bigint[], %(raids)s::int[], %(non_raids)s::int[], %(missed)s::int[])
     AS d(first_id, raids, non_raids, missed)
WHERE b.first_id = d.first_id AND b.owner = %(owner)s AND b.state IN ('leased', 'done')
RETURNING b.first_id;

-- name: release
-- Primary key.
UPDATE streaming.crawl_block SET state = 'released'
WHERE first_id = ANY(%(first_ids)s) AND owner = %(owner)s AND state = 'leased';

-- name: open_below
-- Index crawl_block_open_idx.
SELECT count(*) FROM streaming.crawl_block WHERE state <> 'done' AND first_id <= %(id)s;

-- name: merge
-- A scan of the done blocks, every ten minutes: about 3 000 a day for 90 days. The grouping reads all
-- deleted rows before the first range goes in, so the ranges never overlap on the way.
WITH old AS (
    SELECT first_id,
           -- Adjacent blocks share this difference from the ids counted so far: a run.
           last_id - sum(last_id - first_id + 1) OVER (ORDER BY first_id) AS run
    FROM streaming.crawl_block
    WHERE state = 'done' AND done_at < now() - %(older_than_s)s * interval '1 second'
), gone AS (
    DELETE FROM streaming.crawl_block AS b
    USING old
    WHERE b.first_id = old.first_id
      AND old.run IN (SELECT run FROM old GROUP BY run HAVING count(*) > 1)
    RETURNING b.*, old.run
)
INSERT INTO streaming.crawl_block
    (first_id, last_id, state, owner, lease_until, attempts, leased_at, done_at,
     raids, non_raids, missed)
SELECT min(first_id), max(last_id), 'done', 'merged', max(lease_until), max(attempts),
       min(leased_at), max(done_at), sum(raids), sum(non_raids), sum(missed)
FROM gone
GROUP BY run;
