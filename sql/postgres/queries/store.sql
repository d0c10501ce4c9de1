-- The store's transaction, in the order in which it runs. Lists come as array literals.

-- name: find_activities
-- Primary key. Read in every batch: a corrected definition takes effect at once. The table lock is
-- the one that the first COPY takes anyway; taken here it makes a load of definitions (seeds.sql,
-- lock_stored) come before this transaction or after it. A COPY that waited for such a load would
-- compute seasons by the snapshot it took before it waited.
LOCK TABLE core.instance IN ROW EXCLUSIVE MODE;
SELECT hash, activity_id
FROM definitions.activity_version
WHERE hash = ANY(%(hashes)s::bigint[]);

-- name: share_activities
-- Class 1 is the activities' own key space; ascending, before any other lock.
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock_shared(1, id)
    FROM unnest(%(activities)s::int[]) AS id
) AS taken;

-- name: own_activities
-- After three rounds that met ever more players: nobody else stores these activities.
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock(1, id)
    FROM unnest(%(activities)s::int[]) AS id
) AS taken;

-- name: lock_keys
-- Instances (small ids) and players (large ids) share one ascending key space.
SELECT count(*) FROM (
    SELECT pg_advisory_xact_lock(key)
    FROM unnest(%(keys)s::bigint[]) AS key
) AS taken;

-- name: find_stored
-- Primary keys of all three tables. `digest` tells a redelivery from a changed report without
-- fetching the kept one: all of the body behind its stamp, as revisions.py computes it.
SELECT id, i.hash, i.date_started, r.instance_id IS NOT NULL AS kept,
       sha256(substring(r.data FROM 9)) AS digest,
       (SELECT m.state FROM streaming.missed_pgcr AS m WHERE m.instance_id = id) AS missed
FROM unnest(%(instances)s::bigint[]) AS id
LEFT JOIN core.instance AS i ON i.instance_id = id
LEFT JOIN raw.pgcr AS r ON r.instance_id = id
WHERE i.instance_id IS NOT NULL OR r.instance_id IS NOT NULL;

-- name: read_kept
-- Primary key.
SELECT data, date_crawled FROM raw.pgcr WHERE instance_id = %(instance_id)s;

-- name: was_superseded
-- Primary key.
SELECT 1 FROM streaming.pgcr_revision
WHERE instance_id = %(instance_id)s AND sha256 = %(digest)s;

-- name: keep_revision
-- Primary key. A version that came before leaves no second row, whatever brought it again.
INSERT INTO streaming.pgcr_revision (instance_id, sha256, fetched_at, data, state)
VALUES (%(instance_id)s, %(digest)s, coalesce(%(fetched_at)s, now()), %(body)s, %(state)s)
ON CONFLICT (instance_id, sha256) DO NOTHING;

-- name: replace_raw
-- Primary key.
UPDATE raw.pgcr SET data = %(body)s, date_crawled = now() WHERE instance_id = %(instance_id)s;

-- name: forget_revision
-- Primary key. What counts again is no revision.
DELETE FROM streaming.pgcr_revision
WHERE instance_id = %(instance_id)s AND sha256 = %(digest)s AND state = 'superseded';

-- name: update_looks
-- Primary key. Classes and emblems of a later fetch; what it does not know stays.
UPDATE extended.instance_character AS c
SET class_hash = coalesce(d.class_hash, c.class_hash),
    emblem_hash = coalesce(d.emblem_hash, c.emblem_hash)
FROM unnest(
    %(players)s::bigint[], %(characters)s::bigint[], %(classes)s::bigint[], %(emblems)s::bigint[]
) AS d (membership_id, character_id, class_hash, emblem_hash)
WHERE c.instance_id = %(instance_id)s
  AND c.membership_id = d.membership_id
  AND c.character_id = d.character_id
  AND (c.class_hash, c.emblem_hash) IS DISTINCT FROM
      (coalesce(d.class_hash, c.class_hash), coalesce(d.emblem_hash, c.emblem_hash));

-- name: read_players
-- Primary keys of both tables.
SELECT p.membership_id,
       p.membership_type, d.membership_type_seen, d.membership_type_instance_id,
       p.icon_path, d.icon_path_seen, d.icon_path_instance_id,
       p.display_name, d.display_name_seen, d.display_name_instance_id,
       p.bungie_global_display_name, p.bungie_global_display_name_code,
       d.global_name_seen, d.global_name_instance_id,
       p.last_crawled
FROM core.player AS p
LEFT JOIN streaming.player_identity AS d USING (membership_id)
WHERE p.membership_id = ANY(%(players)s::bigint[]);

-- name: read_stats
-- Primary keys of both tables.
SELECT s.membership_id, s.activity_id, s.clears,
       i.duration, i.date_completed, s.fastest_instance_id
FROM unnest(%(players)s::bigint[], %(activities)s::int[]) AS pair (membership_id, activity_id)
JOIN core.player_stats AS s USING (membership_id, activity_id)
LEFT JOIN core.instance AS i ON i.instance_id = s.fastest_instance_id;

-- name: read_first_clears
-- Partial index on first clears by player: at most one row an activity, whatever the history.
SELECT p.membership_id, v.activity_id, i.date_completed, i.instance_id
FROM core.instance_player AS p
JOIN core.instance AS i USING (instance_id)
JOIN definitions.activity_version AS v USING (hash)
WHERE p.is_first_clear AND p.membership_id = ANY(%(players)s::bigint[]);

-- name: read_completers
-- Primary key (instance_id first).
SELECT instance_id, membership_id, is_first_clear, sherpas
FROM core.instance_player
WHERE instance_id = ANY(%(instances)s::bigint[]) AND completed;

-- name: copy_raw
COPY raw.pgcr (instance_id, data) FROM STDIN (FORMAT binary);

-- name: copy_instances
COPY core.instance (
    instance_id, hash, score, flawless, completed, fresh, player_count, date_started,
    date_completed, duration, platform_type, skull_hashes
) FROM STDIN (FORMAT binary);

-- name: copy_instance_players
COPY core.instance_player (
    instance_id, membership_id, completed, time_played_seconds, sherpas, is_first_clear
) FROM STDIN (FORMAT binary);

-- name: copy_characters
COPY extended.instance_character (
    instance_id, membership_id, character_id, class_hash, emblem_hash, completed, score, kills,
    assists, deaths, precision_kills, super_kills, grenade_kills, melee_kills,
    time_played_seconds, start_seconds
) FROM STDIN (FORMAT binary);

-- name: copy_weapons
COPY extended.instance_character_weapon (
    instance_id, membership_id, character_id, weapon_hash, kills, precision_kills
) FROM STDIN (FORMAT binary);

-- name: copy_outbox
COPY streaming.outbox (kind, destination, key, body, month) FROM STDIN (FORMAT binary);

-- name: upsert_players
-- Identity and sightings are merged before; counters are added, so that nobody's change is lost. A
-- value that no sighting has stays as it is: an outside writer knew it.
INSERT INTO core.player AS p (
    membership_id, membership_type, icon_path, display_name, bungie_global_display_name,
    bungie_global_display_name_code, last_seen, first_seen, clears, fresh_clears, sherpas,
    total_time_played_seconds
)
SELECT *
FROM unnest(
    %(players)s::bigint[], %(membership_types)s::int[], %(icon_paths)s::text[],
    %(display_names)s::text[], %(global_names)s::text[], %(global_codes)s::text[],
    %(last_seen)s::timestamptz[], %(first_seen)s::timestamptz[], %(clears)s::int[],
    %(fresh_clears)s::int[], %(sherpas)s::int[], %(times)s::int[]
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
    clears = p.clears + excluded.clears,
    fresh_clears = p.fresh_clears + excluded.fresh_clears,
    sherpas = p.sherpas + excluded.sherpas,
    total_time_played_seconds = least(
        2147483647, p.total_time_played_seconds::bigint + excluded.total_time_played_seconds
    );

-- name: upsert_identities
INSERT INTO streaming.player_identity (
    membership_id, membership_type_seen, membership_type_instance_id, icon_path_seen,
    icon_path_instance_id, display_name_seen, display_name_instance_id, global_name_seen,
    global_name_instance_id
)
SELECT *
FROM unnest(
    %(players)s::bigint[], %(type_seen)s::timestamptz[], %(type_instances)s::bigint[],
    %(icon_seen)s::timestamptz[], %(icon_instances)s::bigint[], %(name_seen)s::timestamptz[],
    %(name_instances)s::bigint[], %(global_seen)s::timestamptz[], %(global_instances)s::bigint[]
)
ON CONFLICT (membership_id) DO UPDATE SET
    membership_type_seen = excluded.membership_type_seen,
    membership_type_instance_id = excluded.membership_type_instance_id,
    icon_path_seen = excluded.icon_path_seen,
    icon_path_instance_id = excluded.icon_path_instance_id,
    display_name_seen = excluded.display_name_seen,
    display_name_instance_id = excluded.display_name_instance_id,
    global_name_seen = excluded.global_name_seen,
    global_name_instance_id = excluded.global_name_instance_id;

-- name: add_sherpas
-- Of players who are in no new instance; ascending, as all writers of players.
WITH locked AS MATERIALIZED (
    SELECT p.membership_id, d.sherpas
    FROM core.player AS p
    JOIN unnest(%(players)s::bigint[], %(sherpas)s::int[]) AS d (membership_id, sherpas)
        USING (membership_id)
    ORDER BY p.membership_id
    FOR UPDATE OF p
)
UPDATE core.player AS p
SET sherpas = p.sherpas + locked.sherpas
FROM locked
WHERE p.membership_id = locked.membership_id;

-- name: rewrite_standings
UPDATE core.instance_player AS p
SET is_first_clear = d.is_first_clear, sherpas = d.sherpas
FROM unnest(
    %(instances)s::bigint[], %(players)s::bigint[], %(first_clears)s::bool[], %(sherpas)s::int[]
) AS d (instance_id, membership_id, is_first_clear, sherpas)
WHERE p.instance_id = d.instance_id AND p.membership_id = d.membership_id;

-- name: upsert_stats
INSERT INTO core.player_stats AS s (
    membership_id, activity_id, clears, fresh_clears, sherpas, fastest_instance_id,
    total_time_played_seconds
)
SELECT *
FROM unnest(
    %(players)s::bigint[], %(activities)s::int[], %(clears)s::int[], %(fresh_clears)s::int[],
    %(sherpas)s::int[], %(fastest)s::bigint[], %(times)s::int[]
)
ON CONFLICT (membership_id, activity_id) DO UPDATE SET
    clears = s.clears + excluded.clears,
    fresh_clears = s.fresh_clears + excluded.fresh_clears,
    sherpas = s.sherpas + excluded.sherpas,
    fastest_instance_id = coalesce(excluded.fastest_instance_id, s.fastest_instance_id),
    total_time_played_seconds = least(
        2147483647, s.total_time_played_seconds::bigint + excluded.total_time_played_seconds
    );

-- name: update_sums_of_best
-- Only of players with a new fastest run; the count comes first, from player_stats alone, because
-- nearly nobody has every raid.
WITH needed AS MATERIALIZED (
    SELECT id FROM definitions.activity_definition WHERE is_raid AND NOT is_sunset
),
complete AS MATERIALIZED (
    SELECT membership_id
    FROM core.player_stats
    WHERE membership_id = ANY(%(players)s::bigint[])
      AND fastest_instance_id IS NOT NULL
      AND activity_id IN (SELECT id FROM needed)
    GROUP BY membership_id
    HAVING count(*) = (SELECT count(*) FROM needed)
),
best AS (
    SELECT s.membership_id, least(2147483647, sum(i.duration)) AS total
    FROM complete
    JOIN core.player_stats AS s USING (membership_id)
    JOIN core.instance AS i ON i.instance_id = s.fastest_instance_id
    WHERE s.activity_id IN (SELECT id FROM needed)
    GROUP BY s.membership_id
)
UPDATE core.player AS p
SET sum_of_best = best.total
FROM best
WHERE p.membership_id = best.membership_id
  AND p.sum_of_best IS DISTINCT FROM best.total;

-- name: mark_corrections
-- The row in ClickHouse no longer says what PostgreSQL says; the relay sends the next revision.
INSERT INTO streaming.clickhouse_correction AS c (instance_id, revision)
SELECT id, 2
FROM unnest(%(instances)s::bigint[]) AS id
ORDER BY id
ON CONFLICT (instance_id) DO UPDATE SET revision = c.revision + 1, marked_at = now();

-- name: park_unknown
-- The report waits in raw.pgcr for its definition.
INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source, hash, last_attempt_at)
SELECT id, 'unknown_hash', 'unknown_hash', %(source)s, hash, now()
FROM unnest(%(instances)s::bigint[], %(hashes)s::bigint[]) AS parked (id, hash)
ORDER BY id
ON CONFLICT (instance_id) DO UPDATE SET
    state = 'unknown_hash',
    reason = 'unknown_hash',
    hash = excluded.hash,
    last_attempt_at = now(),
    next_attempt_at = NULL,
    closed_at = NULL;

-- name: resolve_missed
-- Primary key. Whatever the id was given up for, now it is stored.
UPDATE streaming.missed_pgcr
SET state = 'resolved', closed_at = now(), next_attempt_at = NULL
WHERE instance_id = ANY(%(instances)s::bigint[])
  AND state <> 'resolved';

-- name: find_known_again
-- Index missed_pgcr_unknown_hash_idx: parked reports whose definition has come since.
SELECT m.instance_id, r.data
FROM streaming.missed_pgcr AS m
JOIN definitions.activity_version AS v ON v.hash = m.hash
JOIN raw.pgcr AS r ON r.instance_id = m.instance_id
WHERE m.state = 'unknown_hash'
ORDER BY m.instance_id
LIMIT %(limit)s;

-- name: park_unreadable
-- A kept report that today's parser refuses is fetched again like any malformed one.
UPDATE streaming.missed_pgcr
SET state = 'malformed', reason = %(reason)s, last_error = %(error)s, next_attempt_at = now()
WHERE instance_id = %(instance_id)s;
