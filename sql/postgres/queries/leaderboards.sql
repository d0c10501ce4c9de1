-- Refreshing, reading and checking the leaderboards. {view} is an identifier of the closed set in
-- storage/leaderboards.py, put in by psycopg2.sql; %(board)s is its name without the schema. What
-- only the owner of a view may do is in functions (migration 0022).
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

-- name: refresh_view
SELECT streaming.refresh_leaderboard(%(board)s);

-- name: lock_view
-- Whoever else refreshes this view waits for the end of our transaction.
SELECT pg_advisory_xact_lock(hashtext('leaderboard'), hashtext(%(view)s));

-- name: build_next
-- Beside the board, in schema streaming.
SELECT streaming.build_leaderboard(%(board)s);

-- name: begin_exchange
-- Readers that come while we wait for one of them wait behind us: no longer than this.
SAVEPOINT exchange;
SELECT set_config('lock_timeout', %(wait_ms)s, true);

-- name: exchange
SELECT streaming.exchange_leaderboard(%(board)s);

-- name: undo_exchange
ROLLBACK TO SAVEPOINT exchange;
RELEASE SAVEPOINT exchange;
SELECT set_config('lock_timeout', '0', true);

-- name: drop_next
SELECT streaming.drop_leaderboard_copy(%(board)s);

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

-- name: fingerprint_world_first_contest_leaderboard
-- All of it, because any rank changes a score: some ten thousand rows a race.
SELECT md5(coalesce(string_agg(
    activity_id || ':' || instance_id || ':' || rank || ':' || membership_ids, ',' ORDER BY instance_id
), ''))
FROM leaderboard.world_first_contest_leaderboard;

-- name: fingerprint_wfr_score
-- A scan for some ten thousand players who ever finished a race in time.
SELECT md5(coalesce(string_agg(membership_id || ':' || wfr_score, ',' ORDER BY membership_id), ''))
FROM core.player
WHERE wfr_score > 0;

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

-- name: list_filled
-- A board that was never refreshed cannot be read.
SELECT matviewname FROM pg_matviews WHERE schemaname = 'leaderboard' AND ispopulated;

-- name: find_placed
-- Of boards of teams: unique index on instance_id.
SELECT instance_id FROM {view} WHERE instance_id = ANY(%(instances)s::bigint[]);

-- name: find_placed_of
-- Indexes instance_player_membership_id_idx and on instance_id: some dozen players at a time.
SELECT instance_id
FROM core.instance_player
JOIN {view} USING (instance_id)
WHERE membership_id = ANY(%(players)s::bigint[]);

-- name: check_instances
SELECT board.instance_id, count(*) OVER () AS broken
FROM {view} AS board
LEFT JOIN core.instance USING (instance_id)
WHERE instance.completed IS NOT TRUE OR EXISTS (
    SELECT FROM flagging.blacklist_instance AS b
    WHERE b.instance_id = board.instance_id AND NOT instance.is_whitelisted
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

-- recount_*: sampled rows against the raids of their players, by instance_player_membership_id_idx.
-- Drawing sorts the whole board by chance, once a refresh: half a second for a million rows. Who
-- played since the refresh began is left out, a minute earlier for the transactions then under way.

-- name: recount_individual_global_leaderboard
WITH drawn AS MATERIALIZED (
    SELECT * FROM leaderboard.individual_global_leaderboard ORDER BY random() LIMIT %(sample)s
),
wanted AS (
    SELECT p.membership_id,
        count(*) FILTER (WHERE p.completed) AS clears,
        count(*) FILTER (WHERE p.completed AND i.fresh) AS fresh_clears,
        sum(p.sherpas) AS sherpas,
        least(2147483647, sum(p.time_played_seconds)) AS total_time_played
    FROM drawn
    JOIN core.instance_player AS p USING (membership_id)
    JOIN core.instance AS i USING (instance_id)
    GROUP BY p.membership_id
)
SELECT membership_id, count(*) OVER () AS broken
FROM drawn
LEFT JOIN wanted USING (membership_id)
WHERE (drawn.clears, drawn.fresh_clears, drawn.sherpas, drawn.total_time_played)
    IS DISTINCT FROM (wanted.clears, wanted.fresh_clears, wanted.sherpas, wanted.total_time_played)
  AND NOT EXISTS (
    SELECT FROM core.instance_player AS p
    JOIN raw.pgcr USING (instance_id)
    WHERE p.membership_id = drawn.membership_id
      AND pgcr.date_crawled >= %(since)s::timestamptz - interval '1 minute')
ORDER BY membership_id
LIMIT 5;

-- name: recount_individual_raid_leaderboard
WITH drawn AS MATERIALIZED (
    SELECT * FROM leaderboard.individual_raid_leaderboard ORDER BY random() LIMIT %(sample)s
),
wanted AS (
    SELECT p.membership_id, v.activity_id,
        count(*) FILTER (WHERE p.completed) AS clears,
        count(*) FILTER (WHERE p.completed AND i.fresh) AS fresh_clears,
        sum(p.sherpas) AS sherpas,
        least(2147483647, sum(p.time_played_seconds)) AS total_time_played
    FROM (SELECT DISTINCT membership_id FROM drawn) AS players
    JOIN core.instance_player AS p USING (membership_id)
    JOIN core.instance AS i USING (instance_id)
    JOIN definitions.activity_version AS v USING (hash)
    GROUP BY p.membership_id, v.activity_id
)
SELECT membership_id, count(*) OVER () AS broken
FROM drawn
LEFT JOIN wanted USING (membership_id, activity_id)
WHERE (drawn.clears, drawn.fresh_clears, drawn.sherpas, drawn.total_time_played)
    IS DISTINCT FROM (wanted.clears, wanted.fresh_clears, wanted.sherpas, wanted.total_time_played)
  AND NOT EXISTS (
    SELECT FROM core.instance_player AS p
    JOIN raw.pgcr USING (instance_id)
    WHERE p.membership_id = drawn.membership_id
      AND pgcr.date_crawled >= %(since)s::timestamptz - interval '1 minute')
ORDER BY membership_id
LIMIT 5;

-- name: recount_individual_pantheon_version_leaderboard
WITH drawn AS MATERIALIZED (
    SELECT * FROM leaderboard.individual_pantheon_version_leaderboard ORDER BY random() LIMIT %(sample)s
),
wanted AS (
    SELECT p.membership_id, v.version_id,
        count(*) AS clears,
        count(*) FILTER (WHERE i.fresh) AS fresh_clears,
        sum(i.score) AS score
    FROM (SELECT DISTINCT membership_id FROM drawn) AS players
    JOIN core.instance_player AS p USING (membership_id)
    JOIN core.instance AS i USING (instance_id)
    JOIN definitions.activity_version AS v USING (hash)
    JOIN definitions.activity_definition AS activity ON activity.id = v.activity_id
    WHERE p.completed AND i.completed AND NOT activity.is_raid
    GROUP BY p.membership_id, v.version_id
)
SELECT membership_id, count(*) OVER () AS broken
FROM drawn
LEFT JOIN wanted USING (membership_id, version_id)
WHERE (drawn.clears, drawn.fresh_clears, drawn.score)
    IS DISTINCT FROM (wanted.clears, wanted.fresh_clears, wanted.score)
  AND NOT EXISTS (
    SELECT FROM core.instance_player AS p
    JOIN raw.pgcr USING (instance_id)
    WHERE p.membership_id = drawn.membership_id
      AND pgcr.date_crawled >= %(since)s::timestamptz - interval '1 minute')
ORDER BY membership_id
LIMIT 5;

-- name: check_ranks
-- How many rows of the part are better than the drawn one: a scan a row, 0.1 s for a million rows.
-- sign is -1 where less is better.
WITH drawn AS MATERIALIZED (
    SELECT {part} AS part, membership_id, {sign} * {value} AS value, {position} AS position, {rank} AS rank
    FROM {view}
    WHERE {position} IS NOT NULL
    ORDER BY random()
    LIMIT %(sample)s
)
SELECT membership_id, count(*) OVER () AS broken
FROM drawn
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE {sign} * other.{value} > drawn.value) AS better,
        count(*) FILTER (
            WHERE {sign} * other.{value} > drawn.value
               OR ({sign} * other.{value} = drawn.value AND other.membership_id < drawn.membership_id)
        ) AS before
    FROM {view} AS other
    WHERE {part} = drawn.part
) AS board
WHERE (position, rank) IS DISTINCT FROM (board.before + 1, board.better + 1)
ORDER BY membership_id
LIMIT 5;
