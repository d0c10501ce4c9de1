-- Schema leaderboard: seven materialized views, all empty until their first refresh.
-- Rules: docs/domain/leaderboards.md. Everywhere:
--   * X_position is dense 1..N (readers page by it), X_rank lets ties share;
--   * percentile is 1 - (rank - 1) / (N - 1), and 1 when N = 1;
--   * every order ends in an id, so that two refreshes of the same rows agree;
--   * a blacklisted instance is on no board of teams unless a person whitelisted it;
--   * a unique index over plain columns exists: REFRESH CONCURRENTLY needs it.
CREATE SCHEMA leaderboard;

CREATE MATERIALIZED VIEW leaderboard.individual_global_leaderboard AS
WITH ranked AS (
    SELECT
        membership_id,
        clears,
        row_number() OVER clears_order AS clears_position,
        rank() OVER clears_value AS clears_rank,
        fresh_clears,
        row_number() OVER fresh_clears_order AS fresh_clears_position,
        rank() OVER fresh_clears_value AS fresh_clears_rank,
        sherpas,
        row_number() OVER sherpas_order AS sherpas_position,
        rank() OVER sherpas_value AS sherpas_rank,
        sum_of_best,
        row_number() OVER speed_order AS speed_position,   -- players without a sum come last
        rank() OVER speed_value AS speed_rank,
        total_time_played_seconds,
        row_number() OVER time_order AS time_position,
        rank() OVER time_value AS time_rank,
        wfr_score,
        row_number() OVER wfr_order AS wfr_position,
        rank() OVER wfr_value AS wfr_rank,
        count(*) OVER () - 1 AS others,
        count(sum_of_best) OVER () - 1 AS other_sums
    FROM core.player
    WHERE NOT is_private AND cheat_level < 2 AND clears > 0
    WINDOW
        clears_order AS (ORDER BY clears DESC, membership_id),
        clears_value AS (ORDER BY clears DESC),
        fresh_clears_order AS (ORDER BY fresh_clears DESC, membership_id),
        fresh_clears_value AS (ORDER BY fresh_clears DESC),
        sherpas_order AS (ORDER BY sherpas DESC, membership_id),
        sherpas_value AS (ORDER BY sherpas DESC),
        speed_order AS (ORDER BY sum_of_best, membership_id),
        speed_value AS (ORDER BY sum_of_best),
        time_order AS (ORDER BY total_time_played_seconds DESC, membership_id),
        time_value AS (ORDER BY total_time_played_seconds DESC),
        wfr_order AS (ORDER BY wfr_score DESC, membership_id),
        wfr_value AS (ORDER BY wfr_score DESC)
)
SELECT
    membership_id,
    clears,
    clears_position,
    clears_rank,
    coalesce(1 - (clears_rank - 1)::numeric / nullif(others, 0), 1) AS clears_percentile,
    fresh_clears,
    fresh_clears_position,
    fresh_clears_rank,
    coalesce(1 - (fresh_clears_rank - 1)::numeric / nullif(others, 0), 1) AS fresh_clears_percentile,
    sherpas,
    sherpas_position,
    sherpas_rank,
    coalesce(1 - (sherpas_rank - 1)::numeric / nullif(others, 0), 1) AS sherpas_percentile,
    sum_of_best AS speed,
    CASE WHEN sum_of_best IS NOT NULL THEN speed_position END AS speed_position,
    CASE WHEN sum_of_best IS NOT NULL THEN speed_rank END AS speed_rank,
    CASE WHEN sum_of_best IS NOT NULL
        THEN coalesce(1 - (speed_rank - 1)::numeric / nullif(other_sums, 0), 1)
    END AS speed_percentile,
    total_time_played_seconds AS total_time_played,
    time_position AS total_time_played_position,
    time_rank AS total_time_played_rank,
    coalesce(1 - (time_rank - 1)::numeric / nullif(others, 0), 1) AS total_time_played_percentile,
    wfr_score,
    wfr_position AS wfr_score_position,
    wfr_rank AS wfr_score_rank,
    coalesce(1 - (wfr_rank - 1)::numeric / nullif(others, 0), 1) AS wfr_score_percentile
FROM ranked
WITH NO DATA;
CREATE UNIQUE INDEX individual_global_membership_id_idx
    ON leaderboard.individual_global_leaderboard (membership_id);
CREATE UNIQUE INDEX individual_global_clears_position_idx
    ON leaderboard.individual_global_leaderboard (clears_position);
CREATE UNIQUE INDEX individual_global_fresh_clears_position_idx
    ON leaderboard.individual_global_leaderboard (fresh_clears_position);
CREATE UNIQUE INDEX individual_global_sherpas_position_idx
    ON leaderboard.individual_global_leaderboard (sherpas_position);
CREATE INDEX individual_global_speed_position_idx
    ON leaderboard.individual_global_leaderboard (speed_position);
CREATE UNIQUE INDEX individual_global_total_time_played_position_idx
    ON leaderboard.individual_global_leaderboard (total_time_played_position);
CREATE UNIQUE INDEX individual_global_wfr_score_position_idx
    ON leaderboard.individual_global_leaderboard (wfr_score_position);

-- A sort compares rows by its first key, which it has at hand, and fetches the row for the second. Most
-- players have a handful of clears, so that nearly all comparisons of (clears, membership_id) would be
-- fetched. So each order has one key without ties: the value, and below its 32 bits, taken away, the
-- player's place by id. A rank is then the position of the first row with the same value. A quarter
-- less processor time than rank() over value and id: 69 s instead of 91 for 4.9 million rows.
CREATE MATERIALIZED VIEW leaderboard.individual_raid_leaderboard AS
WITH eligible AS (
    SELECT membership_id, row_number() OVER (ORDER BY membership_id) AS place
    FROM core.player
    WHERE NOT is_private AND cheat_level < 2
),
stats AS (
    SELECT
        activity_id,
        membership_id,
        clears,
        fresh_clears,
        sherpas,
        total_time_played_seconds,
        (clears::bigint << 32) - place AS clears_key,
        (fresh_clears::bigint << 32) - place AS fresh_clears_key,
        (sherpas::bigint << 32) - place AS sherpas_key,
        (total_time_played_seconds::bigint << 32) - place AS time_key
    FROM core.player_stats
    JOIN eligible USING (membership_id)
    JOIN definitions.activity_definition AS activity ON activity.id = activity_id
    WHERE activity.is_raid AND clears > 0
    ORDER BY activity_id   -- once; what follows sorts within a raid, in memory
),
time_placed AS (
    SELECT
        *,
        row_number() OVER ordered AS time_position,
        CASE WHEN total_time_played_seconds IS DISTINCT FROM lag(total_time_played_seconds) OVER ordered
            THEN row_number() OVER ordered
        END AS time_first
    FROM stats
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY time_key DESC)
),
time_ranked AS (
    SELECT *, max(time_first) OVER (ordered ROWS UNBOUNDED PRECEDING) AS time_rank
    FROM time_placed
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY time_key DESC)
),
sherpas_placed AS (
    SELECT
        *,
        row_number() OVER ordered AS sherpas_position,
        CASE WHEN sherpas IS DISTINCT FROM lag(sherpas) OVER ordered
            THEN row_number() OVER ordered
        END AS sherpas_first
    FROM time_ranked
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY sherpas_key DESC)
),
sherpas_ranked AS (
    SELECT *, max(sherpas_first) OVER (ordered ROWS UNBOUNDED PRECEDING) AS sherpas_rank
    FROM sherpas_placed
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY sherpas_key DESC)
),
fresh_clears_placed AS (
    SELECT
        *,
        row_number() OVER ordered AS fresh_clears_position,
        CASE WHEN fresh_clears IS DISTINCT FROM lag(fresh_clears) OVER ordered
            THEN row_number() OVER ordered
        END AS fresh_clears_first
    FROM sherpas_ranked
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY fresh_clears_key DESC)
),
fresh_clears_ranked AS (
    SELECT *, max(fresh_clears_first) OVER (ordered ROWS UNBOUNDED PRECEDING) AS fresh_clears_rank
    FROM fresh_clears_placed
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY fresh_clears_key DESC)
),
clears_placed AS (
    SELECT
        *,
        row_number() OVER ordered AS clears_position,
        CASE WHEN clears IS DISTINCT FROM lag(clears) OVER ordered
            THEN row_number() OVER ordered
        END AS clears_first,
        count(*) OVER (PARTITION BY activity_id) - 1 AS others
    FROM fresh_clears_ranked
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY clears_key DESC)
),
ranked AS (
    SELECT *, max(clears_first) OVER (ordered ROWS UNBOUNDED PRECEDING) AS clears_rank
    FROM clears_placed
    WINDOW ordered AS (PARTITION BY activity_id ORDER BY clears_key DESC)
)
SELECT
    activity_id,
    membership_id,
    clears,
    clears_position,
    clears_rank,
    coalesce(1 - (clears_rank - 1)::numeric / nullif(others, 0), 1) AS clears_percentile,
    fresh_clears,
    fresh_clears_position,
    fresh_clears_rank,
    coalesce(1 - (fresh_clears_rank - 1)::numeric / nullif(others, 0), 1) AS fresh_clears_percentile,
    sherpas,
    sherpas_position,
    sherpas_rank,
    coalesce(1 - (sherpas_rank - 1)::numeric / nullif(others, 0), 1) AS sherpas_percentile,
    total_time_played_seconds AS total_time_played,
    time_position AS total_time_played_position,
    time_rank AS total_time_played_rank,
    coalesce(1 - (time_rank - 1)::numeric / nullif(others, 0), 1) AS total_time_played_percentile
FROM ranked
WITH NO DATA;
CREATE UNIQUE INDEX individual_raid_membership_id_idx
    ON leaderboard.individual_raid_leaderboard (activity_id, membership_id);
CREATE UNIQUE INDEX individual_raid_clears_position_idx
    ON leaderboard.individual_raid_leaderboard (activity_id, clears_position);
CREATE UNIQUE INDEX individual_raid_fresh_clears_position_idx
    ON leaderboard.individual_raid_leaderboard (activity_id, fresh_clears_position);
CREATE UNIQUE INDEX individual_raid_sherpas_position_idx
    ON leaderboard.individual_raid_leaderboard (activity_id, sherpas_position);
CREATE UNIQUE INDEX individual_raid_total_time_played_position_idx
    ON leaderboard.individual_raid_leaderboard (activity_id, total_time_played_position);

CREATE MATERIALIZED VIEW leaderboard.individual_pantheon_version_leaderboard AS
WITH totals AS (
    SELECT
        membership_id,
        version_id,
        count(*) AS clears,
        count(*) FILTER (WHERE instance.fresh) AS fresh_clears,
        sum(instance.score) AS score
    FROM definitions.activity_version
    JOIN definitions.activity_definition AS activity ON activity.id = activity_version.activity_id
    JOIN core.instance USING (hash)
    JOIN core.instance_player USING (instance_id)
    JOIN core.player USING (membership_id)
    WHERE NOT activity.is_raid AND instance.completed AND instance_player.completed
        AND NOT player.is_private AND player.cheat_level < 2
    GROUP BY membership_id, version_id
)
SELECT
    membership_id,
    version_id,
    clears,
    row_number() OVER clears_order AS clears_position,
    rank() OVER clears_value AS clears_rank,
    fresh_clears,
    row_number() OVER fresh_clears_order AS fresh_clears_position,
    rank() OVER fresh_clears_value AS fresh_clears_rank,
    score,
    row_number() OVER score_order AS score_position,
    rank() OVER score_value AS score_rank
FROM totals
WINDOW
    clears_order AS (PARTITION BY version_id ORDER BY clears DESC, membership_id),
    clears_value AS (PARTITION BY version_id ORDER BY clears DESC),
    fresh_clears_order AS (PARTITION BY version_id ORDER BY fresh_clears DESC, membership_id),
    fresh_clears_value AS (PARTITION BY version_id ORDER BY fresh_clears DESC),
    score_order AS (PARTITION BY version_id ORDER BY score DESC, membership_id),
    score_value AS (PARTITION BY version_id ORDER BY score DESC)
WITH NO DATA;
CREATE UNIQUE INDEX individual_pantheon_version_membership_id_idx
    ON leaderboard.individual_pantheon_version_leaderboard (version_id, membership_id);
CREATE UNIQUE INDEX individual_pantheon_version_clears_position_idx
    ON leaderboard.individual_pantheon_version_leaderboard (version_id, clears_position);
CREATE UNIQUE INDEX individual_pantheon_version_fresh_clears_position_idx
    ON leaderboard.individual_pantheon_version_leaderboard (version_id, fresh_clears_position);
CREATE UNIQUE INDEX individual_pantheon_version_score_position_idx
    ON leaderboard.individual_pantheon_version_leaderboard (version_id, score_position);

-- Whoever is among the first 1000 of an activity and version is among the first 1000 of its hash:
-- the inner limit changes nothing and lets instance_hash_date_completed_idx stop early.
CREATE MATERIALIZED VIEW leaderboard.team_activity_version_leaderboard AS
WITH numbered AS (
    SELECT
        activity_id,
        version_id,
        first.instance_id,
        extract(epoch FROM first.date_completed - coalesce(release_date_override, release_date)) AS value,
        row_number() OVER (
            PARTITION BY activity_id, version_id ORDER BY first.date_completed, first.instance_id
        ) AS position,
        rank() OVER (PARTITION BY activity_id, version_id ORDER BY first.date_completed) AS rank
    FROM definitions.activity_version
    JOIN definitions.activity_definition AS activity ON activity.id = activity_version.activity_id
    CROSS JOIN LATERAL (
        SELECT instance.instance_id, instance.date_completed
        FROM core.instance
        WHERE instance.hash = activity_version.hash AND instance.completed
            AND NOT EXISTS (
                SELECT FROM flagging.blacklist_instance AS b
                WHERE b.instance_id = instance.instance_id AND NOT instance.is_whitelisted)
            AND EXISTS (
                SELECT FROM core.instance_player AS p
                WHERE p.instance_id = instance.instance_id AND p.completed)
        ORDER BY instance.date_completed, instance.instance_id
        LIMIT 1000
    ) AS first
    WHERE version_id <> 2   -- Guided Games
)
SELECT activity_id, version_id, instance_id, value, position, rank, members.membership_ids
FROM numbered
CROSS JOIN LATERAL (
    SELECT jsonb_agg(p.membership_id ORDER BY p.membership_id) AS membership_ids
    FROM core.instance_player AS p
    WHERE p.instance_id = numbered.instance_id AND p.completed
) AS members
WHERE position <= 1000
WITH NO DATA;
CREATE UNIQUE INDEX team_activity_version_position_idx
    ON leaderboard.team_activity_version_leaderboard (activity_id, version_id, position);
CREATE UNIQUE INDEX team_activity_version_instance_id_idx
    ON leaderboard.team_activity_version_leaderboard (instance_id);
CREATE INDEX team_activity_version_membership_ids_idx
    ON leaderboard.team_activity_version_leaderboard USING gin (membership_ids);

CREATE MATERIALIZED VIEW leaderboard.world_first_contest_leaderboard AS
SELECT
    activity_id,
    row_number() OVER (
        PARTITION BY activity_id ORDER BY instance.date_completed, instance.instance_id
    ) AS position,
    rank() OVER (PARTITION BY activity_id ORDER BY instance.date_completed) AS rank,
    instance.instance_id,
    instance.date_completed,
    extract(epoch FROM instance.date_completed - activity.release_date) AS time_after_launch,
    version.is_challenge_mode,
    members.membership_ids
FROM definitions.activity_version
JOIN definitions.activity_definition AS activity ON activity.id = activity_version.activity_id
JOIN definitions.version_definition AS version ON version.id = activity_version.version_id
JOIN core.instance USING (hash)
CROSS JOIN LATERAL (
    SELECT jsonb_agg(p.membership_id ORDER BY p.membership_id) AS membership_ids
    FROM core.instance_player AS p
    WHERE p.instance_id = instance.instance_id AND p.completed
    HAVING count(*) > 0
) AS members
WHERE activity_version.is_world_first
    AND instance.completed
    AND (activity.contest_end IS NULL OR instance.date_started < activity.contest_end)
    AND instance.date_completed < activity.week_one_end
    AND NOT EXISTS (
        SELECT FROM flagging.blacklist_instance AS b
        WHERE b.instance_id = instance.instance_id AND NOT instance.is_whitelisted)
WITH NO DATA;
CREATE UNIQUE INDEX world_first_contest_instance_id_idx
    ON leaderboard.world_first_contest_leaderboard (instance_id);
CREATE INDEX world_first_contest_position_idx
    ON leaderboard.world_first_contest_leaderboard (activity_id, position);
CREATE INDEX world_first_contest_membership_ids_idx
    ON leaderboard.world_first_contest_leaderboard USING gin (membership_ids);

-- The race of 2026-06-13: version 134 with five feats chosen, for 48 hours. Readers prefer a table
-- pantheon_custom_race_snapshot and fall back to this view while no such table exists.
CREATE MATERIALIZED VIEW leaderboard.team_pantheon_custom_race_leaderboard AS
SELECT
    row_number() OVER (ORDER BY instance.date_completed, instance.instance_id) AS position,
    rank() OVER (ORDER BY instance.date_completed) AS rank,
    extract(epoch FROM instance.date_completed - timestamptz '2026-06-13T17:00:00Z') AS value,
    instance.instance_id,
    members.membership_ids
FROM definitions.activity_version
JOIN core.instance USING (hash)
CROSS JOIN LATERAL (
    SELECT jsonb_agg(p.membership_id ORDER BY p.membership_id) AS membership_ids
    FROM core.instance_player AS p
    WHERE p.instance_id = instance.instance_id
    HAVING count(*) > 0
) AS members
WHERE activity_version.version_id = 134
    AND instance.completed
    AND instance.date_completed >= timestamptz '2026-06-13T17:00:00Z'
    AND instance.date_completed < timestamptz '2026-06-15T17:00:00Z'
    AND NOT EXISTS (
        SELECT FROM flagging.blacklist_instance AS b
        WHERE b.instance_id = instance.instance_id AND NOT instance.is_whitelisted)
    AND 5 = (
        SELECT count(DISTINCT feat.skull_hash)
        FROM definitions.activity_feat_definition AS feat
        WHERE feat.skull_hash = ANY (instance.skull_hashes)
            AND feat.skull_hash <> 790421403   -- the empty feat
    )
WITH NO DATA;
CREATE UNIQUE INDEX team_pantheon_custom_race_position_idx
    ON leaderboard.team_pantheon_custom_race_leaderboard (position);
CREATE UNIQUE INDEX team_pantheon_custom_race_instance_id_idx
    ON leaderboard.team_pantheon_custom_race_leaderboard (instance_id);
CREATE INDEX team_pantheon_custom_race_membership_ids_idx
    ON leaderboard.team_pantheon_custom_race_leaderboard USING gin (membership_ids);

-- The weight of a member falls by a tenth a place; the first six count more than once. Sums of
-- floats depend on their order, hence the ordered aggregates.
CREATE MATERIALIZED VIEW leaderboard.clan_leaderboard AS
WITH member AS (
    SELECT
        group_id,
        membership_id,
        player.clears,
        player.fresh_clears,
        player.sherpas,
        player.total_time_played_seconds,
        player.wfr_score,
        row_number() OVER (
            PARTITION BY group_id ORDER BY player.wfr_score DESC, membership_id
        ) AS place
    FROM clan.clan
    JOIN clan.clan_members USING (group_id)
    JOIN core.player USING (membership_id)
)
SELECT
    group_id,
    count(*) AS known_member_count,
    sum(clears) AS clears,
    round(avg(clears)) AS average_clears,
    sum(fresh_clears) AS fresh_clears,
    round(avg(fresh_clears)) AS average_fresh_clears,
    sum(sherpas) AS sherpas,
    round(avg(sherpas)) AS average_sherpas,
    sum(total_time_played_seconds) AS time_played_seconds,
    round(avg(total_time_played_seconds)) AS average_time_played_seconds,
    sum(wfr_score ORDER BY place) AS total_contest_score,
    3 * sum(wfr_score * power(0.9::double precision, place - 6) ORDER BY place)
        / power(1 + count(*)::double precision, 1.0 / 3) AS weighted_contest_score
FROM member
GROUP BY group_id
WITH NO DATA;
CREATE UNIQUE INDEX clan_group_id_idx ON leaderboard.clan_leaderboard (group_id);
CREATE INDEX clan_clears_idx ON leaderboard.clan_leaderboard (clears DESC, group_id);
CREATE INDEX clan_fresh_clears_idx ON leaderboard.clan_leaderboard (fresh_clears DESC, group_id);
CREATE INDEX clan_sherpas_idx ON leaderboard.clan_leaderboard (sherpas DESC, group_id);
CREATE INDEX clan_time_played_seconds_idx
    ON leaderboard.clan_leaderboard (time_played_seconds DESC, group_id);
CREATE INDEX clan_total_contest_score_idx
    ON leaderboard.clan_leaderboard (total_contest_score DESC, group_id);
CREATE INDEX clan_weighted_contest_score_idx
    ON leaderboard.clan_leaderboard (weighted_contest_score DESC, group_id);
