-- Kept reports and the rows that were made of them.

-- name: flagged
-- Indexes by instance. Players whom a flag or a blacklist holds in an instance.
SELECT instance_id, membership_id
FROM flagging.flag_instance_player
WHERE instance_id = ANY(%(instances)s::bigint[])
UNION
SELECT instance_id, membership_id
FROM flagging.blacklist_instance_player
WHERE instance_id = ANY(%(instances)s::bigint[]);

-- name: read_unsent_fields
-- Primary key. What ClickHouse does not have, or not exactly.
SELECT instance_id, skull_hashes, platform_type
FROM core.instance
WHERE instance_id = ANY(%(instances)s::bigint[]);

-- name: read_waiting
-- Primary key. Kept reports that rightly have no rows.
SELECT instance_id
FROM streaming.missed_pgcr
WHERE instance_id = ANY(%(instances)s::bigint[]) AND state = 'unknown_hash';

-- name: read_page
-- Primary key, a page from `after` on.
SELECT instance_id, data
FROM raw.pgcr
WHERE instance_id > %(after)s AND instance_id <= %(last)s
ORDER BY instance_id
LIMIT %(limit)s;

-- name: find_blocks
-- Primary key, one look-up a block: the next kept report behind each block that has one.
WITH RECURSIVE block AS (
    SELECT min(instance_id) / %(size)s AS number FROM raw.pgcr
    UNION ALL
    SELECT (SELECT min(instance_id) / %(size)s
            FROM raw.pgcr
            WHERE instance_id >= (block.number + 1) * %(size)s)
    FROM block
    WHERE block.number IS NOT NULL
)
SELECT number FROM block WHERE number IS NOT NULL ORDER BY number;

-- name: find_of_hash
-- Primary key from `after` on; the hash filters. No index has all instances of a hash, and a repair
-- that runs once a year needs none.
SELECT instance_id
FROM core.instance
WHERE hash = %(hash)s AND instance_id > %(after)s AND instance_id <= %(last)s
ORDER BY instance_id
LIMIT %(limit)s;

-- name: read_skulls
-- Primary keys. The caller holds the locks of the ids. The body is null when none is kept.
SELECT instance_id, i.skull_hashes, r.data
FROM core.instance AS i
LEFT JOIN raw.pgcr AS r USING (instance_id)
WHERE instance_id = ANY(%(instances)s::bigint[])
ORDER BY instance_id;

-- name: update_skulls
-- Primary key. One array a row comes as text: unnest would make one list of all.
UPDATE core.instance AS i
SET skull_hashes = d.skulls::bigint[]
FROM unnest(%(instances)s::bigint[], %(skulls)s::text[]) AS d (instance_id, skulls)
WHERE i.instance_id = d.instance_id;
