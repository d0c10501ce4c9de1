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

-- name: forget_group
-- A scan of some ten thousand rows, when a clan is gone.
UPDATE streaming.top_player
SET group_ids = array_remove(group_ids, %(group)s)
WHERE group_ids @> ARRAY[%(group)s::bigint];

-- name: limit_statement
SELECT set_config('statement_timeout', %(limit_ms)s, true);

-- name: choose_top
-- Scans of both boards, once a week. A rank among those who have nothing is none: with less than
-- `top` players above 0 everybody else shares one that is good enough.
WITH ranked AS (
    SELECT membership_id, least(
        clears_rank,
        CASE WHEN fresh_clears > 0 THEN fresh_clears_rank END,
        CASE WHEN sherpas > 0 THEN sherpas_rank END,
        speed_rank,
        CASE WHEN total_time_played > 0 THEN total_time_played_rank END,
        CASE WHEN wfr_score > 0 THEN wfr_score_rank END
    ) AS rank
    FROM leaderboard.individual_global_leaderboard
    UNION ALL
    SELECT membership_id, least(
        clears_rank,
        CASE WHEN fresh_clears > 0 THEN fresh_clears_rank END,
        CASE WHEN sherpas > 0 THEN sherpas_rank END,
        CASE WHEN total_time_played > 0 THEN total_time_played_rank END
    )
    FROM leaderboard.individual_raid_leaderboard
),
best AS MATERIALIZED (
    SELECT membership_id, p.membership_type, min(rank) AS best_rank
    FROM ranked
    JOIN core.player AS p USING (membership_id)
    WHERE rank <= %(top)s AND p.membership_type NOT IN (0, 4)
    GROUP BY membership_id, p.membership_type
),
left_out AS (
    DELETE FROM streaming.top_player AS t
    WHERE NOT EXISTS (SELECT FROM best WHERE best.membership_id = t.membership_id)
)
INSERT INTO streaming.top_player AS t (membership_id, membership_type, best_rank)
SELECT membership_id, membership_type, best_rank FROM best
ON CONFLICT (membership_id) DO UPDATE SET
    membership_type = excluded.membership_type,
    best_rank = excluded.best_rank;

-- name: top_by_platform
SELECT membership_type, count(*) AS players FROM streaming.top_player GROUP BY 1 ORDER BY 1;

-- name: select_unasked
-- The whole table. Best first: what a run that fails leaves out is what matters least.
SELECT membership_id, membership_type
FROM streaming.top_player
WHERE asked_at IS NULL OR asked_at <= %(before)s
ORDER BY best_rank, membership_id;

-- name: count_top
SELECT count(*) FROM streaming.top_player;

-- name: record_groups
-- Primary key.
UPDATE streaming.top_player
SET group_ids = %(groups)s::bigint[], asked_at = %(asked_at)s
WHERE membership_id = %(player)s;

-- name: select_groups
-- The whole table; clans of the best first.
SELECT group_id
FROM streaming.top_player, unnest(group_ids) AS group_id
GROUP BY group_id
ORDER BY min(best_rank), group_id;

-- name: select_forgotten
-- The whole table. What a player at the top is in was not seen because its crawl failed.
SELECT group_id
FROM clan.clan
WHERE updated_at < %(before)s
  AND group_id NOT IN (SELECT unnest(group_ids) FROM streaming.top_player)
ORDER BY group_id;

-- name: delete_clan
-- Primary key; a crawl that came first keeps it.
DELETE FROM clan.clan WHERE group_id = %(group)s AND updated_at < %(before)s;

-- name: is_forgotten
-- Primary key, under lock_group.
SELECT EXISTS (SELECT FROM clan.clan WHERE group_id = %(group)s AND updated_at < %(before)s);

-- name: count_clans
SELECT (SELECT count(*) FROM clan.clan), (SELECT count(*) FROM clan.clan_members),
       (SELECT count(*) FROM streaming.pending_clan_member);

-- check_*: up to five ids of rows that break a claim, each with the number of all.

-- name: check_references
-- Foreign keys hold this as long as nobody drops them for a load.
SELECT coalesce(m.membership_id, m.group_id, 0), count(*) OVER ()
FROM clan.clan_members AS m
LEFT JOIN core.player AS p USING (membership_id)
LEFT JOIN clan.clan AS c USING (group_id)
WHERE p.membership_id IS NULL OR c.group_id IS NULL
LIMIT 5;

-- name: check_inhabited
SELECT c.group_id, count(*) OVER ()
FROM (SELECT DISTINCT unnest(group_ids) AS group_id FROM streaming.top_player) AS found
JOIN clan.clan AS c USING (group_id)
WHERE NOT EXISTS (SELECT FROM clan.clan_members AS m WHERE m.group_id = c.group_id)
  AND NOT EXISTS (SELECT FROM streaming.pending_clan_member AS w WHERE w.group_id = c.group_id)
ORDER BY c.group_id
LIMIT 5;

-- name: sample_board
-- Some clans, their row of the board, and their members' values as they are now. Left out is what
-- the refresh may not have seen: a row of the clan, of a member or of a player that transaction
-- `unseen_from` or a later one wrote (system column xmin), whoever did it for whatever reason.
-- Members who left are noticed by the clan's own row, which every crawl writes.
WITH unseen AS MATERIALIZED (
    SELECT age(%(unseen_from)s::text::xid8::xid) AS age
),
drawn AS MATERIALIZED (
    SELECT c.group_id
    FROM clan.clan AS c, unseen
    WHERE age(c.xmin) > unseen.age
    ORDER BY random()
    LIMIT %(size)s
),
present AS MATERIALIZED (
    SELECT m.group_id, m.membership_id, p.clears, p.fresh_clears, p.sherpas,
           p.total_time_played_seconds, p.wfr_score,
           age(m.xmin) <= unseen.age OR age(p.xmin) <= unseen.age AS is_unseen
    FROM drawn
    JOIN clan.clan_members AS m USING (group_id)
    JOIN core.player AS p USING (membership_id)
    CROSS JOIN unseen
)
SELECT d.group_id, to_jsonb(board) AS board,
       coalesce(jsonb_agg(to_jsonb(present) ORDER BY present.wfr_score DESC, present.membership_id)
                FILTER (WHERE present.group_id IS NOT NULL), '[]') AS members
FROM drawn AS d
LEFT JOIN leaderboard.clan_leaderboard AS board USING (group_id)
LEFT JOIN present USING (group_id)
GROUP BY d.group_id, board
HAVING NOT coalesce(bool_or(present.is_unseen), false)
ORDER BY d.group_id;
