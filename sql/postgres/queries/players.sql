-- Players as crawls of their accounts change them. Rules: docs/domain/players.md.

-- name: find_player
-- Primary key, and index pending_clan_member_player_idx.
SELECT p.membership_type, p.last_crawled,
       EXISTS (SELECT FROM streaming.pending_clan_member AS c
               WHERE c.membership_id = p.membership_id) AS has_pending_clan
FROM core.player AS p
WHERE p.membership_id = %(player)s;

-- name: upsert_crawled
-- Primary key. Identity is merged before. Of two crawls that cross, the later one tells what is
-- private; nothing here depends on when the crawl was but last_crawled and updated_at.
INSERT INTO core.player AS p (
    membership_id, membership_type, icon_path, display_name, bungie_global_display_name,
    bungie_global_display_name_code, last_seen, first_seen, is_private, last_crawled, updated_at
)
VALUES (
    %(player)s, %(membership_type)s, %(icon_path)s, %(display_name)s, %(global_name)s,
    %(global_code)s, %(last_seen)s, %(first_seen)s, coalesce(%(is_private)s, false),
    %(crawled_at)s, %(crawled_at)s
)
ON CONFLICT (membership_id) DO UPDATE SET
    membership_type = coalesce(excluded.membership_type, p.membership_type),
    icon_path = coalesce(excluded.icon_path, p.icon_path),
    display_name = coalesce(excluded.display_name, p.display_name),
    bungie_global_display_name =
        coalesce(excluded.bungie_global_display_name, p.bungie_global_display_name),
    bungie_global_display_name_code =
        coalesce(excluded.bungie_global_display_name_code, p.bungie_global_display_name_code),
    last_seen = greatest(p.last_seen, excluded.last_seen),
    first_seen = least(p.first_seen, excluded.first_seen),
    is_private = CASE WHEN p.last_crawled > excluded.last_crawled THEN p.is_private
                      ELSE coalesce(%(is_private)s, p.is_private) END,
    last_crawled = greatest(p.last_crawled, excluded.last_crawled),
    updated_at = greatest(p.updated_at, excluded.updated_at);

-- name: mark_crawled
-- Primary key. The account is gone: what reports said about the player stays.
UPDATE core.player
SET last_crawled = greatest(last_crawled, %(crawled_at)s),
    updated_at = greatest(updated_at, %(crawled_at)s)
WHERE membership_id = %(player)s;

-- name: forget_pending
-- Index pending_clan_member_player_idx.
DELETE FROM streaming.pending_clan_member WHERE membership_id = %(player)s;

-- name: join_clans
-- Index pending_clan_member_player_idx, primary keys.
WITH known AS (
    DELETE FROM streaming.pending_clan_member WHERE membership_id = %(player)s RETURNING group_id
)
INSERT INTO clan.clan_members (group_id, membership_id)
SELECT c.group_id, %(player)s
FROM known
JOIN clan.clan AS c USING (group_id)
ORDER BY c.group_id
ON CONFLICT DO NOTHING;

-- name: mark_history
-- Primary key.
UPDATE core.player
SET history_last_crawled = greatest(history_last_crawled, %(walked_at)s),
    is_private = is_private OR %(is_private)s,
    updated_at = greatest(updated_at, %(walked_at)s)
WHERE membership_id = %(player)s;

-- name: find_unfilled
-- Primary keys.
SELECT p.membership_type
FROM extended.instance_character AS c
JOIN core.player AS p USING (membership_id)
WHERE c.instance_id = %(instance)s AND c.membership_id = %(player)s
  AND c.character_id = %(character)s
  AND (c.class_hash IS NULL OR c.emblem_hash IS NULL);

-- name: fill_character
-- Primary key. Only what nobody knows yet: the report's own values are of the moment of the raid.
UPDATE extended.instance_character
SET class_hash = coalesce(class_hash, %(class_hash)s),
    emblem_hash = coalesce(emblem_hash, %(emblem_hash)s)
WHERE instance_id = %(instance)s AND membership_id = %(player)s AND character_id = %(character)s
  AND ((class_hash IS NULL AND %(class_hash)s IS NOT NULL)
       OR (emblem_hash IS NULL AND %(emblem_hash)s IS NOT NULL));
