-- Learned scores: what they learn from and the queue of what people should look at. Nothing here
-- writes a level, a flag or a blacklist. Rules: docs/domain/cheat-learning.md.

-- name: read_confirmed
-- Scans of the flags and blacklists, once a week: few runs have one. Then primary keys.
-- Player-instances that rules are sure of (flags of the versions whose flags count, unless other
-- rules looked later) or that people confirmed, newest first. A whitelisted player or run
-- contradicts: people decided otherwise.
WITH found AS (
    SELECT instance_id, membership_id, cheat_check_bitmask AS bitmask
    FROM flagging.flag_instance_player
    WHERE cheat_probability >= %(sure)s
      AND cheat_check_version ^@ ANY(%(prefixes)s::text[])
      AND NOT streaming.is_superseded(
          instance_id, cheat_check_version, flagged_at, %(prefixes)s::text[])
    UNION ALL
    SELECT p.instance_id, p.membership_id, 0
    FROM flagging.blacklist_instance_player AS p
    JOIN flagging.blacklist_instance AS b USING (instance_id)
    WHERE b.report_source IN ('Manual', 'WebReport')
    UNION ALL
    SELECT instance_id, membership_id, 0
    FROM flagging.review_queue
    WHERE state = 'confirmed'
)
SELECT f.instance_id, f.membership_id, bit_or(f.bitmask)
FROM found AS f
JOIN core.instance AS i USING (instance_id)
JOIN core.player AS p USING (membership_id)
WHERE i.date_completed >= %(since)s AND i.date_completed < %(until)s
  AND NOT i.is_whitelisted AND NOT p.is_whitelisted
  AND NOT EXISTS (
      SELECT FROM flagging.review_queue AS q
      WHERE q.membership_id = f.membership_id AND q.instance_id = f.instance_id
        AND q.state = 'dismissed'
  )
GROUP BY f.instance_id, f.membership_id
ORDER BY f.instance_id DESC, f.membership_id
LIMIT %(limit)s;

-- name: read_clean
-- Primary keys. Of these runs, those that the rules looked at and found nothing in, and that nobody
-- blacklisted.
SELECT i.instance_id
FROM unnest(%(instances)s::bigint[]) AS i (instance_id)
WHERE EXISTS (
    SELECT FROM streaming.cheat_check AS c
    WHERE c.instance_id = i.instance_id AND c.skipped IS NULL
      AND c.version ^@ ANY(%(prefixes)s::text[])
)
  AND NOT EXISTS (SELECT FROM flagging.flag_instance AS f WHERE f.instance_id = i.instance_id)
  AND NOT EXISTS (SELECT FROM flagging.flag_instance_player AS f WHERE f.instance_id = i.instance_id)
  AND NOT EXISTS (SELECT FROM flagging.blacklist_instance AS b WHERE b.instance_id = i.instance_id);

-- name: read_doubtful
-- Primary key. Of these players, those of whom a level says that not all is well.
SELECT p.membership_id
FROM unnest(%(players)s::bigint[]) AS p (membership_id)
JOIN core.player USING (membership_id)
WHERE cheat_level > 0 AND NOT is_whitelisted;

-- name: read_dismissed
-- Index review_queue_decided_idx. What people looked at and found clean.
SELECT q.instance_id, q.membership_id
FROM flagging.review_queue AS q
JOIN core.instance AS i USING (instance_id)
WHERE q.state = 'dismissed'
  AND i.date_completed >= %(since)s AND i.date_completed < %(until)s
ORDER BY q.instance_id DESC, q.membership_id
LIMIT %(limit)s;

-- name: read_seasons
SELECT start_date FROM definitions.season ORDER BY start_date, id;

-- name: read_candidates
-- Primary keys. Of these player-instances, those that somebody may gain from looking at: not
-- decided, not whitelisted, not blacklisted, and the rules are not sure of them.
SELECT c.membership_id, c.instance_id, p.clears, p.cheat_level, p.is_private
FROM unnest(%(players)s::bigint[], %(instances)s::bigint[]) AS c (membership_id, instance_id)
JOIN core.instance_player AS ip USING (instance_id, membership_id)
JOIN core.player AS p USING (membership_id)
JOIN core.instance AS i USING (instance_id)
WHERE NOT i.is_whitelisted AND NOT p.is_whitelisted AND p.cheat_level < 4
  AND NOT EXISTS (
      SELECT FROM flagging.blacklist_instance AS b WHERE b.instance_id = c.instance_id
  )
  AND NOT EXISTS (
      SELECT FROM flagging.flag_instance_player AS f
      WHERE f.instance_id = c.instance_id AND f.membership_id = c.membership_id
        AND f.cheat_probability >= %(sure)s
        AND f.cheat_check_version ^@ ANY(%(prefixes)s::text[])
        AND NOT streaming.is_superseded(
            f.instance_id, f.cheat_check_version, f.flagged_at, %(prefixes)s::text[])
  )
  AND NOT EXISTS (
      SELECT FROM flagging.review_queue AS q
      WHERE q.membership_id = c.membership_id AND q.instance_id = c.instance_id
        AND q.state <> 'open'
  );

-- name: enqueue
-- Unique (membership_id, instance_id). A decided row stays as it is, whoever decided it meanwhile.
INSERT INTO flagging.review_queue AS q
    (membership_id, instance_id, score, worth, reasons, model_version)
SELECT membership_id, instance_id, score, worth, reasons::jsonb, %(version)s
FROM unnest(
    %(players)s::bigint[], %(instances)s::bigint[], %(scores)s::float8[], %(worths)s::float8[],
    %(reasons)s::text[]
) AS n (membership_id, instance_id, score, worth, reasons)
ON CONFLICT (membership_id, instance_id) DO UPDATE SET
    score = excluded.score,
    worth = excluded.worth,
    reasons = excluded.reasons,
    model_version = excluded.model_version
WHERE q.state = 'open'
RETURNING xmax = 0;

-- name: drop_moot
-- Index review_queue_open_idx. Open rows about which nothing is left to find out.
DELETE FROM flagging.review_queue AS q
USING core.player AS p, core.instance AS i
WHERE q.state = 'open'
  AND p.membership_id = q.membership_id AND i.instance_id = q.instance_id
  AND (
      i.is_whitelisted OR p.is_whitelisted OR p.cheat_level >= 4
      OR EXISTS (SELECT FROM flagging.blacklist_instance AS b WHERE b.instance_id = q.instance_id)
      OR EXISTS (
          SELECT FROM flagging.flag_instance_player AS f
          WHERE f.instance_id = q.instance_id AND f.membership_id = q.membership_id
            AND f.cheat_probability >= %(sure)s
            AND f.cheat_check_version ^@ ANY(%(prefixes)s::text[])
            AND NOT streaming.is_superseded(
                f.instance_id, f.cheat_check_version, f.flagged_at, %(prefixes)s::text[])
      )
  );

-- name: count_states
SELECT state, count(*) FROM flagging.review_queue GROUP BY state;

-- name: read_first
-- Index review_queue_open_idx. What to look at first.
SELECT q.id, p.bungie_name, q.membership_id, q.instance_id, q.score, q.worth, q.expected_value,
       q.reasons, q.model_version
FROM flagging.review_queue AS q
LEFT JOIN core.player AS p USING (membership_id)
WHERE q.state = 'open'
ORDER BY q.expected_value DESC, q.id
LIMIT %(limit)s;

-- name: read_listed
-- Primary key. Locked in this order, so that two decisions at once wait instead of deadlocking.
SELECT q.id, q.state, q.decided_by, q.membership_id, q.instance_id, q.score, q.reasons
FROM flagging.review_queue AS q
WHERE q.id = ANY(%(ids)s::bigint[])
ORDER BY q.id
FOR UPDATE;

-- name: decide
-- Primary key.
UPDATE flagging.review_queue
SET state = %(decision)s, decided_at = now(), decided_by = %(actor)s
WHERE id = ANY(%(ids)s::bigint[]) AND state = 'open';

-- name: add_model
INSERT INTO streaming.cheat_model (
    version, digest, feature_schema, library, trained_since, trained_until, rows, positives,
    negatives, metrics
)
VALUES (
    %(version)s, %(digest)s, %(feature_schema)s, %(library)s, %(since)s, %(until)s, %(rows)s,
    %(positives)s, %(negatives)s, %(metrics)s
)
ON CONFLICT (version) DO NOTHING;

-- name: newest_model
-- Few rows.
SELECT version, digest, feature_schema, library, trained_since, trained_until, rows, positives,
       negatives, created_at
FROM streaming.cheat_model
ORDER BY created_at DESC, version DESC
LIMIT 1;

-- name: list_models
-- Few rows.
SELECT version FROM streaming.cheat_model ORDER BY created_at DESC, version DESC;

-- name: check_flags
-- Flags, blacklists and levels that name a model or the queue: only people may act on those. Few rows
-- carry such a version, but no index has it: a scan, once a day.
SELECT id, count(*) OVER ()
FROM (
    SELECT instance_id AS id FROM flagging.flag_instance WHERE cheat_check_version ^@ %(prefix)s
    UNION ALL
    SELECT instance_id FROM flagging.flag_instance_player WHERE cheat_check_version ^@ %(prefix)s
) AS found
LIMIT 5;

-- name: check_blacklists
SELECT instance_id, count(*) OVER ()
FROM flagging.blacklist_instance
WHERE cheat_check_version ^@ %(prefix)s
LIMIT 5;

-- name: check_levels
SELECT membership_id, count(*) OVER ()
FROM streaming.cheat_level_change
WHERE actor ^@ %(prefix)s OR actor = 'review_queue'
LIMIT 5;
