-- Clans and their members, replaced in one transaction. Rules: docs/domain/clans.md.

-- name: find_crawled
-- Primary key.
SELECT updated_at FROM clan.clan WHERE group_id = %(group)s;

-- name: lock_group
-- A key space of its own, beside the players'. Two crawls of one clan come after each other.
SELECT pg_advisory_xact_lock(hashtext('clan'), hashtext(%(group)s::text));

-- name: upsert_clan
-- Primary key.
INSERT INTO clan.clan AS c (group_id, name, motto, call_sign, clan_banner_data, updated_at)
VALUES (%(group)s, %(name)s, %(motto)s, %(call_sign)s, %(banner)s::jsonb, %(crawled_at)s)
ON CONFLICT (group_id) DO UPDATE SET
    name = excluded.name,
    motto = excluded.motto,
    call_sign = excluded.call_sign,
    clan_banner_data = excluded.clan_banner_data,
    updated_at = excluded.updated_at;

-- name: touch_clan
-- Primary key. The clan is gone and keeps its row: who asks again soon is told so by its age.
UPDATE clan.clan SET updated_at = %(crawled_at)s WHERE group_id = %(group)s;

-- name: delete_pending
-- Primary key. Before the members: a crawl of a player that turns one into a member holds its row,
-- and the statement after this one sees what it committed.
DELETE FROM streaming.pending_clan_member
WHERE group_id = %(group)s AND membership_id <> ALL(%(members)s::bigint[]);

-- name: delete_members
-- Primary key.
DELETE FROM clan.clan_members
WHERE group_id = %(group)s AND membership_id <> ALL(%(members)s::bigint[]);

-- name: insert_members
-- Primary keys; those who are players already.
INSERT INTO clan.clan_members (group_id, membership_id)
SELECT %(group)s, p.membership_id
FROM core.player AS p
WHERE p.membership_id = ANY(%(members)s::bigint[])
ORDER BY p.membership_id
ON CONFLICT DO NOTHING;

-- name: insert_pending
-- Primary keys; those who are not.
INSERT INTO streaming.pending_clan_member (group_id, membership_id)
SELECT %(group)s, id
FROM unnest(%(members)s::bigint[]) AS id
WHERE NOT EXISTS (SELECT FROM core.player AS p WHERE p.membership_id = id)
ORDER BY id
ON CONFLICT DO NOTHING;

-- name: settle_pending
-- Who became a player between the two statements above: a message is on its way anyway, but the
-- member need not wait for it.
DELETE FROM streaming.pending_clan_member AS w
USING clan.clan_members AS m
WHERE w.group_id = %(group)s AND m.group_id = w.group_id AND m.membership_id = w.membership_id;

-- name: ask_for_players
-- One message for each member who is still to be known; it leaves with the commit.
INSERT INTO streaming.outbox (kind, destination, key, body)
SELECT 'message', %(queue)s, membership_id, convert_to(membership_id::text, 'UTF8')
FROM streaming.pending_clan_member
WHERE group_id = %(group)s
ORDER BY membership_id;
