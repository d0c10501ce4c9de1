-- Cheat checks of stored instances, some dozens at once: what the rules look at, what they said, and
-- the ledger of both. Rules: docs/domain/queues.md, "Cheat checks".

-- name: lock_instances
-- The keys that the store takes, ascending as it does: a check never sees half of a replaced report.
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock(key)
    FROM unnest(%(instances)s::bigint[]) AS key
) AS taken;

-- name: find_checked
-- Primary key.
SELECT instance_id FROM streaming.cheat_check
WHERE instance_id = ANY(%(instances)s::bigint[]) AND version = %(version)s;

-- name: read_instances
-- Primary keys; the norms are a few rows. `is_young`: the report is fetched again yet.
SELECT i.instance_id, i.player_count, v.activity_id, a.name, a.is_raid, v.version_id,
       a.release_date, i.date_started, i.date_completed, i.duration, i.completed, i.fresh,
       i.flawless, n.low_kills, n.quick_seconds, coalesce(i.skull_hashes, '{}'),
       EXISTS (SELECT FROM streaming.young_pgcr AS y WHERE y.instance_id = i.instance_id) AS is_young
FROM core.instance AS i
JOIN definitions.activity_version AS v USING (hash)
JOIN definitions.activity_definition AS a ON a.id = v.activity_id
LEFT JOIN streaming.activity_norm AS n
    ON n.activity_id = v.activity_id AND n.version_id = v.version_id
   AND n.fresh = (i.fresh IS TRUE)
WHERE i.instance_id = ANY(%(instances)s::bigint[])
ORDER BY i.instance_id;

-- name: read_players
-- Primary keys. `is_bare`: a character without anything that a report's `extended` tells, which may
-- mean that it was missing.
SELECT p.instance_id, p.membership_id, p.completed, p.is_first_clear, p.time_played_seconds,
       coalesce(sum(c.kills), 0), coalesce(sum(c.super_kills), 0),
       coalesce(sum(c.grenade_kills), 0), coalesce(sum(c.melee_kills), 0),
       coalesce(bool_or(c.time_played_seconds = %(saturated)s OR c.start_seconds = %(saturated)s),
                false),
       coalesce(bool_or(c.precision_kills = 0 AND c.super_kills = 0 AND c.grenade_kills = 0
                        AND c.melee_kills = 0), true) AS is_bare,
       count(c.character_id) = 0 AS is_empty
FROM core.instance_player AS p
LEFT JOIN extended.instance_character AS c USING (instance_id, membership_id)
WHERE p.instance_id = ANY(%(instances)s::bigint[])
GROUP BY p.instance_id, p.membership_id
ORDER BY p.instance_id, p.membership_id;

-- name: read_weapons
-- Primary keys. A row a character and weapon; one that no manifest knows is not heavy.
SELECT w.instance_id, w.membership_id, w.kills, coalesce(d.ammo_type = 'Heavy', false)
FROM extended.instance_character_weapon AS w
LEFT JOIN definitions.weapon_definition AS d ON d.hash = w.weapon_hash
WHERE w.instance_id = ANY(%(instances)s::bigint[])
ORDER BY w.instance_id, w.membership_id, w.character_id, w.weapon_hash;

-- name: read_bodies
-- Primary key. Only of instances whose rows leave open whether the report was whole.
SELECT instance_id, data FROM raw.pgcr WHERE instance_id = ANY(%(instances)s::bigint[]);

-- name: find_flagged
-- Primary keys. Probability of the run's flag, 0 where only players are flagged.
SELECT instance_id, max(probability)::float8
FROM (
    SELECT instance_id, coalesce(cheat_probability, 0) AS probability
    FROM flagging.flag_instance
    WHERE instance_id = ANY(%(instances)s::bigint[]) AND cheat_check_version = %(version)s
    UNION ALL
    SELECT instance_id, 0
    FROM flagging.flag_instance_player
    WHERE instance_id = ANY(%(instances)s::bigint[]) AND cheat_check_version = %(version)s
) AS flags
GROUP BY instance_id;

-- name: delete_player_flags
-- Primary key. Of this version, whoever is not flagged any more.
DELETE FROM flagging.flag_instance_player AS f
WHERE f.instance_id = ANY(%(instances)s::bigint[]) AND f.cheat_check_version = %(version)s
  AND NOT EXISTS (
      SELECT FROM unnest(%(flagged)s::bigint[], %(players)s::bigint[]) AS still (instance_id, player)
      WHERE still.instance_id = f.instance_id AND still.player = f.membership_id
  );

-- name: delete_instance_flags
-- Primary key.
DELETE FROM flagging.flag_instance
WHERE instance_id = ANY(%(instances)s::bigint[]) AND cheat_check_version = %(version)s
  AND instance_id <> ALL(%(flagged)s::bigint[]);

-- name: flag_instances
-- Primary key. A verdict that says the same leaves the row and its time as they are, unless any
-- other rules looked since: it is the latest one again.
INSERT INTO flagging.flag_instance AS f
    (instance_id, cheat_check_version, cheat_check_bitmask, cheat_probability, explanation)
SELECT instance_id, %(version)s, bitmask, probability::numeric, explanation
FROM unnest(
    %(flagged)s::bigint[], %(bitmasks)s::bigint[], %(probabilities)s::float8[],
    %(explanations)s::text[]
) AS found (instance_id, bitmask, probability, explanation)
ORDER BY instance_id
ON CONFLICT (instance_id, cheat_check_version) DO UPDATE SET
    cheat_check_bitmask = excluded.cheat_check_bitmask,
    cheat_probability = excluded.cheat_probability,
    explanation = excluded.explanation,
    flagged_at = now()
WHERE (f.cheat_check_bitmask, f.cheat_probability, f.explanation)
      IS DISTINCT FROM
      (excluded.cheat_check_bitmask, excluded.cheat_probability, excluded.explanation)
   OR streaming.is_superseded(f.instance_id, f.cheat_check_version, f.flagged_at, '{""}');

-- name: flag_players
-- Primary key; as above.
INSERT INTO flagging.flag_instance_player AS f
    (instance_id, membership_id, cheat_check_version, cheat_check_bitmask, cheat_probability,
     explanation)
SELECT instance_id, player, %(version)s, bitmask, probability::numeric, explanation
FROM unnest(
    %(flagged)s::bigint[], %(players)s::bigint[], %(bitmasks)s::bigint[],
    %(probabilities)s::float8[], %(explanations)s::text[]
) AS found (instance_id, player, bitmask, probability, explanation)
ORDER BY instance_id, player
ON CONFLICT (instance_id, membership_id, cheat_check_version) DO UPDATE SET
    cheat_check_bitmask = excluded.cheat_check_bitmask,
    cheat_probability = excluded.cheat_probability,
    explanation = excluded.explanation,
    flagged_at = now()
WHERE (f.cheat_check_bitmask, f.cheat_probability, f.explanation)
      IS DISTINCT FROM
      (excluded.cheat_check_bitmask, excluded.cheat_probability, excluded.explanation)
   OR streaming.is_superseded(f.instance_id, f.cheat_check_version, f.flagged_at, '{""}');

-- name: record
-- Primary key; as above.
INSERT INTO streaming.cheat_check AS c
    (instance_id, version, probability, bitmask, flagged_players, skipped, failed_rules)
SELECT instance_id, %(version)s, probability::numeric, bitmask, flagged_players, skipped,
       failed_rules::text[]
FROM unnest(
    %(instances)s::bigint[], %(probabilities)s::float8[], %(bitmasks)s::bigint[],
    %(flagged_players)s::int[], %(skipped)s::text[], %(failed_rules)s::text[]
) AS found (instance_id, probability, bitmask, flagged_players, skipped, failed_rules)
ORDER BY instance_id
ON CONFLICT (instance_id, version) DO UPDATE SET
    probability = excluded.probability,
    bitmask = excluded.bitmask,
    flagged_players = excluded.flagged_players,
    skipped = excluded.skipped,
    failed_rules = excluded.failed_rules,
    checked_at = now()
WHERE (c.probability, c.bitmask, c.flagged_players, c.skipped, c.failed_rules)
      IS DISTINCT FROM
      (excluded.probability, excluded.bitmask, excluded.flagged_players, excluded.skipped,
       excluded.failed_rules)
   OR streaming.is_superseded(c.instance_id, c.version, c.checked_at, '{""}');

-- name: find_of_day
-- Index instance_date_completed_brin: one day of raids, at most some ten thousand ids.
SELECT instance_id FROM core.instance
WHERE date_completed >= %(since)s AND date_completed < %(before)s
ORDER BY instance_id;

-- name: find_of_players
-- Index instance_player_membership_id_idx. Without `since` all that they ever played.
SELECT DISTINCT p.instance_id
FROM core.instance_player AS p
JOIN core.instance AS i USING (instance_id)
WHERE p.membership_id = ANY(%(players)s::bigint[])
  AND (%(since)s::timestamptz IS NULL OR i.date_completed >= %(since)s)
ORDER BY p.instance_id;

-- name: find_missing_players
-- Primary key.
SELECT id FROM unnest(%(players)s::bigint[]) AS id
WHERE NOT EXISTS (SELECT FROM core.player AS p WHERE p.membership_id = id)
ORDER BY id;

-- name: read_standing
-- Primary keys. What the verdict before this one left flagged: that which the ledger or a flag tells
-- as the latest, whatever its version. What people flagged is no verdict.
SELECT latest.instance_id, f.membership_id, f.cheat_probability::float8, f.cheat_check_bitmask
FROM (
    SELECT DISTINCT ON (instance_id) instance_id, version
    FROM (
        SELECT instance_id, version, checked_at AS at
        FROM streaming.cheat_check
        WHERE instance_id = ANY(%(instances)s::bigint[])
        UNION ALL
        SELECT instance_id, cheat_check_version, flagged_at
        FROM flagging.flag_instance
        WHERE instance_id = ANY(%(instances)s::bigint[]) AND cheat_check_version <> 'manual'
        UNION ALL
        SELECT instance_id, cheat_check_version, flagged_at
        FROM flagging.flag_instance_player
        WHERE instance_id = ANY(%(instances)s::bigint[]) AND cheat_check_version <> 'manual'
    ) AS told
    ORDER BY instance_id, at DESC NULLS LAST, version DESC
) AS latest
JOIN (
    SELECT instance_id, NULL::bigint AS membership_id, cheat_check_version, cheat_probability,
           cheat_check_bitmask
    FROM flagging.flag_instance
    WHERE instance_id = ANY(%(instances)s::bigint[])
    UNION ALL
    SELECT instance_id, membership_id, cheat_check_version, cheat_probability, cheat_check_bitmask
    FROM flagging.flag_instance_player
    WHERE instance_id = ANY(%(instances)s::bigint[])
) AS f ON f.instance_id = latest.instance_id AND f.cheat_check_version = latest.version;

-- name: queue_recent
-- Indexes instance_player_membership_id_idx, primary keys. The messages leave with the commit. What
-- this version has judged is left out, so that a repeat before the checks are done asks twice at
-- most, and one after them for nothing.
INSERT INTO streaming.outbox (kind, destination, key, body)
SELECT 'message', %(queue)s, instance_id, convert_to(instance_id::text, 'UTF8')
FROM (
    SELECT DISTINCT p.instance_id
    FROM core.player AS who
    JOIN core.instance_player AS p USING (membership_id)
    JOIN core.instance AS i USING (instance_id)
    WHERE who.membership_id = ANY(%(players)s::bigint[])
      AND who.cheat_level >= %(min_level)s
      AND NOT who.is_whitelisted
      AND who.last_seen >= %(now)s - make_interval(days => %(seen_days)s)
      AND i.date_completed >= %(now)s - make_interval(days => %(completed_days)s)
      AND NOT EXISTS (
          SELECT FROM streaming.cheat_check AS c
          WHERE c.instance_id = p.instance_id AND c.version = %(version)s
      )
) AS due
ORDER BY instance_id;

-- name: find_level_changes
-- Primary key, backwards to the cursor. An id is drawn before its transaction commits, so that a
-- smaller one may come later: changes younger than a minute wait for the next call. A cursor above
-- every id is that of another database, or of one before its restore: it starts over.
SELECT id, membership_id, old_level, new_level
FROM streaming.cheat_level_change
WHERE id > CASE WHEN %(after)s <= (SELECT max(id) FROM streaming.cheat_level_change)
                THEN %(after)s ELSE 0 END
  AND changed_at < %(now)s - interval '1 minute'
ORDER BY id
LIMIT %(limit)s;

-- name: digest_rules_inputs
-- A few hundred rows and, of weapons, the heavy ones: which kills count as heavy.
SELECT md5(
    coalesce((SELECT string_agg(format('%%s %%s %%s', a.id, a.is_raid, a.release_date), ',' ORDER BY a.id)
              FROM definitions.activity_definition AS a), '')
    || coalesce((SELECT string_agg(format('%%s %%s %%s', v.hash, v.activity_id, v.version_id), ','
                                   ORDER BY v.hash)
                 FROM definitions.activity_version AS v), '')
    || coalesce((SELECT string_agg(w.hash::text, ',' ORDER BY w.hash)
                 FROM definitions.weapon_definition AS w WHERE w.ammo_type = 'Heavy'), '')
);

-- name: verdicts_without_flags
-- Index cheat_check_checked_at_brin, then a primary key: a verdict above the threshold has its flag,
-- with the same probability.
SELECT c.instance_id, count(*) OVER ()
FROM streaming.cheat_check AS c
LEFT JOIN flagging.flag_instance AS f
    ON f.instance_id = c.instance_id AND f.cheat_check_version = c.version
WHERE c.version = %(version)s AND c.checked_at >= now() - interval '7 days'
  AND (CASE WHEN c.probability > %(threshold)s THEN c.probability END)
      IS DISTINCT FROM f.cheat_probability
ORDER BY c.instance_id
LIMIT 5;
