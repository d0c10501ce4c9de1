-- Taking back what cheat checks said: docs/repairs/README.md, "What clearing means".

-- name: find_flags
-- Indexes on flagged_at of both tables. One row an instance and version whose verdict has one of the
-- bits, itself or about one of its players.
WITH found AS (
    SELECT instance_id, cheat_check_version AS version
    FROM flagging.flag_instance
    WHERE flagged_at >= %(since)s AND cheat_check_bitmask & %(bitmap)s <> 0
    UNION
    SELECT instance_id, cheat_check_version
    FROM flagging.flag_instance_player
    WHERE flagged_at >= %(since)s AND cheat_check_bitmask & %(bitmap)s <> 0
)
SELECT instance_id, version
FROM found
WHERE version <> ALL(%(kept)s)
ORDER BY instance_id, version;

-- name: delete_player_flags
-- Primary key. Only the rows with one of the bits: others of the same verdict stand for themselves.
DELETE FROM flagging.flag_instance_player AS f
USING unnest(%(instances)s::bigint[], %(versions)s::text[]) AS v (instance_id, version)
WHERE f.instance_id = v.instance_id AND f.cheat_check_version = v.version
  AND f.flagged_at >= %(since)s AND f.cheat_check_bitmask & %(bitmap)s <> 0
RETURNING f.membership_id;

-- name: delete_instance_flags
-- Primary key.
DELETE FROM flagging.flag_instance AS f
USING unnest(%(instances)s::bigint[], %(versions)s::text[]) AS v (instance_id, version)
WHERE f.instance_id = v.instance_id AND f.cheat_check_version = v.version
  AND f.flagged_at >= %(since)s AND f.cheat_check_bitmask & %(bitmap)s <> 0;

-- name: forget_checks
-- Primary key. Should that version count again, it has to look again.
DELETE FROM streaming.cheat_check AS c
USING unnest(%(instances)s::bigint[], %(versions)s::text[]) AS v (instance_id, version)
WHERE c.instance_id = v.instance_id AND c.version = v.version;

-- name: lift_unfounded
-- Primary keys. What a check alone blacklisted, of a version that flags the instance no more.
DELETE FROM flagging.blacklist_instance AS b
WHERE b.instance_id = ANY(%(instances)s::bigint[])
  AND b.report_source = 'CheatCheck'
  AND NOT EXISTS (
      SELECT FROM flagging.flag_instance AS f
      WHERE f.instance_id = b.instance_id AND f.cheat_check_version = b.cheat_check_version
  );

-- name: levels_of
-- Primary key. Levels never fall by themselves: somebody has to look at these.
SELECT membership_id, coalesce(bungie_name, '') AS name, cheat_level
FROM core.player
WHERE membership_id = ANY(%(players)s::bigint[]) AND cheat_level > 0
ORDER BY cheat_level DESC, membership_id;

-- name: lock_player
-- The store's lock on the player (store.sql, lock_keys).
SELECT pg_advisory_xact_lock(%(player)s);

-- name: read_player
-- Primary key.
SELECT cheat_level, is_whitelisted, coalesce(bungie_name, '')
FROM core.player
WHERE membership_id = %(player)s
FOR UPDATE;

-- name: clear_player_flags
-- Index flag_instance_player_membership_id_idx.
DELETE FROM flagging.flag_instance_player
WHERE membership_id = %(player)s
RETURNING to_jsonb(flag_instance_player.*);

-- name: clear_solo_flags
-- Indexes by player and by instance. Of a run alone, the verdict on the run is that on the player.
DELETE FROM flagging.flag_instance AS f
USING core.instance_player AS p
WHERE p.membership_id = %(player)s AND f.instance_id = p.instance_id
  AND NOT EXISTS (
      SELECT FROM core.instance_player AS other
      WHERE other.instance_id = f.instance_id AND other.membership_id <> %(player)s
  )
RETURNING to_jsonb(f.*);

-- name: find_blacklists
-- Index blacklist_instance_player_membership_id_idx. Rows that rules wrote because of this player and
-- nobody else; what people wrote stays.
SELECT b.instance_id
FROM flagging.blacklist_instance AS b
JOIN flagging.blacklist_instance_player AS own USING (instance_id)
WHERE own.membership_id = %(player)s
  AND b.report_source IN ('CheatCheck', 'BlacklistedPlayerCascade')
  AND NOT EXISTS (
      SELECT FROM flagging.blacklist_instance_player AS other
      WHERE other.instance_id = b.instance_id AND other.membership_id <> %(player)s
  );

-- name: find_automatic_blacklists
-- Index instance_player_membership_id_idx. A run with a whitelisted player is never blacklisted by a
-- rule, unless the rule names somebody else.
SELECT b.instance_id
FROM core.instance_player AS p
JOIN flagging.blacklist_instance AS b USING (instance_id)
WHERE p.membership_id = %(player)s
  AND b.report_source IN ('CheatCheck', 'BlacklistedPlayerCascade')
  AND NOT EXISTS (
      SELECT FROM flagging.blacklist_instance_player AS other
      WHERE other.instance_id = b.instance_id AND other.membership_id <> %(player)s
  );

-- name: clear_blacklisted_player
-- Index blacklist_instance_player_membership_id_idx.
DELETE FROM flagging.blacklist_instance_player
WHERE membership_id = %(player)s
RETURNING to_jsonb(blacklist_instance_player.*);

-- name: clear_blacklists
-- Primary key.
DELETE FROM flagging.blacklist_instance
WHERE instance_id = ANY(%(instances)s::bigint[])
RETURNING to_jsonb(blacklist_instance.*);

-- name: find_changes
-- Primary key, or a scan of a small table: changes that were not taken back. By run and by time only
-- those of the rules; the newest of each player first.
SELECT c.id, c.membership_id
FROM streaming.cheat_level_change AS c
WHERE (
        c.id = ANY(%(changes)s::bigint[])
        OR (
            c.actor = %(rules)s
            AND (
                c.evidence ->> 'run' = %(run)s
                OR (
                    %(by_time)s
                    AND (%(since)s::timestamptz IS NULL OR c.changed_at >= %(since)s)
                    AND (%(until)s::timestamptz IS NULL OR c.changed_at < %(until)s)
                )
            )
        )
    )
    AND NOT EXISTS (
        SELECT FROM streaming.cheat_level_change AS later
        WHERE later.membership_id = c.membership_id AND later.id > c.id
          AND later.evidence ->> 'taken_back' = c.id::text
    )
ORDER BY c.membership_id, c.id DESC;

-- name: find_cascaded
-- Index blacklist_instance_player_membership_id_idx. Raids that the cascade excluded because of this
-- player and nobody else.
SELECT b.instance_id
FROM flagging.blacklist_instance AS b
JOIN flagging.blacklist_instance_player AS own USING (instance_id)
WHERE own.membership_id = %(player)s AND b.report_source = 'BlacklistedPlayerCascade'
  AND NOT EXISTS (
      SELECT FROM flagging.blacklist_instance_player AS other
      WHERE other.instance_id = b.instance_id AND other.membership_id <> %(player)s
  );

-- name: clear_cascaded_player
-- The same index. Names in what rules wrote; those that people wrote stay.
DELETE FROM flagging.blacklist_instance_player AS own
USING flagging.blacklist_instance AS b
WHERE own.membership_id = %(player)s AND b.instance_id = own.instance_id
  AND b.report_source IN ('CheatCheck', 'BlacklistedPlayerCascade')
RETURNING to_jsonb(own.*);

-- name: forget_factors
-- Primary key.
DELETE FROM streaming.account_factor_cache WHERE membership_id = %(player)s;

-- name: set_standing
-- Primary key.
UPDATE core.player
SET cheat_level = %(level)s, is_whitelisted = %(whitelisted)s, updated_at = now()
WHERE membership_id = %(player)s;

-- name: record_change
INSERT INTO streaming.cheat_level_change
    (membership_id, old_level, new_level, reason, actor, evidence)
VALUES (%(player)s, %(old)s, %(new)s, %(reason)s, %(actor)s, %(evidence)s)
RETURNING id;

-- name: read_change
-- Primary key.
SELECT membership_id, old_level, new_level, evidence
FROM streaming.cheat_level_change
WHERE id = %(change)s;

-- name: restore_player_flags
INSERT INTO flagging.flag_instance_player
SELECT r.* FROM jsonb_populate_recordset(NULL::flagging.flag_instance_player, %(rows)s) AS r
JOIN core.instance_player AS p USING (instance_id, membership_id)
ON CONFLICT DO NOTHING;

-- name: restore_instance_flags
INSERT INTO flagging.flag_instance
SELECT r.* FROM jsonb_populate_recordset(NULL::flagging.flag_instance, %(rows)s) AS r
JOIN core.instance AS i USING (instance_id)
ON CONFLICT DO NOTHING;

-- name: restore_blacklists
INSERT INTO flagging.blacklist_instance
SELECT r.* FROM jsonb_populate_recordset(NULL::flagging.blacklist_instance, %(rows)s) AS r
JOIN core.instance AS i USING (instance_id)
ON CONFLICT DO NOTHING;

-- name: restore_blacklisted_player
INSERT INTO flagging.blacklist_instance_player
SELECT r.* FROM jsonb_populate_recordset(NULL::flagging.blacklist_instance_player, %(rows)s) AS r
JOIN core.instance_player AS p USING (instance_id, membership_id)
JOIN flagging.blacklist_instance AS b USING (instance_id)
ON CONFLICT DO NOTHING;
