-- Refreshing, reading and checking the leaderboards. {view} is an identifier of the closed set in
-- storage/leaderboards.py, put in by psycopg2.sql.
-- top_*: the first rows for people; a board of many partitions shows the leaders of each, newest
-- activity first. The scans of whole boards are right: it happens once a refresh.
-- check_*: up to five ids of rows (or partitions) that break a claim, each with the number of all.

-- name: limit_statement
SELECT set_config('statement_timeout', %(limit_ms)s, true);

-- name: enlarge_sorts
-- A board sorts once a column: with 1.2 million rows a refresh takes a third less time than with
-- the 4 MB that servers give by default. Few sorts of a plan hold their memory at once.
SELECT set_config('work_mem', '128MB', true);

-- name: prepare_refresh
-- Whatever was written by this transaction or a later one, the refresh may not see.
SELECT relispopulated, pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS unseen_from
FROM pg_class
WHERE oid = %(view)s::regclass;

-- name: fill_view
REFRESH MATERIALIZED VIEW {view};

-- name: refresh_view
REFRESH MATERIALIZED VIEW CONCURRENTLY {view};

-- name: measure_view
SELECT (SELECT count(*) FROM {view}), pg_total_relation_size(%(view)s::regclass);

-- name: changed_wfr_scores
-- Ordered sums: a float sum in another order may differ in its last bit, and would be written again
-- and again.
WITH best AS (
    SELECT activity_id, member.value::bigint AS membership_id, min(rank) AS rank
    FROM leaderboard.world_first_contest_leaderboard
    CROSS JOIN LATERAL jsonb_array_elements_text(membership_ids) AS member
    GROUP BY activity_id, membership_id
),
score AS (
    SELECT
        membership_id,
        sum(power(1.25::double precision, activity_id - 1) / sqrt(rank::double precision)
            ORDER BY activity_id) AS total
    FROM best
    GROUP BY membership_id
)
SELECT player.membership_id, coalesce(score.total, 0) AS wfr_score
FROM core.player
LEFT JOIN score USING (membership_id)
WHERE player.wfr_score <> coalesce(score.total, 0)
ORDER BY player.membership_id;

-- name: lock_players
-- The store's locks on players (store.sql, lock_keys), in the same ascending order.
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock(id) FROM unnest(%(players)s::bigint[]) AS id
) AS taken;

-- name: update_wfr_scores
-- Primary key.
UPDATE core.player
SET wfr_score = changed.wfr_score
FROM unnest(%(players)s::bigint[], %(scores)s::float8[]) AS changed (membership_id, wfr_score)
WHERE player.membership_id = changed.membership_id;

-- name: count_wfr_scores
SELECT count(*) FROM core.player WHERE wfr_score > 0;

-- name: top_wfr_scores
SELECT row_number() OVER (ORDER BY wfr_score DESC, membership_id) AS position,
    coalesce(bungie_name, membership_id::text) AS player,
    round(wfr_score::numeric, 2)::double precision AS wfr_score
FROM core.player
WHERE wfr_score > 0
ORDER BY position
LIMIT %(n)s;

-- name: top_individual_global_leaderboard
SELECT clears_position AS position,
    coalesce(player.bungie_name, player.membership_id::text) AS player,
    board.clears, board.fresh_clears, board.sherpas, speed AS speed_seconds,
    total_time_played AS time_played_seconds,
    round(board.wfr_score::numeric, 2)::double precision AS wfr_score
FROM leaderboard.individual_global_leaderboard AS board
JOIN core.player USING (membership_id)
ORDER BY clears_position
LIMIT %(n)s;

-- name: top_individual_raid_leaderboard
SELECT activity.name AS activity, clears_position AS position,
    coalesce(player.bungie_name, player.membership_id::text) AS player,
    board.clears, board.fresh_clears, board.sherpas, total_time_played AS time_played_seconds
FROM leaderboard.individual_raid_leaderboard AS board
JOIN core.player USING (membership_id)
JOIN definitions.activity_definition AS activity ON activity.id = board.activity_id
ORDER BY clears_position, activity_id DESC
LIMIT %(n)s;

-- name: top_individual_pantheon_version_leaderboard
SELECT version.name AS version, clears_position AS position,
    coalesce(player.bungie_name, player.membership_id::text) AS player,
    board.clears, board.fresh_clears, score
FROM leaderboard.individual_pantheon_version_leaderboard AS board
JOIN core.player USING (membership_id)
JOIN definitions.version_definition AS version ON version.id = board.version_id
ORDER BY clears_position, version_id DESC
LIMIT %(n)s;

-- name: top_team_activity_version_leaderboard
SELECT activity.name AS activity, version.name AS version, position, rank, value::bigint AS seconds,
    instance_id, (
        SELECT string_agg(
            coalesce(player.bungie_name, player.membership_id::text), ', '
            ORDER BY player.membership_id)
        FROM jsonb_array_elements_text(board.membership_ids) AS member
        JOIN core.player ON player.membership_id = member.value::bigint
    ) AS team
FROM leaderboard.team_activity_version_leaderboard AS board
JOIN definitions.activity_definition AS activity ON activity.id = board.activity_id
JOIN definitions.version_definition AS version ON version.id = board.version_id
ORDER BY position, activity_id DESC, version_id
LIMIT %(n)s;

-- name: top_world_first_contest_leaderboard
SELECT activity.name AS activity, position, rank, time_after_launch::bigint AS seconds,
    instance_id, (
        SELECT string_agg(
            coalesce(player.bungie_name, player.membership_id::text), ', '
            ORDER BY player.membership_id)
        FROM jsonb_array_elements_text(board.membership_ids) AS member
        JOIN core.player ON player.membership_id = member.value::bigint
    ) AS team
FROM leaderboard.world_first_contest_leaderboard AS board
JOIN definitions.activity_definition AS activity ON activity.id = board.activity_id
ORDER BY position, activity_id DESC
LIMIT %(n)s;

-- name: top_team_pantheon_custom_race_leaderboard
SELECT position, rank, value::bigint AS seconds, instance_id, (
        SELECT string_agg(
            coalesce(player.bungie_name, player.membership_id::text), ', '
            ORDER BY player.membership_id)
        FROM jsonb_array_elements_text(board.membership_ids) AS member
        JOIN core.player ON player.membership_id = member.value::bigint
    ) AS team
FROM leaderboard.team_pantheon_custom_race_leaderboard AS board
ORDER BY position
LIMIT %(n)s;

-- name: top_clan_leaderboard
SELECT row_number() OVER (ORDER BY weighted_contest_score DESC, group_id) AS position,
    clan.name AS clan, known_member_count AS members,
    clears, fresh_clears, sherpas, time_played_seconds,
    round(weighted_contest_score::numeric, 2)::double precision AS weighted_contest_score
FROM leaderboard.clan_leaderboard
JOIN clan.clan USING (group_id)
ORDER BY position
LIMIT %(n)s;

-- name: check_dense
-- GROUP BY () is one group, also of no rows. The unique index on a position keeps its rows apart, so
-- that count, least and greatest suffice; of speed, with a plain index, the distinct ones are counted.
SELECT {key}::bigint AS id, count(*) OVER () AS broken
FROM {view}
WHERE {position} IS NOT NULL
GROUP BY ({partition})
HAVING min({position}) <> 1 OR max({position}) <> count(*) OR count({rows}) <> count(*)
ORDER BY id
LIMIT 5;

-- name: check_players
-- Who changed later than `since` may have done so behind the refresh: the next one takes him out.
SELECT membership_id, count(*) OVER () AS broken
FROM {view}
LEFT JOIN core.player USING (membership_id)
WHERE player.membership_id IS NULL
   OR ((player.is_private OR player.cheat_level >= 2)
       AND player.updated_at < coalesce(%(since)s, 'infinity'::timestamptz))
ORDER BY membership_id
LIMIT 5;

-- name: check_instances
SELECT board.instance_id, count(*) OVER () AS broken
FROM {view} AS board
LEFT JOIN core.instance USING (instance_id)
WHERE instance.completed IS NOT TRUE OR EXISTS (
    SELECT FROM flagging.blacklist_instance AS b
    WHERE b.instance_id = board.instance_id
      AND b.created_at < coalesce(%(since)s, 'infinity'::timestamptz))
ORDER BY board.instance_id
LIMIT 5;

-- name: check_teams
SELECT instance_id, count(*) OVER () AS broken
FROM {view}
WHERE membership_ids IS NULL OR jsonb_array_length(membership_ids) = 0
ORDER BY instance_id
LIMIT 5;

-- name: check_clans
SELECT group_id, count(*) OVER () AS broken
FROM {view}
WHERE known_member_count < 1 OR NOT EXISTS (
    SELECT FROM clan.clan_members AS m WHERE m.group_id = {view}.group_id
    UNION ALL
    SELECT FROM clan.clan AS c
    WHERE c.group_id = {view}.group_id
      AND c.updated_at >= coalesce(%(since)s, 'infinity'::timestamptz))
ORDER BY group_id
LIMIT 5;
