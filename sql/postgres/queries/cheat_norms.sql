-- What clears usually look like, for the generic cheat rules. Rules: docs/domain/cheat-detection.md,
-- "Generic rules".

-- name: list_activities
-- Some dozens of rows.
SELECT id FROM definitions.activity_definition ORDER BY id;

-- name: drop_others
-- Some dozens of rows: those that got numbers of their own, or lost their definition.
DELETE FROM streaming.activity_norm AS n
WHERE n.activity_id <> ALL(%(activities)s::int[])
   OR NOT EXISTS (
       SELECT FROM definitions.activity_version AS v
       WHERE v.activity_id = n.activity_id AND v.version_id = n.version_id
   );

-- name: refresh
-- Once a day, for a few activities. Kills: index instance_hash_date_completed_idx backwards, a
-- thousand clears a hash. Times: index instance_hash_duration_idx, all fresh clears.
WITH hashes AS MATERIALIZED (
    SELECT hash, activity_id, version_id
    FROM definitions.activity_version
    WHERE activity_id = ANY(%(activities)s::int[])
),
kinds AS (
    SELECT DISTINCT activity_id, version_id, fresh
    FROM hashes CROSS JOIN (VALUES (true), (false)) AS f (fresh)
),
latest AS (
    SELECT k.activity_id, k.version_id, k.fresh, newest.instance_id
    FROM kinds AS k
    CROSS JOIN LATERAL (
        SELECT i.instance_id
        FROM hashes AS h
        CROSS JOIN LATERAL (
            SELECT i.instance_id, i.date_completed
            FROM core.instance AS i
            WHERE i.hash = h.hash AND i.completed AND (i.fresh IS TRUE) = k.fresh
              AND NOT EXISTS (SELECT FROM flagging.blacklist_instance AS b
                              WHERE b.instance_id = i.instance_id AND NOT i.is_whitelisted)
            ORDER BY i.date_completed DESC
            LIMIT %(kills_clears)s
        ) AS i
        WHERE h.activity_id = k.activity_id AND h.version_id = k.version_id
        ORDER BY i.date_completed DESC, i.instance_id DESC
        LIMIT %(kills_clears)s
    ) AS newest
),
kills AS (
    SELECT activity_id, version_id, fresh, count(*) AS counted,
           percentile_disc(%(kills_quantile)s) WITHIN GROUP (ORDER BY total) AS low
    FROM (
        SELECT activity_id, version_id, fresh, instance_id, coalesce(sum(c.kills), 0) AS total
        FROM latest
        LEFT JOIN extended.instance_character AS c USING (instance_id)
        GROUP BY activity_id, version_id, fresh, instance_id
    ) AS teams
    GROUP BY activity_id, version_id, fresh
),
times AS (
    SELECT h.activity_id, h.version_id, count(*) AS counted,
           percentile_cont(%(speed_quantile)s) WITHIN GROUP (ORDER BY i.duration) AS quick
    FROM hashes AS h
    JOIN core.instance AS i ON i.hash = h.hash AND i.completed AND i.fresh
    WHERE NOT EXISTS (SELECT FROM flagging.blacklist_instance AS b
                      WHERE b.instance_id = i.instance_id AND NOT i.is_whitelisted)
    GROUP BY h.activity_id, h.version_id
)
INSERT INTO streaming.activity_norm AS n
    (activity_id, version_id, fresh, clears, low_kills, quick_seconds, computed_at)
SELECT k.activity_id, k.version_id, k.fresh,
       greatest(kills.counted, CASE WHEN k.fresh THEN times.counted END, 0),
       CASE WHEN kills.counted >= %(kills_clears)s THEN kills.low END,
       CASE WHEN k.fresh AND times.counted >= %(speed_clears)s THEN times.quick END,
       now()
FROM kinds AS k
LEFT JOIN kills USING (activity_id, version_id, fresh)
LEFT JOIN times USING (activity_id, version_id)
ON CONFLICT (activity_id, version_id, fresh) DO UPDATE SET
    clears = excluded.clears,
    low_kills = excluded.low_kills,
    quick_seconds = excluded.quick_seconds,
    computed_at = excluded.computed_at;

-- name: list_norms
-- Some dozens of rows.
SELECT n.activity_id, a.name AS activity, n.version_id, n.fresh, n.clears, n.low_kills,
       n.quick_seconds
FROM streaming.activity_norm AS n
JOIN definitions.activity_definition AS a ON a.id = n.activity_id
ORDER BY n.activity_id, n.version_id, n.fresh;

-- name: impossible_norms
-- Some dozens of rows.
SELECT activity_id, count(*) OVER ()
FROM streaming.activity_norm
WHERE low_kills < 0 OR clears < 0 OR quick_seconds < 0 OR quick_seconds > 86400
LIMIT 5;

-- name: norms_of_nothing
-- Some dozens of rows.
SELECT n.activity_id, count(*) OVER ()
FROM streaming.activity_norm AS n
WHERE NOT EXISTS (
    SELECT FROM definitions.activity_version AS v
    WHERE v.activity_id = n.activity_id AND v.version_id = n.version_id
)
LIMIT 5;
