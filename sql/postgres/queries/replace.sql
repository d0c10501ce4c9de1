-- A stored instance gets other rows; what was derived from the old ones is derived again from all
-- rows. Rare, so that each statement may read the whole history of a few players.

-- name: read_members
-- Index instance_player_instance_id_idx.
SELECT instance_id, membership_id
FROM core.instance_player
WHERE instance_id = ANY(%(instances)s::bigint[]);

-- name: read_looks
-- Primary key. Classes and emblems may have been filled in after the report was stored.
SELECT membership_id, character_id, class_hash, emblem_hash
FROM extended.instance_character
WHERE instance_id = %(instance_id)s;

-- name: find_retained
-- Indexes by instance on every side. Rows of players who are in the report no more, but whom a flag
-- or a blacklist names: its foreign key holds them.
SELECT p.membership_id
FROM core.instance_player AS p
WHERE p.instance_id = %(instance_id)s
  AND p.membership_id <> ALL(%(players)s::bigint[])
  AND (EXISTS (SELECT FROM flagging.flag_instance_player AS f
               WHERE f.instance_id = p.instance_id AND f.membership_id = p.membership_id)
       OR EXISTS (SELECT FROM flagging.blacklist_instance_player AS b
                  WHERE b.instance_id = p.instance_id AND b.membership_id = p.membership_id))
ORDER BY p.membership_id;

-- name: forget_checks
-- Primary key. The verdict was about another version: whoever checks the instance again must not
-- find it done.
DELETE FROM streaming.cheat_check WHERE instance_id = %(instance_id)s;

-- name: delete_weapons
-- Primary key.
DELETE FROM extended.instance_character_weapon
WHERE instance_id = %(instance_id)s AND membership_id <> ALL(%(retained)s::bigint[]);

-- name: delete_characters
-- Primary key.
DELETE FROM extended.instance_character
WHERE instance_id = %(instance_id)s AND membership_id <> ALL(%(retained)s::bigint[]);

-- name: delete_players
-- Primary key. `stay` are those of the report and the retained ones.
DELETE FROM core.instance_player
WHERE instance_id = %(instance_id)s AND membership_id <> ALL(%(stay)s::bigint[]);

-- name: update_instance
-- Primary key. In place: flags, blacklists and fastest runs point here. Whitelisting is a person's.
-- Hash and start change only when a body is read anew by a parser that has learned.
UPDATE core.instance
SET hash = %(hash)s,
    date_started = %(date_started)s,
    score = %(score)s,
    flawless = %(flawless)s,
    completed = %(completed)s,
    fresh = %(fresh)s,
    player_count = %(player_count)s,
    date_completed = %(date_completed)s,
    duration = %(duration)s,
    platform_type = %(platform_type)s,
    skull_hashes = %(skull_hashes)s::bigint[]
WHERE instance_id = %(instance_id)s;

-- name: upsert_instance_players
-- In place for the same reason. First clears and sherpas follow by restate_sherpas.
INSERT INTO core.instance_player AS p (instance_id, membership_id, completed, time_played_seconds)
SELECT %(instance_id)s, *
FROM unnest(%(players)s::bigint[], %(completed)s::bool[], %(times)s::int[])
ON CONFLICT (instance_id, membership_id) DO UPDATE SET
    completed = excluded.completed,
    time_played_seconds = excluded.time_played_seconds;

-- name: move_first_clears
-- Index instance_player_membership_id_idx: all runs of these players in the activity. Returns the
-- instances that lost or gained a first clear.
WITH runs AS MATERIALIZED (
    SELECT p.instance_id, membership_id, activity_id, i.date_completed, p.completed,
           p.is_first_clear
    FROM unnest(%(players)s::bigint[], %(activities)s::int[]) AS pair (membership_id, activity_id)
    JOIN core.instance_player AS p USING (membership_id)
    JOIN core.instance AS i USING (instance_id)
    JOIN definitions.activity_version AS v USING (hash, activity_id)
    WHERE p.completed OR p.is_first_clear
),
firsts AS MATERIALIZED (
    SELECT DISTINCT ON (membership_id, activity_id) membership_id, instance_id
    FROM runs
    WHERE completed
    ORDER BY membership_id, activity_id, date_completed, instance_id
)
UPDATE core.instance_player AS p
SET is_first_clear = NOT p.is_first_clear
FROM runs
LEFT JOIN firsts USING (membership_id, instance_id)
WHERE p.instance_id = runs.instance_id
  AND p.membership_id = runs.membership_id
  AND p.is_first_clear <> (firsts.instance_id IS NOT NULL)
RETURNING p.instance_id, runs.activity_id;

-- name: restate_sherpas
-- Index instance_player_instance_id_idx. Returns those whose sherpas changed.
WITH newcomers AS MATERIALIZED (
    SELECT instance_id, count(*) FILTER (WHERE is_first_clear) AS number
    FROM core.instance_player
    WHERE instance_id = ANY(%(instances)s::bigint[])
    GROUP BY instance_id
)
UPDATE core.instance_player AS p
SET sherpas = CASE WHEN p.completed AND NOT p.is_first_clear THEN n.number ELSE 0 END
FROM newcomers AS n
WHERE p.instance_id = n.instance_id
  AND p.sherpas <> CASE WHEN p.completed AND NOT p.is_first_clear THEN n.number ELSE 0 END
RETURNING p.instance_id, p.membership_id;

-- name: lock_players
-- Primary key, ascending as all writers of players. Where the advisory locks do not reach (the
-- last round) the sums below must not miss what another transaction is about to add.
SELECT count(*) FROM (
    SELECT membership_id
    FROM core.player
    WHERE membership_id = ANY(%(players)s::bigint[])
    ORDER BY membership_id
    FOR UPDATE
) AS taken;

-- name: restate_stats
-- Index instance_player_membership_id_idx. By the definitions, not by differences.
INSERT INTO core.player_stats AS s (
    membership_id, activity_id, clears, fresh_clears, sherpas, fastest_instance_id,
    total_time_played_seconds
)
SELECT membership_id, activity_id,
       count(*) FILTER (WHERE p.completed),
       count(*) FILTER (WHERE p.completed AND i.fresh),
       sum(p.sherpas),
       (array_agg(p.instance_id ORDER BY i.duration, i.date_completed, p.instance_id)
           FILTER (WHERE p.completed AND i.fresh))[1],
       least(2147483647, sum(p.time_played_seconds))
FROM unnest(%(players)s::bigint[], %(activities)s::int[]) AS pair (membership_id, activity_id)
JOIN core.instance_player AS p USING (membership_id)
JOIN core.instance AS i USING (instance_id)
JOIN definitions.activity_version AS v USING (hash, activity_id)
GROUP BY membership_id, activity_id
ORDER BY membership_id, activity_id
ON CONFLICT (membership_id, activity_id) DO UPDATE SET
    clears = excluded.clears,
    fresh_clears = excluded.fresh_clears,
    sherpas = excluded.sherpas,
    fastest_instance_id = excluded.fastest_instance_id,
    total_time_played_seconds = excluded.total_time_played_seconds;

-- name: drop_stats
-- Primary key. Of players who appear in no instance of the activity any more.
DELETE FROM core.player_stats AS s
USING unnest(%(players)s::bigint[], %(activities)s::int[]) AS pair (membership_id, activity_id)
WHERE s.membership_id = pair.membership_id
  AND s.activity_id = pair.activity_id
  AND NOT EXISTS (
      SELECT
      FROM core.instance_player AS p
      JOIN core.instance AS i USING (instance_id)
      JOIN definitions.activity_version AS v USING (hash)
      WHERE p.membership_id = s.membership_id AND v.activity_id = s.activity_id
  );

-- name: restate_players
-- Primary keys; the rows are locked by lock_players.
WITH needed AS MATERIALIZED (
    SELECT id FROM definitions.activity_definition WHERE is_raid AND NOT is_sunset
),
totals AS (
    SELECT membership_id,
           coalesce(sum(s.clears), 0) AS clears,
           coalesce(sum(s.fresh_clears), 0) AS fresh_clears,
           coalesce(sum(s.sherpas), 0) AS sherpas,
           least(2147483647, coalesce(sum(s.total_time_played_seconds), 0)) AS seconds,
           CASE WHEN count(i.duration) FILTER (WHERE n.id IS NOT NULL)
                     = (SELECT count(*) FROM needed)
                THEN least(2147483647, sum(i.duration) FILTER (WHERE n.id IS NOT NULL))
                END AS sum_of_best
    FROM unnest(%(players)s::bigint[]) AS membership_id
    LEFT JOIN core.player_stats AS s USING (membership_id)
    LEFT JOIN core.instance AS i ON i.instance_id = s.fastest_instance_id
    LEFT JOIN needed AS n ON n.id = s.activity_id
    GROUP BY membership_id
)
UPDATE core.player AS p
SET clears = t.clears,
    fresh_clears = t.fresh_clears,
    sherpas = t.sherpas,
    total_time_played_seconds = t.seconds,
    sum_of_best = t.sum_of_best
FROM totals AS t
WHERE p.membership_id = t.membership_id
  AND (p.clears, p.fresh_clears, p.sherpas, p.total_time_played_seconds, p.sum_of_best)
      IS DISTINCT FROM (t.clears, t.fresh_clears, t.sherpas, t.seconds, t.sum_of_best);
