-- Claims about tables, checked once a day. Each returns up to five ids of what breaks the claim and
-- the number of all. Big tables are sampled: %(instances)s are what draw_instances found, so that a
-- claim reads a few thousand rows by their keys however long the history is. Recounts are those of
-- `raidhub verify`. Writers go on meanwhile: a claim is one statement, so it sees one moment.

-- name: limit_statement
SELECT set_config('statement_timeout', %(limit_ms)s, true);

-- name: draw_instances
-- The newest, where today's faults are, and random ids between the ends, each with the next stored
-- one: primary key only.
WITH drawn AS MATERIALIZED (
    SELECT low + floor(random() * (high - low + 1))::bigint AS id
    FROM (SELECT min(instance_id) AS low, max(instance_id) AS high FROM core.instance) AS ends,
         generate_series(1, %(size)s)
)
SELECT (SELECT min(instance_id) FROM core.instance WHERE instance_id >= drawn.id) AS instance_id
FROM drawn
WHERE id IS NOT NULL
UNION
(SELECT instance_id FROM core.instance ORDER BY instance_id DESC LIMIT %(size)s);

-- name: no_season
SELECT 0, 1 WHERE NOT EXISTS (SELECT FROM definitions.season);

-- name: seasons_out_of_order
SELECT id, count(*) OVER ()
FROM (
    SELECT id, start_date, lag(start_date) OVER (ORDER BY id) AS before FROM definitions.season
) AS seasons
WHERE start_date <= before
ORDER BY id
LIMIT 5;

-- name: no_activity
SELECT 0, 1 WHERE NOT EXISTS (SELECT FROM definitions.activity_definition);

-- name: activities_with_odd_times
SELECT id, count(*) OVER ()
FROM definitions.activity_definition
WHERE contest_end <= release_date OR week_one_end <= release_date OR btrim(name) = ''
ORDER BY id
LIMIT 5;

-- name: activities_without_hash
SELECT id, count(*) OVER ()
FROM definitions.activity_definition AS activity
WHERE NOT EXISTS (
    SELECT FROM definitions.activity_version AS v WHERE v.activity_id = activity.id)
ORDER BY id
LIMIT 5;

-- name: no_version
SELECT 0, 1 WHERE NOT EXISTS (SELECT FROM definitions.version_definition);

-- name: versions_without_name
SELECT id, count(*) OVER ()
FROM definitions.version_definition
WHERE btrim(name) = '' OR btrim(path) = ''
ORDER BY id
LIMIT 5;

-- name: no_hash
SELECT 0, 1 WHERE NOT EXISTS (SELECT FROM definitions.activity_version);

-- name: hashes_out_of_range
SELECT hash, count(*) OVER ()
FROM definitions.activity_version
WHERE hash NOT BETWEEN 1 AND 4294967295
ORDER BY hash
LIMIT 5;

-- name: reports_without_instance
-- Of the newest thousand: each is a stored raid, or a row says what it waits for.
SELECT instance_id, count(*) OVER ()
FROM (SELECT instance_id FROM raw.pgcr ORDER BY instance_id DESC LIMIT 1000) AS newest
LEFT JOIN core.instance AS i USING (instance_id)
LEFT JOIN streaming.missed_pgcr AS m USING (instance_id)
WHERE i.instance_id IS NULL AND coalesce(m.state, 'resolved') IN ('resolved', 'rejected', 'missing')
ORDER BY instance_id
LIMIT 5;

-- name: ids_outside_the_ledger
-- Below the cursor no id is without a block or a gap. Blocks cannot overlap (constraint), and old
-- ones are merged: some ten thousand rows.
WITH covered AS (
    SELECT range_agg(ids) AS ids
    FROM (
        SELECT int8range(first_id, last_id, '[]') AS ids FROM streaming.crawl_block
        UNION ALL
        SELECT int8range(first_id, last_id, '[]') FROM streaming.gap
    ) AS ranges
),
holes AS (
    SELECT unnest(int8multirange(int8range(c.first_id, c.next_id))
                  - coalesce(covered.ids, '{}'::int8multirange)) AS hole
    FROM streaming.crawl_cursor AS c, covered
)
SELECT lower(hole) AS first_id, (sum(upper(hole) - lower(hole)) OVER ())::bigint
FROM holes
ORDER BY first_id
LIMIT 5;

-- name: missed_but_stored
SELECT m.instance_id, count(*) OVER ()
FROM streaming.missed_pgcr AS m
JOIN core.instance AS i USING (instance_id)
WHERE m.state <> 'resolved'
ORDER BY m.instance_id
LIMIT 5;

-- name: missed_and_forgotten
-- Index missed_pgcr_due_idx. Whoever tries again comes every 15 minutes and may be away for a while.
SELECT instance_id, count(*) OVER ()
FROM streaming.missed_pgcr
WHERE state IN ('waiting', 'malformed', 'blocked') AND next_attempt_at < now() - interval '1 day'
ORDER BY instance_id
LIMIT 5;

-- name: instances_without_report
SELECT instance_id, count(*) OVER ()
FROM core.instance AS i
WHERE instance_id = ANY(%(instances)s::bigint[])
  AND NOT EXISTS (SELECT FROM raw.pgcr AS r WHERE r.instance_id = i.instance_id)
ORDER BY instance_id
LIMIT 5;

-- name: instances_that_readers_refuse
-- What public readers validate: docs/domain/schema.md.
SELECT instance_id, count(*) OVER ()
FROM core.instance
WHERE instance_id = ANY(%(instances)s::bigint[])
  AND (duration < 1 OR player_count < 1 OR score < 0 OR season_id < 1
       OR platform_type NOT BETWEEN -1 AND 6 OR skull_hashes IS NULL
       OR date_completed < date_started OR date_completed > now() + interval '1 day')
ORDER BY instance_id
LIMIT 5;

-- name: instances_without_players
SELECT instance_id, count(*) OVER ()
FROM core.instance AS i
WHERE instance_id = ANY(%(instances)s::bigint[])
  AND NOT EXISTS (SELECT FROM core.instance_player AS p WHERE p.instance_id = i.instance_id)
ORDER BY instance_id
LIMIT 5;

-- name: players_without_character
SELECT p.instance_id, count(*) OVER ()
FROM core.instance_player AS p
WHERE p.instance_id = ANY(%(instances)s::bigint[])
  AND NOT EXISTS (
      SELECT FROM extended.instance_character AS c
      WHERE (c.instance_id, c.membership_id) = (p.instance_id, p.membership_id))
ORDER BY p.instance_id
LIMIT 5;

-- name: characters_of_unknown_class
SELECT c.instance_id, count(*) OVER ()
FROM extended.instance_character AS c
LEFT JOIN definitions.class_definition AS class ON class.hash = c.class_hash
WHERE c.instance_id = ANY(%(instances)s::bigint[])
  AND c.class_hash IS NOT NULL AND class.hash IS NULL
ORDER BY c.instance_id
LIMIT 5;

-- name: weapons_out_of_range
-- A weapon that the manifest does not know yet is no fault.
SELECT instance_id, count(*) OVER ()
FROM extended.instance_character_weapon
WHERE instance_id = ANY(%(instances)s::bigint[])
  AND (weapon_hash NOT BETWEEN 1 AND 4294967295 OR kills < 0 OR precision_kills < 0)
ORDER BY instance_id
LIMIT 5;

-- name: clans_without_name
-- The whole table: some thousand clans.
SELECT group_id, count(*) OVER ()
FROM clan.clan
WHERE btrim(name) = '' OR updated_at > now() + interval '1 day'
ORDER BY group_id
LIMIT 5;

-- name: top_players_unknown
-- The whole table: the top 1500 of each board.
SELECT membership_id, count(*) OVER ()
FROM streaming.top_player AS top
WHERE NOT EXISTS (SELECT FROM core.player AS p WHERE p.membership_id = top.membership_id)
ORDER BY membership_id
LIMIT 5;

-- name: effects_that_stay
-- Index outbox_unsent_idx; more than an hour in the outbox, or more than ten tries in vain.
SELECT id, count(*) OVER ()
FROM streaming.outbox
WHERE sent_at IS NULL AND kind <> 'webhook'
  AND (created_at < now() - interval '1 hour' OR attempts > 10)
ORDER BY id
LIMIT 5;

-- name: rows_without_month
-- A batch is one month; a row without one would never leave.
SELECT id, count(*) OVER ()
FROM streaming.outbox
WHERE sent_at IS NULL AND kind = 'clickhouse' AND month IS NULL
ORDER BY id
LIMIT 5;
