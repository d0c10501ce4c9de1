-- The load of definitions from CSV; upserts get only rows that differ from the stored ones.

-- name: lock_definitions
-- One load at a time. Neither readers nor the store's foreign key checks wait for this mode.
LOCK TABLE definitions.activity_definition IN SHARE ROW EXCLUSIVE MODE;

-- name: lock_stored
-- Generated seasons and sums of best times follow the definitions: a transaction that stores by
-- the old ones ends first, the next one begins after us. In the order in which the store writes;
-- it takes the first of them before it reads any definition.
LOCK TABLE core.instance, core.player IN SHARE ROW EXCLUSIVE MODE;

-- name: select_activity_definition
SELECT id, name, path, is_sunset, is_raid, release_date, contest_end, week_one_end, milestone_hash, splash_path
FROM definitions.activity_definition;

-- name: select_version_definition
SELECT id, name, path, associated_activity_id, is_challenge_mode FROM definitions.version_definition;

-- name: select_activity_version
SELECT hash, activity_id, version_id, is_world_first, release_date_override FROM definitions.activity_version;

-- name: select_season
SELECT id, short_name, long_name, dlc, start_date FROM definitions.season;

-- name: select_class_definition
SELECT hash, name FROM definitions.class_definition;

-- name: upsert_activity_definition
INSERT INTO definitions.activity_definition
    (id, name, path, is_sunset, is_raid, release_date, contest_end, week_one_end, milestone_hash, splash_path)
VALUES %s
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name,
    path = excluded.path,
    is_sunset = excluded.is_sunset,
    is_raid = excluded.is_raid,
    release_date = excluded.release_date,
    contest_end = excluded.contest_end,
    week_one_end = excluded.week_one_end,
    milestone_hash = excluded.milestone_hash,
    splash_path = excluded.splash_path;

-- name: upsert_version_definition
INSERT INTO definitions.version_definition (id, name, path, associated_activity_id, is_challenge_mode)
VALUES %s
ON CONFLICT (id) DO UPDATE SET
    name = excluded.name,
    path = excluded.path,
    associated_activity_id = excluded.associated_activity_id,
    is_challenge_mode = excluded.is_challenge_mode;

-- name: upsert_activity_version
INSERT INTO definitions.activity_version (hash, activity_id, version_id, is_world_first, release_date_override)
VALUES %s
ON CONFLICT (hash) DO UPDATE SET
    activity_id = excluded.activity_id,
    version_id = excluded.version_id,
    is_world_first = excluded.is_world_first,
    release_date_override = excluded.release_date_override;

-- name: upsert_season
INSERT INTO definitions.season (id, short_name, long_name, dlc, start_date)
VALUES %s
ON CONFLICT (id) DO UPDATE SET
    short_name = excluded.short_name,
    long_name = excluded.long_name,
    dlc = excluded.dlc,
    start_date = excluded.start_date;

-- name: upsert_class_definition
INSERT INTO definitions.class_definition (hash, name)
VALUES %s
ON CONFLICT (hash) DO UPDATE SET name = excluded.name;

-- name: select_stored_hashes
-- A scan, rare as the case: only when a hash moves.
SELECT hash, count(*) FROM core.instance WHERE hash = ANY(%(hashes)s) GROUP BY hash ORDER BY hash;

-- name: rewrite_seasons
-- Writing date_started computes season_id anew. No index: a change of seasons is rare, and only
-- instances after it are asked (and only those that differ are written).
UPDATE core.instance
SET date_started = date_started
WHERE date_started > %(after)s AND season_id <> definitions.get_season(date_started);
