-- Columns of core.player that follow from others, compared and brought up to date.

-- name: differing_sums_of_best
-- Scans player_stats and player once. The definition is that of recompute_sum_of_best.
WITH needed AS MATERIALIZED (
    SELECT id FROM definitions.activity_definition WHERE is_raid AND NOT is_sunset
),
best AS MATERIALIZED (
    SELECT stats.membership_id, least(2147483647, sum(instance.duration)) AS total
    FROM core.player_stats AS stats
    JOIN core.instance ON instance.instance_id = stats.fastest_instance_id
    WHERE stats.activity_id IN (SELECT id FROM needed)
    GROUP BY stats.membership_id
    HAVING count(*) = (SELECT count(*) FROM needed)
)
SELECT player.membership_id
FROM core.player
LEFT JOIN best USING (membership_id)
WHERE player.sum_of_best IS DISTINCT FROM best.total
ORDER BY player.membership_id;

-- name: count_sums_of_best
SELECT count(*) FROM core.player WHERE sum_of_best IS NOT NULL;

-- name: differing_search_scores
-- A scan of players. The formula is that of the column (docs/domain/schema.md, "core").
SELECT membership_id
FROM core.player
WHERE _search_score IS DISTINCT FROM least(
    sqrt(clears::double precision + 1)
    * power(2::double precision, least(40, greatest(0,
        extract(epoch FROM last_seen - timestamptz '2017-08-27T00:00:00Z')::double precision
    / 20000000)))
    * sqrt(wfr_score + 1),
    9999999999
)::numeric(14, 4)
ORDER BY membership_id;

-- name: rewrite_search_scores
-- Primary key. Writing a column that the score is generated from computes it anew.
UPDATE core.player SET clears = clears WHERE membership_id = ANY(%(players)s::bigint[]);

-- name: count_players
SELECT count(*) FROM core.player;
