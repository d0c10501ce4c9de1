-- Reads of definitions, and what stored rows owe to them.

-- name: select_tracked_hashes
-- The whole table: about a hundred rows.
SELECT hash, activity_id, version_id FROM definitions.activity_version;

-- name: select_hash_names
-- The whole table: about a hundred rows.
SELECT hash, activity.name AS activity_name, version.name AS version_name
FROM definitions.activity_version
JOIN definitions.activity_definition AS activity ON activity.id = activity_id
JOIN definitions.version_definition AS version ON version.id = version_id;

-- name: select_activities
-- The whole table: about twenty rows.
SELECT id, name, path, is_raid, is_sunset, release_date, day_one_end, contest_end, week_one_end
FROM definitions.activity_definition
ORDER BY id;

-- name: recompute_sum_of_best
-- Scans player_stats and player once, which is right: a new raid concerns every player. The inner
-- select locks the rows that change in ascending order, as every writer of players does. With
-- `players` only theirs, by primary keys.
WITH needed AS MATERIALIZED (
    SELECT id FROM definitions.activity_definition WHERE is_raid AND NOT is_sunset
),
best AS MATERIALIZED (
    SELECT stats.membership_id, least(2147483647, sum(instance.duration)) AS total
    FROM core.player_stats AS stats
    JOIN core.instance ON instance.instance_id = stats.fastest_instance_id
    WHERE stats.activity_id IN (SELECT id FROM needed)
      AND (%(players)s::bigint[] IS NULL OR stats.membership_id = ANY(%(players)s::bigint[]))
    GROUP BY stats.membership_id
    HAVING count(*) = (SELECT count(*) FROM needed)
),
changed AS MATERIALIZED (
    SELECT player.membership_id, best.total
    FROM core.player
    LEFT JOIN best USING (membership_id)
    WHERE player.sum_of_best IS DISTINCT FROM best.total
      AND (%(players)s::bigint[] IS NULL OR player.membership_id = ANY(%(players)s::bigint[]))
    ORDER BY player.membership_id
    FOR UPDATE OF player
)
UPDATE core.player
SET sum_of_best = changed.total
FROM changed
WHERE player.membership_id = changed.membership_id;

-- name: select_digests
-- All four tables whole: some hundred rows. Times are texts of the session's zone, which is UTC.
SELECT 'activity_definition' AS "table", id::bigint AS key, name, left(md5(a::text), 8) AS digest
FROM definitions.activity_definition AS a
UNION ALL
SELECT 'version_definition', id, name, left(md5(v::text), 8)
FROM definitions.version_definition AS v
UNION ALL
SELECT 'activity_version', hash, a.name || ': ' || v.name, left(md5(h::text), 8)
FROM definitions.activity_version AS h
JOIN definitions.activity_definition AS a ON a.id = h.activity_id
JOIN definitions.version_definition AS v ON v.id = h.version_id
UNION ALL
SELECT 'season', id, long_name, left(md5(s::text), 8)
FROM definitions.season AS s
ORDER BY 1, 2;
