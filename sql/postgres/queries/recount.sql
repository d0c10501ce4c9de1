-- Which players are recounted; what is wrong with them stands in verify.sql.

-- name: next_players
-- Primary key.
SELECT membership_id FROM core.player
WHERE membership_id > %(after)s
ORDER BY membership_id
LIMIT %(limit)s;

-- name: players_of_range
-- Primary key of instance_player: all who took part in these instances.
SELECT DISTINCT membership_id
FROM core.instance_player
WHERE instance_id BETWEEN %(first)s AND %(last)s
ORDER BY membership_id;

-- name: known_players
-- Primary key.
SELECT membership_id FROM core.player
WHERE membership_id = ANY(%(players)s::bigint[])
ORDER BY membership_id;

-- name: count_players
-- The planner's estimate, -1 of a table never analyzed: it only chooses how many pages are drawn.
SELECT reltuples FROM pg_class WHERE oid = 'core.player'::regclass;

-- name: draw_players
-- Random pages instead of random ids: ids come in clusters, each platform's in its own, and most
-- numbers between the ends would lead to the same few players behind a hole.
SELECT membership_id
FROM core.player TABLESAMPLE SYSTEM (%(percent)s)
ORDER BY random()
LIMIT %(size)s;
