-- Cheat levels and the blacklist, from flags. Rules: docs/domain/cheat-levels.md.

-- name: limit_statement
SELECT set_config('statement_timeout', %(limit_ms)s, true);

-- name: forget_flag_stats
-- A row a player with flags: thousands.
DELETE FROM streaming.player_flag_stats;

-- name: count_flags
-- Index flag_instance_player_flagged_at_idx, then primary keys. A flag has the class of the first
-- line of limits that either of its probabilities reaches; a line without limits takes every flag.
-- `sure` leaves out probabilities that rest on generic rules.
WITH latest AS (
    SELECT DISTINCT ON (p.membership_id, p.instance_id)
        p.membership_id,
        p.instance_id,
        cheat_check_version AS version,
        p.cheat_check_bitmask AS bitmask,
        p.flagged_at,
        p.cheat_probability AS player,
        f.cheat_probability AS instance,
        p.cheat_check_bitmask & %(generic)s <> 0 AS is_generic,
        CASE WHEN p.cheat_check_bitmask & %(generic)s = 0 THEN p.cheat_probability END AS sure_player,
        CASE WHEN f.cheat_check_bitmask & %(generic)s = 0 THEN f.cheat_probability END AS sure_instance
    FROM flagging.flag_instance_player AS p
    LEFT JOIN flagging.flag_instance AS f USING (instance_id, cheat_check_version)
    WHERE p.flagged_at >= now() - make_interval(days => %(window_days)s)
      AND cheat_check_version ^@ ANY(%(prefixes)s::text[])
      AND NOT streaming.is_superseded(
          p.instance_id, cheat_check_version, p.flagged_at, %(prefixes)s::text[])
    ORDER BY p.membership_id, p.instance_id, p.flagged_at DESC, cheat_check_version DESC
),
classed AS (
    SELECT latest.*, whole.name AS class, sure.name AS sure_class,
           row_number() OVER (
               PARTITION BY membership_id ORDER BY whole.name, player DESC NULLS LAST, instance_id
           ) AS place
    FROM latest
    JOIN core.instance AS i USING (instance_id)
    JOIN core.player AS owner USING (membership_id)
    CROSS JOIN LATERAL (
        SELECT name
        FROM unnest(
            %(classes)s::text[], %(player_limits)s::numeric[], %(instance_limits)s::numeric[]
        ) WITH ORDINALITY AS line (name, player_limit, instance_limit, number)
        WHERE (player_limit IS NULL AND instance_limit IS NULL)
           OR latest.player >= player_limit OR latest.instance >= instance_limit
        ORDER BY number
        LIMIT 1
    ) AS whole
    LEFT JOIN LATERAL (
        SELECT name
        FROM unnest(
            %(classes)s::text[], %(player_limits)s::numeric[], %(instance_limits)s::numeric[]
        ) WITH ORDINALITY AS line (name, player_limit, instance_limit, number)
        WHERE (player_limit IS NULL AND instance_limit IS NULL AND NOT latest.is_generic)
           OR latest.sure_player >= player_limit OR latest.sure_instance >= instance_limit
        ORDER BY number
        LIMIT 1
    ) AS sure ON true
    WHERE NOT i.is_whitelisted AND NOT owner.is_whitelisted AND owner.cheat_level < %(top_level)s
)
INSERT INTO streaming.player_flag_stats
    (membership_id, class_a, class_b, class_c, class_d, sure_a, sure_b, sure_c, sure_d, flags)
SELECT
    membership_id,
    count(*) FILTER (WHERE class = 'a'),
    count(*) FILTER (WHERE class = 'b'),
    count(*) FILTER (WHERE class = 'c'),
    count(*) FILTER (WHERE class = 'd'),
    count(*) FILTER (WHERE sure_class = 'a'),
    count(*) FILTER (WHERE sure_class = 'b'),
    count(*) FILTER (WHERE sure_class = 'c'),
    count(*) FILTER (WHERE sure_class = 'd'),
    jsonb_agg(
        jsonb_build_object(
            'instance', instance_id, 'class', class, 'player', player, 'of_instance', instance,
            'version', version, 'bitmask', bitmask
        )
        ORDER BY place
    ) FILTER (WHERE place <= %(shown)s)
FROM classed
GROUP BY membership_id
HAVING count(*) >= %(min_flags)s
ORDER BY membership_id;

-- name: sum_flag_stats
SELECT count(*) AS players,
       coalesce(sum(class_a), 0)::bigint AS class_a, coalesce(sum(class_b), 0)::bigint AS class_b,
       coalesce(sum(class_c), 0)::bigint AS class_c, coalesce(sum(class_d), 0)::bigint AS class_d,
       coalesce(sum(class_a + class_b + class_c + class_d
                    - sure_a - sure_b - sure_c - sure_d), 0)::bigint AS generic
FROM streaming.player_flag_stats;

-- name: list_flag_stats
-- The heaviest, for the asset's page.
SELECT s.membership_id::text AS player, coalesce(p.bungie_name, '') AS name, p.cheat_level,
       s.class_a, s.class_b, s.class_c, s.class_d
FROM streaming.player_flag_stats AS s
JOIN core.player AS p USING (membership_id)
ORDER BY s.class_a DESC, s.class_b DESC, s.class_c DESC, s.class_d DESC, s.membership_id
LIMIT %(limit)s;

-- name: read_flag_stats
-- A scan of a small table.
SELECT s.membership_id, p.cheat_level, s.class_a, s.class_b, s.class_c, s.class_d,
       s.sure_a, s.sure_b, s.sure_c, s.sure_d
FROM streaming.player_flag_stats AS s
JOIN core.player AS p USING (membership_id)
WHERE NOT p.is_whitelisted
ORDER BY s.membership_id;

-- name: read_records
-- Primary keys and instance_player_membership_id_idx: some hundred players at a time.
SELECT p.membership_id, p.membership_type, coalesce(p.bungie_name, '') AS name,
       p.first_seen, p.last_seen, p.clears, p.is_private,
       p.last_crawled IS NOT NULL OR p.history_last_crawled IS NOT NULL AS was_crawled,
       p.cheat_level, runs.completed, runs.lowman, runs.flawless, runs.solo
FROM core.player AS p
CROSS JOIN LATERAL (
    SELECT count(*) AS completed,
           count(*) FILTER (WHERE i.player_count <= %(lowman)s) AS lowman,
           count(*) FILTER (WHERE i.flawless) AS flawless,
           count(*) FILTER (WHERE i.player_count = 1) AS solo
    FROM core.instance_player AS own
    JOIN core.instance AS i USING (instance_id)
    WHERE own.membership_id = p.membership_id AND i.completed
      AND i.date_started >= %(since)s
) AS runs
WHERE p.membership_id = ANY(%(players)s::bigint[]) AND NOT p.is_whitelisted;

-- name: read_profiles
-- Primary key.
SELECT membership_id, factors
FROM streaming.account_factor_cache
WHERE membership_id = ANY(%(players)s::bigint[]) AND fetched_at > %(after)s;

-- name: keep_profile
-- Primary key.
INSERT INTO streaming.account_factor_cache AS kept (membership_id, fetched_at, factors)
VALUES (%(player)s, %(fetched_at)s, %(factors)s)
ON CONFLICT (membership_id) DO UPDATE
SET fetched_at = excluded.fetched_at, factors = excluded.factors, chance = NULL;

-- name: keep_chances
-- Primary key: what followed from the profile last.
UPDATE streaming.account_factor_cache AS kept
SET chance = known.chance
FROM unnest(%(players)s::bigint[], %(chances)s::numeric[]) AS known (membership_id, chance)
WHERE kept.membership_id = known.membership_id;

-- name: lock_players
-- The store's locks on players (store.sql, lock_keys), in its order.
SELECT pg_advisory_xact_lock(player)
FROM (SELECT unnest(%(players)s::bigint[]) AS player ORDER BY 1) AS ordered;

-- name: raise_levels
-- Primary key. Only upwards, and nobody who was whitelisted meanwhile.
WITH known AS (
    SELECT p.membership_id, p.cheat_level AS old_level, wanted.level AS new_level
    FROM core.player AS p
    JOIN unnest(%(players)s::bigint[], %(levels)s::smallint[]) AS wanted (membership_id, level)
        USING (membership_id)
    WHERE p.cheat_level < wanted.level AND NOT p.is_whitelisted
    ORDER BY p.membership_id
    FOR UPDATE OF p
)
UPDATE core.player AS p
SET cheat_level = known.new_level, updated_at = now()
FROM known
WHERE p.membership_id = known.membership_id
RETURNING p.membership_id, known.old_level;

-- name: record_change
INSERT INTO streaming.cheat_level_change
    (membership_id, old_level, new_level, reason, actor, evidence)
SELECT %(player)s, %(old)s, %(new)s, %(reason)s, %(actor)s,
       %(evidence)s::jsonb || jsonb_build_object('instances', coalesce(
           (SELECT flags FROM streaming.player_flag_stats WHERE membership_id = %(player)s), '[]'
       ));

-- name: count_raised
-- Index cheat_level_change_time_idx: a run does not last a day.
SELECT count(DISTINCT membership_id)
FROM streaming.cheat_level_change
WHERE changed_at > now() - interval '1 day' AND actor = %(actor)s AND evidence ->> 'run' = %(run)s;

-- name: count_levels
-- Index player_cheat_level_idx.
SELECT cheat_level, count(*) FROM core.player WHERE cheat_level > 0 GROUP BY 1 ORDER BY 1;

-- name: blacklist_flagged
-- Index flag_instance_flagged_at_idx. What somebody blacklisted before keeps its reason. Rules for
-- activities without a table exclude nothing.
INSERT INTO flagging.blacklist_instance
    (instance_id, report_source, cheat_check_version, reason)
SELECT DISTINCT ON (f.instance_id)
    f.instance_id, 'CheatCheck'::flagging."BlacklistReportSource", f.cheat_check_version, %(reason)s
FROM flagging.flag_instance AS f
JOIN core.instance AS i USING (instance_id)
WHERE f.flagged_at >= now() - make_interval(days => %(within_days)s)
  AND f.cheat_probability >= %(probability)s::numeric
  AND f.cheat_check_bitmask & %(generic)s = 0
  AND NOT streaming.is_superseded(
      f.instance_id, f.cheat_check_version, f.flagged_at, %(prefixes)s::text[])
  AND NOT i.is_whitelisted
  AND NOT EXISTS (
      SELECT FROM core.instance_player AS own
      JOIN core.player AS p USING (membership_id)
      WHERE own.instance_id = f.instance_id AND p.is_whitelisted
  )
ORDER BY f.instance_id, f.flagged_at DESC, f.cheat_check_version DESC
ON CONFLICT (instance_id) DO NOTHING;

-- name: cascading_players
-- Index player_cheat_level_idx.
SELECT membership_id
FROM core.player
WHERE cheat_level > 0 AND cheat_level >= %(level)s AND NOT is_whitelisted
  AND last_seen >= now() - make_interval(days => %(seen_days)s)
ORDER BY membership_id;

-- name: find_cascaded
-- Index instance_player_membership_id_idx and primary keys: some dozen players at a time.
SELECT p.membership_id, coalesce(p.bungie_name, '') AS name, i.instance_id,
       coalesce(of_instance.version, of_player.version) AS version
FROM core.player AS p
JOIN core.instance_player AS own USING (membership_id)
JOIN core.instance AS i USING (instance_id)
CROSS JOIN LATERAL (
    SELECT max(cheat_probability) AS chance,
           (array_agg(cheat_check_version ORDER BY flagged_at DESC))[1] AS version
    FROM flagging.flag_instance AS f
    WHERE f.instance_id = i.instance_id AND f.cheat_check_bitmask & %(generic)s = 0
      AND NOT streaming.is_superseded(
          f.instance_id, f.cheat_check_version, f.flagged_at, %(prefixes)s::text[])
) AS of_instance
CROSS JOIN LATERAL (
    SELECT max(cheat_probability) AS chance,
           (array_agg(cheat_check_version ORDER BY flagged_at DESC))[1] AS version
    FROM flagging.flag_instance_player AS f
    WHERE f.instance_id = i.instance_id AND f.membership_id = p.membership_id
      AND f.cheat_check_bitmask & %(generic)s = 0
      AND NOT streaming.is_superseded(
          f.instance_id, f.cheat_check_version, f.flagged_at, %(prefixes)s::text[])
) AS of_player
WHERE p.membership_id = ANY(%(players)s::bigint[])
  AND NOT i.is_whitelisted
  AND NOT EXISTS (
      SELECT FROM core.instance_player AS mate
      JOIN core.player AS q USING (membership_id)
      WHERE mate.instance_id = i.instance_id AND q.is_whitelisted
  )
  AND (
      of_instance.chance >= %(instance_flag)s::numeric
      OR of_player.chance >= %(player_flag)s::numeric
      OR (
          (
              (%(solo)s AND i.player_count = 1)
              OR own.time_played_seconds >= %(seconds)s::numeric
              OR own.time_played_seconds >= %(share)s::numeric * i.duration
              OR (%(completed)s AND own.completed)
              OR of_instance.chance >= %(part_instance_flag)s::numeric
              OR of_player.chance >= %(part_player_flag)s::numeric
          )
          AND (
              i.date_completed >= p.last_seen - make_interval(days => %(days)s)
              OR (
                  i.date_completed >= p.last_seen - make_interval(days => %(board_days)s)
                  AND i.instance_id = ANY(%(boarded)s::bigint[])
              )
          )
      )
  )
ORDER BY i.instance_id, p.membership_id;

-- name: blacklist_cascaded
-- Primary key; of several players the first one gives the reason.
INSERT INTO flagging.blacklist_instance
    (instance_id, report_source, cheat_check_version, reason)
SELECT DISTINCT ON (instance_id)
    instance_id, 'BlacklistedPlayerCascade'::flagging."BlacklistReportSource", version, reason
FROM unnest(
    %(instances)s::bigint[], %(players)s::bigint[], %(versions)s::text[], %(reasons)s::text[]
) AS found (instance_id, membership_id, version, reason)
ORDER BY instance_id, membership_id
ON CONFLICT (instance_id) DO NOTHING;

-- name: blacklist_cascaded_players
-- Primary key. Rows that people wrote get no names by a rule.
INSERT INTO flagging.blacklist_instance_player (instance_id, membership_id, reason)
SELECT found.instance_id, found.membership_id, %(reason)s
FROM unnest(%(instances)s::bigint[], %(players)s::bigint[]) AS found (instance_id, membership_id)
JOIN flagging.blacklist_instance AS b USING (instance_id)
WHERE b.report_source IN ('CheatCheck', 'BlacklistedPlayerCascade')
ORDER BY found.instance_id, found.membership_id
ON CONFLICT (instance_id, membership_id) DO NOTHING;

-- name: count_blacklist
-- A scan of a small table, then primary keys. The rows of a whitelisted raid say nothing, here as on
-- the boards.
SELECT b.report_source::text, count(*)
FROM flagging.blacklist_instance AS b
JOIN core.instance AS i USING (instance_id)
WHERE NOT i.is_whitelisted
GROUP BY 1
ORDER BY 1;

-- name: report_raids
-- Indexes on flagged_at; blacklist_instance is small.
SELECT d.name AS raid,
       count(DISTINCT f.instance_id) FILTER (WHERE f.is_flag) AS flagged,
       count(DISTINCT f.instance_id) FILTER (WHERE f.cheat_probability >= %(likely)s::numeric)
           AS likely,
       count(DISTINCT b.instance_id) AS blacklisted
FROM (
    SELECT true AS is_flag, instance_id, cheat_probability FROM flagging.flag_instance
    WHERE flagged_at >= now() - make_interval(days => %(days)s)
    UNION ALL
    SELECT false, instance_id, NULL FROM flagging.blacklist_instance
    WHERE created_at >= now() - make_interval(days => %(days)s)
) AS f
JOIN core.instance AS i USING (instance_id)
JOIN definitions.activity_version AS v USING (hash)
JOIN definitions.activity_definition AS d ON d.id = v.activity_id
LEFT JOIN flagging.blacklist_instance AS b
    ON b.instance_id = f.instance_id AND NOT i.is_whitelisted
GROUP BY d.id, d.name
ORDER BY flagged DESC, d.id;

-- name: report_reasons
-- Indexes on flagged_at. One row a bit that is no activity.
SELECT bit, count(*) FILTER (WHERE kind = 'instance') AS instances,
       count(*) FILTER (WHERE kind = 'player') AS players
FROM (
    SELECT 'instance' AS kind, cheat_check_bitmask AS bitmask FROM flagging.flag_instance
    WHERE flagged_at >= now() - make_interval(days => %(days)s)
    UNION ALL
    SELECT 'player', cheat_check_bitmask FROM flagging.flag_instance_player
    WHERE flagged_at >= now() - make_interval(days => %(days)s)
) AS flags
JOIN unnest(%(bits)s::int[]) AS bit ON bitmask & (1::bigint << bit) <> 0
GROUP BY bit
ORDER BY count(*) DESC, bit;

-- name: report_unnamed
-- Indexes on flagged_at.
SELECT instance_id
FROM (
    SELECT instance_id FROM flagging.flag_instance
    WHERE flagged_at >= now() - make_interval(days => %(days)s)
      AND cheat_check_bitmask & ~%(known)s::bigint <> 0
    UNION
    SELECT instance_id FROM flagging.flag_instance_player
    WHERE flagged_at >= now() - make_interval(days => %(days)s)
      AND cheat_check_bitmask & ~%(known)s::bigint <> 0
) AS flags
ORDER BY instance_id DESC
LIMIT %(limit)s;

-- name: report_trend
-- Indexes on flagged_at and on changed_at; one row a day (UTC), the oldest first.
WITH days AS (
    SELECT day
    FROM generate_series(
        date_trunc('day', now()) - make_interval(days => %(days)s - 1),
        date_trunc('day', now()),
        interval '1 day'
    ) AS day
),
flagged AS (
    SELECT date_trunc('day', flagged_at) AS day, count(DISTINCT instance_id) AS raids
    FROM flagging.flag_instance
    WHERE flagged_at >= (SELECT min(day) FROM days)
    GROUP BY 1
),
blacklisted AS (
    SELECT date_trunc('day', b.created_at) AS day, count(*) AS raids
    FROM flagging.blacklist_instance AS b
    JOIN core.instance AS i USING (instance_id)
    WHERE b.created_at >= (SELECT min(day) FROM days) AND NOT i.is_whitelisted
    GROUP BY 1
),
raised AS (
    SELECT date_trunc('day', changed_at) AS day, count(DISTINCT membership_id) AS players
    FROM streaming.cheat_level_change
    WHERE changed_at >= (SELECT min(day) FROM days) AND new_level > old_level
    GROUP BY 1
)
SELECT day::date, coalesce(flagged.raids, 0), coalesce(blacklisted.raids, 0),
       coalesce(raised.players, 0)
FROM days
LEFT JOIN flagged USING (day)
LEFT JOIN blacklisted USING (day)
LEFT JOIN raised USING (day)
ORDER BY day;

-- name: report_changes
-- Index cheat_level_change_time_idx.
SELECT c.changed_at, c.membership_id::text AS player, coalesce(p.bungie_name, '') AS name,
       c.old_level, c.new_level, c.actor, c.reason
FROM streaming.cheat_level_change AS c
LEFT JOIN core.player AS p USING (membership_id)
ORDER BY c.changed_at DESC, c.id DESC
LIMIT %(limit)s;

-- name: sample_flag_stats
-- A small table; per player, index flag_instance_player_membership_id_idx. The flags as they are,
-- to be classed elsewhere.
SELECT s.membership_id,
       ARRAY[s.class_a, s.class_b, s.class_c, s.class_d, s.sure_a, s.sure_b, s.sure_c, s.sure_d],
       (
           SELECT coalesce(jsonb_agg(jsonb_build_array(player, mask, instance, instance_mask)), '[]')
           FROM (
               SELECT DISTINCT ON (p.instance_id)
                   p.cheat_probability AS player, p.cheat_check_bitmask AS mask,
                   f.cheat_probability AS instance, f.cheat_check_bitmask AS instance_mask
               FROM flagging.flag_instance_player AS p
               JOIN core.instance AS i USING (instance_id)
               LEFT JOIN flagging.flag_instance AS f USING (instance_id, cheat_check_version)
               WHERE p.membership_id = s.membership_id AND NOT i.is_whitelisted
                 AND p.flagged_at >= s.counted_at - make_interval(days => %(window_days)s)
                 AND cheat_check_version ^@ ANY(%(prefixes)s::text[])
                 AND NOT streaming.is_superseded(
                     p.instance_id, cheat_check_version, p.flagged_at, %(prefixes)s::text[])
               ORDER BY p.instance_id, p.flagged_at DESC, cheat_check_version DESC
           ) AS flags
       )
FROM streaming.player_flag_stats AS s
WHERE NOT EXISTS (
    SELECT FROM flagging.flag_instance_player AS younger
    WHERE younger.membership_id = s.membership_id AND younger.flagged_at >= s.counted_at
)
ORDER BY random()
LIMIT %(size)s;

-- name: check_recorded
-- Rows of rules, few enough to be scanned once a day.
SELECT c.membership_id, count(*) OVER ()
FROM streaming.cheat_level_change AS c
WHERE c.actor = %(actor)s
  AND (c.new_level <= c.old_level
       OR jsonb_array_length(coalesce(c.evidence -> 'instances', '[]')) = 0
       OR c.evidence ->> 'rule' IS NULL)
ORDER BY c.id
LIMIT 5;

-- name: check_spared
-- Index cheat_level_change_time_idx.
SELECT c.membership_id, count(*) OVER ()
FROM streaming.cheat_level_change AS c
JOIN core.player AS p USING (membership_id)
WHERE c.actor = %(actor)s AND c.changed_at >= %(since)s
  AND p.is_whitelisted AND p.cheat_level = c.new_level
ORDER BY c.membership_id
LIMIT 5;

-- name: check_spared_raids
-- A scan of a small table.
SELECT b.instance_id, count(*) OVER ()
FROM flagging.blacklist_instance AS b
JOIN core.instance AS i USING (instance_id)
WHERE b.report_source IN ('CheatCheck', 'BlacklistedPlayerCascade') AND b.created_at >= %(since)s
  AND (
      i.is_whitelisted
      OR EXISTS (
          SELECT FROM core.instance_player AS own
          JOIN core.player AS p USING (membership_id)
          WHERE own.instance_id = b.instance_id AND p.is_whitelisted
      )
  )
ORDER BY b.instance_id
LIMIT 5;

-- name: check_cascade_named
-- The same.
SELECT b.instance_id, count(*) OVER ()
FROM flagging.blacklist_instance AS b
WHERE b.report_source = 'BlacklistedPlayerCascade' AND b.created_at >= %(since)s
  AND NOT EXISTS (
      SELECT FROM flagging.blacklist_instance_player AS own WHERE own.instance_id = b.instance_id
  )
ORDER BY b.instance_id
LIMIT 5;
